package dropin

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/uplink"
)

func TestOurs(t *testing.T) {
	for name, c := range map[string]struct {
		file files.File
		want bool
	}{
		"a link to what is shipped":   {files.Link("/x", "/usr/lib/systemd/system/netns.conf"), true},
		"the same by a relative path": {files.Link("/x", "../../../usr/lib/systemd/system/netns-socket.conf"), true},
		"a link to something else":    {files.Link("/x", "/srv/netns-of-mine.conf"), false},
		"text written here":           {files.Text("/x", written+"[Service]\n"), true},
		"an administrator's":          {files.Text("/x", "[Service]\n"), false},
		"what a power cut has left":   {files.Text("/x", ""), true},
		"none":                        {files.None("/x"), false},
	} {
		if got := ours(c.file); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestChangeIsTakenBack: files that were written over keep owner and mode, and
// those that were not there go, with their folders.
func TestChangeIsTakenBack(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, "old.env"), filepath.Join(dir, "new.d", "new.env")
	if err := os.WriteFile(old, []byte("A=1\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(old, 65534, 65533); err != nil {
		t.Skip("this takes root")
	}
	var c Change
	for _, f := range []files.File{files.Text(old, "A=2\n"), files.Text(fresh, "A=2\n"), files.None(filepath.Join(dir, "none"))} {
		if err := c.add(f); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.want) != 2 {
		t.Errorf("%d files to write, want 2", len(c.want))
	}
	if err := c.write(); err != nil {
		t.Fatal(err)
	}
	wantFile(t, old, "A=2\n")
	wantFile(t, fresh, "A=2\n")
	if err := restore(c.before); err != nil {
		t.Fatal(err)
	}
	wantFile(t, old, "A=1\n")
	f, err := files.Read(old)
	if err != nil || f.Mode != 0o640 || f.UID != 65534 || f.GID != 65533 {
		t.Errorf("%+v, %v", f, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if text, err := os.ReadFile(path); err != nil || string(text) != want {
		t.Errorf("%s: %q, %v; want %q", path, text, err, want)
	}
}

// TestWriteStopsWhole: a file that cannot be written leaves none.
func TestWriteStopsWhole(t *testing.T) {
	dir := t.TempDir()
	first, file := filepath.Join(dir, "first"), filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := Change{}
	for _, f := range []files.File{files.Text(first, "1"), files.Text(filepath.Join(file, "below-a-file"), "2")} {
		if err := c.add(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.write(); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(first); err == nil {
		t.Error("the first file is left")
	}
}

func TestLines(t *testing.T) {
	c := Change{
		want:    []files.File{files.Text("/e/a", "x\ny\n"), files.Link("/e/b", "/l/b"), files.None("/e/c")},
		stop:    []string{"systemd-netns@a.service"},
		restart: []string{"a.service", "b.service"},
	}
	want := []string{"write /e/a:\n    x\n    y", "link /e/b -> /l/b", "remove /e/c", "systemctl daemon-reload", "systemctl stop systemd-netns@a.service", "systemctl restart a.service b.service"}
	if diff := cmp.Diff(want, c.Lines()); diff != "" {
		t.Error(diff)
	}
}

func prefixes(text string) (all []netip.Prefix) {
	for _, prefix := range strings.Fields(text) {
		all = append(all, netip.MustParsePrefix(prefix))
	}
	return all
}

func addresses(text string) (all []netip.Addr) {
	for _, addr := range strings.Fields(text) {
		all = append(all, netip.MustParseAddr(addr))
	}
	return all
}

func TestUpdate(t *testing.T) {
	const a, b, c6 = "192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64"
	for name, c := range map[string]struct {
		have string
		up   Update
		want string
	}{
		"all":               {a, Update{VIPs: prefixes(b)}, b},
		"one more":          {a, Update{Add: prefixes(c6)}, a + " " + c6},
		"one that is there": {a, Update{Add: prefixes(a)}, a},
		"one less":          {a + " " + b, Update{Remove: prefixes(a)}, b},
		"one for another":   {a, Update{Add: prefixes(b), Remove: prefixes(a)}, b},
		"none left":         {a, Update{Remove: prefixes(a)}, ""},
		"not there":         {a, Update{Remove: prefixes(b)}, ""},
	} {
		got, err := c.up.apply(prefixes(c.have))
		if join(got) != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestEnvText: what a person has written into an environment file stays.
func TestEnvText(t *testing.T) {
	vips := prefixes("192.0.2.20/24 2001:db8::20/64")
	const set = `{"ips":["192.0.2.20/24","2001:db8::20/64"]`
	for name, c := range map[string]struct {
		text string
		wish Wish
		want string
	}{
		"nothing":                {"", Wish{Network: "web"}, ""},
		"a network":              {"", Wish{Network: "lan"}, "NETWORK=lan\n"},
		"a network and VIPs":     {"", Wish{Network: "lan", VIPs: vips}, "NETWORK=lan\nCAP_ARGS=" + set + "}\n"},
		"another network":        {"NETWORK=lan\n# why\nCAP_ARGS={}\n", Wish{Network: "web"}, "NETWORK=web\n# why\nCAP_ARGS={}\n"},
		"the same in other ways": {"NETWORK='lan'\nCAP_ARGS=" + `{"ips": ["192.0.2.20/24", "2001:db8::20/64"]}`, Wish{Network: "lan", VIPs: vips}, "NETWORK='lan'\nCAP_ARGS=" + `{"ips": ["192.0.2.20/24", "2001:db8::20/64"]}`},
		"a person's lines": {
			"# by hand\nNETWORK=lan\nRETRY_SEC = \"120\"\nCAP_ARGS='" + `{"mac": "02:00:00:00:00:01", "n": 12345678901234567890, "ips": ["192.0.2.20/24"]}` + "'\n\nCNI_IFNAME=vip0",
			Wish{Network: "lan", VIPs: vips},
			"# by hand\nNETWORK=lan\nRETRY_SEC = \"120\"\nCAP_ARGS=" + set + `,"mac":"02:00:00:00:00:01","n":12345678901234567890}` + "\n\nCNI_IFNAME=vip0",
		},
		"null":    {"CAP_ARGS=null\n", Wish{Network: "web", VIPs: vips}, "CAP_ARGS=" + set + "}\n"},
		"no JSON": {"CAP_ARGS=ips\n", Wish{Network: "web", VIPs: vips}, ""},
	} {
		c.wish.In = "web"
		got, err := c.wish.envText(c.text)
		if diff := cmp.Diff(c.want, got); diff != "" || (err != nil) != (name == "no JSON") {
			t.Errorf("%s: %v, %v", name, diff, err)
		}
	}
}

// TestGateways: --gateway sets the default route of its family alone, and the first VIP of
// a family brings the host's gateway.
func TestGateways(t *testing.T) {
	const a, b, a6, b6 = "192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64", "2001:db8::11/64"
	const hosts, hosts6, other, other6 = "192.0.2.1", "fe80::1", "192.0.2.254", "2001:db8::fe"
	links := []uplink.Link{{Name: "eth1", Gateways: addresses("198.51.100.1")}, {Name: "eth0", Gateways: addresses(hosts6 + " " + hosts)}}
	for name, c := range map[string]struct{ vips, gateways, wishedVIPs, wishedGateways, want string }{
		"a new network":                    {"", "", a + " " + a6, "", hosts + " " + hosts6},
		"one of one family":                {"", "", a6, "", hosts6},
		"one with a gateway":               {"", "", a + " " + a6, other6, other6 + " " + hosts},
		"another gateway of one family":    {a + " " + a6, hosts + " " + other6, a + " " + a6, other, other6 + " " + other},
		"of the other":                     {a + " " + a6, other + " " + hosts6, a + " " + a6, other6, other + " " + other6},
		"of both":                          {a + " " + a6, hosts + " " + hosts6, a + " " + a6, other + " " + other6, other + " " + other6},
		"a family more":                    {a, other, a + " " + a6, "", other + " " + hosts6},
		"a family more, with a gateway":    {a, other, a + " " + a6, other6, other + " " + other6},
		"a VIP more, without IPv6 gateway": {a + " " + a6, hosts, a + " " + b + " " + a6 + " " + b6, "", hosts},
	} {
		is := files.None("/x")
		if c.vips != "" {
			is = files.Text("/x", ownNetwork(t, c.vips, c.gateways))
		}
		w := Wish{In: "web", Master: "eth0", VIPs: prefixes(c.wishedVIPs), Gateways: addresses(c.wishedGateways)}
		got, err := w.ownText(is, links)
		if want := ownNetwork(t, c.wishedVIPs, c.want); err != nil || got != want {
			t.Errorf("%s: %v: %s", name, err, cmp.Diff(want, got))
		}
	}
}

// ownNetwork is the text of a network with VIPs and gateways.
func ownNetwork(t *testing.T, vips, gateways string) string {
	t.Helper()
	o := networks.NewOwn("web", "eth0")
	o.SetVIPs(prefixes(vips))
	for _, gw := range addresses(gateways) {
		o.SetGateway(gw)
	}
	text, err := o.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestWantsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		vips, network, broken string
		want                  bool
	}{
		"VIPs":                       {"192.0.2.10/24", "app-1", "", true},
		"no VIPs":                    {"", "app-1", "", false},
		"the environment names one":  {"192.0.2.10/24", "lan", "", false},
		"a broken file of others":    {"192.0.2.10/24", "app-1", "/etc/cni/net.d/10-flannel.conflist", true},
		"a broken file of that name": {"192.0.2.10/24", "app-1", "/etc/cni/net.d/app-1.conf", false},
	} {
		n := settings.Named("app@1")
		n.Network = c.network
		if got := (Wish{In: n.Name, VIPs: prefixes(c.vips)}).wantsOwn(n, c.broken); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

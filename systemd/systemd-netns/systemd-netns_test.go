package main

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
)

func TestCheckName(t *testing.T) {
	for name, want := range map[string]bool{
		"haproxy": true, "app@1": true, `foo\x2dbar@a:b_c.d`: true,
		"": false, ".": false, "..": false, "a/b": false, "../x": false, "-x": false, "a b": false, "a\nb": false, "ä": false,
		strings.Repeat("a", 256): false,
	} {
		if err := checkName(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestServiceName(t *testing.T) {
	for name, want := range map[string]string{
		"haproxy": "haproxy.service", "haproxy.service": "haproxy.service", "app@1": "app@1.service",
		"app@": "", "web.socket": "", "../x": "", "/etc/x.service": "", ".service": "",
	} {
		got, err := serviceName(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}

func TestNetworkName(t *testing.T) {
	for name, want := range map[string]string{"haproxy": "haproxy", "app@1": "app-1", `a\x2db:c`: "a-x2db-c"} {
		if got := networkName(name); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}

// TestParseEnv: the format of systemd.exec(5), EnvironmentFile=.
func TestParseEnv(t *testing.T) {
	got := parseEnv("# a comment\n; another\n\nNETWORK=lan\n  CNI_IFNAME = \"vip 0\" \n" +
		`CAP_ARGS={"ips":["192.0.2.20/24"]}` + "\n" + `Q='{"ips":["192.0.2.20/24"]}'` + "\n" +
		`D="a\"b\\c\d"` + "\nLONG=a\\\nb\nEMPTY=\nno assignment\n" + `MIX=a'b c'd\ e` + "\n")
	want := map[string]string{
		"NETWORK": "lan", "CNI_IFNAME": "vip 0",
		"CAP_ARGS": `{"ips":["192.0.2.20/24"]}`, "Q": `{"ips":["192.0.2.20/24"]}`,
		"D": `a"b\c\d`, "LONG": "ab", "EMPTY": "", "MIX": "a'b c'd e",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestSplit takes what cnitool really prints.
func TestSplit(t *testing.T) {
	usage := "\nUsage:\n  cnitool add <network-name> <netns> [flags]\n\nFlags:\n  -h, --help   help for add\n\n"
	for name, c := range map[string]struct{ stderr, logs, problem string }{
		"nothing":        {"", "", ""},
		"a plugin's log": {"macvlan-vip: eth0 has no carrier\n", "macvlan-vip: eth0 has no carrier", ""},
		"an error":       {"Error: it is bad" + usage + "it is bad\n", "", "it is bad"},
		"both":           {"macvlan-vip: a\nmacvlan-vip: b\nError: it is\n  bad" + usage + "it is\n  bad\n", "macvlan-vip: a\nmacvlan-vip: b", "it is\n  bad"},
	} {
		if logs, problem := split(c.stderr); logs != c.logs || problem != c.problem {
			t.Errorf("%s: %q, %q", name, logs, problem)
		}
	}
}

// TestExplain: no words of libcni's are left, and each error has a remedy.
func TestExplain(t *testing.T) {
	t.Setenv("CNI_PATH", "/opt/cni/bin:/srv/cni")
	n := &netns{name: "web", network: "lan", path: "/run/netns/web", confDir: "/etc/cni/net.d", ifName: "mv0"}
	for problem, want := range map[string]string{
		`plugin type="macvlan-vip" failed (add): mode: "bad": no such macvlan mode; use one of bridge`:                       `macvlan-vip: mode: "bad": no such macvlan mode; use one of bridge`,
		`plugin type="macvlan-vip" name="lan" failed (check): drift:\n  x; reload (systemctl reload systemd-netns@NAME)`:     `macvlan-vip: drift:\n  x; reload (systemctl reload systemd-netns@web)`,
		`plugin type="macvlan-vip" failed (add): no remedy`:                                                                  "macvlan-vip: no remedy; to see it by hand: CNI_PATH=/opt/cni/bin:/srv/cni NETCONFPATH=/etc/cni/net.d CNI_IFNAME=mv0 cnitool add lan /run/netns/web",
		`plugin type="x" failed (add): failed to find plugin "x" in path [/opt/cni/bin]`:                                     `x: failed to find plugin "x" in path [/opt/cni/bin]; install that plugin, or correct its ` + "`type` or CNI_PATH",
		`plugin type="tuning" failed (add): plugin type="y" failed (add): error dialing: dial unix /run/cni/dhcp.sock: gone`: "y: error dialing: dial unix /run/cni/dhcp.sock: gone; start the DHCP daemon, `dhcp daemon` in the folder of the IPAM plugins",
	} {
		if got := n.explain(problem, "add").Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if err := n.explain(`no net configuration with name "lan" in /etc/cni/net.d`, "add"); !errors.Is(err, errNoNetwork) {
		t.Error(err)
	}
}

func TestFindNetwork(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{
		"1.conflist": `{"name": "lan", "plugins": [{"type": "macvlan-vip", "capabilities": {"ips": true}}, {"type": "hairpin-route"}]}`,
		"2.conf":     `{"name": "single", "type": "macvlan-vip", "capabilities": {"ips": true}}`,
		"3.json":     `{"name": "fixed", "plugins": [{"type": "macvlan-vip"}]}`,
		"4.txt":      `{`,
	} {
		if err := writeFor(filepath.Join(dir, file), text); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"lan": true, "single": true, "fixed": false} {
		n, _, err := findNetwork(dir, name)
		if err != nil || n == nil || n.takesVIPs() != want {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
	for _, in := range []string{dir, filepath.Join(dir, "none")} {
		if n, _, err := findNetwork(in, "other"); n != nil || err != nil {
			t.Errorf("%+v, %v", n, err)
		}
	}
	if err := writeFor(filepath.Join(dir, "5.conf"), "{"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := findNetwork(dir, "other"); err == nil || !strings.Contains(err.Error(), "5.conf") {
		t.Error(err)
	}
}

func TestChooseDNS(t *testing.T) {
	const real, stub = "nameserver 192.0.2.53\nsearch example.com\n", "nameserver 127.0.0.53\noptions edns0\n"
	for name, c := range map[string]struct {
		dns   types.DNS
		files map[string]string
		want  string
		fails bool
	}{
		"the host's own will do":    {files: map[string]string{"/etc/resolv.conf": real}},
		"one of two is reachable":   {files: map[string]string{"/etc/resolv.conf": stub + real}},
		"no file on the host":       {},
		"the network's":             {dns: types.DNS{Nameservers: []string{"192.0.2.1", "2001:db8::1"}, Domain: "a.example", Options: []string{"ndots:2"}}, files: map[string]string{"/etc/resolv.conf": real}, want: "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.example\noptions ndots:2\n"},
		"resolved's stub":           {files: map[string]string{"/etc/resolv.conf": stub, upstreams[0]: real}, want: real},
		"NetworkManager's":          {files: map[string]string{"/etc/resolv.conf": "nameserver ::1\n", upstreams[1]: real}, want: real},
		"resolved without any":      {files: map[string]string{"/etc/resolv.conf": stub, upstreams[0]: "# none\n"}, fails: true},
		"no server means one's own": {files: map[string]string{"/etc/resolv.conf": "search x\n"}, fails: true},
	} {
		read := func(file string) ([]byte, error) {
			if text, ok := c.files[file]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		}
		if got, _, err := chooseDNS(c.dns, read); got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestParseWish(t *testing.T) {
	got, err := parseWish([]string{"--vip", "192.0.2.20/24", "web", "--network=lan", "--vip=2001:db8::20/64", "--in", "front"})
	want := wish{unit: "web.service", in: "front", network: "lan", vips: []string{"192.0.2.20/24", "2001:db8::20/64"}}
	if err != nil || !slices.Equal(got.vips, want.vips) || got.unit != want.unit || got.in != want.in || got.network != want.network {
		t.Errorf("%+v, %v", got, err)
	}
	all := "NETWORK=lan\nCAP_ARGS={\"ips\":[\"192.0.2.20/24\",\"2001:db8::20/64\"]}\n"
	for _, c := range []struct {
		wish   wish
		before map[string]string
		want   string
	}{
		{got, nil, all},
		{got, map[string]string{"NETWORK": "other", "CAP_ARGS": "{}"}, all},
		{wish{vips: got.vips}, map[string]string{"NETWORK": "lan"}, all},
		{wish{network: "lan"}, parseEnv(all), all},
		{wish{network: "lan"}, nil, "NETWORK=lan\n"},
	} {
		if text, err := c.wish.env(c.before); err != nil || text != c.want {
			t.Errorf("%+v after %v: %q, %v", c.wish, c.before, text, err)
		}
	}
	for _, bad := range []string{"", "web other", "web --vip 192.0.2.20", "web --in ../x", "../web", "web --nonsense", "web --in", "web --network ../x"} {
		if _, err := parseWish(strings.Fields(bad)); err == nil {
			t.Errorf("enable %s: no error", bad)
		}
	}
}

func TestNamespaceOf(t *testing.T) {
	for text, want := range map[string]string{
		"[Service]\nNetworkNamespacePath=/run/netns/%N\n":           "web",
		"[Service]\nNetworkNamespacePath=/run/netns/front\n":        "front",
		"[Unit]\nJoinsNamespaceOf=systemd-netns@%N.service\n":       "web",
		"[Service]\n# NetworkNamespacePath=/run/netns/x\nSlice=a\n": "",
	} {
		if got := namespaceOf(text, "web"); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// TestDropIn: what is ours is replaced, removed and put back, and nothing else.
func TestDropIn(t *testing.T) {
	dir := t.TempDir()
	d := dropIn{file: filepath.Join(dir, "web.service.d", "netns.conf"), base: "netns.conf"}
	for changes := range 2 { // the second time it is there
		var c change
		if err := d.put(&c); err != nil || len(c.before) != 1-changes {
			t.Fatalf("put: %+v, %v", c, err)
		}
	}
	if target, err := os.Readlink(d.file); err != nil || target != shipped("netns.conf") {
		t.Errorf("%q, %v", target, err)
	}
	var c change
	if err := d.remove(&c); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := c.undo(); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(d.file); err != nil || target != shipped("netns.conf") {
		t.Errorf("after undo: %q, %v", target, err)
	}
	const theirs = "[Service]\nNice=1\n"
	if err := errors.Join(os.Remove(d.file), os.WriteFile(d.file, []byte(theirs), 0o644)); err != nil {
		t.Fatal(err)
	}
	c = change{}
	if d.put(&c) == nil || d.remove(&c) == nil || len(c.before) != 0 {
		t.Errorf("an administrator's file is not refused: %+v", c)
	}
	if text, err := os.ReadFile(d.file); err != nil || string(text) != theirs {
		t.Errorf("%q, %v", text, err)
	}
}

// TestChangeIsTakenBack: a file that was written over, and one that was not
// there, with its folder.
func TestChangeIsTakenBack(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, "old.env"), filepath.Join(dir, "new.d", "new.env")
	if err := os.WriteFile(old, []byte("A=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var c change
	for _, path := range []string{old, fresh, fresh} {
		if _, err := c.write(path, "A=2\n"); err != nil {
			t.Fatal(err)
		}
		if ours, _, err := isWritten(path); !ours || err != nil {
			t.Errorf("%s: %v, %v", path, ours, err)
		}
	}
	if err := c.undo(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(old)
	if err != nil || string(text) != "A=1\n" {
		t.Errorf("%q, %v", text, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestFactsInWords(t *testing.T) {
	vip, other := netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")
	f := facts{
		link: "mv0", mac: "02:00:00:00:00:01", master: "eth0", vips: []netip.Prefix{vip, other}, host: "mv-int",
		ways: []way{{source: "192.0.2.9", vips: []netip.Addr{vip.Addr()}}, {vips: []netip.Addr{other.Addr()}}},
	}
	for _, c := range []struct{ got, want []string }{
		{f.made("lan"), []string{
			"192.0.2.1/24 2001:db8::1/64 on mv0, network lan", "mv0 on eth0, MAC 02:00:00:00:00:01",
			"host reaches 192.0.2.1 through mv-int from 192.0.2.9", "host reaches 2001:db8::1 through mv-int",
		}},
		{facts{link: "mv0"}.made("lan"), []string{"no VIPs on mv0, network lan"}},
		{f.removed(facts{}, "lan"), []string{
			"removed mv0 192.0.2.1/24 2001:db8::1/64, network lan", "removed the host's way to 192.0.2.1", "removed the host's way to 2001:db8::1",
			"removed mv-int, which no other service needs",
		}},
		{f.removed(f, "lan"), nil},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Error(diff)
		}
	}
	var many []netip.Prefix
	for range 10 {
		many = append(many, vip)
	}
	if got := list(many); !strings.HasSuffix(got, " 192.0.2.1/24 and 2 more") {
		t.Error(got)
	}
}

func TestIsMadeFrom(t *testing.T) {
	const plugin = `{"name": "lan", "type": "macvlan-vip", "mtu": 1400}`
	const list = `{"name": "lan", "plugins": [` + plugin + `]}`
	for _, c := range []struct {
		list, file string
		want       bool
	}{
		{list, list, true},
		{list, " " + strings.ReplaceAll(list, " ", "\n\t"), true},
		{list, strings.Replace(list, "1400", "1401", 1), false},
		{list, plugin, true},
		{list, strings.Replace(plugin, "1400", "1401", 1), false},
		{list, "{", false},
	} {
		if got := isMadeFrom([]byte(c.list), []byte(c.file)); got != c.want {
			t.Errorf("%s from %s: %v", c.list, c.file, got)
		}
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{{"", "", true}, {"", "null", true}, {`{"ips": ["192.0.2.1/24"]}`, `{"ips":["192.0.2.1/24"]}`, true}, {`{"ips": []}`, "", false}} {
		if got := sameJSON([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%q and %q: %v", c.a, c.b, got)
		}
	}
}

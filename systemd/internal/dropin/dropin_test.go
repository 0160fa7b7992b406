package dropin

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"macvlan-vip/systemd/internal/files"
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

func TestUpdate(t *testing.T) {
	vips := func(text string) (all []netip.Prefix) {
		for _, vip := range strings.Fields(text) {
			all = append(all, netip.MustParsePrefix(vip))
		}
		return all
	}
	const a, b, c6 = "192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64"
	for name, c := range map[string]struct {
		have string
		up   Update
		want string
	}{
		"all":               {a, Update{VIPs: vips(b)}, b},
		"one more":          {a, Update{Add: vips(c6)}, a + " " + c6},
		"one that is there": {a, Update{Add: vips(a)}, a},
		"one less":          {a + " " + b, Update{Remove: vips(a)}, b},
		"one for another":   {a, Update{Add: vips(b), Remove: vips(a)}, b},
		"none left":         {a, Update{Remove: vips(a)}, ""},
		"not there":         {a, Update{Remove: vips(b)}, ""},
	} {
		got, err := c.up.apply(vips(c.have))
		if join(got) != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestEnvText: what a person has written into an environment file stays.
func TestEnvText(t *testing.T) {
	vips := []netip.Prefix{netip.MustParsePrefix("192.0.2.20/24"), netip.MustParsePrefix("2001:db8::20/64")}
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

package dropin

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"macvlan-vip/systemd/internal/settings"
)

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

// TestEnv: what is not wished for stays as an earlier wish has set it.
func TestEnv(t *testing.T) {
	got := Wish{Network: "lan", VIPs: []string{"192.0.2.20/24", "2001:db8::20/64"}}
	all := "NETWORK=lan\nCAP_ARGS={\"ips\":[\"192.0.2.20/24\",\"2001:db8::20/64\"]}\n"
	for _, c := range []struct {
		wish   Wish
		before map[string]string
		want   string
	}{
		{got, nil, all},
		{got, map[string]string{"NETWORK": "other", "CAP_ARGS": "{}"}, all},
		{Wish{VIPs: got.VIPs}, map[string]string{"NETWORK": "lan"}, all},
		{Wish{Network: "lan"}, settings.ParseEnv(all), all},
		{Wish{Network: "lan"}, nil, "NETWORK=lan\n"},
	} {
		if text, err := c.wish.env(c.before); err != nil || text != c.want {
			t.Errorf("%+v after %v: %q, %v", c.wish, c.before, text, err)
		}
	}
}

package attach

import (
	"os"
	"path/filepath"
	"testing"

	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
)

// TestCheckAgain: after an ADD, that a network's version has no CHECK is no failure.
func TestCheckAgain(t *testing.T) {
	for says, want := range map[string]string{
		`configuration version "0.3.1" does not support the CHECK command`:         "",
		`plugin type="macvlan-vip" failed (check): eth0 has no carrier; try again`: "",
		`plugin type="macvlan-vip" failed (check): mv0 is missing; repeat ADD`:     "macvlan-vip: mv0 is missing; repeat ADD",
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"lan.conflist": `{"cniVersion": "0.3.1", "name": "lan", "plugins": [{"type": "macvlan-vip"}]}`,
			"cnitool":      "#!/bin/sh\necho 'Error: " + says + "' >&2\nexit 1\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		n := &Netns{Voice: sdlog.New("web"), Namespace: settings.Namespace{Name: "web", Network: "lan", ConfDir: dir, IfName: "mv0"}}
		var got string
		if err := n.checkAgain(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", says, got, want)
		}
	}
}

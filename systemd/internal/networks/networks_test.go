package networks

import (
	"path/filepath"
	"strings"
	"testing"

	"macvlan-vip/systemd/internal/files"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{
		"1.conflist": `{"name": "lan", "plugins": [{"type": "macvlan-vip", "capabilities": {"ips": true}}, {"type": "hairpin-route"}]}`,
		"2.conf":     `{"name": "single", "type": "macvlan-vip", "capabilities": {"ips": true}}`,
		"3.json":     `{"name": "fixed", "plugins": [{"type": "macvlan-vip"}]}`,
		"4.txt":      `{`,
	} {
		if err := files.Text(filepath.Join(dir, file), text).Put(); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"lan": true, "single": true, "fixed": false} {
		n, _, err := Find(dir, name)
		if err != nil || n == nil || n.TakesVIPs() != want {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
	for _, in := range []string{dir, filepath.Join(dir, "none")} {
		if n, _, err := Find(in, "other"); n != nil || err != nil {
			t.Errorf("%+v, %v", n, err)
		}
	}
	// In nobody's way but of those who look for what is not there.
	for _, name := range []string{"0.conflist", "5.conf"} {
		if err := files.Text(filepath.Join(dir, name), "\x00").Put(); err != nil {
			t.Fatal(err)
		}
	}
	if n, _, err := Find(dir, "single"); n == nil || err != nil {
		t.Error(n, err)
	}
	for name, broken := range map[string]string{"other": "0.conflist", "5": "5.conf"} {
		if _, file, err := Find(dir, name); err == nil || !strings.Contains(err.Error(), broken) || filepath.Base(file) != broken {
			t.Error(name, file, err)
		}
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
		if got := IsMadeFrom([]byte(c.list), []byte(c.file)); got != c.want {
			t.Errorf("%s from %s: %v", c.list, c.file, got)
		}
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{{"", "", true}, {"", "null", true}, {`{"ips": ["192.0.2.1/24"]}`, `{"ips":["192.0.2.1/24"]}`, true}, {`{"ips": []}`, "", false}} {
		if got := SameJSON([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%q and %q: %v", c.a, c.b, got)
		}
	}
}

package networks

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/settings"
)

// TestEdited: what of a network and its settings was edited, and whether that is
// more than addresses.
func TestEdited(t *testing.T) {
	const list = `{"cniVersion": "1.1.0", "name": "lan", "plugins": [{"type": "macvlan-vip", "mtu": 1400, "ipam": {"type": "static", "addresses": [{"address": "192.0.2.1/24"}]}}]}`
	made := record.Attachment{Network: "lan", IfName: "mv0", Config: json.RawMessage(list), CNIArgs: "A=b", CapArgs: `{"ips": ["192.0.2.2/24"]}`}
	for name, c := range map[string]struct {
		file, capArgs string
		change        func(*settings.Namespace)
		what          string
		live          bool
	}{
		"nothing":            {file: " " + list, capArgs: `{"ips":["192.0.2.2/24"]}`},
		"addresses":          {file: strings.Replace(list, "192.0.2.1", "192.0.2.3", 1), capArgs: made.CapArgs, what: "lan.conflist", live: true},
		"VIPs":               {file: list, capArgs: `{"ips": []}`, what: "CAP_ARGS", live: true},
		"no VIPs":            {file: list, capArgs: "", what: "CAP_ARGS", live: true},
		"VIPs and more":      {file: list, capArgs: `{"ips": [], "mac": "02:00:00:00:00:01"}`, what: "CAP_ARGS"},
		"malformed CAP_ARGS": {file: list, capArgs: "{", what: "CAP_ARGS"},
		"addresses and MTU":  {file: strings.NewReplacer("192.0.2.1", "192.0.2.3", "1400", "1300").Replace(list), capArgs: made.CapArgs, what: "lan.conflist"},
		"no file":            {what: "gone"},
		"no JSON":            {file: "{", what: "correct its JSON"},
		"another network":    {file: list, change: func(n *settings.Namespace) { n.Network = "other" }, what: "NETWORK"},
		"another link":       {file: list, change: func(n *settings.Namespace) { n.IfName = "mv1" }, what: "CNI_IFNAME"},
		"address arguments":  {file: list, capArgs: made.CapArgs, change: func(n *settings.Namespace) { n.CNIArgs = "IP=192.0.2.7/24;A=b" }, what: "CNI_ARGS", live: true},
		"arguments":          {file: list, capArgs: made.CapArgs, change: func(n *settings.Namespace) { n.CNIArgs = "A=c" }, what: "CNI_ARGS"},
	} {
		n := settings.Named("web")
		n.Network, n.IfName, n.CNIArgs, n.CapArgs, n.ConfDir = "lan", "mv0", "A=b", c.capArgs, t.TempDir()
		if c.change != nil {
			c.change(&n)
		}
		if c.file != "" {
			if err := os.WriteFile(filepath.Join(n.ConfDir, "lan.conflist"), []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if e := Edited(made, n); !strings.Contains(e.What, c.what) || (e.What == "") != (c.what == "") || e.Live != c.live {
			t.Errorf("%s: %q, live %v", name, e.What, e.Live)
		}
	}
}

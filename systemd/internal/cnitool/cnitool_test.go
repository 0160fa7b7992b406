package cnitool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"macvlan-vip/systemd/internal/chain"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/settings"
)

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

// TestHang: a plugin that hangs is ended, and the error says what to look for.
func TestHang(t *testing.T) {
	defer func(before time.Duration) { patience = before }(patience)
	patience = 200 * time.Millisecond
	dir := t.TempDir()
	for name, file := range map[string]string{
		"lan.conflist": `{"cniVersion": "1.1.0", "name": "lan", "plugins": [{"type": "slow"}]}`, "cnitool": "#!/bin/sh\nsleep 998\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(file), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	_, _, err := Run(settings.Namespace{Name: "web", Network: "lan", Path: "/run/netns/web", ConfDir: dir, IfName: "mv0"}, "add")
	if !errors.Is(err, chain.ErrTimeout) || !strings.Contains(err.Error(), `find out what a plugin of network "lan" waits for`) {
		t.Error(err)
	}
}

// TestExplain: no words of libcni's are left, and each error has a remedy.
func TestExplain(t *testing.T) {
	n := settings.Namespace{Name: "web", Network: "lan", Path: "/run/netns/web", ConfDir: "/etc/cni/net.d", IfName: "mv0", CNIPath: "/opt/cni/bin:/srv/cni"}
	for problem, want := range map[string]string{
		`plugin type="macvlan-vip" failed (add): mode: "bad": no such macvlan mode; use one of bridge`:                       `macvlan-vip: mode: "bad": no such macvlan mode; use one of bridge`,
		`plugin type="macvlan-vip" name="lan" failed (check): drift:\n  x; reload (systemctl reload systemd-netns@NAME)`:     `macvlan-vip: drift:\n  x; reload (systemctl reload systemd-netns@web)`,
		"drift:\n  x; reload (systemctl reload systemd-netns@NAME)":                                                          "drift:\n  x; reload (systemctl reload systemd-netns@web)",
		`plugin type="macvlan-vip" failed (add): no remedy`:                                                                  "macvlan-vip: no remedy; to see it by hand: CNI_PATH=/opt/cni/bin:/srv/cni NETCONFPATH=/etc/cni/net.d CNI_IFNAME=mv0 cnitool add lan /run/netns/web",
		`plugin type="x" failed (add): failed to find plugin "x" in path [/opt/cni/bin]`:                                     `x: failed to find plugin "x" in path [/opt/cni/bin]; install that plugin, or correct its ` + "`type` or CNI_PATH",
		`plugin type="tuning" failed (add): plugin type="y" failed (add): error dialing: dial unix /run/cni/dhcp.sock: gone`: "y: error dialing: dial unix /run/cni/dhcp.sock: gone; start the DHCP daemon, `dhcp daemon` in the folder of the IPAM plugins",
		`configuration version "0.3.1" does not support the CHECK command`:                                                   `configuration version "0.3.1" does not support the CHECK command; set the network's cniVersion to 1.0.0`,
	} {
		if got := Explain(n, problem, "add").Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	n.ConfDir = t.TempDir()
	if _, _, err := Run(n, "add"); !errors.Is(err, networks.ErrNone) {
		t.Error(err)
	}
}

// TestNameOwners: a person is told a namespace's name, not the hash of its path.
func TestNameOwners(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"web", "app@1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	attachment := func(name string) string { return "attachment lan:" + ContainerID(settings.Named(name)) + ":mv0" }
	for text, want := range map[string]string{
		"VIP 192.0.2.1: " + attachment("app@1") + ` of network "lan"`:      `VIP 192.0.2.1: namespace app@1 of network "lan"`,
		"VIP 192.0.2.1: " + attachment("gone") + ` of network "lan"`:       "VIP 192.0.2.1: " + attachment("gone") + ` of network "lan"`,
		`VIP 192.0.2.1: attachment lan:0123456789ab:eth0 of network "lan"`: `VIP 192.0.2.1: attachment lan:0123456789ab:eth0 of network "lan"`,
	} {
		if got := nameOwners(text, dir); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

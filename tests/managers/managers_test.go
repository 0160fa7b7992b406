package managers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

// manager is one of a host's network, and what an operator types to it.
type manager struct {
	name string
	// unit is what starts it at boot.
	unit string
	// waits is what network-online.target waits for, where it can be told not to.
	waits string
	// configure writes its configuration: eth0, by DHCP and RA.
	configure func(*testing.T, *lab)
	// Scripts; reconfigure is empty where there is no such thing.
	restart, reconfigure, down, up string
}

var all = []manager{
	{
		name: "networkd", unit: "systemd-networkd.service", waits: "systemd-networkd-wait-online.service",
		configure: func(t *testing.T, l *lab) {
			l.m.MustWrite(t, "etc/systemd/network/10-lan.network", "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=yes\n")
		},
		restart:     "systemctl restart systemd-networkd",
		reconfigure: "networkctl reload; networkctl reconfigure eth0",
		down:        "networkctl down eth0", up: "networkctl up eth0",
	},
	{
		name: "NetworkManager", unit: "NetworkManager.service", waits: "NetworkManager-wait-online.service",
		configure: func(t *testing.T, l *lab) {
			const connection = "etc/NetworkManager/system-connections/lan.nmconnection"
			l.m.MustWrite(t, connection, "[connection]\nid=lan\ntype=ethernet\ninterface-name=eth0\n[ipv4]\nmethod=auto\n[ipv6]\nmethod=auto\naddr-gen-mode=eui64\n")
			if err := l.m.Chmod(connection, 0o600); err != nil {
				t.Fatal(err)
			}
			// Below /usr/local NetworkManager does not look: systemd/network says so.
			l.m.MustWrite(t, "etc/NetworkManager/conf.d/50-mv-int.conf", ofProject(t, "systemd/network/50-mv-int.conf"))
		},
		restart:     "systemctl restart NetworkManager",
		reconfigure: "nmcli general reload; nmcli connection reload; nmcli device reapply eth0",
		down:        "nmcli connection down lan", up: "nmcli --wait 120 connection up lan",
	},
	{
		// As Debian's installer writes it: nobody waits for a hotplug link.
		name: "ifupdown", unit: "networking.service",
		configure: func(t *testing.T, l *lab) {
			l.m.MustWrite(t, "etc/network/interfaces", "auto lo\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet dhcp\niface eth0 inet6 auto\n")
			// Else it rests for five minutes after the first, where nobody answers.
			l.m.MustWrite(t, "etc/dhcp/dhclient.conf", "retry 10;\n")
		},
		restart: "systemctl restart networking",
		down:    "ifdown eth0", up: "ifup eth0",
	},
}

func ofProject(t *testing.T, name string) string {
	t.Helper()
	top, err := machine.Top()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func needed(t *testing.T) {
	t.Helper()
	if os.Getenv("MANAGERS") == "" {
		t.Skip("takes long: `make test-managers` runs it")
	}
}

// TestManagers: a service that was enabled is on its VIPs whatever manages its
// host's network, and whatever is done with that.
func TestManagers(t *testing.T) {
	needed(t)
	for _, mgr := range all {
		t.Run(mgr.name, func(t *testing.T) { live(t, mgr) })
	}
}

func live(t *testing.T, mgr manager) {
	l := newLab(t, mgr.unit, hostMAC)
	mgr.configure(t, l)
	l.startDHCP(t)
	l.boot(t)
	t.Run("enable", func(t *testing.T) {
		l.online(t)
		l.sh(t, "systemd-netns enable haproxy --yes --vip "+vip4+"/24 --vip "+vip6+"/64")
		l.serves(t)
	})
	if t.Failed() {
		return
	}
	ours := l.ours(t)
	for _, event := range []struct{ name, script string }{{"restart", mgr.restart}, {"reconfigure", mgr.reconfigure}} {
		if event.script == "" {
			continue
		}
		t.Run(event.name, func(t *testing.T) {
			l.noWorse(t, func() {
				l.sh(t, event.script)
				time.Sleep(10 * time.Second)
			})
			l.stay(t, ours)
			l.serves(t)
		})
	}
	t.Run("down and up", func(t *testing.T) {
		l.noWorse(t, func() {
			l.sh(t, mgr.down)
			time.Sleep(5 * time.Second)
			l.sh(t, mgr.up)
			l.online(t)
		})
		l.serves(t)
		l.stay(t, ours)
	})
	t.Run("power cut", func(t *testing.T) {
		l.m.Cut()
		l.boot(t)
		l.afterBoot(t)
	})
	if mgr.waits != "" {
		l.sh(t, "systemctl mask "+mgr.waits+"; sync")
	}
	t.Run("addresses that come after the service", l.lateAddresses)
	t.Run("a carrier that comes after the service", l.lateCarrier)
}

// afterBoot: nothing has failed, and the service is on its VIPs.
func (l *lab) afterBoot(t *testing.T) {
	t.Helper()
	l.online(t)
	l.serves(t)
	if failed := l.sh(t, "systemctl list-units --state=failed --plain --no-legend"); strings.Contains(failed, "netns") || strings.Contains(failed, "haproxy") {
		t.Errorf("failed units:\n%s", failed)
	}
}

// lateAddresses boots with nobody who gives the host an address until the
// service is on its VIPs.
func (l *lab) lateAddresses(t *testing.T) {
	// Nor does a lease of before do for a while.
	l.sh(t, "rm -f /var/lib/dhcp/* /var/lib/dhcpcd/*; sync")
	l.m.Cut()
	l.stopDHCP()
	booted := l.beginBoot()
	l.active(t)
	if out, err := l.m.TryIP("-4 address show dev eth0"); err != nil || strings.Contains(out, "inet ") {
		t.Fatalf("the host has an address, or cannot be asked: %v: %s", err, out)
	}
	l.pages(t, "LAN peer", l.peer)
	l.startDHCP(t)
	if err := <-booted; err != nil {
		t.Fatal(err)
	}
	l.afterBoot(t)
}

// lateCarrier boots with the cable out, which comes in when the service is
// there.
func (l *lab) lateCarrier(t *testing.T) {
	l.m.Cut()
	booted := l.beginBoot()
	testnet.Within(t, patience, "the cable is out", func() error { return l.m.SetCarrier(0, false) })
	l.active(t)
	if out, err := l.m.TryIP("link show dev eth0"); err != nil || !strings.Contains(out, "NO-CARRIER") {
		t.Fatalf("eth0 has a carrier, or cannot be asked: %v: %s", err, out)
	}
	l.m.MustSetCarrier(t, 0, true)
	if err := <-booted; err != nil {
		t.Fatal(err)
	}
	l.afterBoot(t)
}

// beginBoot boots the machine, and does not wait for it.
func (l *lab) beginBoot() <-chan error {
	booted := make(chan error, 1)
	go func() { booted <- l.m.Boot() }()
	return booted
}

// active waits until the machine has booted so far that the service runs.
func (l *lab) active(t *testing.T) {
	t.Helper()
	testnet.Within(t, 2*patience, "the service is active", func() error {
		out, err := l.m.Run("systemctl", "is-active", "haproxy")
		if err != nil {
			return fmt.Errorf("%s: %w", strings.TrimSpace(out), err)
		}
		return nil
	})
}

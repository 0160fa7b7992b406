package managers

import (
	"os"
	"testing"
	"time"
)

// manager is one of a host's network, and what an operator types to it.
type manager struct {
	name string
	// unit is what starts it at boot.
	unit string
	// configure writes its configuration: eth0, by DHCP and RA.
	configure func(*testing.T, *lab)
	// restart and the others are scripts.
	restart, reconfigure, down, up string
}

var all = []manager{
	{
		name: "networkd", unit: "systemd-networkd.service",
		configure: func(t *testing.T, l *lab) {
			l.m.MustWrite(t, "etc/systemd/network/10-lan.network", "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=yes\n")
		},
		restart:     "systemctl restart systemd-networkd",
		reconfigure: "networkctl reload; networkctl reconfigure eth0",
		down:        "networkctl down eth0", up: "networkctl up eth0",
	},
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
}

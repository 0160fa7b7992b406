package managers

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"testing"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

const (
	// On the VLAN, where "web" is, beside haproxy on the bond itself.
	vlanHost4, vlanPeer4, vlanVIP4 = "198.51.100.50", "198.51.100.5", "198.51.100.10"
	vlanHost6, vlanPeer6, vlanVIP6 = "2001:db8:26::50", "2001:db8:26::5", "2001:db8:26::10"
	bondHost6                      = "2001:db8::50"
	webAnswer                      = "answer of web"
)

// The bond's and the VLAN's files, as systemd.netdev(5) and systemd.network(5)
// have them.
var bondFiles = map[string]string{
	"10-bond0.netdev":     "[NetDev]\nName=bond0\nKind=bond\n[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\n",
	"20-vlan.netdev":      "[NetDev]\nName=bond0.26\nKind=vlan\n[VLAN]\nId=26\n",
	"30-ports.network":    "[Match]\nName=eth0 eth1\n[Network]\nBond=bond0\n",
	"40-bond0.network":    "[Match]\nName=bond0\n[Network]\nAddress=" + hostAddr + "/24\nAddress=" + bondHost6 + "/64\nIPv6AcceptRA=no\nVLAN=bond0.26\n",
	"50-bond0-26.network": "[Match]\nName=bond0.26\n[Network]\nAddress=" + vlanHost4 + "/24\nAddress=" + vlanHost6 + "/64\nIPv6AcceptRA=no\n",
}

const webUnit = `[Unit]
After=network-online.target
[Service]
ExecStart=/usr/sbin/haproxy -W -db -f /etc/haproxy/web.cfg
[Install]
WantedBy=multi-user.target
`

// TestBondAndVLAN: systemd-networkd makes a bond of two cards and a VLAN on it
// from its own files. A service on each of the two is on its VIPs after boot,
// networkd's restart and reconfiguration, the bond's failover, the links down
// and up, and a power cut.
func TestBondAndVLAN(t *testing.T) {
	needed(t)
	l := newLab(t, "systemd-networkd.service", hostMAC, "02:00:5e:00:53:51")
	for name, content := range bondFiles {
		l.m.MustWrite(t, "etc/systemd/network/"+name, content)
	}
	l.m.MustWrite(t, "etc/haproxy/web.cfg", regexp.MustCompile(answer).ReplaceAllString(haproxy, webAnswer))
	l.m.MustWrite(t, "etc/systemd/system/web.service", webUnit)
	if err := l.m.Systemctl("enable", "web.service"); err != nil {
		t.Fatal(err)
	}
	// On the host the two cannot share a port.
	if err := l.m.Systemctl("mask", "haproxy.service"); err != nil {
		t.Fatal(err)
	}
	peer := l.taggedPeer(t)
	l.boot(t)
	serves := func(t *testing.T) {
		t.Helper()
		testlab.Reached(t, patience, map[string]machine.Station{"LAN peer": peer, "host": l.m},
			map[string]string{vip4: answer, vip6: answer, vlanVIP4: webAnswer, vlanVIP6: webAnswer})
	}
	t.Run("enable", func(t *testing.T) {
		for _, addr := range []string{hostAddr, bondHost6, vlanHost4, vlanHost6} {
			testnet.Within(t, patience, "the LAN peer pings the host's "+addr, func() error { return peer.Ping(netip.MustParseAddr(addr)) })
		}
		l.sh(t, "systemd-netns enable web --yes --vip "+vlanVIP4+"/24 --vip "+vlanVIP6+"/64")
		l.sh(t, "systemctl unmask haproxy; systemd-netns enable haproxy --yes --vip "+vip4+"/24 --vip "+vip6+"/64; systemctl enable --now haproxy")
		serves(t)
		if links := l.sh(t, "ip -o link show type macvlan"); !regexp.MustCompile(`mv-int\S*@bond0: `).MatchString(links) || !regexp.MustCompile(`mv-int\S*@bond0\.26: `).MatchString(links) {
			t.Errorf("want a host-side macvlan on bond0 and one on bond0.26:\n%s", links)
		}
	})
	if t.Failed() {
		return
	}
	for _, event := range []struct{ name, script string }{
		{"networkd restarted", "systemctl restart systemd-networkd"},
		{"networkd reconfigures", "networkctl reload; networkctl reconfigure bond0 bond0.26"},
		{"bond down and up", "networkctl down bond0; sleep 5; networkctl up bond0"},
	} {
		t.Run(event.name, func(t *testing.T) {
			l.sh(t, event.script)
			serves(t)
		})
	}
	t.Run("failover", func(t *testing.T) {
		lost := pingsFrom(t, peer, []string{hostAddr, vip4, vlanHost4, vlanVIP4}, func() {
			active := l.sh(t, "cat /sys/class/net/bond0/bonding/active_slave")
			nic, _ := strconv.Atoi(active[len(active)-1:])
			if err := l.m.SetCarrier(nic, false); err != nil {
				t.Error(err)
			}
		})
		if lost[vip4] > lost[hostAddr]+2 || lost[vlanVIP4] > lost[vlanHost4]+2 {
			t.Errorf("a VIP lost more than its host's address: %v", lost)
		}
		t.Logf("pings of 0.2 s lost: %v", lost)
		serves(t)
	})
	t.Run("power cut", func(t *testing.T) {
		l.m.Cut()
		l.boot(t)
		serves(t)
	})
}

// taggedPeer boots a LAN peer that is a machine, too, since it needs a kernel
// that knows VLANs.
func (l *lab) taggedPeer(t *testing.T) *machine.Machine {
	t.Helper()
	peer := machine.NewFor(t, []string{"-b", "-n", "50"}, machine.Bare(), machine.Memory(512), machine.With(packages()...),
		machine.Connect(machine.NIC{LAN: l.peer.Path(), Port: "portp", MAC: "02:00:5e:00:53:05", Addresses: []string{"192.0.2.6/24", "2001:db8::6/64"}}))
	l.peer.IP("link set portp master lan")
	maskOthers(t, peer, "")
	if err := peer.Systemctl("mask", "haproxy.service"); err != nil {
		t.Fatal(err)
	}
	peer.MustBoot(t)
	for _, args := range []string{
		"link add link eth0 name eth0.26 type vlan id 26", "link set eth0.26 up",
		"address add " + vlanPeer4 + "/24 dev eth0.26", "address add " + vlanPeer6 + "/64 dev eth0.26 nodad",
	} {
		peer.IP(args)
	}
	return peer
}

// pingsFrom pings addresses for 20 s, while something is done, and tells how
// many echo requests to each went unanswered.
func pingsFrom(t *testing.T, from *machine.Machine, addrs []string, do func()) map[string]int {
	t.Helper()
	type result struct {
		addr string
		lost int
		err  error
	}
	results := make(chan result)
	for _, addr := range addrs {
		go func() {
			// It fails if nothing is answered at all.
			out, err := from.RunContext(context.Background(), "ping", "-n", "-q", "-i", "0.2", "-c", "100", "-W", "5", addr)
			lost, _ := unanswered(out)
			if lost < 0 {
				results <- result{addr, 0, fmt.Errorf("ping %s: %w: %s", addr, err, out)}
				return
			}
			results <- result{addr, lost, nil}
		}()
	}
	testnet.Within(t, patience, "pings are under way", func() error {
		_, err := from.Run("pgrep", "ping")
		return err
	})
	do()
	lost := map[string]int{}
	for range addrs {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
		}
		lost[r.addr] = r.lost
	}
	return lost
}

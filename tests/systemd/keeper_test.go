package systemd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"

	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

// TestKeeper: what somebody breaks under a running service is right again soon,
// the journal names who did it, and the service is not touched.
func TestKeeper(t *testing.T) {
	l := newLab(t).withDualStack("netns.conf")
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	l.boot()
	before := l.M.Snapshot()
	l.Run(t, "systemctl start haproxy")
	l.Serves(t, dualStack...)
	l.WantState(t, "systemd-netns-watch", "active")
	l.watched(t)
	pid := l.MainPID(t)
	inside := func(args string) func() { return func() { l.Run(t, "ip -n haproxy "+args) } }
	host := func(args string) func() { return func() { l.M.IP(args) } }
	// Before Linux 6.2 a link has to be down for it.
	renamed := func(ip, link string) func() {
		name := fmt.Sprintf("%s link set %s name other", ip, link)
		return func() {
			l.M.MustRun(t, "sh", "-c", fmt.Sprintf("%s 2>/dev/null || { %s link set %s down; %s; }", name, ip, link, name))
		}
	}
	// Only told: `make bench` compares them.
	var took, reloads []time.Duration
	for _, c := range []struct {
		name  string
		spoil func()
		// query, in the namespace or the host's, has an answer while all is right.
		query string
		says  string
	}{
		{"mv-int is deleted", host("link del mv-int"), "-4 route get 172.16.26.1", "mv-int was deleted"},
		{"mv-int is down", host("link set mv-int down"), "-4 route get 172.16.26.1", "mv-int was taken down"},
		{"mv-int is renamed", renamed("ip", "mv-int"), "link show mv-int", "mv-int was renamed other"},
		{"the host's routes are flushed", host("route flush table local proto 118"), "-4 route get 172.16.26.1", "the host's route to 172.16.26.1 was removed by process "},
		{"the host's neighbours are flushed", host("neigh flush nud permanent dev mv-int"), "neigh show nud permanent dev mv-int", "the host's neighbour entry for 172.16.26.1 was removed"},
		{"a VIP is removed", inside("address del 172.16.26.1/22 dev mv0"), "-n haproxy address show to 172.16.26.1", "VIP 172.16.26.1 was removed from mv0"},
		{"an IPv6 VIP is removed", inside("address del " + vip6 + "/64 dev mv0"), "-n haproxy address show to " + vip6, "VIP " + vip6 + " was removed from mv0"},
		{"the host's IPv6 routes are flushed", host("-6 route flush table local proto 118"), "-6 route get " + vip6, "the host's route to " + vip6 + " was removed by process "},
		{"mv0 is down", inside("link set mv0 down"), "-n haproxy link show mv0 up", "mv0 was taken down"},
		{"mv0 is deleted", inside("link del mv0"), "-n haproxy link show mv0", "mv0 was deleted"},
		{"mv0 is renamed", renamed("ip -n haproxy", "mv0"), "-n haproxy link show mv0", "mv0 was renamed other"},
		{"the service's routes are flushed", inside("route flush proto 118"), "-n haproxy -4 route show proto 118", "the service's route to 172.16.27.217 was removed"},
		{"the service's neighbours are flushed", inside("neigh flush nud permanent dev mv0"), "-n haproxy neigh show nud permanent dev mv0", "the service's neighbour entry for 172.16.27.217 was removed"},
		{"the host gets an address", host("address add 172.16.27.218/32 dev eth0"), "-n haproxy -4 route show 172.16.27.218 proto 118", "the host has got the address 172.16.27.218"},
		{"the namespace's name is removed", func() { l.Run(t, "ip netns delete haproxy") }, "-n haproxy link show mv0", "the name of the namespace was removed"},
	} {
		start := time.Now()
		c.spoil()
		testnet.Eventually(t, c.name+": it is right again", func() error {
			// As the machine sees it, where the namespaces' names are.
			out, err := l.Try("ip " + c.query)
			if err == nil && (out == "" || strings.Contains(c.query, "route get") && !strings.Contains(out, "dev mv-int")) {
				err = fmt.Errorf("%q", out)
			}
			return err
		})
		took = append(took, time.Since(start))
		t.Logf("%s: %s", c.name, took[len(took)-1].Round(10*time.Millisecond))
		l.says(t, "haproxy: ")
		l.says(t, c.says)
		l.Serves(t, dualStack...)
		if now := l.MainPID(t); now != pid {
			t.Fatalf("%s: haproxy was restarted", c.name)
		}
		l.settled(t)
		start = time.Now()
		l.Run(t, "systemctl reload systemd-netns@haproxy")
		reloads = append(reloads, time.Since(start))
	}
	slices.Sort(took)
	slices.Sort(reloads)
	t.Logf("median %s, of a reload %s", took[len(took)/2], reloads[len(reloads)/2])
	t.Run("it costs nothing", func(t *testing.T) { l.idle(t) })
	t.Run("addresses that come late, and move", func(t *testing.T) { l.lateAddresses(t) })
	t.Run("another holder", func(t *testing.T) { l.otherHolder(t) })
	t.Run("the cable is out", func(t *testing.T) { l.cableOut(t) })
	t.Run("nothing is heard of the LAN", func(t *testing.T) { l.unheard(t) })
	t.Run("again and again", func(t *testing.T) { l.againAndAgain(t) })
	t.Run("the journal is gone", func(t *testing.T) { l.withoutJournal(t) })
	if now := l.MainPID(t); now != pid {
		t.Fatal("haproxy was restarted")
	}
	t.Run("it goes with the last namespace", func(t *testing.T) {
		l.M.IP("address del 172.16.27.218/32 dev eth0")
		l.settled(t)
		l.Run(t, "systemctl stop haproxy")
		l.WantState(t, "systemd-netns-watch", "inactive")
		l.gone(t, before)
	})
	t.Run("without it", func(t *testing.T) {
		l.Run(t, "systemctl mask systemd-netns-watch")
		l.Run(t, "systemctl start haproxy")
		l.Serves(t, vip1)
		l.M.IP("link del mv-int")
		time.Sleep(time.Second)
		if out, err := l.M.TryIP("link show mv-int"); err == nil {
			t.Errorf("somebody has repaired it: %s", out)
		}
		l.Run(t, "systemctl reload systemd-netns@haproxy")
		l.Serves(t, vip1)
		// An undo that nobody hears is complete, too.
		l.M.MustRun(t, "sh", "-c", "(sleep 0.5; exec /usr/local/libexec/macvlan-vip/systemd-netns-helper undo haproxy) 2>&1 | true")
		if _, err := l.Try("test -e /var/lib/systemd-netns/haproxy"); err == nil {
			t.Error("an undo whose standard error is closed has left its record")
		}
		l.Run(t, "systemctl stop haproxy")
		l.gone(t, before)
	})
}

// withoutJournal: the keeper outlives the journal, to which its standard error leads.
func (l *lab) withoutJournal(t *testing.T) {
	const keeper, journal = "systemctl show -p MainPID --value systemd-netns-watch", "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service"
	l.settled(t)
	pid := l.Run(t, keeper)
	l.Run(t, "systemctl stop "+journal)
	defer l.Run(t, "systemctl start systemd-journald.service")
	for range 2 {
		l.M.IP("link del mv-int")
		testnet.Eventually(t, "mv-int is repaired", func() error { _, err := l.M.TryIP("link show mv-int"); return err })
		l.settled(t)
	}
	l.Serves(t, dualStack...)
	if now := l.Run(t, keeper); now != pid {
		t.Errorf("the keeper %s has ended; now: %s", pid, now)
	}
}

// unheard: of a port that nothing has come in by, check does not say that the LAN has no
// other holder.
func (l *lab) unheard(t *testing.T) {
	l.Peer.IP("link set port arp off")
	defer l.Peer.IP("link set port arp on")
	l.Peer.NFT("table inet silent { chain output { type filter hook output priority 0; policy drop; }; }")
	defer l.Peer.NFT("delete table inet silent")
	l.Run(t, "systemctl restart systemd-netns-watch")
	const doubt = "eth0 has received no frame of the LAN yet: its port may not forward"
	testnet.Eventually(t, "the keeper has a doubt", func() error {
		// The unit's status alone may still be that from before.
		if _, err := l.Try("test -s /run/systemd-netns/haproxy/doubt"); err != nil {
			return err
		}
		if out := l.Run(t, "systemctl show -p StatusText --value systemd-netns@haproxy"); !strings.Contains(out, doubt) {
			return fmt.Errorf("status: %q", out)
		}
		return nil
	})
	if f := l.finding(t, "haproxy", "duplicate-address"); !strings.Contains(f.Detail, doubt) {
		t.Errorf("%+v", f)
	}
}

// watched waits until the keeper watches one namespace.
func (l *lab) watched(t *testing.T) {
	t.Helper()
	testnet.Eventually(t, "the keeper watches", func() error {
		if out := l.Run(t, "systemctl show -p StatusText --value systemd-netns-watch"); !strings.HasPrefix(out, "1 namespaces are watched") {
			return fmt.Errorf("status: %q", out)
		}
		return nil
	})
}

// settled waits until no repair is under way.
func (l *lab) settled(t *testing.T) {
	t.Helper()
	time.Sleep(200 * time.Millisecond)
	l.WantState(t, "systemd-netns@haproxy", "active")
	time.Sleep(100 * time.Millisecond)
	l.WantState(t, "systemd-netns@haproxy", "active")
}

// idle asserts that the keeper computes nothing while nothing happens, and how
// much memory it takes.
func (l *lab) idle(t *testing.T) {
	pid := l.Run(t, "systemctl show -p MainPID --value systemd-netns-watch")
	ticks := func() string {
		f := strings.Fields(l.Run(t, "cat /proc/"+pid+"/stat"))
		return f[13] + "+" + f[14]
	}
	time.Sleep(time.Second)
	start := ticks()
	time.Sleep(3 * time.Second)
	if now := ticks(); now != start {
		t.Errorf("ticks of CPU time: %s became %s", start, now)
	}
	out := l.Run(t, "grep -E ^(VmRSS|RssAnon|RssFile|THP_enabled) /proc/"+pid+"/status")
	t.Log(out)
	var kB int
	if _, err := fmt.Sscanf(out, "VmRSS: %d kB", &kB); err != nil || kB > 10<<10 {
		t.Errorf("%s, %v", out, err)
	}
}

// lateAddresses: the service reaches addresses that the host gets by DHCP and from a
// router, and reaches one on the LAN when it has moved there.
func (l *lab) lateAddresses(t *testing.T) {
	const late = "172.16.27.219"
	// No default route of either kind.
	l.dnsmasq(t, peerAddr, slices.Concat(testlab.DHCPServer(late+","+late+",255.255.252.0"), testlab.RouterOn("port"),
		[]string{"--interface=port", "--dhcp-option=3", "--ra-param=port,0,0"})...)
	l.Write("etc/systemd/network/eth0.network", "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=yes\nKeepConfiguration=yes\n")
	l.Run(t, "systemctl start systemd-networkd")
	late6 := ""
	testnet.Eventually(t, "the host has the router's address", func() error {
		out, err := l.M.TryIP("-6 -o address show dev eth0 scope global dynamic -tentative")
		if fields := strings.Fields(out); len(fields) > 3 {
			late6, _, _ = strings.Cut(fields[3], "/")
			return nil
		}
		return fmt.Errorf("%w: %s", err, out)
	})
	way := func(addr string, want bool) {
		t.Helper()
		testnet.Eventually(t, fmt.Sprintf("the service has a way of its own to %s: %t", addr, want), func() error {
			family := "-4"
			if strings.Contains(addr, ":") {
				family = "-6"
			}
			out := l.Run(t, "ip -n haproxy "+family+" route show "+addr+" proto 118")
			if (out != "") != want {
				return fmt.Errorf("%q", out)
			}
			return nil
		})
	}
	for _, addr := range []string{late, late6} {
		way(addr, true)
		l.Run(t, "ip netns exec haproxy ping -c 1 -W 5 "+addr)
	}
	// Stopped alone, its socket would start it again.
	l.Run(t, "systemctl mask --runtime --now systemd-networkd")
	l.M.IP("-6 address flush dev eth0 dynamic")
	way(late6, false)
	l.M.IP("address flush dev eth0 to " + late)
	l.Peer.IP("address add " + late + "/32 dev port")
	way(late, false)
	l.Run(t, "ip netns exec haproxy ping -c 1 -W 5 "+late)
	l.Peer.IP("address del " + late + "/32 dev port")
	l.Serves(t, dualStack...)
}

// otherHolder: a station that begins to use a VIP is named in the journal, in the
// status of the unit, and by systemd-netns status.
func (l *lab) otherHolder(t *testing.T) {
	l.Peer.IP("address add " + vip1 + "/32 dev port")
	mac := strings.Fields(l.Peer.IP("-br link show port"))[2]
	l.Peer.Do(func() error { return announce("port", vip1) })
	said := "VIP " + vip1 + " is used by " + mac + ", too"
	l.says(t, "haproxy: "+said+": find that station by its MAC")
	for _, command := range []string{"systemctl show -p StatusText --value systemd-netns@haproxy", "systemctl show -p StatusText --value systemd-netns-watch", program + "status haproxy"} {
		testnet.Eventually(t, command+" names the other holder", func() error {
			if out := l.Run(t, command); !strings.Contains(out, said) {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
	if f := l.finding(t, "haproxy", "duplicate-address"); f.OK || !strings.Contains(f.Detail, vip1+" is ") || !strings.Contains(f.Detail, mac) {
		t.Errorf("%+v", f)
	}
	// It answers no more, but the keeper has heard it.
	l.Peer.IP("address del " + vip1 + "/32 dev port")
	if f := l.finding(t, "haproxy", "duplicate-address"); f.OK || !strings.Contains(f.Detail, said) {
		t.Errorf("%+v", f)
	}
}

// cableOut: without a carrier the unit says what is true, and is not said to have
// failed; with one again it says so, too.
func (l *lab) cableOut(t *testing.T) {
	l.M.MustSetCarrier(t, 0, false)
	const says = "eth0 has no carrier, so nobody reaches the"
	for _, command := range []string{"systemctl show -p StatusText --value systemd-netns@haproxy", program + "status haproxy"} {
		testnet.Eventually(t, command+" speaks of the carrier", func() error {
			if out, _ := l.Try(command); !strings.Contains(out, says) {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
	l.WantState(t, "systemd-netns@haproxy", "active")
	l.M.MustSetCarrier(t, 0, true)
	// A container's cable is out when the peer's end is down, which takes that address.
	l.Peer.IP("address replace " + peerAddr6 + "/64 dev port nodad")
	testnet.Eventually(t, "the unit speaks of no carrier any more", func() error {
		if out := l.Run(t, "systemctl show -p StatusText --value systemd-netns@haproxy"); strings.Contains(out, says) {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	l.Serves(t, dualStack...)
}

// againAndAgain: who breaks the same thing each time is given way to, by name.
func (l *lab) againAndAgain(t *testing.T) {
	testnet.Eventually(t, "the keeper gives way", func() error {
		l.Run(t, "ip -n haproxy address del 172.16.26.2/22 dev mv0")
		l.says(t, "VIP 172.16.26.2 was removed from mv0 by process ")
		out, err := l.Try("journalctl --no-pager -o cat -t systemd-netns")
		if err == nil && !strings.Contains(out, "; the next one is in ") {
			testnet.Eventually(t, "it is repaired", func() error {
				if out := l.Run(t, "ip -n haproxy address show to 172.16.26.2"); out == "" {
					return errors.New("it is not")
				}
				return nil
			})
			l.settled(t)
			return errors.New("once more")
		}
		return err
	})
	l.Serves(t, dualStack...)
}

// announce sends gratuitous ARP out of a link of the calling thread's namespace.
func announce(link, addr string) error {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	c, err := arp.Dial(ifi)
	if err != nil {
		return err
	}
	defer c.Close()
	a := netip.MustParseAddr(addr)
	p, err := arp.NewPacket(arp.OperationRequest, ifi.HardwareAddr, a, make(net.HardwareAddr, 6), a)
	if err != nil {
		return err
	}
	return c.WriteTo(p, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
}

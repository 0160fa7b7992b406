package lan

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"macvlan-vip/tests/testnet"
)

// behindHost is an address that the host has a route to, and answers for by proxy_arp.
var behindHost = netip.MustParseAddr("172.17.0.2")

// loose sets all that makes a host answer, and deliver, through every link.
func (s *station) loose() {
	for key, value := range map[string]string{
		"ipv4/conf/%s/proxy_arp": "1", "ipv4/conf/%s/rp_filter": "0", "ipv4/conf/%s/arp_filter": "0", "ipv4/conf/%s/forwarding": "1",
		"ipv6/conf/%s/forwarding": "1", "ipv6/conf/%s/proxy_ndp": "1",
	} {
		for _, which := range []string{"all", "default"} {
			s.Sysctl("net/"+fmt.Sprintf(key, which), value)
		}
	}
	// An answer by proxy comes up to 0.8 s later otherwise.
	s.Sysctl("net/ipv4/neigh/eth0/proxy_delay", "0")
	s.Sysctl("net/ipv6/neigh/eth0/proxy_delay", "0")
	// Of all and the link's own the larger number counts, and 3 means "answer".
	s.Sysctl("net/ipv4/conf/all/arp_ignore", "3")
	s.IP("link add containers type bridge")
	s.IP("link set containers up")
	s.AddAddress("containers", "172.17.0.1/16")
}

// TestHostSideIsSilent: whatever the host's sysctls are, and whoever made
// mv-int, it answers nobody on the LAN, and delivers nothing a second time,
// while host and VIP reach each other.
func TestHostSideIsSilent(t *testing.T) {
	t.Parallel()
	for name, made := range map[string]func(host *station){
		"made by ADD": func(*station) {},
		"of an earlier version": func(host *station) {
			host.IP("link add mv-int link eth0 type macvlan mode bridge")
			host.Do(func() error {
				link, err := netlink.LinkByName("mv-int")
				if err != nil {
					return err
				}
				return netlink.LinkSetAlias(link, "macvlan-vip: host side of eth0")
			})
			host.IP("link set mv-int up")
			host.IP("neigh add 10.0.0.77 lladdr 02:00:00:00:00:77 dev mv-int nud permanent")
		},
		"made by hand": func(host *station) {
			host.IP("link add mv-int link eth0 type macvlan mode bridge")
			host.IP("link set mv-int up")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			host, peer := l.station(), l.station("10.0.0.5/16", "2001:db8::5/64")
			host.loose()
			host.AddAddress("eth0", "10.0.0.1/16")
			host.AddAddress("eth0", "2001:db8::1/64")
			host.IP("-6 neigh add proxy 2001:db8::77 dev eth0")
			peer.IP("route add 172.17.0.0/16 dev eth0")
			made(host)
			sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
			sv.mustAdd(t)
			for _, rpFilter := range []string{"0", "1", "2"} {
				host.Sysctl("net/ipv4/conf/all/rp_filter", rpFilter)
				silent(t, host, peer)
				host.pings(t, sv.vips...)
				for _, addr := range []netip.Addr{host4, host6} {
					if err := sv.Service.Ping(addr); err != nil {
						t.Error(err)
					}
				}
			}
			if err := sv.check(); err != nil {
				t.Error(err)
			}
			if name == "of an earlier version" && neighbours(host.Namespace, "mv-int")[netip.MustParseAddr("10.0.0.77")] == "" {
				t.Error("another service's neighbour entry is gone")
			}
		})
	}
}

// silent: for what the peer asks nobody but the uplink answers, and what it
// sends to all comes once.
func silent(t *testing.T, host, peer *station) {
	t.Helper()
	answers, heard := host.lan.ask(t, host, peer)
	uplink := macOf(host.Namespace, "eth0")
	for addr, macs := range answers {
		for mac := range macs {
			if mac != uplink {
				t.Errorf("%s is answered for by %s, and not by the uplink %s alone", addr, mac, uplink)
			}
		}
	}
	for _, addr := range []netip.Addr{host4, host6, behindHost, proxied} {
		if answers[addr][uplink] == 0 {
			t.Errorf("nobody answers for %s", addr)
		}
	}
	for _, to := range []string{"10.0.255.255", "255.255.255.255", "224.0.0.1"} {
		if heard[to] != 1 {
			t.Errorf("what was sent to %s came %d times", to, heard[to])
		}
	}
}

// proxied is an address that the host answers for by proxy_ndp.
var proxied = netip.MustParseAddr("2001:db8::77")

// ask has a peer ask for the host's addresses, mv-int's own, and what is
// behind the host, and send something to everybody. It gives the MACs that
// answered, and how often the host heard it.
func (l *lan) ask(t *testing.T, host, peer *station) (answers map[netip.Addr]map[string]int, heard map[string]int) {
	t.Helper()
	const port = 9100
	received := make(chan string, 100)
	var conn net.PacketConn
	host.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		go func() {
			defer close(received)
			buf := make([]byte, 100)
			for {
				n, _, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				received <- string(buf[:n])
			}
		}()
		return nil
	})
	seen := host.capture()
	peer.IP("neigh flush dev eth0")
	asked := []netip.Addr{host4, host6, behindHost, proxied, linkLocal(t, host.Namespace, "mv-int").WithZone(index(t, peer.Namespace, "eth0"))}
	for _, addr := range asked {
		peer.say(t, netip.AddrPortFrom(addr, port), "")
	}
	for _, to := range []string{"10.0.255.255", "255.255.255.255", "224.0.0.1"} {
		peer.say(t, netip.AddrPortFrom(netip.MustParseAddr(to), port), to)
	}
	time.Sleep(2 * settle)
	conn.Close()
	heard = map[string]int{}
	for what := range received {
		heard[what]++
	}
	answers = map[netip.Addr]map[string]int{}
	for _, addr := range asked {
		addr = addr.WithZone("")
		_, answers[addr] = dialogue(seen, addr)
	}
	return answers, heard
}

// index is a link's index, as a zone: Go remembers what zones' names stood for in
// another namespace.
func index(t *testing.T, n *testnet.Namespace, link string) (zone string) {
	t.Helper()
	n.Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err == nil {
			zone = strconv.Itoa(ifi.Index)
		}
		return err
	})
	return zone
}

// say sends a datagram.
func (s *station) say(t *testing.T, to netip.AddrPort, what string) {
	t.Helper()
	from := netip.AddrPort{}
	if to.Addr().Is4() {
		from = netip.AddrPortFrom(netip.MustParseAddr(strings.Fields(s.IP("-4 -o address show dev eth0"))[3][:len("10.0.0.5")]), 0)
	} else {
		from = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	s.Do(func() error {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(what))
		return err
	})
}

// TestHostSideThatTalks shows that TestHostSideIsSilent could find something.
func TestHostSideThatTalks(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station(), l.station("10.0.0.5/16", "2001:db8::5/64")
	host.loose()
	host.AddAddress("eth0", "10.0.0.1/16")
	host.AddAddress("eth0", "2001:db8::1/64")
	peer.IP("route add 172.17.0.0/16 dev eth0")
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
	sv.mustAdd(t)
	host.IP("link set mv-int arp on")
	for key, value := range map[string]string{"rp_filter": "0", "medium_id": "0", "arp_ignore": "0"} {
		host.Sysctl("net/ipv4/conf/mv-int/"+key, value)
	}
	err := sv.check()
	for _, part := range []string{"link mv-int: ARP is on, not off", "rp_filter >= 1: is 0", "medium_id = -1: is 0", "arp_ignore = 1: is 0"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("CHECK does not say %q: %v", part, err)
		}
	}
	own := macOf(host.Namespace, "mv-int")
	answers, heard := l.ask(t, host, peer)
	if answers[host4][own] == 0 || heard["10.0.255.255"] != 2 {
		t.Errorf("answers %v, heard %v: what is looked for does not happen here anyway", answers, heard)
	}
	sv.mustAdd(t)
	silentOrProxied(t, host, peer, own)
	host.pings(t, sv.vips...)
}

// silentOrProxied is silent on a host without the proxied address.
func silentOrProxied(t *testing.T, host, peer *station, own string) {
	t.Helper()
	answers, heard := host.lan.ask(t, host, peer)
	for addr, macs := range answers {
		if macs[own] != 0 {
			t.Errorf("mv-int answers for %s", addr)
		}
	}
	if heard["10.0.255.255"] != 1 {
		t.Errorf("heard %v", heard)
	}
}

// TestHandMadeStationIsKept: a mv-int with an address of its own is a station
// that others talk to. It answers for that, and for nothing else.
func TestHandMadeStationIsKept(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station(), l.station("10.0.0.5/16", "2001:db8::5/64")
	host.loose()
	host.Sysctl("net/ipv4/conf/all/arp_ignore", "0")
	host.AddAddress("eth0", "10.0.0.1/16")
	host.AddAddress("eth0", "2001:db8::1/64")
	host.IP("link add mv-int link eth0 type macvlan mode bridge")
	host.IP("link set mv-int up")
	host.AddAddress("mv-int", "10.0.0.2/32")
	peer.IP("route add 172.17.0.0/16 dev eth0")
	sv := host.service("c1", quick, "10.0.0.10/16")
	sv.mustAdd(t)
	own, uplink := macOf(host.Namespace, "mv-int"), macOf(host.Namespace, "eth0")
	seen := host.capture()
	peer.pings(t, netip.MustParseAddr("10.0.0.2"))
	answers, _ := l.ask(t, host, peer)
	if answers[host4][own] != 0 || answers[behindHost][own] != 0 || answers[host4][uplink] == 0 || answers[behindHost][uplink] == 0 {
		t.Errorf("mv-int is %s; answers: %v", own, answers)
	}
	if _, answers := dialogue(seen, netip.MustParseAddr("10.0.0.2")); answers[own] == 0 {
		t.Errorf("mv-int's own address is answered for by %v", answers)
	}
	host.pings(t, sv.vips...)
	if err := sv.check(); err != nil {
		t.Error(err)
	}
}

// TestTwoOnOneMaster: two attachments in one netns on one master. For each VIP
// its own link answers, and no other.
func TestTwoOnOneMaster(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.5/16", "2001:db8::5/64")
	one := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
	two := host.service("c2", quick, "10.0.0.11/16", "2001:db8::11/64")
	two.Service, two.IfName = one.Service, "mv1"
	one.mustAdd(t)
	two.mustAdd(t)
	seen := host.capture()
	for range 3 {
		peer.IP("neigh flush dev eth0")
		peer.pings(t, one.vips...)
		peer.pings(t, two.vips...)
	}
	for _, sv := range []*service{one, two} {
		for _, vip := range sv.vips {
			if _, answers := dialogue(seen, vip); len(answers) != 1 || answers[sv.mac] == 0 {
				t.Errorf("%s is answered for by %v, want %s alone", vip, answers, sv.mac)
			}
		}
	}
}

package lan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"

	"macvlan-vip/tests/testnet"
)

var host4, host6 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")

// openARP sets everything that would keep a host from answering ARP for an
// address of another link to its most permissive value.
func (s *station) openARP() {
	for _, key := range []string{"arp_ignore", "arp_filter", "arp_announce", "rp_filter"} {
		s.Sysctl("net/ipv4/conf/all/"+key, "0")
		s.Sysctl("net/ipv4/conf/default/"+key, "0")
	}
}

// TestHostKeepsItsMAC: whatever passes between the host and its VIPs, the LAN
// sees the host's addresses at the uplink's MAC and nowhere else.
func TestHostKeepsItsMAC(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station(), l.station("10.0.0.5/16", "2001:db8::5/64")
	host.openARP()
	host.AddAddress("eth0", "10.0.0.1/16")
	host.AddAddress("eth0", "2001:db8::1/64")
	uplink := macOf(host.Namespace, "eth0")
	seen := host.capture()
	peer.pings(t, host4, host6)
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
	sv.mustAdd(t)
	sv.Service.Echo(echoPort, sv.vips...)
	for _, flush := range []string{"", "neigh flush all", "neigh flush dev mv-int"} {
		if flush != "" {
			host.IP(flush)
			_, _ = sv.Service.TryIP("neigh flush all")
		}
		host.uses(t, sv)
		if have := neighbours(peer.Namespace, "eth0"); have[host4] != uplink || have[host6] != uplink {
			t.Errorf("after %q the peer has the host at %s and %s, not %s", flush, have[host4], have[host6], uplink)
		}
	}
	// All who ask for the host's addresses get one answer.
	for range 3 {
		peer.IP("neigh flush dev eth0")
		peer.pings(t, host4, host6)
	}
	for _, addr := range []netip.Addr{host4, host6} {
		asked, answers := dialogue(seen, addr)
		// On a busy machine one may be asked for again before it has answered.
		if got := answers[uplink]; got < 3 || got > asked || len(answers) != 1 {
			t.Errorf("%s was asked for %d times and answered for by %v, want as often by %s alone", addr, asked, answers, uplink)
		}
	}
	hostSpeaksFrom(t, seen, uplink)
	if err := sv.check(); err != nil {
		t.Error(err)
	}

	// What keeps the second answer away are settings that CHECK knows.
	host.IP("link set mv-int arp on")
	host.Sysctl("net/ipv4/conf/mv-int/rp_filter", "0")
	host.Sysctl("net/ipv4/conf/mv-int/arp_ignore", "0")
	if err := sv.check(); err == nil || !strings.Contains(err.Error(), "arp_ignore") {
		t.Errorf("CHECK without arp_ignore on mv-int: %v", err)
	}
	eventually(t, func() error {
		peer.IP("neigh flush dev eth0")
		peer.pings(t, host4, host6)
		if _, answers := dialogue(seen, host4); len(answers) != 2 {
			return fmt.Errorf("without arp_ignore on mv-int only %v answered: what this test looks for does not happen here anyway", answers)
		}
		return nil
	})
}

// pings sends each address a ping.
func (s *station) pings(t *testing.T, addrs ...netip.Addr) {
	t.Helper()
	for _, addr := range addrs {
		if err := s.Ping(addr); err != nil {
			t.Error(err)
		}
	}
}

// uses reaches the service's VIPs in every way.
func (s *station) uses(t *testing.T, sv *service) {
	t.Helper()
	s.pings(t, sv.vips...)
	for _, vip := range sv.vips {
		for _, network := range []string{"tcp", "udp"} {
			if _, err := s.Ask(network, vip, echoPort); err != nil {
				t.Error(err)
			}
		}
	}
}

// dialogue counts how often an address was asked for, and who answered.
func dialogue(seen *testnet.Capture, addr netip.Addr) (asked int, answers map[string]int) {
	answers = map[string]int{}
	for _, c := range seen.Claims() {
		switch {
		case c.Addr != addr:
		case c.Kind == testnet.Ask:
			asked++
		case c.Kind != testnet.Probe:
			answers[c.MAC]++
		}
	}
	return asked, answers
}

// hostSpeaksFrom looks for ARP and NDP that says that the host's addresses
// are elsewhere.
func hostSpeaksFrom(t *testing.T, seen *testnet.Capture, mac string) {
	t.Helper()
	for _, c := range seen.Claims() {
		if (c.From == host4 || c.From == host6) && c.MAC != mac {
			t.Errorf("%s for %s from %s at %s, not %s", c.Kind, c.Addr, c.From, c.MAC, mac)
		}
	}
}

// TestEveryAddressOfTheHost: the service talks to all of them, also to those
// that the kernel calls secondary, and the host from all of them.
func TestEveryAddressOfTheHost(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host := l.station("10.0.0.1/16", "10.0.0.2/16", "2001:db8::1/64", "2001:db8::2/64")
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
	sv.mustAdd(t)
	for _, addr := range []string{"10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"} {
		vip := sv.vips[0]
		if strings.Contains(addr, ":") {
			vip = sv.vips[1]
		}
		if err := host.Ping(vip, "-I", addr); err != nil {
			t.Error(err)
		}
		if err := sv.Service.Ping(netip.MustParseAddr(addr)); err != nil {
			t.Error(err)
		}
	}
}

// TestHostAddressMoves: an address that leaves the host for another station, as
// a VRRP address does, is reached there by the service after one repair, and
// at the host again when it is back.
func TestHostAddressMoves(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, other := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.2/16", "2001:db8::2/64")
	floating := []netip.Addr{parse("10.0.0.9"), parse("2001:db8::9")}
	at := map[*station]string{host: "the host", other: "the other station"}
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
	for i, s := range []*station{host, other, host} {
		for _, addr := range floating {
			host.TryIP(fmt.Sprintf("address del %s/%d dev eth0", addr, addr.BitLen()))
			other.TryIP(fmt.Sprintf("address del %s/%d dev eth0", addr, addr.BitLen()))
			s.AddAddress("eth0", fmt.Sprintf("%s/%d", addr, addr.BitLen()))
		}
		if err := sv.check(); i > 0 && (err == nil || !strings.Contains(err.Error(), "10.0.0.9") || !strings.Contains(err.Error(), "2001:db8::9")) {
			t.Errorf("CHECK with the address at %s: %v", at[s], err)
		}
		sv.mustAdd(t)
		if err := sv.check(); err != nil {
			t.Errorf("after a repair: %v", err)
		}
		for _, addr := range floating {
			s.Echo(echoPort+i, addr)
			if _, err := sv.Service.Ask("tcp", addr, echoPort+i); err != nil {
				t.Errorf("%s, which is at %s: %v", addr, at[s], err)
			}
		}
		host.pings(t, sv.vips...)
	}
}

// TestLinkLocalVIPs: each of a host's LANs can have the same one.
func TestLinkLocalVIPs(t *testing.T) {
	t.Parallel()
	w := newTwoLANs(t, func(*testnet.Namespace) {})
	vip := parse("fe80::10")
	var services [2]*service
	for i := range services {
		services[i] = w.host.service(fmt.Sprintf("c%d", i), quick, "fe80::10/64")
		services[i].chain = testnet.NewChain(t, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan%d", "plugins": [
			{"type": "macvlan-vip", "master": "eth%d", "hostInterface": "mv-int%d", %s, "ipam": {"type": "static", "addresses": [{"address": "fe80::10/64"}]}},
			{"type": "hairpin-route"}]}`, i, i, i, quick))
		services[i].mustAdd(t)
	}
	reach := func(i int) {
		t.Helper()
		if err := w.host.Ping(vip, "-I", fmt.Sprintf("mv-int%d", i)); err != nil {
			t.Error(err)
		}
		// Without an address of its own link it would ask from none.
		eventually(t, func() error {
			if w.peers[i].IP("-6 -o address show dev eth0 scope link -tentative") == "" {
				return errors.New("the peer has no link-local address yet")
			}
			return nil
		})
		if err := w.peers[i].Ping(vip, "-I", "eth0"); err != nil {
			t.Error(err)
		}
		if err := services[i].check(); err != nil {
			t.Error(err)
		}
	}
	reach(0)
	reach(1)
	services[1].mustAdd(t)
	if err := services[0].chain.Del(services[0].Attachment); err != nil {
		t.Error(err)
	}
	reach(1)
}

// TestRouterAdvertisements: a router on the LAN configures the host's uplink,
// as before, but neither the host through mv-int nor the service.
func TestRouterAdvertisements(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer, router := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.5/16", "2001:db8::5/64"), l.station()
	router.advertise(t)
	usable := func() error {
		if host.IP("-6 address show dev eth0 dynamic -tentative") == "" {
			return errors.New("the host's address of the router's is not usable yet")
		}
		return configuredBy(host.Namespace, "eth0")
	}
	eventually(t, usable)
	seen := host.capture()
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
	sv.mustAdd(t)
	host.IP("address flush dev eth0 dynamic")
	eventually(t, usable)
	eventually(t, func() error { return advertised(seen, 20) })
	// Through the same queue as the advertisements, to both macvlans:
	peer.IP("neigh flush dev eth0")
	if err := peer.Ping(sv.vips[0]); err != nil {
		t.Error(err)
	}
	if out := host.IP("-6 address show dev mv-int scope global"); out != "" {
		t.Errorf("mv-int has\n%s", out)
	}
	if out := sv.Service.IP("-6 -o address show scope global"); strings.Count(out, "\n") != 1 || strings.Contains(out, "dynamic") {
		t.Errorf("the service has\n%s", out)
	}
	if out := host.IP("-6 route show dev mv-int") + sv.Service.IP("-6 route show"); strings.Contains(out, "proto ra") || strings.Contains(out, "2001:db8:77::/64") {
		t.Errorf("routes:\n%s", out)
	}
	uplink := macOf(host.Namespace, "eth0")
	for _, f := range seen.Frames() {
		if f.Layer(layers.LayerTypeICMPv6RouterSolicitation) == nil {
			continue
		}
		if mac := f.LinkLayer().(*layers.Ethernet).SrcMAC.String(); mac != uplink && mac != macOf(router.Namespace, "eth0") && mac != macOf(peer.Namespace, "eth0") {
			t.Errorf("%s asks for a router", mac)
		}
	}
	if err := sv.check(); err != nil {
		t.Error(err)
	}
}

// advertise sends router advertisements until the test ends.
func (s *station) advertise(t *testing.T) {
	t.Helper()
	s.AddAddress("eth0", "fe80::1/64")
	frame := routerAdvertisement(t, macOf(s.Namespace, "eth0"))
	wire := s.Wire("eth0")
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			_, _ = wire.WriteTo(frame, &packet.Addr{HardwareAddr: allNodesMAC})
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		wg.Wait()
	})
}

var allNodesMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}

// routerAdvertisement is one that offers addresses and a default route.
func routerAdvertisement(t *testing.T, from string) []byte {
	t.Helper()
	mac, err := net.ParseMAC(from)
	if err != nil {
		t.Fatal(err)
	}
	src, dst := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1")
	body, err := ndp.MarshalMessageChecksum(&ndp.RouterAdvertisement{
		RouterLifetime: 30 * time.Minute,
		Options: []ndp.Option{
			&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac},
			&ndp.PrefixInformation{
				PrefixLength: 64, Prefix: netip.MustParseAddr("2001:db8:77::"), OnLink: true, AutonomousAddressConfiguration: true,
				ValidLifetime: time.Hour, PreferredLifetime: time.Hour,
			},
		},
	}, src, dst)
	if err != nil {
		t.Fatal(err)
	}
	frame := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(frame, gopacket.SerializeOptions{FixLengths: true},
		&layers.Ethernet{SrcMAC: mac, DstMAC: allNodesMAC, EthernetType: layers.EthernetTypeIPv6},
		&layers.IPv6{Version: 6, HopLimit: ndp.HopLimit, NextHeader: layers.IPProtocolICMPv6, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()},
		gopacket.Payload(body)); err != nil {
		t.Fatal(err)
	}
	return frame.Bytes()
}

func configuredBy(n *testnet.Namespace, link string) error {
	out := n.IP("-6 address show dev "+link+" dynamic") + n.IP("-6 route show default dev "+link)
	if !strings.Contains(out, "2001:db8:77:") || !strings.Contains(out, "default via fe80::1") {
		return fmt.Errorf("the router does not configure %s:\n%s", link, out)
	}
	return nil
}

func advertised(seen *testnet.Capture, want int) error {
	n := 0
	for _, f := range seen.Frames() {
		if f.Layer(layers.LayerTypeICMPv6RouterAdvertisement) != nil {
			n++
		}
	}
	if n < want {
		return fmt.Errorf("%d router advertisements", n)
	}
	return nil
}

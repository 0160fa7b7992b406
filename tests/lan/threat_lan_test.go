package lan

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"macvlan-vip/tests/testnet"
)

// TestThreatForgedFrames: what a service with CAP_NET_RAW sends in others'
// names reaches the LAN, and misleads it, unless the host filters its uplink.
func TestThreatForgedFrames(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	th.peer.pings(t, routerAddr, routerAddr6)
	router := macOf(th.router.Namespace, "eth0")
	th.send(arpSays(layers.ARPRequest, routerAddr, mac(t, webMAC), broadcastMAC)...)
	th.at(th.peer.Namespace, "eth0", routerAddr, webMAC)
	th.sendRaw(th.advertisement(routerAddr6))
	th.at(th.peer.Namespace, "eth0", routerAddr6, webMAC)
	seen := th.host.capture()
	th.forge()
	eventually(t, func() error {
		if lies := forged(seen); len(lies) != 7 {
			return fmt.Errorf("%d of 7 forged frames left the host: %q", len(lies), lies)
		}
		return nil
	})

	if !testnet.Linux(t, 5, 16) {
		if err := th.host.TryNFT(th.rules("Filter the uplink")); err == nil {
			t.Error("the kernel has the egress hook: the page says that it came with 5.16")
		}
		return
	}
	th.peer.IP("neigh flush dev eth0")
	th.peer.pings(t, routerAddr, routerAddr6)
	th.load(th.host.Namespace, "Filter the uplink")
	seen = th.host.capture()
	// A packet socket's frames are of the protocol that its owner names.
	for _, th.protocol = range []int{unix.ETH_P_ALL, unix.ETH_P_LOOP, unix.ETH_P_IP} {
		th.forge()
	}
	th.wellBehaved()
	if lies := forged(seen); len(lies) != 0 {
		t.Errorf("forged frames left the host through its filter: %q", lies)
	}
	th.at(th.peer.Namespace, "eth0", routerAddr, router)
	th.at(th.peer.Namespace, "eth0", routerAddr6, router)
	if err := th.web.check(); err != nil {
		t.Error(err)
	}
}

// TestThreatSwitchPort: a switch that lets only known MACs in at the host's
// port keeps forged senders out.
func TestThreatSwitchPort(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	router := macOf(th.router.Namespace, "eth0")
	th.peer.pings(t, routerAddr)
	secure(th.host, hostMAC, webMAC, otherMAC)
	seen := th.peer.capture()
	th.send(arpSays(layers.ARPReply, routerAddr, strangeMAC, broadcastMAC)...)
	th.wellBehaved()
	if lies := forged(seen); len(lies) != 0 {
		t.Errorf("the switch let in %q", lies)
	}
	th.at(th.peer.Namespace, "eth0", routerAddr, router)
	// Its own MAC is a known one, so what it says about others gets through.
	th.send(arpSays(layers.ARPRequest, routerAddr, mac(t, webMAC), broadcastMAC)...)
	th.at(th.peer.Namespace, "eth0", routerAddr, webMAC)
}

// secure has the switch drop, at a station's port, what comes from other MACs.
func secure(s *station, macs ...string) {
	s.lan.t.Helper()
	s.lan.fabric.NFT(fmt.Sprintf(`table netdev security { chain %s {
		type filter hook ingress device %s priority 0; policy accept;
		ether saddr != { %s } drop
	}; }`, s.port, s.port, strings.Join(macs, ", ")))
}

// TestThreatPoisonHost: what a service says about others moves none of the
// host's own neighbours, neither on mv-int nor on the uplink.
func TestThreatPoisonHost(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	th.host.pings(t, routerAddr, routerAddr6, otherVIP, otherVIP6)
	router, mvInt := macOf(th.router.Namespace, "eth0"), macOf(th.host.Namespace, "mv-int")
	own := mac(t, webMAC)
	for _, to := range []string{broadcastMAC.String(), hostMAC, mvInt} {
		for _, op := range []uint16{layers.ARPReply, layers.ARPRequest} {
			for _, addr := range []string{"192.0.2.20", "192.0.2.1", "192.0.2.2", "192.0.2.77"} {
				th.send(arpSays(op, parse(addr), own, mac(t, to))...)
			}
		}
	}
	for _, addr := range []string{"2001:db8::20", "2001:db8::1", "2001:db8::2", "2001:db8::77"} {
		th.sendRaw(th.advertisement(parse(addr)))
	}
	time.Sleep(settle)
	th.at(th.host.Namespace, "mv-int", otherVIP, otherMAC)
	th.at(th.host.Namespace, "mv-int", otherVIP6, otherMAC)
	th.at(th.host.Namespace, "eth0", routerAddr, router)
	th.at(th.host.Namespace, "eth0", routerAddr6, router)
	for addr, at := range neighbours(th.host.Namespace, "mv-int") {
		if want := map[string]string{webVIP.String(): webMAC, webVIP6.String(): webMAC, otherVIP.String(): otherMAC, otherVIP6.String(): otherMAC}; want[addr.String()] != at {
			t.Errorf("mv-int has learned that %s is at %s", addr, at)
		}
	}
	// Nor has the other service forgotten where the host is.
	th.at(th.other.Service, "mv0", hostAddr, mvInt)
	th.at(th.other.Service, "mv0", hostAddr6, mvInt)
	if err := th.other.check(); err != nil {
		t.Error(err)
	}
	// The LAN believes what it was told about the host.
	th.at(th.router.Namespace, "eth0", hostAddr, webMAC)
	th.router.IP("neigh flush dev eth0")
	th.peer.IP("neigh flush dev eth0")
	th.wellBehaved()

	// Asking mv-int for the host's address brings no answer.
	seen := th.web.Service.Capture("mv0")
	th.web.Service.IP("neigh del 192.0.2.2 dev mv0")
	th.web.Service.IP("route del 192.0.2.2 dev mv0")
	if err := th.web.Service.Ping(hostAddr); err == nil {
		t.Error("without the permanent entry the service still finds the host")
	}
	if _, answers := dialogue(seen, hostAddr); len(answers) != 0 {
		t.Errorf("%v answer for the host", answers)
	}
}

// TestThreatTakeOverVIP: a service that gives itself another's VIP gets what
// LAN peers send there, but nothing from the host, and keeps the other from
// starting again.
func TestThreatTakeOverVIP(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	th.peer.pings(t, otherVIP, otherVIP6)
	th.at(th.peer.Namespace, "eth0", otherVIP, otherMAC)
	th.web.Service.AddAddress("mv0", "192.0.2.20/24")
	th.web.Service.AddAddress("mv0", "2001:db8::20/64")
	// arp_notify and ndisc_notify announce what comes by a link that goes up.
	th.web.Service.IP("link set mv0 down")
	th.web.Service.IP("link set mv0 up")
	th.at(th.peer.Namespace, "eth0", otherVIP, webMAC)

	seen := th.other.Service.Capture("mv0")
	th.host.pings(t, otherVIP, otherVIP6)
	if got := echoes(seen); got < 2 {
		t.Errorf("of the host's two pings %d came to the service that has the VIP", got)
	}
	th.at(th.host.Namespace, "mv-int", otherVIP, otherMAC)

	if err := th.other.chain.Del(th.other.Attachment); err != nil {
		t.Fatal(err)
	}
	if err := th.other.add(); code(err) != 100 || !strings.Contains(err.Error(), webMAC) {
		t.Errorf("ADD of the other service: %v, want a conflict with %s", err, webMAC)
	}
	th.web.Service.IP("address del 192.0.2.20/24 dev mv0")
	th.web.Service.IP("address del 2001:db8::20/64 dev mv0")
	th.other.mustAdd(t)
	th.at(th.peer.Namespace, "eth0", otherVIP, otherMAC)
}

// echoes counts the echo requests of either family.
func echoes(seen *testnet.Capture) (n int) {
	for _, f := range seen.Frames() {
		m, is4 := f.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		if is4 && m.TypeCode.Type() == layers.ICMPv4TypeEchoRequest || f.Layer(layers.LayerTypeICMPv6Echo) != nil && !is4 {
			n++
		}
	}
	return n
}

// TestThreatRouterAdvertisements: a service that plays the router configures
// those on the LAN who listen, but neither its host nor another service.
func TestThreatRouterAdvertisements(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	ra := routerAdvertisement(t, webMAC)
	th.peer.IP("-6 address show dev eth0")
	eventually(t, func() error {
		th.sendRaw(ra)
		return configuredBy(th.peer.Namespace, "eth0")
	})
	for _, n := range []*testnet.Namespace{th.host.Namespace, th.other.Service} {
		if out := n.IP("-6 address show dynamic") + n.IP("-6 route show proto ra"); out != "" {
			t.Errorf("the router that web plays configures\n%s", out)
		}
	}
}

// TestThreatMAC: a service can't take the MAC of its host, of mv-int or of
// another service, but it can take the router's, and then other services'
// frames for the router come to it. The host's own are not affected.
func TestThreatMAC(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	web := th.web.Service
	for _, taken := range []string{hostMAC, macOf(th.host.Namespace, "mv-int"), otherMAC} {
		if _, err := web.TryIP("link set mv0 address " + taken); err == nil {
			t.Errorf("mv0 took the MAC %s", taken)
		}
		if _, err := web.TryIP("link add link mv0 name two address " + taken + " up type macvlan mode bridge"); err == nil {
			t.Errorf("a second macvlan took the MAC %s", taken)
		}
		_, _ = web.TryIP("link del two")
	}
	router := macOf(th.router.Namespace, "eth0")
	th.divert(router)
	if err := th.other.Service.Ping(routerAddr); err == nil {
		t.Error("the other service reaches the router all the same")
	}
	th.host.pings(t, routerAddr)
	web.IP("link del two")
	if err := th.other.Service.Ping(routerAddr); err != nil {
		t.Error(err)
	}
}

// divert gives the taken-over service a second macvlan with the router's MAC,
// once the other service has spoken to the router.
func (th *threat) divert(router string) {
	th.Helper()
	if err := th.other.Service.Ping(routerAddr); err != nil {
		th.Fatal(err)
	}
	th.at(th.other.Service, "mv0", routerAddr, router)
	// Silently: what it says would have the switch look for the router here.
	th.web.Service.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	th.web.Service.IP("link add link mv0 name two address " + router + " type macvlan mode bridge")
	th.web.Service.IP("link set two up")
}

// TestThreatPrivateMode: in mode private the services are cut off from each
// other, and their frames to the router can't be diverted.
func TestThreatPrivateMode(t *testing.T) {
	t.Parallel()
	th := newThreatLAN(t)
	for id, vip := range map[string]string{"web": "192.0.2.10/24", "other": "192.0.2.20/24"} {
		sv := th.host.service(id, quick, vip)
		sv.chain = testnet.NewChain(t, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "plugins": [{"type": "macvlan-vip",
			"master": "eth0", "mode": "private", %s, "ipam": {"type": "static", "addresses": [{"address": %q}]}}]}`, quick, vip))
		sv.mustAdd(t)
		if id == "web" {
			th.web = sv
		} else {
			th.other = sv
		}
	}
	th.divert(macOf(th.router.Namespace, "eth0"))
	if err := th.other.Service.Ping(routerAddr); err != nil {
		t.Error(err)
	}
	if err := th.web.Service.Ping(otherVIP); err == nil {
		t.Error("one service reaches the other")
	}
	if err := th.host.Ping(otherVIP); err == nil {
		t.Error("the host reaches the service: the page says that it does not")
	}
	th.web.Service.IP("link set mv0 type macvlan mode bridge")
	if err := th.web.Service.Ping(otherVIP); err == nil {
		t.Error("a service that leaves the mode reaches the other")
	}
}

// TestThreatVEPA: in mode vepa what services and host say to each other needs
// a switch that reflects it.
func TestThreatVEPA(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station("192.0.2.2/24"), l.station("192.0.2.5/24")
	web := host.service("web", `"mode": "vepa", `+quick, "192.0.2.10/24")
	web.mustAdd(t)
	peer.pings(t, webVIP)
	if err := host.Ping(webVIP); err == nil {
		t.Error("the host reaches the VIP over a switch that reflects nothing")
	}
	l.fabric.IP("link set " + host.port + " type bridge_slave hairpin on")
	if err := host.Ping(webVIP); err != nil {
		t.Error(err)
	}
}

// TestThreatSniffing: a packet socket shows a service its own frames and what
// is broadcast, and nothing that is between others.
func TestThreatSniffing(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	seen := th.web.Service.Capture("mv0")
	th.peer.pings(t, hostAddr, otherVIP)
	th.host.pings(t, otherVIP, routerAddr, otherVIP6)
	th.peer.pings(t, webVIP)
	eventually(t, func() error {
		if echoes(seen) == 0 {
			return fmt.Errorf("not even its own frames were seen")
		}
		return nil
	})
	for _, f := range seen.Frames() {
		eth := f.LinkLayer().(*layers.Ethernet)
		if eth.DstMAC[0]&1 == 0 && eth.DstMAC.String() != webMAC && eth.SrcMAC.String() != webMAC {
			t.Errorf("it sees %s", f)
		}
	}
}

// TestThreatSourceMode: with CAP_NET_ADMIN a service can make a macvlan of mode
// source, which gets what chosen stations send to the host, in the host's place.
func TestThreatSourceMode(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	web, peer := th.web.Service, macOf(th.peer.Namespace, "eth0")
	th.peer.pings(t, hostAddr)
	web.IP("link add link mv0 name spy type macvlan mode source")
	web.IP("link set spy type macvlan macaddr add " + peer)
	web.IP("link set spy up")
	seen := web.Capture("spy")
	th.peer.pings(t, hostAddr)
	if echoes(seen) != 1 {
		t.Errorf("the service sees %d of the peer's pings to the host", echoes(seen))
	}
	web.IP("link del spy")
	if !testnet.Linux(t, 5, 13) {
		if _, err := web.TryIP("link add link mv0 name spy type macvlan mode source nodst"); err == nil {
			t.Error("the kernel has nodst: the page says that it came with 5.13")
		}
		return
	}
	web.IP("link add link mv0 name spy type macvlan mode source nodst")
	web.IP("link set spy type macvlan macaddr add " + peer)
	web.IP("link set spy up")
	if err := th.peer.Ping(hostAddr); err == nil {
		t.Error("the host still gets what the service takes away")
	}
	web.IP("link del spy")
	th.peer.pings(t, hostAddr)
}

// TestThreatFlood: a service's broadcasts reach the LAN and the other services,
// but take no room in the queue for what comes from the LAN.
func TestThreatFlood(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	const flood = 20000
	wire := th.web.Service.Wire("mv0")
	before := dropped(t, th.host.Namespace, "eth0")
	got := received(t, th.other.Service, "mv0")
	sent := th.broadcasts(wire, webMAC, flood)
	if drops := dropped(t, th.host.Namespace, "eth0") - before; drops != 0 {
		t.Errorf("%d frames were dropped from the queue for broadcasts", drops)
	}
	if seen := received(t, th.other.Service, "mv0") - got; seen < sent {
		t.Errorf("the other service got %d of %d broadcasts", seen, sent)
	}
	th.wellBehaved()

	// From the LAN, a flood does fill the queue. At its usual length an idle
	// kernel empties it as fast as one sender fills it, and older kernels have
	// no other length.
	if !testnet.Linux(t, 5, 11) {
		return
	}
	th.host.IP("link set mv-int type macvlan bcqueuelen 1")
	for _, sv := range []*service{th.web, th.other} {
		sv.Service.IP("link set mv0 type macvlan bcqueuelen 1")
	}
	wire = th.peer.Wire("eth0")
	before = dropped(t, th.host.Namespace, "eth0")
	eventually(t, func() error {
		th.broadcasts(wire, macOf(th.peer.Namespace, "eth0"), flood)
		if dropped(t, th.host.Namespace, "eth0") == before {
			return fmt.Errorf("after %d broadcasts from the LAN none was dropped", flood)
		}
		return nil
	})
	eventually(t, func() error { return th.peer.Ping(webVIP) })
}

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"macvlan-vip/tests/testnet"
)

const echoPort = 7777

var peer4, peer6 = netip.MustParseAddr("192.0.2.5"), netip.MustParseAddr("2001:db8::5")

// lan is a host with one service behind it and a peer on its LAN.
type lan struct {
	host, peer *testnet.Namespace
	service    *testnet.Attachment
	chain      *testnet.Chain
	vips       []netip.Addr
}

// chainConf is the conflist that a user would write.
func chainConf(vips ...string) string {
	for i, vip := range vips {
		vips[i] = fmt.Sprintf(`{"address": %q}`, vip)
	}
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "plugins": [
		{"type": "macvlan-vip", "master": "eth0", "probe": {"count": 1, "waitMs": 20}, "ipam": {"type": "static", "addresses": [%s]}},
		{"type": "hairpin-route"}]}`, strings.Join(vips, ", "))
}

// newLAN makes a host, lets a function make it unlike other hosts, before and
// after it has its uplink, and adds a service.
func newLAN(t *testing.T, h hostKind) *lan {
	t.Helper()
	l := &lan{}
	l.host, l.peer = testnet.New(t), testnet.New(t)
	for _, cmd := range h.first {
		l.host.IP(cmd)
	}
	testnet.Cable(t, l.host, "eth0", l.peer, "port")
	l.host.IP("link set lo up")
	l.peer.AddAddress("port", "192.0.2.5/24")
	l.peer.AddAddress("port", "2001:db8::5/64")
	addrs := h.addrs
	if addrs == nil {
		addrs = []string{"192.0.2.1/24", "2001:db8::1/64"}
	}
	for _, addr := range addrs {
		l.host.AddAddress("eth0", addr)
	}
	for _, cmd := range h.then {
		l.host.IP(cmd)
	}
	for _, key := range h.sysctl {
		l.host.Sysctl(key[0], key[1])
	}
	l.service = &testnet.Attachment{Host: l.host, Service: testnet.New(t), ID: "c1", IfName: "mv0"}
	for _, key := range h.serviceSysctl {
		l.service.Service.Sysctl(key[0], key[1])
	}
	vips := h.vips
	if vips == nil {
		vips = []string{"192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64"}
	}
	for _, vip := range vips {
		l.vips = append(l.vips, netip.MustParsePrefix(vip).Addr())
	}
	l.chain = testnet.NewChain(t, chainConf(slices.Clone(vips)...))
	if _, err := l.chain.Add(l.service); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.chain.Del(l.service); err != nil {
			t.Error(err)
		}
	})
	l.service.Service.Echo(echoPort, l.vips...)
	l.peer.Echo(echoPort, peer4, peer6)
	return l
}

// hostKind is a kind of host that operators really have.
type hostKind struct {
	name string
	// first and then are ip(8) commands from before and after the uplink is
	// made; addrs are the uplink's addresses; vips the service's.
	first, then, addrs, vips []string
	sysctl, serviceSysctl    [][2]string
	// source is what the host's packets must come from, where it is not what
	// a peer on the LAN sees.
	source []string
}

func both(key, value string) [][2]string {
	return [][2]string{{"net/ipv4/conf/all/" + key, value}, {"net/ipv4/conf/default/" + key, value}}
}

var hostKinds = []hostKind{
	{name: "tidy"},
	{name: "docker0 was there first", first: []string{
		"link add docker0 type bridge", "address add 172.17.0.1/16 dev docker0", "address add fd17::1/64 dev docker0 nodad", "link set docker0 up",
	}},
	{name: "a /32 on lo", then: []string{"address add 198.51.100.9/32 dev lo", "address add 2001:db8:9::9/128 dev lo nodad"}},
	{name: "several addresses on the uplink", addrs: []string{"198.51.100.1/24", "192.0.2.1/24", "192.0.2.2/24", "2001:db8:7::1/64", "2001:db8::1/64", "2001:db8::2/64"}},
	{name: "the host outside the VIPs' subnet", addrs: []string{"198.51.100.1/24", "2001:db8:7::1/64"}, source: []string{"198.51.100.1", "2001:db8:7::1"}},
	{name: "VIPs without a subnet or gateway", vips: []string{"192.0.2.10/32", "2001:db8::10/128"}},
	{name: "VIPs and host of unlike subnets", addrs: []string{"198.51.100.1/24", "2001:db8:7::1/64"}, vips: []string{"203.0.113.10/32", "2001:db8:8::10/128"}, source: []string{"198.51.100.1", "2001:db8:7::1"}},
	{name: "arp_ignore=1 on the host", sysctl: both("arp_ignore", "1")},
	{name: "arp_ignore=2 on the host", sysctl: both("arp_ignore", "2")},
	{name: "arp_ignore=8 on the host", sysctl: both("arp_ignore", "8")},
	{name: "arp_ignore=2 in the netns, off-subnet host", serviceSysctl: both("arp_ignore", "2"), addrs: []string{"198.51.100.1/24"}, vips: []string{"192.0.2.10/24"}, source: []string{"198.51.100.1"}},
	{name: "arp_filter=1 on the host", sysctl: both("arp_filter", "1")},
	{name: "arp_announce=2 on the host", sysctl: both("arp_announce", "2")},
	{name: "rp_filter=1 on the host", sysctl: both("rp_filter", "1")},
	{name: "rp_filter=1 in the netns", serviceSysctl: both("rp_filter", "1")},
	{name: "a policy rule before the main table", then: []string{
		"link add vpn0 type veth peer name vpn1", "address add 10.9.0.2/24 dev vpn0", "link set vpn1 up", "link set vpn0 up",
		"route add default via 10.9.0.1 dev vpn0 table 77", "rule add prio 100 from all lookup 77",
		"address add fd99::2/64 dev vpn0 nodad", "-6 route add default via fd99::1 dev vpn0 table 77", "-6 rule add prio 100 from all lookup 77",
		// The peer is reached as the VPN's client leaves local addresses: by a rule before it.
		"rule add prio 99 to 192.0.2.5 lookup main", "-6 rule add prio 99 to 2001:db8::5 lookup main",
	}},
	{name: "a VPN's 0.0.0.0/1", then: []string{
		"link add vpn0 type veth peer name vpn1", "address add 10.9.0.2/24 dev vpn0", "link set vpn1 up", "link set vpn0 up",
		"route add 0.0.0.0/1 via 10.9.0.1", "route add 128.0.0.0/1 via 10.9.0.1",
		"address add fd99::2/64 dev vpn0 nodad", "-6 route add ::/1 via fd99::1", "-6 route add 8000::/1 via fd99::1",
	}},
	{name: "a /32 of better metric in the main table", then: []string{"route add 192.0.2.10/32 dev lo metric 1", "-6 route add 2001:db8::10/128 dev lo metric 1"}},
	{name: "a temporary IPv6 address", then: []string{"address add 2001:db8::bad/64 dev eth0 nodad preferred_lft 0"}},
	{name: "IPv6 turned off by default", sysctl: [][2]string{{"net/ipv6/conf/default/disable_ipv6", "1"}}},
}

// TestHostAndVIP: on every kind of host, each VIP and the host reach each
// other by ping, TCP and UDP, and see the address that a LAN peer sees.
func TestHostAndVIP(t *testing.T) {
	for _, kind := range hostKinds {
		t.Run(kind.name, func(t *testing.T) {
			l := newLAN(t, kind)
			for _, vip := range l.vips {
				want := l.wantSource(t, kind, vip)
				if err := l.host.Ping(vip); err != nil {
					t.Error(err)
				}
				for _, network := range []string{"tcp", "udp"} {
					seen, err := l.host.Ask(network, vip, echoPort)
					if err != nil || seen != want {
						t.Errorf("%s from the host to %s: source %s, want %s: %v", network, vip, seen, want, err)
					}
				}
				if err := l.service.Service.Ping(want, "-I", vip.String()); err != nil {
					t.Errorf("the way back, from %s: %v", vip, err)
				}
			}
			if err := l.chain.Check(l.service); err != nil {
				t.Errorf("CHECK: %v", err)
			}
		})
	}
}

// wantSource is the address that a peer in the VIP's place sees the host at.
func (l *lan) wantSource(t *testing.T, kind hostKind, vip netip.Addr) netip.Addr {
	t.Helper()
	for _, src := range kind.source {
		if addr := netip.MustParseAddr(src); addr.Is4() == vip.Is4() {
			return addr
		}
	}
	peer := peer4
	if vip.Is6() {
		peer = peer6
	}
	seen, err := l.host.Ask("tcp", peer, echoPort)
	if err != nil {
		t.Fatalf("the host does not reach the LAN: %v", err)
	}
	return seen
}

// TestLANReachesVIPs while the host does, too.
func TestLANReachesVIPs(t *testing.T) {
	l := newLAN(t, hostKind{})
	for _, vip := range l.vips {
		for _, network := range []string{"tcp", "udp"} {
			want := peer4
			if vip.Is6() {
				want = peer6
			}
			if seen, err := l.peer.Ask(network, vip, echoPort); err != nil || seen != want {
				t.Errorf("%s to %s: source %s: %v", network, vip, seen, err)
			}
		}
	}
}

// TestSourcesOfOtherNetworks: what the host sends from its other addresses
// gets answers, too.
func TestSourcesOfOtherNetworks(t *testing.T) {
	l := newLAN(t, hostKind{first: []string{
		"link add docker0 type bridge", "address add 172.17.0.1/16 dev docker0", "address add fd17::1/64 dev docker0 nodad", "link set docker0 up",
	}})
	for _, vip := range l.vips {
		src := "172.17.0.1"
		if vip.Is6() {
			src = "fd17::1"
		}
		if err := l.host.Ping(vip, "-I", src); err != nil {
			t.Error(err)
		}
	}
}

// TestTwoServices on one host reach each other and the host.
func TestTwoServices(t *testing.T) {
	l := newLAN(t, hostKind{})
	other := &testnet.Attachment{Host: l.host, Service: testnet.New(t), ID: "c2", IfName: "mv0"}
	chain := testnet.NewChain(t, chainConf("192.0.2.20/24", "2001:db8::20/64"))
	if _, err := chain.Add(other); err != nil {
		t.Fatal(err)
	}
	for _, vip := range l.vips {
		if _, err := other.Service.Ask("tcp", vip, echoPort); err != nil {
			t.Error(err)
		}
	}
	for _, vip := range []string{"192.0.2.20", "2001:db8::20"} {
		for name, from := range map[string]*testnet.Namespace{"host": l.host, "service": l.service.Service, "peer": l.peer} {
			if err := from.Ping(netip.MustParseAddr(vip)); err != nil {
				t.Errorf("from the %s: %v", name, err)
			}
		}
	}
	if err := chain.Del(other); err != nil {
		t.Error(err)
	}
	if err := l.host.Ping(l.vips[0]); err != nil {
		t.Errorf("after the other service went: %v", err)
	}
}

// pod is a namespace whose first link another plugin made.
type pod struct {
	*testnet.Namespace
	host *testnet.Namespace
}

func newPod(t *testing.T, host *testnet.Namespace) pod {
	t.Helper()
	p := pod{testnet.New(t), host}
	p.IP("link set lo up")
	testnet.Cable(t, host, "cni0", p.Namespace, "eth0")
	for _, subnet := range []string{"10.244.0.%d/24", "fd44::%d/64"} {
		host.AddAddress("cni0", fmt.Sprintf(subnet, 1))
		p.AddAddress("eth0", fmt.Sprintf(subnet, 2))
	}
	p.IP("route add default via 10.244.0.1")
	p.IP("-6 route add default via fd44::1")
	return p
}

// answers asserts that the pod answers the host at its first address, whichever the
// host asks from, and at VIPs.
func (p pod) answers(t *testing.T, vips ...string) {
	t.Helper()
	for _, to := range append([]string{"10.244.0.2", "fd44::2"}, vips...) {
		addr := netip.MustParseAddr(to)
		from := []string{"10.244.0.1", "192.0.2.1"}
		if addr.Is6() {
			from = []string{"fd44::1", "2001:db8::1"}
		}
		for _, src := range from {
			if err := p.host.Ping(addr, "-I", src); err != nil {
				t.Errorf("%s does not answer %s: %v", to, src, err)
			}
		}
	}
}

// TestFirstLink: a pod's first link answers the host, however many networks
// with VIPs the pod has, and whichever of them goes first.
func TestFirstLink(t *testing.T) {
	l := newLAN(t, hostKind{sysctl: both("rp_filter", "1")})
	p := newPod(t, l.host)
	p.answers(t)
	before := p.Snapshot()
	var attachments []*testnet.Attachment
	var chains []*testnet.Chain
	for i, vips := range [][]string{{"192.0.2.20", "2001:db8::20"}, {"192.0.2.30", "2001:db8::30"}} {
		attachments = append(attachments, &testnet.Attachment{Host: l.host, Service: p.Namespace, ID: "pod", IfName: fmt.Sprintf("mv%d", i)})
		chains = append(chains, testnet.NewChain(t, chainConf(vips[0]+"/24", vips[1]+"/64")))
		if _, err := chains[i].Add(attachments[i]); err != nil {
			t.Fatal(err)
		}
		p.answers(t, vips...)
	}
	for i, a := range attachments {
		if err := chains[i].Check(a); err != nil {
			t.Error(err)
		}
		if err := chains[i].Del(a); err != nil {
			t.Error(err)
		}
		p.answers(t)
	}
	if after := p.Snapshot(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestBehindUpstreamMacvlan: hairpin-route makes do with a macvlan that
// upstream's plugin made, given a host-side one.
func TestBehindUpstreamMacvlan(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	host.IP("link add mv-own link eth0 type macvlan mode bridge")
	host.IP("link set mv-own up")
	before := host.Snapshot()
	a := &testnet.Attachment{Host: host, Service: testnet.New(t), ID: "c1", IfName: "net1"}
	chain := testnet.NewChain(t, `{"cniVersion": "1.1.0", "name": "lan", "plugins": [
		{"type": "macvlan", "master": "eth0", "ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}]}},
		{"type": "hairpin-route", "hostInterface": "mv-own"}]}`)
	if _, err := chain.Add(a); err != nil {
		t.Fatal(err)
	}
	if err := host.Ping(netip.MustParseAddr("192.0.2.10")); err != nil {
		t.Error(err)
	}
	if err := chain.Check(a); err != nil {
		t.Error(err)
	}
	if err := chain.Del(a); err != nil {
		t.Error(err)
	}
	if after := host.Snapshot(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

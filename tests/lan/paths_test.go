package lan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

// twoLANs are a host on two LANs, and a service that is on both. A client
// reaches each LAN through that LAN's gateway, and takes no answer that comes
// another way. What of the other LAN's comes by a gateway is answered, too.
type twoLANs struct {
	*testing.T
	lans          [2]*lan
	host          *station
	peers         [2]*station
	client        *testnet.Namespace
	netns         *testnet.Namespace
	service       [2]*service
	before, inner string
}

// address is the n-th of a LAN, of either family.
func address(lan, n int) (v4, v6 netip.Addr) {
	return netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", lan, n)), netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%d", lan, n))
}

func onLAN(lan, n int) (both []string) {
	v4, v6 := address(lan, n)
	return []string{v4.String() + "/16", v6.String() + "/64"}
}

// attach connects a namespace to the switch by a link of any name.
func (l *lan) attach(n *testnet.Namespace, link string, addrs ...string) *station {
	l.t.Helper()
	l.ports++
	s := &station{n, l, fmt.Sprintf("port%d", l.ports)}
	testnet.Cable(l.t, n, link, l.fabric, s.port)
	l.fabric.IP("link set " + s.port + " master br0")
	for _, addr := range addrs {
		n.AddAddress(link, addr)
	}
	return s
}

// newTwoLANs makes all but the service's attachments. set is called for the
// host and the service's namespace before there is anything in them.
func newTwoLANs(t *testing.T, set func(*testnet.Namespace)) *twoLANs {
	t.Helper()
	w := &twoLANs{T: t, lans: [2]*lan{newLAN(t), newLAN(t)}, client: testnet.New(t), netns: testnet.New(t)}
	host := testnet.New(t)
	for _, n := range []*testnet.Namespace{host, w.netns} {
		n.IP("link set lo up")
		set(n)
	}
	w.client.IP("link set lo up")
	w.client.AddAddress("lo", "198.51.100.7/32")
	w.client.AddAddress("lo", "2001:db8:99::7/128")
	strict(w.client)
	for i, l := range w.lans {
		w.host = l.attach(host, fmt.Sprintf("eth%d", i), onLAN(i, 1)...)
		w.peers[i] = l.station(onLAN(i, 5)...)
		w.gateway(i)
	}
	w.before, w.inner = host.Snapshot(), rulesOf(w.netns)
	return w
}

// gateway makes a LAN's, by which the client is reached.
func (w *twoLANs) gateway(i int) {
	w.Helper()
	gw := w.lans[i].station(onLAN(i, 254)...)
	gw.Sysctl("net/ipv4/ip_forward", "1")
	gw.Sysctl("net/ipv6/conf/all/forwarding", "1")
	link := fmt.Sprintf("up%d", i)
	testnet.Cable(w, w.client, link, gw.Namespace, "beyond")
	gw.AddAddress("beyond", fmt.Sprintf("10.9.%d.1/24", i))
	gw.AddAddress("beyond", fmt.Sprintf("2001:db8:9%d::1/64", i))
	w.client.AddAddress(link, fmt.Sprintf("10.9.%d.2/24", i))
	w.client.AddAddress(link, fmt.Sprintf("2001:db8:9%d::2/64", i))
	gw.IP(fmt.Sprintf("route add 198.51.100.7 via 10.9.%d.2", i))
	gw.IP(fmt.Sprintf("-6 route add 2001:db8:99::7 via 2001:db8:9%d::2", i))
	w.client.IP(fmt.Sprintf("route add 10.%d.0.0/16 via 10.9.%d.1 src 198.51.100.7", i, i))
	w.client.IP(fmt.Sprintf("-6 route add 2001:db8:%d::/64 via 2001:db8:9%d::1 src 2001:db8:99::7", i, i))
	// So each LAN's gateway is a way to the other LAN's stations as well.
	w.client.Sysctl("net/ipv4/ip_forward", "1")
	w.client.Sysctl("net/ipv6/conf/all/forwarding", "1")
	gw.IP(fmt.Sprintf("route add 10.%d.0.0/16 via 10.9.%d.2", 1-i, i))
	gw.IP(fmt.Sprintf("-6 route add 2001:db8:%d::/64 via 2001:db8:9%d::2", 1-i, i))
	w.peers[i].IP(fmt.Sprintf("route add default via 10.%d.0.254", i))
	w.peers[i].IP(fmt.Sprintf("-6 route add default via 2001:db8:%d::254", i))
}

// strict makes a namespace refuse what does not come in by the link by which
// it would answer.
func strict(n *testnet.Namespace) {
	reversePath("1")(n)
	firewalld(n)
}

func reversePath(value string) func(*testnet.Namespace) {
	return func(n *testnet.Namespace) {
		n.Sysctl("net/ipv4/conf/all/rp_filter", value)
		n.Sysctl("net/ipv4/conf/default/rp_filter", value)
	}
}

// firewalld loads the rules of firewalld's IPv6_rpfilter=yes.
func firewalld(n *testnet.Namespace) {
	n.NFT(`table inet firewalld {
	chain filter_PREROUTING {
		type filter hook prerouting priority filter + 10; policy accept;
		icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
		meta nfproto ipv6 fib saddr . mark . iif oif missing drop
	}
}`)
}

// add makes the i-th attachment.
func (w *twoLANs) add(i int) {
	w.Helper()
	a := &testnet.Attachment{Host: w.host.Namespace, Service: w.netns, ID: "c1", IfName: fmt.Sprintf("mv%d", i)}
	vip, gw := onLAN(i, 10), onLAN(i, 254)
	second := onLAN(i, 11)
	var addresses []string
	for f := range vip {
		for _, v := range []string{vip[f], second[f]} {
			addresses = append(addresses, fmt.Sprintf(`{"address": %q, "gateway": %q}`, v, strings.Split(gw[f], "/")[0]))
		}
	}
	sv := &service{Attachment: a, chain: testnet.NewChain(w, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan%d", "plugins": [
		{"type": "macvlan-vip", "master": "eth%d", "hostInterface": "mv-int%d", %s, "ipam": {"type": "static", "addresses": [%s],
			"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
		{"type": "hairpin-route"}]}`, i, i, i, quick, strings.Join(addresses, ", ")))}
	for _, v := range append(vip, second...) {
		sv.vips = append(sv.vips, netip.MustParsePrefix(v).Addr())
	}
	w.service[i] = sv
	sv.mustAdd(w.T)
	w.Cleanup(func() { w.del(i) })
}

func (w *twoLANs) del(i int) {
	w.Helper()
	if err := w.service[i].chain.Del(w.service[i].Attachment); err != nil {
		w.Error(err)
	}
}

// anyPort is served by sockets that are bound to no address.
const anyPort = 7779

// answers asks each VIP of some attachments from everywhere.
func (w *twoLANs) answers(attachments ...int) {
	w.Helper()
	for _, i := range attachments {
		v4, v6 := address(i, 1)
		from := map[string]*testnet.Namespace{"the host": w.host.Namespace, "its LAN": w.peers[i].Namespace, "beyond its gateway": w.client}
		if len(attachments) == 2 {
			from["the other LAN"] = w.peers[1-i].Namespace
		}
		for name, n := range from {
			for _, vip := range w.service[i].vips {
				for _, network := range []string{"tcp", "udp"} {
					seen, err := n.Ask(network, vip, echoPort)
					if err != nil {
						w.Errorf("%s to %s from %s: %v", network, vip, name, err)
					}
					if name == "the host" && seen != v4 && seen != v6 {
						w.Errorf("%s to %s: the host is seen at %s", network, vip, seen)
					}
				}
				if _, err := n.Ask("tcp", vip, anyPort); err != nil {
					w.Errorf("TCP to %s, any address, from %s: %v", vip, name, err)
				}
			}
		}
		// UDP from a socket that is bound to no address, and does not ask which
		// one was asked (IP_PKTINFO), comes from the address that the kernel takes
		// on that link, as with any host: the first VIP of the family.
		for _, n := range []*testnet.Namespace{w.host.Namespace, w.peers[i].Namespace} {
			for _, vip := range []netip.Addr{w.service[i].vips[0], w.service[i].vips[1]} {
				if _, err := n.Ask("udp", vip, anyPort); err != nil {
					w.Errorf("UDP to %s, any address: %v", vip, err)
				}
			}
		}
	}
}

func rulesOf(n *testnet.Namespace) string { return n.IP("-4 rule show") + n.IP("-6 rule show") }

// TestPathsBySource: a service on two LANs answers on the link that it was
// asked on, whoever checks reverse paths; either cable may be out, and either
// attachment go first.
func TestPathsBySource(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*testnet.Namespace){
		"rp_filter 0": reversePath("0"),
		"rp_filter 1": reversePath("1"),
		"rp_filter 2": reversePath("2"),
		"firewalld":   firewalld,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTwoLANs(t, set)
			w.add(0)
			if rules := rulesOf(w.netns); rules != w.inner {
				t.Errorf("alone in its namespace it needs no rules:\n%s", rules)
			}
			w.add(1)
			for _, sv := range w.service {
				w.netns.Echo(echoPort, sv.vips...)
			}
			w.netns.Echo(anyPort, netip.IPv6Unspecified())
			w.answers(0, 1)
			for i, sv := range w.service {
				if err := sv.check(); err != nil {
					t.Errorf("CHECK of %d: %v", i, err)
				}
			}
			for i, l := range w.lans {
				l.fabric.IP("link set " + "port1 down")
				w.answers(1 - i)
				l.fabric.IP("link set " + "port1 up")
			}
			w.answers(0, 1)
			w.del(0)
			w.answers(1)
			if err := w.service[1].check(); err != nil {
				t.Errorf("CHECK after the first has gone: %v", err)
			}
			w.service[0].mustAdd(t)
			w.answers(0, 1)
			w.del(1)
			w.answers(0)
			w.del(0)
			if diff := cmp.Diff(w.inner, rulesOf(w.netns)); diff != "" {
				t.Errorf("left in the netns: %s", diff)
			}
			if diff := cmp.Diff(w.before, w.host.Snapshot()); diff != "" {
				t.Errorf("left on the host: %s", diff)
			}
		})
	}
}

// TestPathsRepaired: what is missing of rules and tables CHECK names, and a
// repeated ADD gives back, whichever attachment was there first.
func TestPathsRepaired(t *testing.T) {
	t.Parallel()
	w := newTwoLANs(t, strict)
	w.add(0)
	w.add(1)
	for i, sv := range w.service {
		whole := sorted(w.netns.Snapshot())
		table := fmt.Sprint(118000 + indexOf(w.netns, sv.IfName))
		for command, missing := range map[string]string{
			"rule flush proto 118":                "service: rule from %s/31 lookup " + table + " priority 11801: missing",
			"route flush table " + table:          "dev " + sv.IfName + " table " + table + ": missing",
			"rule del from %s/31 lookup " + table: "service: rule from %s/31 lookup " + table + " priority 11801: missing",
		} {
			v4, _ := address(i, 10)
			command, missing = strings.ReplaceAll(command, "%s", v4.String()), strings.ReplaceAll(missing, "%s", v4.String())
			w.netns.IP(command)
			if err := sv.check(); err == nil || !strings.Contains(err.Error(), missing) {
				t.Errorf("after `ip %s` CHECK says %v, want %q", command, err, missing)
			}
			// The other one's rules may have gone as well.
			w.service[1-i].mustAdd(t)
			sv.mustAdd(t)
			if diff := cmp.Diff(whole, sorted(w.netns.Snapshot())); diff != "" {
				t.Errorf("after `ip %s` and a repeated ADD: %s", command, diff)
			}
		}
	}
}

// TestPathsOfALostLink: rules do not go with their link; DEL removes them.
func TestPathsOfALostLink(t *testing.T) {
	t.Parallel()
	w := newTwoLANs(t, func(*testnet.Namespace) {})
	w.add(0)
	w.add(1)
	w.netns.IP("link del mv1")
	if rules := rulesOf(w.netns); strings.Count(rules, "lookup 118") != 4 {
		t.Errorf("want the rules of both:\n%s", rules)
	}
	w.del(1)
	if rules := rulesOf(w.netns); strings.Count(rules, "lookup 118") != 2 || strings.Contains(rules, "from 10.1.") {
		t.Errorf("want the rules of the first alone:\n%s", rules)
	}
	if err := w.service[0].check(); err != nil {
		t.Error(err)
	}
}

// TestPathsToOneGateway: of two attachments on a LAN one has its prefix, and the other no
// more than its address. Either can be first, and be repaired beside the other.
func TestPathsToOneGateway(t *testing.T) {
	t.Parallel()
	for _, first := range []int{0, 1} {
		l := newLAN(t)
		host, peer := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.5/16", "2001:db8::5/64")
		netns := testnet.New(t)
		netns.IP("link set lo up")
		var both []*service
		for i, vips := range [][]string{{"10.0.0.10/16", "2001:db8::10/64"}, {"10.0.0.11/32", "2001:db8::11/128"}} {
			sv := host.service("c1", quick, vips...)
			sv.Service, sv.IfName = netns, fmt.Sprintf("mv%d", i)
			sv.chain = testnet.NewChain(t, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "plugins": [
				{"type": "macvlan-vip", "master": "eth0", %s, "ipam": {"type": "static", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
					"addresses": [{"address": %q, "gateway": "10.0.0.5"}, {"address": %q, "gateway": "2001:db8::5"}]}},
				{"type": "hairpin-route"}]}`, quick, vips[0], vips[1]))
			both = append(both, sv)
		}
		for _, i := range []int{first, 1 - first, first, 1 - first} {
			both[i].mustAdd(t)
		}
		for _, sv := range both {
			if err := sv.check(); err != nil {
				t.Error(err)
			}
			host.pings(t, sv.vips...)
			peer.pings(t, sv.vips...)
		}
	}
}

// sorted leaves out which of two rules of one priority was there first.
func sorted(snapshot string) []string { return slices.Sorted(strings.Lines(snapshot)) }

func indexOf(n *testnet.Namespace, link string) (index int) {
	_, _ = fmt.Sscanf(n.IP("-o link show dev "+link), "%d:", &index)
	return index
}

// TestPathsOfAForeignLink: a link that another plugin made counts, too, and its
// answers keep to it.
func TestPathsOfAForeignLink(t *testing.T) {
	t.Parallel()
	w := newTwoLANs(t, strict)
	testnet.Cable(t, w.netns, "net1", testnet.New(t), "bridge")
	w.netns.AddAddress("net1", "10.88.0.5/16")
	w.netns.IP("route add default via 10.88.0.1")
	w.add(1)
	w.netns.Echo(echoPort, w.service[1].vips...)
	w.netns.Echo(anyPort, netip.IPv6Unspecified())
	w.answers(1)
	foreign := fmt.Sprintf("from 10.88.0.5 lookup %d", 118000+indexOf(w.netns, "net1"))
	if rules := w.netns.IP("rule show"); strings.Count(rules, "proto 118") != 2 || !strings.Contains(rules, foreign) {
		t.Errorf("rules:\n%s", rules)
	}
	if rules := w.netns.IP("-6 rule show"); strings.Contains(rules, "proto 118") {
		t.Errorf("the foreign link has no IPv6 address, yet:\n%s", rules)
	}
	if err := w.service[1].check(); err != nil {
		t.Error(err)
	}
}

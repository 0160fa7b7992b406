package lan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"macvlan-vip/tests/testnet"
)

// bridgeNet is a network of containers behind a host, as an engine makes it.
type bridgeNet struct {
	name, bridge string
	// rules are what the engine puts into the host's nftables.
	rules string
}

var (
	container4, container6 = netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("fd17::2")

	// docker's default network, by the rules that its iptables driver makes
	// with iptables-nft, ip6tables on.
	docker = bridgeNet{"docker", "docker0", `
table ip nat {
	chain POSTROUTING { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }
	chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 8080 iifname != "docker0" dnat to 172.17.0.2:7777; }
}
table ip6 nat {
	chain POSTROUTING { type nat hook postrouting priority srcnat; ip6 saddr fd17::/64 oifname != "docker0" masquerade; }
	chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 8080 iifname != "docker0" dnat to [fd17::2]:7777; }
}
table inet filter {
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		oifname "docker0" ct state established,related accept
		oifname "docker0" iifname != "docker0" tcp dport 7777 accept
		iifname "docker0" accept
	}
}`}
	// podman's, by netavark's nftables driver.
	podman = bridgeNet{"podman", "podman0", `
table inet netavark {
	chain INPUT { type filter hook input priority filter; policy accept; }
	chain FORWARD {
		type filter hook forward priority filter; policy accept;
		ct state invalid drop
		ip daddr 172.17.0.0/16 ct state established,related accept
		ip saddr 172.17.0.0/16 accept
	}
	chain nv_4 {
		ip daddr 172.17.0.0/16 accept
		ip daddr != 224.0.0.0/4 masquerade
	}
	chain nv_6 {
		ip6 daddr fd17::/64 accept
		ip6 daddr != ff00::/8 masquerade
	}
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.17.0.0/16 jump nv_4
		ip6 saddr fd17::/64 jump nv_6
	}
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local meta nfproto ipv4 tcp dport 8080 dnat ip to 172.17.0.2:7777
		fib daddr type local meta nfproto ipv6 tcp dport 8080 dnat ip6 to [fd17::2]:7777
	}
}`}
	// LXD's, libvirt's or docker's routed mode, a VPN's clients, and so on.
	routed = bridgeNet{"routed", "br0", ``}
)

// behind is a host that has a network of containers, and a service.
type behind struct {
	*testing.T
	host, peer, router *station
	container          *testnet.Namespace
	service            *service
}

// newBehind makes them. first are ip(8) commands from before the host has its
// uplink; gateway is what the service's packets beyond the LAN go to.
func newBehind(t *testing.T, net bridgeNet, set func(*testnet.Namespace), first []string, gateway, keys string) *behind {
	t.Helper()
	l := newLAN(t)
	b := &behind{T: t, container: testnet.New(t), peer: l.station(onLAN(0, 5)...), router: l.station(onLAN(0, 254)...)}
	host := testnet.New(t)
	host.IP("link set lo up")
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/forwarding"} {
		host.Sysctl(key, "1")
		b.router.Sysctl(key, "1")
	}
	set(host)
	for _, command := range first {
		host.IP(command)
	}
	b.host = l.attach(host, "eth0", onLAN(0, 1)...)
	host.IP("link add " + net.bridge + " type bridge")
	host.IP("link set " + net.bridge + " up")
	host.AddAddress(net.bridge, "172.17.0.1/16")
	host.AddAddress(net.bridge, "fd17::1/64")
	testnet.Cable(t, host, "veth0", b.container, "eth0")
	host.IP("link set veth0 master " + net.bridge)
	b.container.AddAddress("eth0", "172.17.0.2/16")
	b.container.AddAddress("eth0", "fd17::2/64")
	b.container.IP("route add default via 172.17.0.1")
	b.container.IP("-6 route add default via fd17::1")
	if net.rules != "" {
		host.NFT(net.rules)
	}
	b.serve(set, gateway, keys)
	return b
}

func (b *behind) serve(set func(*testnet.Namespace), gateway, keys string) {
	b.Helper()
	b.service = b.host.service("c1", quick, onLAN(0, 10)...)
	set(b.service.Service)
	via := map[string][2]string{"host": {"10.0.0.1", "2001:db8:0::1"}, "router": {"10.0.0.254", "2001:db8:0::254"}}[gateway]
	b.service.chain = testnet.NewChain(b, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "plugins": [
		{"type": "macvlan-vip", "master": "eth0", %s, "ipam": {"type": "static",
			"addresses": [{"address": "10.0.0.10/16", "gateway": %q}, {"address": "2001:db8:0::10/64", "gateway": %q}],
			"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
		{"type": "hairpin-route"%s}]}`, quick, via[0], via[1], keys))
	b.service.mustAdd(b.T)
	b.service.Service.Echo(echoPort, b.service.vips...)
	b.container.Echo(echoPort, container4, container6)
}

// asks has the container ask each VIP, and gives who was seen.
func (b *behind) asks() (seen []netip.Addr, err error) {
	for _, vip := range b.service.vips {
		for _, network := range []string{"tcp", "udp"} {
			from, err := b.container.Ask(network, vip, echoPort)
			if err != nil {
				return seen, fmt.Errorf("%s from the container to %s: %w", network, vip, err)
			}
			seen = append(seen, from)
		}
	}
	return seen, nil
}

// TestBehindTheHost is the table "Containers and networks behind the host" of
// hairpin-route's page: a container reaches the VIPs, and the service what the
// container publishes, whoever the service's gateway is and whatever rp_filter
// checks.
func TestBehindTheHost(t *testing.T) {
	t.Parallel()
	lo := []string{"address add 198.51.100.9/32 dev lo", "address add 2001:db8:0:1::9/128 dev lo nodad"}
	for _, net := range []bridgeNet{docker, podman, routed} {
		for _, gateway := range []string{"host", "router"} {
			for _, rp := range []string{"0", "1", "2"} {
				t.Run(fmt.Sprintf("%s, gateway %s, rp_filter %s", net.name, gateway, rp), func(t *testing.T) {
					t.Parallel()
					keys := ""
					if net.rules == "" && gateway == "router" {
						keys = `, "hostNetworks": "connected"`
					}
					b := newBehind(t, net, reversePath(rp), lo, gateway, keys)
					seen, err := b.asks()
					if err != nil {
						t.Fatal(err)
					}
					want := []netip.Addr{container4, container6}
					if masqueraded := net.rules != ""; masqueraded == slices.Contains(want, seen[0]) {
						t.Errorf("the service sees %s", seen)
					}
					for _, addr := range []string{"10.0.0.1", "2001:db8:0::1"} {
						if net.rules == "" {
							break
						}
						if _, err := b.service.Service.Ask("tcp", netip.MustParseAddr(addr), 8080); err != nil {
							t.Errorf("the container's port that the host publishes: %v", err)
						}
					}
					b.peer.uses(t, b.service)
					b.host.uses(t, b.service)
					if err := b.service.check(); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// TestMasqueradeFromAnyLink: the source that masquerading chooses can be an
// address of any link, one that speaks no ARP among them.
func TestMasqueradeFromAnyLink(t *testing.T) {
	t.Parallel()
	for name, first := range map[string][]string{
		"none before the uplink": nil,
		"lo":                     {"address add 198.51.100.9/32 dev lo", "address add 2001:db8:0:1::9/128 dev lo nodad"},
		"a link without ARP": {
			"link add tun0 type veth peer name tun1", "link set tun0 arp off", "link set tun0 up", "link set tun1 up",
			"address add 10.8.0.1/24 dev tun0", "address add 2001:db8:0:1::8/64 dev tun0 nodad",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBehind(t, docker, reversePath("2"), first, "router", "")
			if seen, err := b.asks(); err != nil || first != nil && !slices.ContainsFunc(first, func(c string) bool { return strings.Contains(c, " "+seen[0].String()+"/") }) {
				t.Errorf("seen: %s, %v", seen, err)
			}
		})
	}
}

// TestMasqueradeFromTemporary: with privacy extensions masquerading chooses a temporary
// address, though another one is nearer to the VIP, such as DHCPv6's of 128 bits.
func TestMasqueradeFromTemporary(t *testing.T) {
	t.Parallel()
	b := newBehind(t, docker, reversePath("2"), nil, "router", "")
	b.host.AddAddress("eth0", "2001:db8:0::11/128")
	b.service.mustAdd(t)
	temporary := b.host.temporary(t, "2001:db8:0::77/64")
	if out, err := b.host.Shell("hairpin-route changed"); err != nil || !strings.Contains(out, "service: route "+temporary.String()+"/128 dev mv0: missing") {
		t.Errorf("hairpin-route changed: %s%v", out, err)
	}
	b.service.mustAdd(t)
	if err := b.service.check(); err != nil {
		t.Error(err)
	}
	if seen, err := b.asks(); err != nil || seen[2] != temporary {
		t.Errorf("seen: %s, not %s, %v", seen, temporary, err)
	}
	if _, err := b.host.AskFrom(temporary, b.service.vips[1], echoPort); err != nil {
		t.Error(err)
	}
}

// temporary gives a station an address, and what its kernel makes of that where it has
// privacy extensions.
func (s *station) temporary(t *testing.T, from string) (addr netip.Addr) {
	t.Helper()
	s.Sysctl("net/ipv6/conf/eth0/use_tempaddr", "2")
	s.IP("address add " + from + " dev eth0 nodad noprefixroute mngtmpaddr")
	eventually(t, func() error {
		fields := strings.Fields(s.IP("-6 -o address show dev eth0 temporary -tentative"))
		if len(fields) < 4 {
			return errors.New("no temporary address")
		}
		addr = netip.MustParsePrefix(fields[3]).Addr()
		return nil
	})
	return addr
}

// TestHostNetworks: what the host forwards unmasqueraded gets no answer past a
// LAN's router, and no way into the host's networks is there, until the network
// says so.
func TestHostNetworks(t *testing.T) {
	t.Parallel()
	b := newBehind(t, routed, reversePath("0"), nil, "router", "")
	if seen, err := b.asks(); err == nil {
		t.Errorf("without hostNetworks the container gets an answer: %s", seen)
	}
	for _, addr := range []netip.Addr{container4, container6} {
		if seen, err := b.service.Service.Ask("tcp", addr, echoPort); err == nil {
			t.Errorf("without hostNetworks the service reaches the container %s as %s", addr, seen)
		}
	}
	c := newBehind(t, routed, reversePath("1"), nil, "router", `, "hostNetworks": ["172.17.0.0/16", "fd17::/64"]`)
	if seen, err := c.asks(); err != nil || seen[0] != container4 || seen[2] != container6 {
		t.Errorf("seen: %s, %v", seen, err)
	}
	routes := c.service.Service.IP("route show") + c.service.Service.IP("-6 route show")
	for _, want := range []string{"172.17.0.0/16 via 10.0.0.1 dev mv0 proto 118 metric 2000 onlink", "fd17::/64 via 2001:db8::1 dev mv0 proto 118 metric 2000 onlink"} {
		if !strings.Contains(routes, want) {
			t.Errorf("no %q in:\n%s", want, routes)
		}
	}
}

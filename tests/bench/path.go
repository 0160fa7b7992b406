package bench

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"testing"

	"macvlan-vip/tests/testnet"
)

// The ways from a client to a server that are compared.
const (
	pathLoopback = "loopback"
	pathVeth     = "veth pair"
	pathBridge   = "veth + bridge"
	pathHairpin  = "host -> VIP"
	pathLAN      = "LAN -> VIP"
	pathOwn      = "LAN -> host's own netns"
)

// path is a client and a server, and the server's address.
type path struct {
	name           string
	client, server *testnet.Namespace
	addr           netip.Addr
}

// newPaths builds all of them.
func newPaths(t testing.TB, u tuning) []path {
	t.Helper()
	alone := testnet.New(t)
	alone.IP("link set lo up")
	s := attached(t, u)
	vip := addrOf(s.vips[0])
	return []path{
		{pathLoopback, alone, alone, netip.MustParseAddr("127.0.0.1")},
		veth(t, u), bridged(t, u),
		{pathHairpin, s.host, s.service, vip},
		{pathLAN, s.lan, s.service, vip},
		{pathOwn, s.lan, s.host, netip.MustParseAddr(hostAddr)},
	}
}

// ends leaves out the paths to a server that is another's, too.
func ends(paths []path) []path {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(paths), func(p path) bool {
		end := p.server.Path() + p.addr.String()
		defer func() { seen[end] = true }()
		return seen[end]
	})
}

func veth(t testing.TB, u tuning) path {
	client, server := testnet.New(t), testnet.New(t)
	testnet.Cable(t, client, "eth0", server, "eth0")
	u.set(client, "eth0")
	u.set(server, "eth0")
	client.AddAddress("eth0", "10.98.0.1/24")
	server.AddAddress("eth0", "10.98.0.2/24")
	return path{pathVeth, client, server, netip.MustParseAddr("10.98.0.2")}
}

// bridged is what container runtimes do: the host has the bridge's address.
func bridged(t testing.TB, u tuning) path {
	host, service := testnet.New(t), testnet.New(t)
	testnet.Cable(t, host, "port", service, "eth0")
	host.IP("link add br0 type bridge")
	host.IP("link set port master br0")
	u.set(host, "port")
	u.set(service, "eth0")
	u.set(host, "br0")
	host.IP("link set br0 up")
	host.AddAddress("br0", "10.98.0.1/24")
	service.AddAddress("eth0", "10.98.0.2/24")
	return path{pathBridge, host, service, netip.MustParseAddr("10.98.0.2")}
}

// attached is a service on a VIP.
func attached(t testing.TB, u tuning) *site {
	s := newSite(t, vips(1), false)
	u.set(s.host, "eth0")
	u.set(s.lan, "port")
	w := wayDefault()
	w.prepare(s)
	s.run(w.add(s))
	t.Cleanup(func() { s.run(w.del(s)) })
	return s
}

// set tunes a link.
func (u tuning) set(n *testnet.Namespace, link string) {
	n.IP(fmt.Sprintf("link set %s mtu %d", link, u.mtu))
	if !u.gro {
		return
	}
	n.Do(func() error {
		out, err := exec.Command("ethtool", "-K", link, "gro", "on").CombinedOutput()
		if err != nil {
			return fmt.Errorf("ethtool: %w: %s", err, out)
		}
		return nil
	})
}

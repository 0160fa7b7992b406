package lan

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

// on puts a service on another master than eth0. keys are macvlan-vip's.
func (sv *service) on(t *testing.T, master, keys string) *service {
	t.Helper()
	addresses := make([]string, len(sv.vips))
	for i, vip := range sv.vips {
		bits := 16
		if vip.Is6() {
			bits = 64
		}
		addresses[i] = fmt.Sprintf(`{"address": "%s/%d"}`, vip, bits)
	}
	sv.chain = testnet.NewChain(t, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "on-%s", "plugins": [
		{"type": "macvlan-vip", "master": %[1]q, %s, "ipam": {"type": "static", "addresses": [%s]}},
		{"type": "hairpin-route"}]}`, master, keys, strings.Join(addresses, ", ")))
	return sv
}

// works: the service is reached by the host and by a peer on its LAN, and
// reaches both, and CHECK finds nothing.
func (sv *service) works(t *testing.T, host *testnet.Namespace, peer *station) {
	t.Helper()
	for _, vip := range sv.vips {
		for name, n := range map[string]*testnet.Namespace{"host": host, "peer": peer.Namespace} {
			if err := n.Ping(vip); err != nil {
				t.Errorf("the %s: %v", name, err)
			}
		}
	}
	if err := sv.check(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
}

// TestMasterEach: services on two uplinks get a host-side macvlan on each, and
// nobody has to name them. What the second one is called does not depend on
// whether the first one is still there.
func TestMasterEach(t *testing.T) {
	t.Parallel()
	first, second := newLAN(t), newLAN(t)
	host := first.station("10.0.0.1/16", "2001:db8::1/64")
	testnet.Cable(t, host.Namespace, "uplink-of-13ch", second.fabric, "port99")
	second.fabric.IP("link set port99 master br0")
	host.AddAddress("uplink-of-13ch", "10.1.0.1/16")
	host.AddAddress("uplink-of-13ch", "2001:db8:1::1/64")
	peer1, peer2 := first.station("10.0.0.5/16", "2001:db8::5/64"), second.station("10.1.0.5/16", "2001:db8:1::5/64")
	before := host.Snapshot()

	one := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
	two := host.service("c2", quick, "10.1.0.10/16", "2001:db8:1::10/64").on(t, "uplink-of-13ch", quick)
	three := host.service("c3", quick, "10.1.0.11/16").on(t, "uplink-of-13ch", quick)
	one.mustAdd(t)
	two.mustAdd(t)
	own := hostSide(t, host.Namespace, "uplink-of-13ch")
	if got := hostSide(t, host.Namespace, "eth0"); got != "mv-int" || !strings.HasPrefix(own, "mv-int-") || !strings.HasSuffix(own, "13ch") {
		t.Errorf("the host's macvlans are %s and %s", got, own)
	}
	one.works(t, host.Namespace, peer1)
	two.works(t, host.Namespace, peer2)

	if err := one.chain.Del(one.Attachment); err != nil {
		t.Error(err)
	}
	three.mustAdd(t)
	if got := hostSide(t, host.Namespace, "uplink-of-13ch"); got != own {
		t.Errorf("the next service on the second uplink got %s, not %s", got, own)
	}
	two.works(t, host.Namespace, peer2)
	three.works(t, host.Namespace, peer2)
	one.mustAdd(t)
	one.works(t, host.Namespace, peer1)
	for _, sv := range []*service{one, two, three} {
		if err := sv.chain.Del(sv.Attachment); err != nil {
			t.Error(err)
		}
	}
	host.wantNothingLeft(t, before)
}

// hostSide names the one macvlan that a host has on a master.
func hostSide(t *testing.T, host *testnet.Namespace, master string) string {
	t.Helper()
	var names []string
	for line := range strings.Lines(host.IP("-o link show type macvlan")) {
		name, rest, _ := strings.Cut(strings.Fields(line)[1], "@")
		if strings.TrimSuffix(rest, ":") == master {
			names = append(names, name)
		}
	}
	if len(names) != 1 {
		t.Fatalf("macvlans of the host on %s: %v, want one", master, names)
	}
	return names[0]
}

// TestMasterTakenMeanwhile: mv-int was removed, and has been made on another
// master since. A repair moves the service to a name of its master's own.
func TestMasterTakenMeanwhile(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.5/16", "2001:db8::5/64")
	other := testnet.New(t)
	testnet.Cable(t, host.Namespace, "eth1", other, "port")
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
	sv.mustAdd(t)
	host.IP("link del mv-int")
	host.IP("link add mv-int link eth1 type macvlan mode bridge")
	if err := sv.check(); err == nil {
		t.Error("CHECK finds nothing")
	}
	sv.mustAdd(t)
	if got := hostSide(t, host.Namespace, "eth0"); got != "mv-int-eth0" {
		t.Errorf("the host's macvlan on eth0 is %s", got)
	}
	sv.works(t, host.Namespace, peer)
	if err := sv.chain.Del(sv.Attachment); err != nil {
		t.Error(err)
	}
	if out := host.IP("-o link show type macvlan"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "mv-int@eth1") {
		t.Errorf("only the mv-int of eth1 is to stay:\n%s", out)
	}
	if out := host.IP("-4 route show table all proto 118") + host.IP("-6 route show table all proto 118"); out != "" {
		t.Errorf("left behind:\n%s", out)
	}
}

// TestMasterVLAN: a VLAN is another LAN than the link that it is on, though
// the kernel has that as its lower link. Both carry services, and the same VIP.
func TestMasterVLAN(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.5/16", "2001:db8::5/64")
	for i, s := range []*station{host, peer} {
		needs(t, s.Namespace, "link add link eth0 name eth0.26 type vlan id 26")
		s.IP("link set eth0.26 up")
		s.AddAddress("eth0.26", fmt.Sprintf("10.26.0.%d/16", 1+4*i))
		s.AddAddress("eth0.26", fmt.Sprintf("2001:db8:26::%d/64", 1+4*i))
	}
	vlan := host.service("c2", quick, "10.26.0.10/16", "2001:db8:26::10/64").on(t, "eth0.26", quick)
	parent := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
	parent.mustAdd(t)
	vlan.mustAdd(t)
	if got := []string{hostSide(t, host.Namespace, "eth0"), hostSide(t, host.Namespace, "eth0.26")}; got[0] != "mv-int" || got[1] != "mv-int-eth0.26" {
		t.Errorf("the host's macvlans: %v", got)
	}
	parent.works(t, host.Namespace, peer)
	vlan.works(t, host.Namespace, peer)
	// hairpin-route has no place for it twice on the host.
	same := host.service("c3", quick, "10.0.0.10/16")
	same.chain = testnet.NewChain(t, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "alone", "plugins": [
		{"type": "macvlan-vip", "master": "eth0.26", %s, "ipam": {"type": "static", "addresses": [{"address": "10.0.0.10/16"}]}}]}`, quick))
	same.mustAdd(t)
	peer.IP("route add 10.0.0.10/32 dev eth0.26 src 10.0.0.5")
	if err := peer.Ping(netip.MustParseAddr("10.0.0.10")); err != nil {
		t.Errorf("the VIP that is on both: %v", err)
	}
	if mac := neighbours(peer.Namespace, "eth0.26")[same.vips[0]]; mac != same.mac {
		t.Errorf("on the VLAN %s is at %s, not %s", same.vips[0], mac, same.mac)
	}
}

// needs makes a link, or skips the test where the kernel has no such type;
// distributions' kernels have all.
func needs(t *testing.T, n *testnet.Namespace, command string) {
	t.Helper()
	_, err := n.TryIP(command)
	switch {
	case err != nil && os.Getenv("MACHINE") == "qemu":
		t.Fatal(err)
	case err != nil:
		t.Skipf("this kernel has no driver for it: %v", err)
	}
}

// TestMastersAtOnce: of services that start at once on two uplinks, those of
// one share a host-side macvlan, and no name is taken twice.
func TestMastersAtOnce(t *testing.T) {
	t.Parallel()
	first, second := newLAN(t), newLAN(t)
	host := first.station("10.0.0.1/16")
	testnet.Cable(t, host.Namespace, "eth1", second.fabric, "port99")
	host.AddAddress("eth1", "10.1.0.1/16")
	var services []*service
	for i := range 4 {
		services = append(services,
			host.service(fmt.Sprintf("a%d", i), quick, fmt.Sprintf("10.0.0.%d/16", 10+i)),
			host.service(fmt.Sprintf("b%d", i), quick, fmt.Sprintf("10.1.0.%d/16", 10+i)).on(t, "eth1", quick))
	}
	for round := range 3 {
		errs := make([]error, len(services))
		var wg sync.WaitGroup
		for i, sv := range services {
			wg.Go(func() { errs[i] = sv.add() })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		names := []string{hostSide(t, host.Namespace, "eth0"), hostSide(t, host.Namespace, "eth1")}
		if !slices.Contains(names, "mv-int") || names[0] == names[1] {
			t.Errorf("round %d: the host's macvlans: %v", round, names)
		}
		for i, sv := range services {
			if err := host.Ping(sv.vips[0]); err != nil {
				t.Error(err)
			}
			wg.Go(func() { errs[i] = sv.chain.Del(sv.Attachment) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if out := host.IP("-o link show type macvlan"); out != "" {
			t.Errorf("round %d left behind:\n%s", round, out)
		}
	}
}

// TestLinkLocalOnTwo: a link-local VIP can be on every LAN that the host is on.
func TestLinkLocalOnTwo(t *testing.T) {
	t.Parallel()
	first, second := newLAN(t), newLAN(t)
	host := first.station("10.0.0.1/16", "2001:db8::1/64")
	testnet.Cable(t, host.Namespace, "eth1", second.fabric, "port99")
	second.fabric.IP("link set port99 master br0")
	vip := netip.MustParseAddr("fe80::10")
	services := []*service{
		host.service("c1", quick, "fe80::10/64"),
		host.service("c2", quick, "fe80::10/64").on(t, "eth1", quick),
	}
	for i, sv := range services {
		sv.mustAdd(t)
		peer := []*lan{first, second}[i].station("10.9.0.5/16")
		// Its own link-local address takes a second to be usable.
		eventually(t, func() error { return peer.Ping(vip.WithZone("eth0")) })
	}
	for _, sv := range services {
		sv.mustAdd(t)
		if err := sv.check(); err != nil {
			t.Error(err)
		}
	}
	for _, link := range []string{"mv-int", "mv-int-eth1"} {
		if err := host.Ping(vip.WithZone(link)); err != nil {
			t.Error(err)
		}
	}
	if err := services[0].chain.Del(services[0].Attachment); err != nil {
		t.Error(err)
	}
	if err := host.Ping(vip.WithZone("mv-int-eth1")); err != nil {
		t.Errorf("after DEL of the other: %v", err)
	}
}

// TestChosenByTheRuntime: an address that the caller has chosen has to be the
// master's network's, or be allowed by the network.
func TestChosenByTheRuntime(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.5/16", "2001:db8::5/64")
	host.IP("route add default via 10.0.0.254")
	host.IP("route add 198.18.0.0/15 via 10.0.0.253")
	before := host.Snapshot()
	sv := host.service("c1", quick)
	conflist := func(keys, ips string) *testnet.Chain {
		return testnet.NewChain(t, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "plugins": [
			{"type": "macvlan-vip", "master": "eth0", %s%s, "ipam": {"type": "static"}, "args": {"cni": {"ips": [%s]}}}, {"type": "hairpin-route"}]}`, quick, keys, ips))
	}
	for _, tt := range []struct{ ips, keys, key string }{
		{`"169.254.169.254/32"`, "", "ipam address"},
		{`"192.0.2.53/32"`, "", "args.cni.ips"},
		{`"10.0.0.10/16", "2001:db8:53::53/128"`, "", "args.cni.ips"},
		{`"192.0.2.53/32"`, `, "allowedVIPs": ["192.0.2.0/27"]`, "args.cni.ips"},
		{`"10.0.0.254/16"`, "", "args.cni.ips"},
		{`"10.0.255.255/32"`, "", "args.cni.ips"},
		{`"10.0.0.1/16"`, "", "VIP 10.0.0.1"},
	} {
		sv.chain = conflist(tt.keys, tt.ips)
		if err := sv.add(); err == nil || !strings.Contains(err.Error(), tt.key) {
			t.Errorf("%s%s: want an error about %s: %v", tt.ips, tt.keys, tt.key, err)
		}
		if diff := cmp.Diff(before, host.Snapshot()); diff != "" {
			t.Fatalf("%s left behind: %s", tt.ips, diff)
		}
	}
	sv.chain = conflist(`, "allowedVIPs": ["192.0.2.0/24"]`, `"10.0.0.10/16", "192.0.2.53/32", "2001:db8::10/64"`)
	sv.vips = []netip.Addr{netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("192.0.2.53")}
	sv.mustAdd(t)
	peer.IP("route add 192.0.2.53/32 dev eth0")
	sv.Service.IP("route add 10.0.0.5/32 dev mv0")
	sv.works(t, host.Namespace, peer)
	// A repair does not ask again: the address may have moved away.
	host.IP("address del 10.0.0.1/16 dev eth0")
	host.IP("address add 10.8.0.1/16 dev eth0")
	sv.mustAdd(t)
	if err := sv.check(); err != nil {
		t.Error(err)
	}
}

// TestMasterVRF: the master is a member of a VRF. The host-side macvlan joins
// it, and the host's routes are in its table. Another VRF has a network of the same
// addresses, the VIP's and the peer's among them.
func TestMasterVRF(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station(), l.station("10.0.0.5/16", "2001:db8::5/64")
	needs(t, host.Namespace, "link add red type vrf table 10")
	host.IP("link set red up")
	host.IP("link set eth0 master red")
	host.AddAddress("eth0", "10.0.0.1/16")
	host.AddAddress("eth0", "2001:db8::1/64")
	host.IP("link add blue type vrf table 20")
	host.IP("link set blue up")
	testnet.Cable(t, host.Namespace, "eth1", testnet.New(t), "port")
	host.IP("link set eth1 master blue")
	for _, addr := range []string{"10.0.0.5/16", "10.0.0.10/16", "2001:db8::5/64", "2001:db8::10/64"} {
		host.AddAddress("eth1", addr)
	}
	before := host.Snapshot()
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
	sv.mustAdd(t)
	reached := func() {
		t.Helper()
		for _, vip := range sv.vips {
			if err := host.Ping(vip, "-I", "red"); err != nil {
				t.Errorf("from the VRF: %v", err)
			}
			if err := peer.Ping(vip); err != nil {
				t.Errorf("from the LAN: %v", err)
			}
		}
		for _, addr := range []netip.Addr{host4, host6, netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("2001:db8::5")} {
			if err := sv.Service.Ping(addr); err != nil {
				t.Errorf("from the service: %v", err)
			}
		}
		if err := sv.check(); err != nil {
			t.Error(err)
		}
		if out, err := host.Shell("hairpin-route changed"); out != "" || err != nil {
			t.Errorf("nothing has changed, yet: %s%v", out, err)
		}
	}
	reached()
	if out := host.IP("route show table 10 proto 118"); !strings.Contains(out, "10.0.0.10 dev mv-int scope link src 10.0.0.1 metric 100") {
		t.Errorf("table 10 has\n%s", out)
	}
	host.IP("link set mv-int nomaster")
	if err := sv.check(); err == nil || !strings.Contains(err.Error(), "VRF is none, not red") {
		t.Errorf("CHECK of mv-int outside of the VRF: %v", err)
	}
	sv.mustAdd(t)
	reached()
	sv.mustDel(t)
	host.wantNothingLeft(t, before)
}

// TestQueueLength: where the kernel does not take the length of the queue for
// broadcasts, ADD says so rather than pass over it, and leaves nothing.
func TestQueueLength(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.5/16", "2001:db8::5/64")
	before := host.Snapshot()
	sv := host.service("c1", `"bcqueuelen": 50, `+quick, "10.0.0.10/16")
	err := sv.add()
	if testnet.Linux(t, 5, 11) {
		if err != nil {
			t.Fatal(err)
		}
		if out := sv.Service.IP("-d link show mv0"); !strings.Contains(out, "bcqueuelen 50 ") {
			t.Errorf("mv0 is\n%s", out)
		}
		sv.works(t, host.Namespace, peer)
		return
	}
	if code(err) != types.ErrInvalidNetworkConfig || !strings.Contains(err.Error(), "bcqueuelen: 50") {
		t.Errorf("ADD: %v", err)
	}
	host.wantNothingLeft(t, before)
}

// TestMasterBridge: the master is a bridge that has the uplink as a port.
func TestMasterBridge(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station(), l.station("10.0.0.5/16", "2001:db8::5/64")
	host.IP("link add br0 type bridge")
	host.IP("link set br0 up")
	host.IP("link set eth0 master br0")
	host.AddAddress("br0", "10.0.0.1/16")
	host.AddAddress("br0", "2001:db8::1/64")
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64").on(t, "br0", quick)
	sv.mustAdd(t)
	sv.works(t, host.Namespace, peer)
}

// bond makes a station's uplink one of two ports of an active-backup bond.
func (s *station) bond(t *testing.T) {
	t.Helper()
	needs(t, s.Namespace, "link add bond0 type bond mode active-backup miimon 100")
	s.lan.ports++
	second := fmt.Sprintf("port%d", s.lan.ports)
	testnet.Cable(t, s.Namespace, "eth1", s.lan.fabric, second)
	s.lan.fabric.IP("link set " + second + " master br0")
	for _, port := range []string{"eth0", "eth1"} {
		s.IP("link set " + port + " down")
		s.IP("link set " + port + " master bond0")
	}
	s.IP("link set bond0 up")
}

// TestMasterBond: services on a bond, and on a VLAN on it. When the active port
// loses its carrier, the VIPs go on as the host's own addresses do.
func TestMasterBond(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.station(), l.station("10.0.0.5/16", "2001:db8::5/64")
	host.bond(t)
	host.AddAddress("bond0", "10.0.0.1/16")
	host.AddAddress("bond0", "2001:db8::1/64")
	for i, s := range []*station{host, peer} {
		lower := []string{"bond0", "eth0"}[i]
		needs(t, s.Namespace, "link add link "+lower+" name "+lower+".26 type vlan id 26")
		s.IP("link set " + lower + ".26 up")
		s.AddAddress(lower+".26", fmt.Sprintf("10.26.0.%d/16", 1+4*i))
		s.AddAddress(lower+".26", fmt.Sprintf("2001:db8:26::%d/64", 1+4*i))
	}
	eventually(t, func() error { return peer.Ping(host4) })
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64").on(t, "bond0", quick)
	vlan := host.service("c2", quick, "10.26.0.10/16", "2001:db8:26::10/64").on(t, "bond0.26", quick)
	sv.mustAdd(t)
	vlan.mustAdd(t)
	sv.works(t, host.Namespace, peer)
	vlan.works(t, host.Namespace, peer)
	outage := peer.outage(t, map[string]netip.Addr{
		"host": host4, "VIP": sv.vips[0], "VIP6": sv.vips[1], "VLAN's VIP": vlan.vips[0],
	}, func() { l.fabric.IP("link set " + host.port + " down") })
	t.Logf("failover: %v", outage)
	for name, gone := range outage {
		if gone > outage["host"]+500*time.Millisecond {
			t.Errorf("%s was gone for %s, the host's own address for %s", name, gone, outage["host"])
		}
	}
	sv.works(t, host.Namespace, peer)
	vlan.works(t, host.Namespace, peer)
}

// outage calls addresses every 50 ms, for two seconds before and eight after an
// event, and gives the longest time in which each did not answer.
func (s *station) outage(t *testing.T, addrs map[string]netip.Addr, event func()) map[string]time.Duration {
	t.Helper()
	var mu sync.Mutex
	gone := map[string]time.Duration{}
	var wg sync.WaitGroup
	for name, addr := range addrs {
		wg.Go(func() {
			longest := s.longestGap(addr)
			mu.Lock()
			defer mu.Unlock()
			gone[name] = longest
		})
	}
	time.Sleep(2 * time.Second)
	event()
	wg.Wait()
	return gone
}

// longestGap pings an address for ten seconds, 20 times a second.
func (s *station) longestGap(addr netip.Addr) time.Duration {
	const interval = 50 * time.Millisecond
	var out []byte
	_ = s.NetNS.Do(func(ns.NetNS) error {
		out, _ = exec.Command("ping", "-n", "-i", "0.05", "-c", "200", "-W", "1", addr.String()).Output()
		return nil
	})
	last, longest := 0, 0
	for line := range strings.Lines(string(out)) {
		_, rest, ok := strings.Cut(line, "icmp_seq=")
		if !ok {
			continue
		}
		seq, err := strconv.Atoi(strings.Fields(rest)[0])
		if err == nil {
			longest, last = max(longest, seq-last-1), seq
		}
	}
	return time.Duration(max(longest, 200-last)) * interval
}

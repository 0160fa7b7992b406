// Package lan tests the two plugins as a LAN sees them: hosts, peers and a
// router on one switch, and what passes between them.
package lan

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

func TestMain(m *testing.M) {
	os.Exit(testnet.Plugins(m, "macvlan-vip/plugins/macvlan-vip", "macvlan-vip/plugins/hairpin-route",
		"github.com/containernetworking/plugins/plugins/ipam/static"))
}

const echoPort = 7777

// quick leaves a test no time to wait for: nobody has the VIPs.
const quick = `"probe": {"count": 1, "waitMs": 20}, "announce": {"count": 1}`

// lan is a switch with stations on it.
type lan struct {
	t      *testing.T
	fabric *testnet.Namespace
	ports  int
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	l := &lan{t: t, fabric: testnet.New(t)}
	// A switch has nothing to say itself.
	l.fabric.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	l.fabric.IP("link add br0 type bridge mcast_snooping 0")
	l.fabric.IP("link set br0 up")
	return l
}

// station is a host or a peer: its uplink is eth0, port the switch's end.
type station struct {
	*testnet.Namespace
	lan  *lan
	port string
}

func (l *lan) station(addrs ...string) *station {
	l.t.Helper()
	l.ports++
	s := &station{testnet.New(l.t), l, fmt.Sprintf("port%d", l.ports)}
	s.IP("link set lo up")
	testnet.Cable(l.t, s.Namespace, "eth0", l.fabric, s.port)
	l.fabric.IP("link set " + s.port + " master br0")
	for _, addr := range addrs {
		s.AddAddress("eth0", addr)
	}
	return s
}

// capture records what passes between the station and the switch.
func (s *station) capture() *testnet.Capture {
	s.lan.t.Helper()
	return s.lan.fabric.Capture(s.port)
}

// service is a chain's attachment on a host.
type service struct {
	*testnet.Attachment
	chain *testnet.Chain
	vips  []netip.Addr
	// mac is mv0's, once the service has been added.
	mac string
}

// service makes a netns for a service, without adding it. keys are macvlan-vip's.
func (s *station) service(id, keys string, vips ...string) *service {
	s.lan.t.Helper()
	sv := &service{Attachment: &testnet.Attachment{Host: s.Namespace, Service: testnet.New(s.lan.t), ID: id, IfName: "mv0"}}
	// Once it has been up, lo keeps traces of that.
	sv.Service.IP("link set lo up")
	addresses := make([]string, len(vips))
	for i, vip := range vips {
		addresses[i] = fmt.Sprintf(`{"address": %q}`, vip)
		sv.vips = append(sv.vips, netip.MustParsePrefix(vip).Addr())
	}
	sv.chain = testnet.NewChain(s.lan.t, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "plugins": [
		{"type": "macvlan-vip", "master": "eth0", %s, "ipam": {"type": "static", "addresses": [%s]}},
		{"type": "hairpin-route"}]}`, keys, strings.Join(addresses, ", ")))
	s.lan.t.Cleanup(func() {
		if err := sv.chain.Del(sv.Attachment); err != nil {
			s.lan.t.Errorf("DEL of %s: %v", id, err)
		}
	})
	return sv
}

func (sv *service) add() error {
	_, err := sv.chain.Add(sv.Attachment)
	if err == nil {
		sv.mac = macOf(sv.Service, sv.IfName)
	}
	return err
}

func (sv *service) mustAdd(t *testing.T) {
	t.Helper()
	if err := sv.add(); err != nil {
		t.Fatalf("ADD: %v", err)
	}
}

func (sv *service) mustDel(t *testing.T) {
	t.Helper()
	if err := sv.chain.Del(sv.Attachment); err != nil {
		t.Fatal(err)
	}
}

// wantNothingLeft compares the network of a host with its snapshot of before.
func (s *station) wantNothingLeft(t *testing.T, before string) {
	t.Helper()
	if diff := cmp.Diff(before, s.Snapshot()); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
}

func (sv *service) check() error { return sv.chain.Check(sv.Attachment) }

// macOf is a link's MAC; none where there is no such link.
func macOf(n *testnet.Namespace, link string) string {
	out, err := n.TryIP("-j link show dev " + link)
	if err != nil {
		return ""
	}
	var links []struct{ Address string }
	if json.Unmarshal([]byte(out), &links) != nil || len(links) == 0 {
		return ""
	}
	return links[0].Address
}

// neighbours maps a station's neighbours to their MACs, as far as they have one.
func neighbours(n *testnet.Namespace, link string) map[netip.Addr]string {
	var entries []struct{ Dst, Lladdr string }
	_ = json.Unmarshal([]byte(n.IP("-j neigh show dev "+link)), &entries)
	macs := make(map[netip.Addr]string, len(entries))
	for _, e := range entries {
		if addr, err := netip.ParseAddr(e.Dst); err == nil && e.Lladdr != "" {
			macs[addr] = e.Lladdr
		}
	}
	return macs
}

// code is the CNI code of a plugin's error.
func code(err error) uint {
	var cni *types.Error
	if errors.As(err, &cni) {
		return cni.Code
	}
	return 0
}

// eventually waits for what takes the other side a moment.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	testnet.Eventually(t, "the other side is through", check)
}

// many gives n VIPs with a prefix length, half of them of either family; those
// of one group are in none of another.
func many(n, group int) (vips []string) {
	for i := range n / 2 {
		vips = append(vips, fmt.Sprintf("10.%d.%d.%d/8", 1+group, i/250, 1+i%250), fmt.Sprintf("2001:db8::%x:%x/64", 1+group, i+1))
	}
	return vips
}

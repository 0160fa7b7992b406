package lan

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"macvlan-vip/tests/testnet"
)

// vmHost is a host of virtual machines: its bridge br0 has the uplink eth0 and a
// machine's tap0 as ports.
type vmHost struct {
	*station
	vm   *testnet.Namespace
	seen *testnet.Capture
}

func (l *lan) vmHost() *vmHost {
	l.t.Helper()
	h := &vmHost{station: l.station(), vm: testnet.New(l.t)}
	h.IP("link add br0 type bridge")
	h.IP("link set br0 up")
	h.IP("link set eth0 master br0")
	testnet.Cable(l.t, h.Namespace, "tap0", h.vm, "eth0")
	h.IP("link set tap0 master br0")
	h.AddAddress("br0", "10.0.0.1/16")
	h.AddAddress("br0", "2001:db8::1/64")
	h.vm.AddAddress("eth0", "10.0.0.3/16")
	h.vm.AddAddress("eth0", "2001:db8::3/64")
	h.seen = h.vm.Capture("eth0")
	return h
}

// fdb runs bridge(8) on the forwarding database of br0.
func (h *vmHost) fdb(command string) string {
	h.lan.t.Helper()
	out, err := h.Shell("bridge fdb " + command)
	if err != nil {
		h.lan.t.Fatalf("bridge fdb %s: %v: %s", command, err, out)
	}
	return out
}

// entries are those of br0 for a MAC.
func (h *vmHost) entries(mac string) (lines []string) {
	for line := range strings.Lines(h.fdb("show br br0")) {
		if strings.HasPrefix(line, mac+" ") && strings.Contains(line, "master br0") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// flooded counts the frames for a MAC that have come to the machine, while a peer calls
// VIPs ten times each.
func (h *vmHost) flooded(t *testing.T, peer *station, sv *service) (n int) {
	t.Helper()
	before := len(h.seen.Frames())
	for range 10 {
		peer.pings(t, sv.vips...)
	}
	for _, f := range h.seen.Frames()[before:] {
		if eth := f.LinkLayer().(*layers.Ethernet); eth.DstMAC.String() == sv.mac && eth.SrcMAC.String() != macOf(h.vm, "eth0") {
			n++
		}
	}
	return n
}

// floodsNothing: what the peer sends to the VIPs reaches the service, and nobody else.
func (h *vmHost) floodsNothing(t *testing.T, peer *station, sv *service) {
	t.Helper()
	if n := h.flooded(t, peer, sv); n != 0 {
		t.Errorf("%d of the peer's frames for %s reached another port of the bridge", n, sv.mac)
	}
}

// lone is a chain without hairpin-route, for modes without a host-side link.
func (sv *service) lone(t *testing.T, master, keys string) *service {
	t.Helper()
	sv.chain = testnet.NewChain(t, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lone", "plugins": [
		{"type": "macvlan-vip", "master": %q, %s, "ipam": {"type": "static",
		"addresses": [{"address": "%s/16"}, {"address": "%s/64"}]}}]}`, master, keys, sv.vips[0], sv.vips[1]))
	return sv
}

// TestBridgeFloods: a bridge under the macvlans sends what the LAN sends to a VIP to no
// other of its ports, in any mode; and the host's and the machines' own traffic with
// the VIP goes on.
func TestBridgeFloods(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"bridge", "vepa", "private", "passthru"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			host, peer := l.vmHost(), l.station("10.0.0.5/16", "2001:db8::5/64")
			before := host.Snapshot()
			sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64").lone(t, "br0", quick+`, "mode": "`+mode+`"`)
			if mode == "bridge" {
				sv.on(t, "br0", quick)
			}
			sv.mustAdd(t)
			host.floodsNothing(t, peer, sv)
			for _, vip := range sv.vips {
				if err := host.vm.Ping(vip); err != nil {
					t.Errorf("the virtual machine: %v", err)
				}
			}
			if mode == "bridge" {
				sv.works(t, host.Namespace, peer)
			} else if err := sv.check(); err != nil {
				t.Error(err)
			}
			sv.mustDel(t)
			host.wantNothingLeft(t, before)
		})
	}
}

// TestBridgeEntry: the service's entry in the bridge is checked, repaired, and removed
// with the service, whose namespace may be gone.
func TestBridgeEntry(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.vmHost(), l.station("10.0.0.5/16", "2001:db8::5/64")
	before := host.Snapshot()
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64").on(t, "br0", quick)
	sv.mustAdd(t)
	for _, damage := range []string{"del", "replace dynamic"} {
		if verb, how, _ := strings.Cut(damage, " "); how == "" {
			host.fdb(verb + " " + sv.mac + " dev br0 self")
		} else {
			host.fdb(verb + " " + sv.mac + " dev tap0 master " + how)
		}
		if want, err := "host: fdb "+sv.mac+" dev br0 self local: missing", sv.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: CHECK says %v, not %q", damage, err, want)
		}
		sv.mustAdd(t)
		sv.works(t, host.Namespace, peer)
		host.floodsNothing(t, peer, sv)
	}
	sv.Service.IP("link set mv0 address 02:00:00:00:00:99")
	sv.mustAdd(t)
	if got := host.entries(sv.mac); len(got) == 0 || len(host.entries("02:00:00:00:00:99")) != 0 {
		t.Errorf("after a repair of the MAC the entries are\n%s", host.fdb("show br br0"))
	}
	host.floodsNothing(t, peer, sv)

	sv.Service.Remove()
	sv.mustDel(t)
	host.wantNothingLeft(t, before)
}

// TestBridgeEntryUnrecorded: DEL removes the entry without a record, too.
func TestBridgeEntryUnrecorded(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host := l.vmHost()
	before := host.Snapshot()
	sv := host.service("unrecorded", quick, "10.0.0.10/16", "2001:db8::10/64").lone(t, "br0", quick)
	sv.mustAdd(t)
	records, err := filepath.Glob("/run/cni/macvlan-vip/*/attachments/lone:unrecorded:mv0.json")
	if err != nil || len(records) != 1 {
		t.Fatalf("the records are %q: %v", records, err)
	}
	if err := os.Remove(records[0]); err != nil {
		t.Fatal(err)
	}
	sv.mustDel(t)
	host.wantNothingLeft(t, before)
}

// TestBridgeEntryRollback: an ADD that fails leaves no entry.
func TestBridgeEntryRollback(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host := l.vmHost()
	l.station("10.0.0.10/16")
	before := host.Snapshot()
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64").on(t, "br0", `"probe": {"count": 3, "waitMs": 100}`)
	if err := sv.add(); err == nil {
		t.Fatal("ADD of a VIP that a station has")
	}
	host.wantNothingLeft(t, before)
}

// TestBridgeEntryOfOthers: an entry that stays, and was there before the service, is
// left as it is, by ADD and by DEL; one that the bridge has learned is replaced.
func TestBridgeEntryOfOthers(t *testing.T) {
	t.Parallel()
	const chosen = "02:00:5e:00:53:99"
	for _, tt := range []struct {
		name, mac, make string
		stays           bool
	}{
		{"a person's", chosen, "add " + chosen + " dev br0 self local", true},
		{"a port's own", "fe:ff:ff:ff:ff:01", "show", true},
		{"static", chosen, "add " + chosen + " dev eth0 master static", true},
		{"learned", chosen, "add " + chosen + " dev tap0 master dynamic", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			host, peer := l.vmHost(), l.station("10.0.0.5/16", "2001:db8::5/64")
			testnet.Cable(t, host.Namespace, "tap1", testnet.New(t), "eth0")
			host.IP("link set tap1 address fe:ff:ff:ff:ff:01 master br0")
			host.fdb(tt.make)
			before := host.entries(tt.mac)
			sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64").on(t, "br0", quick+`, "mac": "`+tt.mac+`"`)
			for range 2 {
				sv.mustAdd(t)
				during := host.entries(tt.mac)
				if diff := cmp.Diff(before, during); tt.stays != (diff == "") {
					t.Errorf("after ADD: %q", during)
				}
				if err := sv.check(); err != nil {
					t.Error(err)
				}
			}
			host.floodsNothing(t, peer, sv)
			sv.mustDel(t)
			if after := host.entries(tt.mac); tt.stays != (cmp.Diff(before, after) == "") || !tt.stays && len(after) != 0 {
				t.Errorf("after DEL: %q", after)
			}
		})
	}
}

// inVLANs has a host's bridge separate VLANs: the host is in VLAN 7, untagged, as the
// rest of the LAN is, and tagged in 26.
func (h *vmHost) inVLANs(t *testing.T) {
	t.Helper()
	needs(t, h.Namespace, "link set br0 type bridge vlan_filtering 1")
	for _, port := range []string{"eth0", "tap0", "br0 self"} {
		h.vlan("add vid 7 pvid untagged dev " + port)
		h.vlan("add vid 26 dev " + port)
	}
}

func (h *vmHost) vlan(command string) {
	h.lan.t.Helper()
	if out, err := h.Shell("bridge vlan " + command); err != nil {
		h.lan.t.Fatalf("bridge vlan %s: %v: %s", command, err, out)
	}
}

// TestBridgeWithVLANs: a bridge that separates VLANs has the entry in those that it
// is in itself. A repeated ADD adds one for a VLAN that it has joined since.
func TestBridgeWithVLANs(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.vmHost(), l.station("10.0.0.5/16", "2001:db8::5/64")
	host.inVLANs(t)
	before := host.Snapshot()
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64").on(t, "br0", quick)
	sv.mustAdd(t)
	host.floodsNothing(t, peer, sv)
	sv.works(t, host.Namespace, peer)

	for _, port := range []string{"eth0", "tap0", "br0 self"} {
		host.vlan("add vid 8 pvid untagged dev " + port)
	}
	if want, err := "dev br0 self local: missing in VLAN 8", sv.check(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("CHECK says %v, not %q", err, want)
	}
	sv.mustAdd(t)
	host.floodsNothing(t, peer, sv)
	sv.works(t, host.Namespace, peer)
	host.IP("link set br0 type bridge vlan_filtering 0")
	host.floodsNothing(t, peer, sv)
	host.IP("link set br0 type bridge vlan_filtering 1")

	sv.mustDel(t)
	if got := host.entries(sv.mac); len(got) != 0 {
		t.Errorf("after DEL: %q", got)
	}
	for _, port := range []string{"eth0", "tap0", "br0 self"} {
		host.vlan("del vid 8 dev " + port)
		host.vlan("add vid 7 pvid untagged dev " + port)
	}
	host.wantNothingLeft(t, before)
}

// TestBridgeUnderVLAN: a VLAN on a bridge as the master, whether the bridge separates
// VLANs or not.
func TestBridgeUnderVLAN(t *testing.T) {
	t.Parallel()
	for _, separates := range []bool{false, true} {
		t.Run(fmt.Sprintf("vlan_filtering %t", separates), func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			host, peer := l.vmHost(), l.station("10.0.0.5/16", "2001:db8::5/64")
			if separates {
				host.inVLANs(t)
			}
			for n, lower := range map[*testnet.Namespace]string{host.Namespace: "br0", peer.Namespace: "eth0"} {
				needs(t, n, "link add link "+lower+" name "+lower+".26 type vlan id 26")
				n.IP("link set " + lower + ".26 up")
			}
			host.AddAddress("br0.26", "10.26.0.1/16")
			host.AddAddress("br0.26", "2001:db8:26::1/64")
			peer.AddAddress("eth0.26", "10.26.0.5/16")
			peer.AddAddress("eth0.26", "2001:db8:26::5/64")
			before := host.Snapshot()
			sv := host.service("c1", quick, "10.26.0.10/16", "2001:db8:26::10/64").on(t, "br0.26", quick)
			sv.mustAdd(t)
			host.floodsNothing(t, peer, sv)
			sv.works(t, host.Namespace, peer)
			sv.mustDel(t)
			host.wantNothingLeft(t, before)
		})
	}
}

// TestBridgeUnderMacvlan: the macvlans of a master that is a macvlan itself lie on the
// bridge under that.
func TestBridgeUnderMacvlan(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host, peer := l.vmHost(), l.station("10.0.0.5/16", "2001:db8::5/64")
	host.IP("link add link br0 name lan0 type macvlan mode bridge")
	host.IP("link set lan0 up")
	sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64").lone(t, "lan0", quick)
	sv.mustAdd(t)
	host.floodsNothing(t, peer, sv)
	if err := sv.check(); err != nil {
		t.Error(err)
	}
}

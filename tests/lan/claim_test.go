package lan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

// held is a LAN on which another host has the second of a service's two VIPs,
// and a peer talks to it.
type held struct {
	host, holder, peer *station
	vip                netip.Addr
	// mac is the holder's.
	mac string
}

func newHeld(t *testing.T, vip string) *held {
	t.Helper()
	l := newLAN(t)
	h := &held{host: l.station("10.0.0.1/16", "2001:db8::1/64"), vip: netip.MustParsePrefix(vip).Addr()}
	h.holder = l.station(vip)
	h.mac = macOf(h.holder.Namespace, "eth0")
	h.peer = l.station("10.0.0.5/16", "2001:db8::5/64")
	if err := h.peer.Ping(h.vip); err != nil {
		t.Fatal(err)
	}
	return h
}

// holderUndisturbed: the peer goes on to talk to the holder.
func (h *held) holderUndisturbed(t *testing.T) {
	t.Helper()
	if mac := neighbours(h.peer.Namespace, "eth0")[h.vip]; mac != h.mac {
		t.Errorf("the peer's entry for the holder went from %s to %s", h.mac, mac)
	}
	if err := h.peer.Ping(h.vip); err != nil {
		t.Errorf("the holder: %v", err)
	}
}

// nothingLearned: what was sent by others than the stations themselves, which
// are probes, has left no trace in anybody's neighbour table.
func (h *held) nothingLearned(t *testing.T, seen *testnet.Capture) {
	t.Helper()
	probers := map[string]bool{}
	for _, c := range seen.Claims() {
		if c.Kind == testnet.Probe && c.Addr == h.vip {
			probers[c.MAC] = true
		}
	}
	if len(probers) != 1 {
		t.Errorf("probed for %s: %v", h.vip, probers)
	}
	for name, s := range map[string]*station{"holder": h.holder, "peer": h.peer} {
		for addr, mac := range neighbours(s.Namespace, "eth0") {
			if probers[mac] {
				t.Errorf("the %s learned from a probe that %s is at %s", name, addr, mac)
			}
		}
	}
}

func heldVIPs(t *testing.T, test func(t *testing.T, vip string)) {
	for _, vip := range []string{"10.0.0.10/16", "2001:db8::10/64"} {
		t.Run(vip, func(t *testing.T) {
			t.Parallel()
			test(t, vip)
		})
	}
}

// An address that another host has: ADD names the address and the MAC that has
// it, and leaves nothing on this host or on others any different.
func TestHeldVIPIsRefused(t *testing.T) {
	t.Parallel()
	heldVIPs(t, func(t *testing.T, vip string) {
		h := newHeld(t, vip)
		sv := h.host.service("c1", quick, "10.0.0.9/16", vip)
		before := h.host.Snapshot() + sv.Service.Snapshot()
		seen := h.host.capture()
		err := sv.add()
		h.nothingLearned(t, seen)
		if code(err) != 100 || !strings.Contains(err.Error(), h.vip.String()) || !strings.Contains(err.Error(), h.mac) {
			t.Errorf("ADD: code %d, want 100, naming %s and %s: %v", code(err), h.vip, h.mac, err)
		}
		if diff := cmp.Diff(before, h.host.Snapshot()+sv.Service.Snapshot()); diff != "" {
			t.Errorf("left behind: %s", diff)
		}
		h.holderUndisturbed(t)
	})
}

func TestHeldVIPIsUsedAllTheSame(t *testing.T) {
	t.Parallel()
	heldVIPs(t, func(t *testing.T, vip string) {
		h := newHeld(t, vip)
		sv := h.host.service("c1", quick+`, "addressConflict": "warn"`, vip)
		seen := h.host.capture()
		sv.mustAdd(t)
		if got := kinds(seen, h.vip, sv.mac); got[testnet.Probe] == 0 {
			t.Errorf("warn did not probe: %v", got)
		}
		if err := sv.check(); err != nil {
			t.Error(err)
		}
	})
}

func TestIgnoreDoesNotProbe(t *testing.T) {
	t.Parallel()
	heldVIPs(t, func(t *testing.T, vip string) {
		h := newHeld(t, vip)
		sv := h.host.service("c1", quick+`, "addressConflict": "ignore"`, vip)
		seen := h.host.capture()
		sv.mustAdd(t)
		mac := sv.mac
		// The announcement comes after where a probe would have come.
		eventually(t, func() error {
			got := kinds(seen, h.vip, mac)
			if got[testnet.GratuitousRequest]+got[testnet.Unsolicited] == 0 {
				return fmt.Errorf("no announcement: %v", got)
			}
			return nil
		})
		if got := kinds(seen, h.vip, mac); got[testnet.Probe] != 0 {
			t.Errorf("ignore probed: %v", got)
		}
	})
}

// kinds counts what a station said or asked of an address.
func kinds(seen *testnet.Capture, vip netip.Addr, mac string) map[testnet.ClaimKind]int {
	count := map[testnet.ClaimKind]int{}
	for _, c := range seen.Claims() {
		if c.Addr == vip && c.MAC == mac {
			count[c.Kind]++
		}
	}
	return count
}

// Until the claim has succeeded nobody gets an answer for a VIP, however often
// it is asked for.
func TestSilentUntilClaimed(t *testing.T) {
	t.Parallel()
	const wait = 700 * time.Millisecond
	l := newLAN(t)
	host, peer := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.5/16", "2001:db8::5/64")
	sv := host.service("c1", fmt.Sprintf(`"probe": {"count": 3, "intervalMs": 100, "waitMs": %d}, "announce": {"count": 1}`, wait.Milliseconds()),
		"10.0.0.10/16", "2001:db8::10/64")
	seen := host.capture()
	peer.keepAsking(t, sv.vips)
	sv.mustAdd(t)
	mac := sv.mac
	// What the announcement told it, the peer would not ask for.
	peer.IP("neigh flush dev eth0")
	for _, vip := range sv.vips {
		eventually(t, func() error { return answered(seen, vip, mac) })
		silentUntilClaimed(t, seen, vip, mac, wait)
	}
}

func answered(seen *testnet.Capture, vip netip.Addr, mac string) error {
	if got := kinds(seen, vip, mac); got[testnet.Answer] == 0 {
		return fmt.Errorf("%s never answered, so that its silence shows nothing: %v", vip, got)
	}
	return nil
}

// silentUntilClaimed looks at what a station said of one VIP.
func silentUntilClaimed(t *testing.T, seen *testnet.Capture, vip netip.Addr, mac string, wait time.Duration) {
	t.Helper()
	var last time.Time
	probes, asked, early := 0, 0, 0
	for _, c := range seen.Claims() {
		switch {
		case c.Addr != vip:
		case c.MAC != mac:
			if early == 0 {
				asked++
			}
		case c.Kind == testnet.Probe:
			last = c.At
			probes++
			if !c.From.IsUnspecified() {
				t.Errorf("a probe for %s came from %s", vip, c.From)
			}
			if early > 0 {
				t.Errorf("%s said something before its last probe", vip)
			}
		default:
			early++
			// The kernel's clocks of timers and of packets differ a little.
			if since := c.At.Sub(last); since < wait-10*time.Millisecond {
				t.Errorf("%s: %s %s after the last probe, and not the %s that were to be waited", vip, c.Kind, since, wait)
			}
		}
	}
	if probes != 3 || asked < 5 {
		t.Errorf("%s: %d probes, want 3; asked for by the peer %d times in vain, want some more", vip, probes, asked)
	}
}

// keepAsking sends datagrams to addresses nobody may have, for as long as the
// test lasts, so that the kernel never stops to ask for them.
func (s *station) keepAsking(t *testing.T, addrs []netip.Addr) {
	t.Helper()
	// A failed entry is asked for again at the next datagram.
	s.Sysctl("net/ipv4/neigh/eth0/retrans_time_ms", "20")
	s.Sysctl("net/ipv6/neigh/eth0/retrans_time_ms", "20")
	f := s.flow(t, addrs, 10*time.Millisecond)
	t.Cleanup(f.stop)
}

// IPv6 VIPs are usable when ADD returns, and 100 VIPs are claimed as fast as
// one: the LAN is asked for all at once.
func TestHundredVIPsAtOnce(t *testing.T) {
	const wait = 500 * time.Millisecond
	l := newLAN(t)
	host := l.station("10.0.0.1/16", "2001:db8::1/64")
	took := map[int]time.Duration{}
	for _, n := range []int{2, 100} {
		sv := host.service(fmt.Sprintf("c%d", n), fmt.Sprintf(`"probe": {"count": 2, "intervalMs": 100, "waitMs": %d}, "announce": {"count": 1}`, wait.Milliseconds()), many(n, n)...)
		begin := time.Now()
		sv.mustAdd(t)
		took[n] = time.Since(begin)
		if out := sv.Service.IP("-6 address show dev mv0 scope global tentative"); out != "" {
			t.Errorf("not usable when ADD returned:\n%s", out)
		}
		// Before there is this route, packets for the address are dropped.
		if got := strings.Count(sv.Service.IP("-6 route show table local type local proto kernel root 2001:db8::/32"), "\n"); got != n/2 {
			t.Errorf("%d IPv6 VIPs could be reached when ADD returned, want %d", got, n/2)
		}
		if got := strings.Count(sv.Service.IP("-o address show dev mv0 scope global"), "\n"); got != n {
			t.Errorf("%d VIPs on mv0, want %d", got, n)
		}
	}
	t.Logf("ADD of 2 VIPs took %s, of 100 %s, of which %s is waiting", took[2], took[100], wait+100*time.Millisecond)
	if more := took[100] - took[2]; more > time.Second {
		t.Errorf("98 more VIPs took %s more", more)
	}
}

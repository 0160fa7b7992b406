package announce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"

	"macvlan-vip/tests/testnet"
)

// patient is for tests that shall find what there is on a busy machine, too.
var patient = ProbeConfig{Count: 3, Interval: 200 * time.Millisecond, Wait: 600 * time.Millisecond}

func mustProbe(t *testing.T, c *Conn, all []netip.Addr, cfg ProbeConfig) []Conflict {
	t.Helper()
	found, err := c.Probe(t.Context(), all, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func wantConflicts(t *testing.T, got, want []Conflict) {
	t.Helper()
	byAddr := cmpopts.EquateComparable(netip.Addr{})
	if diff := cmp.Diff(want, got, byAddr, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("conflicts (-want +got):\n%s", diff)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	uplink := l.host()
	mv0, sibling, remote, other := l.service(uplink), l.service(uplink), l.host(), l.host()
	remote.hold(addrs("192.0.2.1 2001:db8::1 fe80::1:1")...)
	sibling.hold(addrs("192.0.2.2 2001:db8::2")...)
	other.hold(addrs("192.0.2.3 2001:db8::3")...)
	at := func(s *station, a string) Conflict { return Conflict{Addr: netip.MustParseAddr(a), MAC: s.mac} }

	cases := []struct {
		name, addrs string
		want        []Conflict
	}{
		{"nothing to probe for", "", nil},
		{"free, IPv4", "192.0.2.101 192.0.2.102", nil},
		{"free, IPv6", "2001:db8::101 2001:db8::102", nil},
		{"held on the LAN", "192.0.2.1 2001:db8::1", []Conflict{at(remote, "192.0.2.1"), at(remote, "2001:db8::1")}},
		{"held on the same host", "192.0.2.2 2001:db8::2", []Conflict{at(sibling, "192.0.2.2"), at(sibling, "2001:db8::2")}},
		{"link-local", "fe80::1:1", []Conflict{at(remote, "fe80::1:1")}},
		{"one of each, in the order given", "2001:db8::101 2001:db8::3 192.0.2.103 192.0.2.1 192.0.2.2 2001:db8::1",
			[]Conflict{at(other, "2001:db8::3"), at(remote, "192.0.2.1"), at(sibling, "192.0.2.2"), at(remote, "2001:db8::1")}},
		{"twice the same", "192.0.2.1 ::ffff:192.0.2.1 192.0.2.1", []Conflict{at(remote, "192.0.2.1")}},
		{"same solicited-node group as a holder's", "2001:db8:1::1", nil},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			all := addrs(tc.addrs)
			wantConflicts(t, mustProbe(t, mv0.open(all), all, patient), tc.want)
		})
	}
}

// TestOtherVLAN: on a trunk a station of another VLAN may have any address. The kernel passes
// its frames to a link that has no link for that VLAN, without the tag.
func TestOtherVLAN(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0, other := l.service(l.host()), l.host()
	wire, all := other.Wire(other.link), addrs("192.0.2.1")
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	frame := gopacket.NewSerializeBuffer()
	ip := all[0].AsSlice()
	if err := gopacket.SerializeLayers(frame, gopacket.SerializeOptions{},
		&layers.Ethernet{SrcMAC: other.mac, DstMAC: broadcast, EthernetType: layers.EthernetTypeDot1Q},
		&layers.Dot1Q{VLANIdentifier: 26, Type: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
			SourceHwAddress: other.mac, SourceProtAddress: ip, DstHwAddress: make([]byte, 6), DstProtAddress: ip,
		}); err != nil {
		t.Fatal(err)
	}
	seen, c := mv0.Capture(mv0.link), mv0.open(all)
	sent := time.AfterFunc(patient.Interval, func() { _, _ = wire.WriteTo(frame.Bytes(), &packet.Addr{HardwareAddr: broadcast}) })
	wantConflicts(t, mustProbe(t, c, all, patient), nil)
	if sent.Stop() || !slices.ContainsFunc(seen.Frames(), func(f testnet.Frame) bool { return announced(f) == all[0].String() }) {
		t.Error("the frame did not come")
	}
}

func TestProbeAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0, holder := l.service(l.host()), l.host()
	all := addrs("192.0.2.1 2001:db8::1")
	holder.hold(all...)
	c := mv0.open(all)
	if got := mustProbe(t, c, all, patient); len(got) != 2 {
		t.Fatalf("conflicts %v, want both", got)
	}
	// The holder's last words are still to be read when it is gone.
	announcer, heard := holder.open(all), mv0.Capture(mv0.link)
	if err := announcer.Announce(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		for _, addr := range all {
			if !slices.ContainsFunc(heard.Frames(), func(f testnet.Frame) bool { return announced(f) == addr.String() }) {
				return fmt.Errorf("the announcement of %s is not there yet", addr)
			}
		}
		return nil
	})
	holder.ip("addr flush dev eth0")
	wantConflicts(t, mustProbe(t, c, all, patient), nil)
}

// Without IPv6 on the link no group can be joined, and the packets have to come
// through all the same.
func TestProbeWithoutIPv6OnTheLink(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0, holder := l.service(l.host()), l.host()
	mv0.Do(func() error { return writeSysctl("net/ipv6/conf/mv0/disable_ipv6", "1") })
	all := addrs("2001:db8::1 2001:db8::2")
	holder.hold(all[0])
	wantConflicts(t, mustProbe(t, mv0.open(all), all, patient), []Conflict{{Addr: all[0], MAC: holder.mac}})
}

func TestProbeOfManyAddressesTakesNoLonger(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0, holder := l.service(l.host()), l.host()
	all := many(1000)
	held := all[250:750]
	holder.hold(held...)
	var want []Conflict
	for _, a := range held {
		want = append(want, Conflict{Addr: a, MAC: holder.mac})
	}
	// A single probe each: a lost answer is not made up for.
	once := ProbeConfig{Count: 1, Wait: time.Second}
	took := map[int]time.Duration{}
	for _, n := range []int{1, 100, 1000} {
		c := mv0.open(all[:n])
		start := time.Now()
		got := mustProbe(t, c, all[:n], once)
		took[n] = time.Since(start)
		t.Logf("%4d addresses: %s more than was waited", n, took[n]-once.Wait)
		if n == 1000 {
			wantConflicts(t, got, want)
		}
		for _, s := range c.sockets() {
			if stats, err := s.Stats(); err != nil || stats.Drops > 0 {
				t.Errorf("packets dropped: %+v, %v", stats, err)
			}
		}
	}
	if took[1000] > 2*took[1] {
		t.Errorf("1,000 addresses took %s, one %s", took[1000], took[1])
	}
}

func TestProbeEndsEarly(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0, holder := l.service(l.host()), l.host()
	all := addrs("192.0.2.1 192.0.2.2 2001:db8::1 192.0.2.3")
	holder.hold(all[:3]...)
	slow := ProbeConfig{Count: 3, Interval: 20 * time.Second, Wait: 20 * time.Second}

	c := mv0.open(all)
	start := time.Now()
	if got := mustProbe(t, c, all[:3], slow); len(got) != 3 {
		t.Errorf("conflicts over every address: got %v", got)
	}
	slow.FailFast = true
	if got := mustProbe(t, c, all, slow); len(got) == 0 {
		t.Error("FailFast: no conflict")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	slow.FailFast = false
	if _, err := c.Probe(ctx, all, slow); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
	// One probe whose answers a busy machine lost costs an interval; a probing
	// that did not end early costs three.
	if took := time.Since(start); took > 2*slow.Interval {
		t.Errorf("all took %s", took)
	}
}

// Of two stations that probe for the same addresses at the same time the one
// with the higher MAC is told, for each address, and the other goes on.
func TestProbeHearsAnotherProbe(t *testing.T) {
	t.Parallel()
	for _, snooping := range []bool{false, true} {
		t.Run(fmt.Sprintf("snooping=%t", snooping), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a, b := l.service(l.host()), l.service(l.host())
			if snooping {
				l.snoop()
			}
			all := many(100)
			conns := []*Conn{a.open(all), b.open(all)}
			found := make([][]Conflict, 2)
			var wg sync.WaitGroup
			for i, c := range conns {
				wg.Go(func() {
					var err error
					if found[i], err = c.Probe(t.Context(), all, ProbeConfig{Count: 10, Interval: 200 * time.Millisecond, Wait: 2 * time.Second}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			winner, loser, first := a, 1, 0
			if bytes.Compare(a.mac, b.mac) > 0 {
				winner, loser, first = b, 0, 1
			}
			if len(found[first]) != 0 {
				t.Errorf("%s, which goes first, was told of %v", winner.mac, found[first])
			}
			for _, conflict := range found[loser] {
				wantConflicts(t, []Conflict{conflict}, []Conflict{{Addr: conflict.Addr, MAC: winner.mac, Probing: true}})
			}
			if len(found[loser]) != len(all) {
				t.Errorf("%d of %d conflicts were noticed", len(found[loser]), len(all))
			}
		})
	}
}

// snoop makes the bridge forward multicast packets to members only, which it
// does once there has been a querier for some time.
func (l *lab) snoop() {
	l.t.Helper()
	l.lan.ip("link set br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_response_interval 10 mcast_startup_query_interval 10")
	watcher := l.host()
	deadline := time.Now().Add(20 * time.Second)
	for {
		// A group that nobody is a member of must not arrive.
		if !l.forwards(watcher, netip.MustParseAddr("2001:db8::dead:beef")) {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatal("the bridge does not begin to snoop")
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// forwards says whether a probe for addr reaches a station that did not join.
func (l *lab) forwards(watcher *station, addr netip.Addr) bool {
	l.t.Helper()
	frames := watcher.Capture(watcher.link)
	sender := l.host()
	c := sender.open([]netip.Addr{addr})
	p, err := c.probe(addr)
	if err == nil {
		err = c.send(l.t.Context(), []outgoing{p})
	}
	if err != nil {
		l.t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	return slices.ContainsFunc(frames.Frames(), func(f testnet.Frame) bool { return probed(f) == addr })
}

// A bridge port in hairpin mode, like a switch that loops, sends back what
// came in on it. (A macvlan drops that by itself.)
func TestProbeIgnoresItsOwnPackets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	host := l.host()
	l.lan.ip("link set " + host.port + " type bridge_slave hairpin on")
	all := addrs("192.0.2.1 2001:db8::1")
	frames := host.Capture(host.link)
	wantConflicts(t, mustProbe(t, host.open(all), all, patient), nil)
	eventually(t, func() error {
		seen := 0
		for _, f := range frames.Frames() {
			if probed(f).IsValid() {
				seen++
			}
		}
		if want := 2 * len(all) * patient.Count; seen != want {
			return fmt.Errorf("%d probes seen, both ways, want %d", seen, want)
		}
		return nil
	})
}

// What probing is for (RFC 5227, section 1.1): no cache may remember anything.
func TestProbeLeavesNoTrace(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0, holder, peer := l.service(l.host()), l.host(), l.host()
	all := addrs("192.0.2.1 192.0.2.2 2001:db8::1 2001:db8::2")
	holder.hold(all[0], all[2])
	holder.hold(addrs("192.0.2.8 2001:db8::8")...)
	peer.hold(addrs("192.0.2.9 2001:db8::9")...)
	for _, s := range []*station{holder, peer} {
		s.ip("route add 192.0.2.0/24 dev eth0", "route add 2001:db8::/64 dev eth0")
	}
	mustProbe(t, mv0.open(all), all, patient)
	for _, s := range []*station{holder, peer, mv0} {
		for _, a := range all {
			if got := s.show("neigh", "show", a.String()); got != "" {
				t.Errorf("after the probe: %s", got)
			}
		}
		if got := s.show("neigh", "show"); strings.Contains(got, mv0.mac.String()) {
			t.Errorf("the probing station is known: %s", got)
		}
	}
}

func TestProbeErrors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0 := l.service(l.host())
	cases := []struct{ name, open, probe, want string }{
		{"multicast", "2001:db8::1", "ff02::1", "ff02::1 is no unicast address"},
		{"unspecified", "192.0.2.1", "0.0.0.0", "0.0.0.0 is no unicast address"},
		{"other family", "192.0.2.1", "2001:db8::1", "2001:db8::1: the connection was opened for the other family only"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := mv0.open(addrs(tc.open))
			_, err := c.Probe(t.Context(), addrs(tc.probe), patient)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "mv0") {
				t.Errorf("error %v, want %q on mv0", err, tc.want)
			}
		})
	}
	t.Run("link down", func(t *testing.T) {
		all := addrs("192.0.2.1 2001:db8::1")
		c := mv0.open(all)
		mv0.ip("link set mv0 down")
		_, err := c.Probe(t.Context(), all, patient)
		if !errors.Is(err, ErrLinkDown) {
			t.Errorf("error %v, want ErrLinkDown", err)
		}
		mv0.ip("link set mv0 up")
		wantConflicts(t, mustProbe(t, c, all, patient), nil)
	})
	t.Run("link goes down meanwhile", func(t *testing.T) {
		all := addrs("192.0.2.1 2001:db8::1")
		c := mv0.open(all)
		time.AfterFunc(100*time.Millisecond, func() { mv0.ip("link del mv0") })
		_, err := c.Probe(t.Context(), all, ProbeConfig{Count: 1, Wait: time.Minute})
		if !errors.Is(err, ErrLinkDown) {
			t.Errorf("error %v, want ErrLinkDown", err)
		}
	})
}

func TestHeard(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	holds, probes := claim{addr: a, mac: otherMAC}, claim{addr: a, mac: ownMAC, probing: true}
	second := claim{addr: a, mac: ownMAC}
	cases := []struct {
		name   string
		claims []claim
		want   []Conflict
	}{
		{"not asked for", []claim{{addr: netip.MustParseAddr("192.0.2.9"), mac: otherMAC}}, nil},
		{"the holder counts for more than a claimant after it", []claim{holds, probes}, []Conflict{{Addr: a, MAC: otherMAC}}},
		{"and before it", []claim{probes, holds}, []Conflict{{Addr: a, MAC: otherMAC}}},
		{"the first of two holders", []claim{holds, second}, []Conflict{{Addr: a, MAC: otherMAC}}},
		{"the order is that of the addresses", []claim{{addr: b, mac: otherMAC}, holds}, []Conflict{{Addr: a, MAC: otherMAC}, {Addr: b, MAC: otherMAC}}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			p := &prober{addrs: []netip.Addr{a, b}, wanted: map[netip.Addr]bool{a: true, b: true}, conflicts: map[netip.Addr]Conflict{}, finish: func(error) {}}
			for _, cl := range tc.claims {
				p.heard(cl)
			}
			wantConflicts(t, p.result(), tc.want)
		})
	}
}

func TestConflictString(t *testing.T) {
	c := Conflict{Addr: netip.MustParseAddr("2001:db8::1"), MAC: otherMAC}
	if got, want := c.String(), "2001:db8::1 is in use by 02:00:5e:10:00:02"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	c.Probing = true
	if got, want := c.String(), "2001:db8::1 is being claimed by 02:00:5e:10:00:02"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// raw sends a packet of another station's making, from its MAC to one or to all.
func (s *station) raw(t *testing.T, to net.HardwareAddr, make func(*Conn, netip.Addr) (outgoing, error), addr netip.Addr) {
	t.Helper()
	c := s.open([]netip.Addr{addr})
	p, err := make(c, addr)
	if err != nil {
		t.Fatal(err)
	}
	if to != nil {
		p.to = to
	}
	if err := c.send(t.Context(), []outgoing{p}); err != nil {
		t.Fatal(err)
	}
}

// A switch that tracks addresses asks the station that had one last, by a probe
// to its MAC. That is no claim, whichever MAC the switch has.
func TestProbeIgnoresTracking(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	lower, mv0, higher := l.host(), l.service(l.host()), l.host()
	for s, mac := range map[*station]string{lower: "02:00:00:00:00:01", higher: "fe:ff:ff:ff:ff:fe"} {
		s.ip("link set eth0 address " + mac)
		s.readMAC()
	}
	all := addrs("192.0.2.1 2001:db8::1")
	for _, tt := range []struct {
		name   string
		sender *station
		to     net.HardwareAddr
		want   []Conflict
	}{
		{"tracked by a lower MAC", lower, mv0.mac, nil},
		{"tracked by a higher MAC", higher, mv0.mac, nil},
		{"claimed by a higher MAC", higher, nil, nil},
		{"claimed by a lower MAC", lower, nil, []Conflict{{Addr: all[0], MAC: lower.mac, Probing: true}, {Addr: all[1], MAC: lower.mac, Probing: true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := mv0.open(all)
			done := make(chan struct{})
			var found []Conflict
			go func() {
				defer close(done)
				var err error
				if found, err = c.Probe(t.Context(), all, patient); err != nil {
					t.Error(err)
				}
			}()
			for range 5 {
				time.Sleep(patient.Interval / 2)
				for _, a := range all {
					tt.sender.raw(t, tt.to, (*Conn).probe, a)
				}
			}
			<-done
			wantConflicts(t, found, tt.want)
		})
	}
}

// What was said after the last probing is not lost.
func TestHeardAfterwards(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0, other := l.service(l.host()), l.host()
	all := addrs("192.0.2.1 2001:db8::1 192.0.2.2")
	c := mv0.open(all)
	heard := func() []Conflict {
		found, err := c.Heard(all)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	wantConflicts(t, mustProbe(t, c, all, ProbeConfig{Count: 1, Wait: 50 * time.Millisecond}), nil)
	wantConflicts(t, heard(), nil)
	for _, a := range all[:2] {
		other.raw(t, nil, (*Conn).announcement, a)
	}
	var found []Conflict
	eventually(t, func() error {
		found = append(found, heard()...)
		if len(found) < 2 {
			return fmt.Errorf("heard of %v", found)
		}
		return nil
	})
	wantConflicts(t, found, []Conflict{{Addr: all[0], MAC: other.mac}, {Addr: all[1], MAC: other.mac}})
}

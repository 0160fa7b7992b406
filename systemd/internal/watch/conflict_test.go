package watch

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"macvlan-vip/tests/testnet"
)

var stranger = net.HardwareAddr{2, 0, 0, 0, 0, 0x66}

// sends has the LAN's link send frames.
func (l *lab) sends(frames ...[]byte) {
	l.t.Helper()
	l.lan.Do(func() error { return sendOn("port", frames...) })
}

func sendOn(link string, frames ...[]byte) error {
	l, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	return send(l.Index, frames...)
}

func must(frame []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return frame
}

// reply is an ARP reply to everybody, by which a station says that it has an
// address.
func (l *lab) claims(addr netip.Addr) { l.sends(must(announcement(addr, stranger))) }

// TestConflict: a station that begins to use a VIP is named within a second, once.
func TestConflict(t *testing.T) {
	l := newLab(t, "one", "two")
	v6 := netip.MustParseAddr("2001:db8::21")
	for _, c := range []struct {
		addr netip.Addr
		of   string
	}{{vip(0), "one"}, {v6, "two"}} {
		from := len(l.said(0))
		start := time.Now()
		l.claims(c.addr)
		said := fmt.Sprintf("VIP %s is used by %s, too", c.addr, stranger)
		l.await("a claim", from, c.of+": "+said+": find that station by its MAC")
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %s", took)
		}
		l.await("a claim", from, fmt.Sprintf("conflicts of %s: [%q]", c.of, said))
		l.await("a claim", from, said+": checking")
		l.await("a claim", from, "reload "+c.of)
		from = len(l.said(0))
		l.claims(c.addr)
		l.quiet("the same claim", from)
	}
}

// TestDAD: a station that asks whether it may have an IPv6 VIP (RFC 4862, section
// 5.4.3) is named, and once more if it takes it all the same.
func TestDAD(t *testing.T) {
	l := newLab(t, "one")
	v6 := netip.MustParseAddr("2001:db8::20")
	station := testnet.New(t)
	l.lan.IP("link add station link port netns " + filepath.Base(station.Path()) + " type macvlan mode vepa")
	station.IP("link set lo up")
	station.IP("link set station up")
	who := mac(station, "station")
	from := len(l.said(0))
	start := time.Now()
	station.IP("address add " + v6.String() + "/64 dev station")
	said := fmt.Sprintf("VIP %s is being claimed by %s, too", v6, who)
	l.await("a probe", from, "one: "+said+": find that station by its MAC")
	if took := time.Since(start); took > 2*time.Second {
		// The kernel waits a second at most before its first probe.
		t.Errorf("it took %s", took)
	}
	l.await("a probe", from, fmt.Sprintf("conflicts of one: [%q]", said))
	testnet.Eventually(t, "the station keeps off", func() error {
		if out := station.IP("address show dev station"); !strings.Contains(out, "dadfailed") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	from = len(l.said(0))
	l.sends(must(announcement(v6, parseMAC(t, who))))
	l.await("an announcement", from, fmt.Sprintf("one: VIP %s is used by %s, too", v6, who))
}

// TestNoConflict: what looks like a conflict and is none.
func TestNoConflict(t *testing.T) {
	l := newLab(t, "one")
	from := len(l.said(0))
	own := parseMAC(t, mac(l.services["one"], "mv0"))
	v6 := netip.MustParseAddr("2001:db8::20")
	l.sends(
		// A switch that tracks devices, and who probes for the address.
		must(question(vip(0), stranger)), toOne(must(question(v6, stranger))),
		// The host's own probes, which a switch sends back.
		must(question(v6, own)), must(question(v6, parseMAC(t, mac(l.host, "eth0")))), must(question(v6, parseMAC(t, mac(l.host, "mv-int")))),
		// Who looks for the VIP, and has an address of its own.
		asks(must(question(v6, stranger)), netip.MustParseAddr("2001:db8::77")),
		// Another address.
		must(announcement(netip.MustParseAddr("192.0.2.77"), stranger)),
		// The service's own, which a switch reflects.
		must(announcement(vip(0), own)),
		// An answer to somebody else's question, as of a proxy.
		toOne(must(announcement(vip(0), stranger))),
	)
	time.Sleep(500 * time.Millisecond)
	for _, line := range l.said(from) {
		if strings.Contains(line, "is used by") || strings.Contains(line, "is being claimed") {
			t.Error(line)
		}
	}
}

func parseMAC(t *testing.T, text string) net.HardwareAddr {
	t.Helper()
	addr, err := net.ParseMAC(text)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// asks gives a neighbour solicitation a sender.
func asks(frame []byte, from netip.Addr) []byte {
	copy(frame[ndpSource:], from.AsSlice())
	return frame
}

func mac(n *testnet.Namespace, link string) string {
	fields := strings.Fields(n.IP("-o link show " + link))
	for i, f := range fields {
		if f == "link/ether" {
			return fields[i+1]
		}
	}
	return ""
}

func toOne(frame []byte) []byte {
	copy(frame, net.HardwareAddr{2, 0, 0, 0, 0, 0x55})
	return frame
}

// TestDefend: with addressConflict "defend" the VIP is announced, by the service's
// MAC, and not again for ten seconds.
func TestDefend(t *testing.T) {
	l := newLabWith(t, conflictDefend, "one")
	want := mac(l.services["one"], "mv0")
	lan := l.lan.Capture("port")
	for range 3 {
		l.claims(vip(0))
		time.Sleep(100 * time.Millisecond)
	}
	announced := 0
	testnet.Eventually(t, "the VIP is announced", func() error {
		announced = 0
		for _, f := range lan.Frames() {
			p, _ := f.Layer(layers.LayerTypeARP).(*layers.ARP)
			if p != nil && net.HardwareAddr(p.SourceHwAddress).String() == want && net.IP(p.SourceProtAddress).String() == vip(0).String() {
				announced++
			}
		}
		if announced == 0 {
			return fmt.Errorf("%d frames", len(lan.Frames()))
		}
		return nil
	})
	if announced != 1 {
		t.Errorf("announced %d times", announced)
	}
}

// TestStationsInTurns: several stations that use one VIP are named once each, as far as
// there are few, and the VIP is not defended more often because of that.
func TestStationsInTurns(t *testing.T) {
	l := newLabWith(t, conflictDefend, "one")
	lan, from := l.lan.Capture("port"), len(l.said(0))
	all := make([]net.HardwareAddr, mostNamed+4)
	for i := range all {
		all[i] = net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}
	}
	for range 5 {
		for _, mac := range all {
			l.sends(must(announcement(vip(0), mac)))
			time.Sleep(10 * time.Millisecond)
		}
	}
	l.await("stations in turns", from, fmt.Sprintf("conflicts of one: [\"VIP %s is used by %s and %s and %s and %s, too\"]", vip(0), all[0], all[1], all[2], all[3]))
	said := strings.Join(l.said(from), "\n")
	if n := strings.Count(said, "find that station"); n != mostNamed {
		t.Errorf("%d stations are named, not %d:\n%s", n, mostNamed, said)
	}
	if n := strings.Count(said, "is defended"); n != 1 {
		t.Errorf("defended %d times:\n%s", n, said)
	}
	announced, own := 0, mac(l.services["one"], "mv0")
	for _, f := range lan.Frames() {
		if p, _ := f.Layer(layers.LayerTypeARP).(*layers.ARP); p != nil && net.HardwareAddr(p.SourceHwAddress).String() == own {
			announced++
		}
	}
	if announced > 1 {
		t.Errorf("announced %d times", announced)
	}
}

// TestStationLeaves: a station that is silent is reported no more, while another one is.
func TestStationLeaves(t *testing.T) {
	now := time.Now()
	c := &conflict{addr: vip(0)}
	c.take(use{mac: "a"}, now)
	c.take(use{mac: "b"}, now.Add(conflictLife-1))
	if c.forget(now.Add(conflictLife-1)) || !c.forget(now.Add(conflictLife)) || c.String() != "VIP "+vip(0).String()+" is used by b, too" {
		t.Errorf("%s", c)
	}
}

// TestIgnore: with addressConflict "ignore" nobody listens.
func TestIgnore(t *testing.T) {
	l := newLabWith(t, conflictIgnore, "one")
	from := len(l.said(0))
	l.claims(vip(0))
	l.quiet("a claim", from)
}

// TestCarrierBack: when the LAN is there again it is told where the VIPs are, and
// asked who else has them. Who answers for every address is no holder.
func TestCarrierBack(t *testing.T) {
	l := newLab(t, "one")
	flap := func() {
		l.lan.IP("link set port down")
		time.Sleep(1200 * time.Millisecond)
		l.lan.IP("link set port up")
	}
	holder := testnet.New(t)
	l.lan.IP("link add holder link port netns " + filepath.Base(holder.Path()) + " type macvlan mode vepa")
	holder.IP("link set lo up")
	holder.IP("link set holder up")
	t.Run("another holder", func(t *testing.T) {
		l.t = t
		from := len(l.said(0))
		lan := l.lan.Capture("port")
		flap()
		holder.IP("address add " + vip(0).String() + "/32 dev holder")
		l.await("a carrier again", from, "one: VIP 192.0.2.20 is used by")
		testnet.Eventually(t, "the VIP is announced", func() error {
			for _, f := range lan.Frames() {
				p, _ := f.Layer(layers.LayerTypeARP).(*layers.ARP)
				if p != nil && net.IP(p.SourceProtAddress).String() == vip(0).String() && net.IP(p.DstProtAddress).String() == vip(0).String() {
					return nil
				}
			}
			return fmt.Errorf("%d frames", len(lan.Frames()))
		})
		holder.IP("address del " + vip(0).String() + "/32 dev holder")
	})
	t.Run("a proxy for every address", func(t *testing.T) {
		l.t = t
		l = newLab(t, "one")
		proxy := testnet.New(t)
		l.lan.IP("link add proxy link port netns " + filepath.Base(proxy.Path()) + " type macvlan mode vepa")
		proxy.IP("link set lo up")
		proxy.IP("link set proxy up")
		// A local route for the whole network: the kernel answers for all of it.
		proxy.IP("route add local 192.0.2.0/24 dev lo")
		from := len(l.said(0))
		flap()
		l.await("a carrier again", from, "reload one")
		time.Sleep(time.Second)
		for _, line := range l.said(from) {
			if strings.Contains(line, "is used by") {
				t.Error(line)
			}
		}
	})
}

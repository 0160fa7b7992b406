package announce

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"macvlan-vip/tests/testnet"
)

func (s *station) tc(args string) ([]byte, error) {
	return exec.Command("tc", append([]string{"-n", s.name()}, strings.Fields(args)...)...).CombinedOutput()
}

// announced is the address that a frame announces, if it does.
func announced(f testnet.Frame) string {
	if a, ok := f.Layer(layers.LayerTypeARP).(*layers.ARP); ok && string(a.SourceProtAddress) == string(a.DstProtAddress) {
		return net.IP(a.SourceProtAddress).String()
	}
	if na, ok := f.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); ok {
		return na.TargetAddress.String()
	}
	return ""
}

// probed is the address that a frame probes for, if it does.
func probed(f testnet.Frame) (addr netip.Addr) {
	if a, ok := f.Layer(layers.LayerTypeARP).(*layers.ARP); ok && net.IP(a.SourceProtAddress).IsUnspecified() {
		addr, _ = netip.AddrFromSlice(a.DstProtAddress)
	}
	ns, ok := f.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
	if ok && f.NetworkLayer().(*layers.IPv6).SrcIP.IsUnspecified() && ns.TargetAddress.IsGlobalUnicast() {
		addr, _ = netip.AddrFromSlice(ns.TargetAddress)
	}
	return addr
}

// What the LAN sees is what the frames were made to be, with the macvlan's MAC
// as the source.
func TestOnTheWire(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0, peer := l.service(l.host()), l.host()
	all := addrs("192.0.2.1 2001:db8::1:2:3")
	frames := peer.Capture(peer.link)
	c := mv0.open(all)
	mustProbe(t, c, all, ProbeConfig{Count: 2, Interval: time.Millisecond, Wait: time.Millisecond})
	if err := c.Announce(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	mac := mv0.mac.String()
	probes := []string{
		mac + " > ff:ff:ff:ff:ff:ff ARP 1 192.0.2.1 is-at 00:00:00:00:00:00 tell 0.0.0.0 " + mac,
		mac + " > 33:33:ff:02:00:03 IP6 255 :: > ff02::1:ff02:3 NS 2001:db8::1:2:3 Nonce",
	}
	want := append(append(probes, probes...),
		mac+" > ff:ff:ff:ff:ff:ff ARP 1 192.0.2.1 is-at 00:00:00:00:00:00 tell 192.0.2.1 "+mac,
		mac+" > 33:33:00:00:00:01 IP6 255 2001:db8::1:2:3 > ff02::1 NA 2001:db8::1:2:3 flags 0x20 "+mac,
		mac+" > ff:ff:ff:ff:ff:ff ARP 2 192.0.2.1 is-at "+mac+" tell 192.0.2.1 "+mac,
	)
	eventually(t, func() error {
		var seen []string
		for _, f := range frames.Frames() {
			if what := describe(f); what != "" {
				seen = append(seen, what)
			}
		}
		if diff := cmp.Diff(want, seen); diff != "" {
			return fmt.Errorf("seen on the LAN (-want +got):\n%s", diff)
		}
		return nil
	})
}

// describe puts the fields that matter in a line, for what concerns the
// addresses of TestOnTheWire.
func describe(f testnet.Frame) string {
	eth, ok := f.LinkLayer().(*layers.Ethernet)
	if !ok {
		return ""
	}
	head := eth.SrcMAC.String() + " > " + eth.DstMAC.String()
	if a, ok := f.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		return head + describeARP(a)
	}
	ip, ok := f.NetworkLayer().(*layers.IPv6)
	if !ok {
		return ""
	}
	head += " IP6 " + strconv.Itoa(int(ip.HopLimit)) + " " + ip.SrcIP.String() + " > " + ip.DstIP.String()
	for _, layer := range f.Layers() {
		switch m := layer.(type) {
		case *layers.ICMPv6NeighborSolicitation:
			if m.TargetAddress.IsGlobalUnicast() {
				return head + " NS " + m.TargetAddress.String() + options(m.Options)
			}
		case *layers.ICMPv6NeighborAdvertisement:
			return head + " NA " + m.TargetAddress.String() + " flags 0x" + strconv.FormatUint(uint64(m.Flags), 16) + options(m.Options)
		}
	}
	return ""
}

func describeARP(a *layers.ARP) string {
	addr := func(b []byte) string { ip, _ := netip.AddrFromSlice(b); return ip.String() }
	return " ARP " + strconv.Itoa(int(a.Operation)) + " " + addr(a.DstProtAddress) +
		" is-at " + net.HardwareAddr(a.DstHwAddress).String() +
		" tell " + addr(a.SourceProtAddress) + " " + net.HardwareAddr(a.SourceHwAddress).String()
}

func options(opts layers.ICMPv6Options) (s string) {
	for _, o := range opts {
		switch {
		case o.Type == layers.ICMPv6OptTargetAddress:
			s += " " + net.HardwareAddr(o.Data).String()
		case o.Type == 14 && len(o.Data) == 6:
			s += " Nonce"
		default:
			s += " " + o.String()
		}
	}
	return s
}

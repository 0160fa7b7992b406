package lan

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"macvlan-vip/tests/page"
	"macvlan-vip/tests/testnet"
)

// The addresses of docs/threat-model.md.
const (
	hostMAC, webMAC, otherMAC = "02:00:5e:00:53:02", "02:00:5e:00:53:10", "02:00:5e:00:53:20"
	threatModel               = "../../docs/threat-model.md"
	// forgedPort is where forged datagrams go.
	forgedPort = 9009
)

// settle is how long a test waits for what is not to happen. Frames pass
// within microseconds; a busy machine may take longer.
const settle = 200 * time.Millisecond

var (
	routerAddr, peerAddr = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.5")
	routerAddr6          = netip.MustParseAddr("2001:db8::1")
	hostAddr, hostAddr6  = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	webVIP, otherVIP     = netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.20")
	webVIP6, otherVIP6   = netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("2001:db8::20")
	broadcastMAC         = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	strangeMAC           = net.HardwareAddr{2, 0, 0x5e, 0, 0x53, 0x99}
)

// threat is a host with two services: web, which somebody has taken over and
// who is root in its namespace, and another, on a LAN with a peer and a router.
type threat struct {
	*testing.T
	host, peer, router *station
	web, other         *service
	// protocol is what the taken-over service tells the kernel that its frames
	// are [the truth].
	protocol int
}

func newThreat(t *testing.T) *threat {
	t.Helper()
	th := newThreatLAN(t)
	th.web = th.host.service("web", fmt.Sprintf(`"mac": %q, %s`, webMAC, quick), "192.0.2.10/24", "2001:db8::10/64")
	th.other = th.host.service("other", fmt.Sprintf(`"mac": %q, %s`, otherMAC, quick), "192.0.2.20/24", "2001:db8::20/64")
	th.web.mustAdd(t)
	th.other.mustAdd(t)
	return th
}

// newThreatLAN is a threat without services.
func newThreatLAN(t *testing.T) *threat {
	t.Helper()
	l := newLAN(t)
	th := &threat{T: t, host: l.station(), peer: l.station("192.0.2.5/24", "2001:db8::5/64"), router: l.station("192.0.2.1/24", "2001:db8::1/64")}
	th.host.IP("link set eth0 address " + hostMAC)
	th.host.AddAddress("eth0", "192.0.2.2/24")
	th.host.AddAddress("eth0", "2001:db8::2/64")
	return th
}

// load loads the rules that a section of the page has, with nft(8).
func (th *threat) load(in *testnet.Namespace, section string) {
	th.Helper()
	in.NFT(th.rules(section))
}

// rules are those of a section of the page.
func (th *threat) rules(section string) string {
	th.Helper()
	blocks, err := page.Blocks(threatModel, section, "nft")
	if err != nil {
		th.Fatal(err)
	}
	return blocks[0]
}

// send sends a frame out of the taken-over service's link.
func (th *threat) send(layer ...gopacket.SerializableLayer) {
	th.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, layer...); err != nil {
		th.Fatal(err)
	}
	th.sendRaw(buf.Bytes())
}

func (th *threat) sendRaw(frame []byte) {
	th.Helper()
	wire := th.web.Service.WireOf("mv0", cmp.Or(th.protocol, unix.ETH_P_ALL))
	// A filter that drops it says that there is no room.
	if _, err := wire.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil && !errors.Is(err, unix.ENOBUFS) {
		th.Fatal(err)
	}
}

// arpSays is an ARP message by which addr is at mac.
func arpSays(op uint16, addr netip.Addr, mac, to net.HardwareAddr) []gopacket.SerializableLayer {
	return []gopacket.SerializableLayer{
		&layers.Ethernet{SrcMAC: mac, DstMAC: to, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: op,
			SourceHwAddress: mac, SourceProtAddress: addr.AsSlice(), DstHwAddress: to, DstProtAddress: addr.AsSlice(),
		},
	}
}

// datagram is a UDP datagram to forgedPort.
func datagram(srcMAC, dstMAC net.HardwareAddr, src, dst netip.Addr) []gopacket.SerializableLayer {
	udp := &layers.UDP{SrcPort: forgedPort, DstPort: forgedPort}
	if src.Is6() {
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		_ = udp.SetNetworkLayerForChecksum(ip)
		return []gopacket.SerializableLayer{
			&layers.Ethernet{SrcMAC: srcMAC, DstMAC: dstMAC, EthernetType: layers.EthernetTypeIPv6}, ip, udp, gopacket.Payload("forged"),
		}
	}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	_ = udp.SetNetworkLayerForChecksum(ip)
	return []gopacket.SerializableLayer{
		&layers.Ethernet{SrcMAC: srcMAC, DstMAC: dstMAC, EthernetType: layers.EthernetTypeIPv4}, ip, udp, gopacket.Payload("forged"),
	}
}

// advertisement says that an IPv6 address is at the service's MAC.
func (th *threat) advertisement(target netip.Addr) []byte {
	th.Helper()
	src, dst := netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("ff02::1")
	body, err := ndp.MarshalMessageChecksum(&ndp.NeighborAdvertisement{
		Override: true, TargetAddress: target,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac(th, webMAC)}},
	}, src, dst)
	if err != nil {
		th.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true},
		&layers.Ethernet{SrcMAC: mac(th, webMAC), DstMAC: allNodesMAC, EthernetType: layers.EthernetTypeIPv6},
		&layers.IPv6{Version: 6, HopLimit: ndp.HopLimit, NextHeader: layers.IPProtocolICMPv6, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()},
		gopacket.Payload(body)); err != nil {
		th.Fatal(err)
	}
	return buf.Bytes()
}

func mac(t testing.TB, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// wellBehaved: what both services and the host are for still works.
func (th *threat) wellBehaved() {
	th.Helper()
	th.host.pings(th.T, webVIP, otherVIP, webVIP6, otherVIP6, routerAddr)
	th.peer.pings(th.T, webVIP, otherVIP, webVIP6, otherVIP6, hostAddr, hostAddr6)
	for _, addr := range []netip.Addr{peerAddr, routerAddr} {
		if err := th.web.Service.Ping(addr); err != nil {
			th.Error(err)
		}
	}
}

// at asserts where a station has a neighbour.
func (th *threat) at(n *testnet.Namespace, link string, addr netip.Addr, want string) {
	th.Helper()
	eventually(th.T, func() error {
		if have := neighbours(n, link)[addr]; have != want {
			return fmt.Errorf("%s has %s at %q, want %q", link, addr, have, want)
		}
		return nil
	})
}

// forge sends the whole set of lies about the router and the peer.
func (th *threat) forge() {
	th.Helper()
	own := mac(th, webMAC)
	th.send(arpSays(layers.ARPReply, routerAddr, own, broadcastMAC)...)
	th.send(arpSays(layers.ARPRequest, routerAddr, own, broadcastMAC)...)
	th.send(arpSays(layers.ARPReply, routerAddr, strangeMAC, broadcastMAC)...)
	th.sendRaw(th.advertisement(routerAddr6))
	peer := mac(th, macOf(th.peer.Namespace, "eth0"))
	th.send(datagram(strangeMAC, peer, webVIP, peerAddr)...)
	th.send(datagram(own, peer, routerAddr, peerAddr)...)
	th.sendRaw(routerAdvertisement(th.T, webMAC))
}

// forged gives those of a capture, in words.
func forged(seen *testnet.Capture) (lies []string) {
	liars := []string{webMAC, strangeMAC.String()}
	for _, c := range seen.Claims() {
		if aboutRouter := c.Addr == routerAddr || c.Addr == routerAddr6; aboutRouter && c.Kind != testnet.Ask && c.Kind != testnet.Probe && slices.Contains(liars, c.MAC) {
			lies = append(lies, fmt.Sprintf("%s for %s at %s", c.Kind, c.Addr, c.MAC))
		}
	}
	for _, f := range seen.Frames() {
		from := f.LinkLayer().(*layers.Ethernet).SrcMAC.String()
		isARP := f.Layer(layers.LayerTypeARP) != nil
		ip, isIP := f.NetworkLayer().(*layers.IPv4)
		switch {
		case from == strangeMAC.String() && !isARP:
			lies = append(lies, "a frame from "+from)
		case from == webMAC && f.Layer(layers.LayerTypeICMPv6RouterAdvertisement) != nil:
			lies = append(lies, "a router advertisement")
		case from == webMAC && isIP && ip.SrcIP.Equal(routerAddr.AsSlice()):
			lies = append(lies, "a datagram from "+ip.SrcIP.String())
		}
	}
	return lies
}

package announce

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

const (
	macLen        = 6
	ipv6HeaderLen = 40

	// The ICMPv6 types of RFC 4861, sections 4.3 and 4.4.
	typeSolicitation  = 135
	typeAdvertisement = 136
)

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes  = netip.MustParseAddr("ff02::1")
)

// outgoing is a packet that probes for or announces addr, without the
// link-layer header.
type outgoing struct {
	addr    netip.Addr
	to      net.HardwareAddr
	payload []byte
}

// probe is an ARP probe (RFC 5227, section 2.1.1) or the neighbour solicitation
// of duplicate address detection (RFC 4862, section 5.4.2). Neither makes those
// who hear it remember anything of the sender.
func (c *Conn) probe(addr netip.Addr) (outgoing, error) {
	if addr.Is4() {
		return c.arpPacket(arp.OperationRequest, netip.IPv4Unspecified(), make(net.HardwareAddr, macLen), addr)
	}
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return outgoing{}, err
	}
	// RFC 7527: the nonce tells one's own solicitation, looped back, from
	// another station's. A source link-layer address is not allowed.
	return ndpPacket(addr, netip.IPv6Unspecified(), group, &ndp.NeighborSolicitation{
		TargetAddress: addr,
		Options:       []ndp.Option{c.nonce},
	})
}

// announcement is a gratuitous ARP request (RFC 5227, section 2.3) or an
// unsolicited neighbour advertisement (RFC 4861, section 7.2.6) that overrides
// what its hearers know.
func (c *Conn) announcement(addr netip.Addr) (outgoing, error) {
	if addr.Is4() {
		return c.arpPacket(arp.OperationRequest, addr, make(net.HardwareAddr, macLen), addr)
	}
	return ndpPacket(addr, addr, allNodes, &ndp.NeighborAdvertisement{
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: c.ifi.HardwareAddr}},
	})
}

// gratuitousReply is the announcement for those that learn from replies only.
// Linux takes one for gratuitous, and lets it replace an entry younger than a
// second, only if the target's MAC is the sender's.
func (c *Conn) gratuitousReply(addr netip.Addr) (outgoing, error) {
	return c.arpPacket(arp.OperationReply, addr, c.ifi.HardwareAddr, addr)
}

func (c *Conn) arpPacket(op arp.Operation, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr) (outgoing, error) {
	p, err := arp.NewPacket(op, c.ifi.HardwareAddr, sender, targetMAC, target)
	if err != nil {
		return outgoing{}, fmt.Errorf("make an ARP packet for %s: %w", target, err)
	}
	payload, err := p.MarshalBinary()
	return outgoing{addr: target, to: broadcast, payload: payload}, err
}

func ndpPacket(addr, src, dst netip.Addr, m ndp.Message) (outgoing, error) {
	body, err := ndp.MarshalMessageChecksum(m, src, dst)
	if err != nil {
		return outgoing{}, fmt.Errorf("make an NDP message for %s: %w", addr, err)
	}
	b := make([]byte, ipv6HeaderLen, ipv6HeaderLen+len(body))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	b[6], b[7] = unix.IPPROTO_ICMPV6, ndp.HopLimit
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return outgoing{addr: addr, to: multicastMAC(dst), payload: append(b, body...)}, nil
}

// multicastMAC is the MAC of an IPv6 multicast group (RFC 2464, section 7).
func multicastMAC(group netip.Addr) net.HardwareAddr {
	g := group.As16()
	return net.HardwareAddr{0x33, 0x33, g[12], g[13], g[14], g[15]}
}

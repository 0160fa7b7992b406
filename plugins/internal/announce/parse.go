package announce

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// A claim is what a packet says of an address: that the station with this MAC
// has it, or, when probing, that it is about to take it.
type claim struct {
	addr    netip.Addr
	mac     net.HardwareAddr
	probing bool
}

// parseARP reads an ARP packet as RFC 5227, section 2.1.1, says: whoever names
// an address as the sender's claims it, and so does another's probe for it.
func parseARP(b []byte) (claim, bool) {
	var p arp.Packet
	if err := p.UnmarshalBinary(b); err != nil {
		return claim{}, false
	}
	if p.ProtocolType != unix.ETH_P_IP || p.HardwareAddrLength != macLen || p.IPLength != 4 {
		return claim{}, false
	}
	if !p.SenderIP.IsUnspecified() {
		return claim{addr: p.SenderIP, mac: p.SenderHardwareAddr}, true
	}
	return claim{addr: p.TargetIP, mac: p.SenderHardwareAddr, probing: true}, p.Operation == arp.OperationRequest
}

// parseNDP reads an IPv6 packet as RFC 4862, sections 5.4.3 and 5.4.4, says: an
// advertisement claims its target, and so does a solicitation from the
// unspecified address, unless it carries the nonce of our own (RFC 7527). Other
// solicitations are of stations that look for the address. from is the MAC that
// the packet came from.
func parseNDP(b []byte, from net.HardwareAddr, own *ndp.Nonce) (claim, bool) {
	src, dst, body, ok := icmpv6(b)
	if !ok {
		return claim{}, false
	}
	m, err := ndp.ParseMessage(body)
	if err != nil {
		return claim{}, false
	}
	switch m := m.(type) {
	case *ndp.NeighborAdvertisement:
		valid := !m.TargetAddress.IsMulticast() && (!m.Solicited || !dst.IsMulticast())
		return claim{addr: m.TargetAddress, mac: targetMAC(m, from)}, valid
	case *ndp.NeighborSolicitation:
		group, err := ndp.SolicitedNodeMulticast(m.TargetAddress)
		valid := err == nil && src.IsUnspecified() && dst == group && !m.TargetAddress.IsMulticast()
		return claim{addr: m.TargetAddress, mac: from, probing: true}, valid && !carries(m, own)
	}
	return claim{}, false
}

// icmpv6 returns the ICMPv6 message of an IPv6 packet that passes the checks of
// RFC 4861, sections 7.1.1 and 7.1.2, that all messages are to pass.
func icmpv6(b []byte) (src, dst netip.Addr, body []byte, ok bool) {
	if len(b) < ipv6HeaderLen || b[0]>>4 != 6 || b[6] != unix.IPPROTO_ICMPV6 || b[7] != ndp.HopLimit {
		return src, dst, nil, false
	}
	// Short Ethernet frames are padded: the packet's own length counts.
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < 4 || length > len(b)-ipv6HeaderLen {
		return src, dst, nil, false
	}
	src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	body = b[ipv6HeaderLen : ipv6HeaderLen+length]
	return src, dst, body, body[1] == 0 && checksum(b[8:ipv6HeaderLen], body) == 0xffff
}

// checksum sums up an ICMPv6 message and its pseudo-header (RFC 8200, section
// 8.1); of a message that is whole the sum is 0xffff.
func checksum(addrs, body []byte) uint16 {
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	for _, part := range [][]byte{addrs, body} {
		for i, v := range part {
			if i%2 == 0 {
				sum += uint32(v) << 8
			} else {
				sum += uint32(v)
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// targetMAC is the MAC at which the advertisement's target is reached.
func targetMAC(m *ndp.NeighborAdvertisement, from net.HardwareAddr) net.HardwareAddr {
	for _, o := range m.Options {
		if lla, ok := o.(*ndp.LinkLayerAddress); ok && lla.Direction == ndp.Target {
			return lla.Addr
		}
	}
	return from
}

func carries(m *ndp.NeighborSolicitation, nonce *ndp.Nonce) bool {
	for _, o := range m.Options {
		if n, ok := o.(*ndp.Nonce); ok && n.Equal(nonce) {
			return true
		}
	}
	return false
}

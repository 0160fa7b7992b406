package bench

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// ethernet is a frame's header (IEEE 802.3).
func ethernet(to, from net.HardwareAddr, protocol uint16) []byte {
	return binary.BigEndian.AppendUint16(slices.Concat(to, from), protocol)
}

var everyone = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// arpRequest is one of RFC 826.
func arpRequest(mac net.HardwareAddr, from, target netip.Addr) []byte {
	return slices.Concat(ethernet(everyone, mac, unix.ETH_P_ARP), []byte{0, 1, 8, 0, 6, 4, 0, 1},
		mac, from.AsSlice(), make([]byte, 6), target.AsSlice())
}

// ipv6 is a packet to a multicast group. The checksum is 2 bytes of its body, all of which
// are given but that.
func ipv6(mac net.HardwareAddr, source, group netip.Addr, next byte, body []byte, sumAt int) []byte {
	from, to := source.As16(), group.As16()
	binary.BigEndian.PutUint16(body[sumAt:], checksum(slices.Concat(from[:], to[:]), next, body))
	head := slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(body)), next, 255}, from[:], to[:])
	return slices.Concat(ethernet(slices.Concat(net.HardwareAddr{0x33, 0x33}, to[12:]), mac, unix.ETH_P_IPV6), head, body)
}

// linkLocal is the address that the LAN's end of a cable sends from.
var linkLocal = netip.MustParseAddr("fe80::99")

// solicitation is a neighbour solicitation (RFC 4861, section 4.3). One from the
// unspecified address is duplicate address detection's, and has no option.
func solicitation(mac net.HardwareAddr, from, target netip.Addr) []byte {
	t := target.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	body := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, t[:])
	if !from.IsUnspecified() {
		body = slices.Concat(body, []byte{1, 1}, mac)
	}
	return ipv6(mac, from, group, unix.IPPROTO_ICMPV6, body, 2)
}

// allNodes is a datagram for a port that nobody listens on, to all nodes.
func allNodes(mac net.HardwareAddr) []byte {
	return ipv6(mac, linkLocal, netip.MustParseAddr("ff02::1"), unix.IPPROTO_UDP, []byte{0, 9, 0, 9, 0, 8, 0, 0}, 6)
}

// checksum is the one of RFC 4443, section 2.3.
func checksum(pseudo []byte, next byte, body []byte) uint16 {
	data := slices.Concat(pseudo, []byte{0, 0, 0, byte(len(body)), 0, 0, 0, next}, body)
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

package plan

import (
	"math/rand/v2"
	"net/netip"
	"slices"
)

// documentation are prefixes that nobody has (RFC 5737).
var documentation = []netip.Prefix{
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
}

// Decoys are addresses that nobody has. A station that answers for a VIP, and
// for all of a group of them, answers for every address. One group is of the
// VIP's own network, and has two of IPv4, of which one could be in use. Another
// is for documentation, which a router with proxy ARP has a route to. in holds
// the VIPs with their networks.
func Decoys(vip netip.Addr, in []netip.Prefix) (groups [][]netip.Addr) {
	if vip.Is6() {
		// In a network of 64 bits a random interface identifier is free.
		return [][]netip.Addr{{random(netip.PrefixFrom(vip, 64))}}
	}
	for _, p := range documentation {
		if !slices.ContainsFunc(in, p.Overlaps) {
			groups = append(groups, []netip.Addr{random(p)})
			break
		}
	}
	i := slices.IndexFunc(in, func(p netip.Prefix) bool { return p.Addr() == vip && p.Bits() <= 28 })
	if i < 0 {
		return groups
	}
	var own []netip.Addr
	for len(own) < 2 {
		addr := random(in[i])
		if addr != vip && !slices.Contains(own, addr) {
			own = append(own, addr)
		}
	}
	return append(groups, own)
}

// random picks an address of a network, neither the first nor the last.
func random(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= byte(rand.N(2)) << (7 - bit%8)
	}
	addr, _ := netip.AddrFromSlice(b)
	if addr == p.Masked().Addr() || addr.Is4() && addr == Broadcast(p) {
		return random(p)
	}
	return addr
}

package config

import (
	"net"
	"net/netip"
)

// PrefixOf converts an address with its mask, keeping the host bits.
func PrefixOf(n net.IPNet) (netip.Prefix, bool) {
	addr, ok := AddrOf(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	if bits == 0 {
		return netip.Prefix{}, false
	}
	// A 16-byte mask with a 4-byte address: what net.IPNet makes of ::ffff:a.b.c.d/n.
	if bits == 128 && addr.Is4() {
		ones -= 96
	}
	if bits == 32 && !addr.Is4() {
		return netip.Prefix{}, false
	}
	p := netip.PrefixFrom(addr, ones)
	return p, p.IsValid()
}

// AddrOf converts an address; IPv4 comes out as four bytes.
func AddrOf(ip net.IP) (netip.Addr, bool) {
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}

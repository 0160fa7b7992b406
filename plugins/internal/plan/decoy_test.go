package plan

import (
	"net/netip"
	"testing"
)

// TestDecoys: they are of the VIP's family, none is a VIP, and those that are
// alone in a group are of a network in which nobody can be.
func TestDecoys(t *testing.T) {
	for vip, groups := range map[string]int{
		"10.0.0.10/16": 2, "192.0.2.10/24": 2, "192.0.2.10/29": 1, "10.0.0.10/32": 1, "2001:db8::10/64": 1, "2001:db8::10/128": 1, "fe80::10/64": 1,
	} {
		p := netip.MustParsePrefix(vip)
		got := Decoys(p.Addr(), []netip.Prefix{netip.MustParsePrefix("198.51.100.9/32"), p})
		if len(got) != groups {
			t.Errorf("%s: %v, want %d groups", vip, got, groups)
		}
		for _, group := range got {
			for _, addr := range group {
				inOwn := p.Masked().Contains(addr)
				switch {
				case addr == p.Addr(), addr.Is4() != p.Addr().Is4():
					t.Errorf("%s: %s", vip, addr)
				case addr.Is4() && inOwn != (len(group) == 2):
					t.Errorf("%s: %v", vip, group)
				case addr.Is6() && !netip.PrefixFrom(p.Addr(), 64).Masked().Contains(addr):
					t.Errorf("%s: %s is of another network", vip, addr)
				}
			}
		}
	}
}

package main

import (
	"net/netip"
	"testing"

	"macvlan-vip/plugins/internal/plan"
)

func TestSettledSource(t *testing.T) {
	host := func(prefix string, stable bool) plan.AddrFacts {
		return plan.AddrFacts{Prefix: netip.MustParsePrefix(prefix), Stable: stable}
	}
	v4, v6 := host("192.0.2.2/24", true), host("2001:db8::2/64", true)
	temporary, elsewhere := host("2001:db8::abcd/64", false), host("2001:db8:1::2/64", true)
	for name, c := range map[string]struct {
		src   string
		addrs []plan.AddrFacts
		want  string
	}{
		"lasting":                           {"192.0.2.2", []plan.AddrFacts{v4, v6}, "192.0.2.2"},
		"lasting, with a sibling before it": {"192.0.2.2", []plan.AddrFacts{host("192.0.2.1/24", true), v4}, "192.0.2.2"},
		"temporary":                         {"2001:db8::abcd", []plan.AddrFacts{temporary, v4, elsewhere, v6}, "2001:db8::2"},
		"temporary, alone in its network":   {"2001:db8::abcd", []plan.AddrFacts{temporary, elsewhere}, "2001:db8::abcd"},
		"none of the host's":                {"198.51.100.1", []plan.AddrFacts{v4, v6}, "198.51.100.1"},
		"link-local":                        {"fe80::2", []plan.AddrFacts{host("fe80::2/64", true), v6}, ""},
		"loopback":                          {"::1", []plan.AddrFacts{v4}, ""},
		"link-local of IPv4":                {"169.254.0.2", []plan.AddrFacts{host("169.254.0.2/16", true)}, "169.254.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			var want netip.Addr
			if c.want != "" {
				want = netip.MustParseAddr(c.want)
			}
			if got := settled(netip.MustParseAddr(c.src), c.addrs); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

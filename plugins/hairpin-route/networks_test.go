package main

import (
	"fmt"
	"net/netip"
	"testing"

	"macvlan-vip/plugins/internal/plan"
)

func TestNearest(t *testing.T) {
	host := func(prefix string, usable bool) plan.AddrFacts {
		return plan.AddrFacts{Prefix: netip.MustParsePrefix(prefix), Usable: usable}
	}
	lan, temporary, old := host("2001:db8:7::1/64", true), host("2001:db8:7::abcd/64", true), host("2001:db8:8::bad/64", false)
	lo, ula, v4 := host("2001:db8:9::9/128", true), host("fd17::1/64", true), host("192.0.2.1/24", true)
	for _, c := range []struct {
		vip   string
		addrs []plan.AddrFacts
		want  string
	}{
		{"2001:db8:7::10", []plan.AddrFacts{v4, ula, lo, lan, temporary}, "[2001:db8:7::1 2001:db8:7::abcd]"},
		// What is alike beyond the prefix length does not count.
		{"2001:db8:7::abcf", []plan.AddrFacts{lan, temporary}, "[2001:db8:7::1 2001:db8:7::abcd]"},
		{"2001:db8:8::10", []plan.AddrFacts{lan, lo, old}, "[2001:db8:9::9]"},
		{"fd00::10", []plan.AddrFacts{lan, ula}, "[fd17::1]"},
		{"2001:db8:7::10", []plan.AddrFacts{v4}, "[]"},
	} {
		if got := fmt.Sprint(nearest(netip.MustParseAddr(c.vip), c.addrs)); got != c.want {
			t.Errorf("%s: %s, want %s", c.vip, got, c.want)
		}
	}
}

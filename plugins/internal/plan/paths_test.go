package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addrs(text string) (all []netip.Addr) {
	for _, a := range strings.Fields(text) {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func TestCover(t *testing.T) {
	for _, c := range []struct{ mine, others, want string }{
		{"10.0.0.10", "10.0.0.20", "10.0.0.10/32"},
		{"10.0.0.10 10.0.0.11", "10.0.0.20", "10.0.0.10/31"},
		{"10.0.0.1 10.0.3.9", "10.1.0.1", "10.0.0.0/22"},
		{"10.0.0.1 10.0.0.200", "10.0.0.100", "10.0.0.1/32 10.0.0.200/32"},
		{"10.0.0.1 10.0.0.3 10.0.0.200", "10.0.0.100", "10.0.0.0/30 10.0.0.200/32"},
		{"10.0.0.1 10.0.0.3", "10.0.0.2", "10.0.0.1/32 10.0.0.3/32"},
		{"10.0.0.1 200.0.0.1", "11.0.0.1", "10.0.0.1/32 200.0.0.1/32"},
		{"10.0.0.3 10.0.0.1 10.0.0.3", "", "10.0.0.0/30"},
		// One address on two links can be led one way only.
		{"10.0.0.1", "10.0.0.1", "10.0.0.1/32"},
		{"2001:db8::10 2001:db8::1f", "2001:db8::20", "2001:db8::10/124"},
	} {
		if got := fmt.Sprint(cover(addrs(c.mine), addrs(c.others))); got != "["+c.want+"]" {
			t.Errorf("%s without %s: %s, want %s", c.mine, c.others, got, c.want)
		}
	}
}

// TestCoverOfMany: a thousand addresses in a row need a handful of rules, and
// each address of two links that have every other one is led to its own.
func TestCoverOfMany(t *testing.T) {
	var row, even, odd []netip.Addr
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(1 + i%250)})
		row = append(row, a)
		if a.As4()[3]%2 == 0 {
			even = append(even, a)
		} else {
			odd = append(odd, a)
		}
	}
	if got := cover(row, addrs("10.0.0.251 10.0.4.1")); len(got) > 10 {
		t.Errorf("%d rules: %s", len(got), got)
	}
	within := func(a netip.Addr) func(netip.Prefix) bool {
		return func(p netip.Prefix) bool { return p.Contains(a) }
	}
	of := cover(even, odd)
	for i, a := range even {
		if !slices.ContainsFunc(of, within(a)) || slices.ContainsFunc(of, within(odd[i])) {
			t.Fatalf("%s or %s is led to the other's link", a, odd[i])
		}
	}
}

func TestPaths(t *testing.T) {
	prefix := netip.MustParsePrefix
	p := Paths{
		Link: LinkFacts{Name: "mv1", Index: 3},
		Own:  addrs("10.1.0.10 10.1.0.11 2001:db8:1::10"),
		Routes: []Route{
			{Side: Service, Link: "mv1", Dst: prefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.1.0.254")},
			{Side: Service, Link: "mv1", Dst: prefix("2001:db8:1::/64")},
		},
	}
	if alone := p.Plan(); !cmp.Equal(alone, Desired{}, sameAddr) {
		t.Errorf("alone in its namespace it needs nothing: %+v", alone)
	}
	p.Others = addrs("10.0.0.10")
	want := Desired{
		Rules:   []Rule{{Service, prefix("10.1.0.10/31"), 118003, 11801}},
		Routes:  []Route{{Side: Service, Link: "mv1", Dst: prefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.1.0.254"), Table: 118003}},
		Sysctls: []Sysctl{{Side: Service, Key: "net/ipv4/conf/mv1/ignore_routes_with_linkdown", Value: "1"}},
	}
	if diff := cmp.Diff(want, p.Plan(), sameAddr); diff != "" {
		t.Errorf("the other has IPv4 alone: %s", diff)
	}
	p.Others = addrs("10.0.0.10 2001:db8::10")
	if d := p.Plan(); len(d.Rules) != 2 || len(d.Routes) != 2 || d.Rules[1].Priority != 11800 {
		t.Errorf("both families: %+v", d)
	}
}

package plan

import (
	"net/netip"
	"slices"
)

const (
	// tableBase and the index of a link are the number of the link's own
	// routing table.
	tableBase = Protocol * 1000
	// ruleBase is the priority of the rule for a single address, and those for
	// larger groups follow: behind table local (0), before main (32766).
	ruleBase = Protocol * 100
)

// LinkOfTable is the index of the link whose own routing table has a number.
func LinkOfTable(table int) int { return table - tableBase }

// Paths is what there is to know of one link of a namespace to plan that the
// answers of its addresses leave by it, though the namespace has other links.
type Paths struct {
	Link LinkFacts
	// Own are the link's addresses, Others those of the other links.
	Own, Others []netip.Addr
	// Routes are those out of the link in the main table.
	Routes []Route
}

// Plan is empty for a link that has the namespace to itself. Else it gives the
// link a table with its routes, and leads what its addresses send there; what
// is sent from no address yet goes by the main table, as before. A link whose
// cable is out is passed over then.
func (p Paths) Plan() Desired {
	var d Desired
	for _, v4 := range []bool{true, false} {
		is := func(a netip.Addr) bool { return a.Is4() == v4 }
		own, others := only(p.Own, is), only(p.Others, is)
		if len(own) == 0 || len(others) == 0 {
			continue
		}
		table := tableBase + p.Link.Index
		for _, from := range cover(own, others) {
			d.Rules = append(d.Rules, Rule{Side: Service, From: from, Table: table, Priority: ruleBase + from.Addr().BitLen() - from.Bits()})
		}
		for _, r := range p.Routes {
			if is(r.Dst.Addr()) {
				r.Table = table
				d.Routes = append(d.Routes, r)
			}
		}
		family := map[bool]string{true: "ipv4", false: "ipv6"}[v4]
		d.Sysctls = append(d.Sysctls, Sysctl{Side: Service, Key: "net/" + family + "/conf/" + p.Link.Name + "/ignore_routes_with_linkdown", Value: "1"})
	}
	return d
}

func only(addrs []netip.Addr, is func(netip.Addr) bool) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !is(a) })
}

// cover gives the fewest prefixes that hold all of mine and none of others:
// the kernel goes through rules one by one for every packet. Of rules that were
// planned at different times the longer prefix is the one that knew of the
// shorter, so it comes first.
func cover(mine, others []netip.Addr) []netip.Prefix {
	mine = slices.Clone(mine)
	slices.SortFunc(mine, netip.Addr.Compare)
	return coverSorted(slices.Compact(mine), others)
}

func coverSorted(mine, others []netip.Addr) []netip.Prefix {
	all := CommonPrefix(mine[0], mine[len(mine)-1])
	others = only(others, all.Contains)
	if len(others) == 0 || all.IsSingleIP() {
		return []netip.Prefix{all}
	}
	// The first half of what the prefix holds has another bit behind it.
	half := netip.PrefixFrom(mine[0], all.Bits()+1).Masked()
	i := slices.IndexFunc(mine, func(a netip.Addr) bool { return !half.Contains(a) })
	return append(coverSorted(mine[:i], others), coverSorted(mine[i:], others)...)
}

// CommonPrefix is the longest that holds two addresses of one family.
func CommonPrefix(a, b netip.Addr) netip.Prefix {
	bits := a.BitLen()
	for !netip.PrefixFrom(a, bits).Contains(b) {
		bits--
	}
	return netip.PrefixFrom(a, bits).Masked()
}

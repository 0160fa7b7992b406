// Package uplink chooses the link of the host that a VIP belongs on.
package uplink

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is one of the host's, with its addresses and the gateways of the host's
// default routes on it, the preferred one of each family first.
type Link struct {
	Name     string
	Prefixes []netip.Prefix
	Gateways []netip.Addr
}

func (l Link) String() string {
	words := []string{l.Name}
	for _, p := range l.Prefixes {
		words = append(words, p.String())
	}
	return strings.Join(words, " ")
}

// Gateway is the host's default gateway of a family on the link.
func (l Link) Gateway(is4 bool) (netip.Addr, bool) {
	i := slices.IndexFunc(l.Gateways, func(a netip.Addr) bool { return a.Is4() == is4 })
	if i < 0 {
		return netip.Addr{}, false
	}
	return l.Gateways[i], true
}

// All lists the links that can have a LAN, those with a MAC.
func All() ([]Link, error) {
	h, err := netlinksafe.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	found, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	routes, err := defaults(h)
	if err != nil {
		return nil, err
	}
	var all []Link
	for _, l := range found {
		if len(l.Attrs().HardwareAddr) != 6 || l.Type() == "macvlan" && strings.HasPrefix(l.Attrs().Alias, "macvlan-vip") {
			continue
		}
		link := Link{Name: l.Attrs().Name}
		if link.Prefixes, err = prefixes(h, l); err != nil {
			return nil, err
		}
		link.Gateways = gateways(routes, l, tableOf(l, found))
		all = append(all, link)
	}
	return all, nil
}

func prefixes(h netlinksafe.Handle, l netlink.Link) (all []netip.Prefix, err error) {
	addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		if ones, _ := a.Mask.Size(); ok && a.Scope == unix.RT_SCOPE_UNIVERSE {
			all = append(all, netip.PrefixFrom(addr.Unmap(), ones))
		}
	}
	return all, nil
}

// defaults are the default routes of all tables, in the order of their metrics.
func defaults(h netlinksafe.Handle) ([]netlink.Route, error) {
	var all []netlink.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil {
			return nil, fmt.Errorf("default routes: %w", err)
		}
		all = append(all, routes...)
	}
	slices.SortStableFunc(all, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	return all, nil
}

// tableOf is the table of the routes on a link: that of the VRF that it is in, or else main.
func tableOf(l netlink.Link, links []netlink.Link) int {
	for _, upper := range links {
		if vrf, ok := upper.(*netlink.Vrf); ok && vrf.Index == l.Attrs().MasterIndex {
			return int(vrf.Table)
		}
	}
	return unix.RT_TABLE_MAIN
}

// gateways are those of a table's routes on a link.
func gateways(routes []netlink.Route, l netlink.Link, table int) (all []netip.Addr) {
	for _, r := range routes {
		if r.Table != table {
			continue
		}
		hops := r.MultiPath
		if len(hops) == 0 {
			hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
		}
		for _, hop := range hops {
			if addr, ok := netip.AddrFromSlice(hop.Gw); ok && hop.LinkIndex == l.Attrs().Index {
				all = append(all, addr.Unmap())
			}
		}
	}
	return all
}

// Master chooses the link whose prefix holds every VIP for which there is one;
// of several prefixes the longest counts, as in routing.
func Master(links []Link, vips []netip.Prefix) (Link, error) {
	var candidates []Link
	held := false
	for _, vip := range vips {
		holders := holding(links, vip.Addr())
		if len(holders) == 0 {
			continue
		}
		if !held {
			candidates, held = holders, true
			continue
		}
		candidates = slices.DeleteFunc(candidates, func(l Link) bool {
			return !slices.ContainsFunc(holders, func(h Link) bool { return h.Name == l.Name })
		})
	}
	switch {
	case len(candidates) == 1:
		return candidates[0], nil
	case len(candidates) > 1:
		return Link{}, fmt.Errorf("--master: more than one link has a prefix that holds %s; name one of: %s", words(vips), words(candidates))
	case held:
		return Link{}, fmt.Errorf("--master: no link has prefixes that hold all of %s; name one of: %s", words(vips), words(links))
	default:
		return Link{}, fmt.Errorf("--master: no link has a prefix that holds %s; name one of: %s", words(vips), words(links))
	}
}

// holding are the links with the longest prefix that holds an address.
func holding(links []Link, addr netip.Addr) (best []Link) {
	longest := -1
	for _, l := range links {
		bits := -1
		for _, p := range l.Prefixes {
			if p.Contains(addr) {
				bits = max(bits, p.Bits())
			}
		}
		if bits > longest {
			longest, best = bits, nil
		}
		if bits >= 0 && bits == longest {
			best = append(best, l)
		}
	}
	return best
}

func words[T fmt.Stringer](all []T) string {
	texts := make([]string, len(all))
	for i, a := range all {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

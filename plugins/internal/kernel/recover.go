package kernel

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/plan"
)

// Ways finds the ways to some addresses that are there and can only be ours:
// routes of our protocol, in a table and of a metric, and permanent neighbour
// entries on macvlans. It is for the time when no record tells of them.
func (n *Namespace) Ways(table, metric int, to []netip.Addr) (d plan.Desired, err error) {
	wanted := make(map[netip.Addr]bool, len(to))
	for _, addr := range to {
		wanted[addr] = true
	}
	links, err := n.handle.LinkList()
	if err != nil {
		return d, fmt.Errorf("%s: list links: %w", n.side, err)
	}
	for _, l := range links {
		if l.Type() != plan.KindMacvlan {
			continue
		}
		entries, err := n.neighbours(l.Attrs().Index)
		if err != nil {
			return d, err
		}
		for addr, e := range entries {
			if wanted[addr] && e.state&unix.NUD_PERMANENT != 0 {
				d.Neighbours = append(d.Neighbours, plan.Neighbour{Side: n.side, Link: l.Attrs().Name, Addr: addr, MAC: e.mac})
			}
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := n.routes(routeKey{table, family, 0}, func(r netlink.Route) bool {
			dst, ok := destination(r)
			return ok && dst.IsSingleIP() && wanted[dst.Addr()] && r.Protocol == plan.Protocol && r.Priority == metric
		})
		if err != nil {
			return d, err
		}
		d.Routes = append(d.Routes, n.recovered(routes)...)
	}
	return d, nil
}

// recovered are the plans of routes to single addresses, as far as their links
// are still there.
func (n *Namespace) recovered(routes []netlink.Route) (plans []plan.Route) {
	for _, r := range routes {
		dst, _ := destination(r)
		if l, err := n.handle.LinkByIndex(r.LinkIndex); err == nil {
			src, _ := netip.AddrFromSlice(r.Src)
			plans = append(plans, plan.Route{
				Side: n.side, Link: l.Attrs().Name, Dst: dst, Source: src.Unmap(), Table: r.Table, Metric: r.Priority, Exclusive: true,
			})
		}
	}
	return plans
}

// ForwardingOf finds the entry that the bridge under a service's link has for it, unless
// the link is gone or not ours. It is for the time when no record tells of it.
func (k *Kernel) ForwardingOf(l plan.Link) ([]plan.Forwarding, error) {
	if k.Service == nil {
		return nil, nil
	}
	f, found, err := k.Service.Link(l.Name)
	if err != nil || !found || !isOurs(f, l) {
		return nil, err
	}
	at := k.Host
	if k.Service.links[l.Name].Attrs().NetNsID < 0 {
		at = k.Service
	}
	lower, err := at.handle.LinkByIndex(f.Lower)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("link under %s: %w", l, err)
	}
	bridge := at.bridgeUnder(lower)
	if bridge == "" || lower.Attrs().HardwareAddr.String() == f.MAC {
		return nil, nil
	}
	return []plan.Forwarding{{Side: at.side, Bridge: bridge, MAC: f.MAC}}, nil
}

// RulesOf finds the rules that keep the answers of an attachment's link on it,
// which the link's alias tells from another's, and those of links that are gone or
// that other plugins made. It is for the time when no record tells of them.
func (n *Namespace) RulesOf(name, alias string) (found []plan.Rule, err error) {
	all, err := n.rules()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	links, err := n.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("%s: list links: %w", n.side, err)
	}
	others := map[int]bool{}
	for _, l := range links {
		if l.Type() == plan.KindMacvlan && (l.Attrs().Name != name || l.Attrs().Alias != alias) {
			others[l.Attrs().Index] = true
		}
	}
	for _, r := range all {
		if !others[plan.LinkOfTable(r.Table)] {
			found = append(found, r)
		}
	}
	return found, nil
}

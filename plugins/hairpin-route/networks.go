package main

import (
	"cmp"
	"net/netip"
	"slices"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/plan"
)

// allHosts is a multicast address (RFC 1112) to which the kernel sends from
// the same address that it masquerades with: for both it takes the first one
// of the link that a packet leaves by, or, where that has none, of the host's
// links in order (inet_select_addr in net/ipv4/devinet.c).
var allHosts = netip.AddrFrom4([4]byte{224, 0, 0, 1})

// masquerades finds the addresses that the host's own rules can give to what
// it forwards to the VIPs. Since the host-side link has none, and the route's
// source does not count, they can be on any link, lo included.
func (a *attachment) masquerades(addrs []plan.AddrFacts) (all []netip.Addr, err error) {
	if slices.ContainsFunc(a.facts.VIPs, netip.Addr.Is4) {
		found, err := a.K.Host.SourcesTo([]netip.Addr{allHosts}, a.facts.HostLink)
		if err != nil {
			return nil, err
		}
		for _, src := range found {
			all = append(all, src)
		}
	}
	for _, vip := range a.facts.VIPs {
		if vip.Is6() && !plan.LinkLocal(vip) {
			all = append(all, nearest(vip, addrs)...)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all), nil
}

// nearest are the IPv6 addresses that have the longest prefix in common with a
// VIP: what the kernel chooses from when no address is on the link itself (RFC
// 6724, section 5, rule 8). A temporary one can come before them (rule 7), and is on a
// link that speaks NDP, so the service has a way to it in any case.
func nearest(vip netip.Addr, addrs []plan.AddrFacts) (best []netip.Addr) {
	length := 0
	for _, h := range addrs {
		addr := h.Prefix.Addr()
		if !h.Usable || !addr.Is6() {
			continue
		}
		shared := min(plan.CommonPrefix(addr, vip).Bits(), h.Prefix.Bits())
		if shared > length {
			best, length = nil, shared
		}
		if shared == length {
			best = append(best, addr)
		}
	}
	return best
}

// networks are those behind the host that the service answers through it.
func (a *attachment) networks(addrs []plan.AddrFacts) ([]netip.Prefix, error) {
	lan := a.lan(addrs)
	onLAN := func(n netip.Prefix) bool { return slices.ContainsFunc(lan, n.Overlaps) }
	for _, n := range a.conf.HostNetworks {
		if onLAN(n) {
			return nil, cnierr.Config("hostNetworks", n.String(), "overlaps the LAN, whose stations the service answers directly", "name networks that lie behind the host alone")
		}
	}
	all := slices.Clone(a.conf.HostNetworks)
	for _, h := range addrs {
		n := h.Prefix.Masked()
		if a.conf.ConnectedNetworks && h.Stable && !h.Loopback && !n.IsSingleIP() && !onLAN(n) {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	return slices.Compact(all), nil
}

// lan are the networks of the VIPs, and of the host on the same link.
func (a *attachment) lan(addrs []plan.AddrFacts) (all []netip.Prefix) {
	for _, ip := range a.Prev.IPs {
		if vip, ok := config.PrefixOf(ip.Address); ok {
			all = append(all, vip.Masked())
		}
	}
	for _, h := range addrs {
		if h.Link == a.facts.HostLink.Lower {
			all = append(all, h.Prefix.Masked())
		}
	}
	return all
}

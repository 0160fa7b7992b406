package plan

import (
	"net/netip"
	"slices"

	"macvlan-vip/plugins/internal/config"
)

// Hairpin is what hairpin-route needs to know to plan the way between a host
// and the VIPs that it hosts.
type Hairpin struct {
	Conf *config.Hairpin
	// HostLink is the host-side macvlan, ServiceLink the service's.
	HostLink    LinkFacts
	ServiceLink LinkFacts
	// LinkLocal is the host-side macvlan's own address, from which the host
	// talks to an IPv6 VIP where it has no other. It resolves nothing, and so
	// nobody can ask it for its MAC.
	LinkLocal netip.Addr
	VIPs      []netip.Addr
	// Sources holds the source address towards each VIP; a VIP without one is
	// reached with whatever source the kernel takes.
	Sources map[netip.Addr]netip.Addr
	// HostAddresses are those that the host may use towards a VIP.
	HostAddresses []AddrFacts
	// Masquerades are those that the kernel puts in place of the source of what
	// the host forwards to a VIP, for a rule that says masquerade.
	Masquerades []netip.Addr
	// Networks lie behind the host, which the service is to answer through it.
	Networks []netip.Prefix
}

// farMetric is the metric of the service's routes to what the host has on other
// links than the master: a service that is on their LAN, too, goes there
// directly. It is worse than the metric that an IPv6 route has by itself.
const farMetric = 2000

// Plan gives the host a route to every VIP and the service one to every
// address of the host. Both ways get permanent neighbour entries, because
// resolving is what goes wrong there: the host's ARP request would teach the
// LAN the host-side macvlan's MAC for the host's address, arp_ignore and
// arp_filter on either side keep the answer back, and neighbour discovery
// answers only for addresses of the link itself.
func (h Hairpin) Plan() Desired {
	var d Desired
	if slices.ContainsFunc(h.VIPs, netip.Addr.Is6) {
		d.Sysctls = append(d.Sysctls, Sysctl{Side: Host, Key: "net/ipv6/conf/" + h.HostLink.Name + "/disable_ipv6", Value: "0", Kept: true})
	}
	var back Desired
	if h.Conf.ReturnPath {
		back = h.returnPath()
	}
	d.Routes = make([]Route, 0, len(h.VIPs)+len(back.Routes))
	d.Neighbours = make([]Neighbour, 0, len(h.VIPs)+len(back.Neighbours))
	for _, vip := range h.VIPs {
		d.Routes = append(d.Routes, Route{
			Side: Host, Link: h.HostLink.Name, Dst: single(vip), Source: h.Sources[vip],
			Table: h.Conf.Table, Metric: h.Conf.Metric, Exclusive: !LinkLocal(vip),
		})
		d.Neighbours = append(d.Neighbours, Neighbour{Side: Host, Link: h.HostLink.Name, Addr: vip, MAC: h.ServiceLink.MAC})
	}
	d.Add(back)
	return d
}

func (h Hairpin) returnPath() Desired {
	var d Desired
	near := map[netip.Addr]bool{}
	for _, a := range h.HostAddresses {
		near[a.Prefix.Addr()] = a.Link == h.HostLink.Lower
	}
	for _, addr := range h.peers() {
		route := Route{Side: Service, Link: h.ServiceLink.Name, Dst: single(addr)}
		if !near[addr] {
			route.Metric = farMetric
		}
		d.Routes = append(d.Routes, route)
		d.Neighbours = append(d.Neighbours, Neighbour{Side: Service, Link: h.ServiceLink.Name, Addr: addr, MAC: h.HostLink.MAC})
	}
	for _, network := range h.Networks {
		if via := h.source(network.Addr().Is4()); via.IsValid() {
			d.Routes = append(d.Routes, Route{Side: Service, Link: h.ServiceLink.Name, Dst: network, Gateway: via, OnLink: true, Metric: farMetric})
		}
	}
	if h.LinkLocal.IsValid() && slices.ContainsFunc(h.VIPs, netip.Addr.Is6) {
		d.Neighbours = append(d.Neighbours, Neighbour{Side: Service, Link: h.ServiceLink.Name, Addr: h.LinkLocal, MAC: h.HostLink.MAC})
	}
	return d
}

// source is the host's address towards the first VIP of a family; the zero Addr
// where there is none.
func (h Hairpin) source(v4 bool) netip.Addr {
	for _, vip := range h.VIPs {
		if src := h.Sources[vip]; vip.Is4() == v4 && src.IsValid() {
			return src
		}
	}
	return netip.Addr{}
}

// peers are the host's addresses, of the families that the VIPs have, once each.
func (h Hairpin) peers() []netip.Addr {
	families := map[bool]bool{}
	for _, vip := range h.VIPs {
		families[vip.Is4()] = true
	}
	candidates := slices.Clone(h.Masquerades)
	for _, a := range h.HostAddresses {
		candidates = append(candidates, a.Prefix.Addr())
	}
	for _, src := range h.Sources {
		candidates = append(candidates, src)
	}
	slices.SortFunc(candidates, netip.Addr.Compare)
	return slices.DeleteFunc(slices.Compact(candidates), func(a netip.Addr) bool {
		return !a.IsValid() || !families[a.Is4()] || slices.Contains(h.VIPs, a)
	})
}

// LinkLocal tells whether an address means a station only together with a link,
// so that it can be a VIP on each of a host's LANs (RFC 4007, section 6).
func LinkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

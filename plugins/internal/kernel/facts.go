package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/plan"
)

func factsOf(l netlink.Link) plan.LinkFacts {
	a := l.Attrs()
	f := plan.LinkFacts{
		Name: a.Name, Index: a.Index, Lower: a.ParentIndex, Kind: l.Type(),
		MAC: a.HardwareAddr.String(), MTU: a.MTU, Alias: a.Alias,
		Up: a.RawFlags&unix.IFF_UP != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0, NoARP: a.RawFlags&unix.IFF_NOARP != 0,
	}
	if mv, ok := l.(*netlink.Macvlan); ok {
		f.Mode = modeName(mv.Mode)
	}
	return f
}

// Link tells of a link by name; found is false where there is none.
func (n *Namespace) Link(name string) (f plan.LinkFacts, found bool, err error) {
	l, err := n.link(name)
	if isNotFound(err) {
		return plan.LinkFacts{}, false, nil
	}
	if err != nil {
		return plan.LinkFacts{}, false, err
	}
	return factsOf(l), true, nil
}

// Addressed tells whether somebody has given a link a global address: those that
// a router's advertisements made are not permanent.
func (n *Namespace) Addressed(name string) (bool, error) {
	link, err := n.link(name)
	if err != nil {
		return false, err
	}
	addrs, err := n.addresses()
	return slices.ContainsFunc(addrs, func(a address) bool {
		return a.link == link.Attrs().Index && a.scope == unix.RT_SCOPE_UNIVERSE && a.flags&unix.IFA_F_PERMANENT != 0
	}), err
}

// Master finds the link that macvlans are made on, and says why one cannot
// carry them. An empty name stands for the link of the default route.
func (n *Namespace) Master(name string) (plan.LinkFacts, error) {
	if name == "" {
		var err error
		if name, err = n.defaultRouteLink(); err != nil {
			return plan.LinkFacts{}, err
		}
	}
	f, found, err := n.Link(name)
	if err != nil {
		return plan.LinkFacts{}, err
	}
	if !found {
		return plan.LinkFacts{}, n.noMaster(name)
	}
	n.findVRF(&f)
	f.Bridge = n.bridgeUnder(n.links[name])
	return f, n.checkMaster(f)
}

// bridgeUnder is the bridge that a link is or lies on, if any; one in another namespace
// is out of reach.
func (n *Namespace) bridgeUnder(l netlink.Link) string {
	for l.Type() != plan.KindBridge {
		if !plan.IsStacked(l.Type()) || l.Attrs().NetNsID >= 0 {
			return ""
		}
		lower, err := n.handle.LinkByIndex(l.Attrs().ParentIndex)
		if err != nil {
			return ""
		}
		l = lower
	}
	return l.Attrs().Name
}

// HostSide tells of a host-side link by name, with the VRF that it is in.
func (n *Namespace) HostSide(name string) (f plan.LinkFacts, found bool, err error) {
	f, found, err = n.Link(name)
	if found {
		n.findVRF(&f)
	}
	return f, found, err
}

// findVRF adds the VRF that a link is in.
func (n *Namespace) findVRF(f *plan.LinkFacts) {
	if vrf, ok := n.upper(f.Name).(*netlink.Vrf); ok {
		f.VRF, f.VRFTable = vrf.Name, int(vrf.Table)
	}
}

func (n *Namespace) noMaster(name string) error {
	remedy := "set master to the uplink's name"
	if names := n.candidates(); len(names) > 0 {
		remedy = "set master to one of " + strings.Join(names, ", ")
	}
	return cnierr.Config("master", name, "no such link", cnierr.OrLater(remedy, "it"))
}

// candidates are the links that a user could have meant.
func (n *Namespace) candidates() []string {
	links, err := n.handle.LinkList()
	if err != nil {
		return nil
	}
	var names []string
	for _, l := range links {
		a := l.Attrs()
		if a.RawFlags&unix.IFF_LOOPBACK == 0 && len(a.HardwareAddr) == 6 && l.Type() != "macvlan" && a.RawFlags&unix.IFF_UP != 0 {
			names = append(names, a.Name)
		}
	}
	return names
}

func (n *Namespace) checkMaster(f plan.LinkFacts) error {
	if f.Kind == "ipvlan" || len(f.MAC) != len("00:00:00:00:00:00") || n.isLoopback(f.Name) {
		return cnierr.Config("master", f.Name, fmt.Sprintf("a link of type %s cannot carry a macvlan", f.Kind), "set master to an Ethernet link, a bond, a bridge or a VLAN")
	}
	if isWireless("/sys/class/net", f.Name) {
		return cnierr.Config("master", f.Name, "a wireless link", "use a wired uplink: an access point drops frames from any MAC that has not joined it")
	}
	// A VRF's members may carry macvlans.
	if upper := n.upper(f.Name); upper != nil && f.VRF == "" {
		return cnierr.Config("master", f.Name, "enslaved to "+upper.Attrs().Name, "set master to "+upper.Attrs().Name)
	}
	if !f.Up {
		return cnierr.New(types.ErrTryAgainLater, cnierr.OrLater("bring it up with `ip link set "+f.Name+" up`", "that"), "master: %q: the link is down", f.Name)
	}
	return nil
}

func (n *Namespace) isLoopback(name string) bool {
	l, err := n.link(name)
	return err == nil && l.Attrs().RawFlags&unix.IFF_LOOPBACK != 0
}

// upper is the bridge, bond, team or VRF that a link is a port of, or nil.
func (n *Namespace) upper(name string) netlink.Link {
	l, err := n.link(name)
	if err != nil || l.Attrs().MasterIndex == 0 {
		return nil
	}
	upper, err := n.handle.LinkByIndex(l.Attrs().MasterIndex)
	if err != nil {
		return nil
	}
	return upper
}

// isWireless looks where cfg80211 and the wireless extensions show themselves
// (Documentation/ABI/testing/sysfs-class-net). /sys shows the links of the
// namespace that it was mounted in, which is the host's.
func isWireless(sys, name string) bool {
	for _, mark := range []string{"phy80211", "wireless"} {
		if _, err := os.Stat(filepath.Join(sys, name, mark)); err == nil {
			return true
		}
	}
	return false
}

// defaultRouteLink finds the link of the default route of the best metric,
// IPv4 before IPv6.
func (n *Namespace) defaultRouteLink() (string, error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := n.handle.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil {
			return "", fmt.Errorf("find the default route: %w", err)
		}
		slices.SortStableFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
		for _, r := range routes {
			if r.LinkIndex == 0 && len(r.MultiPath) > 0 {
				r.LinkIndex = r.MultiPath[0].LinkIndex
			}
			if l, err := n.handle.LinkByIndex(r.LinkIndex); err == nil {
				return l.Attrs().Name, nil
			}
		}
	}
	return "", cnierr.Config("master", "", "not set, and the host has no default route to take it from", cnierr.OrLater("set master to the uplink's name", "the route"))
}

// Addresses lists the namespace's addresses, those of the loopback network
// (127.0.0.0/8, ::1) left out.
func (n *Namespace) Addresses() ([]plan.AddrFacts, error) {
	links, err := n.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("%s: list links: %w", n.side, err)
	}
	flags, vrfs := make(map[int]uint32, len(links)), vrfsOf(links)
	for _, l := range links {
		flags[l.Attrs().Index] = l.Attrs().RawFlags
	}
	addrs, err := n.addresses()
	if err != nil {
		return nil, err
	}
	facts := make([]plan.AddrFacts, 0, len(addrs))
	for _, a := range addrs {
		link, addr := flags[a.link], a.prefix.Addr()
		if addr.IsLoopback() {
			continue
		}
		const unsettled = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
		const unfit = unsettled | unix.IFA_F_DEPRECATED
		passing := uint32(unfit)
		// The same bit says of an IPv4 address that it is the second in its
		// subnet (IFA_F_SECONDARY), which will last.
		if addr.Is6() {
			passing |= unix.IFA_F_TEMPORARY
		}
		global := a.scope == unix.RT_SCOPE_UNIVERSE && addr.IsGlobalUnicast()
		facts = append(facts, plan.AddrFacts{
			Prefix:      a.prefix,
			Link:        a.link,
			Stable:      global && a.flags&passing == 0,
			Held:        global && a.flags&unsettled == 0,
			Usable:      global && a.flags&unfit == 0,
			Loopback:    link&unix.IFF_LOOPBACK != 0,
			Neighbourly: link&(unix.IFF_LOOPBACK|unix.IFF_NOARP|unix.IFF_POINTOPOINT) == 0,
			VRF:         vrfs[a.link],
		})
	}
	return facts, nil
}

// vrfsOf names the VRF of each link that is in one, or is one.
func vrfsOf(links []netlink.Link) map[int]string {
	vrfs := map[int]string{}
	for _, l := range links {
		if vrf, ok := l.(*netlink.Vrf); ok {
			vrfs[vrf.Index] = vrf.Name
		}
	}
	if len(vrfs) == 0 {
		return nil
	}
	of := make(map[int]string, len(links))
	for _, l := range links {
		of[l.Attrs().Index] = cmp.Or(vrfs[l.Attrs().Index], vrfs[l.Attrs().MasterIndex])
	}
	return of
}

// SourcesTo asks the kernel which source address it would use to reach each of
// several destinations out of a link: what a LAN peer there would see. One
// without any is left out.
func (n *Namespace) SourcesTo(all []netip.Addr, out plan.LinkFacts) (map[netip.Addr]netip.Addr, error) {
	requests := make([]request, len(all))
	for i, dst := range all {
		requests[i] = lookUpRequest(out.Index, dst)
	}
	sources := make(map[netip.Addr]netip.Addr, len(all))
	for i, a := range n.ask(requests) {
		switch {
		case errors.Is(a.err, unix.ENETUNREACH), errors.Is(a.err, unix.EHOSTUNREACH):
			continue
		case a.err != nil:
			return nil, cnierr.New(types.ErrInternal, "", "host: route to %s out of %s: %v", all[i], out.Name, a.err)
		}
		src, err := routeAddress(a.data, unix.RTA_PREFSRC)
		if err != nil {
			return nil, fmt.Errorf("host: route to %s out of %s: %w", all[i], out.Name, err)
		}
		if src.IsValid() {
			sources[all[i]] = src
		}
	}
	return sources, nil
}

// Gateways asks the kernel for the routers behind which all other networks are,
// of the whole host and of one link. A dump of all routes would take a second on
// a host that has the Internet's.
func (n *Namespace) Gateways(out plan.LinkFacts) ([]netip.Addr, error) {
	var requests []request
	for _, far := range []string{"192.0.0.8", "100::1"} { // Nobody's (RFC 7600, RFC 6666).
		for _, link := range []int{0, out.Index} {
			requests = append(requests, lookUpRequest(link, netip.MustParseAddr(far)))
		}
	}
	var gateways []netip.Addr
	for _, a := range n.ask(requests) {
		if a.err != nil {
			continue // No route.
		}
		gw, err := routeAddress(a.data, unix.RTA_GATEWAY)
		if err != nil {
			return nil, fmt.Errorf("%s: look for routers: %w", n.side, err)
		}
		if gw.IsValid() {
			gateways = append(gateways, gw)
		}
	}
	return gateways, nil
}

// LinkByIndex tells of a link by index.
func (n *Namespace) LinkByIndex(index int) (plan.LinkFacts, error) {
	l, err := n.handle.LinkByIndex(index)
	if err != nil {
		return plan.LinkFacts{}, fmt.Errorf("%s: link of index %d: %w", n.side, index, err)
	}
	return factsOf(l), nil
}

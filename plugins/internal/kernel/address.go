package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/plan"
)

// AddAddresses adds addresses of one side, usable at once: their uniqueness is
// the caller's to find out (IFA_F_NODAD). It gives those that were not there; one that
// was, but without its routes, gets these back. After an error, too, others may have
// been added.
func (k *Kernel) AddAddresses(side plan.Side, all []plan.Address) (made []plan.Address, err error) {
	made, there, err := k.addAddresses(side, all)
	if err != nil || len(there) == 0 {
		return made, err
	}
	return made, k.giveRoutes(side, there)
}

// addAddresses gives those that were there, too. What a service sends comes from the first
// of a network's addresses, which for the kernel is the one that came first, of IPv6
// the one that came last (ipv6_link_dev_addr in net/ipv6/addrconf.c). It is not asked for
// what it has: for each IPv6 address that it is, it reports all of the link's multicast
// groups again (ipv6_find_idev in net/ipv6/addrconf.c).
func (k *Kernel) addAddresses(side plan.Side, all []plan.Address) (made, there []plan.Address, err error) {
	n, err := k.On(side)
	if err != nil {
		return nil, nil, err
	}
	have, err := n.addressFlags()
	if err != nil {
		return nil, nil, err
	}
	exists := map[plan.Address]bool{}
	var v4, v6 []plan.Address
	for _, a := range all {
		switch _, found := n.flagsOf(a, have); {
		case found:
			exists[a] = true
		case a.Prefix.Addr().Is4():
			v4 = append(v4, a)
		default:
			v6 = append(v6, a)
		}
	}
	slices.Reverse(v6)
	made, err = changeSide(k, side, append(v4, v6...), func(link int, a plan.Address) (request, error) {
		return addressRequest(unix.RTM_NEWADDR, create, link, a.Prefix), nil
	}, func(a plan.Address, err error) error {
		if errors.Is(err, unix.EEXIST) {
			exists[a] = true
			return nil
		}
		return &cnierr.Error{Code: types.ErrInternal, Text: "add " + a.String(), Cause: err}
	})
	return made, slices.DeleteFunc(slices.Clone(all), func(a plan.Address) bool { return !exists[a] }), err
}

// giveRoutes gives addresses the routes that they lack, and that the kernel makes only when
// an address comes. Of IPv4 they can be made like the kernel's; those of IPv6 would
// outlive their address, so all of these come again. With its last IPv4 address a link
// would lose what others have made on it.
func (k *Kernel) giveRoutes(side plan.Side, there []plan.Address) error {
	n, err := k.On(side)
	if err != nil {
		return err
	}
	problems, err := n.lackingRoutes(there)
	if err != nil {
		return err
	}
	var v6 []plan.Address
	var requests []request
	renew := false
	for i, a := range there {
		switch is6 := a.Prefix.Addr().Is6(); {
		case is6:
			v6, renew = append(v6, a), renew || problems[i] != ""
		case problems[i] != "":
			first := there[slices.IndexFunc(there, func(o plan.Address) bool { return o.Link == a.Link && o.Prefix.Masked() == a.Prefix.Masked() })]
			requests = append(requests, n.remake(a, first.Prefix.Addr())...)
		}
	}
	for _, a := range n.ask(requests) {
		if a.err != nil && !errors.Is(a.err, unix.EEXIST) {
			return fmt.Errorf("%s: make the routes of its addresses again: %w", side, a.err)
		}
	}
	if !renew {
		return nil
	}
	if err := k.RemoveAddresses(side, v6); err != nil {
		return err
	}
	if _, _, err := k.addAddresses(side, v6); err != nil {
		return err
	}
	return k.AwaitAddresses(side, v6)
}

// remake asks for the kernel's routes of an address, with the subnet's first as their source.
func (n *Namespace) remake(a plan.Address, first netip.Addr) (requests []request) {
	link, err := n.link(a.Link)
	if err != nil {
		return nil
	}
	for _, r := range kernelRoutes(a.Prefix) {
		req := r.request(unix.RTM_NEWROUTE, create, link.Attrs().Index, unix.RTPROT_KERNEL, 0)
		req.add(unix.RTA_PREFSRC, first.AsSlice())
		requests = append(requests, req)
	}
	return requests
}

// kernelRoute is a route that the kernel makes with an IPv4 address.
type kernelRoute struct {
	dst                netip.Prefix
	table, kind, scope int
}

// kernelRoutes are those that the kernel makes with an IPv4 address (fib_add_ifaddr in
// net/ipv4/fib_frontend.c), and takes for its own when the address goes.
func kernelRoutes(addr netip.Prefix) []kernelRoute {
	all := []kernelRoute{{netip.PrefixFrom(addr.Addr(), 32), unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, unix.RT_SCOPE_HOST}}
	if !addr.IsSingleIP() {
		all = append(all, kernelRoute{addr.Masked(), unix.RT_TABLE_MAIN, unix.RTN_UNICAST, unix.RT_SCOPE_LINK})
	}
	if addr.Bits() < 31 {
		all = append(all, kernelRoute{netip.PrefixFrom(plan.Broadcast(addr), 32), unix.RT_TABLE_LOCAL, unix.RTN_BROADCAST, unix.RT_SCOPE_LINK})
	}
	return all
}

// request asks for such a route out of a link to be made or removed.
func (r kernelRoute) request(verb, flags, link, protocol, metric int) request {
	msg := nl.NewRtDelMsg()
	msg.Family, msg.Dst_len = unix.AF_INET, uint8(r.dst.Bits())
	msg.Protocol, msg.Type, msg.Scope = uint8(protocol), uint8(r.kind), uint8(r.scope)
	return routeRequest(verb, flags, msg, link, plan.Route{Dst: r.dst, Table: r.table, Metric: metric})
}

// The kernel has a few milliseconds' work to do for an IPv6 address, more on a
// busy machine.
const (
	usableRetry   = time.Millisecond
	usableTimeout = 5 * time.Second
)

// AwaitAddresses waits until addresses of one side can be reached. The kernel
// has added an IPv6 address before it takes packets for it: the route to it in
// table local comes from a work queue, without DAD, too (addrconf_dad_start in
// net/ipv6/addrconf.c).
func (k *Kernel) AwaitAddresses(side plan.Side, all []plan.Address) error {
	n, err := k.On(side)
	if err != nil {
		return err
	}
	pause := usableRetry
	for deadline := time.Now().Add(usableTimeout); ; time.Sleep(pause) {
		waiting, err := n.unreachable(all)
		if err != nil || len(waiting) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return cnierr.Transient("find out what keeps the machine busy", "%s: not usable %s after it was added", waiting[0], usableTimeout)
		}
		pause = min(2*pause, 100*time.Millisecond)
	}
}

// unreachable are the IPv6 addresses that have no route in table local.
func (n *Namespace) unreachable(all []plan.Address) (waiting []plan.Address, err error) {
	for _, a := range all {
		if a.Prefix.Addr().Is6() {
			waiting = append(waiting, a)
		}
	}
	if len(waiting) == 0 {
		return nil, nil
	}
	local, err := n.localRoutes(unix.AF_INET6)
	return slices.DeleteFunc(waiting, func(a plan.Address) bool { return local[a.Prefix.Addr()] }), err
}

// localRoutes are the addresses that table local says are the namespace's own.
func (n *Namespace) localRoutes(family int) (local map[netip.Addr]bool, err error) {
	local = map[netip.Addr]bool{}
	_, err = n.routes(routeKey{unix.RT_TABLE_LOCAL, family, 0}, func(r netlink.Route) bool {
		if dst, ok := destination(r); ok && dst.IsSingleIP() && r.Type == unix.RTN_LOCAL {
			local[dst.Addr()] = true
		}
		return false
	})
	return local, err
}

// directRoutes are the networks of the main table that are reached on a link.
func (n *Namespace) directRoutes(family int) (direct map[onLink]bool, err error) {
	direct = map[onLink]bool{}
	_, err = n.routes(routeKey{unix.RT_TABLE_MAIN, family, 0}, func(r netlink.Route) bool {
		if dst, ok := destination(r); ok && r.Type == unix.RTN_UNICAST && r.Gw == nil {
			direct[onLink{r.LinkIndex, dst}] = true
		}
		return false
	})
	return direct, err
}

// lackingRoutes says of each address which route is missing of those that the kernel has
// made with it: one of type local, and one to the rest of its prefix (fib_add_ifaddr in
// net/ipv4/fib_frontend.c, inet6_addr_add in net/ipv6/addrconf.c). Who flushes a table
// leaves an address that nobody reaches.
func (n *Namespace) lackingRoutes(all []plan.Address) (problems []string, err error) {
	problems = make([]string, len(all))
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if !slices.ContainsFunc(all, func(a plan.Address) bool { return familyOf(a.Prefix.Addr()) == family }) {
			continue
		}
		local, err := n.localRoutes(family)
		if err != nil {
			return nil, err
		}
		direct, err := n.directRoutes(family)
		if err != nil {
			return nil, err
		}
		for i, a := range all {
			if familyOf(a.Prefix.Addr()) == family {
				problems[i] = n.lackingRoute(a, local, direct)
			}
		}
	}
	return problems, nil
}

// lackingRoute is "" for a link without a carrier, too, on which the kernel may wait with
// the routes, and in a VRF, whose tables they are in.
func (n *Namespace) lackingRoute(a plan.Address, local map[netip.Addr]bool, direct map[onLink]bool) string {
	const usable = unix.IFF_UP | unix.IFF_LOWER_UP
	link, err := n.link(a.Link)
	switch {
	case err != nil || link.Attrs().RawFlags&usable != usable || link.Attrs().MasterIndex != 0:
		return ""
	case !local[a.Prefix.Addr()]:
		return "its route in table local is missing"
	case !a.Prefix.IsSingleIP() && !direct[onLink{link.Attrs().Index, a.Prefix.Masked()}]:
		return "the route to " + a.Prefix.Masked().String() + " is missing"
	}
	return ""
}

// RemoveAddresses removes addresses of one side; one that is not there is no
// error. The others of their subnets are reached all the time.
func (k *Kernel) RemoveAddresses(side plan.Side, all []plan.Address) error {
	relieve, err := k.standIn(side, all)
	if err != nil {
		return err
	}
	defer relieve()
	return removeSide(k, side, all, func(link int, a plan.Address) (request, error) {
		return addressRequest(unix.RTM_DELADDR, 0, link, a.Prefix), nil
	})
}

// CheckAddresses says which addresses of one side are missing or not usable, from one
// dump of these and two of routes a family.
func (k *Kernel) CheckAddresses(side plan.Side, all []plan.Address) (drift []string, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	n, err := k.On(side)
	if err != nil {
		return nil, err
	}
	have, err := n.addressFlags()
	if err != nil {
		return nil, err
	}
	lacking, err := n.lackingRoutes(all)
	if err != nil {
		return nil, err
	}
	for i, a := range all {
		if problem := cmp.Or(addressProblem(n, a, have), lacking[i]); problem != "" {
			drift = append(drift, a.String()+": "+problem)
		}
	}
	return drift, nil
}

type onLink struct {
	link   int
	prefix netip.Prefix
}

func (o onLink) subnet() onLink { return onLink{o.link, o.prefix.Masked()} }

// addressFlags are the flags of all addresses of the namespace (IFA_F_TENTATIVE and others).
func (n *Namespace) addressFlags() (map[onLink]uint32, error) {
	addrs, err := n.addresses()
	if err != nil {
		return nil, err
	}
	flags := make(map[onLink]uint32, len(addrs))
	for _, a := range addrs {
		flags[onLink{a.link, a.prefix}] = a.flags
	}
	return flags, nil
}

// flagsOf finds an address among those of addressFlags.
func (n *Namespace) flagsOf(a plan.Address, have map[onLink]uint32) (flags uint32, found bool) {
	link, err := n.link(a.Link)
	if err != nil {
		return 0, false
	}
	flags, found = have[onLink{link.Attrs().Index, a.Prefix}]
	return flags, found
}

func addressProblem(n *Namespace, a plan.Address, have map[onLink]uint32) string {
	flags, found := n.flagsOf(a, have)
	switch {
	case !found:
		return "missing"
	case flags&unix.IFA_F_DADFAILED != 0:
		return "a duplicate (dadfailed)"
	case flags&unix.IFA_F_TENTATIVE != 0:
		return "not usable yet (tentative)"
	}
	return ""
}

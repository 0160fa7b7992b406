package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/plan"
)

func familyOf(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// AddRoutes adds routes of one side, and gives those that were not there. One
// of our own that differs is replaced; an exclusive one that somebody else has, or
// that another goes before, is an error. After an error, too, others may have been added.
func (k *Kernel) AddRoutes(side plan.Side, all []plan.Route) (made []plan.Route, err error) {
	var taken []plan.Route
	made, err = changeSide(k, side, all, func(link int, r plan.Route) (request, error) {
		return addRouteRequest(link, r), nil
	}, func(r plan.Route, err error) error {
		if errors.Is(err, unix.EEXIST) {
			taken = append(taken, r)
			return nil
		}
		return addRouteError(r, err)
	})
	err = errors.Join(err, k.settleRoutes(side, taken))
	if err != nil {
		return made, err
	}
	return made, k.refuseStray(side, all)
}

func (k *Kernel) refuseStray(side plan.Side, all []plan.Route) error {
	n, err := k.On(side)
	if err != nil {
		return err
	}
	var errs []error
	for i, problem := range n.stray(all) {
		if problem != "" {
			errs = append(errs, cnierr.New(cnierr.AddressConflict, fmt.Sprintf("find out what leads there (`ip rule`, `ip route show table all %s`), and remove it or use another VIP", all[i].Dst),
				"add %s: somebody else's route goes before it: %s", all[i], problem))
		}
	}
	return errors.Join(errs...)
}

// stray says of each exclusive route where packets to its destination go if not by it. Which
// packets a table is for that only a rule of the host's leads to is not known.
func (n *Namespace) stray(all []plan.Route) (problems []string) {
	var asked []int
	var requests []request
	for i, r := range all {
		if table := tableOf(r); r.Exclusive && (table == unix.RT_TABLE_LOCAL || table == unix.RT_TABLE_MAIN) {
			asked, requests = append(asked, i), append(requests, lookUpRequest(0, r.Dst.Addr()))
		}
	}
	problems = make([]string, len(all))
	for j, a := range n.ask(requests) {
		problems[asked[j]] = n.strayTo(all[asked[j]], a)
	}
	return problems
}

// strayTo reads where the answer to lookUpRequest leads.
func (n *Namespace) strayTo(r plan.Route, a answer) string {
	link, err := n.link(r.Link)
	if err == nil && link.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
		return "" // The host may ignore routes without a carrier (ignore_routes_with_linkdown).
	}
	if err != nil || a.err != nil {
		return fmt.Sprintf("no way to it: %v", errors.Join(err, a.err))
	}
	kind, out, err := routeLink(a.data)
	switch {
	case err != nil:
		return fmt.Sprintf("no way to it: %v", err)
	case kind == unix.RTN_LOCAL:
		return "the host takes packets to it for its own"
	case kind != unix.RTN_UNICAST || out != link.Attrs().Index:
		return "packets to it go " + n.outOf(netlink.Route{LinkIndex: out})
	}
	return ""
}

func addRouteError(r plan.Route, err error) error {
	if errors.Is(err, unix.EINVAL) && r.Source.IsValid() {
		return cnierr.New(types.ErrInvalidNetworkConfig, "set source to an address of this host, or leave it out", "add %s: the host has no address %s", r, r.Source)
	}
	return &cnierr.Error{Code: types.ErrInternal, Text: "add " + r.String(), Cause: err}
}

// settleRoutes finds out whose the routes are that are in the way.
func (k *Kernel) settleRoutes(side plan.Side, taken []plan.Route) error {
	if len(taken) == 0 {
		return nil
	}
	n, err := k.On(side)
	if err != nil {
		return err
	}
	rivals, err := n.rivals(taken)
	if err != nil {
		return err
	}
	var errs []error
	for i, r := range taken {
		errs = append(errs, n.settleRoute(r, rivals[i]))
	}
	return errors.Join(errs...)
}

// rivals lists, for each of several routes, those of its destination and metric. It
// dumps a table once: when an ADD is repeated, all of a thousand routes are there.
func (n *Namespace) rivals(of []plan.Route) ([][]netlink.Route, error) {
	wanted := routeIndex{}
	for i, r := range of {
		wanted.add(routeKey{tableOf(r), familyOf(r.Dst.Addr()), 0}, r, i, len(of))
	}
	rivals := make([][]netlink.Route, len(of))
	for key, indices := range wanted {
		there, err := n.routes(key, func(have netlink.Route) bool {
			dst, _ := destination(have)
			return indices[dst] != nil
		})
		if err != nil {
			return nil, err
		}
		for _, have := range there {
			dst, _ := destination(have)
			for _, i := range indices[dst] {
				if have.Priority == metricOf(of[i]) {
					rivals[i] = append(rivals[i], have)
				}
			}
		}
	}
	return rivals, nil
}

// settleRoute keeps, replaces or refuses what is in a route's way. The caller owns
// the destination by claim, so a route of ours is this attachment's.
func (n *Namespace) settleRoute(r plan.Route, rivals []netlink.Route) error {
	link, err := n.link(r.Link)
	if err != nil {
		return err
	}
	for _, rival := range rivals {
		if rival.Protocol != plan.Protocol {
			return cnierr.New(cnierr.AddressConflict, fmt.Sprintf("find out who made it (`ip route show table %s %s`), and remove it or use another VIP", plan.TableName(tableOf(r)), r.Dst),
				"add %s: somebody else's route is there (proto %s, %s)", r, rival.Protocol, n.outOf(rival))
		}
		gw, _ := config.AddrOf(rival.Gw)
		same := rival.LinkIndex == link.Attrs().Index && gw == r.Gateway
		if same && routeProblem(rival, r) == "" {
			return nil
		}
		if r.Exclusive || same {
			if err := n.handle.RouteDel(&rival); err != nil && !isAbsent(err) {
				return fmt.Errorf("replace %s: %w", r, err)
			}
		}
	}
	r.Exclusive = false
	err = n.ask([]request{addRouteRequest(link.Attrs().Index, r)})[0].err
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("replace %s: %w", r, err)
	}
	return nil
}

func (n *Namespace) outOf(r netlink.Route) string {
	l, err := n.handle.LinkByIndex(r.LinkIndex)
	if err != nil {
		return "without a link"
	}
	return "dev " + l.Attrs().Name
}

func tableOf(r plan.Route) int {
	if r.Table == 0 {
		return unix.RT_TABLE_MAIN
	}
	return r.Table
}

// defaultMetric6 is what the kernel makes of an IPv6 metric of 0
// (IP6_RT_PRIO_USER).
const defaultMetric6 = 1024

func metricOf(r plan.Route) int {
	if r.Metric == 0 && r.Dst.Addr().Is6() {
		return defaultMetric6
	}
	return r.Metric
}

// destination is a route's, which the library gives a default route as well.
func destination(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	return config.PrefixOf(*r.Dst)
}

// RemoveRoutes removes routes of one side; one that is not there is no error.
func (k *Kernel) RemoveRoutes(side plan.Side, all []plan.Route) error {
	return removeSide(k, side, all, func(link int, r plan.Route) (request, error) {
		return removeRouteRequest(link, r), nil
	})
}

// routeKey says which routes are meant: those of a table and a family, and out
// of a link, or out of any for 0.
type routeKey struct {
	table, family, link int
}

// routeIndex tells where in a list the routes to a destination are that a dump shows.
type routeIndex map[routeKey]map[netip.Prefix][]int

// add notes the place of a route in a list of a length.
func (x routeIndex) add(key routeKey, r plan.Route, place, length int) {
	if x[key] == nil {
		x[key] = make(map[netip.Prefix][]int, length)
	}
	dst := r.Dst.Masked()
	x[key][dst] = append(x[key][dst], place)
}

// routes lists the routes that keep says. While it is asked, the namespace's
// handle is in use.
func (n *Namespace) routes(key routeKey, keep func(netlink.Route) bool) (kept []netlink.Route, err error) {
	// Best effort: with it the kernel filters a dump, which matters on a host
	// that holds the Internet's routes. The library's other requests carry
	// more than strict checking allows.
	_ = n.handle.SetStrictCheck(true)
	defer func() { _ = n.handle.SetStrictCheck(false) }()
	filter := &netlink.Route{Table: key.table, LinkIndex: key.link}
	err = whole(func() error {
		kept = nil
		return n.handle.RouteListFilteredIter(key.family, filter, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			for r := range singlePaths(r) {
				if (key.link == 0 || r.LinkIndex == key.link) && keep(r) {
					kept = append(kept, r)
				}
			}
			return true
		})
	})
	// With strict checking a table that was never filled is ENOENT.
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%s: list routes of table %s: %w", n.side, plan.TableName(key.table), err)
	}
	return kept, nil
}

// singlePaths takes a route of several hops apart: the kernel makes one of two
// IPv6 routes with gateways that are alike but for their links.
func singlePaths(r netlink.Route) iter.Seq[netlink.Route] {
	return func(yield func(netlink.Route) bool) {
		hops := r.MultiPath
		if len(hops) == 0 {
			yield(r)
			return
		}
		r.MultiPath = nil
		for _, hop := range hops {
			r.LinkIndex, r.Gw, r.Flags = hop.LinkIndex, hop.Gw, hop.Flags
			if !yield(r) {
				return
			}
		}
	}
}

// RoutesOf lists the unicast routes out of a link in the main table, but for
// those of this project's to a single address, which have a record.
func (n *Namespace) RoutesOf(link string) (all []plan.Route, err error) {
	l, err := n.link(link)
	if err != nil {
		return nil, err
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := n.routes(routeKey{unix.RT_TABLE_MAIN, family, l.Attrs().Index}, func(r netlink.Route) bool { return r.Type == unix.RTN_UNICAST })
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			p, ok := planned(r)
			ours := r.Protocol == plan.Protocol && p.Dst.IsSingleIP() && !p.Gateway.IsValid()
			if ok && !ours {
				p.Side, p.Link = n.side, link
				all = append(all, p)
			}
		}
	}
	return all, nil
}

// planned is the plan by which AddRoutes makes a route of the main table.
func planned(r netlink.Route) (p plan.Route, ok bool) {
	p.Dst, ok = destination(r)
	p.Gateway, _ = config.AddrOf(r.Gw)
	p.Source, _ = config.AddrOf(r.Src)
	p.OnLink = r.Flags&unix.RTNH_F_ONLINK != 0
	p.MTU, p.AdvMSS = r.MTU, r.AdvMSS
	// The kernel makes the one of the other (metricOf).
	if p.Metric = r.Priority; p.Dst.Addr().Is6() && p.Metric == defaultMetric6 {
		p.Metric = 0
	}
	return p, ok
}

// CheckRoutes says which routes of one side are missing, differ, or are not taken, from one
// dump a table, family and link and a look-up of each exclusive one.
func (k *Kernel) CheckRoutes(side plan.Side, all []plan.Route) (drift []string, err error) {
	n, err := k.On(side)
	if err != nil {
		return nil, err
	}
	problems := make([]string, len(all))
	wanted := routeIndex{}
	for i, r := range all {
		problems[i] = "missing"
		if link, err := n.link(r.Link); err == nil {
			wanted.add(routeKey{tableOf(r), familyOf(r.Dst.Addr()), link.Attrs().Index}, r, i, len(all))
		}
	}
	for key, indices := range wanted {
		_, err := n.routes(key, func(have netlink.Route) bool {
			dst, _ := destination(have)
			for _, i := range indices[dst] {
				if problems[i] != "" && have.Priority == metricOf(all[i]) && have.Protocol == plan.Protocol {
					problems[i] = routeProblem(have, all[i])
				}
			}
			return false
		})
		if err != nil {
			return nil, err
		}
	}
	stray := n.stray(all)
	for i, problem := range problems {
		if problem = cmp.Or(problem, stray[i]); problem != "" {
			drift = append(drift, all[i].String()+": "+problem)
		}
	}
	return drift, nil
}

func routeProblem(have netlink.Route, r plan.Route) string {
	src, _ := config.AddrOf(have.Src)
	gw, _ := config.AddrOf(have.Gw)
	switch {
	case src != r.Source:
		return fmt.Sprintf("source is %s", orNone(src))
	case gw != r.Gateway:
		return fmt.Sprintf("gateway is %s", orNone(gw))
	case have.MTU != r.MTU:
		return fmt.Sprintf("MTU is %d", have.MTU)
	case have.AdvMSS != r.AdvMSS:
		return fmt.Sprintf("advmss is %d", have.AdvMSS)
	}
	return ""
}

func orNone(a netip.Addr) string {
	if !a.IsValid() {
		return "none"
	}
	return a.String()
}

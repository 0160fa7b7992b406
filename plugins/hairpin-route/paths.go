package main

import (
	"slices"

	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
	"macvlan-vip/plugins/internal/verb"
)

// paths plans that the answers of a link's addresses, which are among those of its
// namespace, leave by it. ways are the routes to the host that the link has, or is to
// get.
func paths(n *kernel.Namespace, addrs []plan.AddrFacts, link string, ways []plan.Route) (_ plan.Desired, err error) {
	p := plan.Paths{}
	if p.Link, _, err = n.Link(link); err != nil {
		return plan.Desired{}, err
	}
	for _, a := range addrs {
		addr := a.Prefix.Addr()
		switch {
		case a.Link == p.Link.Index:
			p.Own = append(p.Own, addr)
		case !a.Loopback:
			p.Others = append(p.Others, addr)
		}
	}
	// What is sent from a link-local address names its link.
	p.Own, p.Others = slices.DeleteFunc(p.Own, plan.LinkLocal), slices.DeleteFunc(p.Others, plan.LinkLocal)
	if len(p.Others) > 0 {
		if p.Routes, err = n.RoutesOf(link); err != nil {
			return plan.Desired{}, err
		}
	}
	p.Routes = append(p.Routes, ways...)
	return p.Plan(), nil
}

// otherPaths plans the same for links that other plugins made, such as a pod's first.
// The host reaches their addresses, too, and would not accept an answer by the routes
// to it, which lead over this plugin's link. A macvlan leads to no host.
func otherPaths(n *kernel.Namespace, addrs []plan.AddrFacts, own int) (all plan.Desired, err error) {
	seen := map[int]bool{own: true}
	for _, a := range addrs {
		if a.Loopback || seen[a.Link] {
			continue
		}
		seen[a.Link] = true
		link, err := n.LinkByIndex(a.Link)
		if err != nil {
			return all, err
		}
		if link.Kind == plan.KindMacvlan {
			continue
		}
		d, err := paths(n, addrs, link.Name, nil)
		if err != nil {
			return all, err
		}
		all.Add(plan.Desired{Rules: d.Rules, Routes: d.Routes})
	}
	return all, nil
}

// ways are a plan's routes to the host.
func ways(d plan.Desired) (routes []plan.Route) {
	for _, r := range d.Routes {
		if r.Side == plan.Service && r.Table == 0 {
			routes = append(routes, r)
		}
	}
	return routes
}

// shareNamespace gives the attachments that had the namespace before this one
// what a link needs that is not alone in it. It becomes theirs, by their own
// records, so each of them can go first. A runtime does one thing at a time to
// a container (CNI specification, "Lifecycle & Ordering"), so nobody else
// writes these records meanwhile.
func (a *attachment) shareNamespace() error {
	if len(a.want.Rules) == 0 {
		return nil
	}
	siblings, err := a.Store.Siblings(a.Key)
	if err != nil {
		return err
	}
	for _, key := range siblings {
		rec, bad, err := a.Store.Recall(key)
		if bad != nil {
			verb.Logf("%s: %v: left alone", name, bad)
		}
		if err == nil && rec != nil {
			err = a.extend(rec)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// extend adds what is missing to a sibling that is in the namespace, and to
// its record.
func (a *attachment) extend(rec *journal.Record) error {
	if _, found, err := a.K.Service.Link(rec.IfName); err != nil || !found || len(ways(rec.Desired)) == 0 {
		return err
	}
	addrs, err := a.K.Service.Addresses()
	if err != nil {
		return err
	}
	want, err := paths(a.K.Service, addrs, rec.IfName, ways(rec.Desired))
	if err != nil {
		return err
	}
	missing := want.Minus(rec.Desired)
	if len(missing.Rules)+len(missing.Routes) == 0 {
		return nil
	}
	missing.Sysctls = want.Sysctls
	before := *rec
	rec.Desired.Add(missing)
	a.Undo.Push(func() error { return a.Store.Save(&before) })
	if err := a.Store.Save(rec); err != nil {
		return err
	}
	return reconcile.Apply(a.K, missing, &a.Undo)
}

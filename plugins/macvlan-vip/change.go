package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
)

// An ADD that is repeated with other addresses updates an existing attachment.
// New addresses are claimed and added before old ones are removed. Whenever the
// process ends, the service has one set, the other, or both, and the record names
// both until the update is complete.

// exchange releases the addresses of before to the IPAM plugin and allocates the
// new ones.
func (a *attachment) exchange() (*current.Result, error) {
	q := a.asks()
	a.Undo.Push(func() error { return a.reclaimLease() })
	if err := a.releaseOld(); err != nil {
		return nil, err
	}
	if q.Type != "host-local" || config.AsksFor(q.Stdin, a.Args.Args) {
		return q.add()
	}
	// It would give the next addresses of its ranges.
	if wanted, err := a.given(a.rec.Config); err == nil {
		if result, err := q.requesting(wanted); err == nil {
			return result, nil
		}
		if err := q.del(); err != nil {
			return nil, err
		}
	}
	return q.add()
}

// releaseOld releases the addresses of before to the IPAM plugins that gave them.
func (a *attachment) releaseOld() error {
	var last asked
	for rec := range a.before.All() {
		q := a.remover().asksAgain(rec, a.Args.Netns)
		if q.Type == stateless || q.Type == last.Type && string(q.Stdin) == string(last.Stdin) {
			continue
		}
		if err := q.del(); err != nil {
			return err
		}
		last = q
	}
	return nil
}

// reclaimLease allocates the addresses of before again after a failed update.
func (a *attachment) reclaimLease() error {
	given := a.asks().del()
	if a.rec.IPAM == nil {
		// It gave none: what it says about that is known from ADD.
		given = nil
	}
	first := a.before.First()
	q := a.remover().asksAgain(first, a.Args.Netns)
	if q.Type == stateless {
		return given
	}
	was, err := recordedIPAM(first)
	if err != nil {
		return errors.Join(given, err)
	}
	ask := q.add
	if q.Type == "host-local" {
		ask = func() (*current.Result, error) { return q.requesting(was.IPs) }
	}
	is, err := ask()
	if err == nil && !sameAddresses(was, is) {
		err = fmt.Errorf("ipam: %q: gave other addresses back than those in use, %v: restart the service", q.Type, is.IPs)
	}
	return errors.Join(given, err)
}

func sameAddresses(a, b *current.Result) bool {
	return slices.EqualFunc(a.IPs, b.IPs, func(x, y *current.IPConfig) bool { return x.Address.String() == y.Address.String() })
}

// given are the addresses to ask for again: those of the configuration of a
// digest, if it was in effect before the last change, or else those that are
// in use.
func (a *attachment) given(digest string) ([]*current.IPConfig, error) {
	first := a.before.First()
	raw := first.IPAM
	if first.Last != nil && first.Last.Config == digest {
		raw = first.Last.IPAM
	}
	result, err := resultOf(a.Key, raw)
	if err != nil {
		return nil, err
	}
	return result.IPs, nil
}

// requesting is add for certain addresses.
func (q asked) requesting(ips []*current.IPConfig) (result *current.Result, err error) {
	if q.Stdin, err = config.Requesting(q.Stdin, ips); err != nil {
		return nil, err
	}
	return q.add()
}

// makeRoom removes what the kernel cannot hold beside its replacement: a route
// with other attributes, and an IPv6 address with another prefix length.
func (a *attachment) makeRoom() error {
	if a.before == nil {
		return nil
	}
	var old plan.Desired
	for rec := range a.before.All() {
		for _, r := range rec.Desired.Routes {
			if r.Side == plan.Service && slices.ContainsFunc(a.vips.Routes, func(n plan.Route) bool { return r.Same(n) && !reflect.DeepEqual(r, n) }) {
				old.Routes = append(old.Routes, r)
			}
		}
		for _, addr := range rec.Desired.Addresses {
			if addr.Prefix.Addr().Is6() && slices.ContainsFunc(a.vips.Addresses, func(n plan.Address) bool {
				return n.Prefix.Addr() == addr.Prefix.Addr() && n.Prefix != addr.Prefix
			}) {
				old.Addresses = append(old.Addresses, addr)
			}
		}
	}
	a.Undo.Push(func() error { return reconcile.Apply(a.K, old, &reconcile.Undo{}) })
	return reconcile.Remove(a.K, old)
}

// settle completes an update: it removes what is no longer wanted. From here on
// the update is not rolled back.
func (a *attachment) settle() error {
	if a.before == nil {
		return nil
	}
	a.Undo = reconcile.Undo{}
	rec := *a.rec
	rec.Before = nil
	first := a.before.First()
	rec.Last = &journal.Given{Config: first.Config, IPAM: first.IPAM}
	for old := range a.before.All() {
		gone := plan.Desired{Addresses: old.Desired.Addresses, Routes: old.Desired.Routes}.Minus(a.vips)
		if err := reconcile.Remove(a.K, gone); err != nil {
			return err
		}
		if err := a.Store.UnclaimBut(old, &rec); err != nil {
			return err
		}
	}
	return a.Store.Save(&rec)
}

package main

import (
	"errors"
	"slices"

	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
	"macvlan-vip/plugins/internal/verb"
)

// before is what an earlier ADD recorded, or what it left where its record
// cannot be read any more.
func (a *attachment) before() (*journal.Record, error) {
	rec, bad, err := a.store.Recall(a.key)
	if bad == nil {
		return rec, err
	}
	verb.Logf("%s: %v: writing a new one", name, bad)
	found, err := find(a.store, a.k, a.key)
	if err != nil {
		return nil, err
	}
	rules, err := a.k.Service.RulesOf(a.args.IfName, plan.ServiceAlias(a.key.Network, a.key.ContainerID))
	if err != nil || len(rules) == 0 {
		return found, err
	}
	id, err := a.k.Service.Identity()
	return &journal.Record{Key: a.key, NetnsID: id, Desired: plan.Desired{Rules: rules}, Before: found}, err
}

// record writes what is about to be made, and what an earlier ADD made, which
// is there as well until this one is through.
func (a *attachment) record(before *journal.Record) error {
	id, err := a.k.Service.Identity()
	if err != nil {
		return err
	}
	a.rec = &journal.Record{
		Key: a.key, Netns: a.args.Netns, NetnsID: id, Input: a.args.StdinData, HostInterface: a.facts.HostLink.Name,
		ClaimScope: a.claimScope(), Desired: a.want, Before: before,
	}
	for _, vip := range a.claimed() {
		a.rec.Claims = append(a.rec.Claims, vip.String())
	}
	if a.rec.SameAs(before) {
		a.rec = before
		return nil
	}
	a.undo.Push(func() error {
		if before != nil {
			return a.store.Save(before)
		}
		return a.store.Remove(a.key)
	})
	a.undo.Push(func() error { return a.store.UnclaimBut(a.rec, before) })
	return a.store.Save(a.rec)
}

// restore is the way back to an earlier ADD's state. What is in both is not
// touched: packets take it.
func (a *attachment) restore(before *journal.Record) error {
	return errors.Join(
		reconcile.Remove(a.k, a.want.Minus(before.Desired)),
		a.store.ClaimAll(before),
		reconcile.Apply(a.k, before.Desired, &reconcile.Undo{}))
}

// replace takes away what earlier ADDs made and this one has not, and forgets
// them.
func (a *attachment) replace(before *journal.Record) error {
	if a.rec == before {
		return nil
	}
	a.rec.Before = nil
	for old := range before.All() {
		foreign, err := a.store.Foreign(old)
		if err != nil {
			return err
		}
		rest := old.Desired.Minus(a.want).Without(foreign)
		if !a.madeHere(old) {
			rest = rest.On(plan.Host)
		}
		if err := reconcile.Remove(a.k, rest); err != nil {
			return err
		}
		if err := a.store.UnclaimBut(old, a.rec); err != nil {
			return err
		}
	}
	return a.store.Save(a.rec)
}

// madeHere tells whether a record is about the namespace at hand. Those of
// earlier versions do not name it, but its link's MAC.
func (a *attachment) madeHere(rec *journal.Record) bool {
	return rec.NetnsID == a.rec.NetnsID || rec.NetnsID == "" && leadsTo(rec, a.facts.ServiceLink.MAC)
}

// leadsTo tells whether the host's side of a record leads to a MAC.
func leadsTo(rec *journal.Record, mac string) bool {
	return slices.ContainsFunc(rec.Desired.Neighbours, func(n plan.Neighbour) bool { return n.Side == plan.Host && n.MAC == mac })
}

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
	rec, bad, err := a.Store.Recall(a.Key)
	if bad == nil {
		return rec, err
	}
	verb.Logf("%s: %v: writing a new one", name, bad)
	found, err := find(a.Store, a.K, a.Key)
	if err != nil {
		return nil, err
	}
	rules, err := a.K.Service.RulesOf(a.Args.IfName, plan.ServiceAlias(a.Key.Network, a.Key.ContainerID))
	if err != nil || len(rules) == 0 {
		return found, err
	}
	id, err := a.K.Service.Identity()
	return &journal.Record{Key: a.Key, NetnsID: id, Desired: plan.Desired{Rules: rules}, Before: found}, err
}

// record writes down what is about to be created, and what an earlier ADD created:
// both can exist until this ADD is complete.
func (a *attachment) record(before *journal.Record) error {
	a.rec = a.NewRecord()
	a.rec.HostInterface, a.rec.ClaimScope, a.rec.Desired, a.rec.Before = a.facts.HostLink.Name, a.claimScope(), a.want, before
	for _, vip := range a.claimed() {
		a.rec.Claims = append(a.rec.Claims, vip.String())
	}
	if a.rec.SameAs(before) {
		a.rec = before
		return nil
	}
	if err := a.Save(a.rec, before); err != nil {
		return err
	}
	a.Undo.Push(func() error { return a.Store.UnclaimBut(a.rec, before) })
	return nil
}

// restore rolls back to an earlier ADD's state. What both have in common carries
// packets, and is left alone.
func (a *attachment) restore(before *journal.Record) error {
	return errors.Join(
		reconcile.Remove(a.K, a.want.Minus(before.Desired)),
		a.Store.ClaimAll(before),
		reconcile.Apply(a.K, before.Desired, &reconcile.Undo{}))
}

// replace removes what earlier ADDs created and this one does not want, and then
// their records.
func (a *attachment) replace(before *journal.Record) error {
	if a.rec == before {
		return nil
	}
	a.rec.Before = nil
	for old := range before.All() {
		foreign, err := a.Store.Foreign(old)
		if err != nil {
			return err
		}
		rest := old.Desired.Minus(a.want).Without(foreign)
		if !a.madeHere(old) {
			rest = rest.On(plan.Host)
		}
		if err := reconcile.Remove(a.K, rest); err != nil {
			return err
		}
		if err := a.Store.UnclaimBut(old, a.rec); err != nil {
			return err
		}
	}
	return a.Store.Save(a.rec)
}

// madeHere tells whether a record is about the namespace at hand.
func (a *attachment) madeHere(rec *journal.Record) bool {
	return rec.NetnsID == a.rec.NetnsID
}

// leadsTo tells whether the host's side of a record leads to a MAC.
func leadsTo(rec *journal.Record, mac string) bool {
	return slices.ContainsFunc(rec.Desired.Neighbours, func(n plan.Neighbour) bool { return n.Side == plan.Host && n.MAC == mac })
}

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"

	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
	"macvlan-vip/plugins/internal/verb"
)

// cmdDel needs neither a valid configuration nor prevResult: the record says
// what there is to remove.
func cmdDel(args *skel.CmdArgs) error {
	_, store, key, rec, err := verb.Recall(name, args)
	if err != nil {
		return err
	}
	return remove(store, key, rec, args.Netns)
}

// remove removes what the record names, and then the record. It continues after an
// error.
func remove(store *journal.Store, key journal.Key, rec *journal.Record, netns string) error {
	if rec == nil {
		var err error
		if rec, err = lost(store, key, netns); err != nil {
			return err
		}
	}
	return verb.Remove(store, key, rec, func(r *journal.Record) error { return undo(store, r, netns) })
}

// lost finds what an attachment without a record has left on the host, and takes
// the rules in its namespace away, if that is found.
func lost(store *journal.Store, key journal.Key, netns string) (*journal.Record, error) {
	k, err := verb.FindUnrecorded(key, netns)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	if k.Service != nil {
		rules, err := k.Service.RulesOf(key.IfName, plan.ServiceAlias(key.Network, key.ContainerID))
		if err == nil {
			err = k.RemoveRules(plan.Service, rules)
		}
		if err != nil {
			verb.Logf("%s: the rules of a lost record: %v", name, err)
		}
	}
	return find(store, k, key)
}

// find makes a record out of an attachment's claims, and of the ways to them.
func find(store *journal.Store, k *kernel.Kernel, key journal.Key) (found *journal.Record, err error) {
	claimed, err := store.Claimed(key)
	for _, rec := range claimed {
		var table, metric int
		if _, err := fmt.Sscanf(rec.ClaimScope, claimScope, &table, &metric); err != nil {
			continue
		}
		var vips []netip.Addr
		for _, text := range rec.Claims {
			if vip, err := netip.ParseAddr(text); err == nil {
				vips = append(vips, vip)
			}
		}
		if rec.Desired, err = k.Host.Ways(table, metric, vips); err != nil {
			return nil, err
		}
		rec.Before, found = found, rec
	}
	return found, err
}

// undo removes what one record names, except the routes to a VIP that another
// attachment owns by now.
func undo(store *journal.Store, rec *journal.Record, netns string) error {
	k, err := verb.OpenRecorded(rec, netns)
	if err != nil {
		return err
	}
	defer k.Close()
	foreign, err := store.Foreign(rec)
	if err := reconcile.Remove(k, rec.Desired.On(plan.Host).Without(foreign)); err != nil {
		return err
	}
	made := rec.Desired.On(plan.Service)
	// One that is alone in its namespace has no rules, and shares nothing.
	if len(made.Rules) > 0 {
		shared, e := ofSiblings(store, rec.Key)
		made, err = made.Minus(shared), errors.Join(err, e)
	}
	forgetHost(k, rec, made)
	return err
}

// ofSiblings is what a container's other attachments want in its namespace: the rules
// for a link of another plugin's are those of all of them.
func ofSiblings(store *journal.Store, of journal.Key) (all plan.Desired, err error) {
	keys, err := store.Siblings(of)
	for _, key := range keys {
		if rec, _, e := store.Recall(key); e == nil && rec != nil {
			all.Add(rec.Desired.On(plan.Service))
		}
	}
	return all, err
}

// forgetHost removes the service's routes to the host. They also disappear with
// the service's link, except for rules and what is on other links. The plugin before
// this one removes that link, unless an error here keeps the runtime from calling it:
// so there is none.
func forgetHost(k *kernel.Kernel, rec *journal.Record, made plan.Desired) {
	if k.Service == nil {
		return
	}
	link, found, err := k.Service.Link(rec.IfName)
	switch {
	case err != nil:
	case !found:
		onIt := func(r plan.Route) bool { return r.Link == rec.IfName }
		err = reconcile.Remove(k, plan.Desired{Rules: made.Rules, Routes: slices.DeleteFunc(slices.Clone(made.Routes), onIt)})
	case leadsTo(rec, link.MAC):
		err = reconcile.Remove(k, made)
	}
	if err != nil {
		verb.Logf("%s: the way back to the host: %v", name, err)
	}
}

func cmdGC(args *skel.CmdArgs) error {
	conf, store, err := verb.OpenLeniently(name, args.StdinData)
	if err != nil {
		return err
	}
	return verb.Collect(args.StdinData, conf.Name, store, func(key journal.Key, rec *journal.Record) error {
		return remove(store, key, rec, "")
	})
}

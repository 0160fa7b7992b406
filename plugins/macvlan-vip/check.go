package main

import (
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
	"macvlan-vip/plugins/internal/verb"
)

// check compares the kernel with what ADD would make now, with the addresses
// and MACs that ADD gave.
func (a *attachment) check() error {
	if a.Prev == nil {
		return cnierr.New(types.ErrInvalidNetworkConfig, "pass the result of ADD, as the specification asks for", "prevResult: missing")
	}
	return atOnce(a.verify, a.checkIPAM)
}

func (a *attachment) verify() error {
	if err := a.findMaster(); err != nil {
		return err
	}
	want, err := a.expected()
	if err != nil {
		return err
	}
	drift, err := reconcile.Verify(a.K, want)
	if err != nil {
		return err
	}
	lost, err := a.lostClaims(want)
	if err != nil {
		return err
	}
	if err := verb.DriftError(slices.Concat(drift, lost, a.toAsk())); err != nil {
		return err
	}
	return a.isReachable()
}

// isReachable fails if nobody can reach the container, as the specification asks
// of CHECK. ADD cannot repair that, so it is not drift.
func (a *attachment) isReachable() error {
	master := a.plan.Master
	switch {
	case master.Carrier:
		return nil
	case a.rec != nil && len(a.rec.Unasked) > 0:
		return cnierr.Transient("plug in its cable, or look at the switch's port", "%s has no carrier, so nobody reaches the VIPs, and nobody could be asked whether %s is free", master.Name, join(a.rec.Unasked))
	}
	return cnierr.Transient("plug in its cable, or look at the switch's port", "%s has no carrier, so nobody reaches the VIPs", master.Name)
}

// toAsk lists the VIPs that were never probed for, and can be now.
func (a *attachment) toAsk() (drift []string) {
	if a.rec == nil || !a.plan.Master.Carrier {
		return nil
	}
	for _, vip := range a.rec.Unasked {
		drift = append(drift, fmt.Sprintf("VIP %s: nobody was asked whether it is free, since %s had no carrier", vip, a.plan.Master.Name))
	}
	return drift
}

// lostClaims says which VIPs another attachment of this host could take.
func (a *attachment) lostClaims(want plan.Desired) (drift []string, err error) {
	for _, vip := range addressesOf(want) {
		owner, err := a.Store.Owner(a.claimScope(), vip)
		if err != nil {
			return nil, err
		}
		if owner != a.Key {
			drift = append(drift, fmt.Sprintf("VIP %s: the journal does not name this attachment as its owner", vip))
		}
	}
	return drift, nil
}

func (a *attachment) expected() (want plan.Desired, err error) {
	if a.bad != nil {
		return plan.Desired{}, a.bad
	}
	prev := a.Prev
	a.rec = a.found
	if err := a.planHost(); err != nil {
		return plan.Desired{}, err
	}
	own := ipsOf(prev, a.Args.IfName)
	if own == nil {
		return plan.Desired{}, cnierr.New(types.ErrInvalidNetworkConfig, "pass the result of the ADD of this interface",
			"prevResult.interfaces: none is %q in %q", a.Args.IfName, a.Args.Netns)
	}
	keepMACs(a.host.Links, prev)
	keepMACs(a.service.Links, prev)
	want.Add(a.host)
	want.Add(a.service)
	if err := a.planForwarding(); err != nil {
		return plan.Desired{}, err
	}
	want.Forwarding = a.forwarding
	if a.conf.IPAM.Type != "" {
		if own.Routes, err = routesMade(a.rec, prev.Routes); err != nil {
			return plan.Desired{}, err
		}
		vips, err := a.plan.Addresses(own)
		if err != nil {
			return plan.Desired{}, err
		}
		want.Add(vips)
	}
	return want, nil
}

// ipsOf is the part of a result that is about one interface in a sandbox; nil
// if the result knows no such interface. Results before 0.3.0 name none.
func ipsOf(prev *current.Result, ifName string) *current.Result {
	if len(prev.Interfaces) == 0 {
		return prev
	}
	for i, iface := range prev.Interfaces {
		if iface.Name != ifName || iface.Sandbox == "" {
			continue
		}
		own := &current.Result{}
		for _, ip := range prev.IPs {
			if ip.Interface == nil || *ip.Interface == i {
				own.IPs = append(own.IPs, ip)
			}
		}
		return own
	}
	return nil
}

// routesMade leaves out the routes that a later plugin of the list has added
// to the result.
func routesMade(rec *journal.Record, all []*types.Route) ([]*types.Route, error) {
	if rec == nil || rec.IPAM == nil || len(all) == 0 {
		return all, nil
	}
	ipam, err := recordedIPAM(rec)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(r *types.Route) bool {
		return !slices.ContainsFunc(ipam.Routes, func(made *types.Route) bool {
			return made.Dst.String() == r.Dst.String() && made.GW.Equal(r.GW)
		})
	}), nil
}

// keepMACs takes the MACs from ADD's result: the master's own, which they are
// derived from, may have changed since (a bond's does).
func keepMACs(links []plan.Link, prev *current.Result) {
	for i, l := range links {
		if l.HasMastersMAC() {
			continue
		}
		for _, iface := range prev.Interfaces {
			onHost := iface.Sandbox == ""
			if iface.Mac != "" && iface.Name == l.Name && onHost == (l.Side == plan.Host) {
				links[i].MAC = iface.Mac
			}
		}
	}
}

func (a *attachment) checkIPAM() error {
	if a.conf.IPAM.Type == "" {
		return nil
	}
	return ipamCheck(a.conf.IPAM.Type, a.Args.StdinData)
}

// status tells whether an ADD could work now (CNI specification, "STATUS").
func status(conf *config.Macvlan, stdin []byte) error {
	if !conf.LinkInContainer {
		host, err := kernel.OpenHost()
		if err != nil {
			return err
		}
		defer host.Close()
		if _, err := host.Master(conf.Master); err != nil {
			return &cnierr.Error{Code: types.ErrPluginNotAvailable, Text: "not ready for ADD", Cause: err, Remedy: cnierr.ToCNI(err).Details}
		}
	}
	if conf.IPAM.Type == "" {
		return nil
	}
	return ipamStatus(conf.IPAM.Type, stdin)
}

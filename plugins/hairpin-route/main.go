// hairpin-route is a chained CNI plugin: it programs the way between a host
// and the virtual IPs that the host itself serves on macvlans, which cannot
// talk to the link below them.
package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	bv "github.com/containernetworking/plugins/pkg/utils/buildversion"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
	"macvlan-vip/plugins/internal/verb"
)

const name = "hairpin-route"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "changed" {
		if err := changed(os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "%s changed: %v\n", name, err)
			os.Exit(1)
		}
		return
	}
	verb.Main(skel.CNIFuncs{Add: cmdAdd, Del: cmdDel, Check: cmdCheck, GC: cmdGC, Status: cmdStatus}, bv.BuildString(name), help)
}

// attachment is the state of one verb's work on the routes between a service and
// its host.
type attachment struct {
	*verb.Attachment
	conf  *config.Hairpin
	facts plan.Hairpin
	want  plan.Desired
	// rec is this ADD's record.
	rec *journal.Record
}

// open is the first step of ADD and CHECK: it reads the configuration and
// prevResult, and plans the routes for the host's current addresses.
func open(args *skel.CmdArgs) (*attachment, error) {
	conf, err := config.ParseHairpin(args.StdinData)
	if err != nil {
		return nil, err
	}
	opened, err := verb.Open(name, args, &conf.NetConf)
	if err != nil {
		return nil, err
	}
	a := &attachment{Attachment: opened, conf: conf}
	if err := a.look(); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// look finds the facts, and plans the way by them.
func (a *attachment) look() (err error) {
	if a.Prev == nil {
		return cnierr.New(types.ErrInvalidNetworkConfig, "list hairpin-route after macvlan-vip or macvlan in a conflist's plugins", "prevResult: missing: hairpin-route is a chained plugin")
	}
	if err := a.findFacts(); err != nil {
		return err
	}
	a.want, err = a.plan()
	return err
}

// plan is the way between host and VIPs, and what keeps the answers of each link on
// it where the service has several.
func (a *attachment) plan() (plan.Desired, error) {
	want := a.facts.Plan()
	if !a.conf.ReturnPath {
		return want, nil
	}
	addrs, err := a.K.Service.Addresses()
	if err != nil {
		return want, err
	}
	own, err := paths(a.K.Service, addrs, a.Args.IfName, ways(want))
	if err != nil {
		return want, err
	}
	others, err := otherPaths(a.K.Service, addrs, a.facts.ServiceLink.Index)
	want.Add(own)
	want.Add(others)
	return want, err
}

func cmdAdd(args *skel.CmdArgs) error {
	a, err := open(args)
	if err != nil {
		return err
	}
	defer a.Close()
	err = a.add()
	return a.Finish(err, func() error { return verb.PassOn(&a.conf.NetConf) })
}

// add creates the routes, or updates those of an earlier ADD.
func (a *attachment) add() error {
	if err := a.turnIPv6On(); err != nil {
		return err
	}
	before, err := a.before()
	if err != nil {
		return err
	}
	if err := a.record(before); err != nil {
		return err
	}
	if err := a.claim(); err != nil {
		return err
	}
	if before == nil {
		if err := reconcile.Apply(a.K, a.want, &a.Undo); err != nil {
			return err
		}
		return a.shareNamespace()
	}
	a.Undo.Push(func() error { return a.restore(before) })
	if err := reconcile.Apply(a.K, a.want, &reconcile.Undo{}); err != nil {
		return err
	}
	if err := a.shareNamespace(); err != nil {
		return err
	}
	return a.replace(before)
}

// turnIPv6On is for hosts that have IPv6 turned off on links to come. The
// host-side macvlan gets the address that the plan has to know of only then.
func (a *attachment) turnIPv6On() error {
	var host []plan.Sysctl
	for _, s := range a.want.Sysctls {
		if s.Side == plan.Host {
			host = append(host, s)
		}
	}
	changed, err := a.K.SetSysctls(plan.Host, host)
	if err != nil || len(changed) == 0 {
		return err
	}
	if err := a.findFacts(); err != nil {
		return err
	}
	a.want, err = a.plan()
	return err
}

// claimScope is the routing table: a VIP has one route of a metric in it.
const claimScope = "table-%d-metric-%d"

func (a *attachment) claimScope() string {
	return fmt.Sprintf(claimScope, a.conf.Table, a.conf.Metric)
}

// claimed are the VIPs that can be on one link of the host alone.
func (a *attachment) claimed() []netip.Addr {
	return slices.DeleteFunc(slices.Clone(a.facts.VIPs), plan.LinkLocal)
}

// claim makes sure that the routes in the way of ours, if any, are this
// attachment's own, from an earlier ADD.
func (a *attachment) claim() error {
	for _, vip := range a.claimed() {
		owner, err := a.Store.Claim(a.claimScope(), vip, a.Key)
		if err != nil {
			return err
		}
		if owner != a.Key {
			return cnierr.New(cnierr.AddressConflict, "give each service VIPs of its own, or take that attachment down first",
				"VIP %s: the host's route to it belongs to attachment %s of network %q", vip, owner, owner.Network)
		}
	}
	return nil
}

func cmdCheck(args *skel.CmdArgs) error {
	a, err := open(args)
	if err != nil {
		return err
	}
	defer a.Close()
	rec, err := a.Store.Load(a.Key)
	if err != nil {
		return err
	}
	if rec == nil {
		rec = &journal.Record{}
	}
	// What keeps the routes on their link is compared with what was created: CHECK
	// must not complain of links that were added later, by a later plugin for
	// instance (CNI specification, "CHECK").
	want := a.facts.Plan()
	want.Add(onLink(rec.Desired))
	drift, err := reconcile.Verify(a.K, want)
	if err != nil {
		return err
	}
	// An address that has moved from the host to the LAN is reached there only
	// once the service's entry for it is gone.
	left, err := reconcile.Leftover(a.K, way(rec.Desired).Minus(want))
	if err != nil {
		return err
	}
	return verb.DriftError(append(drift, left...))
}

// onLink is the part of a plan that keeps the way on its link.
func onLink(d plan.Desired) plan.Desired {
	inMain := func(r plan.Route) bool { return r.Side == plan.Host || r.Table == 0 }
	return plan.Desired{
		Sysctls: plan.OnSide(plan.Service, d.Sysctls), Rules: d.Rules,
		Routes: slices.DeleteFunc(slices.Clone(d.Routes), inMain),
	}
}

// way is the rest of it: more than is needed of the above does no harm.
func way(d plan.Desired) plan.Desired {
	onPath := func(r plan.Route) bool { return r.Side == plan.Service && r.Table != 0 }
	return plan.Desired{Routes: slices.DeleteFunc(slices.Clone(d.Routes), onPath), Neighbours: d.Neighbours}
}

// cmdStatus has nothing to wait for: the host-side link comes with the plugin
// before this one.
func cmdStatus(args *skel.CmdArgs) error {
	_, err := config.ParseHairpin(args.StdinData)
	return err
}

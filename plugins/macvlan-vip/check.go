package main

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ipam"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
	"macvlan-vip/plugins/internal/verb"
)

// check compares the kernel with what ADD would make now, with the addresses
// and MACs that ADD gave.
func (a *attachment) check() error {
	prev, err := config.ParsePrevResult(&a.conf.NetConf)
	if err != nil {
		return err
	}
	if prev == nil {
		return cnierr.New(types.ErrInvalidNetworkConfig, "pass the result of ADD, as the specification asks for", "prevResult: missing")
	}
	want, err := a.expected(prev)
	if err != nil {
		return err
	}
	drift, err := reconcile.Verify(a.k, want)
	if err != nil {
		return err
	}
	return errors.Join(verb.DriftError(drift), a.checkIPAM())
}

func (a *attachment) expected(prev *current.Result) (plan.Desired, error) {
	if err := a.planHost(); err != nil {
		return plan.Desired{}, err
	}
	own := ipsOf(prev, a.args.IfName)
	if own == nil {
		return plan.Desired{}, cnierr.New(types.ErrInvalidNetworkConfig, "pass the result of the ADD of this interface",
			"prevResult.interfaces: none is %q in %q", a.args.IfName, a.args.Netns)
	}
	keepMACs(a.host.Links, prev)
	keepMACs(a.service.Links, prev)
	var want plan.Desired
	want.Add(a.host)
	want.Add(a.service)
	if a.conf.IPAM.Type != "" {
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
		own := &current.Result{Routes: prev.Routes}
		for _, ip := range prev.IPs {
			if ip.Interface == nil || *ip.Interface == i {
				own.IPs = append(own.IPs, ip)
			}
		}
		return own
	}
	return nil
}

// keepMACs takes the MACs from ADD's result: the master's own, which they are
// derived from, may have changed since (a bond's does).
func keepMACs(links []plan.Link, prev *current.Result) {
	for i := range links {
		for _, iface := range prev.Interfaces {
			onHost := iface.Sandbox == ""
			if iface.Mac != "" && iface.Name == links[i].Name && onHost == (links[i].Side == plan.Host) {
				links[i].MAC = iface.Mac
			}
		}
	}
}

func (a *attachment) checkIPAM() error {
	if a.conf.IPAM.Type == "" {
		return nil
	}
	return ipamError(a.conf.IPAM.Type, "check its addresses", ipam.ExecCheck(a.conf.IPAM.Type, a.args.StdinData))
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

func ipamStatus(kind string, stdin []byte) error {
	err := ipam.ExecStatus(kind, stdin)
	if err == nil {
		return nil
	}
	code := types.ErrPluginNotAvailable
	var foreign *types.Error
	if errors.As(err, &foreign) && foreign.Code == types.ErrLimitedConnectivity {
		code = types.ErrLimitedConnectivity
	}
	return &cnierr.Error{Code: code, Text: fmt.Sprintf("ipam: %q: not ready for ADD", kind), Cause: err, Remedy: "make the IPAM plugin ready"}
}

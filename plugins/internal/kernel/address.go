package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/plan"
)

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// AddAddress adds an address, usable at once: its uniqueness is the caller's
// to find out (IFA_F_NODAD). made is false where it was there.
func (k *Kernel) AddAddress(a plan.Address) (made bool, err error) {
	n, link, err := k.linkOf(a.Side, a.Link)
	if err != nil {
		return false, err
	}
	addr := &netlink.Addr{IPNet: ipNet(a.Prefix)}
	if a.Prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	err = n.handle.AddrAdd(link, addr)
	switch {
	case errors.Is(err, unix.EEXIST):
		return false, nil
	case err != nil:
		return false, &cnierr.Error{Code: types.ErrInternal, Text: "add " + a.String(), Cause: err}
	}
	return true, nil
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
			return cnierr.Transient("look what keeps the machine busy", "%s: not usable %s after it was added", waiting[0], usableTimeout)
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
	routes, err := n.routes(unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_LOCAL})
	if err != nil {
		return nil, err
	}
	local := byDestination(routes)
	return slices.DeleteFunc(waiting, func(a plan.Address) bool {
		addr := a.Prefix.Addr()
		return slices.ContainsFunc(local[netip.PrefixFrom(addr, addr.BitLen())], func(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL })
	}), nil
}

// RemoveAddress removes an address; one that is not there is no error.
func (k *Kernel) RemoveAddress(a plan.Address) error {
	n, link, err := k.linkOf(a.Side, a.Link)
	if err == nil {
		err = n.handle.AddrDel(link, &netlink.Addr{IPNet: ipNet(a.Prefix)})
	}
	if err != nil && !isAbsent(err) && !errors.Is(err, errGone) {
		return fmt.Errorf("remove %s: %w", a, err)
	}
	return nil
}

func (k *Kernel) linkOf(side plan.Side, name string) (*Namespace, netlink.Link, error) {
	n, err := k.On(side)
	if err != nil {
		return nil, nil, err
	}
	link, err := n.link(name)
	return n, link, err
}

type onLink struct {
	link int
	addr any
}

// CheckAddresses says which addresses of one side are missing or not usable,
// from a single dump.
func (k *Kernel) CheckAddresses(side plan.Side, all []plan.Address) (drift []string, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	n, err := k.On(side)
	if err != nil {
		return nil, err
	}
	addrs, err := n.addrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	have := make(map[onLink]int, len(addrs))
	for _, a := range addrs {
		if prefix, ok := config.PrefixOf(*a.IPNet); ok {
			have[onLink{a.LinkIndex, prefix}] = a.Flags
		}
	}
	for _, a := range all {
		if problem := addressProblem(n, a, have); problem != "" {
			drift = append(drift, a.String()+": "+problem)
		}
	}
	return drift, nil
}

func addressProblem(n *Namespace, a plan.Address, have map[onLink]int) string {
	link, err := n.link(a.Link)
	if err != nil {
		return "missing"
	}
	flags, found := have[onLink{link.Attrs().Index, a.Prefix}]
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

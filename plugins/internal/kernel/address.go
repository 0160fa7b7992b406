package kernel

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/plan"
)

// AddAddresses adds addresses of one side, usable at once: their uniqueness is
// the caller's to find out (IFA_F_NODAD). It gives those that were not there.
// After an error, too, others may have been added.
func (k *Kernel) AddAddresses(side plan.Side, all []plan.Address) (made []plan.Address, err error) {
	return changeSide(k, side, all, func(link int, a plan.Address) (request, error) {
		return addressRequest(unix.RTM_NEWADDR, create, link, a.Prefix), nil
	}, func(_ *Namespace, a plan.Address, err error) error {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return &cnierr.Error{Code: types.ErrInternal, Text: "add " + a.String(), Cause: err}
	})
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
	local := map[netip.Addr]bool{}
	_, err = n.routes(routeKey{unix.RT_TABLE_LOCAL, unix.AF_INET6, 0}, func(r netlink.Route) bool {
		if dst, ok := destination(r); ok && dst.IsSingleIP() && r.Type == unix.RTN_LOCAL {
			local[dst.Addr()] = true
		}
		return false
	})
	return slices.DeleteFunc(waiting, func(a plan.Address) bool { return local[a.Prefix.Addr()] }), err
}

// RemoveAddresses removes addresses of one side; one that is not there is no
// error.
func (k *Kernel) RemoveAddresses(side plan.Side, all []plan.Address) error {
	return removeSide(k, side, all, func(link int, a plan.Address) (request, error) {
		return addressRequest(unix.RTM_DELADDR, 0, link, a.Prefix), nil
	})
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
	addrs, err := n.addresses()
	if err != nil {
		return nil, err
	}
	have := make(map[onLink]uint32, len(addrs))
	for _, a := range addrs {
		have[onLink{a.link, a.prefix}] = a.flags
	}
	for _, a := range all {
		if problem := addressProblem(n, a, have); problem != "" {
			drift = append(drift, a.String()+": "+problem)
		}
	}
	return drift, nil
}

type onLink struct {
	link   int
	prefix netip.Prefix
}

func addressProblem(n *Namespace, a plan.Address, have map[onLink]uint32) string {
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

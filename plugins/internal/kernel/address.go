package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

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

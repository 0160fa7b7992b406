package kernel

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/plan"
)

// standIn has routes of ours stand in for the kernel's until relieve. With a subnet's first
// IPv4 address the kernel removes the routes of all others, tells whoever listens, and makes
// them again with the next address as their source (__inet_del_ifa in net/ipv4/devinet.c):
// netfilter may go through all connections meanwhile. relieve also removes what a process
// that was killed has left. Without stand-ins packets would be lost, and no more, so it is
// no error if the kernel refuses them.
func (k *Kernel) standIn(side plan.Side, gone []plan.Address) (relieve func(), err error) {
	gone = slices.DeleteFunc(slices.Clone(gone), func(a plan.Address) bool { return a.Prefix.Addr().Is6() })
	n, err := k.On(side)
	if errors.Is(err, errGone) || len(gone) == 0 {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	have, err := n.addressFlags()
	if err != nil {
		return nil, err
	}
	leaving, staying, first := n.siblings(gone, have)
	if first {
		n.ask(standInRequests(unix.RTM_NEWROUTE, create, staying))
	}
	return func() { n.ask(standInRequests(unix.RTM_DELROUTE, 0, append(staying, leaving...))) }, nil
}

// siblings gives the addresses that leave, the others of their subnets, and whether a subnet's
// first is one that leaves.
func (n *Namespace) siblings(gone []plan.Address, have map[onLink]uint32) (leaving, staying []onLink, first bool) {
	subnets := map[onLink]bool{}
	for _, a := range gone {
		link, err := n.link(a.Link)
		if err != nil {
			continue
		}
		leaves := onLink{link.Attrs().Index, a.Prefix}
		flags, found := have[leaves]
		first = first || found && flags&unix.IFA_F_SECONDARY == 0
		leaving, subnets[leaves.subnet()] = append(leaving, leaves), true
	}
	for a := range have {
		if subnets[a.subnet()] && !slices.Contains(leaving, a) {
			staying = append(staying, a)
		}
	}
	return leaving, staying, first
}

// standInMetric puts a route behind the kernel's, of metric 0.
const standInMetric = 1

// standInRequests are about routes like the kernel's of addresses.
func standInRequests(verb, flags int, addrs []onLink) (requests []request) {
	type asked struct {
		link int
		kernelRoute
	}
	before := map[asked]bool{}
	for _, a := range addrs {
		for _, r := range kernelRoutes(a.prefix) {
			if !before[asked{a.link, r}] {
				before[asked{a.link, r}] = true
				requests = append(requests, r.request(verb, flags, a.link, plan.Protocol, standInMetric))
			}
		}
	}
	return requests
}

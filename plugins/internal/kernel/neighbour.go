package kernel

import (
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/plan"
)

// SetNeighbours makes permanent neighbour entries of one side, and gives those
// that it made. They replace what the kernel may have learned on its own.
func (k *Kernel) SetNeighbours(side plan.Side, all []plan.Neighbour) (made []plan.Neighbour, err error) {
	return changeSide(k, side, all, func(link int, e plan.Neighbour) (request, error) {
		return neighbourRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, link, e)
	}, func(e plan.Neighbour, err error) error {
		return &cnierr.Error{Code: types.ErrInternal, Text: "set " + e.String(), Cause: err}
	})
}

// RemoveNeighbours removes entries of one side; one that is not there is no
// error.
func (k *Kernel) RemoveNeighbours(side plan.Side, all []plan.Neighbour) error {
	return removeSide(k, side, all, func(link int, e plan.Neighbour) (request, error) {
		return neighbourRequest(unix.RTM_DELNEIGH, 0, link, e)
	})
}

// CheckNeighbours says which entries of one side are missing or differ, from
// one dump a link.
func (k *Kernel) CheckNeighbours(side plan.Side, all []plan.Neighbour) (drift []string, err error) {
	n, err := k.On(side)
	if err != nil {
		return nil, err
	}
	dumps := map[int]map[netip.Addr]neighbour{}
	for _, e := range all {
		link, err := n.link(e.Link)
		if err != nil {
			drift = append(drift, e.String()+": missing")
			continue
		}
		index := link.Attrs().Index
		if dumps[index] == nil {
			if dumps[index], err = n.neighbours(index); err != nil {
				return nil, err
			}
		}
		have, found := dumps[index][e.Addr]
		switch {
		case !found:
			drift = append(drift, e.String()+": missing")
		case have.mac != e.MAC:
			drift = append(drift, fmt.Sprintf("%s: lladdr is %s", e, have.mac))
		case have.state&unix.NUD_PERMANENT == 0:
			drift = append(drift, e.String()+": not permanent")
		}
	}
	return drift, nil
}

package kernel

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/plan"
)

// SetNeighbours makes permanent neighbour entries of one side, and gives those
// that it made. They replace what the kernel may have learned on its own.
func (k *Kernel) SetNeighbours(side plan.Side, all []plan.Neighbour) (made []plan.Neighbour, err error) {
	return changeSide(k, side, all, func(link int, e plan.Neighbour) (*nl.NetlinkRequest, error) {
		return neighbourRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, link, e)
	}, func(_ *Namespace, e plan.Neighbour, err error) error {
		return &cnierr.Error{Code: types.ErrInternal, Text: "set " + e.String(), Cause: err}
	})
}

// RemoveNeighbours removes entries of one side; one that is not there is no
// error.
func (k *Kernel) RemoveNeighbours(side plan.Side, all []plan.Neighbour) error {
	return removeSide(k, side, all, func(link int, e plan.Neighbour) (*nl.NetlinkRequest, error) {
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
	dumps := map[int]map[onLink]netlink.Neigh{}
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
		have, found := dumps[index][onLink{index, e.Addr}]
		switch {
		case !found:
			drift = append(drift, e.String()+": missing")
		case have.HardwareAddr.String() != e.MAC:
			drift = append(drift, fmt.Sprintf("%s: lladdr is %s", e, have.HardwareAddr))
		case have.State&netlink.NUD_PERMANENT == 0:
			drift = append(drift, e.String()+": not permanent")
		}
	}
	return drift, nil
}

func (n *Namespace) neighbours(link int) (map[onLink]netlink.Neigh, error) {
	for try := 0; ; try++ {
		list, err := n.handle.NeighList(link, unix.AF_UNSPEC)
		if errors.Is(err, netlink.ErrDumpInterrupted) && try < 5 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: list neighbours: %w", n.side, err)
		}
		index := make(map[onLink]netlink.Neigh, len(list))
		for _, e := range list {
			if addr, ok := config.AddrOf(e.IP); ok {
				index[onLink{link, addr}] = e
			}
		}
		return index, nil
	}
}

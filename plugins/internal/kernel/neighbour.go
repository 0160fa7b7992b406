package kernel

import (
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/plan"
)

// SetNeighbour makes a permanent neighbour entry. It replaces what the kernel
// may have learned on its own.
func (k *Kernel) SetNeighbour(e plan.Neighbour) error {
	n, link, err := k.linkOf(e.Side, e.Link)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return fmt.Errorf("set %s: %w", e, err)
	}
	err = n.handle.NeighSet(&netlink.Neigh{
		LinkIndex:    link.Attrs().Index,
		Family:       familyOf(e.Addr),
		State:        netlink.NUD_PERMANENT,
		Type:         unix.RTN_UNICAST,
		IP:           e.Addr.AsSlice(),
		HardwareAddr: mac,
	})
	if err != nil {
		return &cnierr.Error{Code: types.ErrInternal, Text: "set " + e.String(), Cause: err}
	}
	return nil
}

// RemoveNeighbour removes an entry; one that is not there is no error.
func (k *Kernel) RemoveNeighbour(e plan.Neighbour) error {
	n, link, err := k.linkOf(e.Side, e.Link)
	if err == nil {
		err = n.handle.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: familyOf(e.Addr), IP: e.Addr.AsSlice()})
	}
	if err != nil && !isAbsent(err) && !errors.Is(err, errGone) {
		return fmt.Errorf("remove %s: %w", e, err)
	}
	return nil
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

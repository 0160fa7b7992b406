package kernel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/plan"
)

// AddForwarding makes entries of one side, and gives those that were not there. One that
// the bridge has learned of a port becomes its own. Of one that was there, it adds what
// VLANs need that the bridge has joined since.
func (k *Kernel) AddForwarding(side plan.Side, all []plan.Forwarding) (made []plan.Forwarding, err error) {
	before := map[plan.Forwarding]bool{}
	for _, f := range all {
		if before[f], err = k.HasForwarding(f); err != nil {
			return nil, err
		}
	}
	made, err = changeSide(k, side, all, func(bridge int, f plan.Forwarding) (request, error) {
		return forwardingRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, unix.NUD_PERMANENT, bridge, f)
	}, func(f plan.Forwarding, err error) error {
		return &cnierr.Error{Code: types.ErrInternal, Text: "add " + f.String(), Cause: err}
	})
	return slices.DeleteFunc(slices.Clone(made), func(f plan.Forwarding) bool { return before[f] }), err
}

// RemoveForwarding removes entries of one side; one that is not there is no error. The
// kernel does not take an entry of a port for the bridge's own.
func (k *Kernel) RemoveForwarding(side plan.Side, all []plan.Forwarding) error {
	return removeSide(k, side, all, func(bridge int, f plan.Forwarding) (request, error) {
		return forwardingRequest(unix.RTM_DELNEIGH, 0, unix.NUD_PERMANENT, bridge, f)
	})
}

// HasForwarding tells whether a bridge has an entry for a MAC that stays there, whoever
// made it.
func (k *Kernel) HasForwarding(f plan.Forwarding) (bool, error) {
	n, bridge, err := k.bridge(f)
	if err != nil || bridge == 0 {
		return false, err
	}
	flooding, err := n.flooding(bridge, f, []int{0})
	return len(flooding) == 0, err
}

// CheckForwarding says which entries are missing. A bridge that joins a VLAN copies no
// entries there.
func (k *Kernel) CheckForwarding(all []plan.Forwarding) (drift []string, err error) {
	for _, f := range all {
		n, bridge, err := k.bridge(f)
		if err != nil {
			return nil, err
		}
		if bridge == 0 {
			drift = append(drift, f.String()+": missing")
			continue
		}
		vlans, err := n.vlans(bridge)
		if err != nil {
			return nil, err
		}
		flooding, err := n.flooding(bridge, f, append([]int{0}, vlans...))
		if err != nil {
			return nil, err
		}
		switch {
		case slices.Contains(flooding, 0):
			drift = append(drift, f.String()+": missing")
		case len(flooding) > 0:
			drift = append(drift, fmt.Sprintf("%s: missing in VLAN %d", f, flooding[0]))
		}
	}
	return drift, nil
}

// bridge is the index of an entry's bridge; 0 where that is gone.
func (k *Kernel) bridge(f plan.Forwarding) (n *Namespace, index int, err error) {
	if n, err = k.On(f.Side); err != nil {
		return nil, 0, err
	}
	l, err := n.link(f.Bridge)
	if isNotFound(err) {
		return n, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return n, l.Attrs().Index, nil
}

// flooding gives those of some VLANs, 0 for outside of all, in which a bridge has no
// entry that stays.
func (n *Namespace) flooding(bridge int, f plan.Forwarding, vlans []int) (flooding []int, err error) {
	requests := make([]request, len(vlans))
	for i, vlan := range vlans {
		if requests[i], err = askForwardingRequest(bridge, f, vlan); err != nil {
			return nil, err
		}
	}
	for i, a := range n.ask(requests) {
		stays, err := false, a.err
		if err == nil {
			stays, err = parseForwarding(a.data)
		}
		if err != nil && !isAbsent(err) {
			return nil, fmt.Errorf("look for %s: %w", f, err)
		}
		if !stays {
			flooding = append(flooding, vlans[i])
		}
	}
	return flooding, nil
}

// vlans lists those that a bridge itself is in. Some kernels know none.
func (n *Namespace) vlans(bridge int) (all []int, err error) {
	err = whole(func() error {
		all = nil
		return n.dump(newRequest(unix.RTM_GETVLAN, 0, bridgeVLANs{}), func(payload []byte) {
			all = append(all, parseVLANs(payload, bridge)...)
		})
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("%s: list the VLANs of a bridge: %w", n.side, err)
	}
	return all, nil
}

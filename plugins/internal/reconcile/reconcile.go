// Package reconcile drives the kernel towards a plan, tells how it differs
// from one, and takes one away again.
package reconcile

import (
	"errors"
	"slices"

	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
)

// Undo is the way back from an ADD that fails: the inverse of every step that
// was done, and of nothing else.
type Undo struct{ steps []func() error }

// Push notes how to undo the step that was just done.
func (u *Undo) Push(step func() error) { u.steps = append(u.steps, step) }

// Run undoes everything, last step first, and goes on after an error.
func (u *Undo) Run() error {
	var errs []error
	for _, step := range slices.Backward(u.steps) {
		errs = append(errs, step())
	}
	u.steps = nil
	return errors.Join(errs...)
}

// Apply creates what the plan asks for and is not there yet. Shared links
// that it makes are not undone: others may have begun to use them.
func Apply(k *kernel.Kernel, d plan.Desired, undo *Undo) error {
	for _, step := range []func() error{
		func() error { return createLinks(k, d.Links, undo) },
		func() error { return setSysctls(k, plan.Host, d.Sysctls, undo) },
		func() error { return setSysctls(k, plan.Service, d.Sysctls, undo) },
		func() error { return raiseLinks(k, d.Links, undo) },
		func() error { return addAddresses(k, d.Addresses, undo) },
		func() error { return setNeighbours(k, d.Neighbours, undo) },
		func() error { return addRoutes(k, d.Routes, undo) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func createLinks(k *kernel.Kernel, links []plan.Link, undo *Undo) error {
	for _, l := range links {
		made, err := k.CreateLink(l)
		if made && !l.Shared {
			undo.Push(func() error { return k.RemoveLink(l) })
		}
		if err == nil && !made {
			err = k.Fit(l)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func setSysctls(k *kernel.Kernel, side plan.Side, all []plan.Sysctl, undo *Undo) error {
	mine := onSide(side, all, func(s plan.Sysctl) plan.Side { return s.Side })
	if len(mine) == 0 {
		return nil
	}
	before, err := k.SetSysctls(side, mine)
	before = slices.DeleteFunc(before, func(s plan.Sysctl) bool { return s.Kept })
	if len(before) > 0 {
		slices.Reverse(before)
		undo.Push(func() error {
			// Those of a link are gone with it, which is as good.
			_, _ = k.SetSysctls(side, before)
			return nil
		})
	}
	return err
}

func raiseLinks(k *kernel.Kernel, links []plan.Link, undo *Undo) error {
	for _, l := range links {
		raised, err := k.RaiseLink(l)
		if raised && !l.Shared {
			undo.Push(func() error { return k.LowerLink(l) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func addAddresses(k *kernel.Kernel, addrs []plan.Address, undo *Undo) error {
	fresh := map[plan.Side][]plan.Address{}
	for _, a := range addrs {
		made, err := k.AddAddress(a)
		if made {
			undo.Push(func() error { return k.RemoveAddress(a) })
			fresh[a.Side] = append(fresh[a.Side], a)
		}
		if err != nil {
			return err
		}
	}
	for side, added := range fresh {
		if err := k.AwaitAddresses(side, added); err != nil {
			return err
		}
	}
	return nil
}

func addRoutes(k *kernel.Kernel, routes []plan.Route, undo *Undo) error {
	for _, r := range routes {
		made, err := k.AddRoute(r)
		if made {
			undo.Push(func() error { return k.RemoveRoute(r) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func setNeighbours(k *kernel.Kernel, entries []plan.Neighbour, undo *Undo) error {
	for _, e := range entries {
		if err := k.SetNeighbour(e); err != nil {
			return err
		}
		undo.Push(func() error { return k.RemoveNeighbour(e) })
	}
	return nil
}

// Verify says, one line an item, how the kernel differs from the plan.
func Verify(k *kernel.Kernel, d plan.Desired) (drift []string, err error) {
	for _, l := range d.Links {
		lines, err := k.CheckLink(l)
		if err != nil {
			return nil, err
		}
		drift = append(drift, lines...)
	}
	for _, side := range []plan.Side{plan.Host, plan.Service} {
		lines, err := verifySide(k, side, d)
		if err != nil {
			return nil, err
		}
		drift = append(drift, lines...)
	}
	return drift, nil
}

func verifySide(k *kernel.Kernel, side plan.Side, d plan.Desired) (drift []string, err error) {
	for _, check := range []func() ([]string, error){
		func() ([]string, error) {
			return k.CheckSysctls(side, onSide(side, d.Sysctls, func(s plan.Sysctl) plan.Side { return s.Side }))
		},
		func() ([]string, error) {
			return k.CheckAddresses(side, onSide(side, d.Addresses, func(a plan.Address) plan.Side { return a.Side }))
		},
		func() ([]string, error) {
			return k.CheckRoutes(side, onSide(side, d.Routes, func(r plan.Route) plan.Side { return r.Side }))
		},
		func() ([]string, error) {
			return k.CheckNeighbours(side, onSide(side, d.Neighbours, func(n plan.Neighbour) plan.Side { return n.Side }))
		},
	} {
		lines, err := check()
		if err != nil {
			return nil, err
		}
		drift = append(drift, lines...)
	}
	return drift, nil
}

func onSide[T any](side plan.Side, all []T, of func(T) plan.Side) []T {
	var mine []T
	for _, item := range all {
		if of(item) == side {
			mine = append(mine, item)
		}
	}
	return mine
}

// Remove takes away what a plan created, in reverse, as far as it is there
// and ours. Shared links and sysctls stay. It goes on after an error.
func Remove(k *kernel.Kernel, d plan.Desired) error {
	var errs []error
	for _, r := range d.Routes {
		errs = append(errs, k.RemoveRoute(r))
	}
	for _, e := range d.Neighbours {
		errs = append(errs, k.RemoveNeighbour(e))
	}
	for _, a := range d.Addresses {
		errs = append(errs, k.RemoveAddress(a))
	}
	for _, l := range slices.Backward(d.Links) {
		if !l.Shared {
			errs = append(errs, k.RemoveLink(l))
		}
	}
	return errors.Join(errs...)
}

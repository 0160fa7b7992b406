// Package reconcile applies a plan to the kernel, compares the kernel with it, and
// removes it.
package reconcile

import (
	"errors"
	"slices"

	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
)

// Undo rolls a failed ADD back: it holds the inverse of every step that was taken,
// and of no other.
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
		func() error { return addForwarding(k, d.Forwarding, undo) },
		func() error { return addAddresses(k, d.Addresses, undo) },
		func() error { return setNeighbours(k, d.Neighbours, undo) },
		func() error { return addRoutes(k, d.Routes, undo) },
		func() error { return addRules(k, d.Rules, undo) },
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
	mine := plan.OnSide(side, all)
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

func addForwarding(k *kernel.Kernel, all []plan.Forwarding, undo *Undo) error {
	return onBothSides(all, func(side plan.Side, mine []plan.Forwarding) error {
		made, err := k.AddForwarding(side, mine)
		if len(made) > 0 {
			undo.Push(func() error { return k.RemoveForwarding(side, made) })
		}
		return err
	})
}

func addAddresses(k *kernel.Kernel, all []plan.Address, undo *Undo) error {
	return onBothSides(all, func(side plan.Side, mine []plan.Address) error {
		made, err := k.AddAddresses(side, mine)
		if len(made) > 0 {
			undo.Push(func() error { return k.RemoveAddresses(side, made) })
		}
		if err != nil {
			return err
		}
		return k.AwaitAddresses(side, made)
	})
}

func setNeighbours(k *kernel.Kernel, all []plan.Neighbour, undo *Undo) error {
	return onBothSides(all, func(side plan.Side, mine []plan.Neighbour) error {
		made, err := k.SetNeighbours(side, mine)
		undo.Push(func() error { return k.RemoveNeighbours(side, made) })
		return err
	})
}

func addRoutes(k *kernel.Kernel, all []plan.Route, undo *Undo) error {
	return onBothSides(all, func(side plan.Side, mine []plan.Route) error {
		made, err := k.AddRoutes(side, mine)
		if len(made) > 0 {
			undo.Push(func() error { return k.RemoveRoutes(side, made) })
		}
		return err
	})
}

func addRules(k *kernel.Kernel, all []plan.Rule, undo *Undo) error {
	return onBothSides(all, func(side plan.Side, mine []plan.Rule) error {
		made, err := k.AddRules(side, mine)
		if len(made) > 0 {
			undo.Push(func() error { return k.RemoveRules(side, made) })
		}
		return err
	})
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
			return k.CheckSysctls(side, plan.OnSide(side, d.Sysctls))
		},
		func() ([]string, error) {
			return k.CheckForwarding(plan.OnSide(side, d.Forwarding))
		},
		func() ([]string, error) {
			return k.CheckAddresses(side, plan.OnSide(side, d.Addresses))
		},
		func() ([]string, error) {
			return k.CheckRoutes(side, plan.OnSide(side, d.Routes))
		},
		func() ([]string, error) {
			return k.CheckRules(side, plan.OnSide(side, d.Rules))
		},
		func() ([]string, error) {
			return k.CheckNeighbours(side, plan.OnSide(side, d.Neighbours))
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

// Leftover says, one line an item, which routes and neighbours of a plan are
// there, though nothing asks for them any more.
func Leftover(k *kernel.Kernel, d plan.Desired) (drift []string, err error) {
	for _, side := range []plan.Side{plan.Host, plan.Service} {
		routes, neighbours := plan.OnSide(side, d.Routes), plan.OnSide(side, d.Neighbours)
		missing, err := k.CheckRoutes(side, routes)
		if err != nil {
			return nil, err
		}
		drift = append(drift, present(routes, missing)...)
		if missing, err = k.CheckNeighbours(side, neighbours); err != nil {
			return nil, err
		}
		drift = append(drift, present(neighbours, missing)...)
	}
	return drift, nil
}

// present are the items of which a check does not say that they are missing.
func present[T plan.Item](all []T, problems []string) (lines []string) {
	for _, item := range all {
		if !slices.Contains(problems, item.String()+": missing") {
			lines = append(lines, item.String()+": left over")
		}
	}
	return lines
}

// onBothSides does something with the items of the host's side, and then with
// those of the service's.
func onBothSides[T plan.Item](all []T, do func(plan.Side, []T) error) error {
	for _, side := range []plan.Side{plan.Host, plan.Service} {
		if mine := plan.OnSide(side, all); len(mine) > 0 {
			if err := do(side, mine); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove removes what a plan created, in reverse, as far as it exists and is ours.
// Shared links and sysctls stay. It continues after an error.
func Remove(k *kernel.Kernel, d plan.Desired) error {
	var errs []error
	for _, side := range []plan.Side{plan.Host, plan.Service} {
		// A subnet's first address last: when it goes, the kernel makes the next one
		// primary, and the subnet's route anew.
		addresses := slices.Clone(plan.OnSide(side, d.Addresses))
		slices.Reverse(addresses)
		errs = append(errs,
			k.RemoveRules(side, plan.OnSide(side, d.Rules)),
			k.RemoveRoutes(side, plan.OnSide(side, d.Routes)),
			k.RemoveNeighbours(side, plan.OnSide(side, d.Neighbours)),
			k.RemoveAddresses(side, addresses),
			k.RemoveForwarding(side, plan.OnSide(side, d.Forwarding)))
	}
	for _, l := range slices.Backward(d.Links) {
		if !l.Shared {
			errs = append(errs, k.RemoveLink(l))
		}
	}
	return errors.Join(errs...)
}

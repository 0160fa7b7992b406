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

// AddRules adds rules of one side, and gives those that were not there. After
// an error, too, others may have been added.
func (k *Kernel) AddRules(side plan.Side, all []plan.Rule) (made []plan.Rule, err error) {
	return k.changeRules(side, all, unix.RTM_NEWRULE, create, func(r plan.Rule, err error) error {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return &cnierr.Error{Code: types.ErrInternal, Text: "add " + r.String(), Cause: err}
	})
}

// RemoveRules removes rules of one side; one that is not there is no error.
func (k *Kernel) RemoveRules(side plan.Side, all []plan.Rule) error {
	_, err := k.changeRules(side, all, unix.RTM_DELRULE, 0, func(r plan.Rule, err error) error {
		if isAbsent(err) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", r, err)
	})
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// changeRules makes one change a rule. judge is as for changeSide.
func (k *Kernel) changeRules(side plan.Side, all []plan.Rule, kind, flags int, judge func(plan.Rule, error) error) (made []plan.Rule, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	n, err := k.On(side)
	if err != nil {
		return nil, err
	}
	requests := make([]request, len(all))
	for i, r := range all {
		requests[i] = ruleRequest(kind, flags, r)
	}
	var errs []error
	for i, a := range n.ask(requests) {
		if a.err == nil {
			made = append(made, all[i])
			continue
		}
		errs = append(errs, judge(all[i], a.err))
	}
	return made, errors.Join(errs...)
}

// ruleRequest asks for a change of a rule; its header is that of a route with
// other names (struct fib_rule_hdr in linux/fib_rules.h).
func ruleRequest(kind, flags int, r plan.Rule) request {
	msg := nl.NewRtDelMsg()
	msg.Family = uint8(familyOf(r.From.Addr()))
	msg.Src_len = uint8(r.From.Bits())
	msg.Type = unix.FR_ACT_TO_TBL
	msg.Scope = 0
	req := newRequest(kind, flags, msg)
	req.add(nl.FRA_SRC, r.From.Addr().AsSlice())
	req.addNumber(nl.FRA_TABLE, r.Table)
	req.addNumber(nl.FRA_PRIORITY, r.Priority)
	req.add(nl.FRA_PROTOCOL, []byte{plan.Protocol})
	return req
}

// CheckRules says which rules of one side are missing, from one dump a family.
func (k *Kernel) CheckRules(side plan.Side, all []plan.Rule) (drift []string, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	n, err := k.On(side)
	if err != nil {
		return nil, err
	}
	there, err := n.rules()
	if err != nil {
		return nil, err
	}
	have := make(map[plan.Rule]bool, len(there))
	for _, r := range there {
		have[r] = true
	}
	for _, r := range all {
		if !have[r] {
			drift = append(drift, r.String()+": missing")
		}
	}
	return drift, nil
}

// rules are those of ours.
func (n *Namespace) rules() (ours []plan.Rule, err error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		some, err := n.rulesOf(family)
		if err != nil {
			return nil, err
		}
		ours = append(ours, some...)
	}
	return ours, nil
}

// rulesOf are those of an address family. A kernel that has the family not at all, such as one
// that was booted with ipv6.disable=1, has no rules of it.
func (n *Namespace) rulesOf(family int) (ours []plan.Rule, err error) {
	all, err := n.handle.RuleListFiltered(family, &netlink.Rule{}, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: list rules: %w", n.side, err)
	}
	for _, r := range all {
		if r.Protocol != plan.Protocol || r.Src == nil {
			continue
		}
		if from, ok := config.PrefixOf(*r.Src); ok {
			ours = append(ours, plan.Rule{Side: n.side, From: from, Table: r.Table, Priority: r.Priority})
		}
	}
	return ours, nil
}

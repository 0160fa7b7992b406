package attach

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// repair restores what CHECK finds missing. If a person triggers it, not the keeper or
// the timer, it also applies edited addresses.
func (n *Netns) repair() error {
	if err := n.rename(); err != nil {
		return err
	}
	a, err := n.current()
	if err != nil {
		return err
	}
	repairOnly, broken := record.RepairOnly(n.Name)
	edit, now := n.edited(a)
	if edit.Live && !repairOnly {
		return n.update(a, edit, now)
	}
	return n.mend(a, edit, broken)
}

// update puts into effect that addresses were edited. The plugins keep what was
// if they cannot.
func (n *Netns) update(a record.Attachment, edit networks.Edit, now *Netns) error {
	n.Say(sdlog.LevelNotice, "%s has changed: applying it", edit.What)
	want, err := now.wanted()
	if err == nil {
		// If it fails, what was made is what there is.
		want.Result = a.Result
		err = now.addAs(want)
	}
	if err == nil {
		return nil
	}
	if keeping := n.keep(a); keeping != nil {
		n.Say(sdlog.LevelErr, "%v", keeping)
	}
	return fmt.Errorf("%s has changed, and could not be applied; the old addresses stay: %w", edit.What, err)
}

// current is what was made last.
func (n *Netns) current() (record.Attachment, error) {
	known, err := cnitool.Known(n.Namespace)
	known = slices.DeleteFunc(known, func(a record.Attachment) bool { return len(a.Config) == 0 })
	if len(known) == 0 {
		if err == nil {
			err = fmt.Errorf("nothing is known of an attachment")
		}
		return record.Attachment{}, fmt.Errorf("%w; `systemctl restart %s` recreates it", err, n.Shim())
	}
	if err != nil {
		n.Say(sdlog.LevelWarning, "%v", err)
	}
	return known[len(known)-1], nil
}

// edited says what was edited since. Settings that cannot be read are an edit.
func (n *Netns) edited(a record.Attachment) (networks.Edit, *Netns) {
	now, err := n.configured()
	if err != nil {
		return networks.Edit{What: fmt.Sprintf("%s (%v)", settings.EnvFile(n.Name), err)}, now
	}
	return networks.Edited(a, now.Namespace), now
}

// mend checks and repairs by the configuration that the attachment was made with. If
// something is known to be broken it is repaired at once: CHECK takes as long as ADD.
func (n *Netns) mend(a record.Attachment, edit networks.Edit, broken bool) error {
	then, forget, err := n.asMade(a)
	if err != nil {
		return err
	}
	defer forget()
	if !broken {
		err := then.check()
		if err == nil {
			then.tellUntouched(edit, a)
			// The host's DNS servers may be others now.
			return n.giveDNS(cnitool.Result(a))
		}
		n.Say(sdlog.LevelWarning, "%v", err)
	}
	if err := then.addAs(a); err != nil {
		return err
	}
	n.tellEdit(edit)
	return then.checkAgain()
}

// check is CHECK, but for what no ADD can put right, such as a cable that is out. That
// is said.
func (n *Netns) check() error {
	_, err := n.cni("check")
	if err != nil && strings.Contains(err.Error(), cnitool.TryAgain) {
		n.Say(sdlog.LevelWarning, "%v", err)
		return nil
	}
	return err
}

// checkAgain is check after an ADD. Where the network's version has no CHECK, the ADD is
// all that there is.
func (n *Netns) checkAgain() error {
	err := n.check()
	if err != nil && strings.Contains(err.Error(), cnitool.NoCheck) {
		return nil
	}
	return err
}

// asMade is the namespace with the settings that an attachment was made with,
// until forget is called.
func (n *Netns) asMade(a record.Attachment) (then *Netns, forget func(), err error) {
	made, forget, err := cnitool.AsMade(n.Namespace, a)
	made.Retry = repairPatience
	return &Netns{Voice: n.Voice, Namespace: made}, forget, err
}

// repairPatience is how long a repair waits for what may pass.
const repairPatience = 10 * time.Second

// tellUntouched is for what needs no repair.
func (n *Netns) tellUntouched(edit networks.Edit, a record.Attachment) {
	f, err := n.look(cnitool.Result(a))
	if err == nil {
		n.showStatus(f)
	}
	others := record.Conflicts(n.Name)
	for _, conflict := range others {
		n.Say(sdlog.LevelErr, "%s: find that station by its MAC, and remove the address from it", conflict)
	}
	if edit.What == "" {
		if len(others) == 0 && f.Carrier {
			n.Say(sdlog.LevelInfo, "nothing to repair")
		}
		return
	}
	n.Say(sdlog.LevelNotice, "nothing to repair, but %s has changed since: %s", edit.What, edit.Renewal(n.Namespace))
}

func (n *Netns) tellEdit(edit networks.Edit) {
	if edit.What != "" {
		n.Say(sdlog.LevelNotice, "repaired according to the record, but %s has changed since: %s", edit.What, edit.Renewal(n.Namespace))
	}
}

// rename restores the namespace's name: `ip netns delete` removes only the name while
// processes run in the namespace, of a service or, the article's way, of the shim.
// Without any, the namespace is created again.
func (n *Netns) rename() error {
	if n.exists() {
		return nil
	}
	pids, err := n.processes()
	if err != nil {
		return err
	}
	return onHost(func() error {
		for _, pid := range pids {
			if onHostsNetwork(pid) || n.nameThatOf(pid) != nil {
				continue
			}
			n.Say(sdlog.LevelNotice, "somebody removed the name of this namespace; restored")
			return nil
		}
		n.Say(sdlog.LevelNotice, "somebody removed this namespace; recreated")
		return n.addName()
	})
}

// processes are the main processes of the services that are bound to the shim, and
// of the shim itself, which has one the article's way.
func (n *Netns) processes() (pids []string, err error) {
	err = units.Do(func(ctx context.Context, sd *units.Systemd) error {
		shim, err := sd.Unit(ctx, n.Shim())
		if err != nil {
			return err
		}
		all := make([]*units.Unit, len(shim.BoundBy), len(shim.BoundBy)+1)
		for i, name := range shim.BoundBy {
			if all[i], err = sd.Unit(ctx, name); err != nil {
				return err
			}
		}
		for _, u := range append(all, shim) {
			if u.MainPID != 0 {
				pids = append(pids, fmt.Sprint(u.MainPID))
			}
		}
		return nil
	})
	return pids, err
}

// onHostsNetwork is true for a service that was not restarted since it got its
// drop-in, and for one that is gone.
func onHostsNetwork(pid string) bool {
	its, err := os.Readlink("/proc/" + pid + "/ns/net")
	if err != nil {
		return true
	}
	own, err := os.Readlink("/proc/thread-self/ns/net")
	return err != nil || its == own
}

// settle makes the shim restore the namespace's name, if that is missing.
func (n *Netns) settle() error {
	if n.exists() {
		return nil
	}
	return units.Do(func(ctx context.Context, sd *units.Systemd) error {
		var pid uint32
		if shim, err := sd.Unit(ctx, n.Shim()); err == nil {
			pid = shim.MainPID
		}
		return sd.Reload(ctx, n.Applier(pid))
	})
}

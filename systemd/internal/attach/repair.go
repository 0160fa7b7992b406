package attach

import (
	"os"
	"strings"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/units"
)

// repair puts right what CHECK finds missing.
func (n *Netns) repair() error {
	if err := n.rename(); err != nil {
		return err
	}
	_, err := n.cni("check")
	if err == nil {
		return n.leaveAsIs()
	}
	n.Say(sdlog.LevelWarning, "%v", err)
	if err := n.add(); err != nil {
		return err
	}
	_, err = n.cni("check")
	return err
}

// leaveAsIs is for what needs no repair, but may be out of date.
func (n *Netns) leaveAsIs() error {
	known, err := cnitool.Remembered(n.Namespace)
	if err != nil || len(known) == 0 {
		return err
	}
	what, err := known[0].Edited(n.Namespace)
	if err != nil {
		return err
	}
	if what == "" {
		n.Say(sdlog.LevelInfo, "all is as it should be")
	} else {
		n.Say(sdlog.LevelNotice, "all is as it was made, but %s has changed since: %s", what, cnitool.Renewal(n.Namespace))
	}
	// The host's DNS servers may be others now.
	return n.giveDNS(known[0].Result().DNS)
}

// rename gives the namespace its name back: `ip netns delete` takes away the
// name alone while processes live in the namespace, of a service or, the
// article's way, of the shim. Where none does, it is made again.
func (n *Netns) rename() error {
	if n.exists() {
		return nil
	}
	users, err := units.Show("BoundBy", n.Shim())
	if err != nil {
		return err
	}
	pids, err := units.Show("MainPID", append(strings.Fields(users), n.Shim())...)
	if err != nil {
		return err
	}
	return onHost(func() error {
		for _, pid := range strings.Fields(pids) {
			if pid == "0" || onHostsNetwork(pid) || units.Run("ip", "netns", "attach", n.Name, pid) != nil {
				continue
			}
			n.Say(sdlog.LevelNotice, "somebody removed the name of this namespace; it is back")
			return nil
		}
		n.Say(sdlog.LevelNotice, "somebody removed this namespace; it is made again")
		return n.addName()
	})
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

// settle has the shim put the namespace's name right, if that is missing.
func (n *Netns) settle() error {
	if n.exists() {
		return nil
	}
	unit := n.Shim()
	if pid, err := units.Show("MainPID", unit); err == nil && pid != "0" {
		unit = "systemd-netns-access@" + n.Name + ".service"
	}
	return units.Run("systemctl", "reload", unit)
}

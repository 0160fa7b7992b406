package dropin

import (
	"errors"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// Disable takes a service, such as "web.service", out of its namespace, and
// restarts it if it runs.
func Disable(name string) error {
	v := sdlog.New(strings.TrimSuffix(name, ".service"))
	in, err := NamespaceOf(name)
	if err != nil {
		return err
	}
	if in == "" {
		v.Say(sdlog.LevelInfo, "%s is in no namespace", name)
		return nil
	}
	u := &units.Unit{Name: name}
	if err := u.Ask(); err != nil {
		return err
	}
	c := &change{running: u.Running}
	if err := takeOut(u, c, in); err != nil {
		return errors.Join(err, c.undo())
	}
	if err := c.takeEffect(); err != nil {
		return err
	}
	v.Say(sdlog.LevelInfo, "%s is out of namespace %s%s", name, in, c.hint(u))
	return errors.Join(forget(in), letGo(in))
}

// letGo ends a shim that nobody needs any more: systemd does not look again
// when a drop-in goes.
func letGo(namespace string) error {
	n := settings.Named(namespace)
	users, err := units.Show("BoundBy", n.Shim())
	if err != nil || users != "" {
		return err
	}
	return units.Run("systemctl", "stop", n.Shim())
}

// takeOut removes the drop-ins of a service and its sockets.
func takeOut(u *units.Unit, c *change, namespace string) error {
	for _, name := range u.Names() {
		if err := newDropIn(name, namespace).remove(c); err != nil {
			return err
		}
	}
	return nil
}

// forget removes what `enable` has written for a namespace that no service is
// in any more.
func forget(namespace string) error {
	all, err := Members()
	if err != nil || slices.ContainsFunc(all, func(m Member) bool { return m.Namespace == namespace }) {
		return err
	}
	ours, _, err := isWritten(settings.EnvFile(namespace))
	if err != nil || !ours {
		return err
	}
	return files.RemoveWithFolder(settings.EnvFile(namespace))
}

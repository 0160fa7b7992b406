package dropin

import (
	"errors"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// takeBack is undo and takeEffect. A start limit that is used up by now must
// not keep a service from running as it did.
func (c *change) takeBack() error {
	err := c.undo()
	if len(c.running) > 0 {
		err = errors.Join(err, units.Run("systemctl", append([]string{"reset-failed", "--"}, c.running...)...))
	}
	return errors.Join(err, c.takeEffect())
}

// affectsAllIn is for a change of a namespace's environment: its shim, if it
// runs, has to start again, and all that is bound to it with it.
func (c *change) affectsAllIn(namespace string) error {
	shim := settings.Named(namespace).Shim()
	state, err := units.Show("ActiveState", shim)
	if err != nil || state == "inactive" || state == "failed" {
		return err
	}
	users, err := units.Show("BoundBy", shim)
	if err != nil {
		return err
	}
	running, err := units.Active(strings.Fields(users))
	if err != nil {
		return err
	}
	c.shim = shim
	for _, unit := range running {
		if !slices.Contains(c.running, unit) {
			c.running = append(c.running, unit)
		}
	}
	return nil
}

// takeEffect has systemd read the files, and what runs take them to heart.
func (c *change) takeEffect() error {
	if err := units.Run("systemctl", "daemon-reload"); err != nil {
		return err
	}
	if c.shim != "" {
		// What is bound to it stops with it.
		if err := units.Run("systemctl", "stop", "--", c.shim); err != nil {
			return err
		}
	}
	if len(c.running) == 0 {
		return nil
	}
	sockets, others := apart(c.running)
	if len(sockets) > 0 {
		// systemd starts no socket whose service runs, and 247 not even when it
		// is told to restart both.
		if err := units.Run("systemctl", append([]string{"stop", "--"}, c.running...)...); err != nil {
			return err
		}
	}
	return units.Run("systemctl", append([]string{"restart", "--"}, append(sockets, others...)...)...)
}

func apart(units []string) (sockets, others []string) {
	for _, unit := range units {
		if strings.HasSuffix(unit, ".socket") {
			sockets = append(sockets, unit)
		} else {
			others = append(others, unit)
		}
	}
	return sockets, others
}

// hint says what was done to a service, and what is left to do.
func (c *change) hint(u *units.Unit) string {
	var b strings.Builder
	if len(u.Running) > 0 {
		b.WriteString("; it was restarted")
	} else {
		b.WriteString("; it does not run: systemctl start " + u.Name)
	}
	var others []string
	for _, unit := range c.running {
		if !slices.Contains(u.Running, unit) {
			others = append(others, unit)
		}
	}
	if len(others) > 0 {
		b.WriteString("; restarted, too: " + strings.Join(others, " "))
	}
	return b.String()
}

// Package units asks systemd about units, and has it start and stop them.
package units

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// Unit is a service, and what systemd says of it.
type Unit struct {
	Name    string
	loaded  string
	Sockets []string
	// Running are those of its units that were active.
	Running []string
}

// Find finds a service that can be put into a namespace.
func Find(name string) (*Unit, error) {
	u := &Unit{Name: name}
	if err := u.Ask(); err != nil {
		return nil, err
	}
	switch u.loaded {
	case "loaded":
	case "masked":
		return nil, fmt.Errorf("%s: masked, so that it cannot run; `systemctl unmask %s` first", u.Name, u.Name)
	case "not-found":
		return nil, fmt.Errorf("%s: no such unit; install what brings it, or see `systemctl list-unit-files --type=service`", u.Name)
	default:
		return nil, fmt.Errorf("%s: systemd cannot load it (%s); see `systemctl status %s`", u.Name, u.loaded, u.Name)
	}
	return u, nil
}

// Ask asks systemd about the service. An alias becomes the name that it stands
// for, by which the drop-in names the namespace.
func (u *Unit) Ask() error {
	values, err := properties(u.Name, "Id", "LoadState", "TriggeredBy")
	if err != nil {
		return err
	}
	if values["LoadState"] == "loaded" && values["Id"] != "" {
		u.Name = values["Id"]
	}
	u.loaded = values["LoadState"]
	for trigger := range strings.FieldsSeq(values["TriggeredBy"]) {
		if strings.HasSuffix(trigger, ".socket") {
			u.Sockets = append(u.Sockets, trigger)
		}
	}
	u.Running, err = Active(u.Names())
	return err
}

// Active are those of the units that run, or are about to.
func Active(units []string) (running []string, err error) {
	for _, name := range units {
		state, err := Show("ActiveState", name)
		if err != nil {
			return nil, err
		}
		if slices.Contains([]string{"active", "activating", "reloading"}, state) {
			running = append(running, name)
		}
	}
	return running, nil
}

// Names are the service's and its sockets' names.
func (u *Unit) Names() []string { return append([]string{u.Name}, u.Sockets...) }

// LastWords are what the shim has said of late.
func LastWords(namespace string) string {
	out, err := exec.Command("journalctl", "--quiet", "--no-pager", "--output=cat", "--identifier=systemd-netns",
		"--lines=3", "--unit=systemd-netns@"+namespace+".service").Output()
	if err != nil {
		return "see `journalctl -u systemd-netns@" + namespace + "`"
	}
	return strings.TrimSpace(string(out))
}

// properties asks systemd for several properties of a unit.
func properties(unit string, names ...string) (map[string]string, error) {
	args := []string{"show", "--property=" + strings.Join(names, ","), "--", unit}
	out, err := exec.Command("systemctl", args...).Output()
	if err != nil {
		return nil, failure("systemctl", args, err, "")
	}
	values := map[string]string{}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = value
	}
	return values, nil
}

// Show asks systemd for a property of units, one a line.
func Show(property string, units ...string) (string, error) {
	args := append([]string{"show", "--property=" + property, "--value", "--"}, units...)
	out, err := exec.Command("systemctl", args...).Output()
	if err != nil {
		return "", failure("systemctl", args, err, "")
	}
	return strings.TrimSpace(string(out)), nil
}

// Run runs a command, whose output is its error's text.
func Run(command string, args ...string) error {
	out, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		return failure(command, args, err, string(out))
	}
	return nil
}

func failure(command string, args []string, err error, out string) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && out == "" {
		out = string(exit.Stderr)
	}
	return fmt.Errorf("%s %s: %w: %s", command, strings.Join(args, " "), err, strings.TrimSpace(out))
}

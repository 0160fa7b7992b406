package main

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// unit is a service, and what systemd says of it.
type unit struct {
	name    string
	loaded  string
	sockets []string
	// running are those of its units that were active.
	running []string
}

// findUnit finds a service that can be put into a namespace.
func findUnit(name string) (*unit, error) {
	u := &unit{name: name}
	if err := u.ask(); err != nil {
		return nil, err
	}
	switch u.loaded {
	case "loaded":
	case "masked":
		return nil, fmt.Errorf("%s: masked, so that it cannot run; `systemctl unmask %s` first", u.name, u.name)
	case "not-found":
		return nil, fmt.Errorf("%s: no such unit; install what brings it, or see `systemctl list-unit-files --type=service`", u.name)
	default:
		return nil, fmt.Errorf("%s: systemd cannot load it (%s); see `systemctl status %s`", u.name, u.loaded, u.name)
	}
	return u, nil
}

// ask asks systemd about the service. An alias becomes the name that it stands
// for, by which the drop-in names the namespace.
func (u *unit) ask() error {
	values, err := properties(u.name, "Id", "LoadState", "TriggeredBy")
	if err != nil {
		return err
	}
	if values["LoadState"] == "loaded" && values["Id"] != "" {
		u.name = values["Id"]
	}
	u.loaded = values["LoadState"]
	for trigger := range strings.FieldsSeq(values["TriggeredBy"]) {
		if strings.HasSuffix(trigger, ".socket") {
			u.sockets = append(u.sockets, trigger)
		}
	}
	u.running, err = active(u.names())
	return err
}

// active are those of the units that run, or are about to.
func active(units []string) (running []string, err error) {
	for _, name := range units {
		state, err := show("ActiveState", name)
		if err != nil {
			return nil, err
		}
		if slices.Contains([]string{"active", "activating", "reloading"}, state) {
			running = append(running, name)
		}
	}
	return running, nil
}

// names are the service's and its sockets' names.
func (u *unit) names() []string { return append([]string{u.name}, u.sockets...) }

// lastWords are what the shim has said of late.
func lastWords(namespace string) string {
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

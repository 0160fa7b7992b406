package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	current "github.com/containernetworking/cni/pkg/types/100"
)

// attachment is what cnitool remembers of an ADD that succeeded.
type attachment struct {
	file        string
	Kind        string `json:"kind"`
	ContainerID string `json:"containerId"`
	Config      []byte `json:"config"`
	IfName      string `json:"ifName"`
	NetworkName string `json:"networkName"`
	// CapabilityArgs are CAP_ARGS as they were.
	CapabilityArgs json.RawMessage `json:"capabilityArgs"`
	RawResult      json.RawMessage `json:"result"`
}

func (a attachment) result() *current.Result {
	if result, err := parseResult(a.RawResult); err == nil {
		return result
	}
	return &current.Result{}
}

// remembered gives the attachments of a namespace, by cnitool's memory.
func (n *netns) remembered() ([]attachment, error) {
	files, err := filepath.Glob(filepath.Join(cacheDir, "*-"+containerID(n.path)+"-*"))
	if err != nil {
		return nil, err
	}
	var all []attachment
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		a := attachment{file: file}
		if err := json.Unmarshal(data, &a); err != nil {
			return nil, fmt.Errorf("%s: %w; remove that file if no attachment of it is left", file, err)
		}
		if a.ContainerID == containerID(n.path) {
			all = append(all, a)
		}
	}
	return all, nil
}

// undo takes the namespace out of every network that it was added to, as these
// were then: file and environment may have been changed since, or be gone.
// cnitool remembers an ADD that succeeded; of another one the plugins know.
func (n *netns) undo() error {
	known, err := n.remembered()
	if err != nil {
		return err
	}
	if len(known) == 0 && !n.marked() {
		return nil
	}
	for _, a := range known {
		err = errors.Join(err, n.undoAs(a))
	}
	if len(known) == 0 {
		_, err = n.cni("del")
		if errors.Is(err, errNoNetwork) {
			// There was none to add it to, then, as an ADD has said.
			err = nil
		}
	}
	if err != nil {
		n.say(levelWarning, "%v", err)
		return errSaid
	}
	if err := removeIfThere(n.dnsFile()); err != nil {
		return err
	}
	// systemd's to remove, where a unit has made it.
	_ = os.Remove(filepath.Dir(n.dnsFile()))
	return removeIfThere(n.markFile())
}

// undoAs undoes an ADD with the configuration that it had.
func (n *netns) undoAs(a attachment) error {
	dir, err := os.MkdirTemp("", "systemd-netns.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "then.conflist"), a.Config, 0o600); err != nil {
		return err
	}
	then := *n
	then.network, then.ifName, then.confDir = a.NetworkName, a.IfName, dir
	before, err := then.look(a.result())
	if err != nil {
		n.say(levelWarning, "look at what is to be removed: %v", err)
	}
	if _, err := then.cni("del"); err != nil {
		return err
	}
	after, err := then.look(a.result())
	if err != nil {
		return fmt.Errorf("look at what was removed: %w", err)
	}
	for _, line := range before.removed(after, a.NetworkName) {
		n.say(levelInfo, "%s", line)
	}
	return nil
}

package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/sdlog"
)

// undo takes the namespace out of every network that it was added to, as these
// were then: file and environment may have been changed since, or be gone.
// cnitool remembers an ADD that succeeded; of another one the plugins know.
func (n *Netns) undo() error {
	known, err := cnitool.Remembered(n.Namespace)
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
		if errors.Is(err, networks.ErrNone) {
			// There was none to add it to, then, as an ADD has said.
			err = nil
		}
	}
	if err != nil {
		n.Say(sdlog.LevelWarning, "%v", err)
		return ErrSaid
	}
	if err := files.RemoveIfThere(n.dnsFile()); err != nil {
		return err
	}
	// systemd's to remove, where a unit has made it.
	_ = os.Remove(filepath.Dir(n.dnsFile()))
	return files.RemoveIfThere(n.markFile())
}

// undoAs undoes an ADD with the configuration that it had.
func (n *Netns) undoAs(a cnitool.Attachment) error {
	dir, err := os.MkdirTemp("", "systemd-netns.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "then.conflist"), a.Config, 0o600); err != nil {
		return err
	}
	then := *n
	then.Network, then.IfName, then.ConfDir = a.NetworkName, a.IfName, dir
	before, err := then.look(a.Result())
	if err != nil {
		n.Say(sdlog.LevelWarning, "look at what is to be removed: %v", err)
	}
	if _, err := then.cni("del"); err != nil {
		return err
	}
	after, err := then.look(a.Result())
	if err != nil {
		return fmt.Errorf("look at what was removed: %w", err)
	}
	for _, line := range before.Removed(after, a.NetworkName) {
		n.Say(sdlog.LevelInfo, "%s", line)
	}
	return nil
}

// Package attach is what the units of a network namespace run: it makes the
// namespace, adds it to its CNI network, repairs it, and undoes all that.
//
// Undoing and repairing go by the record of what was made (package record). Only
// an ADD, and the question what was edited since, read what is configured.
package attach

import (
	"errors"
	"os"

	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/facts"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
)

// ErrSaid is an error that was already logged.
var ErrSaid = errors.New("said")

// Verbs are what the units run.
var Verbs = map[string]func(*Netns) error{
	"make":   (*Netns).make,
	"start":  (*Netns).start,
	"add":    (*Netns).add,
	"rename": (*Netns).rename,
	"repair": (*Netns).repair,
	"settle": (*Netns).settle,
	"attach": (*Netns).attach,
	"undo":   (*Netns).undo,
	"remove": (*Netns).remove,
	"clear":  (*Netns).clear,
}

// Netns is a network namespace: by its name alone, or with the settings of an
// attachment.
type Netns struct {
	sdlog.Voice
	settings.Namespace
	// fresh says that the namespace was just made: a record is about one before it.
	fresh bool
	// turn is what make has waited for, until start has tried the first ADD.
	turn *turn
}

// Open opens a namespace, and reads no settings.
func Open(name string) (*Netns, error) {
	return &Netns{Voice: sdlog.New(name), Namespace: settings.Named(name)}, settings.CheckName(name)
}

// configured is the namespace with what is configured for it now.
func (n *Netns) configured() (*Netns, error) {
	now, err := settings.Load(n.Name)
	return &Netns{Voice: n.Voice, Namespace: now, turn: n.turn}, err
}

// cni runs cnitool, and logs the plugins' output.
func (n *Netns) cni(verb string) (*current.Result, error) {
	result, logs, err := cnitool.Run(n.Namespace, verb)
	if logs != "" {
		n.Say(sdlog.LevelWarning, "%s", logs)
	}
	return result, err
}

func (n *Netns) look(result *current.Result) (facts.Facts, error) {
	return facts.Look(n.Path, n.IfName, result)
}

func (n *Netns) exists() bool {
	_, err := os.Lstat(n.Path)
	return err == nil
}

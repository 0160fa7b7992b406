// Package attach is what the units of a network namespace run: it makes the
// namespace, adds it to its CNI network, repairs it, and undoes all that.
package attach

import (
	"errors"
	"os"
	"path/filepath"

	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/facts"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
)

// markDir holds a file for each namespace that was, or was to be, added to
// a network: like IPAM's leases it outlives a power cut.
const markDir = "/var/lib/systemd-netns"

// ErrSaid is an error that has been told already.
var ErrSaid = errors.New("said")

// Verbs are what the units run.
var Verbs = map[string]func(*Netns) error{
	"make":   (*Netns).make,
	"add":    (*Netns).add,
	"rename": (*Netns).rename,
	"repair": (*Netns).repair,
	"settle": (*Netns).settle,
	"attach": (*Netns).attach,
	"undo":   (*Netns).undo,
	"remove": (*Netns).remove,
	"clear":  (*Netns).clear,
}

// Netns is a network namespace with what is configured for it.
type Netns struct {
	sdlog.Voice
	settings.Namespace
}

// Open reads what is configured for a namespace.
func Open(name string) (*Netns, error) {
	n, err := settings.Load(name)
	return &Netns{sdlog.New(name), n}, err
}

// cni runs cnitool, and passes on what the plugins have to say.
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

// mark notes that the namespace is about to be added to a network, so that a
// start that follows a crash knows that there is something to undo.
func (n *Netns) mark() error {
	if err := os.MkdirAll(markDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(n.markFile(), nil, 0o600)
}

func (n *Netns) markFile() string { return filepath.Join(markDir, n.Name) }

func (n *Netns) marked() bool {
	_, err := os.Lstat(n.markFile())
	return err == nil
}

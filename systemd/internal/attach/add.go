package attach

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/facts"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
)

// retryInterval is the time between two tries of an ADD.
const retryInterval = 500 * time.Millisecond

// start adds a namespace that make has just made, and before that undoes what a power cut
// or a hand has left of the one before. Nearly always there is nothing, so this has no
// process of its own: starting one in a sandbox takes systemd longer than an ADD takes.
func (n *Netns) start() error {
	n.turn = &turn{sdlog.Stored(turnName)}
	defer n.endTurn()
	old := *n
	old.fresh = true
	if err := old.undo(); err != nil && !errors.Is(err, ErrSaid) {
		n.Say(sdlog.LevelErr, "%v", err)
	}
	return n.add()
}

// add adds the namespace to the network that is configured for it.
func (n *Netns) add() error {
	now, err := n.configured()
	if err != nil {
		return err
	}
	want, err := now.wanted()
	if err != nil {
		return err
	}
	return now.addAs(want)
}

// wanted is what is configured, as an ADD records it.
func (n *Netns) wanted() (record.Attachment, error) {
	found, _, err := networks.Find(n.ConfDir, n.Network)
	if err == nil && found == nil {
		err = networks.Missing(n.Namespace)
	}
	if err != nil {
		return record.Attachment{}, err
	}
	return record.Attachment{
		Network: n.Network, Config: found.Text, IfName: n.IfName, CNIPath: n.CNIPath, CNIArgs: n.CNIArgs, CapArgs: n.CapArgs, Env: n.Env,
		Unit: n.unit(),
	}, nil
}

// unit is the one that this process is of: the shim or, the article's way, the
// one that gives access to it.
func (n *Netns) unit() string { return cmp.Or(os.Getenv("SYSTEMD_NETNS_UNIT"), n.Shim()) }

// addAs adds the namespace to its network, with a record of it before and after,
// and tells what there is then.
func (n *Netns) addAs(a record.Attachment) error {
	if err := n.keep(a); err != nil {
		return err
	}
	result, err := n.addPatiently()
	if err != nil {
		return err
	}
	n.complete(&a)
	if err := n.keep(a); err != nil {
		return err
	}
	if err := n.tell(result); err != nil {
		return err
	}
	return n.giveDNS(result)
}

// keep records an attachment beside others, which an undo has left.
func (n *Netns) keep(a record.Attachment) error {
	// One that is damaged was used for what it was good for by the undo before.
	all, _ := record.Load(n.Name)
	with := record.Put(all, a)
	if reflect.DeepEqual(all, with) {
		// A repair has nothing new to tell those who watch the record.
		return nil
	}
	return record.Save(n.Name, with)
}

// complete adds what cnitool knows after an ADD.
func (n *Netns) complete(a *record.Attachment) {
	known, err := cnitool.Remembered(n.Namespace)
	if err != nil {
		n.Say(sdlog.LevelWarning, "%v", err)
	}
	for _, k := range known {
		if k.Same(*a) && len(k.Config) > 0 {
			a.Config, a.Result = k.Config, k.Result
		}
	}
}

// addPatiently retries temporary errors. It logs an error when it first occurs, not each
// time.
func (n *Netns) addPatiently() (*current.Result, error) {
	began, said := time.Now(), ""
	for {
		n.Extend(2 * cnitool.Patience)
		result, err := n.cni("add")
		n.endTurn()
		if err == nil || !strings.Contains(err.Error(), cnitool.TryAgain) {
			return result, err
		}
		text := err.Error()
		if text != said {
			n.Say(sdlog.LevelErr, "%s", text)
			n.Status("waiting: %s", text)
			said = text
		}
		if waited := time.Since(began); waited > n.patience(text) {
			n.Say(sdlog.LevelErr, "gave up after %s; RETRY_SEC in %s sets how long a start waits", waited.Round(time.Second), settings.EnvFile(n.Name))
			return nil, ErrSaid
		}
		time.Sleep(retryInterval)
	}
}

// patience is how long an ADD with this temporary error is repeated.
func (n *Netns) patience(text string) time.Duration {
	if strings.Contains(text, cnitool.StillToCome) {
		return max(n.Retry, n.RetryNetwork)
	}
	return n.Retry
}

// tell logs the state after an ADD, by the result and the kernel.
func (n *Netns) tell(result *current.Result) error {
	f, err := n.look(result)
	if err != nil {
		return fmt.Errorf("read what was created: %w", err)
	}
	for _, line := range f.Made(n.Network) {
		n.Say(sdlog.LevelInfo, "%s", line)
	}
	n.showStatus(f)
	return nil
}

// showStatus sets the unit's line in `systemctl status`.
func (n *Netns) showStatus(f facts.Facts) {
	line := fmt.Sprintf("%s on %s, network %s", facts.Count(len(f.VIPs)), n.IfName, n.Network)
	if f.MAC != "" && !f.Carrier {
		line += fmt.Sprintf("; %s has no carrier, so nobody reaches them. The LAN is asked whether they are free when it has one", cmp.Or(f.Master, n.IfName))
	}
	for _, conflict := range record.Conflicts(n.Name) {
		line += "; " + conflict
	}
	if doubt := record.Doubt(n.Name); doubt != "" {
		line += "; " + doubt
	}
	n.Status("%s", line)
}

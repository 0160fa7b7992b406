package attach

import (
	"fmt"
	"strings"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/facts"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
)

// retryInterval parts the tries of an ADD.
const retryInterval = 500 * time.Millisecond

// add adds the namespace to its network, and tells what there is then.
func (n *Netns) add() error {
	if err := n.mark(); err != nil {
		return err
	}
	result, err := n.addPatiently()
	if err != nil {
		return err
	}
	if err := n.tell(result); err != nil {
		return err
	}
	return n.giveDNS(result.DNS)
}

// addPatiently tries again while an error says that it may pass. It tells an
// error when it comes up, not each time.
func (n *Netns) addPatiently() (*current.Result, error) {
	deadline := time.Now().Add(n.Retry)
	said := ""
	for {
		result, err := n.cni("add")
		if err == nil || !strings.Contains(err.Error(), cnitool.TryAgain) {
			return result, err
		}
		if text := err.Error(); text != said {
			n.Say(sdlog.LevelErr, "%s", text)
			n.Status("waiting: %s", text)
			said = text
		}
		if time.Now().After(deadline) {
			n.Say(sdlog.LevelErr, "gave up after %s; RETRY_SEC in %s sets how long a start waits", n.Retry, settings.EnvFile(n.Name))
			return nil, ErrSaid
		}
		time.Sleep(retryInterval)
	}
}

// tell says what there is, by the result and the kernel.
func (n *Netns) tell(result *current.Result) error {
	f, err := n.look(result)
	if err != nil {
		return fmt.Errorf("look at what was made: %w", err)
	}
	for _, line := range f.Made(n.Network) {
		n.Say(sdlog.LevelInfo, "%s", line)
	}
	n.Status("%s on %s, network %s", facts.Count(len(f.VIPs)), n.IfName, n.Network)
	return nil
}

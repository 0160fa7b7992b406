package main

import (
	"fmt"
	"strings"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
)

// retryInterval parts the tries of an ADD.
const retryInterval = 500 * time.Millisecond

// add adds the namespace to its network, and tells what there is then.
func (n *netns) add() error {
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
func (n *netns) addPatiently() (*current.Result, error) {
	deadline := time.Now().Add(n.retry)
	said := ""
	for {
		result, err := n.cni("add")
		if err == nil || !strings.Contains(err.Error(), tryAgain) {
			return result, err
		}
		if text := err.Error(); text != said {
			n.say(levelErr, "%s", text)
			n.status("waiting: %s", text)
			said = text
		}
		if time.Now().After(deadline) {
			n.say(levelErr, "gave up after %s; RETRY_SEC in %s sets how long a start waits", n.retry, envFile(n.name))
			return nil, errSaid
		}
		time.Sleep(retryInterval)
	}
}

// tell says what there is, by the result and the kernel.
func (n *netns) tell(result *current.Result) error {
	f, err := n.look(result)
	if err != nil {
		return fmt.Errorf("look at what was made: %w", err)
	}
	for _, line := range f.made(n.network) {
		n.say(levelInfo, "%s", line)
	}
	n.status("%s on %s, network %s", vipCount(len(f.vips)), n.ifName, n.network)
	return nil
}

// repair puts right what CHECK finds missing.
func (n *netns) repair() error {
	if err := n.rename(); err != nil {
		return err
	}
	_, err := n.cni("check")
	if err == nil {
		return n.leaveAsIs()
	}
	n.say(levelWarning, "%v", err)
	if err := n.add(); err != nil {
		return err
	}
	_, err = n.cni("check")
	return err
}

// leaveAsIs is for what needs no repair, but may be out of date.
func (n *netns) leaveAsIs() error {
	known, err := n.remembered()
	if err != nil || len(known) == 0 {
		return err
	}
	what, err := n.edited(known[0])
	if err != nil {
		return err
	}
	if what == "" {
		n.say(levelInfo, "all is as it should be")
	} else {
		n.say(levelNotice, "all is as it was made, but %s has changed since: %s", what, n.renewal())
	}
	// The host's DNS servers may be others now.
	return n.giveDNS(known[0].result().DNS)
}

// renewal tells how to put into effect what was edited.
func (n *netns) renewal() string {
	return fmt.Sprintf("`systemctl restart %s` makes it anew, and restarts what is in it", n.shim())
}

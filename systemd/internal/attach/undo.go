package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"macvlan-vip/systemd/internal/chain"
	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/facts"
	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
)

const (
	// pluginPatience is how long a plugin's DEL may take. It waits for nothing
	// but, with some IPAM plugins, a server, and on a busy host for a CPU. It is
	// more than macvlan-vip gives an IPAM plugin.
	pluginPatience = 20 * time.Second
	// undoPatience bounds an undo in all.
	undoPatience = 50 * time.Second
)

// undo takes the namespace out of every network that it was added to, as these
// were then. What cannot be undone stays in the record, so that the next start,
// stop or clear tries again, and so that remove tells.
func (n *Netns) undo() error {
	made, guessed, err := n.toUndo()
	if err != nil {
		n.Say(sdlog.LevelWarning, "%v", err)
	}
	if len(made) == 0 {
		return nil
	}
	n.Extend(undoPatience + pluginPatience)
	ctx, cancel := context.WithTimeout(context.Background(), undoPatience)
	defer cancel()
	n.stopRepairs()
	var left []record.Attachment
	for _, a := range made {
		if err := n.undoAs(ctx, a); err != nil {
			n.Say(sdlog.LevelErr, "%v", err)
			a.Undoing = true
			left = append(left, a)
		}
	}
	for _, a := range guessed {
		n.undoGuessed(ctx, a)
	}
	if err := errors.Join(n.forgetDNS(), record.Save(n.Name, left)); err != nil {
		return err
	}
	if len(left) > 0 {
		return ErrSaid
	}
	return nil
}

// tryUndo is undo before a remove, which tells what is left.
func (n *Netns) tryUndo() error {
	err := n.undo()
	if errors.Is(err, ErrSaid) {
		return nil
	}
	return err
}

// untouched is true if there is something to undo that no undo has begun with. systemd
// does not run one if it cannot set up its sandbox, on a full disk for instance.
func (n *Netns) untouched() bool {
	left, err := record.Load(n.Name)
	return err != nil || slices.ContainsFunc(left, func(a record.Attachment) bool { return !a.Undoing })
}

// stopRepairs notes in the record that it must not be repaired any more.
func (n *Netns) stopRepairs() {
	all, err := record.Load(n.Name)
	if err != nil || len(all) == 0 {
		return
	}
	for i := range all {
		all[i].Undoing = true
	}
	if err := record.Save(n.Name, all); err != nil {
		n.Say(sdlog.LevelWarning, "%v", err)
	}
}

// toUndo finds out what was made: by the record or, where that cannot tell, by
// cnitool's and the plugins' memory. Where these, too, name no more than a network,
// made is what our plugins can undo with nothing else, and guessed is that network
// as it is configured now.
func (n *Netns) toUndo() (made, guessed []record.Attachment, err error) {
	all, err := record.Load(n.Name)
	if err == nil && len(all) > 0 {
		return all, nil, nil
	}
	damaged := err != nil
	if all, err = cnitool.Remembered(n.Namespace); damaged && err == nil {
		err = fmt.Errorf("the record of the attachment is empty or damaged; using cnitool's cache and the plugins' records instead")
	}
	for _, a := range n.inJournals() {
		if !slices.ContainsFunc(all, a.Same) {
			all = append(all, a)
		}
	}
	now, confErr := n.configured()
	if len(all) == 0 && damaged {
		all = append(all, record.Attachment{
			Network: cmp.Or(now.Network, settings.NetworkName(n.Name)), IfName: cmp.Or(now.IfName, settings.DefaultIfName),
		})
	}
	for i, a := range all {
		if len(a.Config) > 0 {
			continue
		}
		if found, _, err := networks.Find(now.ConfDir, a.Network); confErr == nil && err == nil && found != nil {
			a.Config, a.CNIPath, a.CNIArgs, a.CapArgs = found.Text, now.CNIPath, now.CNIArgs, now.CapArgs
			guessed = append(guessed, a)
		}
		all[i] = record.Attachment{Network: a.Network, IfName: a.IfName, Config: ownPlugins}
	}
	return all, guessed, err
}

// ownPlugins is a network as far as our plugins need one to clean up.
var ownPlugins = []byte(`{"cniVersion": "1.1.0", "plugins": [{"type": "macvlan-vip"}, {"type": "hairpin-route"}]}`)

// inJournals finds the attachments that the plugins' records name: files
// NETWORK:CONTAINER:IFNAME.json.
func (n *Netns) inJournals() (all []record.Attachment) {
	id := ":" + cnitool.ContainerID(n.Namespace) + ":"
	found, err := filepath.Glob("/run/cni/*/netns-*/attachments/*" + id + "*.json")
	if err != nil {
		return nil
	}
	for _, file := range found {
		network, rest, _ := strings.Cut(filepath.Base(file), id)
		a := record.Attachment{Network: network, IfName: strings.TrimSuffix(rest, ".json")}
		if !slices.ContainsFunc(all, a.Same) {
			all = append(all, a)
		}
	}
	return all
}

// undoAs undoes an ADD with the configuration that it had.
func (n *Netns) undoAs(ctx context.Context, a record.Attachment) error {
	result := cnitool.Result(a)
	before, err := facts.Look(n.Path, a.IfName, result)
	if err != nil {
		n.Say(sdlog.LevelWarning, "read the state before removing it: %v", err)
	}
	logs, errs := chain.Delete(ctx, n.request(a))
	if logs != "" {
		n.Say(sdlog.LevelWarning, "%s", logs)
	}
	after, err := facts.Look(n.Path, a.IfName, result)
	if err != nil {
		n.Say(sdlog.LevelWarning, "read the state after removing it: %v", err)
	}
	for _, line := range before.Removed(after, a.Network) {
		n.Say(sdlog.LevelInfo, "%s", line)
	}
	if len(errs) == 0 {
		return cnitool.Forget(n.Namespace, a)
	}
	return n.notUndone(a, errs, after)
}

// netnsOfOld is the path of the namespace that the record is about, "" if it is gone (CNI
// specification, section 2, "CNI_NETNS").
func (n *Netns) netnsOfOld() string {
	if n.fresh {
		return ""
	}
	return n.Path
}

func (n *Netns) request(a record.Attachment) chain.Request {
	return chain.Request{
		Network: a.Network, Config: a.Config, ContainerID: cnitool.ContainerID(n.Namespace), Netns: n.netnsOfOld(), IfName: a.IfName,
		Path: filepath.SplitList(cnitool.PluginPath(a)), Args: a.CNIArgs, CapArgs: a.CapArgs, Env: a.Env, Result: a.Result, Timeout: pluginPatience,
		// Its own record has CNI_PATH from the beginning.
		Failed: len(a.Result) == 0 && a.CNIPath != "",
	}
}

// notUndone says what could not be undone, and what the kernel still holds.
func (n *Netns) notUndone(a record.Attachment, errs []error, left facts.Facts) error {
	then := n.Namespace
	then.Network, then.IfName, then.CNIPath, then.ConfDir = a.Network, a.IfName, cnitool.PluginPath(a), "/etc/cni/net.d"
	lines := []string{fmt.Sprintf("network %s could not be undone completely:", a.Network)}
	for _, err := range errs {
		var p chain.PluginError
		if errors.As(err, &p) {
			err = cnitool.Explain(then, fmt.Sprintf("plugin type=%q failed (delete): %v", p.Plugin, p.Err), "del")
		}
		lines = append(lines, "  "+err.Error())
	}
	for _, w := range left.Ways {
		lines = append(lines, fmt.Sprintf("  still there: the host's routes to %s; see `ip route show table all proto 118`", facts.List(w.VIPs)))
	}
	return errors.New(strings.Join(lines, "\n"))
}

// undoGuessed has the plugins of a network as it is configured now clean up, such
// as an IPAM plugin, of which nothing but the configuration tells.
func (n *Netns) undoGuessed(ctx context.Context, a record.Attachment) {
	logs, errs := chain.Delete(ctx, n.request(a))
	if logs != "" {
		n.Say(sdlog.LevelWarning, "%s", logs)
	}
	for _, err := range errs {
		n.Say(sdlog.LevelWarning, "clean up by network %s as it is configured now: %v", a.Network, err)
	}
}

func (n *Netns) forgetDNS() error {
	if err := errors.Join(files.RemoveIfThere(n.ResolvConf()), record.SetConflicts(n.Name, nil), record.SetDoubt(n.Name, "")); err != nil {
		return err
	}
	_, _ = record.RepairOnly(n.Name)
	// systemd's to remove, where a unit has made it.
	_ = os.Remove(filepath.Dir(n.ResolvConf()))
	return nil
}

// undone is an error while something is left to be undone, which has been told.
func (n *Netns) undone() error {
	left, err := record.Load(n.Name)
	if err == nil && len(left) == 0 {
		return nil
	}
	return fmt.Errorf("not everything was undone, see above; remove the cause, and then: %s clear %s", settings.Helper(), n.Name)
}

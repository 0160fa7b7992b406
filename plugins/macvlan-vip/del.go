package main

import (
	"errors"
	"os"
	"sync"

	"github.com/containernetworking/cni/pkg/skel"

	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/delegate"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
	"macvlan-vip/plugins/internal/verb"
)

// remover removes attachments: for DEL, for GC, and for an ADD that finds the
// remains of an earlier one.
type remover struct {
	store *journal.Store
	// ipam is the IPAM plugin's type as the configuration has it, stdin that
	// configuration, path and args CNI_PATH and CNI_ARGS.
	ipam, path, args string
	stdin            []byte
}

// remove removes exactly what the record names. It continues after an error, and
// deletes the record only once everything is removed.
func (d remover) remove(key journal.Key, rec *journal.Record, netns string) error {
	if rec == nil {
		return d.removeUnrecorded(key, netns)
	}
	d.store.End(rec)
	return verb.Remove(d.store, key, rec, func(r *journal.Record) error { return d.undo(r, netns) })
}

// undo removes what one record names.
func (d remover) undo(rec *journal.Record, netns string) error {
	k, err := verb.FindRecorded(rec, netns)
	if err != nil {
		return err
	}
	defer k.Close()
	links := func() error { return reconcile.Remove(k, plan.Desired{Links: rec.Desired.Links}) }
	lease := func() error { return d.release(rec, k.ServicePath()) }
	service := func() error { return atOnce(links, lease) }
	if rec.IPAMType == "dhcp" {
		// dhcp releases the lease through the link.
		service = func() error { return errors.Join(lease(), links()) }
	}
	host := func() error { return leaveHost(d.store, k, rec) }
	forgotten := reconcile.Remove(k, plan.Desired{Forwarding: rec.Desired.Forwarding})
	return errors.Join(forgotten, atOnce(service, host))
}

// atOnce runs in parallel what mostly waits: for the kernel, which takes a few RCU
// grace periods to remove a link, or for a process.
func atOnce(steps ...func() error) error {
	errs := make([]error, len(steps))
	var wg sync.WaitGroup
	for i, step := range steps {
		wg.Go(func() { errs[i] = step() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// release gives the addresses back to the IPAM plugin that they came from.
func (d remover) release(rec *journal.Record, netns string) error {
	if rec.IPAMType == "" {
		return nil
	}
	return d.asksAgain(rec, netns).del()
}

// removeUnrecorded serves a DEL before any ADD, a second DEL, and one after
// the record was lost: a link in the netns is ours if its alias says so, or, where
// it has none yet, its MAC.
func (d remover) removeUnrecorded(key journal.Key, netns string) error {
	k, err := verb.FindUnrecorded(key, netns)
	if err != nil {
		return err
	}
	defer k.Close()
	guess, link := d.guess(k, key)
	err = errors.Join(removeGuessed(k, guess, link), d.leaveAll(k, key, guess))
	// Without the IPAM plugin no ADD can have got an address.
	if _, missing := delegate.Find(d.ipam, d.path); missing == nil {
		err = errors.Join(err, d.releaseUnrecorded(&journal.Record{Key: key, IPAMType: d.ipam}, k.ServicePath()))
	}
	if err != nil {
		return err
	}
	return d.store.Remove(key)
}

// releaseUnrecorded asks the IPAM plugin by what the runtime passes now, and
// once more without what a DEL does not need, if that is what it refuses.
func (d remover) releaseUnrecorded(rec *journal.Record, netns string) error {
	err := d.release(rec, netns)
	if err == nil {
		return nil
	}
	var bareErr error
	d.args = ""
	if d.stdin, bareErr = config.Bare(d.stdin); bareErr != nil || d.release(rec, netns) != nil {
		return err
	}
	return nil
}

// leaveAll gives up all that the journal has of an attachment beside its
// record. The host's side is ours if its alias or its MAC says so.
func (d remover) leaveAll(k *kernel.Kernel, key journal.Key, guess *plan.Attachment) error {
	links, err := d.store.Used(key)
	errs := []error{err}
	for _, link := range links {
		rec := &journal.Record{Key: key, HostInterface: link}
		rec.Desired.Links = []plan.Link{{Side: plan.Host, Kind: plan.KindMacvlan, Name: link, Shared: true}}
		if guess != nil {
			guess.HostInterface = link
			rec.Desired.Links = guess.HostSide(nil).Links
		}
		errs = append(errs, leaveHost(d.store, k, rec))
	}
	claimed, err := d.store.Claimed(key)
	errs = append(errs, err)
	for _, rec := range claimed {
		errs = append(errs, d.store.UnclaimAll(rec))
	}
	return errors.Join(errs...)
}

// guess is the attachment that ADD makes by the configuration, which may have been edited
// since, and its link. Where that tells nothing, it is nil, and the link has no MAC.
func (d remover) guess(k *kernel.Kernel, key journal.Key) (*plan.Attachment, plan.Link) {
	link := plan.Link{Side: plan.Service, Kind: plan.KindMacvlan, Name: key.IfName, Alias: plan.ServiceAlias(key.Network, key.ContainerID)}
	conf, err := config.ParseMacvlan(d.stdin, d.args, key.IfName)
	if err != nil || conf.LinkInContainer {
		return nil, link
	}
	// One that could carry no macvlan now did so before.
	master, _ := k.Host.Master(conf.Master)
	a := &plan.Attachment{Conf: conf, Master: master, ContainerID: key.ContainerID, IfName: key.IfName}
	service, err := a.ServiceSide()
	if err != nil {
		return nil, link
	}
	return a, service.Links[1]
}

// removeGuessed removes a link that is the attachment's, and what a bridge has for it, in
// case a link with the MAC that ADD derives is gone, too.
func removeGuessed(k *kernel.Kernel, a *plan.Attachment, link plan.Link) error {
	entries, err := k.ForwardingOf(link)
	if a != nil && a.Conf.MAC == nil {
		entries = append(entries, a.Forwarding([]plan.Link{link})...)
	}
	return errors.Join(err, reconcile.Remove(k, plan.Desired{Links: []plan.Link{link}, Forwarding: entries}))
}

func cmdGC(args *skel.CmdArgs) error {
	conf, store, err := verb.OpenLeniently(name, args.StdinData)
	if err != nil {
		return err
	}
	d := remover{store: store, ipam: conf.IPAM.Type, stdin: args.StdinData, path: os.Getenv("CNI_PATH")}
	err = verb.Collect(args.StdinData, conf.Name, store, func(key journal.Key, rec *journal.Record) error {
		return d.remove(key, rec, "")
	})
	return errors.Join(err, ipamGC(conf, args.StdinData))
}

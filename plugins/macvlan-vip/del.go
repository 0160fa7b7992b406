package main

import (
	"cmp"
	"errors"
	"os"
	"sync"

	"github.com/containernetworking/cni/pkg/skel"

	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
	"macvlan-vip/plugins/internal/verb"
)

// remover takes attachments away, for DEL, for GC, and for an ADD that finds
// the remains of another.
type remover struct {
	store *journal.Store
	// ipam is the IPAM plugin's type as the configuration has it, stdin that
	// configuration, path and args CNI_PATH and CNI_ARGS.
	ipam, path, args string
	stdin            []byte
}

// remove takes away what the record says and nothing else, goes on after an
// error, and forgets the record only once all is gone.
func (d remover) remove(key journal.Key, rec *journal.Record, netns string) error {
	if rec == nil {
		return d.removeUnrecorded(key, netns)
	}
	if netns == "" {
		netns = rec.Netns
	}
	k, err := verb.OpenKernelLeniently(netns)
	if err != nil {
		return err
	}
	defer k.Close()
	links := func() error { return reconcile.Remove(k, plan.Desired{Links: rec.Desired.Links}) }
	lease := func() error { return d.release(rec) }
	service := func() error { return atOnce(links, lease) }
	if d.ipamOf(rec) == "dhcp" {
		// It gives the lease back to the server through the link.
		service = func() error { return errors.Join(lease(), links()) }
	}
	host := func() error { return leaveHost(d.store, k, rec) }
	if err := errors.Join(atOnce(service, host), d.store.UnclaimAll(rec)); err != nil {
		return err
	}
	return d.store.Remove(key)
}

// atOnce does things of which each mostly waits: for the kernel, which takes
// some RCU grace periods to remove a link, or for a process.
func atOnce(steps ...func() error) error {
	errs := make([]error, len(steps))
	var wg sync.WaitGroup
	for i, step := range steps {
		wg.Go(func() { errs[i] = step() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ipamOf is the IPAM plugin that gave a record's addresses. Records of earlier
// versions do not tell.
func (d remover) ipamOf(rec *journal.Record) string {
	return cmp.Or(rec.IPAMType, d.ipam)
}

// release gives the addresses back to the IPAM plugin that they came from, by
// the configuration that it was given then.
func (d remover) release(rec *journal.Record) error {
	kind, stdin := d.ipamOf(rec), d.stdin
	if kind == "" {
		return nil
	}
	if rec.IPAMType != "" {
		var err error
		if stdin, err = config.WithIPAM(stdin, rec.IPAMConfig); err != nil {
			return err
		}
	}
	return ipamDelFor(kind, stdin, d.path, d.args, rec)
}

// removeUnrecorded serves a DEL before any ADD, a second DEL, and one after
// the journal was lost: a link in the netns is ours if its alias says so.
func (d remover) removeUnrecorded(key journal.Key, netns string) error {
	k, err := verb.OpenKernelLeniently(netns)
	if err != nil {
		return err
	}
	defer k.Close()
	err = removeByAlias(k, key)
	// Without the IPAM plugin no ADD can have got an address.
	if hasIPAM(d.ipam, d.path) {
		err = errors.Join(err, d.release(&journal.Record{Key: key, Netns: netns}))
	}
	return errors.Join(err, d.store.Remove(key))
}

func removeByAlias(k *kernel.Kernel, key journal.Key) error {
	if k.Service == nil {
		return nil
	}
	return k.RemoveLink(plan.Link{Side: plan.Service, Kind: plan.KindMacvlan, Name: key.IfName, Alias: plan.ServiceAlias(key.Network, key.ContainerID)})
}

func cmdGC(args *skel.CmdArgs) error {
	conf, store, err := verb.OpenLeniently(name, args.StdinData)
	if err != nil {
		return err
	}
	d := remover{store: store, ipam: conf.IPAM.Type, stdin: args.StdinData, path: os.Getenv("CNI_PATH")}
	err = verb.Collect(args.StdinData, conf.Name, store, func(key journal.Key, rec *journal.Record) error {
		return d.remove(key, rec, rec.Netns)
	})
	return errors.Join(err, ipamGC(conf, args.StdinData))
}

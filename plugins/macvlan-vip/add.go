package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
)

// add makes the attachment, or puts right what is missing of one that an
// earlier ADD of the same configuration made.
func (a *attachment) add() (*current.Result, error) {
	if err := a.recall(); err != nil {
		return nil, err
	}
	for _, step := range []func() error{a.record, a.askEarly, a.joinHost, a.makeLink} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	var ipam *current.Result
	if a.conf.IPAM.Type != "" {
		var err error
		if ipam, err = a.addresses(); err != nil {
			return nil, err
		}
	}
	return a.plan.Result(a.host, a.service, ipam, a.args.Netns), nil
}

// recall looks whether this attachment has been added before. What an earlier
// ADD that did not finish has left, or one in a netns that is gone, is cleared
// away first; one that stands is kept, for this ADD to repair.
func (a *attachment) recall() error {
	rec, err := a.store.Load(a.key)
	if err != nil || rec == nil {
		return err
	}
	f, found, err := a.k.Service.Link(a.args.IfName)
	if err != nil {
		return err
	}
	finished := rec.IPAM != nil || a.conf.IPAM.Type == ""
	stands := found && finished && f.Alias == a.service.Links[1].Alias
	switch {
	case !stands:
		logf("clearing away what is left of an earlier ADD of %s", a.key)
		d := remover{store: a.store, ipam: a.conf.IPAM.Type, stdin: a.args.StdinData, path: a.args.Path, args: a.args.Args}
		a.k.Service.Refresh()
		return d.remove(a.key, rec, a.args.Netns)
	case rec.Config != a.digest():
		return cnierr.New(types.ErrInvalidNetworkConfig, "DEL it first (systemctl restart systemd-netns@NAME)",
			"attachment %s is there already, made from another configuration", a.key)
	}
	a.rec, a.repairing = rec, true
	// The master's own MAC, which ours is derived from, may have changed.
	for i, l := range a.service.Links {
		for _, made := range rec.Desired.Links {
			if made.Side == l.Side && made.Name == l.Name {
				a.service.Links[i].MAC = made.MAC
			}
		}
	}
	return nil
}

// digest tells configurations apart.
func (a *attachment) digest() string {
	sum := sha256.New()
	sum.Write(a.args.StdinData)
	fmt.Fprintf(sum, "\x00%s", a.args.Args)
	return fmt.Sprintf("%x", sum.Sum(nil)[:16])
}

// record writes what is about to be made, so that whatever happens from here
// on can be cleaned up.
func (a *attachment) record() error {
	if err := a.planHost(); err != nil {
		return err
	}
	if a.repairing {
		return nil
	}
	a.rec = &journal.Record{Key: a.key, Netns: a.args.Netns, Config: a.digest(), HostInterface: a.plan.HostInterface, ClaimScope: a.claimScope()}
	a.rec.IPAMType, a.rec.IPAMConfig = a.conf.IPAM.Type, config.IPAMSection(a.args.StdinData)
	a.rec.Desired = a.toRecord()
	a.undo.Push(func() error { return a.store.Remove(a.key) })
	return a.store.Save(a.rec)
}

// toRecord is the plan as the record has it: as if the host-side link were not
// there yet. Who made one that is there now is found out when it is to be
// removed, by its alias.
func (a *attachment) toRecord() (d plan.Desired) {
	d.Add(a.plan.HostSide(nil))
	d.Add(a.service)
	return d
}

// claimScope names the layer 2 domain: the link that every macvlan of the
// master really lies on. A VIP may exist once in it.
func (a *attachment) claimScope() string {
	scope := fmt.Sprintf("link-%d", a.plan.Master.Base())
	if a.conf.LinkInContainer {
		scope += "-in-" + filepath.Base(a.args.Netns)
	}
	return scope
}

// hostLock is held while a host-side link is made, removed or given a name. It
// is one for all masters, which take names from each other.
const hostLock = config.DefaultHostInterface

// joinHost makes the host's side, or finds it made.
func (a *attachment) joinHost() error {
	if a.conf.HostInterface == "" {
		return reconcile.Apply(a.k, a.host, &a.undo)
	}
	lock, err := a.store.Lock(hostLock)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	// Another's DEL can have removed the link since it was looked at, or
	// another's ADD have taken its name for another master.
	a.k.Host.Refresh()
	if err := a.planHost(); err != nil {
		return err
	}
	if err := a.recordHost(); err != nil {
		return err
	}
	if !a.repairing {
		a.undo.Push(func() error { return leaveHost(a.store, a.k, a.rec) })
	}
	if err := a.store.Join(a.plan.HostInterface, a.key); err != nil {
		return err
	}
	return reconcile.Apply(a.k, a.host, &a.undo)
}

// recordHost notes which host-side link it is to be, where that has changed.
func (a *attachment) recordHost() error {
	if a.rec.HostInterface == a.plan.HostInterface {
		return nil
	}
	if a.repairing {
		if _, err := a.store.Leave(a.rec.HostInterface, a.key); err != nil {
			return err
		}
	}
	a.rec.HostInterface, a.rec.Desired = a.plan.HostInterface, a.toRecord()
	return a.store.Save(a.rec)
}

// leaveHost removes the host's side if it is ours and nobody else uses it.
func leaveHost(store *journal.Store, k *kernel.Kernel, rec *journal.Record) error {
	if rec.HostInterface == "" {
		return nil
	}
	lock, err := store.Lock(hostLock)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	unused, err := store.Leave(rec.HostInterface, rec.Key)
	if err != nil || !unused {
		return err
	}
	for _, l := range rec.Desired.Links {
		if l.Shared {
			err = errors.Join(err, k.RemoveLink(l))
		}
	}
	return errors.Join(err, store.Forget(lock))
}

// makeLink makes the service's macvlan.
func (a *attachment) makeLink() error {
	return reconcile.Apply(a.k, a.service, &a.undo)
}

// addresses gets the VIPs from IPAM, claims them, and puts them on the link.
func (a *attachment) addresses() (*current.Result, error) {
	result, err := a.allocate()
	if err != nil {
		return nil, err
	}
	if a.vips, err = a.plan.Addresses(result); err != nil {
		return nil, err
	}
	// IPv6 has to be on before anything can be asked about its addresses.
	if err := reconcile.Apply(a.k, plan.Desired{Sysctls: a.vips.Sysctls}, &a.undo); err != nil {
		return nil, err
	}
	if err := a.claim(); err != nil {
		return nil, err
	}
	if err := reconcile.Apply(a.k, a.vips, &a.undo); err != nil {
		return nil, err
	}
	a.announce()
	return result, nil
}

// linkless are the IPAM plugins that look at nothing but their configuration
// and their own files. They can be asked while the links are being made.
var linkless = []string{"static", "host-local"}

// askEarly asks such a plugin for the VIPs, and does not wait for the answer.
func (a *attachment) askEarly() error {
	if slices.Contains(linkless, a.conf.IPAM.Type) && a.rec.IPAM == nil {
		a.ask()
	}
	return nil
}

// answer is that of the IPAM plugin, once done is closed.
type answer struct {
	done   chan struct{}
	result *current.Result
	err    error
}

// ask has the IPAM plugin give addresses. After an ADD that failed, too, the
// specification wants a DEL, which has to come after it.
func (a *attachment) ask() {
	l := &answer{done: make(chan struct{})}
	a.ipam = l
	a.undo.Push(func() error {
		<-l.done
		return ipamDel(a.conf.IPAM.Type, a.args.StdinData)
	})
	go func() {
		defer close(l.done)
		l.result, l.err = ipamAdd(a.conf.IPAM.Type, a.args.StdinData)
	}()
}

// allocate gets the VIPs from the IPAM plugin, or from the record where the
// attachment stands already: host-local, for one, gives an attachment
// addresses only once.
func (a *attachment) allocate() (*current.Result, error) {
	if a.rec.IPAM != nil {
		return recordedIPAM(a.rec)
	}
	if a.ipam == nil {
		a.ask()
	}
	<-a.ipam.done
	if a.ipam.err != nil {
		return nil, a.ipam.err
	}
	var err error
	a.rec.IPAM, err = json.Marshal(a.ipam.result)
	return a.ipam.result, err
}

func recordedIPAM(rec *journal.Record) (*current.Result, error) {
	result, err := current.NewResult(rec.IPAM)
	if err != nil {
		return nil, fmt.Errorf("addresses in the record of %s: %w", rec.Key, err)
	}
	return result.(*current.Result), nil
}

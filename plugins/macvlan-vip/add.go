package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
)

// add creates the attachment. One that an earlier ADD of the same configuration
// created is repaired; if only addresses differ, they are updated.
func (a *attachment) add() (*current.Result, error) {
	for _, step := range []func() error{a.askFirst, a.findMaster, a.recall, a.record, a.askEarly, a.joinHost, a.makeLink} {
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
	return a.plan.Result(a.host, a.service, ipam, a.Args.Netns), nil
}

// recall checks whether this attachment has been added before. The remains of an
// ADD that did not finish, or of one in a netns that no longer exists, are removed
// first. A complete attachment is kept, for this ADD to repair or to update.
func (a *attachment) recall() error {
	rec := a.found
	if rec == nil && a.bad == nil {
		return nil
	}
	stands, err := a.stands(rec)
	if err != nil {
		return err
	}
	if !stands {
		logf("removing the remains of an earlier ADD of %s", a.Key)
		if a.bad != nil {
			logf("%v", a.bad)
		}
		a.K.Service.Refresh()
		return a.remover().remove(a.Key, rec, a.Args.Netns)
	}
	if err := a.compare(rec); err != nil {
		return err
	}
	// The master's own MAC, which ours is derived from, may have changed.
	for i, l := range a.service.Links {
		for _, made := range rec.Desired.Links {
			if made.Side == l.Side && made.Name == l.Name && !l.HasMastersMAC() {
				a.service.Links[i].MAC = made.MAC
			}
		}
	}
	return nil
}

// remover removes the remains of an earlier ADD.
func (a *attachment) remover() remover {
	return remover{store: a.Store, ipam: a.conf.IPAM.Type, stdin: a.Args.StdinData, path: a.Args.Path, args: a.Args.Args}
}

// stands reports whether a finished ADD created the attachment in this netns. A
// later update of it may have been killed. Its link may be gone, as it is after the
// master was: it is made again, and the addresses stay, which IPAM could give to
// somebody else in between.
func (a *attachment) stands(rec *journal.Record) (bool, error) {
	if !a.isHere(rec) {
		return false, nil
	}
	first := rec.First()
	if first.IPAMType != "" && first.IPAM == nil {
		return false, nil
	}
	if first.IPAMType != "dhcp" {
		return true, nil
	}
	// Without a link, dhcp cannot renew its lease. It takes the link down when the lease has
	// expired, and renews it no more.
	f, found, err := a.K.Service.Link(a.Args.IfName)
	return found && f.Up && f.Alias == a.service.Links[1].Alias, err
}

// isHere reports whether a record is of an attachment in this netns, which nobody has
// begun to remove.
func (a *attachment) isHere(rec *journal.Record) bool {
	return rec != nil && !rec.Ending && rec.NetnsID == a.NetnsID
}

// compare decides what this ADD does to an existing attachment: with the same
// configuration it repairs, with other addresses it updates. Any other difference
// would need another link, and is refused.
func (a *attachment) compare(rec *journal.Record) error {
	if rec.Config == a.digest() && rec.Before == nil {
		a.rec, a.repairing = rec, true
		return nil
	}
	addresses, rest := config.Change(rec.Input, a.Args.StdinData, rec.Args, a.Args.Args)
	switch {
	case len(rest) > 0:
		return cnierr.New(types.ErrInvalidNetworkConfig, "DEL it first (systemctl restart systemd-netns@NAME); addresses alone can be changed without",
			"attachment %s is there already, made from another configuration: %s", a.Key, strings.Join(rest, ", "))
	case rec.IPAMType == "" || a.conf.IPAM.Type == "":
		return cnierr.New(types.ErrInvalidNetworkConfig, "DEL it first (systemctl restart systemd-netns@NAME)",
			"attachment %s is there already, and only one of the two configurations has an ipam section", a.Key)
	case !addresses && rec.Before == nil:
		a.rec, a.repairing = rec, true
		rec.Config = a.digest()
	default:
		a.before, a.repairing = rec, true
	}
	return nil
}

// digest identifies a configuration.
func (a *attachment) digest() string {
	sum := sha256.New()
	sum.Write(a.Args.StdinData)
	fmt.Fprintf(sum, "\x00%s", a.Args.Args)
	return fmt.Sprintf("%x", sum.Sum(nil)[:16])
}

// record writes down what is about to be created, so that it can be removed
// whatever happens from here on.
func (a *attachment) record() error {
	if err := a.planHost(); err != nil {
		return err
	}
	if err := a.planForwarding(); err != nil {
		return err
	}
	if a.repairing && a.before == nil {
		return a.updateRecord()
	}
	rec := a.NewRecord()
	rec.Config, rec.Args, rec.IPAMType, rec.Before = a.digest(), a.Args.Args, a.conf.IPAM.Type, a.before
	rec.HostInterface, rec.ClaimScope, rec.Desired = a.plan.HostInterface, a.claimScope(), a.toRecord()
	if a.before != nil {
		rec.HostInterface = a.before.HostInterface
	}
	a.rec = rec
	return a.Save(rec, a.before)
}

// planForwarding leaves an entry out that was in the bridge before this attachment, such
// as a person's or a port's, so that it is not removed either. A derived MAC is nobody
// else's.
func (a *attachment) planForwarding() error {
	for _, f := range a.plan.Forwarding(a.service.Links) {
		there, err := a.K.HasForwarding(f)
		if err != nil {
			return err
		}
		if !there || a.conf.MAC == nil || a.hasMade(f) {
			a.forwarding = append(a.forwarding, f)
		}
	}
	return nil
}

// hasMade tells whether an earlier ADD has made an entry, in a bridge that may have had
// another name.
func (a *attachment) hasMade(f plan.Forwarding) bool {
	for _, before := range []*journal.Record{a.rec, a.before} {
		for rec := range before.All() {
			if slices.ContainsFunc(rec.Desired.Forwarding, func(made plan.Forwarding) bool { return made.MAC == f.MAC }) {
				return true
			}
		}
	}
	return false
}

// updateRecord records what a repair makes that was not recorded. It gives up the claims
// on a master that was deleted, as far as they are not on the one in its place: see
// claimScope.
func (a *attachment) updateRecord() error {
	scope := a.claimScope()
	if a.rec.ClaimScope == scope && slices.Equal(a.rec.Desired.Forwarding, a.forwarding) {
		return nil
	}
	if a.rec.ClaimScope != scope {
		if err := a.Store.UnclaimAll(a.rec); err != nil {
			return err
		}
	}
	a.rec.ClaimScope, a.rec.Desired = scope, a.toRecord()
	return a.Store.Save(a.rec)
}

// toRecord is the plan as it is recorded: as if the host-side link did not exist
// yet. Whether an existing one is ours is decided at its removal, by its alias.
func (a *attachment) toRecord() (d plan.Desired) {
	d.Add(a.plan.HostSide(nil))
	d.Add(a.service)
	d.Forwarding = a.forwarding
	if a.rec != nil {
		d.Addresses, d.Routes = a.rec.Desired.Addresses, a.rec.Desired.Routes
	}
	return d
}

const scopeFormat = "link-%d"

// claimScope names the layer 2 domain: the link that every macvlan of the
// master really lies on. A VIP may exist once in it.
func (a *attachment) claimScope() string {
	scope := fmt.Sprintf(scopeFormat, a.plan.Master.Base())
	if a.conf.LinkInContainer {
		scope += "-in-" + a.NetnsID
	}
	return scope
}

// hostLock is held while a host-side link is created, removed or named. All
// masters share it, since their links' names must differ.
const hostLock = config.DefaultHostInterface

// joinHost creates the host's side unless it exists.
func (a *attachment) joinHost() error {
	if a.conf.HostInterface == "" {
		return reconcile.Apply(a.K, a.host, &a.Undo)
	}
	lock, err := a.Store.Lock(hostLock)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	// Since the last look another attachment's DEL may have removed the link, or
	// another's ADD may have taken its name for another master.
	a.K.Host.Refresh()
	if err := a.planHost(); err != nil {
		return err
	}
	if err := a.recordHost(); err != nil {
		return err
	}
	if !a.repairing {
		a.Undo.Push(func() error { return leaveHost(a.Store, a.K, a.rec) })
	}
	if err := a.Store.Join(a.plan.HostInterface, a.Key); err != nil {
		return err
	}
	return reconcile.Apply(a.K, a.host, &a.Undo)
}

// recordHost updates the record if another host-side link was chosen.
func (a *attachment) recordHost() error {
	if a.rec.HostInterface == a.plan.HostInterface {
		return nil
	}
	if a.repairing {
		if _, err := giveUp(a.Store, a.K, a.rec); err != nil {
			return err
		}
	}
	a.rec.HostInterface, a.rec.Desired = a.plan.HostInterface, a.toRecord()
	return a.Store.Save(a.rec)
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
	unused, err := giveUp(store, k, rec)
	if !unused {
		return err
	}
	return errors.Join(err, store.Forget(lock))
}

// giveUp removes an attachment's host-side link, if it is ours and nobody else uses it,
// and then notes that the attachment uses it no more. The lock must be held.
func giveUp(store *journal.Store, k *kernel.Kernel, rec *journal.Record) (unused bool, err error) {
	unused, err = store.Unused(rec.HostInterface, rec.Key)
	if err != nil {
		return false, err
	}
	for _, l := range rec.Desired.Links {
		if l.Shared && unused {
			// An update may have planned another one.
			l.Name = rec.HostInterface
			err = errors.Join(err, k.RemoveLink(l))
		}
	}
	if err != nil {
		return false, err
	}
	return unused, store.Leave(rec.HostInterface, rec.Key)
}

// makeLink creates the service's macvlan, and has a bridge under it know its MAC.
func (a *attachment) makeLink() error {
	var d plan.Desired
	d.Add(a.service)
	d.Forwarding = a.forwarding
	return reconcile.Apply(a.K, d, &a.Undo)
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
	// Probing for IPv6 addresses needs IPv6 to be enabled.
	if err := reconcile.Apply(a.K, plan.Desired{Sysctls: a.vips.Sysctls}, &a.Undo); err != nil {
		return nil, err
	}
	if err := a.claim(); err != nil {
		return nil, err
	}
	if err := a.makeRoom(); err != nil {
		return nil, err
	}
	if err := reconcile.Apply(a.K, a.vips, &a.Undo); err != nil {
		return nil, err
	}
	if err := a.overtaken(); err != nil {
		return nil, err
	}
	a.announce()
	return result, nil
}

// askFirst asks the IPAM plugin that keeps nothing, of which no record is needed, before
// all else: its answer is what ADD waits for.
func (a *attachment) askFirst() error {
	if a.conf.IPAM.Type == stateless && a.found == nil && a.bad == nil {
		a.start()
	}
	return nil
}

// askEarly asks a plugin that needs no link, while the links are being created.
func (a *attachment) askEarly() error {
	if slices.Contains(linkless, a.conf.IPAM.Type) && a.ipam == nil && a.rec.IPAM == nil && a.before == nil {
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
	a.Undo.Push(func() error {
		a.Store.End(a.rec)
		return a.asks().del()
	})
	a.start()
}

// start starts the IPAM plugin, and does not wait for its answer. A rollback does.
func (a *attachment) start() {
	l := &answer{done: make(chan struct{})}
	a.ipam = l
	a.Undo.Push(func() error { <-l.done; return nil })
	go func() {
		defer close(l.done)
		l.result, l.err = a.firstAddresses()
	}()
}

// firstAddresses allocates the addresses of a new attachment. After a power cut
// host-local still has the previous lease, and refuses a second one: leases are on
// disk, records are not. The rollback tells of a DEL that fails.
func (a *attachment) firstAddresses() (*current.Result, error) {
	result, err := a.asks().add()
	if err == nil || a.conf.IPAM.Type != "host-local" {
		return result, err
	}
	if a.asks().del() != nil {
		return nil, err
	}
	return a.asks().addOnce()
}

// allocate gets the VIPs from the IPAM plugin, or from the record where the
// attachment stands already: host-local, for one, gives an attachment
// addresses only once.
func (a *attachment) allocate() (*current.Result, error) {
	if a.rec.IPAM != nil {
		return recordedIPAM(a.rec)
	}
	result, err := a.askIPAM()
	if err != nil {
		return nil, err
	}
	a.rec.IPAM, err = config.MarshalResult(result)
	return result, err
}

func (a *attachment) askIPAM() (*current.Result, error) {
	if a.before != nil {
		return a.exchange()
	}
	if a.ipam == nil {
		a.ask()
	}
	<-a.ipam.done
	return a.ipam.result, a.ipam.err
}

func recordedIPAM(rec *journal.Record) (*current.Result, error) { return resultOf(rec.Key, rec.IPAM) }

func resultOf(key journal.Key, raw json.RawMessage) (*current.Result, error) {
	result, err := current.NewResult(raw)
	if err != nil {
		return nil, fmt.Errorf("addresses in the record of %s: %w", key, err)
	}
	return result.(*current.Result), nil
}

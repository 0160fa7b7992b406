package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"macvlan-vip/plugins/internal/announce"
	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/verb"
)

// Some conflicts are temporary: of two hosts that start at the same moment one
// gets the VIP, a predecessor is about to release it, a switch only looks for
// stations. So probing is repeated up to attempts times, within about 1.5 s.
const (
	attempts = 3
	pause    = 400 * time.Millisecond
	// jitter separates hosts that start at the same moment. RFC 5227 has a random
	// delay before the first probe instead, which would slow every ADD down.
	jitter = 200 * time.Millisecond
)

// claim makes the VIPs this attachment's, on this host and then on the LAN.
func (a *attachment) claim() (err error) {
	vips := addressesOf(a.vips)
	if a.fresh, err = a.notOnLink(vips); err != nil {
		return err
	}
	if err := a.mayBeVIPs(vips); err != nil {
		return err
	}
	if a.plan.Master.Carrier {
		a.fresh = append(a.fresh, unasked(a.rec, vips, a.fresh)...)
	} else {
		a.rec.Unasked = append(unasked(a.rec, vips, a.fresh), a.fresh...)
	}
	if err := a.claimOnHost(vips); err != nil {
		return err
	}
	return a.claimOnLAN()
}

// unasked are the VIPs on the link for which the LAN could not be asked so far.
func unasked(rec *journal.Record, vips, fresh []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(rec.Unasked), func(vip netip.Addr) bool {
		return !slices.Contains(vips, vip) || slices.Contains(fresh, vip)
	})
}

func addressesOf(d plan.Desired) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(d.Addresses))
	for _, a := range d.Addresses {
		addrs = append(addrs, a.Prefix.Addr())
	}
	return addrs
}

// mayBeVIPs refuses addresses that must not be VIPs here.
func (a *attachment) mayBeVIPs(vips []netip.Addr) error {
	at := a.K.Host
	if a.conf.LinkInContainer {
		at = a.K.Service
	}
	addrs, err := at.Addresses()
	if err != nil {
		return err
	}
	var s plan.Surroundings
	for _, f := range addrs {
		if f.Link == a.plan.Master.Index {
			s.Networks = append(s.Networks, f.Prefix)
		}
	}
	if s.Gateways, err = at.Gateways(a.plan.Master); err != nil {
		return err
	}
	// What is on the link was judged when it came there; the master's addresses
	// may have gone since.
	if err := a.plan.CheckVIPs(a.fresh, s); err != nil || a.conf.LinkInContainer {
		return err
	}
	return a.notTheHosts(vips, plan.LocalTo(a.plan.Master.VRF, addrs))
}

// notTheHosts refuses a VIP that is an address of the host itself: the host
// would keep its packets, and no probe from a macvlan reaches its master.
func (a *attachment) notTheHosts(vips []netip.Addr, host []plan.AddrFacts) error {
	taken := make(map[netip.Addr]int, len(host))
	for _, h := range host {
		taken[h.Prefix.Addr()] = h.Link
	}
	for _, vip := range vips {
		if index, ok := taken[vip]; ok {
			link, _ := a.K.Host.LinkByIndex(index)
			return cnierr.New(cnierr.AddressConflict, "use an address that nobody has, or remove it from the host",
				"VIP %s: the host itself has it, on %s", vip, link.Name)
		}
	}
	return nil
}

// claimOnHost makes sure that no other attachment of this host has a VIP,
// before any packet is sent.
func (a *attachment) claimOnHost(vips []netip.Addr) error {
	a.rec.Claims = nil
	for _, vip := range vips {
		a.rec.Claims = append(a.rec.Claims, vip.String())
	}
	a.rec.Desired.Addresses, a.rec.Desired.Routes = a.vips.Addresses, a.vips.Routes
	if err := a.Store.Save(a.rec); err != nil {
		return err
	}
	if !a.repairing || a.before != nil {
		a.Undo.Push(func() error { return a.Store.UnclaimBut(a.rec, a.before) })
	}
	for deadline := time.Now().Add(attempts * pause); ; time.Sleep(pause / 10) {
		err := a.claimEach(vips)
		var conflict *owned
		if !errors.As(err, &conflict) || time.Now().After(deadline) {
			return err
		}
	}
}

// owned is the error for a VIP that another attachment of this host owns.
type owned struct{ why *cnierr.Error }

func (o *owned) Error() string { return o.why.Error() }
func (o *owned) Unwrap() error { return o.why }

func (a *attachment) claimEach(vips []netip.Addr) error {
	for _, vip := range vips {
		owner, err := a.Store.Claim(a.rec.ClaimScope, vip, a.Key)
		if err != nil {
			return err
		}
		if owner == a.Key {
			continue
		}
		conflict, err := a.conflict(owner, vip)
		if err != nil {
			return err
		}
		return &owned{conflict}
	}
	return nil
}

// conflict tells what keeps another attachment's VIP from this one. An attachment
// that is being added does not have it on its link yet, one that is being deleted no
// more. One whose namespace is gone keeps it until somebody deletes it.
func (a *attachment) conflict(owner journal.Key, vip netip.Addr) (*cnierr.Error, error) {
	about := fmt.Sprintf("VIP %s: attachment %s of network %q on this host", vip, owner, owner.Network)
	passing := cnierr.Transient("wait until that attachment has been added or deleted", "%s is about to use or release it", about)
	rec, err := a.Store.Load(owner)
	if err != nil || rec == nil {
		return passing, err
	}
	k, err := verb.OpenRecorded(rec, "")
	if err != nil {
		return nil, err
	}
	defer k.Close()
	switch {
	case k.Unseen != nil:
		return nil, k.Unseen
	case k.Service == nil:
		return cnierr.New(cnierr.AddressConflict, "if its container is gone, DEL that attachment, or run GC", "%s owns it, and its network namespace is not at %s any more", about, rec.Netns), nil
	}
	addrs, err := k.Service.Addresses()
	if slices.ContainsFunc(addrs, func(f plan.AddrFacts) bool { return f.Prefix.Addr() == vip }) {
		return cnierr.New(cnierr.AddressConflict, "give each service VIPs of its own, or take that attachment down first", "%s owns it", about), nil
	}
	return passing, err
}

// claimOnLAN probes for all VIPs that are not on the link yet at once, and again
// for those whose conflict may be temporary.
func (a *attachment) claimOnLAN() error {
	switch {
	case !a.plan.Master.Carrier && len(a.rec.Unasked) > 0:
		logf("%s has no carrier, so nobody could be asked whether %s is free. CHECK says so once it has one, and a repeated ADD asks", a.plan.Master.Name, join(a.rec.Unasked))
		return nil
	case len(a.fresh) == 0:
		return nil
	case a.conf.AddressConflict != config.ConflictIgnore:
		if err := a.openLAN(); err != nil {
			return err
		}
		if err := a.resolveConflicts(); err != nil {
			return err
		}
	}
	if a.rec.Unasked == nil {
		return nil
	}
	a.rec.Unasked = nil
	return a.Store.Save(a.rec)
}

// resolveConflicts probes until there is no conflict left, or the attempts are
// used up.
func (a *attachment) resolveConflicts() error {
	cfg := announce.ProbeConfig{
		Count: a.conf.Probe.Count, Interval: a.conf.Probe.Interval, Wait: a.conf.Probe.Wait,
		FailFast: a.conf.AddressConflict != config.ConflictWarn,
	}
	for attempt := 1; ; attempt++ {
		conflicts, err := a.lan.Probe(context.Background(), a.fresh, cfg)
		if err != nil && len(conflicts) == 0 {
			return err
		}
		if len(conflicts) == 0 || attempt == attempts || !cfg.FailFast {
			return a.judge(conflicts)
		}
		// Who has been probing since the last attempt and has not claimed the VIP
		// by now is no rival, or one that hears us.
		for _, c := range conflicts {
			if c.Probing {
				cfg.Known = append(cfg.Known, c.MAC)
			}
		}
		time.Sleep(pause + rand.N(jitter))
	}
}

// overtaken tells of those who have claimed a VIP between the last probe and
// now that it is on the link, which takes long on a busy machine.
func (a *attachment) overtaken() error {
	if a.lan == nil || a.conf.AddressConflict == config.ConflictIgnore {
		return nil
	}
	conflicts, err := a.lan.Heard(a.fresh)
	if err != nil {
		return err
	}
	return a.judge(slices.DeleteFunc(conflicts, func(c announce.Conflict) bool { return c.Probing }))
}

// notOnLink drops the addresses that an earlier ADD has put on the link.
func (a *attachment) notOnLink(vips []netip.Addr) ([]netip.Addr, error) {
	if !a.repairing {
		return vips, nil
	}
	there, err := a.K.Service.Addresses()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(vips), func(vip netip.Addr) bool {
		return slices.ContainsFunc(there, func(f plan.AddrFacts) bool { return f.Prefix.Addr() == vip })
	}), nil
}

// judge makes an error of conflicts, or a line in the log.
func (a *attachment) judge(conflicts []announce.Conflict) error {
	if len(conflicts) == 0 {
		return nil
	}
	lines := make([]string, len(conflicts))
	passing := true
	for i, c := range conflicts {
		lines[i] = "VIP " + c.String()
		passing = passing && c.Probing
	}
	// The holder may be a predecessor that takes longer to stop.
	found, remedy := strings.Join(lines, "; "), "find that station by its MAC, or use another VIP; addressConflict says what to do otherwise; if it is about to leave, "+cnierr.TryAgain
	if proxy, decoy := a.findProxy(conflicts); proxy != nil {
		found += fmt.Sprintf("; %s answers for %s, too, which nobody has: it answers for every address", proxy, decoy)
		remedy = "turn proxy ARP (for IPv6, the NDP proxy) off on that device; addressConflict says what to do otherwise"
	}
	switch {
	case a.conf.AddressConflict == config.ConflictWarn:
		logf("%s: used all the same, since addressConflict is %q", found, a.conf.AddressConflict)
		return nil
	case passing:
		return cnierr.Transient(remedy, "%s", found)
	}
	return cnierr.New(cnierr.AddressConflict, remedy, "%s", found)
}

// findProxy asks for addresses that nobody has, and gives the first holder of a
// VIP that claims to have one of them, too.
func (a *attachment) findProxy(conflicts []announce.Conflict) (net.HardwareAddr, netip.Addr) {
	for _, c := range conflicts {
		if c.Probing {
			continue
		}
		groups := plan.Decoys(c.Addr, prefixesOf(a.vips))
		found, _ := a.lan.Probe(context.Background(), slices.Concat(groups...), announce.ProbeConfig{Count: 2, Interval: 50 * time.Millisecond, Wait: 100 * time.Millisecond})
		answers := func(decoy netip.Addr) bool {
			return slices.ContainsFunc(found, func(f announce.Conflict) bool {
				return f.Addr == decoy && !f.Probing && slices.Equal(f.MAC, c.MAC)
			})
		}
		for _, decoys := range groups {
			if !slices.ContainsFunc(decoys, func(d netip.Addr) bool { return !answers(d) }) {
				return c.MAC, decoys[0]
			}
		}
		break
	}
	return nil, netip.Addr{}
}

func prefixesOf(d plan.Desired) []netip.Prefix {
	prefixes := make([]netip.Prefix, 0, len(d.Addresses))
	for _, a := range d.Addresses {
		prefixes = append(prefixes, a.Prefix)
	}
	return prefixes
}

func join(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

// openLAN opens the packet sockets on the service's link, once.
func (a *attachment) openLAN() error {
	if a.lan != nil {
		return nil
	}
	f, _, err := a.K.Service.Link(a.Args.IfName)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(f.MAC)
	if err != nil {
		return fmt.Errorf("MAC of %s: %w", f.Name, err)
	}
	return a.K.Service.Do(func() error {
		a.lan, err = announce.Open(&net.Interface{Index: f.Index, Name: f.Name, MTU: f.MTU, HardwareAddr: mac}, a.fresh)
		return err
	})
}

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"macvlan-vip/plugins/internal/announce"
	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/plan"
)

// claim makes the VIPs this attachment's, on this host and then on the LAN.
func (a *attachment) claim() error {
	vips := addressesOf(a.vips)
	if err := a.notTheHosts(vips); err != nil {
		return err
	}
	if err := a.claimOnHost(vips); err != nil {
		return err
	}
	return a.probe(vips)
}

func addressesOf(d plan.Desired) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(d.Addresses))
	for _, a := range d.Addresses {
		addrs = append(addrs, a.Prefix.Addr())
	}
	return addrs
}

// notTheHosts refuses a VIP that is an address of the host itself: the host
// would keep its packets, and no probe from a macvlan reaches its master.
func (a *attachment) notTheHosts(vips []netip.Addr) error {
	if a.conf.LinkInContainer {
		return nil
	}
	host, err := a.k.Host.Addresses()
	if err != nil {
		return err
	}
	taken := make(map[netip.Addr]int, len(host))
	for _, h := range host {
		taken[h.Prefix.Addr()] = h.Link
	}
	for _, vip := range vips {
		if index, ok := taken[vip]; ok {
			link, _ := a.k.Host.LinkByIndex(index)
			return cnierr.New(cnierr.AddressConflict, "use an address that nobody has, or take it off the host",
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
	if err := a.store.Save(a.rec); err != nil {
		return err
	}
	if !a.repairing || a.before != nil {
		a.undo.Push(func() error { return a.store.UnclaimBut(a.rec, a.before) })
	}
	for _, vip := range vips {
		owner, err := a.store.Claim(a.rec.ClaimScope, vip, a.key)
		if err != nil {
			return err
		}
		if owner != a.key {
			return cnierr.New(cnierr.AddressConflict, "give each service VIPs of its own, or take that attachment down first",
				"VIP %s: attachment %s of network %q on this host owns it", vip, owner, owner.Network)
		}
	}
	return nil
}

// probe asks the LAN whether anybody has the VIPs that are not on the link
// yet, all at once.
func (a *attachment) probe(vips []netip.Addr) (err error) {
	a.fresh, err = a.notOnLink(vips)
	if err != nil || len(a.fresh) == 0 || a.conf.AddressConflict == config.ConflictIgnore {
		return err
	}
	if !a.plan.Master.Carrier {
		logf("%s has no carrier: nobody can be asked whether the VIPs are free", a.plan.Master.Name)
		return nil
	}
	if err := a.openLAN(); err != nil {
		return err
	}
	conflicts, err := a.lan.Probe(context.Background(), a.fresh, announce.ProbeConfig{
		Count: a.conf.Probe.Count, Interval: a.conf.Probe.Interval, Wait: a.conf.Probe.Wait,
		FailFast: a.conf.AddressConflict == config.ConflictFail,
	})
	if err != nil && len(conflicts) == 0 {
		return err
	}
	return a.judge(conflicts)
}

// notOnLink leaves out what an earlier ADD has put on the link.
func (a *attachment) notOnLink(vips []netip.Addr) ([]netip.Addr, error) {
	if !a.repairing {
		return vips, nil
	}
	there, err := a.k.Service.Addresses()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(vips), func(vip netip.Addr) bool {
		return slices.ContainsFunc(there, func(f plan.AddrFacts) bool { return f.Prefix.Addr() == vip })
	}), nil
}

func (a *attachment) judge(conflicts []announce.Conflict) error {
	if len(conflicts) == 0 {
		return nil
	}
	lines := make([]string, len(conflicts))
	for i, c := range conflicts {
		lines[i] = "VIP " + c.String()
	}
	found := strings.Join(lines, "; ")
	if a.conf.AddressConflict == config.ConflictWarn {
		logf("%s: used all the same, since addressConflict is %q", found, config.ConflictWarn)
		return nil
	}
	return cnierr.New(cnierr.AddressConflict, "find that station by its MAC, or use another VIP; addressConflict says what to do otherwise", "%s", found)
}

// openLAN opens the packet sockets on the service's link, once.
func (a *attachment) openLAN() error {
	if a.lan != nil {
		return nil
	}
	f, _, err := a.k.Service.Link(a.args.IfName)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(f.MAC)
	if err != nil {
		return fmt.Errorf("MAC of %s: %w", f.Name, err)
	}
	return a.k.Service.Do(func() error {
		a.lan, err = announce.Open(&net.Interface{Index: f.Index, Name: f.Name, MTU: f.MTU, HardwareAddr: mac}, a.fresh)
		return err
	})
}

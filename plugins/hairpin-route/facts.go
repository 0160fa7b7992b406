package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/plan"
)

// findFacts finds out, without changing anything, between whom the way goes.
func (a *attachment) findFacts() error {
	a.facts = plan.Hairpin{Conf: a.conf}
	for _, step := range []func() error{a.findHostLink, a.findServiceLink, a.findVIPs, a.findHostAddresses} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// findHostLink takes the name from the configuration, or else from prevResult.
// Results before CNI 0.3.0 cannot hold it, so there it is looked for.
func (a *attachment) findHostLink() error {
	name := a.conf.HostInterface
	if name == "" {
		name = a.hostSide()
	}
	if name == "" && len(a.Prev.Interfaces) == 0 {
		name = a.besideService()
	}
	if name == "" {
		return cnierr.Config("hostInterface", "", "not set, and prevResult lists no interface on the host", "set hostInterface to a macvlan on the host, on the same master as the service's")
	}
	f, found, err := a.K.Host.HostSide(name)
	if err != nil {
		return err
	}
	if !found {
		return cnierr.Config("hostInterface", name, "no such link on the host", "chain hairpin-route behind macvlan-vip, which makes it, or make it with `ip link add "+name+" link MASTER type macvlan mode bridge`")
	}
	if f.Kind != plan.KindMacvlan {
		return cnierr.Config("hostInterface", name, "a link of type "+f.Kind, "name a macvlan on the same master as the service's")
	}
	if !f.Up {
		return cnierr.Transient("bring it up with `ip link set "+name+" up`", "hostInterface: %q: the link is down", name)
	}
	a.useHostLink(f)
	return nil
}

func (a *attachment) useHostLink(f plan.LinkFacts) {
	a.facts.HostLink = f
	if f.VRF != "" && a.conf.Table == unix.RT_TABLE_LOCAL {
		// There the VRF has what others have in table local.
		a.conf.Table = f.VRFTable
	}
}

// hostSide is the result's macvlan that is in no sandbox, or else whatever is
// in none.
func (a *attachment) hostSide() string {
	names := onHost(a.Prev)
	for _, name := range names {
		if f, found, err := a.K.Host.Link(name); err == nil && found && f.Kind == plan.KindMacvlan {
			return name
		}
	}
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// besideService is the macvlan on the host that macvlan-vip makes on the master
// of the service's, if it is there, or else the default name.
func (a *attachment) besideService() string {
	service, _, err := a.K.Service.Link(a.Args.IfName)
	if err != nil {
		return config.DefaultHostInterface
	}
	master, err := a.K.Host.LinkByIndex(service.Lower)
	if err != nil {
		return config.DefaultHostInterface
	}
	own := plan.HostInterfaceOf(master.Name)
	if f, found, err := a.K.Host.Link(own); err == nil && found && f.Lower == service.Lower {
		return own
	}
	return config.DefaultHostInterface
}

// onHost names the interfaces of a result that are in no sandbox.
func onHost(r *current.Result) (names []string) {
	for _, iface := range r.Interfaces {
		if iface.Sandbox == "" {
			names = append(names, iface.Name)
		}
	}
	return names
}

func (a *attachment) findServiceLink() error {
	f, found, err := a.K.Service.Link(a.Args.IfName)
	if err != nil {
		return err
	}
	if !found {
		return cnierr.New(types.ErrInvalidEnvironmentVariables, "pass the name of the link that the plugin before this one made", "CNI_IFNAME: %q: no such link in the netns %s", a.Args.IfName, a.Args.Netns)
	}
	if f.Kind != plan.KindMacvlan {
		return cnierr.New(types.ErrInvalidNetworkConfig, "list hairpin-route after macvlan-vip or macvlan, which make one",
			"CNI_IFNAME: %q: a link of type %s in the netns, not a macvlan", a.Args.IfName, f.Kind)
	}
	if f.Lower != a.facts.HostLink.Lower {
		return cnierr.Config("hostInterface", a.facts.HostLink.Name, fmt.Sprintf("lies on another master than the service's %q", a.Args.IfName), "name a macvlan on the same master as the service's")
	}
	a.facts.ServiceLink = f
	return nil
}

// findVIPs takes the addresses that are on the service's link.
func (a *attachment) findVIPs() error {
	for _, ip := range a.Prev.IPs {
		if n := ip.Interface; n != nil {
			if iface := a.Prev.Interfaces[*n]; iface.Sandbox == "" || iface.Name != a.Args.IfName {
				continue
			}
		}
		vip, ok := config.PrefixOf(ip.Address)
		if !ok {
			continue
		}
		a.facts.VIPs = append(a.facts.VIPs, vip.Addr())
	}
	if len(a.facts.VIPs) == 0 {
		return cnierr.New(types.ErrInvalidNetworkConfig, "give the plugin before this one an ipam section with at least one address", "prevResult.ips: no address on %q", a.Args.IfName)
	}
	return nil
}

func (a *attachment) findHostAddresses() error {
	addrs, err := a.K.Host.Addresses()
	if err != nil {
		return err
	}
	return a.useHostAddresses(addrs)
}

// useHostAddresses finds out which of the host's addresses a LAN peer at each
// VIP would see: what the kernel would take out of the master.
func (a *attachment) useHostAddresses(host []plan.AddrFacts) (err error) {
	vrf := a.facts.HostLink.VRF
	addrs := plan.InVRF(vrf, host)
	for _, h := range addrs {
		addr := h.Prefix.Addr()
		switch {
		case h.Held && h.Neighbourly:
			a.facts.HostAddresses = append(a.facts.HostAddresses, h)
		case h.Link == a.facts.HostLink.Index && addr.Is6() && addr.IsLinkLocalUnicast():
			a.facts.LinkLocal = addr
		}
	}
	if err := a.checkVIPs(plan.LocalTo(vrf, host)); err != nil {
		return err
	}
	// For IPv4 an address in no VRF is good for a route in one, too.
	if err := a.checkSource(plan.LocalTo(vrf, host)); err != nil {
		return err
	}
	if a.facts.Sources, err = a.sources(addrs); err != nil {
		return err
	}
	if a.facts.Masquerades, err = a.masquerades(addrs); err != nil {
		return err
	}
	a.facts.Networks, err = a.networks(addrs)
	return err
}

// checkVIPs refuses a VIP that is the host's own: the kernel's route to it in
// table local would win over ours, silently.
func (a *attachment) checkVIPs(addrs []plan.AddrFacts) error {
	own := map[netip.Addr]bool{}
	for _, h := range addrs {
		own[h.Prefix.Addr()] = true
	}
	for _, vip := range a.facts.VIPs {
		if own[vip] {
			return cnierr.New(cnierr.AddressConflict, "use an address that nobody has, or remove it from the host", "VIP %s: the host itself has it", vip)
		}
	}
	return nil
}

func (a *attachment) checkSource(addrs []plan.AddrFacts) error {
	for _, src := range a.conf.Source {
		if !slices.ContainsFunc(addrs, func(h plan.AddrFacts) bool { return h.Prefix.Addr() == src }) {
			return cnierr.Config("source", src.String(), "not an address of this host, or one of another VRF", "use one that `ip address` shows on the host, or leave it out")
		}
	}
	return nil
}

// sources finds the source address towards each VIP: the configuration's, or
// else what the kernel would take out of the master. Towards a link-local VIP
// it takes the host-side link's own.
func (a *attachment) sources(addrs []plan.AddrFacts) (map[netip.Addr]netip.Addr, error) {
	sources := make(map[netip.Addr]netip.Addr, len(a.facts.VIPs))
	var rest []netip.Addr
	for _, vip := range a.facts.VIPs {
		i := slices.IndexFunc(a.conf.Source, func(src netip.Addr) bool { return src.Is4() == vip.Is4() })
		switch {
		case i >= 0:
			sources[vip] = a.conf.Source[i]
		case !plan.LinkLocal(vip):
			rest = append(rest, vip)
		}
	}
	found, err := a.K.Host.SourcesTo(rest, plan.LinkFacts{Index: a.facts.HostLink.Lower, Name: "the master"})
	for vip, src := range found {
		if src := settled(src, addrs); src.IsValid() {
			sources[vip] = src
		}
	}
	return sources, err
}

// settled replaces a source that will not last, such as a temporary IPv6
// address, by one of the same network that will. A link-local one is none: it
// belongs to the master, and the kernel takes the host-side link's own. Nor is ::1, which
// the kernel names if the master has a route and no address.
func settled(src netip.Addr, addrs []plan.AddrFacts) netip.Addr {
	if src.Is6() && (src.IsLinkLocalUnicast() || src.IsLoopback()) {
		return netip.Addr{}
	}
	var network netip.Prefix
	for _, h := range addrs {
		if h.Prefix.Addr() == src {
			if h.Stable {
				return src
			}
			network = h.Prefix.Masked()
		}
	}
	for _, h := range addrs {
		if h.Stable && network.IsValid() && network.Contains(h.Prefix.Addr()) {
			return h.Prefix.Addr()
		}
	}
	return src
}

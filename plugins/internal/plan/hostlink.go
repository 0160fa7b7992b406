package plan

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"macvlan-vip/plugins/internal/config"
)

// HostSide plans the host-side macvlan, which all services of a master share.
// existing is the link that has its name now, or nil.
func (a Attachment) HostSide(existing *LinkFacts) Desired {
	var d Desired
	if a.Conf.IPForward {
		d.Sysctls = append(d.Sysctls, Sysctl{Side: Host, Key: "net/ipv4/ip_forward", Value: "1", Kept: true})
	}
	if a.HostInterface == "" {
		return d
	}
	link := a.hostLink()
	if existing != nil {
		link.MAC = existing.MAC
	}
	foreign := a.IsForeign(existing)
	switch {
	case !foreign:
		link.MTU = a.Master.MTU
		d.Sysctls = append(d.Sysctls, hostSysctls(link.Name)...)
	case existing.Addressed:
		// A station of its own on the LAN, which has to answer for itself.
		link.NoARP = false
		d.Sysctls = append(d.Sysctls, arpSysctls(link.Name)...)
	default:
		d.Sysctls = append(d.Sysctls, hostSysctls(link.Name)...)
	}
	for i := range d.Sysctls {
		// Ours may be in use by others when this ADD fails.
		d.Sysctls[i].Kept = d.Sysctls[i].Kept || !foreign
	}
	d.Links = append(d.Links, link)
	return d
}

// hostLink is the host-side macvlan as it is made. It resolves nothing, since
// it has permanent entries for all that it talks to. So whatever the host's
// proxy_arp, arp_ignore and the like say, and for IPv6, too, nobody on the LAN
// gets an answer from it.
func (a Attachment) hostLink() Link {
	return Link{
		Side: Host, Kind: KindMacvlan, Name: a.HostInterface, Mode: a.Conf.Mode,
		Master: a.Master.Name, MasterSide: Host, Shared: true, NoARP: true, VRF: a.Master.VRF,
		MAC:   StableMAC(a.Master.MAC, a.HostInterface).String(),
		Alias: hostAlias + a.Master.Name,
	}
}

// IsForeign tells whether somebody else made the link that has the host-side
// macvlan's name; existing is nil where there is none.
func (a Attachment) IsForeign(existing *LinkFacts) bool {
	link := a.hostLink()
	return existing != nil && existing.Alias != link.Alias && existing.MAC != link.MAC
}

// arpSysctls keep a link from answering ARP requests for an address that the
// host has on another, or for one behind the host (-1 takes it out of proxy_arp).
func arpSysctls(link string) []Sysctl {
	return []Sysctl{
		{Side: Host, Key: "net/ipv4/conf/" + link + "/arp_ignore", Value: "1"},
		{Side: Host, Key: "net/ipv4/conf/" + link + "/medium_id", Value: "-1"},
	}
}

// hostSysctls keep the host from talking through its macvlan to anybody but
// the services, and from hearing the LAN a second time there.
func hostSysctls(link string) []Sysctl {
	v6 := "net/ipv6/conf/" + link + "/"
	return append(arpSysctls(link), []Sysctl{
		// The LAN's broadcasts and multicasts come in by the master, and again
		// here: their senders are behind the master. Of a link without an
		// address the kernel is as strict with 2, which it may get from all or
		// from systemd's sysctl.d (__fib_validate_source in
		// net/ipv4/fib_frontend.c).
		{Side: Host, Key: "net/ipv4/conf/" + link + "/rp_filter", Value: "1", AtLeast: true},
		{Side: Host, Key: v6 + "accept_ra", Value: "0", Optional: true},
		{Side: Host, Key: v6 + "autoconf", Value: "0", Optional: true},
		{Side: Host, Key: v6 + "use_tempaddr", Value: "0", Optional: true},
		// Its link-local address comes from a MAC that no other host has.
		{Side: Host, Key: v6 + "accept_dad", Value: "0", Optional: true},
	}...)
}

// HostInterfaces are the names that the host-side macvlan on a master may
// have, the preferred one first. before is the one that the attachment has
// used so far, if any.
func (a Attachment) HostInterfaces(before string) []string {
	if a.Conf.HostInterface == "" || a.Conf.HostInterfaceChosen {
		return []string{a.Conf.HostInterface}
	}
	names := []string{config.DefaultHostInterface, HostInterfaceOf(a.Master.Name)}
	if before == "" {
		return names
	}
	return append([]string{before}, slices.DeleteFunc(names, func(n string) bool { return n == before })...)
}

// HostInterfaceOf derives a name for the host-side macvlan of a master from
// the master's: mv-int-eth1, or, where that has more than the 15 characters
// that a link's name may have (IFNAMSIZ), mv-int-38a-0np1 for enp129s0f0np1,
// with a part of the name's digest, and its end, in which such names differ.
func HostInterfaceOf(master string) string {
	const room = 15 - len(config.DefaultHostInterface+"-")
	if len(master) > room {
		sum := sha256.Sum256([]byte(master))
		master = fmt.Sprintf("%x", sum)[:3] + "-" + master[len(master)-room+4:]
	}
	return config.DefaultHostInterface + "-" + master
}

// ChooseHostInterface picks the first of several names under which there is a
// macvlan on the master, or else the first that no link has, or else the last.
// look finds a link by name; nil where there is none.
func (a Attachment) ChooseHostInterface(names []string, look func(name string) (*LinkFacts, error)) (name string, existing *LinkFacts, err error) {
	free := ""
	for _, name = range names {
		existing, err = look(name)
		switch {
		case err != nil:
			return "", nil, err
		case existing == nil && free == "":
			free = name
		case existing != nil && existing.Kind == KindMacvlan && existing.Lower == a.Master.Base():
			return name, existing, nil
		}
	}
	if free != "" {
		return free, nil, nil
	}
	return name, existing, nil
}

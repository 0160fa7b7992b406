package plan

import (
	"net/netip"
	"slices"
)

// LinkFacts is what plans need to know of a link.
type LinkFacts struct {
	Name  string
	Index int
	// Lower is the index of the link below (IFLA_LINK), 0 for none. What that
	// means depends on the kind: see Base.
	Lower int
	Kind  string
	Mode  string
	MAC   string
	MTU   int
	Up    bool
	// Carrier says that the link below, or the wire, is there.
	Carrier bool
	// NoARP links resolve no addresses, and answer nobody who does (IFF_NOARP).
	NoARP bool
	Alias string
	// VRF is the VRF that the link is in, if any, and VRFTable its routing table.
	VRF      string
	VRFTable int
	// Bridge is the bridge that the link is or lies on, if any. Only facts about a master
	// tell.
	Bridge string
	// Addressed links have global addresses that somebody gave them. Only facts
	// about a host-side link that was there already tell.
	Addressed bool
}

// Base is the index of the link that macvlans on this one lie on, which is
// their layer 2 domain. The kernel puts a macvlan on a macvlan on the lower
// link of that (macvlan_common_newlink in drivers/net/macvlan.c). A VLAN has a
// lower link, too, but is a domain of its own.
func (f LinkFacts) Base() int {
	if f.Kind == KindMacvlan || f.Kind == kindMacvtap {
		return f.Lower
	}
	return f.Index
}

// IsStacked tells whether what a link listens to, its lower link listens to as well,
// which it lies on in the same way as a macvlan does.
func IsStacked(kind string) bool {
	return kind == KindMacvlan || kind == kindMacvtap || kind == kindVLAN
}

// AddrFacts is an address of the host.
type AddrFacts struct {
	Prefix netip.Prefix
	Link   int
	// Stable addresses are global, and neither temporary nor on their way out.
	Stable bool
	// Held addresses are global, and neither tentative nor duplicate: the host sends from
	// them, and answers who asks. They may be temporary or deprecated.
	Held bool
	// Usable addresses are global, and neither deprecated nor tentative; a
	// temporary one is usable for as long as it lasts.
	Usable bool
	// Loopback says that the address is on lo, by way of which nothing leaves.
	Loopback bool
	// Neighbourly links resolve addresses by ARP or NDP.
	Neighbourly bool
	// VRF is the VRF that the address is in, if any: its link's, or the link itself.
	VRF string
}

// InVRF are the addresses that the host has in a VRF; in none for the empty name. In
// another they can be anybody's.
func InVRF(vrf string, host []AddrFacts) []AddrFacts {
	return slices.DeleteFunc(slices.Clone(host), func(a AddrFacts) bool { return a.VRF != vrf })
}

// LocalTo are the addresses that the host keeps the packets for which are in a VRF.
// Those in none are among them: the kernel looks table local up before a VRF's (rules
// 0 and 1000), unless somebody has moved its rule.
func LocalTo(vrf string, host []AddrFacts) []AddrFacts {
	return slices.DeleteFunc(slices.Clone(host), func(a AddrFacts) bool { return a.VRF != vrf && a.VRF != "" })
}

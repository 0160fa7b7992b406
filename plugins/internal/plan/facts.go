package plan

import "net/netip"

// LinkFacts is what plans need to know of a link.
type LinkFacts struct {
	Name  string
	Index int
	// Lower is the index of the link below (IFLA_LINK), 0 for none.
	Lower int
	Kind  string
	Mode  string
	MAC   string
	MTU   int
	Up    bool
	// Carrier says that the link below, or the wire, is there.
	Carrier bool
	Alias   string
}

// AddrFacts is an address of the host.
type AddrFacts struct {
	Prefix netip.Prefix
	Link   int
	// Stable addresses are global, and neither temporary nor on their way out.
	Stable bool
	// Neighbourly links resolve addresses by ARP or NDP.
	Neighbourly bool
}

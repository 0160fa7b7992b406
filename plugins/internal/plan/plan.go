// Package plan describes what an attachment needs in the kernel, as plain
// values: one description from which ADD creates, CHECK compares, DEL removes
// and GC sweeps. It does no I/O.
package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Side names the network namespace that an item lives in.
type Side string

const (
	// Host is the namespace that the plugin was started in.
	Host Side = "host"
	// Service is the namespace that CNI_NETNS names.
	Service Side = "service"
)

// Protocol marks our routes (rtm_protocol, rtnetlink(7)), so that a person
// sees whose they are and nobody else's are removed:
// `ip route show table local proto 118`.
const Protocol = 118

// Kinds of link that a plan can hold.
const (
	KindMacvlan  = "macvlan"
	KindLoopback = "loopback"
	KindBridge   = "bridge"
	kindMacvtap  = "macvtap"
	kindVLAN     = "vlan"
)

// Link is a link that must exist and be up.
type Link struct {
	Side Side   `json:"side"`
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Master is the lower link's name, on MasterSide.
	Master     string `json:"master,omitempty"`
	MasterSide Side   `json:"masterSide,omitempty"`
	Mode       string `json:"mode,omitempty"`
	// MTU in bytes; 0 lets it be.
	MTU int `json:"mtu,omitempty"`
	// MAC in the colon form; set in the create call, since a MAC set later
	// can be overwritten by udev's MACAddressPolicy.
	MAC        string `json:"mac,omitempty"`
	BCQueueLen uint32 `json:"bcqueuelen,omitempty"`
	// NoARP links answer neither ARP nor neighbour solicitations: see hostLink.
	NoARP bool `json:"noARP,omitempty"`
	// VRF is the VRF that the link is in, if any.
	VRF string `json:"vrf,omitempty"`
	// Alias is the ifalias, by which a person sees whose the link is.
	Alias string `json:"alias,omitempty"`
	// Shared links serve several attachments: one that exists already is
	// used, and it is not removed with a single attachment.
	Shared bool `json:"shared,omitempty"`
}

// HasMastersMAC tells whether the kernel keeps a link's MAC and its master's the same:
// to set the one is to set the other.
func (l Link) HasMastersMAC() bool { return l.Mode == "passthru" }

// Sysctl is a key below /proc/sys with slashes, and its value.
type Sysctl struct {
	Side  Side   `json:"side"`
	Key   string `json:"key"`
	Value string `json:"value"`
	// Optional keys are skipped where the kernel lacks them (IPv6 turned off).
	Optional bool `json:"optional,omitempty"`
	// Kept values stay after a roll-back or DEL: somebody else may rely on them.
	Kept bool `json:"kept,omitempty"`
	// AtLeast says that larger numbers will do.
	AtLeast bool `json:"atLeast,omitempty"`
}

// Forwarding is an entry in a bridge's forwarding database that keeps the frames for a
// MAC in the host (bridge(8), `self local`): see Attachment.Forwarding.
type Forwarding struct {
	Side   Side   `json:"side"`
	Bridge string `json:"bridge"`
	MAC    string `json:"mac"`
}

// Address is an address with its prefix length on a link.
type Address struct {
	Side   Side         `json:"side"`
	Link   string       `json:"link"`
	Prefix netip.Prefix `json:"prefix"`
}

// Route is a unicast route out of a link.
type Route struct {
	Side    Side         `json:"side"`
	Link    string       `json:"link"`
	Dst     netip.Prefix `json:"dst"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	// OnLink says that the gateway is reached without a route to it.
	OnLink bool `json:"onlink,omitempty"`
	// Source is the preferred source address.
	Source netip.Addr `json:"source,omitzero"`
	Table  int        `json:"table,omitempty"`
	Metric int        `json:"metric,omitempty"`
	// Scope is rtm_scope; nil lets the presence of a gateway decide.
	Scope  *int `json:"scope,omitempty"`
	MTU    int  `json:"mtu,omitempty"`
	AdvMSS int  `json:"advmss,omitempty"`
	// Exclusive routes must be the only ones of their destination, table and
	// metric: another's is a conflict. The rest stand beside others.
	Exclusive bool `json:"exclusive,omitempty"`
}

// Rule leads what is sent from some addresses to a table of their own
// (ip-rule(8)).
type Rule struct {
	Side     Side         `json:"side"`
	From     netip.Prefix `json:"from"`
	Table    int          `json:"table"`
	Priority int          `json:"priority"`
}

// Neighbour is a permanent neighbour entry.
type Neighbour struct {
	Side Side       `json:"side"`
	Link string     `json:"link"`
	Addr netip.Addr `json:"addr"`
	MAC  string     `json:"mac"`
}

// Desired is the whole of what an attachment needs. The order of creation is
// that of the fields, with links brought up after the sysctls; that of removal
// the reverse.
type Desired struct {
	Links      []Link       `json:"links,omitempty"`
	Sysctls    []Sysctl     `json:"sysctls,omitempty"`
	Forwarding []Forwarding `json:"forwarding,omitempty"`
	Addresses  []Address    `json:"addresses,omitempty"`
	Neighbours []Neighbour  `json:"neighbours,omitempty"`
	Routes     []Route      `json:"routes,omitempty"`
	Rules      []Rule       `json:"rules,omitempty"`
}

// Add appends another description to this one.
func (d *Desired) Add(o Desired) {
	d.Links = append(d.Links, o.Links...)
	d.Sysctls = append(d.Sysctls, o.Sysctls...)
	d.Forwarding = append(d.Forwarding, o.Forwarding...)
	d.Addresses = append(d.Addresses, o.Addresses...)
	d.Routes = append(d.Routes, o.Routes...)
	d.Rules = append(d.Rules, o.Rules...)
	d.Neighbours = append(d.Neighbours, o.Neighbours...)
}

// Minus returns the addresses, routes, rules and neighbours of d that are not in o:
// what has to go when o replaces d. The rest is not compared, since a
// configuration's change of that needs a new attachment.
func (d Desired) Minus(o Desired) Desired {
	return Desired{
		Addresses:  minus(d.Addresses, o.Addresses, func(a Address) Address { return a }),
		Routes:     minus(d.Routes, o.Routes, Route.identity),
		Rules:      minus(d.Rules, o.Rules, func(r Rule) Rule { return r }),
		Neighbours: minus(d.Neighbours, o.Neighbours, Neighbour.identity),
	}
}

// On is the part of d that is on one side.
func (d Desired) On(side Side) Desired {
	return Desired{
		Links:      OnSide(side, d.Links),
		Sysctls:    OnSide(side, d.Sysctls),
		Forwarding: OnSide(side, d.Forwarding),
		Addresses:  OnSide(side, d.Addresses),
		Routes:     OnSide(side, d.Routes),
		Rules:      OnSide(side, d.Rules),
		Neighbours: OnSide(side, d.Neighbours),
	}
}

// OnSide gives the items that are on one side.
func OnSide[T Item](side Side, all []T) []T {
	n := 0
	for _, item := range all {
		if item.Where() == side {
			n++
		}
	}
	mine := make([]T, 0, n)
	for _, item := range all {
		if item.Where() == side {
			mine = append(mine, item)
		}
	}
	return mine
}

// Without is d without the routes and neighbours that lead to any of some
// addresses.
func (d Desired) Without(addrs map[netip.Addr]bool) Desired {
	d.Routes = slices.DeleteFunc(slices.Clone(d.Routes), func(r Route) bool { return addrs[r.Dst.Addr()] })
	d.Neighbours = slices.DeleteFunc(slices.Clone(d.Neighbours), func(n Neighbour) bool { return addrs[n.Addr] })
	return d
}

func minus[T comparable](have, want []T, identity func(T) T) []T {
	keep := make(map[T]bool, len(want))
	for _, w := range want {
		keep[identity(w)] = true
	}
	var gone []T
	for _, h := range have {
		if !keep[identity(h)] {
			gone = append(gone, h)
		}
	}
	return gone
}

// identity is what makes two routes the same one for the kernel; the rest can
// be changed in place.
func (r Route) identity() Route {
	return Route{Side: r.Side, Link: r.Link, Dst: r.Dst, Table: r.Table, Metric: r.Metric, Gateway: r.Gateway}
}

// Same tells whether the kernel takes two routes for the same one.
func (r Route) Same(o Route) bool { return r.identity() == o.identity() }

func (n Neighbour) identity() Neighbour {
	return Neighbour{Side: n.Side, Link: n.Link, Addr: n.Addr}
}

// Item is a part of a plan.
type Item interface {
	fmt.Stringer
	// Where is the side that the item is on.
	Where() Side
}

// OnLink is an item that lies on a link.
type OnLink interface {
	Item
	// Dev names the link.
	Dev() string
}

// Where and Dev of all items: see Item and OnLink.

func (l Link) Where() Side       { return l.Side }
func (s Sysctl) Where() Side     { return s.Side }
func (f Forwarding) Where() Side { return f.Side }
func (f Forwarding) Dev() string { return f.Bridge }
func (a Address) Where() Side    { return a.Side }
func (a Address) Dev() string    { return a.Link }
func (r Route) Where() Side      { return r.Side }
func (r Route) Dev() string      { return r.Link }
func (r Rule) Where() Side       { return r.Side }
func (n Neighbour) Where() Side  { return n.Side }
func (n Neighbour) Dev() string  { return n.Link }

// The texts below are those of iproute2, so that they can be pasted after
// `ip link`, `ip address`, `bridge fdb` and so on.

func (l Link) String() string {
	s := fmt.Sprintf("%s: link %s", l.Side, l.Name)
	if l.Kind == KindMacvlan {
		s += fmt.Sprintf(" type macvlan mode %s on %s", l.Mode, l.Master)
	}
	return s
}

func (s Sysctl) String() string {
	sign := "="
	if s.AtLeast {
		sign = ">="
	}
	return fmt.Sprintf("%s: sysctl %s %s %s", s.Side, s.Key, sign, s.Value)
}

func (f Forwarding) String() string {
	return fmt.Sprintf("%s: fdb %s dev %s self local", f.Side, f.MAC, f.Bridge)
}

func (a Address) String() string {
	return fmt.Sprintf("%s: address %s dev %s", a.Side, a.Prefix, a.Link)
}

func (r Route) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: route %s", r.Side, r.Dst)
	if r.Gateway.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Gateway)
	}
	fmt.Fprintf(&b, " dev %s", r.Link)
	if r.Table != 0 {
		fmt.Fprintf(&b, " table %s", TableName(r.Table))
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Source.IsValid() {
		fmt.Fprintf(&b, " src %s", r.Source)
	}
	return b.String()
}

func (r Rule) String() string {
	return fmt.Sprintf("%s: rule from %s lookup %d priority %d", r.Side, r.From, r.Table, r.Priority)
}

func (n Neighbour) String() string {
	return fmt.Sprintf("%s: neighbour %s lladdr %s dev %s", n.Side, n.Addr, n.MAC, n.Link)
}

// TableName gives the kernel's fixed tables their names (rt_tables, ip-route(8)).
func TableName(table int) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return fmt.Sprint(table)
}

package watch

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// attachment is what the keeper watches of a namespace.
type attachment struct {
	// namespace is its name, unit the one whose reload repairs it.
	namespace, unit string
	// nsid is its number in the host's namespace.
	nsid int
	// inside is the service's link in its desired state.
	inside link
	// hostLink is the host-side link's name, or "", master the name of the link
	// below both.
	hostLink, master string
	vips             map[netip.Addr]bool
	prefixes         []netip.Prefix
	// conflict is what to do if another station uses a VIP.
	conflict string
}

// finding is a change that may have broken something.
type finding struct {
	namespace string
	// kind is what repairs are counted by. What the service can vary at will is no
	// part of it.
	kind string
	// what is a sentence without its end: "route to 192.0.2.10 was removed".
	what string
	// port is the netlink port of who did it, 0 if that is not known; who names
	// that process.
	port uint32
	who  string
	// note says that nothing is broken: there is something to be shown, or to be
	// looked at.
	note bool
	// link says that it is about a link, with which addresses, routes and neighbour
	// entries go.
	link bool
}

// Kinds of findings about a link.
const (
	deleted   = "%s was deleted"
	renamed   = "%s was renamed %s"
	takenDown = "%s was taken down"
	otherMAC  = "the MAC of %s was changed"
	otherMTU  = "the MTU of %s was changed to %d"
)

const routeRemoved = "the service's route to %s was removed"

// newFinding has the text of a kind, which args complete.
func newFinding(kind string, args ...any) finding {
	return finding{kind: kind, what: fmt.Sprintf(kind, args...)}
}

// newNote is newFinding where nothing is broken.
func newNote(kind string, args ...any) finding {
	f := newFinding(kind, args...)
	f.note = true
	return f
}

// in is the finding about a namespace.
func (f finding) in(namespace string) finding {
	f.namespace = namespace
	return f
}

// of is the finding about an attachment's namespace, because of an event.
func (f finding) of(a *attachment, e event) finding {
	f.port, f.link = e.port, e.isLink()
	return f.in(a.namespace)
}

func (f finding) String() string {
	if f.who == "" {
		return f.what
	}
	return f.what + " by " + f.who
}

// address is one that a link has: of IPv4 it can have the same with several prefix
// lengths.
type address struct {
	index  int
	prefix netip.Prefix
}

// state is what is known of the host, as far as it concerns attachments.
type state struct {
	// links are all of the host's.
	links map[int]link
	// addrs are the host's own that services have a way back to, lost are those that
	// it had. A repair removes the ways to these.
	addrs map[address]bool
	lost  map[netip.Addr]bool
	// attachments are by their namespace's name. The others find those that an
	// event is about, however many there are: by the namespace's number, and by VIP.
	attachments map[string]*attachment
	inside      map[int]*attachment
	holders     map[netip.Addr][]*attachment
	// macs are what the host-side links had when they were seen first.
	macs map[string]string
}

func newState() *state {
	return &state{
		links: map[int]link{}, addrs: map[address]bool{}, lost: map[netip.Addr]bool{}, macs: map[string]string{},
		attachments: map[string]*attachment{}, inside: map[int]*attachment{}, holders: map[netip.Addr][]*attachment{},
	}
}

// put takes an attachment in, in place of the one of that namespace.
func (s *state) put(a *attachment) {
	s.drop(a.namespace)
	s.attachments[a.namespace], s.inside[a.nsid] = a, a
	for vip := range a.vips {
		s.holders[vip] = append(s.holders[vip], a)
	}
}

func (s *state) drop(namespace string) {
	a := s.attachments[namespace]
	if a == nil {
		return
	}
	delete(s.attachments, namespace)
	if s.inside[a.nsid] == a {
		delete(s.inside, a.nsid)
	}
	for vip := range a.vips {
		s.holders[vip] = slices.DeleteFunc(s.holders[vip], func(o *attachment) bool { return o == a })
		if len(s.holders[vip]) == 0 {
			delete(s.holders, vip)
		}
	}
}

// ownMACs are those of the macvlans that services and their host have.
func (s *state) ownMACs() (own []net.HardwareAddr) {
	texts := slices.Collect(maps.Values(s.macs))
	for _, a := range s.attachments {
		texts = append(texts, a.inside.mac)
	}
	for _, text := range texts {
		if mac, err := net.ParseMAC(text); err == nil && len(mac) == 6 {
			own = append(own, mac)
		}
	}
	return own
}

// apply processes an event, and returns what it may have broken.
func (s *state) apply(e event) []finding {
	if e.nsid != hosts {
		if a := s.inside[e.nsid]; a != nil {
			return a.applyInside(e, s)
		}
		return nil
	}
	switch e.kind {
	case unix.RTM_NEWLINK:
		return s.linkIs(e)
	case unix.RTM_DELLINK:
		return s.linkGone(e)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return s.hostAddress(e)
	case unix.RTM_DELROUTE:
		if e.protocol == routeProtocol {
			return s.ofVIP(e, "the host's route to %s was removed")
		}
	case unix.RTM_DELNEIGH:
		return s.ofVIP(e, "the host's neighbour entry for %s was removed")
	case unix.RTM_DELRULE:
		if e.protocol == routeProtocol {
			return s.all(e, newFinding("a routing rule of the host was removed"), every)
		}
	}
	return nil
}

// every is for what concerns all attachments.
func every(*attachment) bool { return true }

// all is a finding for each attachment that it concerns.
func (s *state) all(e event, f finding, concerns func(*attachment) bool) []finding {
	var found []finding
	for _, a := range s.attachments {
		if concerns(a) {
			found = append(found, f.of(a, e))
		}
	}
	return found
}

func (s *state) ofVIP(e event, kind string) []finding {
	var found []finding
	for _, a := range s.holders[e.addr] {
		found = append(found, newFinding(kind, e.addr).of(a, e))
	}
	return found
}

// linkIs tells of a link of the host's that is new, or changed.
func (s *state) linkIs(e event) []finding {
	is := e.link
	was, known := s.links[is.index]
	s.links[is.index] = is
	if known && was == is {
		return nil
	}
	var found []finding
	if f := s.hostSide(was, is, known); f.what != "" {
		found = s.all(e, f, func(a *attachment) bool { return a.hostLink != "" && (a.hostLink == was.name || a.hostLink == is.name) })
	}
	if f := asMaster(was, is, known); f.what != "" {
		found = append(found, s.all(e, f, func(a *attachment) bool { return a.master == is.name })...)
	}
	return found
}

// hostSide says what was broken of a link if it is a host-side one.
func (s *state) hostSide(was, is link, known bool) finding {
	wanted := s.macs[is.name]
	switch {
	case known && was.name != is.name:
		return newFinding(renamed, was.name, is.name)
	case known && was.up() && !is.up():
		return newFinding(takenDown, is.name)
	case wanted != "" && is.mac != wanted:
		return newFinding(otherMAC, is.name)
	case known && was.mtu != is.mtu && is.mtu != s.links[is.lower].mtu:
		return newFinding(otherMTU, is.name, is.mtu)
	}
	return finding{}
}

// asMaster says what has changed of a link that attachments may lie on. A note is
// what cannot be repaired.
func asMaster(was, is link, known bool) finding {
	switch {
	case !known || was.name != is.name:
		return newFinding("%s is back", is.name)
	case !was.carrier() && is.carrier():
		return newFinding("%s has a carrier again", is.name)
	case was.carrier() && !is.carrier():
		return newNote("%s has lost its carrier", is.name)
	case was.mtu != is.mtu:
		return newFinding(otherMTU, is.name, is.mtu)
	case was.mac != is.mac:
		return newFinding(otherMAC, is.name)
	}
	return finding{}
}

func (s *state) linkGone(e event) []finding {
	delete(s.links, e.link.index)
	return s.all(e, newFinding(deleted, e.link.name), func(a *attachment) bool { return a.hostLink != "" && a.hostLink == e.link.name })
}

// hostAddress tells of an address that the host has got or lost: services have a
// way back to it, the host's routes to VIPs go out from it, or the host masquerades to
// it, which can be one on any link, lo included.
func (s *state) hostAddress(e event) []finding {
	key := address{e.index, e.dst}
	_, ours := s.macs[s.links[e.index].name]
	usable := e.kind == unix.RTM_NEWADDR && e.usable && !ours
	if usable == s.addrs[key] {
		return nil
	}
	what := "the host has got the address " + e.dst.String()
	if usable {
		s.addrs[key] = true
		delete(s.lost, e.addr)
	} else {
		delete(s.addrs, key)
		s.lost[e.addr] = !s.hasAddress(e.addr)
		what = "the host has lost the address " + e.dst.String()
	}
	// A host gets many at its boot, one after another.
	return s.all(e, finding{kind: what, what: what}, func(a *attachment) bool {
		for vip := range a.vips {
			if a.hostLink != "" && vip.Is4() == e.addr.Is4() {
				return true
			}
		}
		return false
	})
}

// hasAddress tells whether an address is one of the host's.
func (s *state) hasAddress(addr netip.Addr) bool {
	for key := range s.addrs {
		if key.prefix.Addr() == addr {
			return true
		}
	}
	return false
}

// ready tells whether a repair can do anything: without its master an attachment
// can only wait.
func (s *state) ready(a *attachment) bool {
	if a.master == "" {
		return true
	}
	for _, l := range s.links {
		if l.name == a.master {
			return true
		}
	}
	return false
}

// applyInside is apply for what happens in the service's namespace.
func (a *attachment) applyInside(e event, s *state) []finding {
	if f := a.brokenInside(e, s); f.what != "" {
		return []finding{f.of(a, e)}
	}
	return nil
}

// brokenInside says what an event may have broken in the service's namespace.
func (a *attachment) brokenInside(e event, s *state) finding {
	switch e.kind {
	case unix.RTM_DELLINK:
		if e.link.index == a.inside.index {
			return newFinding(deleted, a.inside.name)
		}
	case unix.RTM_NEWLINK:
		return a.spoilt(e.link)
	case unix.RTM_DELADDR:
		if a.vips[e.addr] {
			return newFinding("VIP %s was removed from %s", e.addr, a.inside.name)
		}
	case unix.RTM_DELROUTE:
		return a.routeGone(e, s)
	case unix.RTM_DELNEIGH:
		if e.index == a.inside.index && s.hasAddress(e.addr) {
			return newFinding("the service's neighbour entry for %s was removed", e.addr)
		}
	case unix.RTM_DELRULE:
		return newFinding("a routing rule of the service was removed")
	}
	return finding{}
}

// routeGone says that a route of ours was removed, or one that the kernel has made with
// a VIP.
func (a *attachment) routeGone(e event, s *state) finding {
	ours := e.protocol == routeProtocol
	switch {
	case ours && s.lost[e.addr], !ours && !a.comesWithVIP(e):
		return finding{}
	case !e.dst.IsValid():
		return newFinding("a route of the service was removed")
	case e.dst.IsSingleIP():
		return newFinding(routeRemoved, e.addr)
	}
	return newFinding(routeRemoved, e.dst)
}

// comesWithVIP tells whether a route out of the service's link leads to a VIP, or to the
// network of one.
func (a *attachment) comesWithVIP(e event) bool {
	isNetwork := func(p netip.Prefix) bool { return p.Masked() == e.dst }
	return e.index == a.inside.index && (e.dst.IsSingleIP() && a.vips[e.addr] || slices.ContainsFunc(a.prefixes, isNetwork))
}

// spoilt says how the service's link differs from its desired state.
func (a *attachment) spoilt(is link) finding {
	want := a.inside
	switch {
	case is.index != want.index:
	case is.name != want.name:
		return newFinding(renamed, want.name, is.name)
	case !is.up():
		return newFinding(takenDown, want.name)
	case is.mac != want.mac:
		return newFinding(otherMAC, want.name)
	case is.mtu != want.mtu:
		return newFinding(otherMTU, want.name, is.mtu)
	}
	return finding{}
}

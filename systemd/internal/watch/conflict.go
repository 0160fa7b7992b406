package watch

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"macvlan-vip/systemd/internal/sdlog"
)

const (
	// defendInterval is how long nothing is sent after an address was defended
	// (DEFEND_INTERVAL of RFC 5227, section 1.1): two stations that both defend one
	// must not flood the LAN.
	defendInterval = 10 * time.Second
	// conflictLife is how long a station is reported after its last packet.
	conflictLife = 10 * time.Minute
	// questions are asked so many times, questionInterval apart, and answers waited
	// for as long.
	questions        = 3
	questionInterval = 100 * time.Millisecond
)

// mostNamed is how many stations are named that use one VIP: a station can use as many MACs
// as it likes.
const mostNamed = 4

// conflict is that other stations use a VIP, or one is about to.
type conflict struct {
	namespace string
	addr      netip.Addr
	stations  []station
	// probing says that it asks whether it may, which the kernel answers.
	probing  bool
	defended time.Time
}

// station is one by its MAC, with the time of its last packet.
type station struct {
	mac  string
	last time.Time
}

func (c *conflict) String() string {
	macs := make([]string, len(c.stations))
	for i, s := range c.stations {
		macs[i] = s.mac
	}
	return c.by(strings.Join(macs, " and "))
}

// by is the conflict with one station.
func (c *conflict) by(mac string) string {
	if c.probing {
		return fmt.Sprintf("VIP %s is being claimed by %s, too", c.addr, mac)
	}
	return fmt.Sprintf("VIP %s is used by %s, too", c.addr, mac)
}

// take takes in that a station was heard, and tells whether that is news.
func (c *conflict) take(u use, now time.Time) (isNews bool) {
	if c.probing && !u.probing {
		c.probing, c.stations = false, nil
	}
	i := slices.IndexFunc(c.stations, func(s station) bool { return s.mac == u.mac })
	switch {
	case i >= 0:
		c.stations[i].last = now
	case len(c.stations) == 0, !u.probing && len(c.stations) < mostNamed:
		c.stations = append(c.stations, station{u.mac, now})
		return true
	}
	return false
}

// forget drops the stations that have not been heard for long enough, and tells
// whether there were any.
func (c *conflict) forget(now time.Time) bool {
	n := len(c.stations)
	c.stations = slices.DeleteFunc(c.stations, func(s station) bool { return now.Sub(s.last) >= conflictLife })
	return len(c.stations) < n
}

// listenAnew has the ears listen for the VIPs that there are now.
func (k *Keeper) listenAnew() {
	on := map[int][]netip.Addr{}
	for _, a := range k.state.attachments {
		if a.conflict != conflictIgnore && k.state.links[a.inside.lower].index != 0 {
			on[a.inside.lower] = slices.AppendSeq(on[a.inside.lower], maps.Keys(a.vips))
		}
	}
	for master, e := range k.ears {
		if on[master] == nil {
			e.close()
			delete(k.ears, master)
			k.endDoubt(master, "")
		}
	}
	for master, addrs := range on {
		if err := k.listenFor(master, addrs); err != nil {
			k.Say(sdlog.LevelWarning, "systemd-netns-watch", err.Error())
		}
	}
}

func (k *Keeper) listenFor(master int, addrs []netip.Addr) error {
	if e := k.ears[master]; e != nil {
		return e.tune(addrs)
	}
	e, err := listenOn(master, addrs, false)
	if err != nil {
		return err
	}
	k.ears[master] = e
	e.listen(k.uses)
	if k.state.links[master].carrier() {
		// Since when is not known.
		k.beginDoubt(master, time.Now())
	}
	return nil
}

// heard processes that a station claims an address.
func (k *Keeper) heard(u use, now time.Time) {
	a := k.holder(u)
	if a == nil {
		return
	}
	c := k.conflicts[u.addr]
	if c == nil {
		c = &conflict{namespace: a.namespace, addr: u.addr, probing: u.probing}
		k.conflicts[u.addr] = c
	}
	if c.take(u, now) {
		level := sdlog.LevelErr
		if u.probing {
			level = sdlog.LevelWarning
		}
		k.Say(level, a.namespace, c.by(u.mac)+": find that station by its MAC, and remove the address from it")
		k.tellConflicts(a)
	}
	// Who asks first has the kernel's answer.
	if a.conflict == conflictDefend && !u.probing && now.Sub(c.defended) >= defendInterval {
		c.defended = now
		frames, err := a.announcements(u.addr)
		if err == nil {
			err = send(u.master, frames...)
		}
		if err != nil {
			k.Say(sdlog.LevelWarning, a.namespace, fmt.Sprintf("defend %s: %v", u.addr, err))
			return
		}
		k.Say(sdlog.LevelNotice, a.namespace, fmt.Sprintf("VIP %s is defended", u.addr))
	}
}

// holder is the attachment that has a VIP, if who was heard is not of this host: a
// switch may send back what that has sent.
func (k *Keeper) holder(u use) *attachment {
	for _, a := range k.state.holders[u.addr] {
		own := []string{a.inside.mac, k.state.links[u.master].mac, k.state.macs[a.hostLink]}
		if a.inside.lower == u.master && a.conflict != conflictIgnore && !slices.Contains(own, u.mac) {
			return a
		}
	}
	return nil
}

// announcements tell the LAN where VIPs are. They have the service's MAC, from which
// switches learn the port, and leave through the master.
func (a *attachment) announcements(addrs ...netip.Addr) ([][]byte, error) {
	mac, err := net.ParseMAC(a.inside.mac)
	if err != nil {
		return nil, err
	}
	return each(addrs, mac, announcement)
}

func each(addrs []netip.Addr, mac net.HardwareAddr, make func(netip.Addr, net.HardwareAddr) ([]byte, error)) ([][]byte, error) {
	var frames [][]byte
	for _, addr := range addrs {
		f, err := make(addr, mac)
		if err != nil {
			return nil, err
		}
		frames = append(frames, f)
	}
	return frames, nil
}

// tellConflicts publishes the conflicts of a namespace in a file, from which the
// status of its unit is set.
func (k *Keeper) tellConflicts(a *attachment) {
	var lines []string
	for _, addr := range slices.SortedFunc(maps.Keys(k.conflicts), netip.Addr.Compare) {
		if c := k.conflicts[addr]; c.namespace == a.namespace {
			lines = append(lines, c.String())
		}
	}
	if err := k.Conflicts(a.namespace, lines); err != nil {
		k.Say(sdlog.LevelWarning, a.namespace, err.Error())
	}
	what := strings.Join(lines, ", ")
	if what == "" {
		what = "no other station uses a VIP any more"
	}
	k.find(finding{namespace: a.namespace, kind: "conflicts", what: what, note: true})
	k.tellStatus()
}

// forgetConflicts drops what has expired, or whose namespace is gone.
func (k *Keeper) forgetConflicts(now time.Time) {
	for addr, c := range k.conflicts {
		a := k.state.attachments[c.namespace]
		isHeld := a != nil && a.vips[addr]
		if !c.forget(now) && isHeld {
			continue
		}
		if !isHeld || len(c.stations) == 0 {
			delete(k.conflicts, addr)
		}
		if a != nil {
			k.tellConflicts(a)
		}
	}
}

// decoys are addresses that nobody has, as far as chance goes, one of each network
// that is VIPs': who answers for one of these answers for all.
func decoys(networks []netip.Prefix, vips []netip.Addr) (all []netip.Addr) {
	seen := map[netip.Prefix]bool{}
	for _, p := range networks {
		p = p.Masked()
		if p.IsSingleIP() || seen[p] {
			continue
		}
		seen[p] = true
		b := p.Addr().AsSlice()
		for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
			if rand.IntN(2) == 1 {
				b[bit/8] |= 0x80 >> (bit % 8)
			}
		}
		addr, _ := netip.AddrFromSlice(b)
		if !slices.Contains(vips, addr) && addr != p.Addr() {
			all = append(all, addr)
		}
	}
	return all
}

// ask probes for addresses, and omits stations that answer for a decoy, too.
func ask(master link, addrs, decoys []netip.Addr) ([]use, error) {
	mac, err := net.ParseMAC(master.mac)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(addrs, decoys)
	frames, err := each(all, mac, question)
	if err != nil {
		return nil, err
	}
	e, err := listenOn(master.index, all, true)
	if err != nil {
		return nil, err
	}
	defer e.close()
	heard := make(chan use, 2*len(all))
	e.listen(heard)
	answers := map[use]bool{}
	for range questions {
		if err := send(master.index, frames...); err != nil {
			return nil, err
		}
		collect(heard, answers, questionInterval)
	}
	collect(heard, answers, questionInterval)
	proxies := map[string]bool{}
	for u := range answers {
		proxies[u.mac] = proxies[u.mac] || slices.Contains(decoys, u.addr)
	}
	var found []use
	for u := range answers {
		if !proxies[u.mac] {
			found = append(found, u)
		}
	}
	return found, nil
}

func collect(heard <-chan use, into map[use]bool, d time.Duration) {
	for end := time.After(d); ; {
		select {
		case u := <-heard:
			into[u] = true
		case <-end:
			return
		}
	}
}

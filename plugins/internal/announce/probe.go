package announce

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
)

// ProbeConfig says how addresses are probed for.
type ProbeConfig struct {
	// Count is the number of probes of each address; none are sent to an
	// address after a conflict over it. With 0 the link is only listened to.
	Count int
	// Interval is the time from one probe of an address to the next.
	Interval time.Duration
	// Wait is how long an answer to the last probe is waited for.
	Wait time.Duration
	// FailFast is for callers to whom one conflict is enough: probing then
	// ends grace after the first.
	FailFast bool
	// Known are stations whose probes are no news.
	Known []net.HardwareAddr
}

// grace is how long FailFast waits for more conflicts: one that lists all the
// addresses that another host has is worth more than one that names a single
// one, and all of them are asked at once.
const grace = 50 * time.Millisecond

// A Conflict is an address that another station has or claims.
type Conflict struct {
	Addr netip.Addr
	// MAC is the other station's.
	MAC net.HardwareAddr
	// Probing says that the other station has not got the address yet, but
	// probes for it at the same time.
	Probing bool
}

func (c Conflict) String() string {
	if c.Probing {
		return fmt.Sprintf("%s is being claimed by %s", c.Addr, c.MAC)
	}
	return fmt.Sprintf("%s is in use by %s", c.Addr, c.MAC)
}

// errComplete ends a probe that need not go on.
var errComplete = errors.New("nothing more to find out")

// Probe finds out which of the addresses, of either family, another station on
// the link has, or probes for, and returns them in the order given. All are
// probed for at the same time, which takes (Count-1)*Interval+Wait and some
// 40 ms for 1,000 addresses; less if there is a conflict over every one. Whether
// the link has a carrier is the caller's to know: without one nobody answers.
//
// Of two stations that probe for the same address at the same time the one with
// the lower MAC is not told of the other, so that one of them goes on.
//
// The kernel defends addresses that the link has meanwhile.
// Conflicts found until then are returned together with an error, which is
// ErrLinkDown, that of ctx, or of a socket.
func (c *Conn) Probe(ctx context.Context, addrs []netip.Addr, cfg ProbeConfig) ([]Conflict, error) {
	p := &prober{conn: c, cfg: cfg, conflicts: map[netip.Addr]Conflict{}}
	err := p.prepare(addrs)
	if err == nil && len(p.addrs) > 0 {
		ctx, p.finish = context.WithCancelCause(ctx)
		err = c.session(ctx, p.heard, p.run)
		p.finish(nil)
	}
	if err != nil && !errors.Is(err, errComplete) {
		return p.result(), fmt.Errorf("probe for addresses on %s: %w", c.ifi.Name, err)
	}
	return p.result(), nil
}

// Heard returns the conflicts over addresses that packets tell of which have
// arrived since the last probing ended. It does not wait.
func (c *Conn) Heard(addrs []netip.Addr) ([]Conflict, error) {
	all, err := c.normalize(addrs)
	if err != nil {
		return nil, err
	}
	p := &prober{conn: c, addrs: all, wanted: map[netip.Addr]bool{}, conflicts: map[netip.Addr]Conflict{}, finish: func(error) {}}
	for _, a := range all {
		p.wanted[a] = true
	}
	buf := make([]byte, 1500)
	for _, s := range c.sockets() {
		err := s.control(func(fd int) error {
			for {
				packet, err := receive(fd, buf)
				if err != nil {
					return nil // EAGAIN; what is worse shows up in what follows.
				}
				if cl, ok := c.claimIn(s, packet); ok {
					p.heard(cl)
				}
			}
		})
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", c.ifi.Name, err)
		}
	}
	return p.result(), nil
}

type prober struct {
	conn   *Conn
	cfg    ProbeConfig
	finish context.CancelCauseFunc

	// addrs and probes go together.
	addrs  []netip.Addr
	probes []outgoing
	wanted map[netip.Addr]bool

	mu        sync.Mutex
	conflicts map[netip.Addr]Conflict
}

func (p *prober) prepare(addrs []netip.Addr) (err error) {
	if p.addrs, err = p.conn.normalize(addrs); err != nil {
		return err
	}
	p.wanted = make(map[netip.Addr]bool, len(p.addrs))
	for _, a := range p.addrs {
		p.wanted[a] = true
	}
	if p.probes, err = packets(p.addrs, p.conn.probe); err != nil {
		return err
	}
	return p.conn.hearAll(p.addrs)
}

// hearAll makes the link receive all that may tell of a conflict. What an
// earlier probe has left unread is forgotten: it is not about now.
func (c *Conn) hearAll(addrs []netip.Addr) error {
	for _, s := range c.sockets() {
		if err := s.drain(); err != nil {
			return err
		}
	}
	if c.ndp == nil {
		return nil
	}
	// To this group holders answer, and switches forward it always.
	if err := c.ndp.JoinGroup(multicastMAC(allNodes)); err != nil {
		return fmt.Errorf("receive what is sent to %s: %w", allNodes, linkError(err))
	}
	// To these send others that claim the same addresses (RFC 4862, section
	// 5.4.2). Not PACKET_MR_ALLMULTI, which fills the kernel's log and lets
	// all of a LAN's multicast traffic through.
	for _, a := range addrs {
		if err := c.joinSolicited(a); err != nil {
			return fmt.Errorf("receive what is sent to the solicited-node group of %s: %w", a, linkError(err))
		}
	}
	return nil
}

func (c *Conn) joinSolicited(addr netip.Addr) error {
	if addr.Is4() {
		return nil
	}
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil || c.groups.join(group) == nil {
		return err
	}
	// Some kernels let a socket join some hundred groups only
	// (net.core.optmem_max). A packet socket has no such limit.
	return c.ndp.JoinGroup(multicastMAC(group))
}

func packets(addrs []netip.Addr, make func(netip.Addr) (outgoing, error)) ([]outgoing, error) {
	var out []outgoing
	for _, a := range addrs {
		p, err := make(a)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (p *prober) run(ctx context.Context) error {
	start := time.Now()
	for round := range p.cfg.Count {
		if err := sleep(ctx, time.Until(start.Add(time.Duration(round)*p.cfg.Interval))); err != nil {
			return err
		}
		if err := p.conn.send(ctx, p.unanswered()); err != nil {
			return err
		}
	}
	return sleep(ctx, p.cfg.Wait)
}

func (p *prober) unanswered() []outgoing {
	p.mu.Lock()
	defer p.mu.Unlock()
	var left []outgoing
	for _, out := range p.probes {
		if _, found := p.conflicts[out.addr]; !found {
			left = append(left, out)
		}
	}
	return left
}

func (p *prober) heard(cl claim) {
	isKnown := func(mac net.HardwareAddr) bool { return slices.Equal(mac, cl.mac) }
	if !p.wanted[cl.addr] || cl.probing && slices.ContainsFunc(p.cfg.Known, isKnown) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known, again := p.conflicts[cl.addr]
	// That of two who probe one goes on to have the address is the better
	// thing to tell.
	if again && (!known.Probing || cl.probing) {
		return
	}
	p.conflicts[cl.addr] = Conflict{Addr: cl.addr, MAC: cl.mac, Probing: cl.probing}
	switch {
	case len(p.conflicts) == len(p.addrs):
		p.finish(errComplete)
	case p.cfg.FailFast && len(p.conflicts) == 1:
		time.AfterFunc(grace, func() { p.finish(errComplete) })
	}
}

func (p *prober) result() []Conflict {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []Conflict
	for _, a := range p.addrs {
		if conflict, ok := p.conflicts[a]; ok {
			found = append(found, conflict)
		}
	}
	return found
}

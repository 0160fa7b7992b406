package announce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// ErrLinkDown is in the error of whatever could not be done, or not be
// finished, because the link is down or has been removed.
var ErrLinkDown = errors.New("the link is down or gone")

// receiveBuffer, in bytes, holds the answers of thousands of stations. The
// kernel accounts for up to 1,280 bytes a packet, however short; it takes the
// memory only while packets wait.
const receiveBuffer = 8 << 20

// A Conn speaks ARP and NDP on one link. It is used by one goroutine at a time.
type Conn struct {
	ifi   net.Interface
	nonce *ndp.Nonce
	// arp and ndp are nil for a family that the Conn was not opened for.
	arp, ndp *socket
	groups   *groups
}

// socket carries the packets of one protocol.
type socket struct {
	*packet.Conn
	parse func(b []byte, from net.HardwareAddr) (claim, bool)
}

// Open opens the sockets that the families of addrs need, in the network
// namespace of the calling thread; they stay in it. The link must have a MAC
// address, and be up by the time that something is sent. CAP_NET_RAW is needed.
func Open(ifi *net.Interface, addrs []netip.Addr) (*Conn, error) {
	if len(ifi.HardwareAddr) != macLen {
		return nil, fmt.Errorf("open %s for ARP and NDP: %q is no Ethernet address", ifi.Name, ifi.HardwareAddr)
	}
	c := &Conn{ifi: *ifi, nonce: ndp.NewNonce()}
	var err error
	if slices.ContainsFunc(addrs, isIPv4) {
		err = c.openARP()
	}
	if err == nil && slices.ContainsFunc(addrs, isIPv6) {
		err = c.openNDP()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func isIPv4(a netip.Addr) bool { return a.Unmap().Is4() }

func isIPv6(a netip.Addr) bool { return a.Unmap().Is6() }

func (c *Conn) openARP() (err error) {
	if c.arp, err = listenPacket(&c.ifi, unix.ETH_P_ARP, arpFilter); err != nil {
		return fmt.Errorf("open an ARP socket on %s: %w", c.ifi.Name, linkError(err))
	}
	c.arp.parse = func(b []byte, _ net.HardwareAddr) (claim, bool) { return parseARP(b) }
	return nil
}

func (c *Conn) openNDP() (err error) {
	if c.ndp, err = listenPacket(&c.ifi, unix.ETH_P_IPV6, ndpFilter); err != nil {
		return fmt.Errorf("open an NDP socket on %s: %w", c.ifi.Name, linkError(err))
	}
	c.ndp.parse = func(b []byte, from net.HardwareAddr) (claim, bool) { return parseNDP(b, from, c.nonce) }
	c.groups = openGroups(c.ifi.Index)
	return nil
}

// Close closes the sockets.
func (c *Conn) Close() error {
	errs := make([]error, 2)
	// Closing a packet socket waits for an RCU grace period, some
	// milliseconds: two of them wait at the same time.
	var wg sync.WaitGroup
	for i, s := range c.sockets() {
		wg.Go(func() { errs[i] = s.Close() })
	}
	c.groups.close()
	wg.Wait()
	return errors.Join(errs...)
}

// Files duplicates the sockets for a child process. The process that closes a
// packet socket last is the one that waits for the kernel: a child that is
// handed them lets its parent end at once. The Conn is not to be used any more.
func (c *Conn) Files() ([]*os.File, error) {
	var files []*os.File
	for _, s := range c.sockets() {
		err := s.control(func(fd int) error {
			dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err == nil {
				files = append(files, os.NewFile(uintptr(dup), "packet"))
			}
			return err
		})
		if err != nil {
			return files, fmt.Errorf("duplicate a packet socket on %s: %w", c.ifi.Name, err)
		}
	}
	return files, nil
}

func (c *Conn) sockets() []*socket {
	return slices.DeleteFunc([]*socket{c.arp, c.ndp}, func(s *socket) bool { return s == nil })
}

// normalize returns the addresses once each, in the order given, without
// zones. What cannot be a station's address, or is of a family that the Conn
// was not opened for, is an error.
func (c *Conn) normalize(addrs []netip.Addr) ([]netip.Addr, error) {
	seen := make(map[netip.Addr]bool, len(addrs))
	once := make([]netip.Addr, 0, len(addrs))
	for _, given := range addrs {
		a := given.Unmap().WithZone("")
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return nil, fmt.Errorf("%s is no unicast address", given)
		}
		if a.Is4() && c.arp == nil || a.Is6() && c.ndp == nil {
			return nil, fmt.Errorf("%s: the connection was opened for the other family only", given)
		}
		if !seen[a] {
			seen[a] = true
			once = append(once, a)
		}
	}
	return once, nil
}

// session runs do, hands heard every claim that arrives meanwhile from other
// stations, and returns when both have ended. The context of do ends when ctx
// does or when receiving fails, with that as its cause.
func (c *Conn) session(ctx context.Context, heard func(claim), do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	c.setDeadline(time.Time{})
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		c.setDeadline(time.Unix(1, 0))
	})
	for _, s := range c.sockets() {
		wg.Go(func() {
			if err := c.receive(ctx, s, heard); err != nil {
				cancel(fmt.Errorf("receive: %w", linkError(err)))
			}
		})
	}
	err := do(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(nil)
	wg.Wait()
	return err
}

// setDeadline lets whatever waits for a socket go on, or wait again. It fails
// only on a closed socket, which nothing waits for.
func (c *Conn) setDeadline(t time.Time) {
	for _, s := range c.sockets() {
		_ = s.SetDeadline(t)
	}
}

func (c *Conn) receive(ctx context.Context, s *socket, heard func(claim)) error {
	buf := make([]byte, 1500)
	for ctx.Err() == nil {
		p, err := s.next(buf)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err != nil {
			break
		}
		if cl, ok := c.claimIn(s, p); ok {
			heard(cl)
		}
	}
	return nil
}

// claimIn reads what a packet claims, if it is a conflict with what this
// station claims.
func (c *Conn) claimIn(s *socket, p received) (claim, bool) {
	cl, ok := s.parse(p.payload, p.from)
	switch {
	// A bridge or a switch may send one's own packets back.
	case !ok, c.isOwn(p.from), c.isOwn(cl.mac):
		return claim{}, false
	// Who probes in order to claim asks everybody (RFC 5227, section 1.1). A
	// switch that keeps track of the addresses at its ports asks a single
	// station whether it is still there (Cisco's IP device tracking, SISF).
	case cl.probing && p.toUs:
		return claim{}, false
	// Of two that probe at the same time one has to go on. The other one hears
	// our probes, and keeps away if it follows RFC 5227 or does as we do.
	case cl.probing && bytes.Compare(c.ifi.HardwareAddr, cl.mac) < 0:
		return claim{}, false
	}
	return cl, true
}

func (c *Conn) isOwn(mac net.HardwareAddr) bool { return slices.Equal(mac, c.ifi.HardwareAddr) }

// send paces a large number of packets, because the queues that the answers
// pass through on their way back hold 1,000 packets (net.core.netdev_max_backlog,
// a macvlan's bcqueuelen) and drop what is more.
func (c *Conn) send(ctx context.Context, packets []outgoing) error {
	const (
		burst = 64
		pause = time.Millisecond
	)
	for i, p := range packets {
		if i > 0 && i%burst == 0 {
			if err := sleep(ctx, pause); err != nil {
				return err
			}
		}
		s := c.arp
		if p.addr.Is6() {
			s = c.ndp
		}
		if err := sendOne(ctx, s, p); err != nil {
			return fmt.Errorf("send for %s: %w", p.addr, linkError(err))
		}
	}
	return nil
}

// sendOne waits a second at most for a transmit queue that is full, which the
// kernel tells of at once (ENOBUFS), unlike a full socket buffer.
func sendOne(ctx context.Context, conn net.PacketConn, p outgoing) error {
	const (
		pause = time.Millisecond
		tries = 1000
	)
	for try := 1; ; try++ {
		_, err := conn.WriteTo(p.payload, &packet.Addr{HardwareAddr: p.to})
		if !errors.Is(err, unix.ENOBUFS) || try == tries {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// linkError makes what the kernel says of a link that is down (ENETDOWN) or
// gone (ENXIO, ENODEV) an ErrLinkDown.
func linkError(err error) error {
	for _, errno := range []error{unix.ENETDOWN, unix.ENXIO, unix.ENODEV} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", ErrLinkDown, err)
		}
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

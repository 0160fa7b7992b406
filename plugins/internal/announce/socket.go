package announce

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// notOthers stops what is for another station, as the kernel says of a frame of a
// VLAN, too, that the link has none for; it has taken the tag off
// (__netif_receive_skb_core in net/core/dev.c).
var notOthers = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
	bpf.RetConstant{Val: 0},
}

// Both filters are of sockets whose packets begin with the network layer's
// header. What passes is parsed, and checked, once more.
var (
	// arpFilter passes ARP for IPv4 over Ethernet: a protocol type of IPv4,
	// addresses of 6 and 4 bytes.
	arpFilter = []bpf.Instruction{
		bpf.LoadAbsolute{Off: 2, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP<<16 | macLen<<8 | 4, SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	}
	// ndpFilter passes neighbour solicitations and advertisements that no
	// router has forwarded. They have no extension headers (RFC 6980 forbids
	// the one that could make sense).
	ndpFilter = []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6<<8 | ndp.HopLimit, SkipFalse: 4},
		bpf.LoadAbsolute{Off: ipv6HeaderLen, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeSolicitation, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeAdvertisement, SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	}
)

// listenPacket opens a packet socket to which the kernel adds, and from which
// it takes, the link-layer header. Being bound to one protocol, it does not see
// what its own host sends.
func listenPacket(ifi *net.Interface, protocol int, filter []bpf.Instruction) (*socket, error) {
	raw, err := bpf.Assemble(slices.Concat(notOthers, filter))
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(ifi, packet.Datagram, protocol, &packet.Config{Filter: raw})
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: conn}
	// Without CAP_NET_ADMIN the default buffer has to do.
	_ = s.control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	})
	return s, nil
}

func (s *socket) control(f func(fd int) error) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// received is a packet as a packet socket gives it (packet(7)).
type received struct {
	payload []byte
	from    net.HardwareAddr
	// toUs says that it was sent to this station's MAC alone.
	toUs bool
}

// next waits for a packet. The library's own way does not tell whom it was
// sent to.
func (s *socket) next(buf []byte) (p received, err error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return received{}, err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		p, err = receive(int(fd), buf)
		return !errors.Is(err, unix.EAGAIN)
	})
	if waitErr != nil {
		return received{}, waitErr
	}
	return p, err
}

// receive takes a packet that has arrived; EAGAIN says that there is none.
func receive(fd int, buf []byte) (received, error) {
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return received{}, err
		}
		p := received{payload: buf[:n]}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			p.from, p.toUs = bytes.Clone(ll.Addr[:ll.Halen]), ll.Pkttype == unix.PACKET_HOST
		}
		return p, nil
	}
}

// drain throws away what has arrived so far.
func (s *socket) drain() error {
	buf := make([]byte, 1)
	return s.control(func(fd int) error {
		for {
			if _, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); err != nil && err != unix.EINTR {
				return nil // EAGAIN; what is worse shows up in what follows.
			}
		}
	})
}

// groups is a socket that is there for the multicast groups that it joins. It
// is nil on a kernel without IPv6.
type groups struct {
	fd, ifindex int
}

func openGroups(ifindex int) *groups {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return &groups{fd: fd, ifindex: ifindex}
}

func (g *groups) close() {
	if g != nil {
		_ = unix.Close(g.fd)
	}
}

// join joins a group. Being a member makes a macvlan pass what is sent to the
// group, and tells switches that snoop MLD to forward it.
func (g *groups) join(group netip.Addr) error {
	if g == nil {
		return unix.EAFNOSUPPORT
	}
	mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(g.ifindex)}
	err := unix.SetsockoptIPv6Mreq(g.fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq)
	if err == unix.EADDRINUSE {
		return nil
	}
	return err
}

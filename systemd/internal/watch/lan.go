package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// use is a frame by which a station says that an address is its own, or, probing,
// that it would be.
type use struct {
	master  int
	addr    netip.Addr
	mac     string
	probing bool
}

// ear listens on a master for stations that use VIPs. There, and not in the
// services' namespaces, since one socket does for all: what tells of another
// holder is a broadcast or an all-nodes multicast, and so reaches the master, too. Unicast
// frames of a holder to another station reach neither link.
type ear struct {
	master int
	files  []*os.File
}

// longestFilter is how many addresses a filter can compare; the kernel takes 4,096
// instructions (BPF_MAXINSNS).
const longestFilter = 2000

const (
	ethHeader  = 14
	ipv6Header = 40
	// arpSender is where a frame of ARP has the sender's IPv4 address.
	arpSender = ethHeader + 14
	// ndpSource and ndpTarget are where neighbour solicitations and advertisements
	// have their sender's address and their target.
	ndpSource                   = ethHeader + 8
	ndpTarget                   = ethHeader + ipv6Header + 8
	solicitation, advertisement = 135, 136
)

// families are what an ear has a socket for each of.
var families = []struct {
	protocol uint16
	is4      bool
	filter   func([]netip.Addr) []bpf.Instruction
}{{unix.ETH_P_ARP, true, arpFilter}, {unix.ETH_P_IPV6, false, ndpFilter}}

// filters are those of an ear's sockets. Answers to one's own questions, which come
// to one station alone, pass if all is true.
func filters(addrs []netip.Addr, all bool) (programs [][]bpf.Instruction) {
	for _, family := range families {
		of := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.Is4() != family.is4 })
		first := toUs
		if !all {
			first = slices.Concat(toUs, toMany)
		}
		programs = append(programs, slices.Concat(first, family.filter(of)))
	}
	return programs
}

// listenOn opens the sockets.
func listenOn(master int, addrs []netip.Addr, all bool) (*ear, error) {
	e := &ear{master: master}
	for i, filter := range filters(addrs, all) {
		fd, err := packetSocket(master, families[i].protocol, filter)
		if err != nil {
			e.close()
			return nil, fmt.Errorf("listen for other holders of VIPs on link %d: %w", master, err)
		}
		e.files = append(e.files, os.NewFile(uintptr(fd), "packet"))
	}
	return e, nil
}

// tune has an ear listen for other addresses, without a gap.
func (e *ear) tune(addrs []netip.Addr) error {
	for i, filter := range filters(addrs, false) {
		conn, err := e.files[i].SyscallConn()
		if err == nil {
			var inner error
			err = errors.Join(conn.Control(func(fd uintptr) { inner = setFilter(int(fd), filter) }), inner)
		}
		if err != nil {
			return fmt.Errorf("listen for other holders of VIPs on link %d: %w", e.master, err)
		}
	}
	return nil
}

func (e *ear) close() {
	for _, f := range e.files {
		f.Close()
	}
}

// toMany stops what is sent to one station: a proxy that answers for every address
// sends its answers like that.
var toMany = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 0, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 1, SkipTrue: 1},
	bpf.RetConstant{Val: 0},
}

// toUs stops what is for another station, and arrives because the link is
// promiscuous, and what is of a VLAN for which the link has none above it: the kernel
// takes the tag off and says the same of it (__netif_receive_skb_core in net/core/dev.c).
var toUs = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
	bpf.RetConstant{Val: 0},
}

// listen gives what is heard, until the ear is closed, or the master is gone.
func (e *ear) listen(to chan<- use) {
	for _, f := range e.files {
		go func() {
			conn, err := f.SyscallConn()
			buf := make([]byte, 256)
			for err == nil {
				n := 0
				var inner error
				err = conn.Read(func(fd uintptr) bool {
					n, _, inner = unix.Recvfrom(int(fd), buf, 0)
					return inner != unix.EAGAIN && inner != unix.EINTR
				})
				// While the master is down there is nothing to hear.
				if inner != nil && inner != unix.ENETDOWN {
					return
				}
				if u, ok := decodeUse(e.master, buf[:max(0, n)]); ok {
					to <- u
				}
			}
		}()
	}
}

// packetSocket opens one that is bound to a link and a protocol, and so does not
// see what its own host sends.
func packetSocket(link int, protocol uint16, filter []bpf.Instruction) (int, error) {
	// Of no protocol until it has its filter.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	if err = setFilter(fd, filter); err == nil {
		// The network's byte order, in a number of the machine's.
		protocol = binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link})
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// setFilter gives a socket a filter (socket(7), SO_ATTACH_FILTER), in place of its
// own.
func setFilter(fd int, filter []bpf.Instruction) error {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return err
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		prog[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
}

// arpFilter passes what has one of the addresses as its sender's (RFC 5227,
// section 2.4), so that a LAN's other broadcasts wake nobody.
func arpFilter(addrs []netip.Addr) []bpf.Instruction {
	words := make([]uint32, len(addrs))
	for i, a := range addrs {
		b := a.As4()
		words[i] = binary.BigEndian.Uint32(b[:])
	}
	return append([]bpf.Instruction{bpf.LoadAbsolute{Off: arpSender, Size: 4}}, oneOf(words)...)
}

// ndpFilter passes neighbour advertisements, and solicitations from the unspecified
// address, whose target ends as one of the addresses does.
func ndpFilter(addrs []netip.Addr) []bpf.Instruction {
	words := make([]uint32, len(addrs))
	for i, a := range addrs {
		b := a.As16()
		words[i] = binary.BigEndian.Uint32(b[12:])
	}
	const next, kind = ethHeader + 6, ethHeader + ipv6Header
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: next, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: kind, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: advertisement, SkipTrue: 14},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: solicitation, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
	for off := uint32(ndpSource); off < ndpSource+16; off += 4 {
		program = append(program,
			bpf.LoadAbsolute{Off: off, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
			bpf.RetConstant{Val: 0},
		)
	}
	return append(append(program, bpf.LoadAbsolute{Off: ndpTarget + 12, Size: 4}), oneOf(words)...)
}

// oneOf passes a packet if what was loaded is one of the words; if they are too
// many for a filter, any.
func oneOf(words []uint32) []bpf.Instruction {
	pass := bpf.RetConstant{Val: 1 << 16}
	if len(words) > longestFilter {
		return []bpf.Instruction{pass}
	}
	var program []bpf.Instruction
	for _, w := range words {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: w, SkipTrue: 1}, pass)
	}
	return append(program, bpf.RetConstant{Val: 0})
}

// decodeUse reads a frame that a filter has passed.
func decodeUse(master int, frame []byte) (use, bool) {
	if len(frame) < ethHeader {
		return use{}, false
	}
	u := use{master: master, mac: net.HardwareAddr(frame[6:12]).String()}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_ARP:
		var p arp.Packet
		if p.UnmarshalBinary(frame[ethHeader:]) != nil || p.ProtocolType != unix.ETH_P_IP || p.SenderIP.IsUnspecified() {
			// A switch that tracks devices asks from 0.0.0.0, as does who probes for
			// an address, which the kernel defends.
			return use{}, false
		}
		u.addr, u.mac = p.SenderIP, p.SenderHardwareAddr.String()
		return u, true
	case unix.ETH_P_IPV6:
		if len(frame) < ndpTarget+16 || frame[ethHeader+7] != ndp.HopLimit {
			return use{}, false
		}
		u.addr = netip.AddrFrom16([16]byte(frame[ndpTarget : ndpTarget+16]))
		u.probing = frame[ethHeader+ipv6Header] == solicitation
		return u, true
	}
	return use{}, false
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// announcement is a frame by which a station with a MAC says that it has an
// address: gratuitous ARP (RFC 5227, section 2.3), or an unsolicited neighbour
// advertisement (RFC 4861, section 7.2.6).
func announcement(addr netip.Addr, mac net.HardwareAddr) ([]byte, error) {
	if addr.Is4() {
		p, err := arp.NewPacket(arp.OperationRequest, mac, addr, net.HardwareAddr{0, 0, 0, 0, 0, 0}, addr)
		if err != nil {
			return nil, err
		}
		payload, err := p.MarshalBinary()
		return frame(broadcast, mac, unix.ETH_P_ARP, payload, err)
	}
	all := netip.MustParseAddr("ff02::1")
	payload, err := ndp.MarshalMessageChecksum(&ndp.NeighborAdvertisement{
		Override: true, TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}},
	}, addr, all)
	return frame(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6, ipv6(addr, all, payload), err)
}

// question is a probe for an address, by a station that has none (RFC 5227, section
// 2.1.1; RFC 4862, section 5.4.2).
func question(addr netip.Addr, mac net.HardwareAddr) ([]byte, error) {
	if addr.Is4() {
		p, err := arp.NewPacket(arp.OperationRequest, mac, netip.IPv4Unspecified(), net.HardwareAddr{0, 0, 0, 0, 0, 0}, addr)
		if err != nil {
			return nil, err
		}
		payload, err := p.MarshalBinary()
		return frame(broadcast, mac, unix.ETH_P_ARP, payload, err)
	}
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return nil, err
	}
	payload, err := ndp.MarshalMessageChecksum(&ndp.NeighborSolicitation{TargetAddress: addr, Options: []ndp.Option{ndp.NewNonce()}}, netip.IPv6Unspecified(), group)
	g := group.As16()
	return frame(net.HardwareAddr{0x33, 0x33, g[12], g[13], g[14], g[15]}, mac, unix.ETH_P_IPV6, ipv6(netip.IPv6Unspecified(), group, payload), err)
}

func ipv6(src, dst netip.Addr, payload []byte) []byte {
	b := make([]byte, ipv6Header, ipv6Header+len(payload))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b[6], b[7] = unix.IPPROTO_ICMPV6, ndp.HopLimit
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

func frame(to, from net.HardwareAddr, kind uint16, payload []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	b := slices.Concat(to, from, []byte{byte(kind >> 8), byte(kind)}, payload)
	return b, nil
}

// send sends frames out of a link.
func send(link int, frames ...[]byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var errs []error
	for _, f := range frames {
		errs = append(errs, unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: link}))
	}
	return errors.Join(errs...)
}

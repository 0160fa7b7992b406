package testnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// captureBuffer holds what comes in while a busy machine does not run the
// reader.
const captureBuffer = 8 << 20

// Capture records the frames on a link, both ways, until its test ends.
type Capture struct {
	raw syscall.RawConn

	mu     sync.Mutex
	frames []Frame
}

// Frame is an Ethernet frame, at the time at which the kernel saw it.
type Frame struct {
	gopacket.Packet
	At time.Time
}

// Wire is a link as a socket for whole frames, until its test ends.
func (n *Namespace) Wire(link string) *packet.Conn {
	n.t.Helper()
	return n.WireOf(link, unix.ETH_P_ALL)
}

// WireOf is a Wire for the frames of one protocol: what is sent is of it, as
// far as the kernel knows.
func (n *Namespace) WireOf(link string, protocol int) (conn *packet.Conn) {
	n.t.Helper()
	n.Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err == nil {
			conn, err = packet.Listen(ifi, packet.Raw, protocol, nil)
		}
		return err
	})
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Capture begins to record: what is sent after it returns is seen.
func (n *Namespace) Capture(link string) *Capture {
	n.t.Helper()
	c := &Capture{}
	// Cleanups run last first: the socket is closed before its reader is waited for.
	var wg sync.WaitGroup
	n.t.Cleanup(wg.Wait)
	conn := n.Wire(link)
	raw, err := conn.SyscallConn()
	if err != nil {
		n.t.Fatal(err)
	}
	c.raw = raw
	var inner error
	err = raw.Control(func(fd uintptr) {
		inner = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		)
	})
	if err := errors.Join(err, inner, conn.SetPromiscuous(true)); err != nil {
		n.t.Fatal(err)
	}
	wg.Go(func() {
		_ = raw.Read(func(fd uintptr) bool {
			c.drain(int(fd))
			return false // until the socket is closed
		})
	})
	return c
}

// drain takes what the kernel has recorded so far.
func (c *Capture) drain(fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf, oob := make([]byte, 70000), make([]byte, 256)
	for {
		size, oobSize, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		frame := gopacket.NewPacket(bytes.Clone(buf[:size]), layers.LayerTypeEthernet, gopacket.Default)
		c.frames = append(c.frames, Frame{frame, timestamp(oob[:oobSize])})
	}
}

// timestamp finds the kernel's among a message's control data (SO_TIMESTAMPNS,
// socket(7)): two 64-bit numbers, seconds and nanoseconds.
func timestamp(oob []byte) time.Time {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) == 16 {
			order := binary.NativeEndian
			return time.Unix(int64(order.Uint64(m.Data)), int64(order.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// Frames gives all that has passed until now.
func (c *Capture) Frames() []Frame {
	_ = c.raw.Control(func(fd uintptr) { c.drain(int(fd)) })
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.frames)
}

// A Claim is what an ARP or NDP frame says or asks about one address.
type Claim struct {
	Kind ClaimKind
	// Addr is what it is about, MAC the station that speaks of it.
	Addr netip.Addr
	MAC  string
	// From is the sender's IP address, or the unspecified one.
	From netip.Addr
	// Override is the flag of an advertisement.
	Override bool
	At       time.Time
}

// ClaimKind is what kind of thing a frame says.
type ClaimKind string

// The kinds of ARP and NDP frames. A probe asks for an address without telling
// of one's own; a gratuitous one tells of the sender's own address unasked.
const (
	Probe             ClaimKind = "probe"
	Ask               ClaimKind = "ask"
	Answer            ClaimKind = "answer"
	GratuitousRequest ClaimKind = "gratuitous request"
	GratuitousReply   ClaimKind = "gratuitous reply"
	Unsolicited       ClaimKind = "unsolicited advertisement"
)

// Claims gives the ARP and NDP frames so far, in order.
func (c *Capture) Claims() (claims []Claim) {
	for _, f := range c.Frames() {
		if claim, ok := f.claim(); ok {
			claim.At = f.At
			claims = append(claims, claim)
		}
	}
	return claims
}

func (f Frame) claim() (Claim, bool) {
	if a, ok := f.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		return arpClaim(a), true
	}
	eth, _ := f.LinkLayer().(*layers.Ethernet)
	ip, ok := f.NetworkLayer().(*layers.IPv6)
	if !ok {
		return Claim{}, false
	}
	from, _ := netip.AddrFromSlice(ip.SrcIP)
	for _, layer := range f.Layers() {
		switch m := layer.(type) {
		case *layers.ICMPv6NeighborSolicitation:
			addr, _ := netip.AddrFromSlice(m.TargetAddress)
			kind := Ask
			if from.IsUnspecified() {
				kind = Probe
			}
			return Claim{Kind: kind, Addr: addr, MAC: eth.SrcMAC.String(), From: from}, true
		case *layers.ICMPv6NeighborAdvertisement:
			addr, _ := netip.AddrFromSlice(m.TargetAddress)
			kind := Unsolicited
			if m.Solicited() {
				kind = Answer
			}
			return Claim{Kind: kind, Addr: addr, MAC: targetMAC(m, eth), From: from, Override: m.Override()}, true
		}
	}
	return Claim{}, false
}

func arpClaim(a *layers.ARP) Claim {
	from, _ := netip.AddrFromSlice(a.SourceProtAddress)
	target, _ := netip.AddrFromSlice(a.DstProtAddress)
	c := Claim{Addr: target, From: from, MAC: net.HardwareAddr(a.SourceHwAddress).String()}
	switch request := a.Operation == layers.ARPRequest; {
	case request && from.IsUnspecified():
		c.Kind = Probe
	case request && from == target:
		c.Kind = GratuitousRequest
	case request:
		c.Kind = Ask
	case from == target:
		c.Kind = GratuitousReply
	default:
		c.Kind, c.Addr = Answer, from
	}
	return c
}

func targetMAC(m *layers.ICMPv6NeighborAdvertisement, eth *layers.Ethernet) string {
	for _, o := range m.Options {
		if o.Type == layers.ICMPv6OptTargetAddress {
			return net.HardwareAddr(o.Data).String()
		}
	}
	return eth.SrcMAC.String()
}

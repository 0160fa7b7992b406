package check

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"macvlan-vip/systemd/internal/enter"
)

// listenTime is how long the service's connections to itself are watched: a proxy checks
// its backends every two seconds or so.
const listenTime = 3 * time.Second

// checkLoopback: the service does not try to reach, on its localhost, what listens on the
// host's.
func checkLoopback(ctx context.Context, s *subject) *Finding {
	var refused []port
	err := enter.Do(s.namespace.Path, func() (err error) {
		refused, err = listen(ctx)
		return err
	})
	if err != nil {
		return fail("", "listen on lo in the namespace: %v", err)
	}
	if len(refused) == 0 {
		return ok("no connection to a loopback address was refused within %s", listenTime)
	}
	return fail(s.forward(refused), "the service tries to connect to %s, where nothing listens: the namespace's loopback is not the host's", join(refused))
}

// forward is the remedy for ports that refuse: what leads TCP on localhost to the host's
// leads nothing else there.
func (s *subject) forward(refused []port) string {
	var numbers []uint16
	var others []port
	for _, p := range refused {
		if p.network != "tcp" || !isLocalhost(p.Addr()) {
			others = append(others, p)
		} else if !slices.Contains(numbers, p.Port()) {
			numbers = append(numbers, p.Port())
		}
	}
	var steps []string
	if len(numbers) > 0 {
		command := "systemd-netns enable " + s.stem() + " --in " + s.namespace.Name
		for _, n := range numbers {
			command += fmt.Sprintf(" --forward %d", n)
		}
		steps = append(steps, command)
	}
	if len(others) > 0 {
		steps = append(steps, "have the service ask "+s.hostAddress()+" instead of "+join(others))
	}
	return strings.Join(steps, "; ")
}

// isLocalhost tells whether "localhost" is the name of an address.
func isLocalhost(addr netip.Addr) bool {
	return addr == netip.IPv6Loopback() || addr == netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func (s *subject) hostAddress() string {
	for _, w := range s.facts.Ways {
		if w.Source != "" {
			return w.Source
		}
	}
	return "another address of the host"
}

// port is one on a loopback address that refused something.
type port struct {
	network string
	netip.AddrPort
}

func (p port) String() string { return p.network + " " + p.AddrPort.String() }

// listen returns the ports that refuse connections on this namespace's lo. Not those that
// clients of "localhost" get by its other address, which they try next.
func listen(ctx context.Context) (refused []port, err error) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(lo, packet.Datagram, unix.ETH_P_ALL, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	if err := conn.SetReadDeadline(time.Now().Add(listenTime)); err != nil {
		return nil, err
	}
	frame, served := make([]byte, 1<<16), map[uint16]bool{}
	for {
		n, _, err := conn.ReadFrom(frame)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return slices.DeleteFunc(refused, func(p port) bool {
				return p.network == "tcp" && isLocalhost(p.Addr()) && served[p.Port()]
			}), nil
		}
		if err != nil {
			return nil, err
		}
		switch p, is := answer(frame[:n]); {
		case is == refusal && !slices.Contains(refused, p):
			refused = append(refused, p)
		case is == acceptance && isLocalhost(p.Addr()):
			served[p.Port()] = true
		}
	}
}

// What a packet of lo says to a client.
const (
	nothing = iota
	refusal
	acceptance
)

// answer reads a packet (RFC 791, 8200) for what a port of a loopback address says: a
// reset that answers the first packet of a connection (RFC 9293, section 3.10.7.1)
// or an ICMP error for a port (RFC 792, RFC 4443) is a refusal.
func answer(packet []byte) (from port, is int) {
	protocol, source, _, payload := parseIP(packet)
	if !source.IsLoopback() {
		return port{}, nothing
	}
	switch {
	case protocol == unix.IPPROTO_TCP && len(payload) >= 20:
		const syn, rst, ack = 0x02, 0x04, 0x10
		from = port{"tcp", netip.AddrPortFrom(source, binary.BigEndian.Uint16(payload))}
		switch sequence := binary.BigEndian.Uint32(payload[4:]); {
		case payload[13]&(rst|ack) == rst|ack && sequence == 0:
			return from, refusal
		case payload[13]&(syn|ack) == syn|ack:
			return from, acceptance
		}
	case protocol == unix.IPPROTO_ICMP && len(payload) > 8 && payload[0] == 3 && payload[1] == 3,
		protocol == unix.IPPROTO_ICMPV6 && len(payload) > 8 && payload[0] == 1 && payload[1] == 4:
		inner, _, to, datagram := parseIP(payload[8:])
		if inner == unix.IPPROTO_UDP && len(datagram) >= 4 {
			return port{"udp", netip.AddrPortFrom(to, binary.BigEndian.Uint16(datagram[2:]))}, refusal
		}
	}
	return port{}, nothing
}

// parseIP takes the header off a packet, IPv6's without extensions.
func parseIP(packet []byte) (protocol int, from, to netip.Addr, payload []byte) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		from, _ = netip.AddrFromSlice(packet[12:16])
		to, _ = netip.AddrFromSlice(packet[16:20])
		if header := int(packet[0]&0xf) * 4; header <= len(packet) {
			return int(packet[9]), from, to, packet[header:]
		}
	case len(packet) >= 40 && packet[0]>>4 == 6:
		from, _ = netip.AddrFromSlice(packet[8:24])
		to, _ = netip.AddrFromSlice(packet[24:40])
		return int(packet[6]), from, to, packet[40:]
	}
	return 0, netip.Addr{}, netip.Addr{}, nil
}

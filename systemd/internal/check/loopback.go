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
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"macvlan-vip/systemd/internal/enter"
)

// listenTime is how long the service's connections to itself are watched: a proxy checks
// its backends every two seconds or so.
const listenTime = 3 * time.Second

// checkLoopback: the service does not try to reach, on its 127.0.0.1, what listens on the
// host's.
func checkLoopback(ctx context.Context, s *subject) *Finding {
	var refused []port
	err := enter.Do(s.namespace.Path, func() (err error) {
		refused, err = listen(ctx)
		return err
	})
	if err != nil {
		f := s.fail("", "listen on lo in the namespace: %v", err)
		return &f
	}
	if len(refused) == 0 {
		f := s.ok("no connection to a loopback address was refused within %s", listenTime)
		return &f
	}
	remedy := "systemd-netns enable " + s.stem() + " --in " + s.namespace.Name
	for _, p := range refused {
		if p.network == "tcp" {
			remedy += fmt.Sprintf(" --forward %d", p.Port())
		} else {
			remedy = "have the service ask " + s.hostAddress() + " instead"
		}
	}
	f := s.fail(remedy, "the service tries to connect to %s, where nothing listens: the namespace's loopback is not the host's", join(refused))
	return &f
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

// listen returns the ports that refuse connections on this namespace's lo.
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
	frame := make([]byte, 1<<16)
	for {
		n, _, err := conn.ReadFrom(frame)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return refused, nil
		}
		if err != nil {
			return nil, err
		}
		if p, ok := refusal(frame[:n]); ok && !slices.Contains(refused, p) {
			refused = append(refused, p)
		}
	}
}

// refusal reads a packet (RFC 791, 8200) for a refusal from a loopback address: a
// reset that answers the first packet of a connection (RFC 9293, section 3.10.7.1)
// or an ICMP error for a port (RFC 792, RFC 4443).
func refusal(packet []byte) (port, bool) {
	protocol, from, _, payload := parseIP(packet)
	if !from.IsLoopback() {
		return port{}, false
	}
	switch {
	case protocol == unix.IPPROTO_TCP && len(payload) >= 20:
		const rst, ack = 0x04, 0x10
		sequence := binary.BigEndian.Uint32(payload[4:])
		return port{"tcp", netip.AddrPortFrom(from, binary.BigEndian.Uint16(payload))}, sequence == 0 && payload[13]&(rst|ack) == rst|ack
	case protocol == unix.IPPROTO_ICMP && len(payload) > 8 && payload[0] == 3 && payload[1] == 3,
		protocol == unix.IPPROTO_ICMPV6 && len(payload) > 8 && payload[0] == 1 && payload[1] == 4:
		inner, _, to, datagram := parseIP(payload[8:])
		if inner == unix.IPPROTO_UDP && len(datagram) >= 4 {
			return port{"udp", netip.AddrPortFrom(to, binary.BigEndian.Uint16(datagram[2:]))}, true
		}
	}
	return port{}, false
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

package testnet

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Silent asks addresses for an echo, once and all at a time, from inside the
// namespace, and gives those that have not answered within the time. It costs no
// process, unlike Ping.
func (n *Namespace) Silent(within time.Duration, addrs ...netip.Addr) (silent []netip.Addr) {
	n.t.Helper()
	deadline := time.Now().Add(within)
	for _, family := range []struct {
		network, any string
		is           func(netip.Addr) bool
		request      icmp.Type
		reply        byte
	}{
		{"ip4:icmp", "0.0.0.0", netip.Addr.Is4, ipv4.ICMPTypeEcho, byte(ipv4.ICMPTypeEchoReply)},
		{"ip6:ipv6-icmp", "::", netip.Addr.Is6, ipv6.ICMPTypeEchoRequest, byte(ipv6.ICMPTypeEchoReply)},
	} {
		waiting := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !family.is(a) })
		if len(waiting) == 0 {
			continue
		}
		var conn *icmp.PacketConn
		n.Do(func() (err error) {
			conn, err = icmp.ListenPacket(family.network, family.any)
			return err
		})
		id := rand.N(1 << 16)
		echo, err := (&icmp.Message{Type: family.request, Body: &icmp.Echo{ID: id, Seq: 1}}).Marshal(nil)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, a := range waiting {
			// An address that there is no way to is silent.
			_, _ = conn.WriteTo(echo, &net.IPAddr{IP: a.AsSlice()})
		}
		silent = append(silent, unanswered(conn, waiting, family.reply, uint16(id), deadline)...)
		_ = conn.Close()
	}
	return silent
}

// unanswered waits for the answers to echo requests of an ID.
func unanswered(conn *icmp.PacketConn, waiting []netip.Addr, reply byte, id uint16, deadline time.Time) []netip.Addr {
	_ = conn.SetReadDeadline(deadline)
	for buf := make([]byte, 1500); len(waiting) > 0; {
		size, from, err := conn.ReadFrom(buf)
		if err != nil {
			break
		}
		if size < 8 || buf[0] != reply || binary.BigEndian.Uint16(buf[4:]) != id {
			continue
		}
		if a, ok := netip.AddrFromSlice(from.(*net.IPAddr).IP); ok {
			waiting = slices.DeleteFunc(waiting, func(w netip.Addr) bool { return w == a.Unmap() })
		}
	}
	return waiting
}

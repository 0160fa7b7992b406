package testnet

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
)

// ServeDHCP serves DHCP on a link of the namespace that has the server's address,
// until stop is called. Every client gets the lease, an address with its network's
// length, for ten minutes, and what more says.
func (n *Namespace) ServeDHCP(link string, server netip.Addr, lease netip.Prefix, more ...dhcpv4.Modifier) (stop func()) {
	n.t.Helper()
	from := net.IP(server.AsSlice())
	answer := func(conn net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
		kind := map[dhcpv4.MessageType]dhcpv4.MessageType{
			dhcpv4.MessageTypeDiscover: dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeRequest: dhcpv4.MessageTypeAck,
		}[m.MessageType()]
		if kind == 0 {
			return
		}
		reply, err := dhcpv4.NewReplyFromRequest(m, append([]dhcpv4.Modifier{
			dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(from), dhcpv4.WithYourIP(lease.Addr().AsSlice()),
			dhcpv4.WithNetmask(net.CIDRMask(lease.Bits(), 32)), dhcpv4.WithLeaseTime(600), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(from)),
		}, more...)...)
		if err == nil {
			_, _ = conn.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort})
		}
	}
	var s *server4.Server
	n.Do(func() (err error) {
		s, err = server4.NewServer(link, &net.UDPAddr{Port: dhcpv4.ServerPort}, answer)
		return err
	})
	go func() { _ = s.Serve() }()
	return func() { _ = s.Close() }
}

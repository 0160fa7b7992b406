package check

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// ask asks on a link who has an address, and gives the MAC of whoever answers,
// nil if nobody does. A probe is an ARP request without a sender's address, which
// no station takes note of (RFC 5227, section 1.1).
func ask(ifi *net.Interface, addr netip.Addr, probe bool) (net.HardwareAddr, error) {
	if addr.Is4() {
		return askARP(ifi, addr, probe)
	}
	return askNDP(ifi, addr)
}

func askARP(ifi *net.Interface, addr netip.Addr, probe bool) (net.HardwareAddr, error) {
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	if probe {
		err = sendProbe(conn, ifi, addr)
	} else {
		err = sendRequest(conn, ifi, addr)
	}
	if err != nil {
		return nil, err
	}
	buf := make([]byte, ifi.MTU+14)
	for {
		n, _, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		var frame ethernet.Frame
		var reply arp.Packet
		if frame.UnmarshalBinary(buf[:n]) != nil || reply.UnmarshalBinary(frame.Payload) != nil {
			continue
		}
		if reply.SenderIP == addr && reply.SenderHardwareAddr.String() != ifi.HardwareAddr.String() {
			return reply.SenderHardwareAddr, nil
		}
	}
}

// sendProbe needs no address on the link, as arp.Client does.
func sendProbe(conn *packet.Conn, ifi *net.Interface, addr netip.Addr) error {
	probe, err := arp.NewPacket(arp.OperationRequest, ifi.HardwareAddr, netip.IPv4Unspecified(), make(net.HardwareAddr, 6), addr)
	if err != nil {
		return err
	}
	payload, err := probe.MarshalBinary()
	if err != nil {
		return err
	}
	frame, err := (&ethernet.Frame{
		Destination: ethernet.Broadcast, Source: ifi.HardwareAddr, EtherType: ethernet.EtherTypeARP, Payload: payload,
	}).MarshalBinary()
	if err != nil {
		return err
	}
	_, err = conn.WriteTo(frame, &packet.Addr{HardwareAddr: ethernet.Broadcast})
	return err
}

func sendRequest(conn *packet.Conn, ifi *net.Interface, addr netip.Addr) error {
	client, err := arp.New(ifi, conn)
	if err != nil {
		return err
	}
	return client.Request(addr)
}

func askNDP(ifi *net.Interface, addr netip.Addr) (net.HardwareAddr, error) {
	conn, err := listenNDP(ifi)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return nil, err
	}
	solicitation := &ndp.NeighborSolicitation{
		TargetAddress: addr.WithZone(""),
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: ifi.HardwareAddr}},
	}
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	if err := conn.WriteTo(solicitation, nil, group.WithZone(ifi.Name)); err != nil {
		return nil, err
	}
	for {
		message, _, _, err := conn.ReadFrom()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if mac := advertised(message, addr); mac != nil {
			return mac, nil
		}
	}
}

// listenNDP waits for a link that came up a moment ago: its link-local address
// cannot be used before the kernel has probed for it (RFC 4862, section 5.4).
func listenNDP(ifi *net.Interface) (*ndp.Conn, error) {
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		conn, _, err := ndp.Listen(ifi, ndp.LinkLocal)
		if !errors.Is(err, unix.EADDRNOTAVAIL) || time.Now().After(deadline) {
			return conn, err
		}
	}
}

// advertised is the MAC that a neighbour advertisement gives for an address.
func advertised(message ndp.Message, addr netip.Addr) net.HardwareAddr {
	na, ok := message.(*ndp.NeighborAdvertisement)
	if !ok || na.TargetAddress != addr.WithZone("") {
		return nil
	}
	for _, o := range na.Options {
		if lla, ok := o.(*ndp.LinkLayerAddress); ok {
			return lla.Addr
		}
	}
	// Whose it is, an advertisement without the option does not say.
	return make(net.HardwareAddr, 6)
}

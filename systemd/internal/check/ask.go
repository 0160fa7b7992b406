package check

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/arp"
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
	client, err := arp.New(ifi, conn)
	if err != nil {
		return nil, err
	}
	if err := client.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	if probe {
		request, err := arp.NewPacket(arp.OperationRequest, ifi.HardwareAddr, netip.IPv4Unspecified(), make(net.HardwareAddr, 6), addr)
		if err != nil {
			return nil, err
		}
		err = client.WriteTo(request, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		if err != nil {
			return nil, err
		}
	} else if err := client.Request(addr); err != nil {
		return nil, err
	}
	for {
		reply, _, err := client.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if reply.SenderIP == addr && reply.SenderHardwareAddr.String() != ifi.HardwareAddr.String() {
			return reply.SenderHardwareAddr, nil
		}
	}
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

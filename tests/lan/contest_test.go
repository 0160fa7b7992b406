package lan

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"

	"macvlan-vip/tests/testnet"
)

// usual are the default timings of a probe, and one announcement.
const usual = `"announce": {"count": 1}`

var contested = []string{"10.0.0.10/16", "2001:db8::10/64"}

// TestHostsAtOnce: of hosts that start a service on the same VIPs at the same moment
// one has them, and the others are told who.
func TestHostsAtOnce(t *testing.T) {
	for _, hosts := range []int{2, 4} {
		t.Run(fmt.Sprint(hosts), func(t *testing.T) { hostsAtOnce(t, hosts) })
	}
}

func hostsAtOnce(t *testing.T, hosts int) {
	t.Parallel()
	l := newLAN(t)
	peer := l.station("10.0.0.5/16", "2001:db8::5/64")
	var services []*service
	for i := range hosts {
		host := l.station(fmt.Sprintf("10.0.1.%d/16", 1+i), fmt.Sprintf("2001:db8::1:%d/64", 1+i))
		services = append(services, host.service(fmt.Sprintf("c%d", i), usual, contested...))
	}
	for round := range 3 {
		errs := make([]error, hosts)
		var wg sync.WaitGroup
		for i, sv := range services {
			wg.Go(func() { errs[i] = sv.add() })
		}
		wg.Wait()
		winner := slices.Index(errs, nil)
		if winner < 0 {
			t.Fatalf("round %d: want one to win: %v", round, errs)
		}
		for i, err := range errs {
			if i != winner && (code(err) != 100 || !strings.Contains(err.Error(), "in use by "+services[winner].mac)) {
				t.Errorf("round %d: another one, code %d: %v", round, code(err), err)
			}
		}
		peer.IP("neigh flush dev eth0")
		peer.pings(t, services[winner].vips...)
		if err := services[winner].chain.Del(services[winner].Attachment); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLeavingHolder: a VIP's predecessor is still there when ADD begins, on the
// LAN or on the same host, and gone a moment later.
func TestLeavingHolder(t *testing.T) {
	t.Parallel()
	t.Run("on the LAN", func(t *testing.T) {
		t.Parallel()
		l := newLAN(t)
		host, holder, peer := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station(contested...), l.station("10.0.0.5/16", "2001:db8::5/64")
		sv := host.service("c1", usual, contested...)
		time.AfterFunc(400*time.Millisecond, func() { holder.IP("address flush dev eth0 scope global") })
		sv.mustAdd(t)
		peer.pings(t, sv.vips...)
	})
	t.Run("on the host", func(t *testing.T) {
		t.Parallel()
		l := newLAN(t)
		host := l.station("10.0.0.1/16", "2001:db8::1/64")
		before, after := host.service("c1", usual, contested...), host.service("c2", usual, contested...)
		before.mustAdd(t)
		deleted := make(chan error, 1)
		time.AfterFunc(100*time.Millisecond, func() { deleted <- before.chain.Del(before.Attachment) })
		after.mustAdd(t)
		if err := <-deleted; err != nil {
			t.Error(err)
		}
		host.pings(t, after.vips...)
	})
}

// answerAll makes a station answer every question for an address.
func (s *station) answerAll(t *testing.T) {
	t.Helper()
	own, err := net.ParseMAC(macOf(s.Namespace, "eth0"))
	if err != nil {
		t.Fatal(err)
	}
	wire := s.Wire("eth0")
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			_ = wire.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			n, _, err := wire.ReadFrom(buf)
			select {
			case <-done:
				return
			default:
			}
			if err != nil {
				continue
			}
			if frame := answerTo(buf[:n], own); frame != nil {
				_, _ = wire.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
			}
		}
	})
	t.Cleanup(func() { close(done); wg.Wait() })
}

// answerTo is the answer to a question for an address, by which it is at own.
func answerTo(frame []byte, own net.HardwareAddr) []byte {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	out := gopacket.NewSerializeBuffer()
	if a, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && a.Operation == layers.ARPRequest && !bytes.Equal(a.SourceHwAddress, own) {
		addr, _ := netip.AddrFromSlice(a.DstProtAddress)
		reply := arpSays(layers.ARPReply, addr, own, a.SourceHwAddress)
		reply[1].(*layers.ARP).DstProtAddress = a.SourceProtAddress
		if gopacket.SerializeLayers(out, gopacket.SerializeOptions{}, reply...) == nil {
			return out.Bytes()
		}
	}
	if ns, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok && !bytes.Equal(frame[6:12], own) {
		target, _ := netip.AddrFromSlice(ns.TargetAddress)
		body, err := ndp.MarshalMessageChecksum(&ndp.NeighborAdvertisement{
			Override: true, TargetAddress: target, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: own}},
		}, target, netip.MustParseAddr("ff02::1"))
		if err == nil && gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true},
			&layers.Ethernet{SrcMAC: own, DstMAC: allNodesMAC, EthernetType: layers.EthernetTypeIPv6},
			&layers.IPv6{Version: 6, HopLimit: ndp.HopLimit, NextHeader: layers.IPProtocolICMPv6, SrcIP: ns.TargetAddress, DstIP: net.ParseIP("ff02::1")},
			gopacket.Payload(body)) == nil {
			return out.Bytes()
		}
	}
	return nil
}

// TestProxyIsNamed: what answers for every address is told from a holder.
func TestProxyIsNamed(t *testing.T) {
	t.Parallel()
	for _, vip := range contested {
		t.Run(vip, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			host, proxy := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station()
			proxy.answerAll(t)
			sv := host.service("c1", usual, vip)
			err := sv.add()
			for _, part := range []string{"in use by " + macOf(proxy.Namespace, "eth0"), "it answers for every address", "addressConflict"} {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("code %d, does not say %q: %v", code(err), part, err)
				}
			}
			if code(err) != 100 {
				t.Errorf("code %d", code(err))
			}
		})
	}
}

// TestTrackingSwitch: a switch that asks again and again, without a sender
// address, who is there does not keep a service from its VIP, whether it asks the
// service's MAC or everybody, and whether its MAC is lower or higher.
func TestTrackingSwitch(t *testing.T) {
	t.Parallel()
	for _, mac := range []string{"02:00:00:00:00:01", "fe:ff:ff:ff:ff:fe"} {
		for _, to := range []string{"02:00:00:00:00:10", "ff:ff:ff:ff:ff:ff"} {
			t.Run(mac+" "+to, func(t *testing.T) {
				t.Parallel()
				l := newLAN(t)
				host, tracker, peer := l.station("10.0.0.1/16"), l.station(), l.station("10.0.0.5/16")
				tracker.track(t, mac, to, netip.MustParseAddr("10.0.0.10"))
				sv := host.service("c1", usual+`, "mac": "02:00:00:00:00:10"`, "10.0.0.10/16")
				sv.mustAdd(t)
				peer.pings(t, sv.vips...)
			})
		}
	}
}

// track sends ARP probes for an address, ten a second.
func (s *station) track(t *testing.T, from, to string, addr netip.Addr) {
	t.Helper()
	s.IP("link set eth0 address " + from)
	probe := arpSays(layers.ARPRequest, addr, mac(t, from), mac(t, to))
	probe[1].(*layers.ARP).SourceProtAddress = make([]byte, 4)
	frame := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(frame, gopacket.SerializeOptions{}, probe...); err != nil {
		t.Fatal(err)
	}
	wire := s.Wire("eth0")
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			_, _ = wire.WriteTo(frame.Bytes(), &packet.Addr{HardwareAddr: mac(t, to)})
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { close(done); wg.Wait() })
}

// TestNoCarrier: without a carrier nobody can be asked. The service starts, and
// a repeated ADD asks and announces, once there is one.
func TestNoCarrier(t *testing.T) {
	t.Parallel()
	for _, held := range []bool{false, true} {
		t.Run(fmt.Sprintf("held %v", held), func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			host, peer := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.5/16", "2001:db8::5/64")
			var holder *station
			if held {
				holder = l.station(contested...)
			}
			sv := host.service("c1", usual, contested...)
			l.carrier(t, host, false)
			seen := host.capture()
			sv.mustAdd(t)
			err := sv.check()
			if code(err) != types.ErrTryAgainLater || !strings.Contains(err.Error(), "has no carrier, so nobody reaches the VIPs, and nobody could be asked whether "+sv.vips[0].String()) {
				t.Errorf("CHECK without a carrier, code %d: %v", code(err), err)
			}
			l.carrier(t, host, true)
			err = sv.check()
			for _, vip := range sv.vips {
				if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("VIP %s: nobody was asked", vip)) {
					t.Errorf("CHECK does not speak of %s: %v", vip, err)
				}
				if got := kinds(seen, vip, sv.mac); got[testnet.Probe]+got[testnet.GratuitousRequest]+got[testnet.GratuitousReply] != 0 {
					t.Errorf("%s: %v before the repair", vip, got)
				}
			}
			err = sv.add()
			if held {
				if code(err) != 100 || !strings.Contains(err.Error(), macOf(holder.Namespace, "eth0")) {
					t.Errorf("repair, code %d: %v", code(err), err)
				}
				if err := sv.check(); err == nil {
					t.Error("CHECK is content with a VIP that another station has")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := sv.check(); err != nil {
				t.Error(err)
			}
			for _, vip := range sv.vips {
				eventually(t, func() error {
					if got := kinds(seen, vip, sv.mac); got[testnet.Probe] == 0 || got[testnet.GratuitousRequest]+got[testnet.Unsolicited] == 0 {
						return errors.New("not asked for, or not announced")
					}
					return nil
				})
			}
			peer.pings(t, sv.vips...)
			// Lost later on.
			l.carrier(t, host, false)
			if err := sv.check(); code(err) != types.ErrTryAgainLater || !strings.Contains(err.Error(), "has no carrier, so nobody reaches the VIPs") || strings.Contains(err.Error(), "could be asked") {
				t.Errorf("CHECK after the loss of the carrier, code %d: %v", code(err), err)
			}
			l.carrier(t, host, true)
			if err := sv.check(); err != nil {
				t.Errorf("CHECK with a carrier again: %v", err)
			}
		})
	}
}

// carrier pulls a station's cable out of the switch, or puts it in again.
func (l *lan) carrier(t *testing.T, s *station, on bool) {
	t.Helper()
	state := map[bool]string{true: "up", false: "down"}[on]
	l.fabric.IP("link set " + s.port + " " + state)
	eventually(t, func() error {
		if out := s.IP("-o link show dev eth0"); strings.Contains(out, "LOWER_UP") != on {
			return errors.New(out)
		}
		return nil
	})
}

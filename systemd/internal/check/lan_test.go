package check

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

// TestAsk: the station that has an address answers, and nobody for another.
func TestAsk(t *testing.T) {
	host, lan := testnet.NewHost(t, "192.0.2.2/24", "2001:db8::2/64")
	lan.AddAddress("port", "192.0.2.3/24")
	lan.AddAddress("port", "2001:db8::3/64")
	for _, c := range []struct {
		addr  string
		probe bool
		want  bool
	}{
		{"192.0.2.3", true, true},
		{"192.0.2.3", false, true},
		{"192.0.2.4", true, false},
		{"2001:db8::3", false, true},
		{"2001:db8::4", false, false},
	} {
		host.Do(func() error {
			ifi, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			mac, err := ask(ifi, netip.MustParseAddr(c.addr), c.probe)
			if err != nil || (mac != nil) != c.want {
				t.Errorf("%s: %v, %v", c.addr, mac, err)
			}
			return nil
		})
	}
}

// TestProbeWithoutAddress: a link needs no address of its own for a probe.
func TestProbeWithoutAddress(t *testing.T) {
	host, lan := testnet.NewHost(t, "192.0.2.2/24")
	lan.AddAddress("port", "192.0.2.3/24")
	host.IP("address del 192.0.2.2/24 dev eth0")
	host.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if mac, err := ask(ifi, netip.MustParseAddr("192.0.2.3"), true); mac == nil || err != nil {
			t.Errorf("%v, %v", mac, err)
		}
		return nil
	})
}

// TestListen: a connection and a datagram to nobody on loopback are seen, and one
// that is accepted is not, nor one to localhost's other address before.
func TestListen(t *testing.T) {
	n := testnet.New(t)
	n.IP("link set lo up")
	n.Do(func() error {
		l, err := net.Listen("tcp", "127.0.0.1:9001")
		if err != nil {
			return err
		}
		defer l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		go n.Do(func() error {
			for range 4 {
				time.Sleep(100 * time.Millisecond)
				for _, addr := range []string{"[::1]:9001", "127.0.0.1:9001"} {
					if conn, err := net.Dial("tcp", addr); err == nil {
						conn.Close()
					}
				}
				_, _ = net.Dial("tcp", "127.0.0.1:9000")
				if conn, err := net.Dial("udp", "127.0.0.1:9002"); err == nil {
					_, _ = conn.Write([]byte("x"))
					conn.Close()
				}
			}
			return nil
		})
		got, err := listen(ctx)
		if err != nil {
			return err
		}
		want := []port{{"tcp", netip.MustParseAddrPort("127.0.0.1:9000")}, {"udp", netip.MustParseAddrPort("127.0.0.1:9002")}}
		if !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		return nil
	})
}

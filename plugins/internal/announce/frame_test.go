package announce

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

var ownMAC = net.HardwareAddr{0x02, 0, 0x5e, 0x10, 0, 0x01}

func testConn() *Conn {
	return &Conn{ifi: net.Interface{Name: "mv0", HardwareAddr: ownMAC}, nonce: ndp.NewNonce()}
}

// nonceBytes are the 6 bytes of a Conn's nonce, which differ in every run.
func nonceBytes(t *testing.T, c *Conn) string {
	t.Helper()
	return strings.TrimSpace(c.nonce.String())
}

// Checksums are left for the decoder to judge.
func TestPackets(t *testing.T) {
	c := testConn()
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::a1:b2c3")
	const (
		arpHead = "0001 0800 06 04 "
		own     = "0200 5e10 0001 "
		target6 = "20010db8 00000000 00000000 00a1b2c3 "
		any6    = "00000000 00000000 00000000 00000000 "
	)
	cases := []struct {
		name, to, want string
		make           func(netip.Addr) (outgoing, error)
		addr           netip.Addr
	}{
		{"ARP probe", "ff:ff:ff:ff:ff:ff", arpHead + "0001" + own + "00000000 000000000000 c0000201", c.probe, v4},
		{"ARP announcement", "ff:ff:ff:ff:ff:ff", arpHead + "0001" + own + "c0000201 000000000000 c0000201", c.announcement, v4},
		{"gratuitous reply", "ff:ff:ff:ff:ff:ff", arpHead + "0002" + own + "c0000201" + own + "c0000201", c.gratuitousReply, v4},
		{"DAD solicitation", "33:33:ff:a1:b2:c3",
			"60000000 0020 3a ff" + any6 + "ff020000 00000000 00000001 ffa1b2c3" +
				"87 00 .... 00000000" + target6 + "0e01" + nonceBytes(t, c), c.probe, v6},
		{"unsolicited advertisement", "33:33:00:00:00:01",
			"60000000 0020 3a ff" + target6 + "ff020000 00000000 00000000 00000001" +
				"88 00 .... 20000000" + target6 + "0201" + own, c.announcement, v6},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			out, err := tc.make(tc.addr)
			if err != nil {
				t.Fatal(err)
			}
			if out.addr != tc.addr || out.to.String() != tc.to {
				t.Errorf("for %s to %s, want %s to %s", out.addr, out.to, tc.addr, tc.to)
			}
			got, want := hex.EncodeToString(out.payload), strings.ReplaceAll(tc.want, " ", "")
			if i := strings.Index(want, "...."); i >= 0 && len(got) == len(want) {
				got = got[:i] + "...." + got[i+4:]
			}
			if got != want {
				t.Errorf("packet\n%s, want\n%s", got, want)
			}
		})
	}
}

func TestPacketsDecode(t *testing.T) {
	c := testConn()
	addr := netip.MustParseAddr("2001:db8::a1:b2c3")
	for _, make := range []func(netip.Addr) (outgoing, error){c.probe, c.announcement} {
		out, err := make(addr)
		if err != nil {
			t.Fatal(err)
		}
		p := gopacket.NewPacket(out.payload, layers.LayerTypeIPv6, gopacket.Default)
		if e := p.ErrorLayer(); e != nil {
			t.Error(e.Error())
		}
		if err := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6).SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
			t.Fatal(err)
		}
		if err, bad := p.VerifyChecksums(); err != nil || len(bad) > 0 {
			t.Errorf("checksums: %v, %v", err, bad)
		}
	}
}

// The filters pass what the parsers read, and drop what is on every LAN.
func TestFilters(t *testing.T) {
	c := testConn()
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	arpProbe, nsProbe, na := payload(t, c.probe, v4), payload(t, c.probe, v6), payload(t, c.announcement, v6)
	changed := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	cases := []struct {
		name   string
		filter []bpf.Instruction
		packet []byte
		want   bool
	}{
		{"ARP", arpFilter, arpProbe, true},
		{"ARP with 8-byte MACs", arpFilter, changed(arpProbe, 4, 8), false},
		{"ARP with 16-byte addresses", arpFilter, changed(arpProbe, 5, 16), false},
		{"ARP for another protocol", arpFilter, changed(arpProbe, 2, 9), false},
		{"empty", arpFilter, nil, false},
		{"solicitation", ndpFilter, nsProbe, true},
		{"advertisement", ndpFilter, na, true},
		{"router advertisement", ndpFilter, changed(na, 40, 134), false},
		{"redirect", ndpFilter, changed(na, 40, 137), false},
		{"forwarded", ndpFilter, changed(na, 7, 254), false},
		{"UDP", ndpFilter, changed(na, 6, 17), false},
		{"too short", ndpFilter, na[:40], false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			vm, err := bpf.NewVM(tc.filter)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := vm.Run(tc.packet); err != nil || n > 0 != tc.want {
				t.Errorf("passes %d bytes, %v, want passed: %t", n, err, tc.want)
			}
		})
	}
}

func payload(t testing.TB, make func(netip.Addr) (outgoing, error), addr netip.Addr) []byte {
	t.Helper()
	out, err := make(addr)
	if err != nil {
		t.Fatal(err)
	}
	return out.payload
}

// fullQueue is a socket on a link whose queue is full for some time.
type fullQueue struct {
	net.PacketConn
	full, sent int
	to         net.Addr
}

func (q *fullQueue) WriteTo(b []byte, to net.Addr) (int, error) {
	if q.full--; q.full >= 0 {
		return 0, &net.OpError{Op: "write", Err: unix.ENOBUFS}
	}
	q.sent, q.to = q.sent+1, to
	return len(b), nil
}

func TestSendWaitsForAFullQueue(t *testing.T) {
	out := outgoing{addr: netip.MustParseAddr("192.0.2.1"), to: broadcast}
	q := &fullQueue{full: 5}
	if err := sendOne(t.Context(), q, out); err != nil || q.sent != 1 || q.to.(*packet.Addr).String() != broadcast.String() {
		t.Errorf("sent %d to %v, %v", q.sent, q.to, err)
	}
	q = &fullQueue{full: 1 << 30}
	if err := sendOne(t.Context(), q, out); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("error %v, want ENOBUFS", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sendOne(ctx, q, out); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}

func TestOpenWithoutAMAC(t *testing.T) {
	if _, err := Open(&net.Interface{Index: 1, Name: "lo"}, nil); err == nil || !strings.Contains(err.Error(), "lo") {
		t.Errorf("error %v, want one that names lo", err)
	}
}

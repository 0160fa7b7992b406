package announce

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/ndp"
)

var otherMAC = net.HardwareAddr{0x02, 0, 0x5e, 0x10, 0, 0x02}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseARP(t *testing.T) {
	const (
		head, mac, self = "0001 0800 06 04", "02005e100002", "02005e100001"
		vip, peer, none = "c0000201", "c0000209", "00000000"
	)
	holds := claim{addr: netip.MustParseAddr("192.0.2.1"), mac: otherMAC}
	probes := claim{addr: netip.MustParseAddr("192.0.2.1"), mac: otherMAC, probing: true}
	cases := []struct {
		name, packet string
		want         claim
		ok           bool
	}{
		{"reply to a probe", head + "0002" + mac + vip + self + none, holds, true},
		{"reply, padded to 46 bytes", head + "0002" + mac + vip + self + none + strings.Repeat("00", 18), holds, true},
		{"holder asks for another", head + "0001" + mac + vip + "000000000000" + peer, holds, true},
		{"gratuitous request", head + "0001" + mac + vip + "000000000000" + vip, holds, true},
		{"gratuitous reply", head + "0002" + mac + vip + mac + vip, holds, true},
		{"hardware type of IEEE 802", "0006 0800 06 04 0002" + mac + vip + self + none, holds, true},
		{"another's probe", head + "0001" + mac + none + "000000000000" + vip, probes, true},
		{"reply with no sender", head + "0002" + mac + none + "000000000000" + vip, claim{}, false},
		{"another protocol", "0001 86dd 06 04 0002" + mac + vip + self + none, claim{}, false},
		{"long addresses", "0001 0800 06 10 0002" + mac + strings.Repeat(vip, 4) + self + strings.Repeat(vip, 4), claim{}, false},
		{"long MACs", "0001 0800 08 04 0002" + mac + "0000" + vip + self + "0000" + vip, claim{}, false},
		{"cut", head + "0002" + mac + vip + self, claim{}, false},
		{"header only", head + "0002", claim{}, false},
		{"empty", "", claim{}, false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := parseARP(unhex(t, tc.packet))
			if ok != tc.ok || ok && !equal(got, tc.want) {
				t.Errorf("claim %+v, %t, want %+v, %t", got, ok, tc.want, tc.ok)
			}
		})
	}
}

func equal(a, b claim) bool {
	return a.addr == b.addr && bytes.Equal(a.mac, b.mac) && a.probing == b.probing
}

// message is an NDP packet to be altered: the checksum is made right at last.
type message struct {
	src, dst string
	body     string
	alter    func(b []byte) []byte
	badSum   bool
}

func (m message) marshal(t testing.TB) []byte {
	t.Helper()
	body := unhex(t, m.body)
	src, dst := netip.MustParseAddr(m.src), netip.MustParseAddr(m.dst)
	b := append([]byte{0x60, 0, 0, 0, 0, 0, 58, 255}, append(src.AsSlice(), dst.AsSlice()...)...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	b = append(b, body...)
	sum := ^checksum(b[8:40], body)
	if m.badSum {
		sum++
	}
	binary.BigEndian.PutUint16(b[42:], sum)
	if m.alter != nil {
		b = m.alter(b)
	}
	return b
}

func TestParseNDP(t *testing.T) {
	const (
		vip, group = "2001:db8::a1:b2c3", "ff02::1:ffa1:b2c3"
		target     = "20010db8 00000000 00000000 00a1b2c3"
		na, ns     = "88000000 20000000" + target, "87000000 00000000" + target
		tlla       = "0201 02005e100002"
	)
	via := net.HardwareAddr{0x02, 0, 0x5e, 0x10, 0, 0x03}
	c := testConn()
	addr := netip.MustParseAddr(vip)
	holds, proxied := &claim{addr: addr, mac: otherMAC}, &claim{addr: addr, mac: via}
	probes := &claim{addr: addr, mac: via, probing: true}
	set := func(at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] = v; return b }
	}
	cases := []struct {
		name string
		message
		want *claim
	}{
		{"advertisement", message{src: vip, dst: "ff02::1", body: na + tlla}, holds},
		{"advertisement without a MAC", message{src: vip, dst: "ff02::1", body: na}, proxied},
		{"advertisement from another address", message{src: "fe80::1", dst: "ff02::1", body: na + tlla}, holds},
		{"solicited advertisement", message{src: vip, dst: "2001:db8::9", body: "88000000 60000000" + target + tlla}, holds},
		{"solicited, to a group", message{src: vip, dst: "ff02::1", body: "88000000 60000000" + target + tlla}, nil},
		{"padded", message{src: vip, dst: "ff02::1", body: na + tlla, alter: func(b []byte) []byte { return append(b, 1, 2, 3) }}, holds},
		{"another's DAD", message{src: "::", dst: group, body: ns}, probes},
		{"another's DAD, with a nonce", message{src: "::", dst: group, body: ns + "0e01 010203040506"}, probes},
		{"own DAD, looped back", message{src: "::", dst: group, body: ns + "0e01" + nonceBytes(t, c)}, nil},
		{"DAD to a wrong group", message{src: "::", dst: "ff02::1", body: ns}, nil},
		{"resolution", message{src: "2001:db8::9", dst: group, body: ns + "0101 02005e100002"}, nil},
		{"router solicitation", message{src: "::", dst: "ff02::2", body: "85000000 00000000"}, nil},
		{"echo", message{src: vip, dst: "ff02::1", body: "80000000 00000000"}, nil},
		{"multicast target", message{src: vip, dst: "ff02::1", body: "88000000 20000000 ff020000000000000000000000000001"}, nil},
		{"forwarded", message{src: vip, dst: "ff02::1", body: na + tlla, alter: set(7, 254)}, nil},
		{"code 1", message{src: vip, dst: "ff02::1", body: "88010000 20000000" + target}, nil},
		{"bad checksum", message{src: vip, dst: "ff02::1", body: na + tlla, badSum: true}, nil},
		{"changed on the way", message{src: vip, dst: "ff02::1", body: na + tlla, alter: set(63, 9)}, nil},
		{"option of length 0", message{src: vip, dst: "ff02::1", body: na + "0200 02005e100002"}, nil},
		{"option longer than the packet", message{src: vip, dst: "ff02::1", body: na + "0202 02005e100002"}, nil},
		{"shorter than it says", message{src: vip, dst: "ff02::1", body: na + tlla, alter: func(b []byte) []byte { return b[:len(b)-1] }}, nil},
		{"IPv4", message{src: vip, dst: "ff02::1", body: na + tlla, alter: set(0, 0x45)}, nil},
		{"extension header", message{src: vip, dst: "ff02::1", body: na + tlla, alter: set(6, 0)}, nil},
		{"header only", message{src: vip, dst: "ff02::1", alter: nil, body: "88000000"}, nil},
		{"empty", message{src: vip, dst: "ff02::1", body: na, alter: func([]byte) []byte { return nil }}, nil},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := parseNDP(tc.marshal(t), via, c.nonce)
			if ok != (tc.want != nil) || ok && !equal(got, *tc.want) {
				t.Errorf("claim %+v, %t, want %+v", got, ok, tc.want)
			}
		})
	}
}

// A message that its sender made is read as it was meant.
func FuzzParseARP(f *testing.F) {
	c := testConn()
	for _, make := range []func(netip.Addr) (outgoing, error){c.probe, c.announcement, c.gratuitousReply} {
		f.Add(payload(f, make, netip.MustParseAddr("192.0.2.1")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cl, ok := parseARP(b)
		if ok && (!cl.addr.Is4() || len(cl.mac) != macLen) {
			t.Errorf("claim %+v", cl)
		}
	})
}

func FuzzParseNDP(f *testing.F) {
	c := testConn()
	for _, make := range []func(netip.Addr) (outgoing, error){c.probe, c.announcement} {
		f.Add(payload(f, make, netip.MustParseAddr("2001:db8::1")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), 1500)] // More is never read.
		// No mutation gets past the checksum: make it right, too.
		for _, b := range [][]byte{b, withChecksum(b)} {
			cl, ok := parseNDP(b, otherMAC, ndp.NewNonce())
			if ok && (!cl.addr.Is6() || cl.addr.IsMulticast() || len(cl.mac) != macLen) {
				t.Errorf("claim %+v", cl)
			}
		}
	})
}

func withChecksum(b []byte) []byte {
	if len(b) < ipv6HeaderLen+4 {
		return b
	}
	b = bytes.Clone(b)
	b[0], b[6], b[7] = 0x60, 58, 255
	b[41], b[42], b[43] = 0, 0, 0
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
	binary.BigEndian.PutUint16(b[42:], ^checksum(b[8:ipv6HeaderLen], b[ipv6HeaderLen:]))
	return b
}

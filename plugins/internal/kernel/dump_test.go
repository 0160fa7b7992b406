package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attribute is a struct rtattr with its value.
func attribute(kind uint16, value ...byte) []byte {
	var r request
	r.add(int(kind), value)
	return r
}

func TestAttributesEnd(t *testing.T) {
	whole := slices.Concat(attribute(1, 'a'), attribute(2|unix.NLA_F_NESTED, 'b', 'b', 'b', 'b'))
	for size, want := range map[int]string{
		0: "", 3: "", len(whole) - 9: "1", len(whole) - 8: "1", len(whole) - 1: "1", len(whole): "12",
	} {
		got := ""
		for kind, value := range attributes(whole[:size]) {
			if len(value) > 4 {
				t.Errorf("%d bytes of a message of %d: a value of %d bytes", size, len(whole), len(value))
			}
			got += string(rune('0' + kind))
		}
		if got != want {
			t.Errorf("of %d bytes: attributes %q, want %q", size, got, want)
		}
	}
	lying := binary.NativeEndian.AppendUint32(nil, 0) // A length of 0 would never end.
	for range attributes(append(lying, whole...)) {
		t.Error("an attribute of no length was read")
	}
}

func TestParseAddress(t *testing.T) {
	header := func(family, bits, flags byte) []byte {
		return append([]byte{family, bits, flags, unix.RT_SCOPE_UNIVERSE}, u32(7)...)
	}
	v6 := netip.MustParseAddr("2001:db8::10").AsSlice()
	for _, tt := range []struct {
		name, prefix string
		data         []byte
		flags        uint32
	}{
		{"IPv4", "192.0.2.10/24", slices.Concat(header(unix.AF_INET, 24, 0), attribute(unix.IFA_ADDRESS, 192, 0, 2, 10), attribute(unix.IFA_LOCAL, 192, 0, 2, 10)), 0},
		{"a peer's network", "192.0.2.10/32", slices.Concat(header(unix.AF_INET, 24, 0), attribute(unix.IFA_ADDRESS, 198, 51, 100, 1), attribute(unix.IFA_LOCAL, 192, 0, 2, 10)), 0},
		{"IPv6", "2001:db8::10/64", slices.Concat(header(unix.AF_INET6, 64, 0), attribute(unix.IFA_ADDRESS, v6...)), 0},
		{"flags of a byte", "2001:db8::10/64", slices.Concat(header(unix.AF_INET6, 64, unix.IFA_F_TENTATIVE), attribute(unix.IFA_ADDRESS, v6...)), unix.IFA_F_TENTATIVE},
		{
			"flags of four bytes", "2001:db8::10/64",
			slices.Concat(header(unix.AF_INET6, 64, unix.IFA_F_TENTATIVE), attribute(unix.IFA_ADDRESS, v6...), attribute(unix.IFA_FLAGS, u32(unix.IFA_F_NOPREFIXROUTE)...)), unix.IFA_F_NOPREFIXROUTE,
		},
		{"no address", "", header(unix.AF_INET, 24, 0), 0},
		{"cut off", "", header(unix.AF_INET, 24, 0)[:5], 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, ok := parseAddress(tt.data)
			if ok != (tt.prefix != "") {
				t.Fatalf("%v, %v", a, ok)
			}
			if want := (address{link: 7, flags: tt.flags, scope: unix.RT_SCOPE_UNIVERSE}); ok {
				want.prefix = netip.MustParsePrefix(tt.prefix)
				if a != want {
					t.Errorf("%+v, want %+v", a, want)
				}
			}
		})
	}
}

func TestParseNeighbour(t *testing.T) {
	header := binary.NativeEndian.AppendUint16(append([]byte{unix.AF_INET, 0, 0, 0}, u32(7)...), unix.NUD_PERMANENT)
	whole := slices.Concat(header, []byte{0, unix.RTN_UNICAST}, attribute(netlink.NDA_DST, 192, 0, 2, 10), attribute(netlink.NDA_LLADDR, 2, 0, 0x5e, 0x10, 0, 1))
	addr, e, ok := parseNeighbour(whole, 7)
	if want := (neighbour{"02:00:5e:10:00:01", unix.NUD_PERMANENT}); !ok || addr != netip.MustParseAddr("192.0.2.10") || e != want {
		t.Errorf("%s: %+v, want %+v", addr, e, want)
	}
	if _, _, ok := parseNeighbour(whole, 8); ok {
		t.Error("the entry of another link was read")
	}
	if _, _, ok := parseNeighbour(whole[:11], 7); ok {
		t.Error("an entry that is cut off was read")
	}
}

// TestDumpEnds: a listing's last message says whether it is whole.
func TestDumpEnds(t *testing.T) {
	minusEINVAL := u32(^uint32(unix.EINVAL) + 1)
	for _, tt := range []struct {
		data        []byte
		interrupted bool
		want        error
	}{
		{nil, false, nil},
		{u32(0), false, nil},
		{u32(0), true, netlink.ErrDumpInterrupted},
		{minusEINVAL, true, unix.EINVAL},
	} {
		if err := ended(syscall.NetlinkMessage{Data: tt.data}, tt.interrupted); !errors.Is(err, tt.want) {
			t.Errorf("% x, interrupted %t: %v, want %v", tt.data, tt.interrupted, err, tt.want)
		}
	}
	tries := 0
	err := whole(func() error {
		if tries++; tries < 3 {
			return netlink.ErrDumpInterrupted
		}
		return nil
	})
	if err != nil || tries != 3 {
		t.Errorf("a listing that is interrupted twice: %v after %d tries", err, tries)
	}
	tries = 0
	if err := whole(func() error { tries++; return netlink.ErrDumpInterrupted }); !errors.Is(err, netlink.ErrDumpInterrupted) || tries != 6 {
		t.Errorf("a listing that is always interrupted: %v after %d tries", err, tries)
	}
}

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/plan"
)

// These tests need no kernel, so that they also run for other machines, under
// an emulator: netlink is in the machine's byte order, addresses are not.

// u32 is a number as the kernel of this machine writes it.
func u32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// attributesOf reads the attributes of a message whose own struct has a size.
func attributesOf(t *testing.T, message []byte, size int) map[uint16][]byte {
	t.Helper()
	length := binary.NativeEndian.Uint32(message)
	if int(length) != len(message) || length%unix.NLMSG_ALIGNTO != 0 {
		t.Fatalf("a message of %d bytes says that it has %d; the next one of a batch begins at a multiple of 4", len(message), length)
	}
	attrs, err := nl.ParseRouteAttr(message[unix.SizeofNlMsghdr+size:])
	if err != nil {
		t.Fatal(err)
	}
	found := map[uint16][]byte{}
	for _, a := range attrs {
		found[a.Attr.Type] = a.Value
	}
	return found
}

func wantAttributes(t *testing.T, got, want map[uint16][]byte) {
	t.Helper()
	for kind, value := range want {
		if !bytes.Equal(got[kind], value) {
			t.Errorf("attribute %d is % x, want % x", kind, got[kind], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d attributes, want %d: %v", len(got), len(want), got)
	}
}

func TestAddressMessage(t *testing.T) {
	for _, tt := range []struct {
		prefix string
		header []byte // struct ifaddrmsg, but for the index
		attrs  map[uint16][]byte
	}{
		{"192.0.2.10/24", []byte{unix.AF_INET, 24, 0, 0}, map[uint16][]byte{
			unix.IFA_LOCAL: {192, 0, 2, 10}, unix.IFA_ADDRESS: {192, 0, 2, 10}, unix.IFA_BROADCAST: {192, 0, 2, 255},
		}},
		{"192.0.2.10/31", []byte{unix.AF_INET, 31, 0, 0}, map[uint16][]byte{
			unix.IFA_LOCAL: {192, 0, 2, 10}, unix.IFA_ADDRESS: {192, 0, 2, 10},
		}},
		{"2001:db8::10/64", []byte{unix.AF_INET6, 64, unix.IFA_F_NODAD, 0}, map[uint16][]byte{
			unix.IFA_LOCAL: netip.MustParseAddr("2001:db8::10").AsSlice(), unix.IFA_ADDRESS: netip.MustParseAddr("2001:db8::10").AsSlice(),
		}},
	} {
		t.Run(tt.prefix, func(t *testing.T) {
			message := addressRequest(unix.RTM_NEWADDR, create, 0x01020304, netip.MustParsePrefix(tt.prefix)).finished(1)
			if want := slices.Concat(tt.header, u32(0x01020304)); !bytes.Equal(message[unix.SizeofNlMsghdr:][:unix.SizeofIfAddrmsg], want) {
				t.Errorf("struct ifaddrmsg is % x, want % x", message[unix.SizeofNlMsghdr:][:unix.SizeofIfAddrmsg], want)
			}
			wantAttributes(t, attributesOf(t, message, unix.SizeofIfAddrmsg), tt.attrs)
		})
	}
}

func TestNeighbourMessage(t *testing.T) {
	req, err := neighbourRequest(unix.RTM_NEWNEIGH, create, 7, plan.Neighbour{Addr: netip.MustParseAddr("192.0.2.10"), MAC: "02:00:5e:10:00:01"})
	if err != nil {
		t.Fatal(err)
	}
	message := req.finished(1)
	// struct ndmsg: family, padding, index, state, flags, type.
	want := append([]byte{unix.AF_INET, 0, 0, 0}, u32(7)...)
	want = append(binary.NativeEndian.AppendUint16(want, unix.NUD_PERMANENT), 0, unix.RTN_UNICAST)
	if got := message[unix.SizeofNlMsghdr:][:unix.SizeofNdMsg]; !bytes.Equal(got, want) {
		t.Errorf("struct ndmsg is % x, want % x", got, want)
	}
	wantAttributes(t, attributesOf(t, message, unix.SizeofNdMsg), map[uint16][]byte{
		unix.NDA_DST: {192, 0, 2, 10}, unix.NDA_LLADDR: {2, 0, 0x5e, 0x10, 0, 1},
	})
}

func TestForwardingMessage(t *testing.T) {
	req, err := forwardingRequest(unix.RTM_NEWNEIGH, create, unix.NUD_PERMANENT, 0x01020304, plan.Forwarding{MAC: "02:00:5e:10:00:01"})
	if err != nil {
		t.Fatal(err)
	}
	message := req.finished(1)
	// struct ndmsg: family, padding, index, state, flags, type.
	want := append([]byte{unix.AF_BRIDGE, 0, 0, 0}, u32(0x01020304)...)
	want = append(binary.NativeEndian.AppendUint16(want, unix.NUD_PERMANENT), unix.NTF_SELF, 0)
	if got := message[unix.SizeofNlMsghdr:][:unix.SizeofNdMsg]; !bytes.Equal(got, want) {
		t.Errorf("struct ndmsg is % x, want % x", got, want)
	}
	wantAttributes(t, attributesOf(t, message, unix.SizeofNdMsg), map[uint16][]byte{unix.NDA_LLADDR: {2, 0, 0x5e, 0x10, 0, 1}})

	for state, want := range map[uint16]bool{unix.NUD_PERMANENT: true, unix.NUD_NOARP: true, unix.NUD_REACHABLE: false, unix.NUD_STALE: false} {
		answer := binary.NativeEndian.AppendUint16(append([]byte{unix.AF_BRIDGE, 0, 0, 0}, u32(7)...), state)
		if got, err := parseForwarding(append(answer, 0, 0)); got != want || err != nil {
			t.Errorf("state %#x: stays %t, %v, want %t", state, got, err, want)
		}
	}
	if _, err := parseForwarding([]byte{unix.AF_BRIDGE}); !errors.Is(err, unix.EBADMSG) {
		t.Errorf("an answer that was cut off: %v", err)
	}
}

func TestVLANMessages(t *testing.T) {
	u16 := func(n uint16) []byte { return binary.NativeEndian.AppendUint16(nil, n) }
	req, err := askForwardingRequest(7, plan.Forwarding{MAC: "02:00:5e:10:00:01"}, 0x0102)
	if err != nil {
		t.Fatal(err)
	}
	wantAttributes(t, attributesOf(t, req.finished(1), unix.SizeofNdMsg), map[uint16][]byte{
		unix.NDA_LLADDR: {2, 0, 0x5e, 0x10, 0, 1}, unix.NDA_VLAN: u16(0x0102),
	})

	question := newRequest(unix.RTM_GETVLAN, 0, bridgeVLANs{}).finished(1)
	if got, want := question[unix.SizeofNlMsghdr:], []byte{unix.AF_BRIDGE, 0, 0, 0, 0, 0, 0, 0}; !bytes.Equal(got, want) {
		t.Errorf("struct br_vlan_msg is % x, want % x", got, want)
	}
	entry := func(vlan, last uint16) (e request) {
		e.add(vlanEntryInfo, append(u16(6), u16(vlan)...))
		if last != 0 {
			e.add(vlanEntryRange, u16(last))
		}
		return e
	}
	answer := request(append([]byte{unix.AF_BRIDGE, 0, 0, 0}, u32(0x01020304)...))
	answer.add(vlanEntry|unix.NLA_F_NESTED, entry(1, 0))
	answer.add(2, entry(99, 0))
	answer.add(vlanEntry|unix.NLA_F_NESTED, entry(26, 28))
	if got, want := parseVLANs(answer, 0x01020304), []int{1, 26, 27, 28}; !slices.Equal(got, want) {
		t.Errorf("VLANs %v, want %v", got, want)
	}
	if got := parseVLANs(answer, 7); got != nil {
		t.Errorf("another link's answer: %v", got)
	}
	if got := parseVLANs(answer[:6], 0x01020304); got != nil {
		t.Errorf("an answer that was cut off: %v", got)
	}
}

func TestRouteMessage(t *testing.T) {
	message := addRouteRequest(3, plan.Route{
		Dst: netip.MustParsePrefix("2001:db8::10/128"), Gateway: netip.MustParseAddr("fe80::1"), Source: netip.MustParseAddr("2001:db8::1"),
		Table: 0x01020304, Metric: 100, MTU: 1400, Exclusive: true,
	}).finished(1)
	// struct rtmsg: bytes, but for its flags at the end; RTA_TABLE overrides its table.
	want := append([]byte{unix.AF_INET6, 128, 0, 0, unix.RT_TABLE_MAIN, plan.Protocol, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST}, u32(0)...)
	if got := message[unix.SizeofNlMsghdr:][:unix.SizeofRtMsg]; !bytes.Equal(got, want) {
		t.Errorf("struct rtmsg is % x, want % x", got, want)
	}
	metric := binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, 8), unix.RTAX_MTU)
	wantAttributes(t, attributesOf(t, message, unix.SizeofRtMsg), map[uint16][]byte{
		unix.RTA_DST: netip.MustParseAddr("2001:db8::10").AsSlice(), unix.RTA_GATEWAY: netip.MustParseAddr("fe80::1").AsSlice(),
		unix.RTA_PREFSRC: netip.MustParseAddr("2001:db8::1").AsSlice(), unix.RTA_OIF: u32(3), unix.RTA_TABLE: u32(0x01020304),
		unix.RTA_PRIORITY: u32(100), unix.RTA_METRICS: append(metric, u32(1400)...),
	})
}

func TestRuleMessage(t *testing.T) {
	message := ruleRequest(unix.RTM_NEWRULE, create, plan.Rule{From: netip.MustParsePrefix("192.0.2.10/32"), Table: 0x01020304, Priority: 100}).finished(1)
	// struct fib_rule_hdr: bytes, but for its flags at the end; FRA_TABLE overrides its table.
	want := append([]byte{unix.AF_INET, 0, 32, 0, unix.RT_TABLE_MAIN, 0, 0, unix.FR_ACT_TO_TBL}, u32(0)...)
	if got := message[unix.SizeofNlMsghdr:][:unix.SizeofRtMsg]; !bytes.Equal(got, want) {
		t.Errorf("struct fib_rule_hdr is % x, want % x", got, want)
	}
	wantAttributes(t, attributesOf(t, message, unix.SizeofRtMsg), map[uint16][]byte{
		nl.FRA_SRC: {192, 0, 2, 10}, nl.FRA_TABLE: u32(0x01020304), nl.FRA_PRIORITY: u32(100), nl.FRA_PROTOCOL: {plan.Protocol},
	})
}

func TestKernelError(t *testing.T) {
	minusEEXIST := ^uint32(unix.EEXIST) + 1
	refused := append(u32(minusEEXIST), make([]byte, unix.SizeofNlMsghdr)...)
	text := append(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, 4+6), nl.NLMSGERR_ATTR_MSG), "taken\x00\x00\x00"...)
	for _, tt := range []struct {
		name    string
		message syscall.NetlinkMessage
		want    error
		text    string
	}{
		{"success", syscall.NetlinkMessage{Data: make([]byte, 20)}, nil, ""},
		{"refused", syscall.NetlinkMessage{Data: refused}, unix.EEXIST, "file exists"},
		{"refused with words", syscall.NetlinkMessage{
			Header: syscall.NlMsghdr{Flags: unix.NLM_F_ACK_TLVS}, Data: append(bytes.Clone(refused), text...),
		}, unix.EEXIST, "file exists: taken"},
		{"cut off", syscall.NetlinkMessage{Data: refused[:8]}, unix.EBADMSG, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := errorOf(tt.message)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if err != nil && !strings.HasSuffix(err.Error(), tt.text) {
				t.Errorf("%q does not end in %q", err, tt.text)
			}
		})
	}
}

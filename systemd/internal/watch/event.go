package watch

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// hosts stands for the host's own namespace where others have a number.
const hosts = -1

// event is a change that the kernel reports.
type event struct {
	// nsid is the namespace's number, or hosts.
	nsid int
	// kind is the type of the message, such as unix.RTM_DELROUTE.
	kind uint16
	// port is the netlink port of who asked for the change, which is nearly
	// always a process ID; 0 where the kernel does not say.
	port uint32
	// link is what a link is now, or was.
	link link
	// index is the link's of an address, a route or a neighbour.
	index int
	// addr is an address, a neighbour's address or that of a route's destination. dst
	// has a prefix length, too: an address's, or the destination's.
	addr netip.Addr
	dst  netip.Prefix
	// usable says that an address is global and not tentative. A deprecated one is
	// still in use (RFC 4862, section 5.5.4).
	usable bool
	// protocol is a route's or a rule's (rtm_protocol).
	protocol uint8
}

func (e event) isLink() bool { return e.kind == unix.RTM_NEWLINK || e.kind == unix.RTM_DELLINK }

// link is the part of a link's state that the keeper compares.
type link struct {
	index, lower int
	// far says that the link below is in another namespace.
	far       bool
	name, mac string
	mtu       int
	flags     uint32
}

func (l link) up() bool { return l.flags&unix.IFF_UP != 0 }

// carrier is false, too, while the link below is down.
func (l link) carrier() bool { return l.flags&unix.IFF_UP != 0 && l.flags&unix.IFF_LOWER_UP != 0 }

// decode parses a message; ok is false if it is irrelevant.
func decode(nsid int, m syscall.NetlinkMessage) (e event, ok bool) {
	e = event{nsid: nsid, kind: m.Header.Type, port: m.Header.Pid}
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return decodeLink(e, m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return decodeAddress(e, m)
	case unix.RTM_DELROUTE:
		return decodeRoute(e, m.Data)
	case unix.RTM_DELNEIGH:
		return decodeNeighbour(e, m.Data)
	case unix.RTM_DELRULE:
		return e, decodeAttrs(m.Data, unix.SizeofRtMsg, func(kind uint16, value []byte) {
			if kind == unix.FRA_PROTOCOL && len(value) > 0 {
				e.protocol = value[0]
			}
		})
	}
	return e, false
}

func decodeLink(e event, m syscall.NetlinkMessage) (event, bool) {
	if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
		// A bridge tells of its ports in a family of its own.
		return e, false
	}
	e.link.index = int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
	e.link.flags = binary.NativeEndian.Uint32(m.Data[8:])
	return e, decodeAttrs(m.Data, unix.SizeofIfInfomsg, func(kind uint16, value []byte) {
		switch {
		case kind == unix.IFLA_IFNAME:
			e.link.name = unix.ByteSliceToString(value)
		case kind == unix.IFLA_ADDRESS:
			e.link.mac = net.HardwareAddr(value).String()
		case kind == unix.IFLA_MTU && len(value) == 4:
			e.link.mtu = int(binary.NativeEndian.Uint32(value))
		case kind == unix.IFLA_LINK && len(value) == 4:
			e.link.lower = int(binary.NativeEndian.Uint32(value))
		case kind == unix.IFLA_LINK_NETNSID:
			e.link.far = true
		}
	})
}

func decodeAddress(e event, m syscall.NetlinkMessage) (event, bool) {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return e, false
	}
	const unsettled = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	flags, scope := uint32(m.Data[2]), m.Data[3]
	e.index = int(binary.NativeEndian.Uint32(m.Data[4:]))
	ok := decodeAttrs(m.Data, unix.SizeofIfAddrmsg, func(kind uint16, value []byte) {
		switch {
		case kind == unix.IFA_LOCAL, kind == unix.IFA_ADDRESS && !e.addr.IsValid():
			// IFA_ADDRESS is the other end's where there is one.
			if addr, ok := netip.AddrFromSlice(value); ok {
				e.addr = addr
			}
		case kind == unix.IFA_FLAGS && len(value) == 4:
			flags = binary.NativeEndian.Uint32(value)
		}
	})
	e.dst = netip.PrefixFrom(e.addr, int(m.Data[1]))
	e.usable = scope == unix.RT_SCOPE_UNIVERSE && flags&unsettled == 0 && e.addr.IsGlobalUnicast()
	return e, ok && e.addr.IsValid()
}

func decodeRoute(e event, data []byte) (event, bool) {
	if len(data) < unix.SizeofRtMsg {
		return e, false
	}
	e.protocol = data[5]
	ok := decodeAttrs(data, unix.SizeofRtMsg, func(kind uint16, value []byte) {
		switch {
		case kind == unix.RTA_DST:
			e.addr, _ = netip.AddrFromSlice(value)
			e.dst = netip.PrefixFrom(e.addr, int(data[1]))
		case kind == unix.RTA_OIF && len(value) == 4:
			e.index = int(binary.NativeEndian.Uint32(value))
		}
	})
	return e, ok
}

func decodeNeighbour(e event, data []byte) (event, bool) {
	if len(data) < unix.SizeofNdMsg {
		return e, false
	}
	e.index = int(binary.NativeEndian.Uint32(data[4:]))
	ok := decodeAttrs(data, unix.SizeofNdMsg, func(kind uint16, value []byte) {
		if kind == unix.NDA_DST {
			e.addr, _ = netip.AddrFromSlice(value)
		}
	})
	return e, ok && e.addr.IsValid()
}

// decodeAttrs hands over each attribute that follows a header of a length.
func decodeAttrs(data []byte, header int, each func(kind uint16, value []byte)) bool {
	if len(data) < header {
		return false
	}
	for data = data[header:]; len(data) >= unix.SizeofRtAttr; {
		length := int(binary.NativeEndian.Uint16(data))
		if length < unix.SizeofRtAttr || length > len(data) {
			return false
		}
		each(binary.NativeEndian.Uint16(data[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), data[unix.SizeofRtAttr:length])
		data = data[min((length+3)&^3, len(data)):]
	}
	return true
}

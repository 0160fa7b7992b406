package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What is listed here by the thousand is read where the kernel put it: of the
// library's listings a message makes a dozen objects.

// attributes gives type and value of each attribute behind a message's header
// (struct rtattr, rtnetlink(7)). It ends at one that is not whole.
func attributes(data []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(data) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(data))
			kind := binary.NativeEndian.Uint16(data[2:]) &^ unix.NLA_F_NESTED
			if size < unix.SizeofRtAttr || size > len(data) || !yield(kind, data[unix.SizeofRtAttr:size]) {
				return
			}
			data = data[min((size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(data)):]
		}
	}
}

// dump has the kernel list something, and sees each message's payload, which is
// good until see returns. An error can be netlink.ErrDumpInterrupted: see whole.
func (n *Namespace) dump(req request, see func(payload []byte)) error {
	req.setFlags(unix.NLM_F_DUMP)
	if err := n.batch.post(req); err != nil {
		return err
	}
	interrupted := false
	for {
		messages, err := n.batch.receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Header.Seq != n.batch.number {
				continue
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Header.Type {
			case unix.NLMSG_ERROR:
				return errorOf(m)
			case unix.NLMSG_DONE:
				return ended(m, interrupted)
			}
			see(m.Data)
		}
	}
}

// ended is the error of a dump by its last message, which may hold a number.
func ended(m syscall.NetlinkMessage, interrupted bool) error {
	if len(m.Data) >= 4 {
		if number := int32(binary.NativeEndian.Uint32(m.Data)); number < 0 {
			return unix.Errno(-number)
		}
	}
	if interrupted {
		return netlink.ErrDumpInterrupted
	}
	return nil
}

// whole repeats a listing until no change has interrupted it.
func whole(list func() error) error {
	const tries = 6
	for range tries - 1 {
		if err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return list()
}

// address is one that a namespace has.
type address struct {
	prefix netip.Prefix
	link   int
	flags  uint32
	scope  uint8
}

// addresses lists a namespace's addresses of both families.
func (n *Namespace) addresses() (all []address, err error) {
	err = whole(func() error {
		all = all[:0]
		return n.dump(newRequest(unix.RTM_GETADDR, 0, &nl.IfAddrmsg{}), func(payload []byte) {
			if a, ok := parseAddress(payload); ok {
				all = append(all, a)
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("%s: list addresses: %w", n.side, err)
	}
	return all, nil
}

// parseAddress reads a struct ifaddrmsg and what is behind it. Where there is a
// peer, IFA_ADDRESS is the peer's, and the prefix is that of its network.
func parseAddress(data []byte) (a address, ok bool) {
	if len(data) < unix.SizeofIfAddrmsg {
		return a, false
	}
	msg := nl.DeserializeIfAddrmsg(data)
	a = address{link: int(msg.Index), flags: uint32(msg.Flags), scope: msg.Scope}
	var local, peer netip.Addr
	for kind, value := range attributes(data[unix.SizeofIfAddrmsg:]) {
		switch {
		case kind == unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case kind == unix.IFA_ADDRESS:
			peer, _ = netip.AddrFromSlice(value)
		case kind == unix.IFA_FLAGS && len(value) >= 4:
			a.flags = binary.NativeEndian.Uint32(value)
		}
	}
	switch {
	case !local.IsValid() || local == peer:
		a.prefix = netip.PrefixFrom(peer, int(msg.Prefixlen))
	default:
		a.prefix = netip.PrefixFrom(local, local.BitLen())
	}
	return a, a.prefix.IsValid()
}

// neighbour is an entry that a namespace has for an address.
type neighbour struct {
	mac   string
	state uint16
}

// neighbours lists the entries of a link.
func (n *Namespace) neighbours(link int) (all map[netip.Addr]neighbour, err error) {
	err = whole(func() error {
		all = map[netip.Addr]neighbour{}
		return n.dump(newRequest(unix.RTM_GETNEIGH, 0, &netlink.Ndmsg{Index: uint32(link)}), func(payload []byte) {
			if addr, e, ok := parseNeighbour(payload, link); ok {
				all[addr] = e
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("%s: list neighbours: %w", n.side, err)
	}
	return all, nil
}

// parseNeighbour reads a struct ndmsg and what is behind it, if it is of a link.
func parseNeighbour(data []byte, link int) (addr netip.Addr, e neighbour, ok bool) {
	if len(data) < unix.SizeofNdMsg || int(binary.NativeEndian.Uint32(data[4:])) != link {
		return addr, e, false
	}
	e.state = binary.NativeEndian.Uint16(data[8:])
	for kind, value := range attributes(data[unix.SizeofNdMsg:]) {
		switch kind {
		case netlink.NDA_DST:
			addr, ok = netip.AddrFromSlice(value)
		case netlink.NDA_LLADDR:
			e.mac = net.HardwareAddr(value).String()
		}
	}
	return addr, e, ok
}

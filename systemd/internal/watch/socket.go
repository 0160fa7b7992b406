package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// groups are the multicast groups to join (rtnetlink(7)).
var groups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
}

// receiveBuffer, in bytes, holds the events of some thousand changes at once. The
// kernel takes the memory only while they wait.
const receiveBuffer = 4 << 20

// errOverrun says that there were more events than the buffer holds, so that
// anything may have changed.
var errOverrun = errors.New("events were lost")

// socket receives the events of the host's namespace, and of all that have a
// number in it.
type socket struct {
	file *os.File
	buf  []byte
	oob  []byte
}

// listen needs CAP_NET_BROADCAST for the namespaces of others.
func listen() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("listen for changes of the network: %w", err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "rtnetlink"), buf: make([]byte, 64<<10), oob: make([]byte, 256)}
	if err := s.subscribe(fd); err != nil {
		s.file.Close()
		return nil, fmt.Errorf("listen for changes of the network: %w", err)
	}
	return s, nil
}

func (s *socket) subscribe(fd int) error {
	// Before the first event can arrive.
	if err := setFilter(fd, filter()); err != nil {
		return fmt.Errorf("attach the filter: %w", err)
	}
	// Without CAP_NET_ADMIN the default buffer has to do.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		return fmt.Errorf("include all namespaces (this needs CAP_NET_BROADCAST): %w", err)
	}
	for _, group := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return err
		}
	}
	return nil
}

// filter passes what could affect an attachment, so that a router's changes of
// routes, or neighbours that come and go, do not wake the process. Of the routes that
// the kernel makes with an address, it passes those that a process removes: others go
// with an address or a link, which have events of their own.
func filter() []bpf.Instruction {
	const typeOffset, portOffset, protocolOffset = 4, 12, unix.SizeofNlMsghdr + 5
	// The message is in the machine's byte order, and the filter loads the
	// network's.
	is := func(kind uint16) uint32 {
		var b [2]byte
		binary.NativeEndian.PutUint16(b[:], kind)
		return uint32(binary.BigEndian.Uint16(b[:]))
	}
	kinds := []uint16{unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_DELNEIGH, unix.RTM_DELRULE}
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: typeOffset, Size: 2}}
	for i, kind := range kinds {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: is(kind), SkipTrue: uint8(len(kinds) - i - 1 + 6)})
	}
	return append(program,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: is(unix.RTM_DELROUTE), SkipFalse: 6},
		bpf.LoadAbsolute{Off: protocolOffset, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: routeProtocol, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.RTPROT_KERNEL, SkipFalse: 3},
		bpf.LoadAbsolute{Off: portOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	)
}

// receive waits for events. After errOverrun it can be called again.
func (s *socket) receive() ([]event, error) {
	conn, err := s.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var n, oobn int
	var inner error
	err = conn.Read(func(fd uintptr) bool {
		n, oobn, _, _, inner = unix.Recvmsg(int(fd), s.buf, s.oob, 0)
		return inner != unix.EAGAIN && inner != unix.EINTR
	})
	switch {
	case err != nil:
		return nil, err
	case inner == unix.ENOBUFS:
		return nil, errOverrun
	case inner != nil:
		return nil, fmt.Errorf("receive changes of the network: %w", inner)
	}
	messages, err := syscall.ParseNetlinkMessage(s.buf[:n])
	if err != nil {
		return nil, errOverrun
	}
	nsid := nsidOf(s.oob[:oobn])
	var events []event
	for _, m := range messages {
		if e, ok := decode(nsid, m); ok {
			events = append(events, e)
		}
	}
	return events, nil
}

// nsidOf is the number of the namespace that an event is of: the host's own has
// none.
func nsidOf(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return hosts
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(m.Data)))
		}
	}
	return hosts
}

func (s *socket) close() { s.file.Close() }

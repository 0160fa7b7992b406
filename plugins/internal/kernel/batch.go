package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/plan"
)

// batchSize is how many requests go to the kernel in one system call. It
// answers questions, the last request, and what fails; should all be answered,
// that takes up to 1,280 bytes each of the socket's receive buffer
// (net.core.rmem_default, 208 KiB).
const batchSize = 64

// batch is a netlink socket that takes many requests at a time. The library's
// own takes one, and four system calls and 64 KiB of memory for each.
type batch struct {
	socket *nl.NetlinkSocket
	// number is that of the last request.
	number uint32
	// sent and received hold what goes to the kernel and what comes back, one
	// system call's at a time.
	sent     []byte
	received [8 << 10]byte
}

// openBatch opens one in the calling thread's namespace.
func openBatch() (*batch, error) {
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	// The kernel's own words, and not our whole message beside them.
	for _, option := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		if err := unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, option, 1); err != nil {
			socket.Close()
			return nil, fmt.Errorf("open netlink: %w", err)
		}
	}
	return &batch{socket: socket}, nil
}

// answer is what the kernel says to a request.
type answer struct {
	err error
	// data is the payload of the one message that a question gets.
	data []byte
}

// ask has the kernel work off requests, all of them in order, and gives its
// answer to each.
func (n *Namespace) ask(requests []request) []answer {
	answers := make([]answer, len(requests))
	if len(requests) == 0 {
		return answers
	}
	for first := 0; first < len(requests); first += batchSize {
		last := min(first+batchSize, len(requests))
		if err := n.batch.send(requests[first:last], answers[first:last]); err != nil {
			fill(answers[first:], fmt.Errorf("talk to the kernel: %w", err))
			break
		}
	}
	return answers
}

func fill(answers []answer, err error) []answer {
	for i := range answers {
		answers[i].err = err
	}
	return answers
}

// send sends one batch and reads its answers. The kernel has worked it off
// when the system call returns (netlink_rcv_skb in net/netlink/af_netlink.c).
func (b *batch) send(requests []request, answers []answer) error {
	requests[len(requests)-1].setFlags(unix.NLM_F_ACK)
	first := b.number + 1
	if err := b.post(requests...); err != nil {
		return err
	}
	for {
		messages, err := b.receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			// Of one before the first it is huge.
			i := m.Header.Seq - first
			switch {
			case i >= uint32(len(requests)):
			case m.Header.Type != unix.NLMSG_ERROR:
				answers[i].data = bytes.Clone(m.Data)
			case i == uint32(len(requests)-1):
				answers[i].err = errorOf(m)
				return nil
			default:
				answers[i].err = errorOf(m)
			}
		}
	}
}

// post numbers requests and sends them.
func (b *batch) post(requests ...request) error {
	b.sent = b.sent[:0]
	for _, r := range requests {
		b.number++
		b.sent = append(b.sent, r.finished(b.number)...)
	}
	return unix.Sendto(b.socket.GetFd(), b.sent, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive gives messages that are good until the next call.
func (b *batch) receive() ([]syscall.NetlinkMessage, error) {
	for {
		size, err := unix.Read(b.socket.GetFd(), b.received[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return syscall.ParseNetlinkMessage(b.received[:size])
	}
}

// errorOf reads a struct nlmsgerr and, behind it, what the kernel has to say
// (netlink(7); NLMSGERR_ATTR_MSG).
func errorOf(m syscall.NetlinkMessage) error {
	if len(m.Data) < unix.SizeofNlMsgerr {
		return unix.EBADMSG
	}
	number := int32(binary.NativeEndian.Uint32(m.Data))
	if number == 0 {
		return nil
	}
	err := error(unix.Errno(-number))
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 {
		return err
	}
	for kind, value := range attributes(m.Data[unix.SizeofNlMsgerr:]) {
		if kind == nl.NLMSGERR_ATTR_MSG {
			err = fmt.Errorf("%w: %s", err, unix.ByteSliceToString(value))
		}
	}
	return err
}

// changeSide makes one change an item of a side, all of them in as few system
// calls as there are batches, and gives the items that it made the change for.
// asking gets the index of the item's link. judge turns the kernel's error
// into the caller's; nil says that there was nothing to change.
func changeSide[T plan.OnLink](k *Kernel, side plan.Side, items []T,
	asking func(link int, item T) (request, error), judge func(T, error) error,
) (made []T, err error) {
	if len(items) == 0 {
		return nil, nil
	}
	n, err := k.On(side)
	if err != nil {
		return nil, err
	}
	requests := make([]request, len(items))
	for i, item := range items {
		link, err := n.link(item.Dev())
		if err != nil {
			return nil, err
		}
		if requests[i], err = asking(link.Attrs().Index, item); err != nil {
			return nil, err
		}
	}
	answers := n.ask(requests)
	var errs []error
	for i, a := range answers {
		if a.err != nil {
			errs = append(errs, judge(items[i], a.err))
		}
	}
	if len(errs) == 0 {
		return items, nil
	}
	for i, a := range answers {
		if a.err == nil {
			made = append(made, items[i])
		}
	}
	return made, errors.Join(errs...)
}

// removeSide removes items of a side as far as they and their link are there.
func removeSide[T plan.OnLink](k *Kernel, side plan.Side, items []T, asking func(link int, item T) (request, error)) error {
	n, err := k.On(side)
	if errors.Is(err, errGone) || len(items) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", items[0], err)
	}
	there := make([]T, 0, len(items))
	for _, i := range items {
		_, err := n.link(i.Dev())
		if err == nil {
			there = append(there, i)
		} else if !isAbsent(err) {
			return fmt.Errorf("remove %s: %w", i, err)
		}
	}
	_, err = changeSide(k, side, there, asking, func(i T, err error) error {
		if isAbsent(err) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", i, err)
	})
	return err
}

package watch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// dump asks the kernel for all links or addresses of the host's namespace, which
// come as the events do that tell of a new one.
func dump(ask, answer uint16) ([]event, error) {
	req := nl.NewNetlinkRequest(int(ask), unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	messages, err := req.Execute(unix.NETLINK_ROUTE, answer)
	// What changed meanwhile is an event.
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the host's links and addresses: %w", err)
	}
	var all []event
	for _, data := range messages {
		if e, ok := decode(hosts, syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: answer}, Data: data}); ok {
			all = append(all, e)
		}
	}
	return all, nil
}

// number gives the namespace at a path its number in the host's, in which its
// events arrive. Nothing of it is kept open.
func number(path string) (int, error) {
	ns, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	fd := int(ns.Fd())
	nsid, err := netlink.GetNetNsIdByFd(fd)
	if err == nil && nsid < 0 {
		// Of two who give one, the second is refused.
		if err = netlink.SetNetNsIdByFd(fd, -1); err == nil || errors.Is(err, unix.EEXIST) {
			nsid, err = netlink.GetNetNsIdByFd(fd)
		}
	}
	if err == nil && nsid < 0 {
		err = errors.New("the kernel assigned it no ID")
	}
	if err != nil {
		return 0, fmt.Errorf("number %s: %w", path, err)
	}
	return nsid, nil
}

// linkInside finds a link in the namespace with a number, without entering it
// (IFLA_TARGET_NETNSID, since Linux 4.15).
func linkInside(nsid int, name string) (link, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(nsid))))
	messages, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil || len(messages) == 0 {
		return link{}, fmt.Errorf("look at %s in namespace %d: %w", name, nsid, errors.Join(err))
	}
	e, ok := decode(nsid, syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWLINK}, Data: messages[0]})
	if !ok {
		return link{}, fmt.Errorf("look at %s in namespace %d: the kernel's answer cannot be read", name, nsid)
	}
	if !e.link.far {
		// Its master is in the service's namespace (macvlan-vip's linkInContainer),
		// and that number would be another link's in the host's.
		e.link.lower = 0
	}
	return e.link, nil
}

// process names who has a netlink port, as far as that can be told: it is nearly
// always the process ID, of a process that may be gone by now.
func process(port uint32) string {
	if port == 0 || port > 1<<22 {
		return ""
	}
	comm, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(port), "comm"))
	if err != nil {
		return fmt.Sprintf("process %d, which has ended", port)
	}
	name, _, _ := strings.Cut(string(comm), "\n")
	return fmt.Sprintf("process %d (%s)", port, name)
}

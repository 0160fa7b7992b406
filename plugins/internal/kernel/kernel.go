// Package kernel observes and changes the kernel's network state in the two
// namespaces that an attachment spans. It is the only package that speaks
// rtnetlink (rtnetlink(7)) and writes below /proc/sys.
package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/plan"
)

func init() {
	// The kernel's own words for an EINVAL are worth more than the number.
	nl.EnableErrorMessageReporting = true
}

// Namespace is one network namespace: a netlink socket in it, and a way to
// run code in it.
type Namespace struct {
	side   plan.Side
	handle netlinksafe.Handle
	netns  *os.File
	path   string
	links  map[string]netlink.Link
	batch  *batch
}

// Kernel is the host's namespace and the service's.
type Kernel struct {
	Host *Namespace
	// Service is nil where the service's namespace is gone, as it can be at DEL.
	Service *Namespace
	// Unseen is why Service is nil where the namespace may still be there.
	Unseen error
}

// OpenHost opens the namespace that the process is in.
func OpenHost() (*Namespace, error) {
	here, err := current()
	if err != nil {
		return nil, fmt.Errorf("open the host's netns: %w", err)
	}
	return open(plan.Host, here)
}

// OpenService opens the namespace at a path. A path that is not there, or is
// no namespace, is a CNI error 8 (CNI_NETNS is no valid namespace).
func OpenService(path string) (*Namespace, error) {
	err := ns.IsNSorErr(path)
	if err != nil {
		return nil, netnsError(path, err)
	}
	target, err := os.Open(path)
	if err != nil {
		return nil, netnsError(path, err)
	}
	n, err := open(plan.Service, target)
	if err == nil {
		n.path = path
	}
	return n, err
}

// IsGone tells whether OpenService failed because there is no namespace at
// the path (any more), which is no failure for DEL.
func IsGone(err error) bool {
	var missing ns.NSPathNotExistErr
	var other ns.NSPathNotNSErr
	return errors.As(err, &missing) || errors.As(err, &other)
}

func netnsError(path string, err error) error {
	problem := "cannot be opened"
	var other ns.NSPathNotNSErr
	var missing ns.NSPathNotExistErr
	switch {
	case errors.As(err, &missing):
		problem = "does not exist"
	case errors.As(err, &other):
		problem = "is not a network namespace"
	}
	return &cnierr.Error{
		Code:   types.ErrInvalidNetNS,
		Text:   fmt.Sprintf("CNI_NETNS: %q %s", path, problem),
		Remedy: "create it with `ip netns add`, and pass its path under /run/netns",
		Cause:  err,
	}
}

func open(side plan.Side, target *os.File) (*Namespace, error) {
	n := &Namespace{side: side, netns: target, links: map[string]netlink.Link{}}
	err := n.Do(func() (err error) {
		n.handle, err = netlinksafe.NewHandle(unix.NETLINK_ROUTE)
		if err == nil {
			n.batch, err = openBatch()
		}
		return err
	})
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("open netlink in the %s's netns: %w", side, err)
	}
	return n, nil
}

// current opens the namespace that the calling thread is in, by a socket. The file for it,
// /proc/PID/task/TID/ns/net, would have the kernel forget the thread's directory when the
// thread ends, for which whoever waits for the process spins (shrink_dcache_parent in
// fs/dcache.c).
func current() (*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(socket) }()
	fd, err := unix.IoctlRetInt(socket, unix.SIOCGSKNS)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netns"), nil
}

// Close releases the namespace.
func (n *Namespace) Close() {
	if n == nil {
		return
	}
	n.handle.Close()
	if n.batch != nil {
		n.batch.socket.Close()
	}
	n.netns.Close()
}

// Do runs a function on a thread that is in the namespace.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error)
	go func() {
		// A thread that cannot go back ends with its goroutine.
		runtime.LockOSThread()
		home, err := current()
		if err == nil {
			defer home.Close()
			err = n.visit(home, f)
		}
		done <- err
	}()
	return <-done
}

// visit runs a function in the namespace, on the calling thread, whose own is home.
func (n *Namespace) visit(home *os.File, f func() error) error {
	if err := unix.Setns(int(n.netns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the %s's netns: %w", n.side, err)
	}
	defer func() {
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Same tells whether two namespaces, both of them open, are one.
func (n *Namespace) Same(o *Namespace) bool {
	a, b := inode(int(n.netns.Fd())), inode(int(o.netns.Fd()))
	return a != 0 && a == b
}

// inode is the number of a namespace's file, which another namespace gets
// once this one is gone; 0 where it cannot be read.
func inode(fd int) uint64 {
	var stat unix.Stat_t
	if unix.Fstat(fd, &stat) != nil {
		return 0
	}
	return stat.Ino
}

// Identity names the namespace by what no other namespace has before the next
// boot, unlike its path: the cookie (SO_NETNS_COOKIE, since Linux 5.14), or
// else the inode's number, which can be used again, and the boot's.
func (n *Namespace) Identity() (string, error) {
	if cookie, ok := cookie(n.batch.socket.GetFd()); ok {
		return cookie, nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("identify the %s's netns: %w", n.side, err)
	}
	return fmt.Sprintf("netns-inode-%d-boot-%s", inode(int(n.netns.Fd())), strings.TrimSpace(string(boot))), nil
}

// cookie names the namespace that a socket belongs to.
func cookie(socket int) (name string, ok bool) {
	number, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return fmt.Sprintf("netns-%d", number), err == nil
}

// HostScope names the network namespace that the process is in by a number
// that no other namespace gets until the next boot (SO_NETNS_COOKIE, since
// Linux 5.14; before that, the inode's, which can be used again).
func HostScope() (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("identify the host's netns: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if cookie, ok := cookie(fd); ok {
		return cookie, nil
	}
	var stat unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), &stat); err != nil {
		return "", fmt.Errorf("identify the host's netns: %w", err)
	}
	return fmt.Sprintf("netns-inode-%d", stat.Ino), nil
}

// On gives the namespace of a side, or an error where that namespace is gone.
func (k *Kernel) On(side plan.Side) (*Namespace, error) {
	switch {
	case side == plan.Host:
		return k.Host, nil
	case k.Service != nil:
		return k.Service, nil
	case k.Unseen != nil:
		return nil, k.Unseen
	}
	return nil, errGone
}

// ServicePath is the path at which the service's namespace was opened; empty where
// that is gone.
func (k *Kernel) ServicePath() string {
	if k.Service == nil {
		return ""
	}
	return k.Service.path
}

var errGone = errors.New("the service's netns is gone")

// Close releases both namespaces.
func (k *Kernel) Close() {
	k.Host.Close()
	k.Service.Close()
}

// link looks a link up by name, once a process.
func (n *Namespace) link(name string) (netlink.Link, error) {
	if l, ok := n.links[name]; ok {
		return l, nil
	}
	l, err := n.handle.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: link %s: %w", n.side, name, err)
	}
	n.links[name] = l
	return l, nil
}

// Refresh forgets what was looked up.
func (n *Namespace) Refresh() { clear(n.links) }

func isNotFound(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing) || errors.Is(err, unix.ENODEV) || errors.Is(err, os.ErrNotExist)
}

// isAbsent tells whether what was to be removed is not there.
func isAbsent(err error) bool {
	return isNotFound(err) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// make creates the namespace, in place of a stale one.
func (n *Netns) make() error {
	n.waitForTurn()
	return onHost(func() error {
		n.takeOut()
		if err := n.clearTheWay(); err != nil {
			return err
		}
		return n.addName()
	})
}

// takeOut removes from a namespace that is to lose its name what was attached to it and no
// plugin has removed. A process may hold it, and its VIPs would go on answering.
func (n *Netns) takeOut() {
	at, err := vnetns.GetFromPath(n.Path)
	if err != nil {
		return // Nothing has the name, or a plain file.
	}
	defer func() { _ = at.Close() }()
	inside, err := netlinksafe.NewHandleAt(at, unix.NETLINK_ROUTE)
	if err != nil {
		return
	}
	defer inside.Close()
	known, _ := cnitool.Known(n.Namespace)
	for _, a := range known {
		for _, i := range cnitool.Result(a).Interfaces {
			link, err := inside.LinkByName(i.Name)
			// Whatever namespace has the name now, a link of that MAC is the recorded one.
			if err != nil || i.Sandbox == "" || link.Attrs().HardwareAddr.String() != i.Mac {
				continue
			}
			if err := inside.LinkDel(link); err != nil {
				n.Say(sdlog.LevelWarning, "remove %s from the namespace: %v", i.Name, err)
			}
		}
	}
}

// addName does what `ip netns add` does, with a process less.
func (n *Netns) addName() error {
	if err := n.shareDir(); err != nil {
		return fmt.Errorf("make namespace %s: %w", n.Name, err)
	}
	// On a thread of its own, which from here on is in the new namespace.
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := joinHost(); err != nil {
			made <- err
			return
		}
		at, err := vnetns.NewNamed(n.Name)
		if err != nil {
			made <- fmt.Errorf("make namespace %s: %w", n.Name, err)
			return
		}
		n.forgetHosts()
		made <- at.Close()
	}()
	return <-made
}

// forgetHosts sets back what a new namespace, which the thread is in, has of the host's
// IPv4 settings (net.core.devconf_inherit_init_net in Documentation/admin-guide/sysctl/net.rst).
// A service on two LANs that forwards is a way around the host's firewall, and the
// larger of arp_ignore for all links and of a link's own counts: with 2 nobody but
// its subnet resolves a VIP, of a /32 nobody at all. With route_localnet the LAN reaches
// the service's localhost, and by a forwarded port the host's.
func (n *Netns) forgetHosts() {
	for _, key := range []string{"ip_forward", "conf/all/arp_ignore", "conf/all/route_localnet"} {
		path := "/proc/sys/net/ipv4/" + key
		value, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(value)) != "0" {
			err = os.WriteFile(path, []byte("0"), 0)
		}
		if err != nil {
			n.Say(sdlog.LevelWarning, "%v", err)
		}
	}
}

// forgetHostsIn is forgetHosts for the namespace of a process. The thread stays there.
func (n *Netns) forgetHostsIn(pid string) {
	at, err := vnetns.GetFromPath("/proc/" + pid + "/ns/net")
	if err == nil {
		err = errors.Join(vnetns.Set(at), at.Close())
	}
	if err != nil {
		n.Say(sdlog.LevelWarning, "enter the namespace of process %s: %v", pid, err)
		return
	}
	n.forgetHosts()
}

// shareDir makes the folder of names a mount of its own that all mount
// namespaces share, as ip(8) does: otherwise its next `ip netns add` would put
// one on top of our names. Everybody may read the names, whatever the unit's UMask=.
func (n *Netns) shareDir() error {
	err := os.Mkdir(settings.NetnsDir, 0o755)
	if made := err == nil; !made && !errors.Is(err, fs.ErrExist) {
		return err
	} else if made {
		// Not before it is a mount: whoever may read it can lock it.
		defer func() { _ = os.Chmod(settings.NetnsDir, 0o755) }()
	}
	if err := setShared(); !errors.Is(err, unix.EINVAL) {
		return err
	}
	// It is no mount. Of two at a time that make it one, the later would hide the names of
	// the earlier.
	unlock, err := n.lockDir()
	if err != nil {
		return err
	}
	defer unlock()
	if err := setShared(); !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := mountDir(); err != nil {
		return fmt.Errorf("mount %s: %w", settings.NetnsDir, err)
	}
	return setShared()
}

// mountDir makes the folder of names a file system of its own. ip(8) mounts the folder on
// itself, after which each name is two mounts, there and in what is below, and systemd goes
// through all mounts for each service with a sandbox. Names that are there already stay.
func mountDir() error {
	names, err := os.ReadDir(settings.NetnsDir)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		options := "mode=755"
		label := make([]byte, 256)
		// Of SELinux, which gives the root of a new file system another one.
		if n, err := unix.Lgetxattr(settings.NetnsDir, "security.selinux", label); err == nil {
			options += fmt.Sprintf(",rootcontext=%q", strings.TrimRight(string(label[:n]), "\x00"))
		}
		if unix.Mount("netns", settings.NetnsDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options) == nil {
			return nil
		}
	}
	return unix.Mount(settings.NetnsDir, settings.NetnsDir, "none", unix.MS_BIND|unix.MS_REC, "")
}

func setShared() error {
	if err := unix.Mount("", settings.NetnsDir, "none", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share %s: %w", settings.NetnsDir, err)
	}
	return nil
}

// dirLockTimeout bounds the wait for the lock of the folder of names, which ip(8) and the
// shim hold for as long as two system calls take.
const dirLockTimeout = 2 * time.Second

// lockDir takes the lock of the folder of names, which ip takes, too. Any user can hold it,
// to keep services from starting: one that is held for long is nobody's who makes a mount.
func (n *Netns) lockDir() (unlock func(), err error) {
	dir, err := os.Open(settings.NetnsDir)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(dirLockTimeout); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		busy := errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR)
		if err != nil && !busy {
			dir.Close()
			return nil, fmt.Errorf("lock %s: %w", settings.NetnsDir, err)
		}
		if busy && time.Now().Before(deadline) {
			continue
		}
		if busy {
			n.Say(sdlog.LevelWarning, "%s: a process has locked it for more than %v (`lslocks` names it): going on without the lock", settings.NetnsDir, dirLockTimeout)
		}
		return func() { dir.Close() }, nil
	}
}

// clearTheWay removes a stale name, and creates the directories that the
// sandbox can let its processes write to only if they are there. By the unit's UMask= they
// are root's alone, as where libcni or upstream's dhcp makes them: what is configured for
// services is in there.
func (n *Netns) clearTheWay() error {
	for _, dir := range []string{"/run/cni", "/var/lib/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return n.removeName()
}

// remove removes the namespace, which goes when its last process does. It comes
// last of all, and fails if something was left to be undone: of that, the links go now,
// while they can be found by the name.
func (n *Netns) remove() error {
	var err error
	if n.untouched() {
		n.Say(sdlog.LevelWarning, "not all has been undone, see above: doing it without the sandbox")
		err = n.tryUndo()
	}
	undone := n.undone()
	return errors.Join(err, undone, onHost(func() error {
		if undone != nil {
			n.takeOut()
		}
		return n.removeName()
	}))
}

// removeName does what `ip netns delete` does. A plain file, which something
// else has made, goes as well.
func (n *Netns) removeName() error {
	err := unix.Unmount(n.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove namespace %s: %w", n.Name, err)
	}
	return files.RemoveIfThere(n.Path)
}

func (n *Netns) clear() error { return errors.Join(n.tryUndo(), n.remove()) }

// attach gives the namespace of the shim's process a name, the article's way.
func (n *Netns) attach() error {
	var pid string
	err := units.Do(func(ctx context.Context, sd *units.Systemd) error {
		shim, err := sd.Unit(ctx, n.Shim())
		if err == nil {
			pid = fmt.Sprint(shim.MainPID)
		}
		return err
	})
	if err != nil {
		return err
	}
	return onHost(func() error {
		if err := n.clearTheWay(); err != nil {
			return err
		}
		if err := n.nameThatOf(pid); err != nil {
			return err
		}
		n.forgetHostsIn(pid)
		return nil
	})
}

// nameThatOf does what `ip netns attach` does, which waits for the folder's lock for ever.
func (n *Netns) nameThatOf(pid string) error {
	if err := n.shareDir(); err != nil {
		return fmt.Errorf("name the namespace of process %s: %w", pid, err)
	}
	file, err := os.OpenFile(n.Path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("name the namespace of process %s: %w", pid, err)
	}
	file.Close()
	if err := unix.Mount("/proc/"+pid+"/ns/net", n.Path, "none", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("name the namespace of process %s: %w", pid, err), files.RemoveIfThere(n.Path))
	}
	return nil
}

// onHost runs a function, and what it starts, in the first process's mount
// namespace. A sandboxed unit has one of its own even for a command without
// restrictions, and a namespace's name made in there would be a plain file for
// all others.
func onHost(f func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := joinHost(); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func joinHost() error {
	const theirs = "/proc/1/ns/mnt"
	host, err := os.Readlink(theirs)
	if err != nil {
		return fmt.Errorf("join the host's mount namespace: %w", err)
	}
	// Not the process's, which is that of its first thread.
	if own, err := os.Readlink("/proc/thread-self/ns/mnt"); err != nil || own == host {
		return err
	}
	fd, err := unix.Open(theirs, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("join the host's mount namespace: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	// Threads share their root and working folder, which a mount namespace has
	// its own of.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("join the host's mount namespace: %w", err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("join the host's mount namespace: %w", err)
	}
	return nil
}

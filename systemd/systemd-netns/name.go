package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"

	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// make makes the namespace, in place of one that was left.
func (n *netns) make() error {
	return onHost(func() error {
		if err := n.clearTheWay(); err != nil {
			return err
		}
		return n.addName()
	})
}

// addName does what `ip netns add` does, with a process less.
func (n *netns) addName() error {
	unlock, err := shareDir()
	if err != nil {
		return fmt.Errorf("make namespace %s: %w", n.name, err)
	}
	defer unlock()
	// On a thread of its own, which from here on is in the new namespace.
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := joinHost(); err != nil {
			made <- err
			return
		}
		at, err := vnetns.NewNamed(n.name)
		if err != nil {
			made <- fmt.Errorf("make namespace %s: %w", n.name, err)
			return
		}
		made <- at.Close()
	}()
	return <-made
}

// shareDir makes the folder of names a mount of its own that all mount
// namespaces share, as ip(8) does: otherwise its next `ip netns add` would put
// one on top of our names. The lock is ip's, too.
func shareDir() (unlock func(), err error) {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.Open(netnsDir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		dir.Close()
		return nil, err
	}
	err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) {
		if err = unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("share %s: %w", netnsDir, err)
	}
	return func() { dir.Close() }, nil
}

// clearTheWay removes a name that was left, and makes the folders that the
// sandbox can let its processes write to only if they are there.
func (n *netns) clearTheWay() error {
	for _, dir := range []string{"/run/cni", "/var/lib/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return n.removeName()
}

// remove removes the namespace, which goes when its last process does.
func (n *netns) remove() error { return onHost(n.removeName) }

// removeName does what `ip netns delete` does. A plain file, which something
// else has made, goes as well.
func (n *netns) removeName() error {
	err := unix.Unmount(n.path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove namespace %s: %w", n.name, err)
	}
	return removeIfThere(n.path)
}

func (n *netns) clear() error {
	return errors.Join(n.undo(), n.remove())
}

// attach gives the namespace of the shim's process a name, the article's way.
func (n *netns) attach() error {
	pid, err := show("MainPID", n.shim())
	if err != nil {
		return err
	}
	return onHost(func() error {
		if err := n.clearTheWay(); err != nil {
			return err
		}
		return output("ip", "netns", "attach", n.name, pid)
	})
}

func (n *netns) shim() string { return "systemd-netns@" + n.name + ".service" }

// rename gives the namespace its name back: `ip netns delete` takes away the
// name alone while processes live in the namespace, of a service or, the
// article's way, of the shim. Where none does, it is made again.
func (n *netns) rename() error {
	if n.exists() {
		return nil
	}
	users, err := show("BoundBy", n.shim())
	if err != nil {
		return err
	}
	pids, err := show("MainPID", append(strings.Fields(users), n.shim())...)
	if err != nil {
		return err
	}
	return onHost(func() error {
		for _, pid := range strings.Fields(pids) {
			if pid == "0" || onHostsNetwork(pid) || output("ip", "netns", "attach", n.name, pid) != nil {
				continue
			}
			n.say(levelNotice, "somebody removed the name of this namespace; it is back")
			return nil
		}
		n.say(levelNotice, "somebody removed this namespace; it is made again")
		return n.addName()
	})
}

// onHostsNetwork is true for a service that was not restarted since it got its
// drop-in, and for one that is gone.
func onHostsNetwork(pid string) bool {
	its, err := os.Readlink("/proc/" + pid + "/ns/net")
	if err != nil {
		return true
	}
	own, err := os.Readlink("/proc/thread-self/ns/net")
	return err != nil || its == own
}

// settle has the shim put the namespace's name right, if that is missing.
func (n *netns) settle() error {
	if n.exists() {
		return nil
	}
	unit := n.shim()
	if pid, err := show("MainPID", unit); err == nil && pid != "0" {
		unit = "systemd-netns-access@" + n.name + ".service"
	}
	return output("systemctl", "reload", unit)
}

// show asks systemd for a property of units, one a line.
func show(property string, units ...string) (string, error) {
	args := append([]string{"show", "--property=" + property, "--value", "--"}, units...)
	out, err := exec.Command("systemctl", args...).Output()
	if err != nil {
		return "", failure("systemctl", args, err, "")
	}
	return strings.TrimSpace(string(out)), nil
}

// output runs a command, whose output is its error's text.
func output(command string, args ...string) error {
	out, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		return failure(command, args, err, string(out))
	}
	return nil
}

func failure(command string, args []string, err error, out string) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && out == "" {
		out = string(exit.Stderr)
	}
	return fmt.Errorf("%s %s: %w: %s", command, strings.Join(args, " "), err, strings.TrimSpace(out))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
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

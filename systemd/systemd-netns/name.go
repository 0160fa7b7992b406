package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// make makes the namespace, in place of one that was left.
func (n *netns) make() error {
	return onHost(func() error {
		if err := n.clearTheWay(); err != nil {
			return err
		}
		return output("ip", "netns", "add", n.name)
	})
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

func (n *netns) removeName() error {
	if !n.exists() {
		return nil
	}
	if err := output("ip", "netns", "delete", n.name); err != nil {
		// A plain file, which something that is no `ip netns add` has made.
		return removeIfThere(n.path)
	}
	return nil
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
		return output("ip", "netns", "add", n.name)
	})
}

// onHostsNetwork is true for a service that was not restarted since it got its
// drop-in, and for one that is gone.
func onHostsNetwork(pid string) bool {
	its, err := os.Readlink("/proc/" + pid + "/ns/net")
	if err != nil {
		return true
	}
	own, err := os.Readlink("/proc/self/ns/net")
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
	if own, err := os.Readlink("/proc/self/ns/mnt"); err != nil || own == host {
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

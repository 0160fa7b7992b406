// Package enter runs functions and programs in a network namespace.
package enter

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// Do runs a function on a thread that is in the network namespace at a path.
// Sockets that it opens stay there.
func Do(path string, f func() error) error {
	return ns.WithNetNSPath(path, func(ns.NetNS) error { return f() })
}

// ReadFile reads a file as a process sees it, whose path has no slash before it. By a path below
// /proc/PID/root alone, a symbolic link to an absolute path would lead to this process's own file.
func ReadFile(pid uint32, path string) (string, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", err
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	text, err := io.ReadAll(file)
	return string(text), err
}

// Host makes this program go on in the host's network namespace, if it was started in another,
// as from a shell that sshd gives in a namespace. It starts the program again, since other
// threads would stay behind. Who may not join it, as a user, goes on here.
func Host() {
	const theirs = "/proc/1/ns/net"
	host, err := os.Readlink(theirs)
	if err != nil {
		return
	}
	if own, err := os.Readlink("/proc/self/ns/net"); err != nil || own == host {
		return
	}
	runtime.LockOSThread()
	if join(theirs) != nil {
		runtime.UnlockOSThread()
		return
	}
	// If that fails, this thread alone looks at the host.
	_ = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}

func join(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("join network namespace %s: %w", path, err)
	}
	return nil
}

// Exec replaces this process by a program in the network namespace at a path,
// which sees that namespace's /sys and, if there is such a file, its resolv.conf.
// It returns only if that fails.
func Exec(path, resolvConf string, argv []string) error {
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := join(path); err != nil {
		return err
	}
	// As ip-netns(8) does: mounts of its own, which go with the process.
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "none", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts from the host: %w", err)
	}
	_ = unix.Unmount("/sys", unix.MNT_DETACH)
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if _, err := os.Stat(resolvConf); err == nil {
		if err := unix.Mount(resolvConf, "/etc/resolv.conf", "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s over /etc/resolv.conf: %w", resolvConf, err)
		}
	}
	return fmt.Errorf("%s: %w", program, syscall.Exec(program, argv, os.Environ()))
}

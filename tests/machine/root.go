package machine

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultSuite is what the machines run: Debian 12 with systemd 252, or what
// DEBIAN_SUITE names, such as trixie with systemd 257.
func DefaultSuite() string { return cmp.Or(os.Getenv("DEBIAN_SUITE"), "bookworm") }

// kernelPackages are what a machine has besides that boots a kernel.
var kernelPackages = []string{platforms[""].kernelPackage, "kmod", "udev"}

// packages are what the machines of all tests have: one root is made sooner
// than several are. Those that run services of their own are the exception.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "iproute2", "iputils-arping", "iputils-ping", "procps", "curl", "haproxy", "socat", "util-linux",
	"make", "man-db", "nftables", "rpm", "sudo", "tcpdump",
}

// What some tests' machines have besides: see With.
var (
	// Managers are all cluster managers, so that one root does for them.
	Managers = []string{"pacemaker", "corosync", "crmsh", "keepalived"}
	Resolved = resolved()
)

// resolved is a package of its own since Debian 12.
func resolved() []string {
	if DefaultSuite() == "bullseye" {
		return nil
	}
	return []string{"systemd-resolved"}
}

// Roots makes all roots that tests use.
func Roots() error {
	for _, more := range [][]string{nil, Managers, Resolved} {
		if _, err := Root(DefaultSuite(), more...); err != nil {
			return err
		}
	}
	return nil
}

// Top finds the project's folder, which holds go.mod.
func Top() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", fmt.Errorf("no go.mod in this folder or above it")
		}
	}
}

// Root makes the root file system that machines share, read-only, with more
// packages if a test needs them, and gives its path. It is kept in build/ under
// a name that changes with what is in it, so that it is made once; another
// process that wants it waits.
func Root(suite string, more ...string) (string, error) {
	top, err := Top()
	if err != nil {
		return "", err
	}
	build := filepath.Join(top, "build")
	if err := os.MkdirAll(build, 0o755); err != nil {
		return "", err
	}
	include := slices.Concat(packages, more)
	sum := sha256.Sum256([]byte(suite + strings.Join(include, " ")))
	root := filepath.Join(build, fmt.Sprintf("root-%s-%x", suite, sum[:4]))
	// It gets its name when it is whole, so one that is there need not wait
	// while another is made.
	if exists(root) {
		return root, nil
	}
	unlock, err := lock(filepath.Join(build, "root.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(root) {
		return root, nil
	}
	return root, makeRoot(root, suite, include)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func makeRoot(root, suite string, include []string) error {
	tmp := root + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	cmd := exec.Command("mmdebstrap", "--quiet", "--variant=minbase",
		// Nobody searches the manual pages, whose index takes a minute.
		`--essential-hook=echo "man-db man-db/auto-update boolean false" | chroot "$1" debconf-set-selections || true`,
		"--include="+strings.Join(include, ","), suite, tmp)
	cmd.Stderr = os.Stderr
	// Machines boot by an initial RAM disk of the tests' own, which is far
	// smaller than the one that a kernel's package would take half a minute for.
	cmd.Env = append(os.Environ(), "INITRD=No")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make a Debian root with mmdebstrap: %w", err)
	}
	// A machine of its own, not a copy of this one.
	if err := os.WriteFile(filepath.Join(tmp, "etc/hostname"), []byte("utility\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, root)
}

func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}

package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// platform is what QEMU emulates.
type platform struct {
	program, machine, cpu string
	// devices are those that another platform does not have by these names,
	// the console among them, which writes to the character device "console".
	devices []string
	// console is what the kernel calls it.
	console string
	// kernelPackage is Debian's.
	kernelPackage string
}

// platforms are known by Debian's and Go's common name; "" is this machine's.
// Its CPU is an old one, without AVX: with all that QEMU 7.2 emulates a machine needs an
// eighth more time.
var platforms = map[string]platform{
	"": {
		"qemu-system-x86_64", "q35,sata=off", "Westmere",
		[]string{"-serial", "chardev:console", "-global", "virtio-net-pci.romfile="}, "ttyS0", "linux-image-amd64",
	},
	"arm64": {
		"qemu-system-aarch64", "virt", "cortex-a57",
		[]string{"-serial", "chardev:console", "-global", "virtio-net-pci.romfile="}, "ttyAMA0", "linux-image-arm64",
	},
	// Big-endian.
	"s390x": {
		"qemu-system-s390x", "s390-ccw-virtio", "max",
		[]string{"-device", "sclpconsole,chardev=console"}, "ttysclp0", "linux-image-s390x",
	},
}

// foreignPackages are those of a machine of another architecture, with the
// essential ones that programs expect and nothing depends on.
var foreignPackages = []string{
	"base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "findutils", "grep", "gzip", "hostname", "init-system-helpers",
	"libc-bin", "login", "mount", "ncurses-base", "perl-base", "sed", "sysvinit-utils", "tar",
	"systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "iputils-ping", "procps", "curl", "haproxy", "util-linux",
}

func rootFor(o options) (string, error) {
	if o.arch == "" {
		return Root(o.suite, o.packages...)
	}
	p, ok := platforms[o.arch]
	if !ok {
		return "", fmt.Errorf("no machine of architecture %q; there are arm64 and s390x", o.arch)
	}
	top, err := Top()
	if err != nil {
		return "", err
	}
	root := filepath.Join(top, "build", "root-"+o.suite+"-"+o.arch)
	unlock, err := lock(root + ".making")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(root) {
		return root, nil
	}
	return root, makeForeignRoot(root, o.suite, o.arch, append(foreignPackages, p.kernelPackage))
}

// makeForeignRoot unpacks packages, which this machine can do, and does what is
// needed of what their scripts would do, which it cannot run.
func makeForeignRoot(root, suite, arch string, packages []string) error {
	tmp := root + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	cmd := exec.Command("mmdebstrap", "--quiet", "--variant=extract", "--architectures="+arch, "--include="+strings.Join(packages, ","), suite, tmp)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("unpack Debian packages with mmdebstrap: %w", err)
	}
	if err := configure(tmp); err != nil {
		return fmt.Errorf("configure the root: %w", err)
	}
	// The index of the modules, for udev and for the initial RAM disk.
	script := `for dir in "$1"/lib/modules/*; do depmod -b "$1" "${dir##*/}"; done`
	if out, err := exec.Command("sh", "-euc", script, "sh", tmp).CombinedOutput(); err != nil {
		return fmt.Errorf("depmod: %w: %s", err, out)
	}
	return os.Rename(tmp, root)
}

// configure makes the accounts that the packages' scripts would, and enables
// what a machine of the tests needs.
func configure(root string) error {
	accounts := map[string]string{
		"passwd": "messagebus:x:100:100::/nonexistent:/usr/sbin/nologin\nhaproxy:x:101:101::/var/lib/haproxy:/usr/sbin/nologin\n",
		"group":  "messagebus:x:100:\nhaproxy:x:101:\n",
	}
	for name, more := range accounts {
		base, err := os.ReadFile(filepath.Join(root, "usr/share/base-passwd", name+".master"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, "etc", name), append(base, more...), 0o644); err != nil {
			return err
		}
	}
	// Without an identity the boot would be a first one, which asks questions.
	files := map[string]string{"hostname": "utility\n", "machine-id": "0123456789abcdef0123456789abcdef\n"}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// installFor installs the project's tarball of another architecture.
func (m *Machine) installFor(arch string) error {
	top, err := Top()
	if err != nil {
		return err
	}
	dist := filepath.Join(m.dir, "dist")
	script := `make -C "$1" tarball ARCH="$2" DIST="$3" && tar -C "$4" --strip-components=1 -xzf "$3"/*.tar.gz && rm -r "$3"`
	out, err := exec.Command("sh", "-euc", script, "sh", top, arch, dist, m.Path("")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("install the tarball for %s: %w: %s", arch, err, out)
	}
	return nil
}

package machine

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// image is a root file system as a virtual machine boots it.
type image struct {
	disk string
	kernel
}

// kernel is the distribution's own, as it is in the root, and the initial RAM
// disk that mounts the root.
type kernel struct{ image, initrd string }

// freeSpace is what the disk of a machine has left, in bytes; the file is sparse.
const freeSpace = 2 << 30

// makeImage makes the disk of a root, beside it, once, and the initial RAM
// disk of its kernel.
func makeImage(root, arch string) (image, error) {
	found, err := filepath.Glob(root + "/boot/vmlinuz-*")
	if err != nil {
		return image{}, fmt.Errorf("kernels in %s: %w", root, err)
	}
	if len(found) != 1 {
		return image{}, fmt.Errorf("kernels in %s: %v; want one", root, found)
	}
	version := strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	im := image{disk: root + ".ext4", kernel: kernel{image: found[0]}}
	unlock, err := lock(root + ".lock")
	if err != nil {
		return image{}, err
	}
	defer unlock()
	if !exists(im.disk) {
		if err := makeDisk(root, im.disk); err != nil {
			return image{}, err
		}
	}
	im.initrd, err = makeInitrd(root, version, arch)
	return im, err
}

// makeDisk makes a file system without what a kernel before 6.0 can't mount.
func makeDisk(root, disk string) error {
	size, err := treeSize(root)
	if err != nil {
		return err
	}
	tmp := disk + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extents,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize",
		"-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", "0", "-N", "200000", "-d", root, tmp, fmt.Sprintf("%dk", (size+size/10+freeSpace)>>10)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, out)
	}
	return os.Rename(tmp, disk)
}

// treeSize is the size of the files below a folder, in bytes.
func treeSize(root string) (size int64, err error) {
	err = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// The modules that the initial RAM disk loads: those of the disk and its file
// system, and those of the other devices, so that nobody has to wait for udev.
// One that a kernel has built in, or has not, is left out.
var bootModules = []string{"virtio_pci", "virtio_blk", "crc32c_generic", "crc32c-generic", "ext4", "virtio_console", "virtio_net", "virtio-rng"}

// makeInitrd makes the initial RAM disk: the agent as /init, and modules in
// the order in which they are to be loaded.
func makeInitrd(root, version, arch string) (string, error) {
	agent, err := agentFor(arch)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "initrd-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(dir+"/modules", 0o755); err != nil {
		return "", err
	}
	if err := copyFile(agent, dir+"/init"); err != nil {
		return "", err
	}
	modules, err := moduleOrder(filepath.Join(root, "lib/modules", version))
	if err != nil {
		return "", err
	}
	for i, path := range modules {
		base, compression, _ := strings.Cut(filepath.Base(path), ".ko")
		to := fmt.Sprintf("%s/modules/%02d-%s.ko", dir, i, base)
		if err := copyFile(path, to+compression); err != nil {
			return "", err
		}
		if compression != "" {
			if out, err := exec.Command("xz", "-d", to+compression).CombinedOutput(); err != nil {
				return "", fmt.Errorf("xz: %w: %s", err, out)
			}
		}
	}
	initrd := root + ".initrd"
	out, err := exec.Command("sh", "-euc", `cd "$1" && find . | cpio --quiet -o -H newc >"$2.tmp" && mv "$2.tmp" "$2"`, "sh", dir, initrd).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cpio: %w: %s", err, out)
	}
	return initrd, nil
}

// moduleOrder gives the paths of the modules that are loaded at boot, each
// after those that it needs (modules.dep(5)).
func moduleOrder(dir string) ([]string, error) {
	file, err := os.Open(dir + "/modules.dep")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	needs := map[string][]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		path, others, _ := strings.Cut(lines.Text(), ":")
		name, _, _ := strings.Cut(filepath.Base(path), ".ko")
		// Those that are needed first are listed last.
		all := strings.Fields(others)
		slices.Reverse(all)
		needs[name] = append(all, path)
	}
	var order []string
	for _, name := range bootModules {
		for _, path := range needs[name] {
			if path = filepath.Join(dir, path); !slices.Contains(order, path) {
				order = append(order, path)
			}
		}
	}
	return order, nil
}

// Agent builds this machine's agent, static, and gives its path.
var Agent = sync.OnceValues(func() (string, error) {
	if given := os.Getenv("MACHINE_AGENT"); given != "" {
		return given, nil
	}
	return buildAgent("machine-agent")
})

// agentFor is Agent for an architecture; "" is this machine's.
func agentFor(arch string) (string, error) {
	if arch == "" {
		return Agent()
	}
	return buildAgent("machine-agent-"+arch, "GOARCH="+arch)
}

func buildAgent(name string, env ...string) (string, error) {
	top, err := Top()
	if err != nil {
		return "", err
	}
	path := filepath.Join(top, "build", name)
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "./tests/machine/agent")
	cmd.Dir, cmd.Env = top, append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return path, nil
}

const agentUnit = `[Unit]
Description=Agent of the tests
DefaultDependencies=no
[Service]
ExecStart=/usr/lib/machine-agent
# What the host is asked for is asked from here: not by a slice's filter.
IPAddressAllow=any
`

// stageAgent puts the agent into a machine, to be started as soon as can be.
func stageAgent(m *Machine, arch string) error {
	agent, err := agentFor(arch)
	if err != nil {
		return err
	}
	return errors.Join(
		copyFile(agent, m.Path("usr/lib/machine-agent")),
		m.stage("etc/systemd/system/machine-agent.service", agentUnit),
		m.stageLink("etc/systemd/system/sysinit.target.wants/machine-agent.service", "../machine-agent.service"),
	)
}

// copyFile copies a file, which becomes executable.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// packLayer packs the upper layer of an overlay file system into a tar archive.
func packLayer(layer, to string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(out)
	err = filepath.Walk(layer, func(path string, info fs.FileInfo, err error) error {
		if err != nil || path == layer {
			return err
		}
		return pack(archive, layer, path, info)
	})
	return errors.Join(err, archive.Close(), out.Close())
}

func pack(archive *tar.Writer, layer, path string, info fs.FileInfo) error {
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	if h.Name, err = filepath.Rel(layer, path); err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	h.Uid, h.Gid, h.Uname, h.Gname = int(st.Uid), int(st.Gid), "", ""
	if err := archive.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(archive, in)
	return err
}

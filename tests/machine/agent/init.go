package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// newRoot is where the root file system is mounted until it becomes /.
	newRoot = "/root"
	sys     = "/sys"
)

// initialize goes from the initial RAM disk to the machine's own init, and
// returns only with an error.
func initialize() error {
	if err := mount("devtmpfs", "/dev", "devtmpfs", 0); err != nil {
		return err
	}
	if err := mount("sysfs", sys, "sysfs", 0); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := mountDisks(); err != nil {
		return err
	}
	if err := unix.Unmount(sys, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", sys, err)
	}
	if err := unix.Mount("/dev", newRoot+"/dev", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /dev: %w", err)
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root file system: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Exec("/sbin/init", []string{"/sbin/init"}, os.Environ())
}

// mountDisks mounts the root file system, and puts the machine's files there if the
// kernel's command line, which is init's environment, says that there are some.
func mountDisks() error {
	root, err := disk("root")
	if err != nil {
		return err
	}
	if err := mount(root, newRoot, "ext4", 0); err != nil {
		return err
	}
	if os.Getenv("files") == "" {
		return nil
	}
	files, err := disk("files")
	if err != nil {
		return err
	}
	if err := unpack(files); err != nil {
		return fmt.Errorf("unpack the machine's files: %w", err)
	}
	return nil
}

// disk waits for the disk with a serial number. Their names go by the order in which
// the kernel finds them, which is by chance on some platforms.
func disk(serial string) (string, error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		found, err := filepath.Glob(sys + "/block/*/serial")
		if err != nil {
			return "", err
		}
		for _, path := range found {
			if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == serial {
				return "/dev/" + filepath.Base(filepath.Dir(path)), nil
			}
		}
	}
	return "", fmt.Errorf("no disk %q", serial)
}

func mount(source, target, fs string, flags uintptr) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fs, flags, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// loadModules loads the kernel modules of a folder in the order of their names.
func loadModules(dir string) error {
	paths, err := filepath.Glob(dir + "/*.ko")
	if err != nil {
		return err
	}
	slices.Sort(paths)
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		// A variant for another CPU is refused, and a generic one follows.
		if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
			log.Printf("load %s: %v", path, err)
		}
		file.Close()
	}
	return nil
}

// unpack writes the files of a tar archive on a disk over the root file system.
// As in a layer of overlayfs, a character device 0:0 stands for a file that is
// removed.
func unpack(disk string) error {
	file, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := tar.NewReader(file)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := place(h, archive); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func place(h *tar.Header, content io.Reader) error {
	path := filepath.Join(newRoot, h.Name)
	if h.Typeflag == tar.TypeDir {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		return finish(path, h)
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if err := write(path, content); err != nil {
			return err
		}
		return finish(path, h)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, path)
	case tar.TypeChar:
		return nil
	}
	return fmt.Errorf("type %q is not supported", h.Typeflag)
}

func write(path string, content io.Reader) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

func finish(path string, h *tar.Header) error {
	return errors.Join(
		os.Chown(path, h.Uid, h.Gid),
		os.Chmod(path, os.FileMode(h.Mode)&os.ModePerm),
		os.Chtimes(path, h.ModTime, h.ModTime),
	)
}

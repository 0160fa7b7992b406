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

	"golang.org/x/sys/unix"
)

// newRoot is where the root file system is mounted until it becomes /.
const newRoot = "/root"

// initialize goes from the initial RAM disk to the machine's own init, and
// returns only with an error.
func initialize() error {
	if err := mount("devtmpfs", "/dev", "devtmpfs", 0); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := mount("/dev/vda", newRoot, "ext4", 0); err != nil {
		return err
	}
	if err := unpack("/dev/vdb"); err != nil {
		return fmt.Errorf("unpack the machine's files: %w", err)
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

// unpack writes the files of a tar archive on a disk, if there is one, over
// the root file system. As in a layer of overlayfs, a character device 0:0
// stands for a file that is removed.
func unpack(disk string) error {
	file, err := os.Open(disk)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
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

// Package files reads, replaces and removes files, each atomically and, but for the Remove
// functions, for good: a power cut that follows takes nothing back.
package files

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// File is a file's current or desired state.
type File struct {
	Path  string
	Found bool
	// Target is that of a symbolic link, Content that of any other file.
	Target  string
	Content []byte
	// Mode and owner are kept when a file is written over.
	Mode     fs.FileMode
	UID, GID int
}

// Text is a file of root's that everybody can read.
func Text(path, text string) File {
	return File{Path: path, Found: true, Content: []byte(text), Mode: 0o644}
}

// Link is a symbolic link.
func Link(path, target string) File { return File{Path: path, Found: true, Target: target} }

// None is no file.
func None(path string) File { return File{Path: path} }

// Read gives a file as it is; one that is not there is no error.
func Read(path string) (File, error) {
	f := File{Path: path, Found: true}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return None(path), nil
	}
	if err != nil {
		return f, err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		f.UID, f.GID = int(owner.Uid), int(owner.Gid)
	}
	if f.Mode = info.Mode().Perm(); info.Mode()&fs.ModeSymlink != 0 {
		f.Target, err = os.Readlink(path)
		return f, err
	}
	if !info.Mode().IsRegular() {
		return f, fmt.Errorf("%s: not a regular file", path)
	}
	f.Content, err = os.ReadFile(path)
	return f, err
}

// Same tells whether two files hold the same.
func (f File) Same(g File) bool {
	return f.Found == g.Found && f.Target == g.Target && bytes.Equal(f.Content, g.Content)
}

// Put makes the file, with the folders above it, or removes it, with its folder
// if nothing else is in there. When it returns, the disk has it.
func (f File) Put() error {
	change := f.replace
	if !f.Found {
		change = func() error { return RemoveWithFolder(f.Path) }
	}
	if err := change(); err != nil {
		return err
	}
	return syncFolders(f.Path)
}

func (f File) replace() error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	tmp := f.Path + ".new"
	if err := RemoveIfThere(tmp); err != nil {
		return err
	}
	if err := f.create(tmp); err != nil {
		return errors.Join(err, RemoveIfThere(tmp))
	}
	return os.Rename(tmp, f.Path)
}

func (f File) create(path string) error {
	if f.Target != "" {
		return errors.Join(os.Symlink(f.Target, path), f.own(path))
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Write(f.Content); err != nil {
		return err
	}
	// In this order: chown(2) may clear bits of the mode. Without the sync the rename
	// can reach the disk before the text, and systemd ignores an empty drop-in.
	return errors.Join(f.own(path), file.Chmod(f.Mode), file.Sync())
}

// syncFolders has the disk know a file's name, and those of the folders above it on its file
// system, any of which may be new. One that was removed has no name to sync; some file
// systems sync none.
func syncFolders(path string) error {
	var disk uint64
	for path != "/" && path != "." {
		path = filepath.Dir(path)
		var stat syscall.Stat_t
		err := syscall.Stat(path, &stat)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || disk != 0 && disk != stat.Dev {
			return err
		}
		disk = stat.Dev
		if err := syncFolder(path); err != nil {
			return err
		}
	}
	return nil
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(folder.Sync(), folder.Close()); !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// own gives the file its owner. The units' sandbox lets nobody call chown(2),
// and their files are root's, as whoever makes them is.
func (f File) own(path string) error {
	if f.UID == os.Geteuid() && f.GID == os.Getegid() {
		return nil
	}
	return os.Lchown(path, f.UID, f.GID)
}

// RemoveIfThere removes a file; one that is not there is no error.
func RemoveIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RemoveWithFolder removes a file and, if nothing else is in it, its folder.
func RemoveWithFolder(path string) error {
	if err := RemoveIfThere(path); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(path))
	return nil
}

package dropin

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"macvlan-vip/systemd/internal/files"
)

// change is one to an administrator's files, which can be taken back, and to
// the units that run by them.
type change struct {
	// before is how the files that were changed have been.
	before []file
	// running are the units that are to run as the files say.
	running []string
	// shim, if any, runs by an environment that is changed.
	shim string
}

// file is one as it is, or is not.
type file struct {
	path  string
	found bool
	// target is that of a symbolic link, content that of any other file.
	target  string
	content []byte
}

func readFile(path string) (file, error) {
	f := file{path: path, found: true}
	var err error
	if f.target, err = os.Readlink(path); err == nil {
		return f, nil
	}
	f.content, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return file{path: path}, nil
	}
	return f, err
}

// put makes the file, with the folders above it, whole or not at all.
func (f file) put() error {
	if !f.found {
		return files.RemoveWithFolder(f.path)
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	tmp := f.path + ".new"
	if err := files.RemoveIfThere(tmp); err != nil {
		return err
	}
	var err error
	if f.target != "" {
		err = os.Symlink(f.target, tmp)
	} else {
		err = os.WriteFile(tmp, f.content, 0o644)
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp, f.path)
}

// make makes a file what it is to be, and says whether it was not.
func (c *change) make(want file) (changed bool, err error) {
	is, err := readFile(want.path)
	if err != nil || is.found == want.found && is.target == want.target && slices.Equal(is.content, want.content) {
		return false, err
	}
	c.before = append(c.before, is)
	return true, want.put()
}

// write writes a file of this program's.
func (c *change) write(path, text string) (changed bool, err error) {
	return c.make(file{path: path, found: true, content: []byte(written + text)})
}

func (c *change) link(path, target string) error {
	_, err := c.make(file{path: path, found: true, target: target})
	return err
}

func (c *change) remove(path string) error {
	_, err := c.make(file{path: path})
	return err
}

// undo puts back how the files were.
func (c *change) undo() error {
	var errs []error
	for _, f := range slices.Backward(c.before) {
		errs = append(errs, f.put())
	}
	return errors.Join(errs...)
}

// Package files reads, replaces and removes files whole or not at all.
package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

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

// WriteReadable writes a file that a service of any user can read. A symbolic
// link is replaced, not followed.
func WriteReadable(path, text string) error {
	if err := RemoveIfThere(path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}

// Link makes a symbolic link in place of whatever file is there.
func Link(path, target string) error {
	if err := RemoveIfThere(path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.Symlink(target, path)
}

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
		return removeWithFolder(f.path)
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	tmp := f.path + ".new"
	if err := removeIfThere(tmp); err != nil {
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

// removeWithFolder removes a file and, if nothing else is in it, its folder.
func removeWithFolder(path string) error {
	if err := removeIfThere(path); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(path))
	return nil
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

// takeBack is undo and takeEffect. A start limit that is used up by now must
// not keep a service from running as it did.
func (c *change) takeBack() error {
	err := c.undo()
	if len(c.running) > 0 {
		err = errors.Join(err, output("systemctl", append([]string{"reset-failed", "--"}, c.running...)...))
	}
	return errors.Join(err, c.takeEffect())
}

// affectsAllIn is for a change of a namespace's environment: its shim, if it
// runs, has to start again, and all that is bound to it with it.
func (c *change) affectsAllIn(namespace string) error {
	shim := (&netns{name: namespace}).shim()
	state, err := show("ActiveState", shim)
	if err != nil || state == "inactive" || state == "failed" {
		return err
	}
	users, err := show("BoundBy", shim)
	if err != nil {
		return err
	}
	running, err := active(strings.Fields(users))
	if err != nil {
		return err
	}
	c.shim = shim
	for _, unit := range running {
		if !slices.Contains(c.running, unit) {
			c.running = append(c.running, unit)
		}
	}
	return nil
}

// takeEffect has systemd read the files, and what runs take them to heart.
func (c *change) takeEffect() error {
	if err := output("systemctl", "daemon-reload"); err != nil {
		return err
	}
	if c.shim != "" {
		// What is bound to it stops with it.
		if err := output("systemctl", "stop", "--", c.shim); err != nil {
			return err
		}
	}
	if len(c.running) == 0 {
		return nil
	}
	sockets, others := apart(c.running)
	if len(sockets) > 0 {
		// systemd starts no socket whose service runs, and 247 not even when it
		// is told to restart both.
		if err := output("systemctl", append([]string{"stop", "--"}, c.running...)...); err != nil {
			return err
		}
	}
	return output("systemctl", append([]string{"restart", "--"}, append(sockets, others...)...)...)
}

func apart(units []string) (sockets, others []string) {
	for _, unit := range units {
		if strings.HasSuffix(unit, ".socket") {
			sockets = append(sockets, unit)
		} else {
			others = append(others, unit)
		}
	}
	return sockets, others
}

// hint says what was done to a service, and what is left to do.
func (c *change) hint(u *unit) string {
	var b strings.Builder
	if len(u.running) > 0 {
		b.WriteString("; it was restarted")
	} else {
		b.WriteString("; it does not run: systemctl start " + u.name)
	}
	var others []string
	for _, unit := range c.running {
		if !slices.Contains(u.running, unit) {
			others = append(others, unit)
		}
	}
	if len(others) > 0 {
		b.WriteString("; restarted, too: " + strings.Join(others, " "))
	}
	return b.String()
}

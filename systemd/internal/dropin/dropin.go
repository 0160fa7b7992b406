// Package dropin puts services into network namespaces and takes them out: it
// writes drop-ins and environment files, and has the units take them to heart.
package dropin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"macvlan-vip/systemd/internal/settings"
)

// unitDir is where an administrator's drop-ins go.
const unitDir = "/etc/systemd/system"

// written begins every file that `enable` writes, and only such are removed or
// replaced.
const written = "# Written by `systemd-netns enable`; `systemd-netns disable` removes it.\n"

// shipped is a file that is installed with the units.
func shipped(name string) string {
	return filepath.Join(settings.Prefix(), "lib/systemd/system", name)
}

// dropIn puts a unit into a namespace.
type dropIn struct {
	file string
	// base is the shipped file for its kind of unit.
	base string
	// in is the namespace, if that is not named after the unit.
	in string
}

// newDropIn is the drop-in of a unit, such as "web.service" or "web.socket".
func newDropIn(unit, in string) dropIn {
	d := dropIn{file: filepath.Join(unitDir, unit+".d", "netns.conf"), base: "netns.conf"}
	stem, kind := cutLast(unit, ".")
	if kind == "socket" {
		d.base = "netns-socket.conf"
	}
	if in != stem {
		d.in = in
	}
	return d
}

func cutLast(s, sep string) (before, after string) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i+len(sep):]
}

// ours tells whether the file is one that this program may replace or remove:
// a link to what is shipped, or one that it has written.
func (d dropIn) ours() (ours, found bool, err error) {
	if target, err := os.Readlink(d.file); err == nil {
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(d.file), target)
		}
		return filepath.Base(target) == d.base, true, nil
	}
	return isWritten(d.file)
}

func isWritten(file string) (ours, found bool, err error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	return strings.HasPrefix(string(data), written), err == nil, err
}

// put makes the drop-in.
func (d dropIn) put(c *change) error {
	ours, found, err := d.ours()
	if err != nil {
		return err
	}
	if found && !ours {
		return fmt.Errorf("%s: not written by this program, and left alone; move it away, or keep it instead", d.file)
	}
	if d.in == "" {
		return c.link(d.file, shipped(d.base))
	}
	text, err := os.ReadFile(shipped(d.base))
	if err != nil {
		return fmt.Errorf("%w; repeat `make install`, which installs it", err)
	}
	_, err = c.write(d.file, strings.ReplaceAll(string(text), "%N", d.in))
	return err
}

// remove takes the drop-in away, if there is one.
func (d dropIn) remove(c *change) error {
	ours, found, err := d.ours()
	if err != nil || !found {
		return err
	}
	if !ours {
		return fmt.Errorf("%s: not written by this program, and left alone; remove it by hand", d.file)
	}
	return c.remove(d.file)
}

// Package dropin puts services into network namespaces, moves them back to the
// host's, and changes their VIPs: each a transaction over an administrator's files
// and the units that run by them.
package dropin

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/settings"
)

// unitDir is where an administrator's units and drop-ins go (systemd.unit(5)).
const unitDir = "/etc/systemd/system"

// written begins every text file that is written here, and only such are removed
// or replaced.
const written = "# Written by `systemd-netns enable`; `systemd-netns disable` removes it.\n"

// shipped is a file that is installed with the units.
func shipped(name string) string {
	return filepath.Join(settings.Prefix(), "lib/systemd/system", name)
}

// dropIn is a file that adds to a unit.
type dropIn struct {
	file string
	// base is the shipped file that it is, or is made from.
	base string
	// in is the namespace, if that is not named after the unit.
	in string
}

// newDropIn is the drop-in that puts a unit, such as "web.service" or
// "web.socket", into a namespace.
func newDropIn(unit, in string) dropIn {
	d := dropIn{file: filepath.Join(unitDir, unit+".d", "netns.conf"), base: "netns.conf"}
	stem := strings.TrimSuffix(unit, filepath.Ext(unit))
	if filepath.Ext(unit) == ".socket" {
		d.base = "netns-socket.conf"
	}
	if in != stem {
		d.in = in
	}
	return d
}

// hardening is the drop-in of `--hardened`.
func hardening(unit string) dropIn {
	return dropIn{file: filepath.Join(unitDir, unit+".d", "netns-hardened.conf"), base: "netns-hardened.conf"}
}

// want is the desired file.
func (d dropIn) want() (files.File, error) {
	if d.in == "" {
		return files.Link(d.file, shipped(d.base)), nil
	}
	text, err := os.ReadFile(shipped(d.base))
	if err != nil {
		return files.File{}, fmt.Errorf("%w; repeat `make install`, which installs it", err)
	}
	return files.Text(d.file, written+literal(string(text), d.in)), nil
}

// literal is the text of a drop-in with a name in place of %N. In a list of paths, and there
// alone, systemd takes a colon for the end of a path and a backslash for an escape.
func literal(text, name string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "BindReadOnlyPaths=") {
			line = strings.ReplaceAll(line, "%N", strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(name))
		}
		b.WriteString(strings.ReplaceAll(line, "%N", name))
	}
	return b.String()
}

// ours tells whether a file is one that may be replaced or removed: a link to
// what is shipped, or one that was written here. An empty one holds nothing to lose, and
// may be what a power cut has left of ours.
func ours(f files.File) bool {
	if f.Target == "" {
		return f.Found && len(f.Content) == 0 || strings.HasPrefix(string(f.Content), written)
	}
	name := filepath.Base(f.Target)
	return slices.Contains([]string{"netns.conf", "netns-socket.conf", "netns-hardened.conf"}, name) ||
		strings.HasPrefix(name, "systemd-netns-forward@")
}

// HasEnv tells whether a namespace's environment file is one that was written here.
func HasEnv(namespace string) bool {
	env, err := files.Read(settings.EnvFile(namespace))
	return err == nil && env.Found && ours(env)
}

// foreign is the error for a file of somebody else's.
func foreign(path, remedy string) error {
	return fmt.Errorf("%s: not written by this program, and left alone; %s", path, remedy)
}

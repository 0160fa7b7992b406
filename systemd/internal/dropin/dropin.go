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

	"golang.org/x/sys/unix"

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
	// in is the namespace, named says that it is named after the unit, as base has it.
	in    string
	named bool
}

// newDropIn is the drop-in that puts a unit, such as "web.service" or
// "web.socket", into a namespace.
func newDropIn(unit, in string) dropIn {
	d := dropIn{file: filepath.Join(unitDir, unit+".d", "netns.conf"), base: "netns.conf", in: in}
	if filepath.Ext(unit) == ".socket" {
		d.base = "netns-socket.conf"
	}
	d.named = in == strings.TrimSuffix(unit, filepath.Ext(unit))
	return d
}

// hardening is the drop-in of `--hardened`.
func hardening(unit string) dropIn {
	return dropIn{file: filepath.Join(unitDir, unit+".d", "netns-hardened.conf"), base: "netns-hardened.conf", named: true}
}

// want is the desired file: a link to what is shipped or, where that will not do, its text. A
// link that leads nowhere yet when systemd reads the units at boot would be left out, and the
// service start on the host's network.
func (d dropIn) want() (files.File, error) {
	base := shipped(d.base)
	if d.named && isThereAtBoot(base) {
		return files.Link(d.file, base), nil
	}
	text, err := os.ReadFile(base)
	if err != nil {
		return files.File{}, fmt.Errorf("%w; repeat `make install`, which installs it", err)
	}
	return files.Text(d.file, written+literal(string(text), d.in)), nil
}

// isThereAtBoot tells whether a file is on the root file system or that of /usr, which are
// mounted before systemd reads the units.
func isThereAtBoot(path string) bool {
	its, err := mountOf(path)
	if err != nil {
		return false
	}
	return slices.ContainsFunc([]string{"/", "/usr"}, func(early string) bool {
		mount, err := mountOf(early)
		return err == nil && mount == its
	})
}

// mountOf tells the mount that a file is on from others. Before Linux 5.8 the kernel numbers
// its file system alone.
func mountOf(path string) (number [3]uint64, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return number, err
	}
	return [3]uint64{st.Mnt_id, uint64(st.Dev_major), uint64(st.Dev_minor)}, nil
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

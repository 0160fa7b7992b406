// Package members finds the services that are in network namespaces.
package members

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// Member is a service in a namespace.
type Member struct {
	Unit      *units.Unit
	Namespace string
}

// All gives the services that systemd knows to be in a namespace, by name:
// those with a drop-in, each instance of a template with one, and whatever else
// is bound to a shim.
func All(ctx context.Context, sd *units.Systemd) ([]Member, error) {
	names, err := candidates(ctx, sd)
	if err != nil {
		return nil, err
	}
	var all []Member
	for _, name := range names {
		u, err := sd.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		if in := NamespaceOf(u); in != "" {
			all = append(all, Member{u, in})
		}
	}
	slices.SortFunc(all, func(a, b Member) int { return strings.Compare(a.Unit.Name, b.Unit.Name) })
	return slices.CompactFunc(all, func(a, b Member) bool { return a.Unit.Name == b.Unit.Name }), nil
}

// In keeps the members of one namespace.
func In(all []Member, namespace string) []Member {
	return slices.DeleteFunc(slices.Clone(all), func(m Member) bool { return m.Namespace != namespace })
}

// NamespaceOf is the namespace that a service is, or from its next start will
// be, in, or "". One that no shim makes is somebody else's.
func NamespaceOf(u *units.Unit) string {
	name, found := strings.CutPrefix(u.NetnsPath, settings.NetnsDir+"/")
	if found && slices.Contains(u.Needs, settings.Named(name).Shim()) {
		return name
	}
	for _, other := range u.JoinsNamespaceOf {
		if name, found := settings.OfShim(other); found {
			return name
		}
	}
	return ""
}

// Hidden tells whether a shim is not this program's, but another unit of its name, as the
// article's has it: a file in /etc comes first (systemd.unit(5)).
func Hidden(shim *units.Unit) bool {
	text, err := os.ReadFile(shim.File)
	return err == nil && !strings.Contains(string(text), "systemd-netns-helper")
}

// JoinsInVain tells whether a service has the namespaces of a shim (JoinsNamespaceOf=) that
// has none to share: only the article's way keeps a process in one.
func JoinsInVain(u, shim *units.Unit) bool {
	return shim.Type == "oneshot" && slices.Contains(u.JoinsNamespaceOf, shim.Name)
}

// Astray tells where the main process of a service in a namespace is, if not there: such as
// one that was started before its drop-in was read, or that has another's namespaces
// (JoinsNamespaceOf=). Otherwise, and if that cannot be told, it is "".
func Astray(u *units.Unit) string {
	its, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", u.MainPID))
	if u.MainPID == 0 || err != nil {
		return ""
	}
	named, err := os.Stat(settings.Named(NamespaceOf(u)).Path)
	if err != nil || os.SameFile(its, named) {
		return ""
	}
	if host, err := os.Stat("/proc/1/ns/net"); err != nil || !os.SameFile(its, host) {
		return "in another network namespace"
	}
	return "on the host's network"
}

// Joined are the units, but for the shim, whose namespaces a service has.
func Joined(u *units.Unit) []string {
	return slices.DeleteFunc(slices.Clone(u.JoinsNamespaceOf), func(name string) bool {
		_, shim := settings.OfShim(name)
		return shim
	})
}

// dropInDirs are where drop-ins lie (systemd.unit(5)).
var dropInDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"}

// candidates are the names of services that may be in a namespace.
func candidates(ctx context.Context, sd *units.Systemd) ([]string, error) {
	var names []string
	for _, dir := range dropInDirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.service.d", "*.conf"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			// One that cannot be read puts nothing anywhere.
			if text, err := os.ReadFile(file); err == nil && Names(string(text)) {
				names = append(names, strings.TrimSuffix(filepath.Base(filepath.Dir(file)), ".d"))
			}
		}
	}
	bound, err := boundToShims(ctx, sd)
	if err != nil {
		return nil, err
	}
	return expand(ctx, sd, append(names, bound...))
}

// Names tells whether the text of a drop-in names a namespace, the one way or
// the other.
func Names(text string) bool {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		_, shim := settings.OfShim(value)
		if key == "NetworkNamespacePath" && strings.HasPrefix(value, settings.NetnsDir+"/") || key == "JoinsNamespaceOf" && shim {
			return true
		}
	}
	return false
}

func boundToShims(ctx context.Context, sd *units.Systemd) (names []string, err error) {
	shims, err := sd.Loaded(ctx, "systemd-netns@*.service")
	if err != nil {
		return nil, err
	}
	for _, shim := range shims {
		u, err := sd.Unit(ctx, shim)
		if err != nil {
			return nil, err
		}
		for _, name := range u.BoundBy {
			if strings.HasSuffix(name, ".service") && !strings.HasPrefix(name, "systemd-netns") {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// expand replaces a template, or a prefix that ends with a dash, by the units
// that have its drop-ins (systemd.unit(5)).
func expand(ctx context.Context, sd *units.Systemd, names []string) ([]string, error) {
	var all []string
	for _, name := range names {
		stem := strings.TrimSuffix(name, ".service")
		if !strings.HasSuffix(stem, "@") && !strings.HasSuffix(stem, "-") {
			all = append(all, name)
			continue
		}
		loaded, err := sd.Loaded(ctx, stem+"*.service")
		if err != nil {
			return nil, err
		}
		all = append(all, loaded...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

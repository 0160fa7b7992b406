package dropin

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/settings"
)

// Member is a service that a drop-in puts into a namespace.
type Member struct {
	Unit, Namespace string
}

// Members finds the services that have a drop-in for a namespace.
func Members() ([]Member, error) {
	files, err := filepath.Glob(filepath.Join(unitDir, "*.service.d", "*.conf"))
	if err != nil {
		return nil, err
	}
	var all []Member
	for _, file := range files {
		// One that dangles puts nothing anywhere.
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		unit := strings.TrimSuffix(filepath.Base(filepath.Dir(file)), ".d")
		stem, _ := cutLast(unit, ".")
		if in := namespaceOf(string(text), stem); in != "" {
			all = append(all, Member{unit, in})
		}
	}
	slices.SortFunc(all, func(a, b Member) int { return strings.Compare(a.Unit, b.Unit) })
	return slices.Compact(all), nil
}

// NamespaceOf is the namespace that a service is in, or "".
func NamespaceOf(unit string) (string, error) {
	all, err := Members()
	if i := slices.IndexFunc(all, func(m Member) bool { return m.Unit == unit }); i >= 0 {
		return all[i].Namespace, err
	}
	return "", err
}

// namespaceOf is the namespace that the text of a drop-in names, the one way
// or the other.
func namespaceOf(text, stem string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		for _, key := range []string{"NetworkNamespacePath=" + settings.NetnsDir + "/", "JoinsNamespaceOf=systemd-netns@"} {
			if name, found := strings.CutPrefix(line, key); found {
				return strings.ReplaceAll(strings.TrimSuffix(name, ".service"), "%N", stem)
			}
		}
	}
	return ""
}

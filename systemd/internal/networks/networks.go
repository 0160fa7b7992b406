// Package networks finds CNI networks in a folder as cnitool does.
package networks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/settings"
)

// Network is what is read of a network's file: a list of plugins or, the old
// way, a single one.
type Network struct {
	plugin
	Name    string   `json:"name"`
	Plugins []plugin `json:"plugins"`
	// Text is that of its file.
	Text []byte `json:"-"`
}

type plugin struct {
	Capabilities map[string]bool `json:"capabilities"`
}

// TakesVIPs tells whether a plugin of the network takes VIPs from outside.
func (n Network) TakesVIPs() bool {
	return slices.ContainsFunc(append(n.Plugins, n.plugin), func(p plugin) bool { return p.Capabilities["ips"] })
}

// Find looks for a network, and gives nil where there is none. Unlike libcni, which
// would also make each start of a program a third longer, it passes over files that
// cannot be read: only where no other has the network is such a file an error, of
// several the one of the network's name.
func Find(dir, name string) (found *Network, file string, err error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	var bad error
	for _, f := range files {
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(f.Name())) {
			continue
		}
		at := filepath.Join(dir, f.Name())
		n, err := read(at)
		switch {
		case err != nil && (bad == nil || strings.TrimSuffix(f.Name(), filepath.Ext(at)) == name):
			bad, file = err, at
		case err == nil && n.Name == name:
			return n, at, nil
		}
	}
	return nil, file, bad
}

func read(file string) (*Network, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	n := &Network{Text: data}
	if err := json.Unmarshal(data, n); err != nil {
		return nil, fmt.Errorf("%s: %w; correct its JSON", file, err)
	}
	return n, nil
}

// ErrNone is the error if the network does not exist.
var ErrNone = errors.New("no such network")

// Missing is ErrNone, with its remedy.
func Missing(n settings.Namespace) error {
	return fmt.Errorf("network %q: %w in %s; give VIPs with --vip, as `systemd-netns enable SERVICE --vip 192.0.2.10/24`; or copy an example of %s/share/macvlan-vip/conf there, give it that name and edit it; or name another network: echo NETWORK=lan >>%s",
		n.Network, ErrNone, n.ConfDir, settings.Prefix(), settings.EnvFile(n.Name))
}

// IsMadeFrom tells whether a list of plugins, as cnitool remembers it, is what
// a file has, or has been made around the file's only plugin.
func IsMadeFrom(list, file []byte) bool {
	if SameJSON(list, file) {
		return true
	}
	var l struct {
		Plugins []json.RawMessage `json:"plugins"`
	}
	return json.Unmarshal(list, &l) == nil && len(l.Plugins) == 1 && SameJSON(l.Plugins[0], file)
}

// SameJSON compares two texts whatever their spaces; none is null.
func SameJSON(a, b []byte) bool {
	var av, bv any
	if len(a) > 0 && json.Unmarshal(a, &av) != nil || len(b) > 0 && json.Unmarshal(b, &bv) != nil {
		return false
	}
	return reflect.DeepEqual(av, bv)
}

// IsList tells whether a configuration is a list of plugins, rather than a single
// one.
func IsList(text []byte) bool {
	var l struct {
		Plugins []json.RawMessage `json:"plugins"`
	}
	return json.Unmarshal(text, &l) == nil && l.Plugins != nil
}

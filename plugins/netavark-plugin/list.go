package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// The plugins of the chain, by their types.
const (
	vip     = "macvlan-vip"
	hairpin = "hairpin-route"
)

// section is a plugin's part of a CNI network, or an object in it.
type section map[string]any

// set sets a key; a dot in it leads into an object.
func (s section) set(key string, value any) {
	object, below, nested := strings.Cut(key, ".")
	if !nested {
		s[key] = value
		return
	}
	if _, ok := s[object]; !ok {
		s[object] = section{}
	}
	s[object].(section).set(below, value)
}

// list is the CNI network that a podman network stands for.
type list struct {
	name    string
	plugins []section
}

// newList names a network so that it is no other runtime's on this host: one
// network's garbage collection removes all attachments of its name.
func newList(podmans string) *list {
	return &list{name: "podman-" + podmans, plugins: []section{{"type": vip}, {"type": hairpin}}}
}

// list is the CNI network with the options and an IPAM section, if there is one.
func (n *network) list(ipam section) (*list, error) {
	l := newList(n.Name)
	master, err := n.master()
	if err != nil {
		return nil, err
	}
	if master != "" {
		l.plugins[0].set("master", master)
	}
	if err := n.configure(map[string]section{vip: l.plugins[0], hairpin: l.plugins[1]}); err != nil {
		return nil, err
	}
	if ipam != nil {
		l.plugins[0].set("ipam", ipam)
	}
	return l, nil
}

func (l *list) parse() (*libcni.NetworkConfigList, error) {
	data, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": l.name, "plugins": l.plugins})
	if err != nil {
		return nil, fmt.Errorf("write the CNI network: %w", err)
	}
	conf, err := libcni.NetworkConfFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("CNI network %s: %w", l.name, err)
	}
	return conf, nil
}

// status asks the plugins whether they could serve the network.
func (l *list) status(ctx context.Context) error {
	conf, err := l.parse()
	if err != nil {
		return err
	}
	return newCNI(cacheDir).GetStatusNetworkList(ctx, conf)
}

// add attaches a container. Where a plugin fails, those before it are undone.
func (l *list) add(ctx context.Context, runtime *libcni.RuntimeConf) (*current.Result, error) {
	conf, err := l.parse()
	if err != nil {
		return nil, err
	}
	if err := l.makeCache(runtime); err != nil {
		return nil, err
	}
	result, err := newCNI(l.cache(runtime)).AddNetworkList(ctx, conf, runtime)
	if err != nil {
		return nil, errors.Join(err, l.del(ctx, runtime))
	}
	return current.NewResultFromResult(result)
}

func (l *list) del(ctx context.Context, runtime *libcni.RuntimeConf) error {
	conf, err := l.parse()
	if err != nil {
		return err
	}
	err = newCNI(l.cache(runtime)).DelNetworkList(ctx, conf, runtime)
	l.removeCache(runtime)
	return err
}

// cacheDir is where libcni keeps the results of attachments, which end with the
// machine's run like these.
const cacheDir = "/run/cni/netavark"

// cache is the folder of one attachment. It has one of its own, since libcni makes a
// folder and writes into it in two steps: the teardown of the last container that shares it
// would remove it in between.
func (l *list) cache(runtime *libcni.RuntimeConf) string {
	return filepath.Join(cacheDir, strings.Join([]string{l.name, runtime.ContainerID, runtime.IfName}, ":"))
}

// makeCache makes it as libcni would. Until there is something in the folder above,
// others may remove that one at any moment.
func (l *list) makeCache(runtime *libcni.RuntimeConf) (err error) {
	for range 100 {
		if err = os.MkdirAll(l.results(runtime), 0o700); err == nil {
			return nil
		}
	}
	return fmt.Errorf("make a folder for what libcni keeps of %s: %w", l.name, err)
}

// removeCache removes the folders that are empty.
func (l *list) removeCache(runtime *libcni.RuntimeConf) {
	for dir := l.results(runtime); strings.HasPrefix(dir, cacheDir); dir = filepath.Dir(dir) {
		_ = os.Remove(dir)
	}
}

// results is libcni's own name for where the files are.
func (l *list) results(runtime *libcni.RuntimeConf) string {
	return filepath.Join(l.cache(runtime), "results")
}

func newCNI(cache string) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(filepath.SplitList(pluginPath()), cache, nil)
}

// pluginPath is where the CNI plugins are. Packages have static in a folder of
// their own, since others have it in /opt/cni/bin, too.
func pluginPath() string {
	prefix := "/usr/local"
	if self, err := os.Executable(); err == nil { // PREFIX/libexec/netavark/macvlan-vip
		prefix = filepath.Dir(filepath.Dir(filepath.Dir(self)))
	}
	return cmp.Or(os.Getenv("CNI_PATH"), prefix+"/lib/macvlan-vip:/opt/cni/bin")
}

// Package chain calls the plugins of a network's list for clean-up. cnitool
// would stop at the first plugin's error, wait for a plugin that hangs, and require
// settings that clean-up does not need.
package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/version"
)

// Request is a DEL of all plugins of a network.
type Request struct {
	// Network is the network's name, Config a list of plugins or a single one.
	Network string
	Config  []byte
	// ContainerID, Netns and IfName name the attachment; Netns may be gone.
	ContainerID, Netns, IfName string
	// Path are the folders of the plugins.
	Path []string
	// Args and CapArgs are CNI_ARGS and CAP_ARGS of the ADD.
	Args, CapArgs string
	// Env are other variables that the plugins had.
	Env map[string]string
	// Result is that of the ADD, if it is known.
	Result json.RawMessage
	// Failed says that the ADD did not go through.
	Failed bool
	// Timeout bounds each plugin.
	Timeout time.Duration
}

// PluginError is why a plugin's DEL failed.
type PluginError struct {
	// Plugin is its type.
	Plugin string
	Err    error
}

func (p PluginError) Error() string { return fmt.Sprintf("%s: %v", p.Plugin, p.Err) }

// Unwrap gives the reason.
func (p PluginError) Unwrap() error { return p.Err }

// list is what is read of a configuration list (CNI specification, section 1).
type list struct {
	CNIVersion  string                       `json:"cniVersion"`
	CNIVersions []string                     `json:"cniVersions"`
	Plugins     []map[string]json.RawMessage `json:"plugins"`
}

// version is the one that ADD called the plugins in: the newest that libcni knows of
// those that the list names (CNI specification, "Version considerations").
func (l list) version() string {
	for _, v := range slices.Backward(version.All.SupportedVersions()) {
		if v == l.CNIVersion || slices.Contains(l.CNIVersions, v) {
			return v
		}
	}
	return l.CNIVersion
}

// Delete calls every plugin, the last one of the list first, and goes on after
// an error. Each error is a PluginError; logs is what the plugins have printed
// besides.
func Delete(ctx context.Context, r Request) (logs string, errs []error) {
	l, err := parse(r.Config)
	if err != nil {
		return "", []error{err}
	}
	var said []string
	for _, plugin := range slices.Backward(l.Plugins) {
		text, err := r.delete(ctx, l.version(), plugin)
		if errors.Is(err, errMissing) && r.Failed {
			// No ADD has got as far as it, or beyond.
			continue
		}
		if text != "" {
			said = append(said, text)
		}
		if err != nil {
			errs = append(errs, PluginError{typeOf(plugin), err})
		}
	}
	return strings.Join(said, "\n"), errs
}

func parse(config []byte) (list, error) {
	var l list
	if err := json.Unmarshal(config, &l); err != nil {
		return l, fmt.Errorf("read the recorded network: %w", err)
	}
	if l.Plugins == nil {
		var single map[string]json.RawMessage
		if err := json.Unmarshal(config, &single); err != nil {
			return l, fmt.Errorf("read the recorded network: %w", err)
		}
		l.Plugins = append(l.Plugins, single)
	}
	return l, nil
}

func typeOf(plugin map[string]json.RawMessage) string {
	var kind string
	_ = json.Unmarshal(plugin["type"], &kind)
	return kind
}

func (r Request) delete(ctx context.Context, version string, plugin map[string]json.RawMessage) (logs string, err error) {
	program, err := find(typeOf(plugin), r.Path)
	if err != nil {
		return "", err
	}
	stdin, err := r.stdin(version, plugin)
	if err != nil {
		return "", err
	}
	env := os.Environ()
	for key, value := range r.Env {
		env = append(env, key+"="+value)
	}
	env = append(env, "CNI_COMMAND=DEL", "CNI_CONTAINERID="+r.ContainerID, "CNI_NETNS="+r.Netns, "CNI_IFNAME="+r.IfName,
		"CNI_PATH="+strings.Join(r.Path, ":"), "CNI_ARGS="+wellFormed(r.Args), "NOTIFY_SOCKET=")
	out, logs, err := Run(ctx, Command{Program: program, Env: env, Stdin: stdin, Timeout: r.Timeout})
	if err != nil {
		return logs, reason(out, err)
	}
	return logs, nil
}

// find looks for a plugin as a runtime does.
func find(kind string, path []string) (string, error) {
	if kind == "" || strings.ContainsRune(kind, '/') {
		return "", fmt.Errorf("type: %q: not a valid plugin name", kind)
	}
	for _, dir := range path {
		program := filepath.Join(dir, kind)
		if info, err := os.Stat(program); err == nil && info.Mode().IsRegular() {
			return program, nil
		}
	}
	return "", fmt.Errorf("%w %q in path %v", errMissing, kind, path)
}

var errMissing = errors.New("failed to find plugin")

// stdin is what a plugin is given: its section of the list, with what the
// runtime adds (CNI specification, section 4, "Deriving execution configuration").
func (r Request) stdin(version string, plugin map[string]json.RawMessage) ([]byte, error) {
	conf := map[string]any{}
	for key, value := range plugin {
		conf[key] = value
	}
	conf["name"] = r.Network
	if version != "" {
		conf["cniVersion"] = version
	}
	if len(r.Result) > 0 && json.Valid(r.Result) {
		conf["prevResult"] = r.Result
	}
	if args := r.runtimeConfig(plugin); len(args) > 0 {
		conf["runtimeConfig"] = args
	}
	return json.Marshal(conf)
}

// runtimeConfig is the part of CAP_ARGS that the plugin has the capabilities for.
func (r Request) runtimeConfig(plugin map[string]json.RawMessage) map[string]json.RawMessage {
	var can map[string]bool
	var all, given map[string]json.RawMessage
	if json.Unmarshal(plugin["capabilities"], &can) != nil || json.Unmarshal([]byte(r.CapArgs), &all) != nil {
		return nil
	}
	given = map[string]json.RawMessage{}
	for key, value := range all {
		if can[key] {
			given[key] = value
		}
	}
	return given
}

// wellFormed gives CNI_ARGS if every plugin can read them, or else none.
func wellFormed(args string) string {
	for pair := range strings.SplitSeq(args, ";") {
		if key, value, ok := strings.Cut(pair, "="); !ok || key == "" || value == "" {
			return ""
		}
	}
	return args
}

// reason is a plugin's own error, which it prints on standard output (CNI
// specification, section 5, "Error").
func reason(stdout []byte, err error) error {
	var own struct{ Msg, Details string }
	if json.Unmarshal(stdout, &own) != nil || own.Msg == "" {
		return err
	}
	if own.Details != "" {
		own.Msg += "; " + own.Details
	}
	return errors.New(own.Msg)
}

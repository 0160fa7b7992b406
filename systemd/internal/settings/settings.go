// Package settings holds what is configured for a network namespace: by its
// name, the environment and its environment file.
package settings

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// NetnsDir holds the names of network namespaces (ip-netns(8)). One spelling
	// everywhere: cnitool derives the container ID from the path.
	NetnsDir = "/run/netns"
	// EnvDir holds the namespaces' environment files.
	EnvDir = "/etc/systemd-netns"
)

// Namespace is a network namespace with what is configured for it.
type Namespace struct {
	// Name is a unit's name without its suffix, Path below NetnsDir.
	Name, Path string
	// Network is a CNI network's name, whose file is in ConfDir.
	Network, ConfDir string
	// IfName is the link's name in the namespace.
	IfName string
	// Retry is how long an ADD is repeated while its error may pass.
	Retry time.Duration
}

// Named is a namespace of which nothing but its name is of interest.
func Named(name string) Namespace {
	return Namespace{Name: name, Path: filepath.Join(NetnsDir, name)}
}

// Load reads what the environment and the namespace's file say of it.
func Load(name string) (Namespace, error) {
	n := Named(name)
	if err := CheckName(name); err != nil {
		return n, err
	}
	if err := loadEnv(name); err != nil {
		return n, err
	}
	retry, err := strconv.Atoi(cmp.Or(os.Getenv("RETRY_SEC"), "10"))
	if err != nil || retry < 0 {
		return n, fmt.Errorf("RETRY_SEC: %q: no number of seconds; correct it in %s", os.Getenv("RETRY_SEC"), EnvFile(name))
	}
	n.Network = cmp.Or(os.Getenv("NETWORK"), NetworkName(name))
	n.ConfDir = cmp.Or(os.Getenv("NETCONFPATH"), "/etc/cni/net.d")
	n.IfName = cmp.Or(os.Getenv("CNI_IFNAME"), "mv0")
	n.Retry = time.Duration(retry) * time.Second
	return n, nil
}

// CheckName takes what systemd takes for a unit's name (systemd.unit(5)), in
// which there is no way out of a folder.
func CheckName(name string) error {
	bad := func(r rune) bool {
		return !isAlnum(r) && !strings.ContainsRune(`:_.\@-`, r)
	}
	if name == "" || name == "." || name == ".." || name[0] == '-' || len(name) > 255 || strings.IndexFunc(name, bad) >= 0 {
		return fmt.Errorf(`%q: no name of a unit; use letters, digits and :_.\@- as "haproxy" or "app@1" do`, name)
	}
	return nil
}

// NetworkName makes the name of a namespace one that a CNI network can have.
func NetworkName(name string) string {
	return strings.Map(func(r rune) rune {
		if isAlnum(r) || strings.ContainsRune("_.-", r) {
			return r
		}
		return '-'
	}, name)
}

func isAlnum(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// Shim is the unit that makes the namespace.
func (n Namespace) Shim() string { return "systemd-netns@" + n.Name + ".service" }

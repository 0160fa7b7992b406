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

	"golang.org/x/sys/unix"
)

const (
	// NetnsDir holds the names of network namespaces (ip-netns(8)). One spelling
	// everywhere: cnitool derives the container ID from the path.
	NetnsDir = "/run/netns"
	// EnvDir holds the namespaces' environment files.
	EnvDir = "/etc/systemd-netns"
	// OwnNetworks holds the networks of single namespaces, each in a file of its
	// name, apart from where container runtimes look for theirs.
	OwnNetworks = EnvDir + "/net.d"
	// DefaultIfName is the link's name in the namespace where none is set.
	DefaultIfName = "mv0"
)

// Namespace is a network namespace with what is configured for it.
type Namespace struct {
	// Name is a unit's name without its suffix, Path below NetnsDir.
	Name, Path string
	// Network is a CNI network's name, whose file is in ConfDir.
	Network, ConfDir string
	// IfName is the link's name in the namespace.
	IfName string
	// CNIPath, CNIArgs and CapArgs are the variables CNI_PATH, CNI_ARGS and
	// CAP_ARGS (cnitool's README).
	CNIPath, CNIArgs, CapArgs string
	// Env are the other variables of the environment file, for plugins.
	Env map[string]string
	// Retry is how long an ADD is repeated while its error may pass, and RetryNetwork while
	// the host's own network may be still to come, if that is longer.
	Retry, RetryNetwork time.Duration
	// shared is the folder of networks that many namespaces can share.
	shared string
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
	env, err := readEnv(name)
	if err != nil {
		return n, err
	}
	take := func(key, otherwise string) string {
		value := cmp.Or(os.Getenv(key), env[key], otherwise)
		delete(env, key)
		return value
	}
	n.Network = take("NETWORK", NetworkName(name))
	n.shared = take("NETCONFPATH", "/etc/cni/net.d")
	n.ConfDir = n.NetworkDir(n.Network)
	n.IfName = take("CNI_IFNAME", DefaultIfName)
	n.CNIPath = take("CNI_PATH", CNIPath())
	n.CNIArgs, n.CapArgs = take("CNI_ARGS", ""), take("CAP_ARGS", "")
	n.Retry, n.RetryNetwork, err = retries(take("RETRY_SEC", ""), uptime())
	if err != nil {
		return n, fmt.Errorf("%w; correct it in %s", err, EnvFile(name))
	}
	n.Env = env
	return n, nil
}

// NetworkDir is the folder of a network, which cnitool takes as a whole.
func (n Namespace) NetworkDir(network string) string {
	if _, err := os.Stat(filepath.Join(OwnNetworks, network+".conflist")); err == nil {
		return OwnNetworks
	}
	return n.shared
}

const (
	defaultRetry = 10 * time.Second
	// bootTime is how long after a machine's boot its network may be still to come: a switch's
	// port may take half a minute until it forwards, and a DHCP client begins again then.
	bootTime = 2 * time.Minute
	// maxRetry, in seconds, is a day.
	maxRetry = 86400
)

// retries reads RETRY_SEC on a machine that has been up for so long.
func retries(text string, up time.Duration) (retry, network time.Duration, err error) {
	if text == "" {
		return defaultRetry, bootTime - up, nil
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 0 || seconds > maxRetry {
		return 0, 0, fmt.Errorf("RETRY_SEC: %q: not a number of seconds from 0 to %d", text, maxRetry)
	}
	return time.Duration(seconds) * time.Second, 0, nil
}

// uptime is the time since the machine's boot (clock_gettime(2), CLOCK_BOOTTIME).
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return bootTime
	}
	return time.Duration(t.Nano())
}

// CheckName takes what systemd takes for a unit's name (systemd.unit(5)), in
// which there is no way out of a folder.
func CheckName(name string) error {
	bad := func(r rune) bool {
		return !isAlnum(r) && !strings.ContainsRune(`:_.\@-`, r)
	}
	if name == "" || name == "." || name == ".." || name[0] == '-' || len(name) > 255 || strings.IndexFunc(name, bad) >= 0 {
		return fmt.Errorf(`%q: not a valid unit name; use letters, digits and :_.\@- as "haproxy" or "app@1" do`, name)
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

const shims = "systemd-netns@"

// Shim is the unit that makes the namespace.
func (n Namespace) Shim() string { return shims + n.Name + ".service" }

// OfShim is the name of the namespace that a unit makes; shim is false for one that is no shim.
func OfShim(unit string) (name string, shim bool) {
	return strings.CutPrefix(strings.TrimSuffix(unit, ".service"), shims)
}

// Applier is the unit whose reload has repaired the namespace, or applied an edit, when it
// ends. pid is the shim's main process, which it has if systemd makes the namespace, the
// article's way; there the shim's own reload does not wait.
func (n Namespace) Applier(pid uint32) string {
	if pid != 0 {
		return "systemd-netns-access@" + n.Name + ".service"
	}
	return n.Shim()
}

// RunFile is a file of a namespace's that goes with its shim (RuntimeDirectory=).
func RunFile(name, file string) string { return filepath.Join("/run/systemd-netns", name, file) }

// ResolvConf is the resolv.conf(5) that the shim gives to services in the
// namespace, if they need another than the host's.
func (n Namespace) ResolvConf() string { return RunFile(n.Name, "resolv.conf") }

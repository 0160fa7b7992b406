package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Where things lie, apart from what belongs to a network.
const (
	// One spelling everywhere: cnitool derives the container ID from the path.
	netnsDir = "/run/netns"
	envDir   = "/etc/systemd-netns"
	// markDir holds a file for each namespace that was, or was to be, added to
	// a network: like IPAM's leases it outlives a power cut.
	markDir  = "/var/lib/systemd-netns"
	cacheDir = "/var/lib/cni/results"
)

// netns is a network namespace with what is known of its network.
type netns struct {
	voice
	name, path string
	network    string
	confDir    string
	ifName     string
	retry      time.Duration
}

// open reads what the environment and the namespace's file say of it.
func open(name string) (*netns, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := loadEnv(name); err != nil {
		return nil, err
	}
	retry, err := strconv.Atoi(cmp.Or(os.Getenv("RETRY_SEC"), "10"))
	if err != nil || retry < 0 {
		return nil, fmt.Errorf("RETRY_SEC: %q: no number of seconds; correct it in %s", os.Getenv("RETRY_SEC"), envFile(name))
	}
	n := &netns{
		voice: newVoice(name), name: name, path: filepath.Join(netnsDir, name),
		network: cmp.Or(os.Getenv("NETWORK"), networkName(name)),
		confDir: cmp.Or(os.Getenv("NETCONFPATH"), "/etc/cni/net.d"),
		ifName:  cmp.Or(os.Getenv("CNI_IFNAME"), "mv0"),
		retry:   time.Duration(retry) * time.Second,
	}
	return n, nil
}

// checkName takes what systemd takes for a unit's name (systemd.unit(5)), in
// which there is no way out of a folder.
func checkName(name string) error {
	bad := func(r rune) bool {
		return !isAlnum(r) && !strings.ContainsRune(`:_.\@-`, r)
	}
	if name == "" || name == "." || name == ".." || name[0] == '-' || len(name) > 255 || strings.IndexFunc(name, bad) >= 0 {
		return fmt.Errorf(`%q: no name of a unit; use letters, digits and :_.\@- as "haproxy" or "app@1" do`, name)
	}
	return nil
}

// networkName makes the name of a namespace one that a CNI network can have.
func networkName(name string) string {
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

func (n *netns) exists() bool {
	_, err := os.Lstat(n.path)
	return err == nil
}

// mark notes that the namespace is about to be added to a network, so that a
// start that follows a crash knows that there is something to undo.
func (n *netns) mark() error {
	if err := os.MkdirAll(markDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(n.markFile(), nil, 0o600)
}

func (n *netns) markFile() string { return filepath.Join(markDir, n.name) }

func (n *netns) marked() bool {
	_, err := os.Lstat(n.markFile())
	return err == nil
}

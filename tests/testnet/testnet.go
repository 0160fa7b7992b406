// Package testnet builds, for tests, hosts and services out of network
// namespaces: real links, real routes, nothing of the machine's own.
package testnet

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace that goes with its test.
type Namespace struct {
	ns.NetNS
	t       testing.TB
	removed sync.Once
}

// New makes an empty namespace, with lo down.
func New(t testing.TB) *Namespace {
	t.Helper()
	netns, err := testutils.NewNS()
	if err != nil {
		t.Fatalf("make a netns (this needs root): %v", err)
	}
	n := &Namespace{NetNS: netns, t: t}
	t.Cleanup(n.Remove)
	return n
}

// Remove removes the namespace, which otherwise its test's end does. The kernel
// clears away what was in it a little later.
func (n *Namespace) Remove() {
	n.t.Helper()
	n.removed.Do(func() {
		n.Close()
		if err := remove(n.Path()); err != nil {
			n.t.Errorf("remove %s: %v", n.Path(), err)
		}
	})
}

// remove does what testutils.UnmountNS does, also while a child of a parallel
// test, which has not come to its exec yet, holds the namespace's file.
func remove(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return err
	}
	return os.Remove(path)
}

// NewHost makes a namespace with an uplink eth0, up, that has the given
// addresses, and the LAN at the uplink's other end, where it is called port.
func NewHost(t testing.TB, addrs ...string) (host, lan *Namespace) {
	t.Helper()
	host, lan = New(t), New(t)
	Cable(t, host, "eth0", lan, "port")
	host.IP("link set lo up")
	for _, addr := range addrs {
		host.AddAddress("eth0", addr)
	}
	return host, lan
}

// Cable connects two namespaces by a link that is up at both ends.
func Cable(t testing.TB, a *Namespace, nameA string, b *Namespace, nameB string) {
	t.Helper()
	a.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: named(nameA), PeerName: nameB, PeerNamespace: netlink.NsFd(int(b.Fd())),
		})
	})
	a.IP("link set " + nameA + " up")
	b.IP("link set " + nameB + " up")
	a.awaitUp(nameA)
	b.awaitUp(nameB)
}

// awaitUp waits until a link's carrier shows, which the kernel sees to a moment
// after both ends are up: snapshots would differ otherwise.
func (n *Namespace) awaitUp(link string) {
	n.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var state netlink.LinkOperState
		n.Do(func() error {
			l, err := netlink.LinkByName(link)
			if err == nil {
				state = l.Attrs().OperState
			}
			return err
		})
		if state == netlink.OperUp {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: link %s is %s, not up", n.Path(), link, state)
		}
	}
}

// Linux tells whether the kernel is at least of a version, for what older
// ones have not.
func Linux(t testing.TB, major, minor int) bool {
	t.Helper()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &a, &b); err != nil {
		t.Fatalf("the kernel's version: %v", err)
	}
	return a > major || a == major && b >= minor
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// AddAddress adds an address that is usable at once.
func (n *Namespace) AddAddress(link, addr string) {
	n.t.Helper()
	if strings.Contains(addr, ":") {
		addr += " nodad"
	}
	n.IP("address add dev " + link + " " + addr)
}

// Do runs a function in the namespace.
func (n *Namespace) Do(f func() error) {
	n.t.Helper()
	if err := n.NetNS.Do(func(ns.NetNS) error { return f() }); err != nil {
		n.t.Fatal(err)
	}
}

// IP runs ip(8) in the namespace and gives what it prints.
func (n *Namespace) IP(args string) string {
	n.t.Helper()
	out, err := n.TryIP(args)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// TryIP is IP for commands that may fail.
func (n *Namespace) TryIP(args string) (string, error) {
	var out, complaints bytes.Buffer
	err := n.NetNS.Do(func(ns.NetNS) error {
		ip := exec.Command("ip", strings.Fields(args)...)
		// Apart, since ip complains of other tests' namespaces that are just
		// being made.
		ip.Stdout, ip.Stderr = &out, &complaints
		return ip.Run()
	})
	if err != nil {
		return "", fmt.Errorf("ip %s: %w: %s%s", args, err, &complaints, &out)
	}
	return out.String(), nil
}

// Shell runs a script in the namespace and gives all that it prints.
func (n *Namespace) Shell(script string) (string, error) {
	var out []byte
	err := n.NetNS.Do(func(ns.NetNS) (err error) {
		out, err = exec.Command("sh", "-euc", script).CombinedOutput()
		return err
	})
	return string(out), err
}

// Snapshot is the namespace's whole state of links, addresses, routes, rules, permanent
// neighbours and bridges' permanent entries, without what changes by itself.
func (n *Namespace) Snapshot() string {
	n.t.Helper()
	var out []byte
	n.Do(func() (err error) {
		out, err = exec.Command("sh", "-ec", SnapshotScript).Output()
		return err
	})
	return Steady(string(out))
}

// SnapshotScript prints what a snapshot consists of. Whose routes the kernel
// makes by itself for IPv6 depends on when duplicate address detection ends.
const SnapshotScript = `
for query in "-o link show" "-o address show scope global" "-4 route show table all" "-6 route show table all proto static" \
	"-6 route show table all proto 118" "-4 rule show" "-6 rule show"; do
	echo "# ip $query"
	ip $query
done
# Their order is that of a hash table.
echo "# ip neigh show nud permanent"
ip neigh show nud permanent | sort
echo "# bridge fdb show, the bridges' own"
bridge fdb show | grep " master .* permanent" | sort`

// operState is what the kernel's link watch changes up to a second after a
// link is up; whether it is up and has a carrier is in its flags UP and LOWER_UP.
var operState = regexp.MustCompile(` state (UNKNOWN|UP|DOWN|LOWERLAYERDOWN)\b|\bNO-CARRIER,`)

// Steady takes out of what ip(8) prints what changes by itself.
func Steady(out string) string { return operState.ReplaceAllString(out, "") }

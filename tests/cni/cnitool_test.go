package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

// exampleLeases is where conf/host-local.conflist keeps its leases.
const exampleLeases = "/run/cni/leases"

// TestExamples runs the networks in conf/ as they are.
func TestExamples(t *testing.T) {
	if _, err := os.Stat(exampleLeases); errors.Is(err, fs.ErrNotExist) {
		t.Cleanup(func() { os.RemoveAll(exampleLeases) })
	}
	for network, tt := range map[string]struct {
		host, lan []string
		vips      int
	}{
		"haproxy":    {[]string{"172.16.24.10/22"}, []string{"172.16.24.1/22"}, 2},
		"dual-stack": {[]string{"192.0.2.2/24", "2001:db8::2/64"}, []string{"192.0.2.1/24", "2001:db8::1/64"}, 4},
		"host-local": {[]string{"192.0.2.2/24"}, []string{"192.0.2.1/24"}, 1},
	} {
		t.Run(network, func(t *testing.T) {
			l := newLab(t, tt.host...)
			for _, addr := range tt.lan {
				l.lan.AddAddress("port", addr)
			}
			before := l.state() + files(t, exampleLeases)
			a := &tool{lab: l, folder: "../../conf", network: network, netns: testnet.New(t)}
			a.must("status")
			result := a.add()
			if len(result.IPs) != tt.vips {
				t.Errorf("result: %v", result)
			}
			a.must("check")
			a.reachable(result)
			a.must("del")
			if after := l.state() + files(t, exampleLeases); after != before {
				t.Errorf("left behind: %s", cmp.Diff(before, after))
			}
			a.nothingLeft()
		})
	}
}

// tool runs cnitool for one attachment.
type tool struct {
	*lab
	folder, network string
	netns           *testnet.Namespace
}

func (a *tool) run(verb string) outcome {
	return a.cnitool(verb, a.folder, a.network, a.netns.Path())
}

func (a *tool) must(verb string) outcome {
	a.t.Helper()
	o := a.run(verb)
	if !o.ok() {
		a.t.Fatalf("cnitool %s: %s", verb, o)
	}
	return o
}

func (a *tool) add() *current.Result {
	a.t.Helper()
	o := a.must("add")
	var result current.Result
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil {
		a.t.Fatalf("%v: %s", err, o)
	}
	return &result
}

// reachable pings every VIP from the host and from the LAN.
func (a *tool) reachable(result *current.Result) {
	a.t.Helper()
	for _, ip := range result.IPs {
		vip, _ := netip.AddrFromSlice(ip.Address.IP)
		for _, from := range []*testnet.Namespace{a.host, a.lan} {
			if err := from.Ping(vip.Unmap()); err != nil {
				a.t.Error(err)
			}
		}
	}
}

// nothingLeft looks where the lab's state does not reach.
func (a *tool) nothingLeft() {
	a.t.Helper()
	if left := a.netns.IP("link show"); strings.Contains(left, "eth0") {
		a.t.Errorf("left in the netns:\n%s", left)
	}
	if left := cached(a.t, a.netns.Path()); left != "" {
		a.t.Errorf("left in the cache: %s", left)
	}
}

// chain writes a network of both plugins for cnitool. The name is the lab's
// own, since libcni's cache is the machine's. Keys are macvlan-vip's.
func (l *lab) chain(keys string) (folder, network string) {
	l.t.Helper()
	folder, network = l.t.TempDir(), fmt.Sprintf("lab-%d", l.cookie())
	conflist := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [
		{"type": "macvlan-vip", "master": "eth0", "probe": {"count": 1, "waitMs": 20}, "announce": {"count": 1}, %s},
		{"type": "hairpin-route"}]}`, network, keys)
	if err := os.WriteFile(filepath.Join(folder, "lab.conflist"), []byte(conflist), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return folder, network
}

// hostLocal is an ipam section with a range of addresses in the lab's folder.
func (l *lab) hostLocal(subnet string) string {
	return fmt.Sprintf(`"ipam": {"type": "host-local", "dataDir": %q, "subnet": %q}`, l.leases, subnet)
}

// TestFailedAddThenDel: cnitool caches nothing of an add that failed, so its
// del has no prevResult.
func TestFailedAddThenDel(t *testing.T) {
	for name, tt := range map[string]struct{ keys, subnet string }{
		"in macvlan-vip":   {`"mtu": 9000, `, "198.51.100.0/24"},
		"in IPAM":          {``, "198.51.100.0/30"},
		"in hairpin-route": {`"mode": "private", `, "198.51.100.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "198.51.100.9/24")
			folder, network := l.chain(tt.keys + l.hostLocal(tt.subnet))
			if tt.subnet == "198.51.100.0/30" {
				// It has one address to give.
				first := &tool{lab: l, folder: folder, network: network, netns: testnet.New(t)}
				first.add()
				defer first.must("del")
			}
			before := l.state()
			a := &tool{lab: l, folder: folder, network: network, netns: testnet.New(t)}
			if o := a.run("add"); o.ok() {
				t.Fatalf("accepted: %s", o)
			}
			for range 2 {
				a.must("del")
				l.mustBe(before, "after del")
				a.nothingLeft()
			}
		})
	}
}

// TestDelIsLenient: before any add, twice, and with the netns gone.
func TestDelIsLenient(t *testing.T) {
	l := newLab(t, "198.51.100.1/24")
	before := l.state()
	folder, network := l.chain(l.hostLocal("198.51.100.0/24"))
	a := &tool{lab: l, folder: folder, network: network, netns: testnet.New(t)}
	a.must("del")
	a.add()
	for range 2 {
		a.must("del")
		l.mustBe(before, "after del")
	}
	a.nothingLeft()

	gone := l.namespace()
	path := gone.path
	if o := l.cnitool("add", folder, network, path); !o.ok() {
		t.Fatal(o)
	}
	gone.remove()
	for range 2 {
		if o := l.cnitool("del", folder, network, path); !o.ok() {
			t.Error(o)
		}
		l.mustBe(before, "after the netns went")
	}
	if left := cached(t, path); left != "" {
		t.Errorf("left in the cache: %s", left)
	}
}

// named is a namespace that comes and goes under one name, as a service's does.
type named struct {
	t          testing.TB
	name, path string
}

func (l *lab) namespace() *named {
	l.t.Helper()
	name := fmt.Sprintf("cnitest-%d", l.cookie())
	n := &named{l.t, name, "/run/netns/" + name}
	n.create()
	l.t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", n.name).Run() })
	return n
}

func (n *named) create() { n.ip("netns", "add", n.name) }
func (n *named) remove() { n.ip("netns", "delete", n.name) }

func (n *named) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// TestGC: cnitool's gc deletes what cnitool itself has added and sends no list
// of valid attachments, which must not be read as an empty one.
func TestGC(t *testing.T) {
	l := newLab(t, "198.51.100.1/24")
	folder, network := l.chain(l.hostLocal("198.51.100.0/24"))
	ours := &tool{lab: l, folder: folder, network: network, netns: testnet.New(t)}
	other := l.attachment("other")
	link := conf("1.1.0", "macvlan-vip", network, `"master": "eth0", `+l.hostLocal("198.51.100.0/24"))
	added := other.must("macvlan-vip", "ADD", link)
	hairpin := conf("1.1.0", "hairpin-route", network, `"prevResult": `+added.stdout)
	other.must("hairpin-route", "ADD", hairpin)
	before := l.state() + other.service.Snapshot()

	ours.add()
	ours.must("gc")
	if diff := lines(before, l.state()+other.service.Snapshot()); diff != "" {
		t.Errorf("another attachment was touched: %s", diff)
	}
	ours.nothingLeft()
	other.must("hairpin-route", "DEL", hairpin)
	other.must("macvlan-vip", "DEL", link)
}

// TestFastRestarts: the MAC is stable, so the next start must get on with a
// kernel that may not be through with the last stop.
func TestFastRestarts(t *testing.T) {
	for _, delFirst := range []bool{true, false} {
		t.Run(fmt.Sprintf("del before the netns goes %v", delFirst), func(t *testing.T) {
			l := newLab(t, "198.51.100.1/24", "2001:db8:1::1/64")
			folder, network := l.chain(`"ipam": {"type": "static", "addresses": [{"address": "198.51.100.10/24"}, {"address": "2001:db8:1::10/64"}]}`)
			n := l.namespace()
			macs := map[string]bool{}
			tool := func(verb string) outcome {
				o := l.cnitool(verb, folder, network, n.path)
				if !o.ok() {
					t.Fatalf("cnitool %s: %s", verb, o)
				}
				return o
			}
			for range testnet.Soak(20, 300) {
				var result current.Result
				if err := json.Unmarshal([]byte(tool("add").stdout), &result); err != nil {
					t.Fatal(err)
				}
				macs[result.Interfaces[1].Mac] = true
				if delFirst {
					tool("del")
					n.remove()
				} else {
					n.remove()
					tool("del")
				}
				n.create()
			}
			if len(macs) != 1 {
				t.Errorf("MACs: %v", macs)
			}
		})
	}
}

// TestTuningInTheChain: a plugin may change the link's MAC before hairpin-route, which goes
// by the link. What changes what the two have made is found by CHECK.
func TestTuningInTheChain(t *testing.T) {
	const mac = `"mac": "02:00:5e:00:53:01"`
	for name, tt := range map[string]struct {
		link, before, after string
		// checks tells whether CHECK succeeds.
		checks bool
	}{
		"MAC":                           {before: mac, checks: true},
		"MAC after hairpin-route":       {after: mac},
		"MAC of macvlan-vip's":          {link: mac + ", ", before: `"sysctl": {"net.core.somaxconn": "500"}`, checks: true},
		"MTU":                           {before: `"mtu": 1400`},
		"a sysctl of macvlan-vip's own": {before: `"sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "0"}`},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
			l.lan.AddAddress("port", "192.0.2.200/24")
			l.lan.AddAddress("port", "2001:db8::200/64")
			before := l.state()
			folder, network := l.chain(tt.link + `"ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}, {"address": "2001:db8::10/64"}]}`)
			tune(t, folder, tt.before, tt.after)
			a := &tool{lab: l, folder: folder, network: network, netns: testnet.New(t)}
			result := a.add()
			if tt.checks {
				if link := a.netns.IP("link show eth0"); !strings.Contains(link, "02:00:5e:00:53:01") {
					t.Errorf("the link has another MAC: %s", link)
				}
				a.reachable(result)
			}
			if o := a.run("check"); o.ok() != tt.checks {
				t.Errorf("CHECK: %s", o)
			}
			a.must("del")
			l.mustBe(before, "after del")
			a.nothingLeft()
		})
	}
}

// tune puts tuning with the given keys, if any, before and after hairpin-route.
func tune(t *testing.T, folder, before, after string) {
	t.Helper()
	file := filepath.Join(folder, "lab.conflist")
	conflist, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const hairpin = `{"type": "hairpin-route"}`
	chain := hairpin
	if before != "" {
		chain = `{"type": "tuning", ` + before + `}, ` + chain
	}
	if after != "" {
		chain += `, {"type": "tuning", ` + after + `}`
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(conflist), hairpin, chain, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

package runtimes

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	machines "macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

// nodes13 are what a cluster's hosts have of Debian 13: one root for all of them.
var nodes13 = append(runtimes13[:len(runtimes13):len(runtimes13)], "docker.io", "docker-cli", "etcd-server")

// node is a booted host of a cluster. The site's peer is on its LAN, as are the
// other nodes.
type node struct {
	site
	m          *machines.Machine
	name       string
	four, six  string
	containers string // the cgroup of its containers, on cgroup v1
}

// cluster is hosts on one LAN. The control machine runs the cluster's servers; it
// is a container whatever MACHINE says, since these are not what is tested.
type cluster struct {
	t       testing.TB
	lan     *testnet.Namespace
	control *node
	workers []*node
}

// The addresses of the control machine and the workers.
const controlNumber = 5

var workerNumbers = []int{2, 4}

// newCluster makes a cluster of two workers that are not booted.
func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{t: t, lan: testnet.New(t)}
	c.lan.IP("link add port type bridge forward_delay 0")
	c.lan.IP("link set port up")
	newLAN(c.lan, "port")
	c.control = c.newNode("control", controlNumber, machines.Of(machines.Nspawn), machines.Bare())
	for i, number := range workerNumbers {
		c.workers = append(c.workers, c.newNode(fmt.Sprintf("node%d", i+1), number, machines.Memory(1536)))
	}
	return c
}

func (c *cluster) newNode(name string, number int, options ...machines.Option) *node {
	c.t.Helper()
	n := &node{
		name: name, four: fmt.Sprintf("192.0.2.%d", number), six: fmt.Sprintf("2001:db8::%d", number),
		containers: fmt.Sprintf("/%s-%s-%d", c.t.Name(), name, os.Getpid()),
	}
	// Last, once no process is in them.
	c.t.Cleanup(func() { removeCgroups(c.t, n.containers) })
	n.m = machines.NewFor(c.t, []string{"--lines", "300"}, append(options, machines.Suite("trixie"), machines.With(nodes13...),
		machines.Connect(machines.NIC{
			LAN: c.lan.Path(), Port: name, MAC: fmt.Sprintf("02:00:5e:00:53:a%d", number),
			Addresses: []string{n.four + "/24", n.six + "/64"},
		}))...)
	c.lan.IP("link set " + name + " master port")
	n.site = site{t: c.t, lan: c.lan, patience: 2 * testnet.Patience * time.Duration(n.m.Slowness()), try: func(script string) (string, error) {
		return n.m.Run("env", "HOME=/root", "sh", "-euc", script)
	}}
	n.m.MustWrite(c.t, "etc/hostname", name+"\n")
	return n
}

// all are the control machine and the workers.
func (c *cluster) all() []*node { return append([]*node{c.control}, c.workers...) }

// boot boots hosts, one after the other: a busy machine would not have them all
// up in time.
func (c *cluster) boot(nodes ...*node) {
	c.t.Helper()
	for _, n := range nodes {
		n.m.MustBoot(c.t)
	}
}

// install puts programs on a host that was never booted.
func (n *node) install(dir string, programs ...string) {
	n.t.Helper()
	for _, program := range programs {
		to := filepath.Join(n.m.Path(dir), filepath.Base(program))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			n.t.Fatal(err)
		}
		if out, err := exec.Command("cp", program, to).CombinedOutput(); err != nil {
			n.t.Fatalf("install %s: %v: %s", program, err, out)
		}
	}
}

// reached asserts that the peer and each node reach each VIP, and that it sees
// them at their own addresses.
func (c *cluster) reached(vips ...string) {
	c.t.Helper()
	for _, vip := range vips {
		for _, n := range c.workers {
			n.sees(vip, like(vip, n.four, n.six), n.try)
		}
		c.workers[0].sees(vip, like(vip, peer4, peer6), c.lan.Shell)
	}
}

// asked starts to ask for VIPs from the LAN, and gives a function that ends that: it
// tells for how long at most one did not answer.
func (c *cluster) asked(vips ...string) (outage func() time.Duration) {
	end := make(chan struct{})
	gaps := make(chan time.Duration, len(vips))
	for _, vip := range vips {
		go func() { gaps <- c.longestGap(vip, end) }()
	}
	stop := sync.OnceFunc(func() { close(end) })
	c.t.Cleanup(stop)
	return func() (longest time.Duration) {
		stop()
		for range vips {
			longest = max(longest, <-gaps)
		}
		return longest.Round(100 * time.Millisecond)
	}
}

// longestGap is the longest time between two answers of a VIP.
func (c *cluster) longestGap(vip string, end chan struct{}) (longest time.Duration) {
	last := time.Now()
	for {
		if _, err := c.lan.Page(vip); err == nil {
			now := time.Now()
			longest, last = max(longest, now.Sub(last)), now
		}
		select {
		case <-end:
			return longest
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// later starts units as soon as the boot is over, for which a busy machine has
// little time.
const later = `[Service]
ExecStart=sh -c 'while [ "$(systemctl is-system-running)" = starting ]; do sleep 0.2; done; exec systemctl start --no-block UNITS'
[Install]
WantedBy=multi-user.target
`

// starts has a host start units whenever it boots, and no server but these.
func (n *node) starts(units ...string) {
	n.t.Helper()
	n.m.MustWrite(n.t, "etc/systemd/system/test-later.service", strings.Replace(later, "UNITS", strings.Join(units, " "), 1))
	for _, args := range [][]string{
		{"disable", "docker.service", "containerd.service", "etcd.service", "haproxy.service", "netavark-dhcp-proxy.service", "netavark-dhcp-proxy.socket"},
		{"enable", "test-later.service"},
	} {
		if err := n.m.Systemctl(args...); err != nil {
			n.t.Fatal(err)
		}
	}
}

// states are those of the workers, for left.
func (c *cluster) states() map[*node]string {
	states := map[*node]string{}
	for _, n := range c.workers {
		states[n] = n.state()
	}
	return states
}

// state is the site's but for the bridge of Kubernetes's first network, which a
// node's first pod makes and which stays.
func (n *node) state() string {
	n.t.Helper()
	var lines []string
	for line := range strings.Lines(n.site.state()) {
		if !strings.Contains(line, "cni0") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// left asserts that all workers become what they were.
func (c *cluster) left(before map[*node]string) {
	c.t.Helper()
	for _, n := range c.workers {
		n.left(before[n])
	}
}

// left is clean for what goes on after the command that began it.
func (n *node) left(before string) {
	n.t.Helper()
	testnet.Within(n.t, n.patience, n.name+" is as before", func() error {
		if after := n.state(); after != before {
			return fmt.Errorf("it is\n%s\nbefore:\n%s", after, before)
		}
		return nil
	})
}

// holder waits until one worker has a VIP.
func (c *cluster) holder(vip string) *node { return c.holderAfter(vip, nil) }

// holderAfter waits until one worker alone has a VIP, which is another than old.
func (c *cluster) holderAfter(vip string, old *node) (holder *node) {
	c.t.Helper()
	testnet.Within(c.t, moveTime*time.Duration(c.workers[0].m.Slowness()), "a worker has "+vip, func() error {
		holder = nil
		for _, n := range c.workers {
			// A worker that is off has none.
			switch out, err := n.try("ip route show table local proto 118 " + vip); {
			case err != nil || strings.TrimSpace(out) == "":
			case holder != nil:
				return errors.New("two have it")
			default:
				holder = n
			}
		}
		if holder == nil || holder == old {
			return errors.New("none has it, or the old one")
		}
		return nil
	})
	return holder
}

// moveTime bounds the time in which a cluster notices that a host has gone, and
// starts what ran there on another.
const moveTime = 2 * time.Minute

// docker prepares a host that was never booted for Docker, with the test's
// program as an image's layer.
func (n *node) docker() {
	n.t.Helper()
	daemon := map[string]any{"storage-driver": "vfs", "bridge": "none", "iptables": false, "ip6tables": false}
	if n.m.Kind == machines.Nspawn {
		n.nested()
		daemon["cgroup-parent"] = n.containers
	}
	n.m.MustWrite(n.t, "etc/docker/daemon.json", string(marshal(n.t, daemon)))
	program, err := os.ReadFile(filepath.Join(filepath.SplitList(os.Getenv("PATH"))[0], "answer"))
	if err != nil {
		n.t.Fatal(err)
	}
	n.m.MustWrite(n.t, "root/answer.tar", string(archive(n.t, file{"answer", program})))
}

// runcWrapper has runc leave alone the kernel's keyrings, which systemd-nspawn
// does not let a machine use.
const runcWrapper = `#!/bin/sh
for arg; do
	shift
	set -- "$@" "$arg"
	case $arg in create | run) set -- "$@" --no-new-keyring ;; esac
done
exec /usr/sbin/runc "$@"
`

// nested lets runtimes run on a machine that is a container on cgroup v1: they
// make cgroups, all of them in one.
func (n *node) nested() {
	n.t.Helper()
	n.m.MustWrite(n.t, "usr/local/sbin/runc", runcWrapper)
	n.m.MustWrite(n.t, "etc/systemd/system/test-cgroups.service", `[Unit]
DefaultDependencies=no
Before=containerd.service docker.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/test-cgroups
`)
	n.m.MustWrite(n.t, "usr/local/sbin/test-cgroups", `#!/bin/sh -e
for hierarchy in /sys/fs/cgroup/*; do
	mountpoint -q $hierarchy && [ $hierarchy != /sys/fs/cgroup/unified ] || continue
	mount -o remount,bind,rw $hierarchy
	mkdir -p $hierarchy`+n.containers+`
done
for file in cpuset.cpus cpuset.mems; do # a new one has none
	cat /sys/fs/cgroup/cpuset/$file >/sys/fs/cgroup/cpuset`+n.containers+`/$file
done
`)
	for _, script := range []string{"test-cgroups", "runc"} {
		if err := n.m.Chmod("usr/local/sbin/"+script, 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	if err := n.m.Link("etc/systemd/system/sysinit.target.wants/test-cgroups.service", "/etc/systemd/system/test-cgroups.service"); err != nil {
		n.t.Fatal(err)
	}
}

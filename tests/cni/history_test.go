package cni

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"macvlan-vip/tests/testnet"
)

// TestHistories draws histories of a host with services on several networks:
// what operators, networks, crashes and disks do to them, in any order. After
// each event it looks whether what must hold holds (world.check), and at the end
// whether nothing is left. `make chaos` draws more of them, and longer ones.
func TestHistories(t *testing.T) {
	testnet.FewChecks(t, 5)
	smallDisk(t)
	var histories, steps, longest atomic.Int64
	began := time.Now()
	tell := func() {
		t.Logf("%d histories of %d steps in all, the longest of %d, in %s", histories.Load(), steps.Load(), longest.Load(), time.Since(began).Round(time.Second))
	}
	defer tell()
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t, r)
		defer w.end()
		events, mine := w.events(), int64(0)
		for name, event := range events {
			if name != "" {
				events[name] = func(r *rapid.T) {
					w.r = r
					event(r)
					mine++
				}
			}
		}
		r.Repeat(events)
		w.finish()
		histories.Add(1)
		steps.Add(mine)
		longest.Store(max(longest.Load(), mine))
		tell()
	})
}

// events are what can happen.
func (w *world) events() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"":                w.check,
		"add":             func(*rapid.T) { w.add(w.any()) },
		"add again":       func(*rapid.T) { w.add(w.any()) },
		"edit":            w.edit,
		"edit and add":    func(r *rapid.T) { w.edit(r); w.add(w.last) },
		"spoil the file":  w.spoilFile,
		"del":             func(*rapid.T) { w.del(w.any()) },
		"gc":              w.gc,
		"kill add":        func(*rapid.T) { w.killed("add") },
		"kill del":        func(*rapid.T) { w.killed("del") },
		"kill gc":         w.killedGC,
		"several at once": w.severalAtOnce,
		"netns deleted":   func(*rapid.T) { w.deleteNetns(w.any()) },
		"ip command":      w.command,
		"fdb deleted":     w.deleteEntries,
		"host address":    w.hostAddress,
		"carrier":         w.carrierEvent,
		"record spoiled":  w.spoilRecord,
		"entry spoiled":   w.spoilEntry,
		"cache spoiled":   w.spoilCache,
		"disk full":       w.diskFull,
		"daemon killed":   func(*rapid.T) { w.note("DHCP daemon killed"); w.dhcp.kill(); w.dhcp.start() },
		"reboot":          func(*rapid.T) { w.reboot() },
		"power cut":       w.powerCut,
	}
}

// edit gives a service other addresses, or another MTU, or what is refused.
func (w *world) edit(r *rapid.T) {
	s := w.any()
	was := s.wants
	s.wants = wish{
		parts:  rapid.SliceOfNDistinct(rapid.IntRange(10, 17), 1, 3, rapid.ID[int]).Draw(r, "VIPs"),
		family: rapid.SampledFrom([]int{0, 0, 4, 6}).Draw(r, "family"),
		mtu:    rapid.SampledFrom([]int{1500, 1500, 1500, 1400}).Draw(r, "MTU"),
		broken: rapid.SampledFrom([]bool{false, false, false, true}).Draw(r, "broken"),
	}
	if s.network.ipam == "dhcp" {
		s.wants.parts, s.wants.family = was.parts, was.family
	}
	w.note("edit %s: %+v", s.name, s.wants)
	w.write(s)
}

// killed runs a verb of cnitool, of which a process is killed before one of the
// changes that it, the plugins or the IPAM plugin make.
func (w *world) killed(verb string) {
	s := w.any()
	w.write(s)
	if verb == "add" {
		w.ready(s)
	}
	if !s.space.there {
		w.r.Skip("no netns")
	}
	cmd := exec.Command(lookPath("cnitool"), verb, s.network.name, s.space.path)
	cmd.Env = w.env(s)
	o, hit := w.kill(cmd, verb+" of "+s.name)
	if verb == "add" {
		w.tried(s)
	}
	switch {
	case o.ok() && verb == "add":
		w.isUp(s)
	case o.ok() && verb == "del":
		w.isDown(s)
	case hit:
		s.certain = false
	}
}

// kill runs a program, and kills it or one of its children before one of their
// changes, if they make as many.
func (w *world) kill(cmd *exec.Cmd, what string) (o outcome, hit bool) {
	n := rapid.IntRange(0, 60).Draw(w.r, "changes before")
	left := n
	o = w.trace(cmd, &tracer{follow: true, at: func(change) (what tampering) {
		left--
		what.kill = left == -1
		hit = hit || what.kill
		return what
	}})
	w.note("kill %s before change %d: %v, ended well: %v", what, n, hit, o.ok())
	return o, hit
}

// gc collects what is not up of a network, of both plugins.
func (w *world) gc(r *rapid.T) {
	n := rapid.SampledFrom(w.networks).Draw(r, "network")
	for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
		o := w.exec([]string{"CNI_COMMAND=GC", "CNI_PATH=" + w.path}, w.garbage(n, plugin), plugin)
		w.note("gc of network %s in %s: %v", n.name, plugin, o.ok())
		if !o.ok() {
			w.fail("gc: %s", o)
		}
	}
}

// garbage is a GC's configuration: what is up is valid.
func (w *world) garbage(n *network, plugin string) string {
	valid := []types.GCAttachment{}
	for _, s := range w.services {
		if s.up && s.network == n {
			valid = append(valid, types.GCAttachment{ContainerID: s.space.id, IfName: s.ifName})
		}
	}
	return with(w.t, conf("1.1.0", plugin, n.name, fmt.Sprintf(`"master": "eth%d"`, n.uplink)), "cni.dev/valid-attachments", valid)
}

// killedGC kills a GC of one plugin.
func (w *world) killedGC(r *rapid.T) {
	n := rapid.SampledFrom(w.networks).Draw(r, "network")
	plugin := rapid.SampledFrom(plugins).Draw(r, "plugin")
	cmd := exec.Command(lookPath(plugin))
	cmd.Env, cmd.Stdin = []string{"CNI_COMMAND=GC", "CNI_PATH=" + w.path}, strings.NewReader(w.garbage(n, plugin))
	w.kill(cmd, "gc of network "+n.name+" in "+plugin)
}

// call is what one of several at once asks for.
type call struct {
	s    *svc
	verb string
	o    outcome
	// killed tells that it and its children were, some time on their way.
	killed bool
}

// severalAtOnce has services do something at the same time, but for two in one
// namespace (CNI specification, "Lifecycle & Ordering"). One is killed, perhaps.
func (w *world) severalAtOnce(r *rapid.T) {
	var calls []*call
	taken := map[*space]bool{}
	for _, s := range w.services {
		verb := rapid.SampledFrom([]string{"add", "del", "check", ""}).Draw(r, "verb of "+s.name)
		if verb == "" || taken[s.space] {
			continue
		}
		taken[s.space] = true
		w.write(s)
		if verb == "add" {
			w.ready(s)
			w.tried(s)
		}
		if s.space.there {
			calls = append(calls, &call{s: s, verb: verb})
		}
	}
	victim, after := rapid.IntRange(-4, 3).Draw(r, "victim"), rapid.IntRange(1, 200).Draw(r, "ms")
	done := make(chan *call)
	for i, c := range calls {
		go func() {
			if i == victim {
				c.killed = true
				w.killedAfter(c, time.Duration(after)*time.Millisecond)
			} else {
				c.o = w.tool(c.s, c.verb)
			}
			done <- c
		}()
	}
	for range calls {
		w.judge(<-done)
	}
}

// killedAfter kills cnitool and its children after a time, if they have not ended
// by then.
func (w *world) killedAfter(c *call, after time.Duration) {
	cmd := exec.Command(lookPath("cnitool"), c.verb, c.s.network.name, c.s.space.path)
	cmd.Env, cmd.SysProcAttr = w.env(c.s), &syscall.SysProcAttr{Setpgid: true}
	w.host.Do(func() error {
		// The child begins in the namespace of the thread that starts it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		return cmd.Start()
	})
	timer := time.AfterFunc(after, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	_ = cmd.Wait()
	c.o.status = cmd.ProcessState.ExitCode()
}

func (w *world) judge(c *call) {
	w.note("at once: %s of %s: %v, killed: %v", c.verb, c.s.name, c.o.ok(), c.killed)
	switch {
	case c.verb == "add" && c.o.ok():
		w.isUp(c.s)
	case c.verb == "del" && c.o.ok():
		w.isDown(c.s)
	case c.verb == "del" && !c.killed:
		w.fail("del of %s: %s", c.s.name, c.o)
	case c.verb != "check":
		// Another may have had its VIP for a moment.
		c.s.certain = false
	}
}

func (w *world) deleteNetns(s *svc) {
	if !s.space.there {
		w.r.Skip("no netns")
	}
	w.note("netns of %s deleted", s.name)
	w.removeNetns(s.space)
	for _, o := range w.services {
		if o.space == s.space && (o.up || !o.certain) {
			o.up, o.certain = false, false
		}
	}
}

func (w *world) removeNetns(p *space) {
	if out, err := exec.Command("ip", "netns", "delete", p.name).CombinedOutput(); err != nil {
		w.t.Fatalf("ip netns delete: %v: %s", err, out)
	}
	p.there = false
}

// command is what others do to what the plugins made.
func (w *world) command(r *rapid.T) {
	what := rapid.SampledFrom([]string{
		"link del mv-int", "link set mv-int down", "link set mv-int mtu 1300", "link set mv-int address 02:00:00:00:00:98",
		"route flush table local proto 118", "-6 route flush table local proto 118",
		"neigh flush nud permanent dev mv-int", "@link del LINK", "@link set LINK down", "@route flush proto 118", "@-6 route flush proto 118",
		"@route flush table all proto 118", "@neigh flush nud permanent dev LINK", "@address flush dev LINK scope global",
		"@link set LINK address 02:00:00:00:00:99", "@link set LINK mtu 1300", "@rule flush proto 0", "@-6 rule flush proto 0",
	}).Draw(r, "command")
	inner, inNetns := strings.CutPrefix(what, "@")
	if !inNetns {
		w.note("ip %s", what)
		_, _ = w.host.TryIP(what)
		return
	}
	s := w.any()
	if !s.space.there {
		w.r.Skip("no netns")
	}
	w.note("in the namespace of %s: ip %s", s.name, inner)
	if family, isRule := strings.CutSuffix(inner, "rule flush proto 0"); isRule {
		w.flushRules(s.space, family)
		return
	}
	inner = strings.ReplaceAll(inner, "LINK", s.ifName)
	_ = exec.Command("ip", append([]string{"-n", s.space.name}, strings.Fields(inner)...)...).Run()
}

// flushRules takes the rules of a namespace away but for the kernel's own and
// somebody else's.
func (w *world) flushRules(p *space, family string) {
	script := `ip $2 -n $1 rule show | while IFS=: read pref rest; do case $pref in 0|11000|32766|32767) ;; *) ip $2 -n $1 rule del pref $pref;; esac; done`
	_ = exec.Command("sh", "-c", script, "sh", p.name, strings.TrimSpace(family+" ")).Run()
}

// deleteEntries takes away what the bridge has for the services' links.
func (w *world) deleteEntries(*rapid.T) {
	w.note("the bridge's entries deleted")
	w.forgetMACs()
}

func (w *world) forgetMACs() {
	if out, err := w.host.Shell(`bridge fdb show br eth1 | grep "dev eth1 .*master" | while read mac rest; do bridge fdb del $mac dev eth1 self || true; done`); err != nil {
		w.t.Fatalf("delete the bridge's entries: %v: %s", err, out)
	}
}

// hostAddress comes or goes.
func (w *world) hostAddress(r *rapid.T) {
	addr := rapid.SampledFrom([]string{"10.99.0.7/16", "10.99.0.8/16", "10.98.0.7/16", "198.51.100.7/24", "2001:db8::7/64"}).Draw(r, "address")
	if w.hostHas[addr] {
		w.host.IP("address del dev eth0 " + addr)
	} else {
		w.host.AddAddress("eth0", addr)
	}
	w.hostHas[addr] = !w.hostHas[addr]
	w.note("host's address %s: %v", addr, w.hostHas[addr])
}

func (w *world) carrierEvent(r *rapid.T) {
	uplink := rapid.IntRange(0, 1).Draw(r, "uplink")
	w.carrier[uplink] = !w.carrier[uplink]
	w.note("carrier of eth%d: %v", uplink, w.carrier[uplink])
	w.setCarrier(uplink)
}

func (w *world) setCarrier(uplink int) {
	lan := w.lans[uplink]
	if !w.carrier[uplink] {
		lan.IP("link set port down")
		return
	}
	lan.IP("link set port up")
	_, _ = lan.TryIP("address add " + lanAddress6(uplink) + " dev port nodad")
	time.Sleep(20 * time.Millisecond)
}

// diskFull runs a verb while nothing can be written below /run/cni.
func (w *world) diskFull(r *rapid.T) {
	s := w.any()
	verb := rapid.SampledFrom([]string{"add", "del"}).Draw(r, "verb")
	w.write(s)
	if verb == "add" {
		w.ready(s)
		w.tried(s)
	}
	if !s.space.there {
		r.Skip("no netns")
	}
	filler := "/run/cni/filler"
	if err := fill(filler); err != nil {
		r.Fatal(err)
	}
	o := w.tool(s, verb)
	if err := os.Remove(filler); err != nil {
		r.Fatal(err)
	}
	w.note("disk full: %s of %s: %v", verb, s.name, o.ok())
	switch {
	case verb == "add" && o.ok():
		w.isUp(s)
	case verb == "add":
		s.certain = false
	case o.ok():
		w.isDown(s)
	default:
		w.fail("del of %s on a full disk: %s", s.name, o)
	}
}

// fill takes all the room of a file system.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for block := make([]byte, 64<<10); len(block) > 0; {
		if _, err := file.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	return nil
}

// smallDisk makes /run/cni a file system that is soon full, for as long as the
// test runs. The mount namespace has to be the test's own.
func smallDisk(t testing.TB) {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs("/run/cni", &stat); err != nil || stat.Type != unix.TMPFS_MAGIC {
		t.Skip("/run/cni is not the test's own tmpfs: see `make test`")
	}
	if err := unix.Mount("history", "/run/cni", "tmpfs", 0, "size=4m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount("/run/cni", unix.MNT_DETACH) })
}

package cni

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"macvlan-vip/tests/testnet"
)

// TestHistories draws histories of a host with three services: what operators,
// networks, crashes and disks do to them, in any order. After each event it
// looks whether what must hold holds (world.check), and at the end whether
// nothing is left. `make chaos` draws more of them, and longer ones.
func TestHistories(t *testing.T) {
	testnet.FewChecks(t, 5)
	smallDisk(t)
	var histories, steps atomic.Int64
	began := time.Now()
	defer func() {
		t.Logf("%d histories of %d steps in all, in %s", histories.Load(), steps.Load(), time.Since(began).Round(time.Second))
	}()
	rapid.Check(t, func(r *rapid.T) {
		histories.Add(1)
		w := newWorld(t, r)
		defer w.end()
		events := w.events()
		for name, event := range events {
			if name != "" {
				events[name] = func(r *rapid.T) {
					steps.Add(1)
					w.r = r
					event(r)
				}
			}
		}
		r.Repeat(events)
		w.finish()
		t.Logf("%d histories, %d steps, %s: nothing found", histories.Load(), steps.Load(), time.Since(began).Round(time.Second))
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
		"several at once": w.severalAtOnce,
		"netns deleted":   func(*rapid.T) { w.deleteNetns(w.any()) },
		"ip command":      w.command,
		"host address":    w.hostAddress,
		"carrier":         w.carrierEvent,
		"record spoiled":  w.spoilRecord,
		"cache spoiled":   w.spoilCache,
		"disk full":       w.diskFull,
	}
}

// killed runs a verb of cnitool, of which a process is killed before one of the
// changes that it, the plugins or the IPAM plugin make.
func (w *world) killed(verb string) {
	s := w.any()
	w.mend(s)
	if verb == "add" {
		w.ready(s)
	}
	if !s.netns {
		w.r.Skip("no netns")
	}
	n, left := rapid.IntRange(0, 60).Draw(w.r, "changes before"), 0
	left = n
	cmd := exec.Command(lookPath("cnitool"), verb, w.network, s.path)
	cmd.Env = []string{"NETCONFPATH=" + s.folder, "CNI_PATH=" + w.path, "PATH=" + w.path}
	w.note("kill %s of %s before change %d", verb, s.name, n)
	hit := false
	o := w.trace(cmd, &tracer{follow: true, at: func(change) (what tampering) {
		left--
		what.kill = left == -1
		hit = hit || what.kill
		return what
	}})
	s.maybe.add(s.wants.parts)
	switch {
	case o.ok() && verb == "add":
		w.isUp(s)
	case o.ok() && verb == "del":
		w.isDown(s)
	case hit:
		s.certain = false
	}
}

// severalAtOnce has two services do something at the same time.
func (w *world) severalAtOnce(r *rapid.T) {
	type call struct {
		s    *svc
		verb string
		o    outcome
	}
	var calls []*call
	for _, s := range w.services {
		verb := rapid.SampledFrom([]string{"add", "del", "check", ""}).Draw(r, "verb of "+s.name)
		if verb == "" {
			continue
		}
		w.mend(s)
		if verb == "add" {
			w.ready(s)
			s.maybe.add(s.wants.parts)
		}
		if s.netns {
			calls = append(calls, &call{s: s, verb: verb})
		}
	}
	done := make(chan *call)
	for _, c := range calls {
		go func() {
			c.o = w.tool(c.s, c.verb)
			done <- c
		}()
	}
	for range calls {
		c := <-done
		w.note("at once: %s of %s: %v", c.verb, c.s.name, c.o.ok())
		switch {
		case c.verb == "add" && c.o.ok():
			w.isUp(c.s)
		case c.verb == "del" && c.o.ok():
			w.isDown(c.s)
		case c.verb == "del":
			w.r.Fatalf("del of %s: %s", c.s.name, c.o)
		case c.verb == "add":
			// Another may have had its VIP for a moment.
			c.s.certain = false
		}
	}
}

// command is what others do to what the plugins made.
func (w *world) command(r *rapid.T) {
	what := rapid.SampledFrom([]string{
		"link del mv-int", "link set mv-int down", "route flush table local proto 118", "-6 route flush table local proto 118",
		"neigh flush nud permanent dev mv-int", "@link del eth0", "@link set eth0 down", "@route flush proto 118", "@neigh flush nud permanent dev eth0",
		"@address flush dev eth0 scope global", "@link set eth0 address 02:00:00:00:00:99", "@link set eth0 mtu 1300",
	}).Draw(r, "command")
	w.note("ip %s", what)
	if inner, ok := strings.CutPrefix(what, "@"); ok {
		s := w.any()
		if s.netns {
			_ = exec.Command("ip", append([]string{"-n", s.name}, strings.Fields(inner)...)...).Run()
		}
		return
	}
	_, _ = w.host.TryIP(what)
}

// hostAddress comes or goes.
func (w *world) hostAddress(r *rapid.T) {
	addr := rapid.SampledFrom([]string{"10.99.0.7/16", "10.99.0.8/16", "198.51.100.7/24", "2001:db8::7/64"}).Draw(r, "address")
	if w.hostHas[addr] {
		w.host.IP("address del dev eth0 " + addr)
	} else {
		w.host.AddAddress("eth0", addr)
	}
	w.hostHas[addr] = !w.hostHas[addr]
	w.note("host's address %s: %v", addr, w.hostHas[addr])
}

func (w *world) carrierEvent(*rapid.T) {
	w.carrier = !w.carrier
	w.note("carrier %v", w.carrier)
	w.setCarrier()
}

func (w *world) setCarrier() {
	if !w.carrier {
		w.lan.IP("link set port down")
		return
	}
	w.lan.IP("link set port up")
	_, _ = w.lan.TryIP("address add 2001:db8::2/64 dev port nodad")
	time.Sleep(20 * time.Millisecond)
}

// garbage is what a file can hold after a power cut, an editor or a mistake.
var garbage = map[string]func(old []byte) []byte{
	"empty":   func([]byte) []byte { return nil },
	"cut off": func(old []byte) []byte { return old[:len(old)/2] },
	"binary":  func([]byte) []byte { return []byte("\x00\xff\x01{") },
	"object":  func([]byte) []byte { return []byte("{}") },
}

func (w *world) spoil(file string) {
	old, err := os.ReadFile(file)
	if err != nil {
		w.r.Skip("no such file")
	}
	how := rapid.SampledFrom([]string{"empty", "cut off", "binary", "object"}).Draw(w.r, "garbage")
	w.note("%s in %s", how, filepath.Base(file))
	if err := os.WriteFile(file, garbage[how](old), 0o600); err != nil {
		w.r.Fatal(err)
	}
}

func (w *world) spoilFile(*rapid.T) {
	s := w.any()
	w.spoil(filepath.Join(s.folder, "lab.conflist"))
}

func (w *world) spoilRecord(r *rapid.T) {
	s, plugin := w.any(), rapid.IntRange(0, 1).Draw(r, "plugin")
	w.spoil(w.record(s, plugin))
	s.certain = false
}

func (w *world) record(s *svc, plugin int) string {
	return filepath.Join(w.journals()[plugin], "attachments", fmt.Sprintf("%s:%s:eth0.json", w.network, s.id))
}

func (w *world) spoilCache(*rapid.T) {
	s := w.any()
	file := cached(w.t, s.path)
	if file == "" {
		w.r.Skip("no cache")
	}
	w.spoil(file)
	s.cacheLost = true
}

// diskFull runs a verb while nothing can be written below /run/cni.
func (w *world) diskFull(r *rapid.T) {
	s := w.any()
	verb := rapid.SampledFrom([]string{"add", "del"}).Draw(r, "verb")
	w.mend(s)
	if verb == "add" {
		w.ready(s)
	}
	if !s.netns {
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
		s.maybe.add(s.wants.parts)
		s.certain = false
	case o.ok():
		w.isDown(s)
	default:
		r.Fatalf("del of %s on a full disk: %s", s.name, o)
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

package cni

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"macvlan-vip/tests/testnet"
)

// TestHungIPAM: an IPAM plugin that hangs, with a child that keeps its output
// open, does not keep a DEL from the rest. The error names it, and the next DEL
// finishes.
func TestHungIPAM(t *testing.T) {
	t.Parallel()
	l := newWideLab(t)
	before := l.state()
	s := newSpy(l, "10.99.1.10/16")
	a := &tool{lab: l, netns: testnet.New(t)}
	a.folder, a.network = l.chain(`"ipam": {"type": "spy"}`)
	a.add()
	s.write("DEL.hangs", "")
	began := time.Now()
	o := a.run("del")
	// The limit is 15 seconds; the rest is for a busy machine.
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("it took %s", took)
	}
	if o.ok() || !strings.Contains(o.stderr, `"spy"`) || !strings.Contains(o.stderr, "no answer") {
		t.Errorf("want an error that names the plugin: %s", o)
	}
	if now := l.host.Snapshot(); !strings.HasPrefix(before, now) {
		t.Errorf("left on the host: %s", lines(before, now))
	}
	if left := a.netns.IP("link show"); strings.Contains(left, "eth0") {
		t.Errorf("left in the netns:\n%s", left)
	}
	s.remove("DEL.hangs")
	a.must("del")
	l.mustBe(before, "after the next del")
	a.nothingLeft()
}

// TestSlowIPAM: whereabouts waits for the cluster's other nodes, and is given the time
// for that. A kubelet by way of Multus asks for a DEL once.
func TestSlowIPAM(t *testing.T) {
	t.Parallel()
	l := newWideLab(t)
	before := l.state()
	s := newSpy(l, "10.99.1.10/16")
	s.write("whereabouts", `#!/bin/sh
[ "$CNI_COMMAND" != DEL ] || sleep 17
exec "${0%/*}/spy"
`)
	if err := os.Chmod(s.dir+"/whereabouts", 0o700); err != nil {
		t.Fatal(err)
	}
	a := &tool{lab: l, netns: testnet.New(t)}
	a.folder, a.network = l.chain(`"ipam": {"type": "whereabouts"}`)
	a.add()
	a.must("del")
	l.mustBe(before, "after the del")
	a.nothingLeft()
}

// TestBrokenIPAM: one that is gone, fails, or is asked by other arguments than
// at ADD does not keep a DEL from the rest either.
func TestBrokenIPAM(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil, mend func(p *pair, s *spy)
		fails       bool
	}{
		"fails": {func(_ *pair, s *spy) { s.fails("DEL", 150) }, func(_ *pair, s *spy) { s.answers("DEL", "") }, true},
		"is gone": {
			func(_ *pair, s *spy) { s.rename("spy", "away") },
			func(_ *pair, s *spy) { s.rename("away", "spy") }, true,
		},
		"CNI_ARGS are no list":  {func(p *pair, _ *spy) { p.args = "nonsense" }, nil, false},
		"configuration is none": {func(p *pair, _ *spy) { p.link = with(t, p.link, "ipam", []int{}) }, nil, false},
		"CAP_ARGS are none":     {func(p *pair, _ *spy) { p.link = with(t, p.link, "runtimeConfig", 7) }, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "192.0.2.1/24")
			before := l.state()
			s := newSpy(l, "192.0.2.10/24")
			p := l.up(t, "c1", "1.1.0", `"master": "eth0", "ipam": {"type": "spy"}`)
			asked := with(t, s.stdin("ADD"), "name", "lan")
			s.calls()
			tt.spoil(p, s)
			p.must("hairpin-route", "DEL", p.hairpin)
			o := p.run("macvlan-vip", "DEL", p.link)
			if o.ok() == tt.fails || tt.fails && !strings.Contains(o.stdout, `\"spy\"`) {
				t.Errorf("DEL: %s", o)
			}
			if out := p.service.IP("link show") + l.host.IP("link show"); strings.Contains(out, "mv0") || strings.Contains(out, "mv-int") {
				t.Errorf("left behind:\n%s", out)
			}
			if tt.mend != nil {
				tt.mend(p, s)
				p.must("macvlan-vip", "DEL", p.link)
			}
			if got := s.calls(); len(got) == 0 || !strings.HasPrefix(got[0], "DEL c1 ") || strings.Contains(got[0], "nonsense") || with(t, s.stdin("DEL"), "name", "lan") != asked {
				t.Errorf("asked %q with %s, not %s", got, s.stdin("DEL"), asked)
			}
			l.mustBe(before, "after DEL")
		})
	}
}

// TestPowerCut: a boot takes links and records away, and leaves leases and
// cnitool's cache, or an empty file of it. The first start works at once, and
// its stop leaves nothing.
func TestPowerCut(t *testing.T) {
	for name, cache := range map[string]func(file string) error{
		"cache whole":    func(string) error { return nil },
		"cache emptied":  func(file string) error { return os.Truncate(file, 0) },
		"cache cut off":  func(file string) error { return os.Truncate(file, 100) },
		"cache binary":   func(file string) error { return os.WriteFile(file, []byte("\x00\xff"), 0o600) },
		"cache gone":     os.Remove,
		"del before add": func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			l := newWideLab(t)
			before := l.state()
			a := &tool{lab: l}
			a.folder, a.network = l.chain(l.hostLocal("10.99.3.0/29"))
			n := l.namespace()
			tool := func(verb string) outcome { return l.cnitool(verb, a.folder, a.network, n.path) }
			if o := tool("add"); !o.ok() {
				t.Fatal(o)
			}
			n.remove()
			l.host.IP("link del mv-int")
			for _, dir := range l.journals() {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
			if err := cache(cached(t, n.path)); err != nil {
				t.Fatal(err)
			}
			n.create()
			if name == "del before add" {
				if o := tool("del"); !o.ok() {
					t.Error(o)
				}
			}
			if o := tool("add"); !o.ok() {
				t.Errorf("the first add: %s", o)
			}
			if o := tool("check"); !o.ok() {
				t.Errorf("check: %s", o)
			}
			if o := tool("del"); !o.ok() {
				t.Errorf("del: %s", o)
			}
			l.mustBe(before, "after del")
			if left := cached(t, n.path); left != "" {
				t.Errorf("left in the cache: %s", left)
			}
		})
	}
}

// TestLeaseCutOff: a power cut has emptied host-local's lease, or filled it with
// zeros. It names nobody, so host-local would give the address to nobody again.
func TestLeaseCutOff(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "zeros": strings.Repeat("\x00", 40)} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "192.0.2.1/24")
			before := l.state()
			only := func(host string) string {
				return fmt.Sprintf(`"master": "eth0", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.%[2]s", "rangeEnd": "192.0.2.%[2]s"}]]}`, l.leases, host)
			}
			dir := filepath.Join(l.leases, "lan")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"192.0.2.7", "192.0.2.8", "last_reserved_ip.0"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			// One that names somebody is not touched.
			theirs := filepath.Join(dir, "192.0.2.9")
			if err := os.WriteFile(theirs, []byte("other\r\neth0"), 0o600); err != nil {
				t.Fatal(err)
			}
			p := l.up(t, "c1", "1.1.0", only("7"))
			if err := l.host.Ping(netip.MustParseAddr("192.0.2.7")); err != nil {
				t.Error(err)
			}
			// The same when a running service is given such an address.
			p.link = with(t, conf("1.1.0", "macvlan-vip", "lan", only("8")), "prevResult", nil)
			p.must("macvlan-vip", "ADD", p.link)
			p.link = conf("1.1.0", "macvlan-vip", "lan", only("9"))
			if o := p.run("macvlan-vip", "ADD", p.link); o.ok() {
				t.Errorf("it took somebody's lease: %s", o)
			}
			p.down()
			if err := os.Remove(theirs); err != nil {
				t.Error(err)
			}
			l.mustBe(before, "after DEL")
		})
	}
}

// TestEmptiedFiles: with records or cnitool's cache emptied or overwritten while
// a service runs, del leaves nothing.
func TestEmptiedFiles(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "binary": "\x00\x01\xff\xfe", "half": `{"network": "la`} {
		t.Run(name, func(t *testing.T) {
			l := newWideLab(t)
			before := l.state()
			a := &tool{lab: l, netns: testnet.New(t)}
			a.folder, a.network = l.chain(l.hostLocal("10.99.3.0/24"))
			a.add()
			spoiled := []string{cached(t, a.netns.Path())}
			for _, dir := range l.journals() {
				found, _ := filepath.Glob(dir + "/attachments/*.json")
				spoiled = append(spoiled, found...)
			}
			if len(spoiled) != 3 {
				t.Fatalf("files: %q", spoiled)
			}
			for _, file := range spoiled {
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if o := a.run("check"); o.ok() {
				t.Errorf("check finds nothing: %s", o)
			}
			a.must("del")
			l.mustBe(before, "after del")
			a.nothingLeft()
		})
	}
}

// TestDELNamesWhatItCannotReach: nothing of a namespace that cannot be opened.
func TestDELNamesWhatItCannotReach(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	p := l.up(t, "c1", "1.1.0", staticV4)
	p.netns = "/proc/self/environ"
	for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
		if o := p.run(plugin, "DEL", p.config(plugin)); !o.ok() && o.err().Code != types.ErrInvalidNetNS {
			t.Errorf("%s: %s", plugin, o)
		}
	}
	if out := p.service.IP("link show"); strings.Contains(out, "mv0") {
		t.Errorf("left in the netns:\n%s", out)
	}
}

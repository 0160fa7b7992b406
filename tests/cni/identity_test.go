package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"macvlan-vip/tests/testnet"
)

// reused is a path that leads to one namespace after the other, as those in
// /proc/PID/ns do.
type reused struct {
	t    testing.TB
	path string
}

func newReused(t testing.TB) reused {
	r := reused{t, filepath.Join(t.TempDir(), "netns")}
	if err := os.WriteFile(r.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(r.path, unix.MNT_DETACH) })
	return r
}

func (r reused) leadTo(n *testnet.Namespace) {
	r.t.Helper()
	_ = unix.Unmount(r.path, unix.MNT_DETACH)
	if err := unix.Mount(n.Path(), r.path, "none", unix.MS_BIND, ""); err != nil {
		r.t.Fatal(err)
	}
}

// dualStackOf is dualStack with other VIPs.
func dualStackOf(vip string) string {
	return strings.NewReplacer("192.0.2.10", "192.0.2."+vip, "::10", "::"+vip).Replace(dualStack)
}

// at adds an attachment whose CNI_NETNS is a reused path.
func (l *lab) at(t *testing.T, path reused, id, keys string) *pair {
	t.Helper()
	p := &pair{attachment: l.attachment(id), link: conf("1.1.0", "macvlan-vip", "lan", keys), hairpin: conf("1.1.0", "hairpin-route", "lan", "")}
	p.netns = path.path
	path.leadTo(p.service)
	added := json.RawMessage(p.must("macvlan-vip", "ADD", p.link).stdout)
	p.link, p.hairpin = with(t, p.link, "prevResult", added), with(t, p.hairpin, "prevResult", added)
	p.must("hairpin-route", "ADD", p.hairpin)
	return p
}

// edit changes what a record says.
func (p *pair) edit(t *testing.T, plugin string, change func(record map[string]any)) {
	t.Helper()
	file, _ := p.record(plugin)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(data, &record); err != nil {
		t.Fatal(err)
	}
	change(record)
	if data, err = json.Marshal(record); err == nil {
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (p *pair) loseBoth(t *testing.T) {
	t.Helper()
	for _, plugin := range plugins {
		if file, _ := p.record(plugin); os.Remove(file) != nil {
			t.Fatalf("no record of %s", plugin)
		}
	}
}

// TestReusedPath: a path that led to a dead container's namespace leads to a
// live one's. DEL and GC of the dead one take away what is the host's, and
// touch nothing of the live one's.
func TestReusedPath(t *testing.T) {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	before := l.state()
	for _, verb := range []string{"DEL", "GC"} {
		t.Run(verb, func(t *testing.T) {
			path := newReused(t)
			dead := l.at(t, path, "dead", dualStackOf("20"))
			dead.service.Remove()
			live := l.at(t, path, "live", dualStackOf("30"))
			service := live.service.Snapshot()

			for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
				if strings.HasPrefix(verb, "DEL") {
					dead.must(plugin, "DEL", dead.config(plugin))
					continue
				}
				gc := with(t, with(t, dead.config(plugin), "prevResult", nil), "cni.dev/valid-attachments", []types.GCAttachment{{ContainerID: "live", IfName: "mv0"}})
				dead.must(plugin, "GC", gc)
			}
			if diff := lines(service, live.service.Snapshot()); diff != "" {
				t.Errorf("the live one's namespace is another: %s", diff)
			}
			for _, vip := range []string{"192.0.2.30", "2001:db8::30"} {
				if err := l.host.Ping(netip.MustParseAddr(vip)); err != nil {
					t.Error(err)
				}
			}
			if out := l.state(); strings.Contains(out, "dead") || strings.Contains(out, "192.0.2.20") {
				t.Errorf("left of the dead one:\n%s", out)
			}
			live.down()
			l.mustBe(before, "after DEL of both")
		})
	}
}

// TestPathOfTheHostItself: a path that led to a dead container's namespace leads to
// the host's own, as that of a PID does which a process of the host has got. DEL and
// GC leave nothing, the lease neither.
func TestPathOfTheHostItself(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	before := l.state()
	keys := l.hostLocal("192.0.2.0/24")
	for name, spoil := range map[string]func(p *pair){
		"with a record":    func(*pair) {},
		"without a record": func(p *pair) { p.loseBoth(t) },
	} {
		for verb, netns := range map[string]string{"DEL": "", "DEL with the path": "the path", "GC": ""} {
			if verb == "GC" && name == "without a record" {
				continue // It finds attachments by their records.
			}
			t.Run(verb+" "+name, func(t *testing.T) {
				path := newReused(t)
				p := l.at(t, path, "dead", `"master": "eth0", `+keys)
				spoil(p)
				p.service.Remove()
				path.leadTo(l.host)
				if p.service = nil; netns == "" {
					p.netns = ""
				}
				for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
					c := p.config(plugin)
					if verb == "GC" {
						c = with(t, with(t, c, "prevResult", nil), "cni.dev/valid-attachments", []types.GCAttachment{})
					}
					p.must(plugin, strings.Fields(verb)[0], c)
				}
				l.mustBe(before, "after "+verb)
			})
		}
	}
}

// TestNamespaceThatIsHeld: its path is gone, and a process or a thread is still in it, so the VIP
// answers until the link goes. DEL and GC find it where it is. One that is not the
// record's, with a link of the same name and alias, keeps it.
func TestNamespaceThatIsHeld(t *testing.T) {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	l.lan.AddAddress("port", "192.0.2.200/24")
	l.lan.AddAddress("port", "2001:db8::200/64")
	before := l.state()
	for name, tt := range map[string]struct {
		verb     string
		withPath bool
		byThread bool
		spoil    func(t *testing.T, p *pair)
		stays    bool
	}{
		"DEL":                   {verb: "DEL"},
		"DEL with the path":     {verb: "DEL", withPath: true},
		"DEL, held by a thread": {verb: "DEL", byThread: true},
		"GC":                    {verb: "GC"},
		"DEL by the record of another namespace": {verb: "DEL", stays: true, spoil: func(t *testing.T, p *pair) {
			p.edit(t, "macvlan-vip", func(record map[string]any) { record["netnsID"] = "netns-1" })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := l.at(t, newReused(t), "dead", dualStack)
			if tt.spoil != nil {
				tt.spoil(t, p)
			}
			hold := holdByProcess
			if tt.byThread {
				hold = holdByThread
			}
			links := hold(t, p.service)
			p.service.Remove()
			_ = unix.Unmount(p.netns, unix.MNT_DETACH)
			p.service = nil
			if !tt.withPath {
				p.netns = ""
			}
			for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
				c := p.config(plugin)
				if tt.verb == "GC" {
					c = with(t, with(t, c, "prevResult", nil), "cni.dev/valid-attachments", []types.GCAttachment{})
				}
				p.must(plugin, tt.verb, c)
			}
			l.mustBe(before, "after "+tt.verb)
			if out := links(); strings.Contains(out, "mv0") != tt.stays {
				t.Errorf("in the namespace:\n%s", out)
			}
			for _, vip := range []string{"192.0.2.10", "2001:db8::10"} {
				if silent := l.lan.Silent(time.Second, netip.MustParseAddr(vip)); (len(silent) == 0) != tt.stays {
					t.Errorf("no answer to the LAN from %v", silent)
				}
			}
		})
	}
}

// holdByProcess has a process in a namespace until the test's end; links shows what is
// there.
func holdByProcess(t *testing.T, n *testnet.Namespace) (links func() string) {
	t.Helper()
	process := exec.Command("sleep", "600")
	n.Do(process.Start)
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	return func() string {
		out, err := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", process.Process.Pid), "ip", "link", "show").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
}

// holdByThread has a thread of this process in it instead, as the dhcp plugin's daemon
// has.
func holdByThread(t *testing.T, n *testnet.Namespace) (links func() string) {
	asked, answers, began := make(chan bool), make(chan string), make(chan bool)
	go n.Do(func() error {
		close(began)
		for range asked {
			out, err := exec.Command("ip", "link", "show").CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			answers <- string(out)
		}
		return nil
	})
	<-began
	t.Cleanup(func() { close(asked) })
	return func() string {
		asked <- true
		return <-answers
	}
}

// TestNamespaceThatDHCPHolds: the path of a namespace is gone, and the dhcp plugin's
// daemon keeps a lease there for another network. An ADD of the one at the same path
// finds its MAC free, and a DEL leaves nothing.
func TestNamespaceThatDHCPHolds(t *testing.T) {
	l := newLab(t, "10.98.0.1/16")
	l.lan.AddAddress("port", "10.98.0.2/16")
	before := l.state()
	d := newDHCP(t, l.host, l.lan)
	defer d.end()
	path := newReused(t)
	p := l.at(t, path, "c1", `"master": "eth0", "ipam": {"type": "static", "addresses": [{"address": "10.98.1.10/16"}]}`)
	leaser := *p.attachment
	leaser.ifName = "mv1"
	lease := conf("1.1.0", "macvlan-vip", "leased", fmt.Sprintf(`"master": "eth0", "ipam": {"type": "dhcp", "daemonSocketPath": %q}`, d.socket))
	leaser.must("macvlan-vip", "ADD", lease)
	p.service.Remove()
	p.service = testnet.New(t)
	path.leadTo(p.service)
	p.again(netip.MustParseAddr("10.98.1.10"))
	p.down()
	if silent := l.lan.Silent(time.Second, netip.MustParseAddr("10.98.1.10")); len(silent) == 0 {
		t.Error("after DEL the VIP answers")
	}
	leaser.must("macvlan-vip", "DEL", lease)
	l.mustBe(before, "after DEL of both")
}

// TestVIPOfADeadContainer: its namespace is gone and nobody has deleted it, so nothing
// will give its VIP up. The error names it, and the remedy. A DEL ends that, also one
// that comes while an ADD waits.
func TestVIPOfADeadContainer(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	for name, leadElsewhere := range map[string]func(path reused){
		"gone":        func(path reused) { _ = unix.Unmount(path.path, unix.MNT_DETACH) },
		"another one": func(path reused) { path.leadTo(testnet.New(t)) },
		"the host's":  func(path reused) { path.leadTo(l.host) },
	} {
		t.Run(name, func(t *testing.T) {
			path := newReused(t)
			dead := l.at(t, path, "dead", staticV4)
			dead.service.Remove()
			leadElsewhere(path)
			next := l.attachment("next")
			o := next.run("macvlan-vip", "ADD", conf("1.1.0", "macvlan-vip", "lan", staticV4))
			refused(t, o, 100)
			for _, part := range []string{"dead", path.path, "DEL", "GC"} {
				if e := o.err(); !strings.Contains(e.Msg+e.Details, part) {
					t.Errorf("no %q in: %s", part, o)
				}
			}
			if strings.Contains(o.stdout, "try again") {
				t.Errorf("it does not pass by itself: %s", o)
			}
			dead.must("hairpin-route", "DEL", dead.hairpin)
			var wg sync.WaitGroup
			wg.Go(func() { dead.must("macvlan-vip", "DEL", dead.link) })
			// An ADD waits for a DEL that takes no more than a second.
			testnet.Eventually(t, "the VIP can be added", func() error {
				if o := next.run("macvlan-vip", "ADD", conf("1.1.0", "macvlan-vip", "lan", staticV4)); !o.ok() {
					return errors.New(o.String())
				}
				return nil
			})
			wg.Wait()
			next.must("macvlan-vip", "DEL", conf("1.1.0", "macvlan-vip", "lan", staticV4))
		})
	}
}

// TestDELAfterTakeover: the record of an attachment names a VIP that another
// one owns by now.
func TestDELAfterTakeover(t *testing.T) {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	before := l.state()
	first := l.up(t, "first", "1.1.0", dualStack)
	records := map[string][]byte{}
	for _, plugin := range plugins {
		file, _ := first.record(plugin)
		data, err := os.ReadFile(file)
		if err == nil {
			err = os.Remove(file)
		}
		if err != nil {
			t.Fatal(err)
		}
		records[file] = data
	}
	first.service.IP("link del mv0")
	second := l.up(t, "second", "1.1.0", dualStack)
	host, service := l.host.Snapshot(), second.service.Snapshot()
	for file, data := range records {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first.down()
	if diff := lines(host+service, l.host.Snapshot()+second.service.Snapshot()); diff != "" {
		t.Errorf("DEL of the first touched the second: %s", diff)
	}
	second.down()
	l.mustBe(before, "after DEL of both")
}

// TestRecordsStaySmall: however often an ADD repairs, whatever addresses the
// host has had in between, the record is no larger than what there is needs,
// and DEL removes all that was ever made.
func TestRecordsStaySmall(t *testing.T) {
	testnet.FewChecks(t, 4)
	rapid.Check(t, func(r *rapid.T) {
		l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
		before := l.state()
		p := l.up(t, "c1", "1.1.0", dualStack)
		file, _ := p.record("hairpin-route")
		size := func() int64 {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			return info.Size()
		}
		first, has := size(), map[string]bool{}
		for range rapid.IntRange(1, 12).Draw(r, "repairs") {
			addr := rapid.SampledFrom([]string{"192.0.2.2/24", "192.0.2.3/24", "198.51.100.1/24", "2001:db8::2/64", "2001:db8:1::1/64"}).Draw(r, "address")
			if has[addr] {
				l.host.IP("address del dev eth0 " + addr)
				delete(has, addr)
			} else {
				l.host.AddAddress("eth0", addr)
				has[addr] = true
			}
			p.must("hairpin-route", "ADD", p.hairpin)
			p.must("hairpin-route", "CHECK", p.hairpin)
			// A route and a neighbour for each address of the host.
			if limit := first + int64(len(has))*400; size() > limit {
				r.Fatalf("the record has %d bytes, more than %d, with %d addresses more", size(), limit, len(has))
			}
		}
		service := p.service
		p.must("hairpin-route", "DEL", p.hairpin)
		if out := service.IP("neigh show nud permanent") + service.IP("route show proto 118") + service.IP("-6 route show proto 118"); out != "" {
			r.Fatalf("left in the service's netns:\n%s", out)
		}
		p.down()
		for addr := range has {
			l.host.IP("address del dev eth0 " + addr)
		}
		l.mustBe(before, "after DEL")
		service.Remove()
	})
}

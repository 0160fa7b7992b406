package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
)

// drift is the code of the plugins' own for CHECK.
const drift = 101

// TestCHECK: it needs prevResult, and fails on everything that ADD made and
// that is not as ADD made it.
func TestCHECK(t *testing.T) {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	l.lan.AddAddress("port", "192.0.2.254/24")
	keys := `"master": "eth0", "mtu": 1400, "sysctl": {"net.ipv4.conf.IFNAME.forwarding": "1"}, "ipam": {"type": "static",
		"addresses": [{"address": "192.0.2.10/24", "gateway": "192.0.2.254"}, {"address": "2001:db8::10/64"}], "routes": [{"dst": "0.0.0.0/0"}]}`
	const hairpinAlone = "hairpin-route"
	for name, tt := range map[string]struct {
		host, service string
		plugin        string
	}{
		"service's link gone":            {"", "link del mv0", "macvlan-vip"},
		"service's link down":            {"", "link set mv0 down", "macvlan-vip"},
		"service's MTU":                  {"", "link set mv0 mtu 1300", "macvlan-vip"},
		"service's MAC":                  {"", "link set mv0 address 02:00:00:00:00:99", "macvlan-vip"},
		"service's mode":                 {"", "link set mv0 type macvlan mode private", "macvlan-vip"},
		"service's lo down":              {"", "link set lo down", "macvlan-vip"},
		"IPv4 VIP gone":                  {"", "address del 192.0.2.10/24 dev mv0", "macvlan-vip"},
		"IPv6 VIP gone":                  {"", "address del 2001:db8::10/64 dev mv0", "macvlan-vip"},
		"IPAM's route gone":              {"", "route del default", "macvlan-vip"},
		"IPAM's route's gateway":         {"", "route replace default via 192.0.2.253 dev mv0 proto 118", "macvlan-vip"},
		"host side gone":                 {"link del mv-int", "", "macvlan-vip"},
		"host side down":                 {"link set mv-int down", "", "macvlan-vip"},
		"host side's mode":               {"link set mv-int type macvlan mode private", "", "macvlan-vip"},
		"host's route gone":              {"route del 192.0.2.10 table local metric 100", "", hairpinAlone},
		"host's IPv6 route gone":         {"-6 route del 2001:db8::10 table local metric 100", "", hairpinAlone},
		"host's neighbour gone":          {"neigh del 192.0.2.10 dev mv-int", "", hairpinAlone},
		"host's neighbour's MAC":         {"neigh replace 192.0.2.10 lladdr 02:00:00:00:00:99 dev mv-int nud permanent", "", hairpinAlone},
		"host's neighbour not permanent": {"neigh replace 2001:db8::10 lladdr 02:00:00:00:00:99 dev mv-int nud stale", "", hairpinAlone},
		"host's address changed":         {"address del 192.0.2.1/24 dev eth0", "", hairpinAlone},
		"way back gone":                  {"", "route del 192.0.2.1 dev mv0", hairpinAlone},
		"way back's neighbour gone":      {"", "neigh del 192.0.2.1 dev mv0", hairpinAlone},
		"way back's IPv6 neighbour":      {"", "neigh replace 2001:db8::1 lladdr 02:00:00:00:00:99 dev mv0 nud permanent", hairpinAlone},
	} {
		t.Run(name, func(t *testing.T) {
			p := l.up(t, "c1", "1.1.0", keys)
			defer p.down()
			for _, plugin := range plugins {
				p.must(plugin, "CHECK", p.config(plugin))
			}
			if tt.host != "" {
				l.host.IP(tt.host)
			}
			if tt.service != "" {
				p.service.IP(tt.service)
			}
			o := p.verb(tt.plugin, "CHECK")
			if o.ok() || o.err().Code == types.ErrInternal || o.err().Msg == "" {
				t.Errorf("CHECK: %s", o)
			}
			if name == "host's address changed" {
				l.host.AddAddress("eth0", "192.0.2.1/24")
			}
		})
	}
	t.Run("sysctl", func(t *testing.T) {
		p := l.up(t, "c1", "1.1.0", keys)
		defer p.down()
		p.service.Sysctl("net/ipv4/conf/mv0/forwarding", "0")
		refused(t, p.verb("macvlan-vip", "CHECK"), drift)
	})
	t.Run("another link has the master's name", func(t *testing.T) {
		p := l.up(t, "c1", "1.1.0", keys)
		defer p.down()
		rename := func(from, to string) {
			l.host.IP("link set " + from + " down")
			l.host.IP("link set " + from + " name " + to)
			l.host.IP("link set " + to + " up")
		}
		l.host.IP("link add other0 type veth peer name other1")
		l.host.IP("link set other1 up")
		rename("eth0", "was0")
		rename("other0", "eth0")
		refused(t, p.verb("macvlan-vip", "CHECK"), drift)
		l.host.IP("link del eth0")
		refused(t, p.verb("macvlan-vip", "CHECK"), types.ErrInvalidNetworkConfig)
		rename("was0", "eth0")
		l.host.AddAddress("eth0", "2001:db8::1/64")
	})
	t.Run("prevResult missing", func(t *testing.T) {
		p := l.up(t, "c1", "1.1.0", keys)
		defer p.down()
		for _, plugin := range plugins {
			refused(t, p.run(plugin, "CHECK", with(t, p.config(plugin), "prevResult", nil)), types.ErrInvalidNetworkConfig)
		}
	})
	t.Run("a later plugin's changes are let be", func(t *testing.T) {
		p := l.up(t, "c1", "1.1.0", keys)
		defer p.down()
		p.service.IP("link add later0 type veth peer name later1")
		p.service.IP("link set later0 up")
		p.service.IP("link set later1 up")
		p.service.IP("address add 198.51.100.1/24 dev later0")
		p.service.IP("address add 198.51.100.9/24 dev mv0")
		p.service.IP("route add 203.0.113.0/24 dev later0")
		prev := *p.result
		prev.Routes = append(prev.Routes, route(t, "203.0.113.0/24"))
		p.must("macvlan-vip", "CHECK", with(t, p.link, "prevResult", prev))
		p.must("hairpin-route", "CHECK", with(t, p.hairpin, "prevResult", prev))
	})
}

func route(t *testing.T, dst string) *types.Route {
	t.Helper()
	n, err := types.ParseCIDR(dst)
	if err != nil {
		t.Fatal(err)
	}
	return &types.Route{Dst: *n}
}

func (p *pair) config(plugin string) string {
	if plugin == "macvlan-vip" {
		return p.link
	}
	return p.hairpin
}

// TestCHECKReservations: a lease or a claim that is gone is somebody else's
// soon.
func TestCHECKReservations(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	p := l.up(t, "c1", "1.1.0", `"master": "eth0", `+l.hostLocal("192.0.2.0/24"))
	defer p.down()
	for name, pattern := range map[string]string{
		"lease": l.leases + "/lan/192.0.2.2",
		"claim": l.journals()[0] + "/claims/*/192.0.2.2",
	} {
		found, _ := filepath.Glob(pattern)
		if len(found) != 1 {
			t.Fatalf("%s: %v", pattern, found)
		}
		// Out of sight, on the same file system: /run is one of its own.
		away := filepath.Join(filepath.Dir(found[0]), "..", "away")
		if err := os.Rename(found[0], away); err != nil {
			t.Fatal(err)
		}
		if o := p.verb("macvlan-vip", "CHECK"); o.ok() {
			t.Errorf("CHECK without the %s: %s", name, o)
		}
		if err := os.Rename(away, found[0]); err != nil {
			t.Fatal(err)
		}
		p.must("macvlan-vip", "CHECK", p.link)
	}
}

// TestDEL is complete whatever is missing, and again.
func TestDEL(t *testing.T) {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	before := l.state()
	nonsense := map[string]any{"cniVersion": "1.1.0", "ips": "none"}
	for name, spoil := range map[string]func(p *pair){
		"nothing is missing": func(*pair) {},
		"no prevResult": func(p *pair) {
			p.link, p.hairpin = with(t, p.link, "prevResult", nil), with(t, p.hairpin, "prevResult", nil)
		},
		"prevResult is nonsense": func(p *pair) {
			p.link, p.hairpin = with(t, p.link, "prevResult", nonsense), with(t, p.hairpin, "prevResult", nonsense)
		},
		"no CNI_NETNS":          func(p *pair) { p.service.IP("link del mv0"); p.service = nil },
		"service's link gone":   func(p *pair) { p.service.IP("link del mv0") },
		"host side gone":        func(p *pair) { l.host.IP("link del mv-int") },
		"host side down":        func(p *pair) { l.host.IP("link set mv-int down") },
		"host's route gone":     func(p *pair) { l.host.IP("route del 192.0.2.10 table local metric 100") },
		"host's neighbour gone": func(p *pair) { l.host.IP("neigh del 192.0.2.10 dev mv-int") },
		"the master is another": func(p *pair) { p.link = with(t, p.link, "master", "nonesuch") },
		"keys are of wrong types": func(p *pair) {
			for _, key := range []string{"prevResult", "dns", "mtu", "sysctl", "metric", "capabilities", "args"} {
				p.link, p.hairpin = with(t, p.link, key, "x"), with(t, p.hairpin, key, "x")
			}
		},
		"the mode is none": func(p *pair) { p.link = with(t, p.link, "mode", "nonesuch") },
		"never added":      func(p *pair) { p.down() },
	} {
		t.Run(name, func(t *testing.T) {
			p := l.up(t, "c1", "1.1.0", staticV4)
			service := p.service
			spoil(p)
			for range 2 {
				p.down()
				l.mustBe(before, "after DEL")
			}
			if out := service.IP("link show"); strings.Contains(out, "mv0") {
				t.Errorf("left in the netns:\n%s", out)
			}
		})
	}
}

// TestDELByRecord: a lease goes back to where it came from, whatever has become
// of the ipam section since.
func TestDELByRecord(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	before := l.state()
	for name, section := range map[string]any{
		"removed":                  nil,
		"of another type":          map[string]any{"type": "static", "addresses": []any{map[string]string{"address": "192.0.2.10/24"}}},
		"of a type that is none":   map[string]any{"type": "nonesuch"},
		"of the other folder":      map[string]any{"type": "host-local", "dataDir": t.TempDir(), "subnet": "192.0.2.0/24"},
		"not an object":            "none",
		"with a type that is none": map[string]any{"type": []int{1}},
	} {
		for _, verb := range []string{"DEL", "GC"} {
			t.Run(name+" "+verb, func(t *testing.T) {
				p := l.up(t, "c1", "1.1.0", `"master": "eth0", `+l.hostLocal("192.0.2.0/24"))
				p.must("hairpin-route", "DEL", p.hairpin)
				c := with(t, p.link, "ipam", section)
				if verb == "GC" {
					c = with(t, c, "cni.dev/valid-attachments", []types.GCAttachment{})
				}
				if o := p.run("macvlan-vip", verb, c); !o.ok() && (verb == "DEL" || name != "of a type that is none") {
					t.Errorf("%s: %s", verb, o)
				}
				l.mustBe(before, "after "+verb)
				p.down()
			})
		}
	}
}

// TestServiceLinkOfAnotherType: hairpin-route leads to macvlans only.
func TestServiceLinkOfAnotherType(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	p := l.up(t, "c1", "1.1.0", staticV4)
	p.service.IP("link add br0 type bridge")
	before := l.state() + p.service.Snapshot()
	for _, link := range []string{"lo", "br0"} {
		prev := map[string]any{"cniVersion": "1.1.0", "interfaces": []any{map[string]string{"name": "mv-int"}}, "ips": []any{map[string]string{"address": "192.0.2.20/24"}}}
		p.ifName = link
		o := p.run("hairpin-route", "ADD", with(t, p.hairpin, "prevResult", prev))
		refused(t, o, types.ErrInvalidNetworkConfig)
		if !strings.Contains(o.stdout, link) || !strings.Contains(o.stdout, "not a macvlan") {
			t.Errorf("%s: %s", link, o)
		}
	}
	p.ifName = "mv0"
	if diff := lines(before, l.state()+p.service.Snapshot()); diff != "" {
		t.Errorf("after a refused ADD: %s", diff)
	}
	p.service.IP("link del br0")
	p.down()
}

// TestGCCollects what is not in the list, which may be empty, and nothing else.
func TestGCCollects(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	before := l.state()
	keys := `"master": "eth0", ` + l.hostLocal("192.0.2.0/24")
	kept := l.up(t, "kept", "1.1.0", keys)
	only := l.state() + kept.service.Snapshot()
	lost := l.up(t, "lost", "1.1.0", keys)
	both := l.state() + kept.service.Snapshot() + lost.service.Snapshot()

	gc := func(want string, list any) {
		t.Helper()
		for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
			c := conf("1.1.0", plugin, "lan", "")
			if plugin == "macvlan-vip" {
				c = conf("1.1.0", plugin, "lan", keys)
			}
			if list != nil {
				c = with(t, c, "cni.dev/valid-attachments", list)
			}
			o := l.exec([]string{"CNI_COMMAND=GC", "CNI_PATH=" + l.path}, c, plugin)
			if !o.ok() || o.stdout != "" {
				t.Errorf("GC: %s", o)
			}
		}
		if want == "" {
			l.mustBe(before, "after GC with an empty list")
			return
		}
		now := l.state() + kept.service.Snapshot()
		if strings.Contains(want, lost.service.Snapshot()) {
			now += lost.service.Snapshot()
		}
		if diff := lines(want, now); diff != "" {
			t.Errorf("GC with %v: %s", list, diff)
		}
	}
	keep, lose := types.GCAttachment{ContainerID: "kept", IfName: "mv0"}, types.GCAttachment{ContainerID: "lost", IfName: "mv0"}
	gc(both, []types.GCAttachment{lose, keep})
	gc(only, []types.GCAttachment{keep, {ContainerID: "lost", IfName: "mv1"}})
	gc(only, []types.GCAttachment{keep})
	gc("", []types.GCAttachment{})
	if out := kept.service.IP("link show") + lost.service.IP("link show"); strings.Contains(out, "mv0") {
		t.Errorf("left in a netns:\n%s", out)
	}
}

// TestGCByLibcni: a runtime that has nothing left on a network passes an empty list to
// libcni, which writes null where the list is Go's nil, and no key where it was given
// no list at all.
func TestGCByLibcni(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	before := l.state()
	keys := `"master": "eth0", ` + l.hostLocal("192.0.2.0/24")
	list, err := libcni.NetworkConfFromBytes(fmt.Appendf(nil, `{"cniVersion": "1.1.0", "name": "lan", "plugins": [{"type": "macvlan-vip", %s}, {"type": "hairpin-route"}]}`, keys))
	if err != nil {
		t.Fatal(err)
	}
	// In another network of the same runtime's, on the same master.
	other := l.attachment("other")
	link := conf("1.1.0", "macvlan-vip", "other", strings.Replace(staticV4, "192.0.2.10", "192.0.2.30", 1))
	added := json.RawMessage(other.must("macvlan-vip", "ADD", link).stdout)
	hairpin := with(t, conf("1.1.0", "hairpin-route", "other", ""), "prevResult", added)
	other.must("hairpin-route", "ADD", hairpin)
	kept := func() string { return l.state() + other.service.Snapshot() }
	only := kept()

	gc := func(want string, args *libcni.GCArgs) {
		t.Helper()
		runtime := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(l.path), t.TempDir(), nil)
		l.host.Do(func() error { return runtime.GCNetworkList(t.Context(), list, args) })
		if diff := lines(want, kept()); diff != "" {
			t.Errorf("after GC with %+v: %s", args, diff)
		}
	}
	for name, tt := range map[string]struct {
		netnsGone bool
		args      *libcni.GCArgs
	}{
		"nil":                      {false, &libcni.GCArgs{}},
		"nil, the netns is gone":   {true, &libcni.GCArgs{}},
		"empty, the netns is gone": {true, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}},
	} {
		t.Run(name, func(t *testing.T) {
			// The runtime crashed before libcni kept anything of it.
			lost := l.up(t, "lost", "1.1.0", keys)
			if tt.netnsGone {
				lost.service.Remove()
			}
			gc(kept(), nil)
			gc(only, tt.args)
			if !tt.netnsGone && strings.Contains(lost.service.IP("link show"), "mv0") {
				t.Error("the link is left")
			}
		})
	}
	other.must("hairpin-route", "DEL", hairpin)
	other.must("macvlan-vip", "DEL", link)
	l.mustBe(before, "after DEL of the other network's")
}

// TestSTATUS: 50 where no ADD could work.
func TestSTATUS(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	l.host.IP("link add down0 type veth peer name down1")
	defer l.host.IP("link del down0")
	status := func(plugin, keys string) outcome {
		return l.exec([]string{"CNI_COMMAND=STATUS", "CNI_PATH=" + l.path}, conf("1.1.0", plugin, "lan", keys), plugin)
	}
	for keys, code := range map[string]uint{
		staticV4:                        0,
		`"master": "nonesuch"`:          types.ErrPluginNotAvailable,
		`"master": "down0"`:             types.ErrPluginNotAvailable,
		``:                              types.ErrPluginNotAvailable,
		`"master": "eth0", "mode": "x"`: types.ErrInvalidNetworkConfig,
		`"master": "eth0", "ipam": {"type": "x"}`: types.ErrPluginNotAvailable,
	} {
		if o := status("macvlan-vip", keys); code != 0 {
			refused(t, o, code)
		} else if !o.ok() || o.stdout != "" {
			t.Errorf("%s: %s", keys, o)
		}
	}
	if o := status("hairpin-route", ""); !o.ok() || o.stdout != "" {
		t.Errorf("hairpin-route: %s", o)
	}
	s := newSpy(l, "192.0.2.10/24")
	for _, code := range []int{50, 51, 7, 999} {
		s.fails("STATUS", code)
		want := types.ErrPluginNotAvailable
		if code == 51 {
			want = types.ErrLimitedConnectivity
		}
		o := status("macvlan-vip", `"master": "eth0", "ipam": {"type": "spy"}`)
		refused(t, o, want)
		if !strings.Contains(o.stdout, "the spy refuses") {
			t.Errorf("the reason is missing: %s", o)
		}
	}
}

// TestDelegation of IP addresses: the IPAM plugin gets every verb, with the
// environment and the configuration that macvlan-vip got, and what it says
// comes through.
func TestDelegation(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	s := newSpy(l, "192.0.2.10/24")
	a := l.attachment("c1")
	a.args = "IgnoreUnknown=1;K=V"
	c := conf("1.1.0", "macvlan-vip", "lan", `"master": "eth0", "ipam": {"type": "spy", "key": [1, "two"]}, "unknown": {"kept": true}`)
	call := func(verb string) string {
		return fmt.Sprintf("%s c1 %s mv0 IgnoreUnknown=1;K=V", verb, a.service.Path())
	}
	passes := func(verb, conf string) outcome {
		t.Helper()
		o := a.must("macvlan-vip", verb, conf)
		if diff := cmp.Diff([]string{call(verb)}, s.calls()); diff != "" {
			t.Errorf("%s: calls: %s", verb, diff)
		}
		// By the record a DEL has it without spaces.
		if diff := cmp.Diff(with(t, conf, "name", "lan"), with(t, s.stdin(verb), "name", "lan")); diff != "" {
			t.Errorf("%s: another configuration: %s", verb, diff)
		}
		if !strings.Contains(o.stderr, "the spy's log of "+verb) {
			t.Errorf("%s: no log: %s", verb, o)
		}
		return o
	}
	added := passes("ADD", c)
	if r := decode(t, "1.1.0", added.stdout); r.DNS.Domain != "example.org" || len(r.IPs) != 1 {
		t.Errorf("result: %s", added)
	}
	passes("CHECK", with(t, c, "prevResult", json.RawMessage(added.stdout)))
	passes("STATUS", c)
	s.fails("CHECK", 150)
	refused(t, a.run("macvlan-vip", "CHECK", with(t, c, "prevResult", json.RawMessage(added.stdout))), 150)
	s.fails("DEL", 151)
	s.calls()
	refused(t, a.run("macvlan-vip", "DEL", c), 151)
	if out := a.service.IP("link show"); strings.Contains(out, "mv0") {
		t.Errorf("IPAM's failure kept DEL from its own part:\n%s", out)
	}
	s.answers("DEL", "")
	s.calls()
	passes("DEL", c)
	passes("DEL", c)
}

// TestStaticIsAskedFirst: static keeps nothing, so that ADD asks it before it has looked
// whether it can succeed. One that fails leaves no process of it; one that finds its
// addresses in the record does not ask.
func TestStaticIsAskedFirst(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	l.lan.AddAddress("port", "192.0.2.5/24")
	s := newSpy(l, "192.0.2.10/24")
	s.rename("spy", "static")
	s.write("ADD.slow", "not yet")
	gone := l.attachment("c1")
	o := gone.run("macvlan-vip", "ADD", conf("1.1.0", "macvlan-vip", "lan", `"master": "gone0", "ipam": {"type": "static"}`))
	refused(t, o, 7)
	if !strings.Contains(o.stdout, "gone0") {
		t.Errorf("the error is not about the master: %s", o)
	}
	if left, err := os.ReadFile(s.dir + "/ADD.slow"); err != nil || len(left) > 0 {
		t.Errorf("static still runs when ADD has failed: %q, %v", left, err)
	}
	if verbs := s.verbs(); verbs != "ADD" {
		t.Errorf("static was asked: %q", verbs)
	}
	s.remove("ADD.slow")
	p := l.up(t, "c2", "1.1.0", `"master": "eth0", "ipam": {"type": "static"}`)
	s.calls()
	p.again(netip.MustParseAddr("192.0.2.10"))
	if verbs := s.verbs(); strings.Contains(verbs, "ADD") {
		t.Errorf("static was asked again: %s", verbs)
	}
	p.down()
}

// TestDelegatedGC: GC goes to the IPAM plugin with the list, after a DEL for
// each attachment that is swept; an error does not stop it, and is reported.
func TestDelegatedGC(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	s := newSpy(l, "192.0.2.10/24")
	a := l.attachment("c1")
	c := conf("1.1.0", "macvlan-vip", "lan", `"master": "eth0", "ipam": {"type": "spy"}`)
	a.must("macvlan-vip", "ADD", c)
	s.calls()
	for name, gc := range map[string]string{
		"a list that has it": with(t, c, "cni.dev/valid-attachments", []types.GCAttachment{{ContainerID: "c1", IfName: "mv0"}}),
		"no list":            c,
	} {
		a.must("macvlan-vip", "GC", gc)
		if got := s.verbs(); got != "GC" || s.stdin("GC") != gc {
			t.Errorf("%s: %q with %s", name, got, s.stdin("GC"))
		}
	}
	empty := with(t, c, "cni.dev/valid-attachments", []types.GCAttachment{})
	s.fails("DEL", 151)
	s.fails("GC", 152)
	o := a.run("macvlan-vip", "GC", empty)
	if o.ok() || s.verbs() != "DEL GC" {
		t.Errorf("GC with failures: %s", o)
	}
	s.answers("DEL", "")
	s.answers("GC", "")
	a.must("macvlan-vip", "GC", empty)
	if got := s.calls(); len(got) != 2 || got[0] != fmt.Sprintf("DEL c1 %s mv0 ", a.service.Path()) {
		t.Errorf("calls: %q", got)
	}
}

// TestDelegatedADDFails: the IPAM plugin gets a DEL before the failure is
// returned, whether it failed itself or the addresses could not be used.
func TestDelegatedADDFails(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(s *spy)
		code    uint
	}{
		"with an error":                 {func(s *spy) { s.fails("ADD", 150) }, 150},
		"without a structure":           {func(s *spy) { s.answers("ADD", "none"); s.write("ADD.fails", "") }, types.ErrInvalidNetworkConfig},
		"nonsense":                      {func(s *spy) { s.answers("ADD", "none") }, types.ErrInternal},
		"no address":                    {func(s *spy) { s.answers("ADD", `{"cniVersion": "1.1.0"}`) }, types.ErrInvalidNetworkConfig},
		"the host's address":            {func(s *spy) { s.answers("ADD", `{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.1/24"}]}`) }, 100},
		"null for an address":           {func(s *spy) { s.answers("ADD", `{"cniVersion": "1.1.0", "ips": [null]}`) }, types.ErrDecodingFailure},
		"null for an address, of 0.3.1": {func(s *spy) { s.answers("ADD", `{"cniVersion": "0.3.1", "ips": [null]}`) }, types.ErrDecodingFailure},
		"null for a route": {func(s *spy) {
			s.answers("ADD", `{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.10/24"}], "routes": [null]}`)
		}, types.ErrDecodingFailure},
		"an address too many": {func(s *spy) {
			s.answers("ADD", `{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.10/24"}, {"address": "192.0.2.10/24"}]}`)
		}, types.ErrInvalidNetworkConfig},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "192.0.2.1/24")
			before := l.state()
			s := newSpy(l, "192.0.2.10/24")
			a := l.attachment("c1")
			tt.prepare(s)
			c := conf("1.1.0", "macvlan-vip", "lan", `"master": "eth0", "ipam": {"type": "spy"}`)
			refused(t, a.run("macvlan-vip", "ADD", c), tt.code)
			if got := s.verbs(); got != "ADD DEL" {
				t.Errorf("calls: %q", got)
			}
			l.mustBe(before, "after the failed ADD")
			if out := a.service.IP("link show"); strings.Contains(out, "mv0") {
				t.Errorf("left in the netns:\n%s", out)
			}
		})
	}
}

// TestPrevResult of a plugin before: it is handed on with what this one adds.
func TestPrevResult(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	a := l.attachment("c1")
	c := conf("1.1.0", "macvlan-vip", "lan", staticV4+`, "prevResult": {"cniVersion": "1.1.0",
		"interfaces": [{"name": "first0", "sandbox": "`+a.service.Path()+`"}], "ips": [{"address": "198.51.100.5/24", "interface": 0}],
		"routes": [{"dst": "203.0.113.0/24"}], "dns": {"domain": "example.org"}}`)
	o := a.must("macvlan-vip", "ADD", c)
	defer a.must("macvlan-vip", "DEL", c)
	r := decode(t, "1.1.0", o.stdout)
	if len(r.Interfaces) != 3 || r.Interfaces[0].Name != "first0" || len(r.IPs) != 2 || *r.IPs[0].Interface != 0 || *r.IPs[1].Interface != 2 || len(r.Routes) != 1 || r.DNS.Domain != "example.org" {
		t.Errorf("prevResult is lost: %s", o)
	}
	prev := with(t, c, "prevResult", json.RawMessage(o.stdout))
	a.must("macvlan-vip", "CHECK", prev)
	hairpin := conf("1.1.0", "hairpin-route", "lan", `"prevResult": `+o.stdout)
	a.must("hairpin-route", "ADD", hairpin)
	a.must("hairpin-route", "CHECK", hairpin)
	a.must("hairpin-route", "DEL", hairpin)
}

// TestResultWithoutForm: before 0.3.0 there is no result without an address, so
// that ADD fails when all is made, and must leave nothing of it.
func TestResultWithoutForm(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	before := l.state()
	for _, v := range []string{"0.1.0", "0.2.0"} {
		a := l.attachment("c1")
		refused(t, a.run("macvlan-vip", "ADD", conf(v, "macvlan-vip", "lan", `"master": "eth0"`)), types.ErrInvalidNetworkConfig)
		l.mustBe(before, "after the refused ADD")
		if out := a.service.IP("link show"); strings.Contains(out, "mv0") {
			t.Errorf("left in the netns:\n%s", out)
		}
	}
}

// TestLongContainerID: the specification sets no limit, but a file's name has
// one. An ADD that cannot be recorded is refused, and leaves nothing.
func TestLongContainerID(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	before := l.state()
	for length, fits := range map[int]bool{64: true, 200: true, 250: false, 1000: false} {
		p := &pair{attachment: l.attachment(strings.Repeat("c", length)), link: conf("1.1.0", "macvlan-vip", "lan", staticV4), hairpin: conf("1.1.0", "hairpin-route", "lan", "")}
		o := p.run("macvlan-vip", "ADD", p.link)
		if fits && !o.ok() {
			t.Errorf("%d letters: %s", length, o)
		}
		if !fits {
			refused(t, o, types.ErrIOFailure)
			l.mustBe(before, "after the refused ADD")
		}
		p.down()
		l.mustBe(before, "after DEL")
	}
}

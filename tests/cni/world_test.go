package cni

import (
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"pgregory.net/rapid"

	"macvlan-vip/tests/testnet"
)

// world is the model of a host that a history happens to: what each service
// was asked for, and what of that must hold now.
type world struct {
	*lab
	r        *rapid.T
	network  string
	services []*svc
	// last is the service that any gave last.
	last *svc
	// carrier tells whether the uplink has one, hostHas which addresses the
	// host has got beside its own.
	carrier bool
	hostHas map[string]bool
	// before is the host's state without services.
	before string
	// story is what has happened, for a history that fails.
	story []string
}

// set holds the last parts of VIPs.
type set map[int]bool

func (s set) add(parts []int) {
	for _, n := range parts {
		s[n] = true
	}
}

// wish is a configuration.
type wish struct {
	parts []int
	mtu   int
	// broken ones are refused by the plugin.
	broken bool
}

func (w wish) keys() string {
	mtu := w.mtu
	if w.broken {
		mtu = 9000
	}
	return fmt.Sprintf(`"mtu": %d, %s`, mtu, static(w.parts...))
}

// svc is a service.
type svc struct {
	name, path, id, folder string
	// netns tells whether its namespace is there.
	netns bool
	// wants is what the network's file says, has what the last add that
	// succeeded was given, while the service is up.
	wants, has wish
	up         bool
	// certain tells that no process was killed and no record spoiled since the
	// last add or del that succeeded; maybe are the VIPs that it may hold.
	certain   bool
	maybe     set
	cacheLost bool
}

func newWorld(t *testing.T, r *rapid.T) *world {
	w := &world{lab: &lab{t: t, path: os.Getenv("PATH"), leases: t.TempDir()}, r: r, carrier: true, hostHas: map[string]bool{}}
	w.host, w.lan = testnet.NewHost(t, "10.99.0.1/16", "2001:db8::1/64")
	w.lan.AddAddress("port", "10.99.0.2/16")
	w.lan.AddAddress("port", "2001:db8::2/64")
	// What is somebody else's, next to ours.
	for _, foreign := range []string{
		"link add other0 link eth0 type macvlan mode bridge", "route add 203.0.113.0/24 dev eth0 proto static",
		"route add 203.0.113.9 dev eth0 table local metric 100 proto static", "neigh add 203.0.113.9 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
	} {
		w.host.IP(foreign)
	}
	w.network = fmt.Sprintf("lab-%d", w.cookie())
	for i := range 3 {
		name := fmt.Sprintf("history-%d-%d", w.cookie(), i)
		s := &svc{name: name, path: "/run/netns/" + name, folder: t.TempDir(), certain: true, maybe: set{}, wants: wish{parts: []int{10 + i}, mtu: 1500}}
		sum := sha512.Sum512([]byte(s.path))
		s.id = fmt.Sprintf("cnitool-%x", sum[:10])
		w.services = append(w.services, s)
		w.write(s)
	}
	w.before = w.whole()
	return w
}

// whole is the host's state.
func (w *world) whole() string { return unordered(w.state()) }

func (w *world) note(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
	w.r.Logf(format, args...)
}

// end clears up, whatever came of the history.
func (w *world) end() {
	for _, s := range w.services {
		_ = exec.Command("ip", "netns", "delete", s.name).Run()
	}
	for _, dir := range w.journals() {
		_ = os.RemoveAll(dir)
	}
	w.host.Remove()
	w.lan.Remove()
}

func (w *world) any() *svc {
	w.last = w.services[rapid.IntRange(0, len(w.services)-1).Draw(w.r, "service")]
	return w.last
}

// write writes the network's file of a service.
func (w *world) write(s *svc) {
	conflist := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [
		{"type": "macvlan-vip", "master": "eth0", "probe": {"count": 1, "waitMs": 20}, "announce": {"count": 1}, %s},
		{"type": "hairpin-route"}]}`, w.network, s.wants.keys())
	if err := os.WriteFile(filepath.Join(s.folder, "lab.conflist"), []byte(conflist), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// mend writes the file of a service that something was done to again.
func (w *world) mend(s *svc) { w.write(s) }

// ready makes the service's namespace, if it is not there.
func (w *world) ready(s *svc) {
	if s.netns {
		return
	}
	if out, err := exec.Command("ip", "netns", "add", s.name).CombinedOutput(); err != nil {
		w.t.Fatalf("ip netns add: %v: %s", err, out)
	}
	s.netns = true
}

func (w *world) tool(s *svc, verb string) outcome {
	return w.cnitool(verb, s.folder, w.network, s.path)
}

// edit gives a service other addresses, or another MTU, or what is refused.
func (w *world) edit(r *rapid.T) {
	s := w.any()
	s.wants = wish{
		parts:  rapid.SliceOfNDistinct(rapid.IntRange(10, 17), 1, 3, rapid.ID[int]).Draw(r, "VIPs"),
		mtu:    rapid.SampledFrom([]int{1500, 1500, 1500, 1400}).Draw(r, "MTU"),
		broken: rapid.SampledFrom([]bool{false, false, false, true}).Draw(r, "broken"),
	}
	w.note("edit %s: %+v", s.name, s.wants)
	w.write(s)
}

// mayFail says what could keep an add from success, if anything.
func (w *world) mayFail(s *svc) string {
	if s.wants.broken {
		return "its configuration is refused"
	}
	for _, o := range w.services {
		for _, n := range s.wants.parts {
			if o != s && o.maybe[n] {
				return fmt.Sprintf("%s may hold VIP %d", o.name, n)
			}
		}
	}
	if (s.up || !s.certain) && s.wants.mtu != s.has.mtu {
		return "it is there with another MTU"
	}
	return ""
}

// add adds a service, adds it again, or gives it other addresses.
func (w *world) add(s *svc) {
	w.mend(s)
	w.ready(s)
	reason := w.mayFail(s)
	o := w.tool(s, "add")
	w.note("add of %s %+v: %v", s.name, s.wants, o.ok())
	s.maybe.add(s.wants.parts)
	if o.ok() {
		w.isUp(s)
		return
	}
	if reason == "" {
		w.r.Fatalf("add of %s: %s", s.name, o)
	}
	if !s.up {
		if s.certain {
			s.maybe = set{}
		}
		return
	}
	// What was there is still there, or is again after an add of that.
	s.wants = s.has
	w.write(s)
	if o := w.tool(s, "add"); !o.ok() && w.mayFail(s) == "" {
		w.r.Fatalf("add of %s as it was, after one that failed: %s", s.name, o)
	} else if o.ok() {
		w.isUp(s)
	}
}

func (w *world) isUp(s *svc) {
	s.up, s.certain, s.has, s.maybe, s.cacheLost = true, true, s.wants, set{}, false
	s.maybe.add(s.wants.parts)
}

func (w *world) isDown(s *svc) { s.up, s.certain, s.maybe, s.cacheLost = false, true, set{}, false }

// del deletes a service; nothing may keep it from that.
func (w *world) del(s *svc) {
	w.mend(s)
	o := w.tool(s, "del")
	w.note("del of %s: %v", s.name, o.ok())
	if !o.ok() {
		w.r.Fatalf("del of %s: %s", s.name, o)
	}
	w.isDown(s)
	w.silent(s)
}

func (w *world) deleteNetns(s *svc) {
	if !s.netns {
		w.r.Skip("no netns")
	}
	w.note("netns of %s deleted", s.name)
	if out, err := exec.Command("ip", "netns", "delete", s.name).CombinedOutput(); err != nil {
		w.t.Fatalf("ip netns delete: %v: %s", err, out)
	}
	s.netns, s.up, s.certain = false, false, false
}

// gc collects what is not up, of both plugins.
func (w *world) gc(*rapid.T) {
	valid := []types.GCAttachment{}
	for _, s := range w.services {
		if s.up {
			valid = append(valid, types.GCAttachment{ContainerID: s.id, IfName: "eth0"})
		}
	}
	for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
		c := with(w.t, conf("1.1.0", plugin, w.network, `"master": "eth0"`), "cni.dev/valid-attachments", valid)
		o := w.exec([]string{"CNI_COMMAND=GC", "CNI_PATH=" + w.path}, c, plugin)
		w.note("gc of %s with %d valid: %v", plugin, len(valid), o.ok())
		if !o.ok() && !strings.Contains(o.stdout, "remove it") {
			w.r.Fatalf("gc: %s", o)
		}
	}
}

// check is what must hold after every event.
func (w *world) check(*rapid.T) {
	holders := map[netip.Addr]string{}
	for _, s := range w.services {
		for _, vip := range w.holds(s) {
			if other, taken := holders[vip]; taken {
				w.r.Fatalf("%s is on the links of %s and %s\n%s", vip, other, s.name, strings.Join(w.story, "\n"))
			}
			holders[vip] = s.name
		}
	}
	for _, s := range w.services {
		if !s.up || !s.certain {
			continue
		}
		if err := w.reached(s); err != nil {
			if o := w.tool(s, "check"); o.ok() {
				w.r.Fatalf("%s: %v, and CHECK finds nothing\n%s", s.name, err, strings.Join(w.story, "\n"))
			}
		}
	}
}

// holds are the VIPs on the link of a service.
func (w *world) holds(s *svc) (held []netip.Addr) {
	if !s.netns {
		return nil
	}
	out, err := exec.Command("ip", "-n", s.name, "-j", "address", "show", "dev", "eth0", "up", "scope", "global").Output()
	if err != nil {
		return nil
	}
	var links []struct {
		Info []struct {
			Local netip.Addr `json:"local"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	for _, l := range links {
		for _, a := range l.Info {
			if a.Local.IsValid() {
				held = append(held, a.Local)
			}
		}
	}
	return held
}

// reached pings the VIPs of a service that is up, from the host and the LAN.
// Without a carrier the kernel takes packets to a VIP from neither.
func (w *world) reached(s *svc) error {
	if !w.carrier {
		return nil
	}
	for _, vip := range vips(s.has.parts...) {
		for _, n := range []*testnet.Namespace{w.host, w.lan} {
			if err := n.Ping(vip, "-W1"); err != nil {
				return err
			}
		}
	}
	return nil
}

// silent fails where a service that was deleted still has something.
func (w *world) silent(s *svc) {
	if held := w.holds(s); len(held) > 0 {
		w.r.Fatalf("after del %s still has %v\n%s", s.name, held, strings.Join(w.story, "\n"))
	}
	if left := cached(w.t, s.path); left != "" {
		w.r.Fatalf("after del of %s: left in the cache: %s", s.name, left)
	}
}

// finish has every service that can be healed added once more, which heals it,
// and deletes all; then the host is as it was.
func (w *world) finish() {
	w.carrier = true
	w.setCarrier()
	for _, s := range w.services {
		if reason := w.mayFail(s); !s.netns || reason != "" {
			continue
		}
		w.add(s)
		w.soon("reached after one add", func() error { return w.reached(s) })
		if o := w.tool(s, "check"); !o.ok() {
			w.r.Fatalf("CHECK of %s after one add: %s\n%s", s.name, o, strings.Join(w.story, "\n"))
		}
	}
	for _, s := range w.services {
		w.del(s)
	}
	for addr := range maps.Keys(w.hostHas) {
		if w.hostHas[addr] {
			w.host.IP("address del dev eth0 " + addr)
		}
	}
	if diff := lines(w.before, w.whole()); diff != "" {
		w.r.Fatalf("left behind: %s\n%s", diff, strings.Join(w.story, "\n"))
	}
}

// soon waits a little for what the kernel is about to do.
func (w *world) soon(what string, do func() error) {
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = do(); err == nil {
			return
		}
	}
	w.r.Fatalf("not %s: %v\n%s", what, err, strings.Join(w.story, "\n"))
}

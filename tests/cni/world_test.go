package cni

import (
	"crypto/sha512"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"macvlan-vip/tests/testnet"
)

// world is the model of a host that a history happens to: what each service
// was asked for, and what of that must hold now. The host has two uplinks, of which
// one is a bridge, and four networks on them, of which one has its addresses from host-local, and one
// from a DHCP server on the LAN.
type world struct {
	*lab
	dhcp     *dhcp
	r        *rapid.T
	networks []*network
	services []*svc
	// last is the service that any gave last.
	last *svc
	// lans are the stations at the other ends of the uplinks eth0 and eth1, and
	// carrier tells which of these have one.
	lans    []*testnet.Namespace
	carrier []bool
	// hostHas tells which addresses the host has got beside its own.
	hostHas map[string]bool
	// before is the host's state without services.
	before string
	// story is what has happened, for a history that fails.
	story []string
}

// network is one that services are added to.
type network struct {
	name string
	// uplink is the number of its master.
	uplink int
	ipam   string
}

// space is a network namespace, of one service or of two.
type space struct {
	name, path, id string
	// there tells whether it exists, and before is its state without services.
	there  bool
	before string
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
	// family is 4 or 6, or 0 for both.
	family, mtu int
	// broken ones are refused by the plugin.
	broken bool
}

// svc is a service, as one network sees it.
type svc struct {
	name, folder, ifName string
	network              *network
	space                *space
	// wants is what the network's file says, has what the last add that
	// succeeded was given, while the service is up.
	wants, has wish
	up         bool
	// certain tells that no process was killed and no record spoiled since the
	// last add or del that succeeded; maybe are the VIPs that it may hold, leased
	// those that host-local may keep for it through a boot.
	certain       bool
	maybe, leased set
}

func newWorld(t *testing.T, r *rapid.T) *world {
	w := &world{lab: &lab{t: t, path: os.Getenv("PATH"), leases: t.TempDir()}, r: r, carrier: []bool{true, true}, hostHas: map[string]bool{}}
	w.host, w.lan = testnet.NewHost(t, "10.99.0.1/16", "2001:db8::1/64")
	w.lans = []*testnet.Namespace{w.lan, testnet.New(t)}
	testnet.Cable(t, w.host, "nic1", w.lans[1], "port")
	w.host.IP("link add eth1 type bridge mcast_snooping 0")
	w.host.IP("link set eth1 up")
	w.host.IP("link set nic1 master eth1")
	w.host.AddAddress("eth1", "10.98.0.1/16")
	w.host.AddAddress("eth1", "2001:db8:1::1/64")
	for i, lan := range w.lans {
		lan.AddAddress("port", fmt.Sprintf("10.%d.0.2/16", 99-i))
		lan.AddAddress("port", lanAddress6(i))
	}
	// What is somebody else's, next to ours.
	for _, foreign := range []string{
		"link add other0 link eth0 type macvlan mode bridge", "route add 203.0.113.0/24 dev eth0 proto static",
		"route add 203.0.113.9 dev eth0 table local metric 100 proto static", "neigh add 203.0.113.9 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
		"rule add from 203.0.113.9 lookup main pref 11000",
	} {
		w.host.IP(foreign)
	}
	cookie := w.cookie()
	for i, ipam := range []string{"static", "static", "host-local", "dhcp"} {
		w.networks = append(w.networks, &network{name: fmt.Sprintf("lab-%d-%d", i, cookie), uplink: i % 2, ipam: ipam})
	}
	w.dhcp = newDHCP(t, w.host, w.lans[1])
	var spaces []*space
	for i := range 3 {
		name := fmt.Sprintf("history-%d-%d", cookie, i)
		p := &space{name: name, path: "/run/netns/" + name}
		sum := sha512.Sum512([]byte(p.path))
		p.id = fmt.Sprintf("cnitool-%x", sum[:10])
		spaces = append(spaces, p)
	}
	for i, s := range []*svc{
		{network: w.networks[0], space: spaces[0], ifName: "eth0"},
		{network: w.networks[0], space: spaces[1], ifName: "eth0"},
		{network: w.networks[1], space: spaces[0], ifName: "eth1"},
		{network: w.networks[2], space: spaces[1], ifName: "eth1"},
		{network: w.networks[2], space: spaces[2], ifName: "eth0"},
		{network: w.networks[3], space: spaces[2], ifName: "eth1", wants: wish{parts: []int{leased}, family: 4, mtu: 1500}},
	} {
		s.name, s.folder, s.certain, s.maybe, s.leased = fmt.Sprintf("s%d", i), t.TempDir(), true, set{}, set{}
		if s.network.ipam != "dhcp" {
			s.wants = wish{parts: []int{10 + i}, mtu: 1500}
		}
		w.services = append(w.services, s)
		w.write(s)
	}
	w.before = w.whole()
	return w
}

func lanAddress6(uplink int) string { return []string{"2001:db8::2/64", "2001:db8:1::2/64"}[uplink] }

// whole is the host's state.
func (w *world) whole() string { return unordered(w.state()) }

func (w *world) note(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
	w.r.Logf(format, args...)
}

// fail ends the history.
func (w *world) fail(format string, args ...any) {
	w.r.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(w.story, "\n"))
}

// end clears up, whatever came of the history.
func (w *world) end() {
	w.dhcp.end()
	for _, s := range w.services {
		_ = exec.Command("ip", "netns", "delete", s.space.name).Run()
	}
	for _, dir := range w.journals() {
		_ = os.RemoveAll(dir)
	}
	w.host.Remove()
	for _, lan := range w.lans {
		lan.Remove()
	}
}

func (w *world) any() *svc {
	w.last = rapid.SampledFrom(w.services).Draw(w.r, "service")
	return w.last
}

// prefixes are those of a VIP.
func (n *network) prefixes(part, family int) (all []netip.Prefix) {
	if family != 6 {
		all = append(all, netip.MustParsePrefix(fmt.Sprintf("10.%d.1.%d/16", 99-n.uplink, part)))
	}
	if family != 4 {
		all = append(all, netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::1:%d/64", n.uplink, part)))
	}
	return all
}

// vips are the addresses that a service has.
func (s *svc) vips() (all []netip.Addr) {
	for _, part := range s.has.parts {
		for _, p := range s.network.prefixes(part, s.has.family) {
			all = append(all, p.Addr())
		}
	}
	return all
}

// ipam is the section that asks for a service's VIPs.
func (w *world) ipam(s *svc) string {
	if s.network.ipam == "dhcp" {
		return fmt.Sprintf(`{"type": "dhcp", "daemonSocketPath": %q}`, w.dhcp.socket)
	}
	var items []string
	for _, part := range s.wants.parts {
		for _, p := range s.network.prefixes(part, s.wants.family) {
			if s.network.ipam == "host-local" {
				// A range of one address.
				items = append(items, fmt.Sprintf(`[{"subnet": %q, "rangeStart": %q, "rangeEnd": %[2]q}]`, p.Masked(), p.Addr()))
			} else {
				items = append(items, fmt.Sprintf(`{"address": %q}`, p))
			}
		}
	}
	list := strings.Join(items, ", ")
	if s.network.ipam == "host-local" {
		return fmt.Sprintf(`{"type": "host-local", "dataDir": %q, "ranges": [%s]}`, w.leases, list)
	}
	return fmt.Sprintf(`{"type": "static", "addresses": [%s]}`, list)
}

// write writes the network's file of a service, also where something was done
// to it.
func (w *world) write(s *svc) {
	mtu := s.wants.mtu
	if s.wants.broken {
		mtu = 9000
	}
	conflist := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [
		{"type": "macvlan-vip", "master": "eth%d", "mtu": %d, "probe": {"count": 1, "waitMs": 20}, "announce": {"count": 1}, "ipam": %s},
		{"type": "hairpin-route"}]}`, s.network.name, s.network.uplink, mtu, w.ipam(s))
	if err := os.WriteFile(filepath.Join(s.folder, "lab.conflist"), []byte(conflist), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// ready makes the service's namespace, if it is not there. Something in it is
// somebody else's.
func (w *world) ready(s *svc) {
	p := s.space
	if p.there {
		return
	}
	script := `ip netns add $1 && ip -n $1 link set lo up && ip -n $1 address add 198.18.0.1/32 dev lo && ip -n $1 rule add from 198.18.0.1 lookup main pref 11000`
	if out, err := exec.Command("sh", "-ec", script, "sh", p.name).CombinedOutput(); err != nil {
		w.t.Fatalf("make a netns: %v: %s", err, out)
	}
	p.there, p.before = true, w.inside(p)
}

// inside is the state of a namespace.
func (w *world) inside(p *space) string {
	out, err := exec.Command("ip", "netns", "exec", p.name, "sh", "-ec", testnet.SnapshotScript).Output()
	if err != nil {
		w.t.Fatalf("look into %s: %v", p.name, err)
	}
	return testnet.Steady(string(out))
}

// env is cnitool's environment.
func (w *world) env(s *svc) []string {
	return []string{"NETCONFPATH=" + s.folder, "CNI_PATH=" + w.path, "PATH=" + w.path, "CNI_IFNAME=" + s.ifName}
}

func (w *world) tool(s *svc, verb string) outcome {
	return w.exec(w.env(s), "", lookPath("cnitool"), verb, s.network.name, s.space.path)
}

// mayFail says what could keep an add from success, if anything.
func (w *world) mayFail(s *svc) string {
	if s.wants.broken {
		return "its configuration is refused"
	}
	if s.network.ipam == "dhcp" && !w.carrier[s.network.uplink] {
		return "no server gives it a lease"
	}
	for _, o := range w.services {
		for _, n := range s.wants.parts {
			if o != s && o.network.uplink == s.network.uplink && (o.maybe[n] || o.network == s.network && o.leased[n]) {
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
	w.write(s)
	w.ready(s)
	reason := w.mayFail(s)
	o := w.tool(s, "add")
	w.note("add of %s %+v: %v", s.name, s.wants, o.ok())
	w.tried(s)
	if o.ok() {
		w.isUp(s)
		return
	}
	if reason == "" {
		w.fail("add of %s: %s", s.name, o)
	}
	if !s.up {
		if s.certain {
			s.maybe, s.leased = set{}, set{}
		}
		return
	}
	// What was there is still there, or is again after an add of that.
	s.wants = s.has
	w.write(s)
	if o := w.tool(s, "add"); !o.ok() && w.mayFail(s) == "" {
		w.fail("add of %s as it was, after one that failed: %s", s.name, o)
	} else if o.ok() {
		w.isUp(s)
	}
}

// tried notes what an add may have given, or left.
func (w *world) tried(s *svc) {
	s.maybe.add(s.wants.parts)
	if s.network.ipam == "host-local" {
		s.leased.add(s.wants.parts)
	}
}

func (w *world) isUp(s *svc) {
	s.up, s.certain, s.has, s.maybe, s.leased = true, true, s.wants, set{}, set{}
	w.tried(s)
}

func (w *world) isDown(s *svc) { s.up, s.certain, s.maybe, s.leased = false, true, set{}, set{} }

// del deletes a service; nothing may keep it from that.
func (w *world) del(s *svc) {
	w.write(s)
	o := w.tool(s, "del")
	w.note("del of %s: %v", s.name, o.ok())
	if !o.ok() {
		w.fail("del of %s: %s", s.name, o)
	}
	w.isDown(s)
	w.silent(s)
}

// check is what must hold after every event.
func (w *world) check(*rapid.T) {
	holders := map[netip.Addr]string{}
	for _, s := range w.services {
		for _, vip := range w.holds(s) {
			if other, taken := holders[vip]; taken {
				w.fail("%s is on the links of %s and %s", vip, other, s.name)
			}
			holders[vip] = s.name
		}
	}
	allDown := true
	for _, s := range w.services {
		allDown = allDown && !s.up && s.certain
		if !s.up || !s.certain {
			continue
		}
		if err := w.reached(s); err != nil {
			if o := w.tool(s, "check"); o.ok() {
				w.fail("%s: %v, and CHECK finds nothing", s.name, err)
			}
		}
	}
	if left := files(w.t, w.journals()...); allDown && left != "" {
		w.fail("no service is there, and these files are: %s", left)
	}
}

// holds are the VIPs on the link of a service.
func (w *world) holds(s *svc) (held []netip.Addr) {
	if !s.space.there {
		return nil
	}
	err := ns.WithNetNSPath(s.space.path, func(ns.NetNS) error {
		link, err := netlink.LinkByName(s.ifName)
		if err != nil || link.Attrs().RawFlags&unix.IFF_UP == 0 {
			// It holds nothing without a link that is up.
			return nil
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		for _, a := range addrs {
			if addr, ok := netip.AddrFromSlice(a.IP); ok && !addr.IsLinkLocalUnicast() {
				held = append(held, addr.Unmap())
			}
		}
		return err
	})
	if err != nil {
		w.t.Fatalf("look into %s: %v", s.space.name, err)
	}
	return held
}

// reached asks the VIPs of a service that is up, from the host and the LAN.
// Without a carrier the kernel takes packets to a VIP from neither.
func (w *world) reached(s *svc) error {
	if !w.carrier[s.network.uplink] {
		return nil
	}
	for name, n := range map[string]*testnet.Namespace{"host": w.host, "LAN": w.lans[s.network.uplink]} {
		if silent := n.Silent(time.Second, s.vips()...); len(silent) > 0 {
			return fmt.Errorf("no answer to the %s from %v", name, silent)
		}
	}
	return nil
}

// cache is what libcni keeps of a service.
func (w *world) cache(s *svc) string {
	return filepath.Join("/var/lib/cni/results", s.network.name+"-"+s.space.id+"-"+s.ifName)
}

// silent fails where a service that was deleted still has something.
func (w *world) silent(s *svc) {
	if held := w.holds(s); len(held) > 0 {
		w.fail("after del %s still has %v", s.name, held)
	}
	if _, err := os.Stat(w.cache(s)); err == nil {
		w.fail("after del of %s: left in the cache: %s", s.name, w.cache(s))
	}
	used := func(o *svc) bool { return o.space == s.space && (o.up || !o.certain) }
	if !s.space.there || slices.ContainsFunc(w.services, used) {
		return
	}
	if diff := lines(s.space.before, w.inside(s.space)); diff != "" {
		w.fail("left in the namespace of %s: %s", s.name, diff)
	}
}

// finish has services that can be healed added once more, which heals them, and
// deletes all, healed or not; then the host is as it was.
func (w *world) finish() {
	w.note("the end")
	for i := range w.carrier {
		w.carrier[i] = true
		w.setCarrier(i)
	}
	for _, s := range w.services {
		if reason := w.mayFail(s); !s.space.there || reason != "" || rapid.Bool().Draw(w.r, "leave "+s.name) {
			continue
		}
		w.add(s)
		w.soon("reached after one add", func() error { return w.reached(s) })
		if o := w.tool(s, "check"); !o.ok() {
			w.fail("CHECK of %s after one add: %s", s.name, o)
		}
	}
	for _, s := range w.services {
		w.del(s)
	}
	for addr, has := range w.hostHas {
		if has {
			w.host.IP("address del dev eth0 " + addr)
		}
	}
	w.dropLeasesOfNobody()
	if diff := lines(w.before, w.whole()); diff != "" {
		w.fail("left behind: %s", diff)
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
	w.fail("not %s: %v", what, err)
}

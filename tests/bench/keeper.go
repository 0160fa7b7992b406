package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"macvlan-vip/tests/testnet"
)

// jail gives the programs of the units a /run and a /var/lib of their own, in which
// are their records, and has them on the host.
const jail = `dir=$1 host=$2; shift 2
mount --rbind /run/netns "$dir/run/netns"
mount --bind /run/cni "$dir/run/cni"
mount --rbind "$dir/run" /run
mount --bind "$dir/lib" /var/lib
exec nsenter --net="$host" "$@"`

// systemctl stands for systemd: it runs what the unit's reload does, without the
// unit's sandbox, and notes begin and end.
const systemctl = `#!/bin/sh
for name; do :; done
name=${name#systemd-netns@} name=${name%%.service}
echo >> %[1]s/begun
systemd-netns-helper rename "$name"
systemd-netns-helper repair "$name"
status=$?
echo >> %[1]s/ended
exit $status
`

// watched is a host with services, which a keeper watches.
type watched struct {
	*site
	at     *netlink.Handle
	guests []guest
	keeper *exec.Cmd
	// next is the guest whose turn it is to be broken: who breaks the same thing
	// again and again is made to wait.
	next int
}

type guest struct {
	name string
	vip  netip.Addr
	at   *netlink.Handle
}

func newWatched(t testing.TB, services int) *watched {
	t.Helper()
	w := &watched{site: &site{t: t, dir: t.TempDir()}}
	w.host, w.lan = testnet.NewHost(t, hostAddr+"/16")
	w.lan.AddAddress("port", lanAddr+"/16")
	w.at = w.handle(w.host)
	plugin := map[string]any{
		"type": "macvlan-vip", "master": "eth0", "capabilities": map[string]bool{"ips": true},
		"probe": map[string]int{"count": 1, "intervalMs": 1, "waitMs": 1}, "announce": map[string]int{"count": 0},
	}
	w.writeNetwork("watched", []map[string]any{plugin, {"type": "hairpin-route"}})
	w.write("bin/systemctl", fmt.Sprintf(systemctl, w.dir))
	for _, dir := range []string{"run/netns", "run/cni", "run/systemd-netns", "lib/cni", "lib/systemd-netns"} {
		if err := os.MkdirAll(filepath.Join(w.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range services {
		w.invite(testnet.New(t), netip.MustParsePrefix(fmt.Sprintf("10.99.%d.%d/16", 1+i/250, 1+i%250)))
	}
	w.addAll()
	t.Cleanup(w.dismiss)
	return w
}

func (w *watched) handle(n *testnet.Namespace) *netlink.Handle {
	w.t.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(n.Fd()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(h.Close)
	return h
}

func (w *watched) invite(service *testnet.Namespace, vip netip.Prefix) {
	w.t.Helper()
	service.IP("link set lo up")
	g := guest{name: filepath.Base(service.Path()), vip: vip.Addr(), at: w.handle(service)}
	w.guests = append(w.guests, g)
	if err := os.MkdirAll(filepath.Join(w.dir, "run/systemd-netns", g.name), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

// addAll has the guests added, a few at a time.
func (w *watched) addAll() {
	w.t.Helper()
	var wg sync.WaitGroup
	todo, failed := make(chan guest), make(chan error, len(w.guests))
	for range 4 {
		wg.Go(func() {
			for g := range todo {
				if out, err := w.helper("add", g).CombinedOutput(); err != nil {
					failed <- fmt.Errorf("add %s: %w: %s", g.name, err, out)
				}
			}
		})
	}
	for _, g := range w.guests {
		todo <- g
	}
	close(todo)
	wg.Wait()
	select {
	case err := <-failed:
		w.t.Fatal(err)
	default:
	}
}

// dismiss takes all guests down at once: none of their attachments is valid.
func (w *watched) dismiss() {
	for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
		w.pluginOf("watched", plugin, "GC", "", nil, map[string]any{
			"type": plugin, "master": "eth0", "ipam": map[string]string{"type": "static"}, "cni.dev/valid-attachments": []string{},
		})
	}
}

// inside is a command on the host, among the units' records.
func (w *watched) inside(program string, args ...string) *exec.Cmd {
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-ec", jail, "sh", w.dir, w.host.Path(), program}, args...)...)
	path := os.Getenv("PATH")
	cmd.Env = []string{"PATH=" + filepath.Join(w.dir, "bin") + ":" + path, "CNI_PATH=" + path, "NETCONFPATH=" + w.dir, "NETWORK=watched"}
	return cmd
}

func (w *watched) helper(verb string, g guest) *exec.Cmd {
	cmd := w.inside("systemd-netns-helper", verb, g.name)
	ips, _ := json.Marshal(map[string]any{"ips": []string{g.vip.String() + "/16"}})
	cmd.Env = append(cmd.Env, "CAP_ARGS="+string(ips))
	return cmd
}

// watch starts the keeper anew, and waits until it has looked at all.
func (w *watched) watch() {
	w.t.Helper()
	w.unwatch()
	before := w.count("ended")
	out, err := os.OpenFile(filepath.Join(w.dir, "said"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		w.t.Fatal(err)
	}
	defer out.Close()
	w.keeper = w.inside("systemd-netns-watch")
	w.keeper.Stdout, w.keeper.Stderr = out, out
	if err := w.keeper.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.unwatch)
	w.until("the keeper has looked at all", func() bool { return w.count("ended") >= before+len(w.guests) })
	// A frame of the LAN ends its doubt whether the port forwards.
	if err := w.lan.Ping(netip.MustParseAddr(hostAddr)); err != nil {
		w.t.Fatal(err)
	}
	w.quiet()
}

func (w *watched) unwatch() {
	if w.keeper != nil {
		_ = w.keeper.Process.Kill()
		_ = w.keeper.Wait()
		w.keeper = nil
	}
}

// count is how many reloads have begun, or ended.
func (w *watched) count(what string) int {
	data, _ := os.ReadFile(filepath.Join(w.dir, what))
	return len(data)
}

// quiet waits until no reload has run for a moment.
func (w *watched) quiet() {
	w.t.Helper()
	since := time.Now()
	last := -1
	w.until("nothing is repaired", func() bool {
		begun, ended := w.count("begun"), w.count("ended")
		if begun != ended || begun != last {
			since, last = time.Now(), begun
		}
		return time.Since(since) > 150*time.Millisecond
	})
}

func (w *watched) until(what string, is func() bool) (took time.Duration) {
	w.t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > 5*time.Minute {
			said, _ := os.ReadFile(filepath.Join(w.dir, "said"))
			w.t.Fatalf("waited in vain until %s; the keeper says:\n%s", what, said[max(0, len(said)-4000):])
		}
		time.Sleep(500 * time.Microsecond)
	}
	return time.Since(began)
}

// cpu is the CPU time that the keeper has had (Documentation/scheduler/sched-stats.rst).
func (w *watched) cpu() (sum time.Duration) {
	w.t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", w.keeper.Process.Pid))
	if err != nil || len(tasks) == 0 {
		w.t.Fatalf("no tasks of the keeper: %v", err)
	}
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		ns, _, _ := strings.Cut(string(data), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		if err != nil {
			w.t.Fatalf("%s: %q", task, data)
		}
		sum += time.Duration(n)
	}
	return sum
}

// resident is the keeper's memory, in MiB.
func (w *watched) resident() float64 {
	w.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.keeper.Process.Pid))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	w.t.Fatal("no VmRSS")
	return 0
}

// breakage is what somebody does to a guest, and how it is seen that it is right
// again.
type breakage struct {
	name  string
	spoil func(w *watched, g guest) error
	right func(w *watched, g guest) bool
	// mend puts back what is not the keeper's to put back.
	mend func(w *watched, g guest) error
}

const routeRemoved = "the host's route to a VIP is removed"

var moved = &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 99, 0, 77), Mask: net.CIDRMask(32, 32)}}

var breakages = []breakage{
	{routeRemoved, func(w *watched, g guest) error {
		return w.at.RouteDel(&netlink.Route{Dst: netlink.NewIPNet(g.vip.AsSlice()), Table: 255, Priority: 100, Protocol: 118, Scope: netlink.SCOPE_LINK})
	}, hasWay, nil},
	{"mv-int is deleted", func(w *watched, _ guest) error { return deleteLink(w.at, "mv-int") }, hasWay, nil},
	{"mv-int is taken down", func(w *watched, _ guest) error { return takeDown(w.at, "mv-int") }, hasWay, nil},
	{"a VIP is removed", func(_ *watched, g guest) error {
		link, err := g.at.LinkByName("mv0")
		if err != nil {
			return err
		}
		return g.at.AddrDel(link, &netlink.Addr{IPNet: &net.IPNet{IP: g.vip.AsSlice(), Mask: net.CIDRMask(16, 32)}})
	}, hasVIP, nil},
	{"mv0 is deleted", func(_ *watched, g guest) error { return deleteLink(g.at, "mv0") }, hasVIP, nil},
	{"mv0 is taken down", func(_ *watched, g guest) error { return takeDown(g.at, "mv0") }, hasWayBack(hostAddr), nil},
	{"the host gets an address", func(w *watched, _ guest) error {
		link, err := w.at.LinkByName("eth0")
		if err != nil {
			return err
		}
		return w.at.AddrAdd(link, moved)
	}, hasWayBack("10.99.0.77"), func(w *watched, _ guest) error {
		link, err := w.at.LinkByName("eth0")
		if err != nil {
			return err
		}
		return w.at.AddrDel(link, moved)
	}},
}

func deleteLink(at *netlink.Handle, name string) error {
	link, err := at.LinkByName(name)
	if err != nil {
		return err
	}
	return at.LinkDel(link)
}

func takeDown(at *netlink.Handle, name string) error {
	link, err := at.LinkByName(name)
	if err != nil {
		return err
	}
	return at.LinkSetDown(link)
}

// hasWay tells whether the host's packets to the VIP go through mv-int.
func hasWay(w *watched, g guest) bool {
	link, err := w.at.LinkByName("mv-int")
	if err != nil {
		return false
	}
	routes, err := w.at.RouteGet(g.vip.AsSlice())
	return err == nil && routes[0].LinkIndex == link.Attrs().Index
}

func hasVIP(w *watched, g guest) bool {
	link, err := g.at.LinkByName("mv0")
	if err != nil || link.Attrs().Flags&net.FlagUp == 0 {
		return false
	}
	addrs, err := g.at.AddrList(link, netlink.FAMILY_V4)
	return err == nil && len(addrs) == 1 && hasWay(w, g)
}

// hasWayBack tells whether the service has a route of its own to an address of the
// host.
func hasWayBack(addr string) func(*watched, guest) bool {
	dst := netlink.NewIPNet(net.ParseIP(addr))
	return func(_ *watched, g guest) bool {
		routes, err := g.at.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: dst, Protocol: 118}, netlink.RT_FILTER_DST|netlink.RT_FILTER_PROTOCOL)
		return err == nil && len(routes) > 0
	}
}

// suffer breaks something of the next guest's, and measures how long that lasts, and
// what CPU time of the keeper's it takes.
func (w *watched) suffer(b breakage) (lasts, cpu time.Duration) {
	w.t.Helper()
	if len(w.guests) == 1 {
		w.watch()
	}
	g := w.guests[w.next%len(w.guests)]
	w.next++
	before := w.cpu()
	if err := b.spoil(w, g); err != nil {
		w.t.Fatalf("%s: %v", b.name, err)
	}
	lasts = w.until(b.name+", and is right again", func() bool { return b.right(w, g) })
	w.quiet()
	cpu = w.cpu() - before
	if b.mend != nil {
		if err := b.mend(w, g); err != nil {
			w.t.Fatalf("%s: %v", b.name, err)
		}
		w.quiet()
	}
	return lasts, cpu
}

// crowds are the numbers of services of a host that a keeper is measured with.
var crowds = []int{1, 50, 500}

func of(n int) string {
	if n == 1 {
		return "1 service"
	}
	return fmt.Sprintf("%d services", n)
}

// keeper is what a host's keeper does and costs.
func keeper(t *testing.T, rounds int) []Comparison { return kept(t, rounds, crowds) }

const nothingToDo = "nothing is broken: a reload that finds that out"

func kept(t *testing.T, rounds int, crowds []int) []Comparison {
	var hosts []*watched
	for _, n := range crowds {
		w := newWatched(t, n)
		w.watch()
		hosts = append(hosts, w)
	}
	return append([]Comparison{repairs(hosts[0], min(rounds, 10))}, crowdedKeepers(hosts, rounds)...)
}

// repairs is how long each breakage lasts.
func repairs(w *watched, rounds int) Comparison {
	times := newSamples(nothingToDo)
	var seconds []float64
	inTurn(rounds, breakages, func(round int, b breakage) {
		lasts, _ := w.suffer(b)
		if round >= 0 {
			times.add(b.name, ms(lasts))
			seconds = append(seconds, lasts.Seconds())
		}
	})
	for range rounds {
		times.add(nothingToDo, ms(w.reload()))
	}
	c := times.comparison("keeper-repair", "from somebody's change until it is right again, without what systemd adds", "ms", nothingToDo)
	c.Goals = []Goal{{ID: "keeper-repair", Text: "the keeper: until it is right again, all events, s", Ratio: spread(seconds), Most: 1}}
	return c
}

// crowdedKeepers is what one event costs among many services, and what none does.
func crowdedKeepers(hosts []*watched, rounds int) []Comparison {
	first, last := of(len(hosts[0].guests)), of(len(hosts[len(hosts)-1].guests))
	times, cpu, memory := newSamples(), newSamples(), newSamples()
	inTurn(rounds, hosts, func(round int, w *watched) {
		lasts, used := w.suffer(breakages[0])
		if name := of(len(w.guests)); round >= 0 {
			times.add(name, ms(lasts))
			cpu.add(name, ms(used))
		}
	})
	var idle []float64
	for _, w := range hosts {
		const wait = 3 * time.Second
		before := w.cpu()
		time.Sleep(wait)
		idle = append(idle, ms(w.cpu()-before)/wait.Seconds())
		memory.add(of(len(w.guests)), w.resident())
	}
	lasting := times.comparison("keeper-crowd", "from "+routeRemoved+" until it is back, of one service of so many", "ms", first)
	lasting.Goals = []Goal{times.goal(lasting.ID, "the keeper: until it is right again: "+last+" / "+first, last, first, 1.2)}
	used := cpu.comparison("keeper-cpu", "the keeper's CPU time for one such event", "ms", first)
	used.Goals = []Goal{
		cpu.goal(used.ID, "the keeper: CPU time for one event: "+last+" / "+first, last, first, 1.2),
		{ID: "keeper-idle", Text: "the keeper: CPU time while nothing happens, ms a second, up to " + last, Ratio: spread(idle), Most: 0.5},
	}
	kept := memory.comparison("keeper-memory", "the keeper's resident memory", "MiB", first)
	kept.Goals = []Goal{{ID: kept.ID, Text: "the keeper: memory with " + last + ", MiB", Ratio: spread(memory.values[last]), Most: 10}}
	return []Comparison{lasting, used, kept}
}

// reload is one that the timer asks for.
func (w *watched) reload() time.Duration {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "run/systemd-netns", w.guests[0].name, "repair"), nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
	cmd := w.inside("systemctl", "reload", "--", "systemd-netns@"+w.guests[0].name+".service")
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatal(errors.Join(err, errors.New(string(out))))
	}
	return time.Since(began)
}

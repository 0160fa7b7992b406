package watch

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/tests/testnet"
)

// The test binary is the keeper, too: in a process of its own, all of whose
// threads are in the host's namespace.
const keeperOf = "WATCH_TEST_RECORDS"

func TestMain(m *testing.M) {
	if records := os.Getenv(keeperOf); records != "" {
		runKeeper(records)
		return
	}
	os.Exit(m.Run())
}

func runKeeper(records string) {
	print := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	err := Run(context.Background(), Config{
		Records: records, Names: filepath.Join(records, "names"),
		Reload: func(_ context.Context, _, unit string, broken bool) error {
			print("reload %s broken=%t", unit, broken)
			return nil
		},
		Say:    func(_ int, namespace, line string) { print("%s: %s", namespace, line) },
		Status: func(line string) { print("status %s", line) },
		Conflicts: func(namespace string, lines []string) error {
			print("conflicts of %s: %q", namespace, lines)
			return nil
		},
		Doubt: func(namespace, line string) error {
			print("doubt of %s: %q", namespace, line)
			return nil
		},
	})
	print("ended: %v", err)
}

// lab is a host with services on VIPs, watched by a keeper.
type lab struct {
	t         *testing.T
	host, lan *testnet.Namespace
	records   string
	services  map[string]*testnet.Namespace
	keeper    *exec.Cmd
	// policy is addressConflict of services that are made.
	policy string

	mu    sync.Mutex
	lines []string
}

func newLab(t *testing.T, services ...string) *lab {
	t.Helper()
	return newLabWith(t, "", services...)
}

func newLabWith(t *testing.T, policy string, services ...string) *lab {
	t.Helper()
	l := &lab{t: t, policy: policy, records: t.TempDir(), services: map[string]*testnet.Namespace{}}
	if err := os.Mkdir(filepath.Join(l.records, "names"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.host, l.lan = testnet.NewHost(t, "192.0.2.9/24", "2001:db8::9/64")
	l.host.IP("link add mv-int link eth0 type macvlan mode bridge")
	l.host.IP("link set mv-int up")
	for i, name := range services {
		l.service(name, i)
	}
	l.start()
	return l
}

func vip(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(20 + i)}) }

// service makes what ADD would.
func (l *lab) service(name string, i int) {
	l.t.Helper()
	s := testnet.New(l.t)
	l.services[name] = s
	l.host.IP(fmt.Sprintf("link add mv0 link eth0 netns %s type macvlan mode bridge", filepath.Base(s.Path())))
	s.IP("link set lo up")
	s.IP("link set mv0 up")
	s.AddAddress("mv0", vip(i).String()+"/24")
	s.AddAddress("mv0", fmt.Sprintf("2001:db8::%d/64", 20+i))
	l.way(name, i)
	if err := os.Symlink(s.Path(), filepath.Join(l.records, "names", name)); err != nil {
		l.t.Fatal(err)
	}
	l.record(name, i, false)
}

// way makes what hairpin-route would.
func (l *lab) way(name string, i int) {
	l.t.Helper()
	l.host.IP(fmt.Sprintf("route replace %s/32 dev mv-int table local proto 118 metric 100", vip(i)))
	l.host.IP(fmt.Sprintf("neigh replace %s lladdr 02:00:00:00:00:01 dev mv-int nud permanent", vip(i)))
	l.services[name].IP("route replace 192.0.2.9/32 dev mv0 proto 118")
	l.services[name].IP("neigh replace 192.0.2.9 lladdr 02:00:00:00:00:02 dev mv0 nud permanent")
}

func (l *lab) record(name string, i int, undoing bool) {
	l.t.Helper()
	result, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0",
		"interfaces": []map[string]string{{"name": "mv-int"}, {"name": "mv0", "sandbox": "/run/netns/" + name}},
		"ips":        []map[string]string{{"address": vip(i).String() + "/24"}, {"address": fmt.Sprintf("2001:db8::%d/64", 20+i)}},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"name": "lan", "plugins": []map[string]string{{"type": "macvlan-vip", "addressConflict": l.policy}}})
	if err != nil {
		l.t.Fatal(err)
	}
	err = record.Write(filepath.Join(l.records, name), []record.Attachment{{Network: "lan", IfName: "mv0", Unit: name, Config: config, Result: result, Undoing: undoing}})
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) start() {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	l.keeper = exec.Command("nsenter", "--net="+l.host.Path(), self)
	l.keeper.Env = append(os.Environ(), keeperOf+"="+l.records)
	l.keeper.Stderr = os.Stderr
	out, err := l.keeper.StdoutPipe()
	if err == nil {
		err = l.keeper.Start()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = l.keeper.Process.Kill()
		_ = l.keeper.Wait()
		if l.t.Failed() {
			l.t.Logf("the keeper's lines:\n%s", strings.Join(l.said(0), "\n"))
		}
	})
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			l.mu.Lock()
			l.lines = append(l.lines, lines.Text())
			l.mu.Unlock()
		}
	}()
	for name := range l.services {
		l.await("its start", 0, "reload "+name)
	}
	// Its ears are open a moment after its start; a frame of the LAN ends its doubt,
	// and whoever sends one later has the VIPs announced once more.
	for range 5 {
		time.Sleep(settle)
		l.sends(must(question(netip.MustParseAddr("192.0.2.250"), stranger)))
	}
	time.Sleep(questions*questionInterval + 2*settle)
}

// said gives the keeper's lines from one on.
func (l *lab) said(from int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines[from:]...)
}

// await waits for a line that contains a text.
func (l *lab) await(event string, from int, text string) {
	l.t.Helper()
	testnet.Eventually(l.t, fmt.Sprintf("after %s the keeper says %q", event, text), func() error {
		for _, line := range l.said(from) {
			if strings.Contains(line, text) {
				return nil
			}
		}
		return fmt.Errorf("it says %q", l.said(from))
	})
}

// quiet asserts that nothing is repaired because of what has just happened.
func (l *lab) quiet(event string, from int) {
	l.t.Helper()
	time.Sleep(6 * debounce)
	for _, line := range l.said(from) {
		if strings.HasPrefix(line, "reload") {
			l.t.Errorf("after %s: %q", event, l.said(from))
		}
	}
}

// TestEvents: what spoils something of ours has the unit reloaded that it is of,
// and no other, and what does not wakes nobody.
func TestEvents(t *testing.T) {
	l := newLab(t, "one", "two")
	one := l.services["one"]
	for _, c := range []struct {
		do   func()
		name string
		// says is part of the reason, for is whom it concerns.
		says string
		of   []string
	}{
		{func() { l.host.IP("route del 192.0.2.20 table local proto 118 metric 100") }, "a host route's removal", "the host's route to 192.0.2.20 was removed by process", []string{"one"}},
		{func() { l.host.IP("neigh del 192.0.2.21 dev mv-int") }, "a host neighbour's removal", "the host's neighbour entry for 192.0.2.21 was removed", []string{"two"}},
		{func() { one.IP("neigh del 192.0.2.9 dev mv0") }, "a service's neighbour's removal", "the service's neighbour entry for 192.0.2.9 was removed", []string{"one"}},
		{func() { one.IP("route del 192.0.2.9/32 dev mv0 proto 118") }, "a service's route's removal", "the service's route to 192.0.2.9 was removed", []string{"one"}},
		{func() { one.IP("address del 192.0.2.20/24 dev mv0") }, "a VIP's removal", "VIP 192.0.2.20 was removed from mv0", []string{"one"}},
		{func() { one.IP("address del 2001:db8::20/64 dev mv0") }, "an IPv6 VIP's removal", "VIP 2001:db8::20 was removed from mv0", []string{"one"}},
		{func() { one.IP("rule del lookup default") }, "a rule's removal", "a routing rule of the service was removed", []string{"one"}},
		{func() { one.IP("link set mv0 mtu 1400") }, "another MTU", "the MTU of mv0 was changed to 1400", []string{"one"}},
		{func() { one.IP("link set mv0 mtu 1500") }, "the MTU as it was", "the MTU of mv0 was changed to 1500", []string{"one"}},
		{func() { one.IP("link set mv0 address 02:00:00:00:00:99") }, "another MAC", "the MAC of mv0 was changed", []string{"one"}},
		{func() { one.IP("link set mv0 down") }, "the service's link down", "mv0 was taken down", []string{"one"}},
		{func() { one.IP("link set mv0 name mv9") }, "another name", "mv0 was renamed mv9", []string{"one"}},
		{func() { one.IP("link del mv9") }, "the service's link gone", "mv0 was deleted", []string{"one"}},
		{func() { l.host.AddAddress("eth0", "192.0.2.10/24") }, "another host address", "the host has got the address 192.0.2.10", []string{"one", "two"}},
		{func() { l.host.AddAddress("eth0", "192.0.2.11/32") }, "a virtual host address", "the host has got the address 192.0.2.11", []string{"one", "two"}},
		{func() { l.host.IP("address del 192.0.2.11/32 dev eth0") }, "a virtual host address gone", "the host has lost the address 192.0.2.11", []string{"one", "two"}},
		{func() { l.host.AddAddress("eth0", "192.0.2.10/25") }, "another prefix length of a host address", "the host has got the address 192.0.2.10/25", []string{"one", "two"}},
		{func() { l.host.IP("address del 192.0.2.10/24 dev eth0") }, "the first prefix length gone", "the host has lost the address 192.0.2.10/24", []string{"one", "two"}},
		{func() {
			l.services["two"].IP("neigh add 192.0.2.10 lladdr 02:00:00:00:00:02 dev mv0 nud permanent")
			l.services["two"].IP("neigh del 192.0.2.10 dev mv0")
		}, "the neighbour of an address that is left", "the service's neighbour entry for 192.0.2.10 was removed", []string{"two"}},
		{func() { l.host.IP("address add 198.51.100.9/32 dev lo") }, "an address on the host's lo", "the host has got the address 198.51.100.9", []string{"one", "two"}},
		{func() { l.host.AddAddress("eth0", "2001:db8::10/64 noprefixroute") }, "an IPv6 address of the host", "the host has got the address 2001:db8::10", []string{"one", "two"}},
		{func() {
			l.host.Sysctl("net/ipv6/conf/eth0/use_tempaddr", "2")
			l.host.IP("address change 2001:db8::10/64 dev eth0 noprefixroute mngtmpaddr")
		}, "a temporary address of the host", "the host has got the address 2001:db8:", []string{"one", "two"}},
		{func() { l.host.IP("link set mv-int down") }, "the host's link down", "mv-int was taken down", []string{"one", "two"}},
		{func() { l.host.IP("link set mv-int up") }, "the host's link up", "", nil},
		{func() { l.host.IP("link set mv-int mtu 1400") }, "the host's link with another MTU", "the MTU of mv-int was changed to 1400", []string{"one", "two"}},
		{func() { l.host.IP("link set eth0 mtu 1400") }, "another MTU of the master", "the MTU of eth0 was changed to 1400", []string{"one", "two"}},
		{func() { l.host.IP("link set eth0 address 02:00:00:00:00:98") }, "another MAC of the master", "the MAC of eth0 was changed", []string{"one", "two"}},
		{func() {
			l.lan.IP("link set port down")
			// The kernel tells of it when its link watch gets to it.
			time.Sleep(1200 * time.Millisecond)
		}, "no carrier", "eth0 has lost its carrier: checking", []string{"one", "two"}},
		{func() { l.lan.IP("link set port up") }, "a carrier again", "eth0 has a carrier again", []string{"one", "two"}},
		{func() { l.host.IP("link del mv-int") }, "the host's link gone", "mv-int was deleted", []string{"one", "two"}},
		{func() {
			l.host.IP("link add other type veth peer name end")
			l.host.IP("link set other up")
			l.host.IP("address add 127.0.0.2/8 dev lo")
			l.host.IP("route add 203.0.113.0/24 via 192.0.2.1 dev eth0")
			l.host.IP("route del 203.0.113.0/24")
			l.host.IP("link del other")
		}, "what is none of ours", "", nil},
	} {
		from := len(l.said(0))
		c.do()
		if c.says == "" {
			l.quiet(c.name, from)
			continue
		}
		for _, name := range c.of {
			l.await(c.name, from, name+": ")
			l.await(c.name, from, c.says)
			l.await(c.name, from, "reload "+name)
		}
		l.quietFor(c.name, from, c.of)
	}
}

// TestKernelRoutes: without the routes that the kernel makes with a VIP the LAN has no
// answer from it. Who removes them is noticed; those that go with an address or a link
// say nothing more than that does.
func TestKernelRoutes(t *testing.T) {
	l := newLab(t, "one", "two", "three")
	routes := func(name string) string {
		return l.services[name].IP("route show table all dev mv0") + l.services[name].IP("-6 route show table all dev mv0")
	}
	// Three of a kind for each service, since the fourth would wait.
	for _, c := range []struct{ name, do, says, back string }{
		{"one", "route flush table main", "the service's route to 192.0.2.0/24 was removed by process ", "route add 192.0.2.0/24 dev mv0 proto kernel scope link src 192.0.2.20"},
		{"one", "route flush table local", "the service's route to 192.0.2.20 was removed by process ", "route add local 192.0.2.20 dev mv0 table local proto kernel scope host src 192.0.2.20"},
		{"one", "route del 192.0.2.0/24 dev mv0", "the service's route to 192.0.2.0/24 was removed by process ", "route add 192.0.2.0/24 dev mv0 proto kernel scope link src 192.0.2.20"},
		{"two", "-6 route flush table main", "the service's route to 2001:db8::/64 was removed by process ", "route add 2001:db8::/64 dev mv0 proto kernel metric 256"},
		{"two", "-6 route flush table local", "the service's route to 2001:db8::21 was removed by process ", "route add local 2001:db8::21 dev mv0 table local proto kernel"},
		{"two", "-6 route del 2001:db8::/64 dev mv0", "the service's route to 2001:db8::/64 was removed by process ", "route add 2001:db8::/64 dev mv0 proto kernel metric 256"},
	} {
		from, before := len(l.said(0)), routes(c.name)
		l.services[c.name].IP(c.do)
		if routes(c.name) == before {
			t.Fatalf("%s has removed nothing: %s", c.do, before)
		}
		l.await(c.do, from, c.name+": ")
		l.await(c.do, from, c.says)
		l.await(c.do, from, "reload "+c.name+" broken=true")
		l.services[c.name].IP(c.back)
		l.quiet("one repair of "+c.do, len(l.said(0)))
	}
	one := l.services["one"]
	one.IP("link add other type veth peer name end")
	one.IP("link set other up")
	for name, do := range map[string]func(){
		"another link's": func() {
			one.AddAddress("other", "198.51.100.1/24")
			one.IP("route del 198.51.100.0/24 dev other")
		},
		"the same prefix on another link": func() {
			one.AddAddress("other", "192.0.2.120/24")
			one.IP("route del 192.0.2.0/24 dev other")
		},
		"another address of its link": func() {
			one.AddAddress("mv0", "203.0.113.1/24")
			one.IP("route del 203.0.113.0/24 dev mv0")
			one.IP("address del 203.0.113.1/24 dev mv0")
		},
		"the host's": func() { l.host.IP("route del 192.0.2.0/24 dev eth0") },
		"the host's to a VIP": func() {
			l.host.IP("route add 192.0.2.20/32 dev eth0 proto kernel")
			l.host.IP("route del 192.0.2.20/32 dev eth0 proto kernel")
		},
	} {
		from := len(l.said(0))
		do()
		l.quiet(name, from)
	}
	for _, c := range []struct{ name, do, says string }{
		{"one", "address del 192.0.2.20/24 dev mv0", "VIP 192.0.2.20 was removed from mv0"},
		{"one", "address del 2001:db8::20/64 dev mv0", "VIP 2001:db8::20 was removed from mv0"},
		{"two", "link set mv0 down", "mv0 was taken down"},
		{"three", "link del mv0", "mv0 was deleted"},
	} {
		from := len(l.said(0))
		l.services[c.name].IP(c.do)
		l.await(c.do, from, "reload "+c.name)
		l.quiet("one repair of "+c.do, len(l.said(0)))
		said := strings.Join(l.said(from), "\n")
		if !strings.Contains(said, c.says) {
			t.Errorf("after %s: %s", c.do, said)
		}
		for _, of := range []string{"192.0.2.0/24", "192.0.2.2", "2001:"} {
			if strings.Contains(said, "the service's route to "+of) {
				t.Errorf("after %s, a route that goes with it: %s", c.do, said)
			}
		}
	}
}

// quietFor asserts that no other service is repaired.
func (l *lab) quietFor(event string, from int, concerned []string) {
	l.t.Helper()
	time.Sleep(2 * debounce)
	for _, line := range l.said(from) {
		name, reload := strings.CutPrefix(line, "reload ")
		name, _, _ = strings.Cut(name, " ")
		ok := !reload
		for _, c := range concerned {
			ok = ok || c == name
		}
		if !ok {
			l.t.Errorf("after %s: %q", event, l.said(from))
		}
	}
}

// TestLinkInside: the number of a link below counts in the host's namespace, or is
// none of the host's.
func TestLinkInside(t *testing.T) {
	host, service := testnet.New(t), testnet.New(t)
	testnet.Cable(t, host, "eth0", service, "net1")
	host.IP("link add mv0 link eth0 netns " + filepath.Base(service.Path()) + " type macvlan mode bridge")
	service.IP("link add mv1 link net1 type macvlan mode bridge")
	eth0, err := strconv.Atoi(strings.SplitN(host.IP("-o link show eth0"), ":", 2)[0])
	if err != nil {
		t.Fatal(err)
	}
	host.Do(func() error {
		nsid, err := number(service.Path())
		if err != nil {
			return err
		}
		for name, want := range map[string]int{"mv0": eth0, "mv1": 0} {
			if l, err := linkInside(nsid, name); err != nil || l.lower != want {
				t.Errorf("%s is on link %d, want %d: %v", name, l.lower, want, err)
			}
		}
		return nil
	})
}

// TestMaster: without its master an attachment waits, and is repaired when one
// of that name is there and has a carrier.
func TestMaster(t *testing.T) {
	l := newLab(t, "one")
	from := len(l.said(0))
	l.host.IP("link del eth0")
	l.await("the master's removal", from, "the master eth0 is gone; repaired when it is back")
	// On a busy machine a repair can begin before the kernel has removed all links.
	l.quiet("the master's removal", len(l.said(0)))
	from = len(l.said(0))
	testnet.Cable(t, l.host, "eth0", l.lan, "port")
	l.await("the master's return", from, "one: eth0 is back")
	l.await("the master's return", from, "reload one")
}

// TestLife: namespaces come, are undone, go, and lose their names.
func TestLife(t *testing.T) {
	l := newLab(t, "one")
	// It goes with the namespace.
	l.host.IP("link add witness type veth peer name end netns " + filepath.Base(l.services["one"].Path()))
	from := len(l.said(0))
	l.service("two", 1)
	l.await("a new namespace", from, "status 2 namespaces are watched")
	l.host.IP("route del 192.0.2.21 table local proto 118 metric 100")
	l.await("a new namespace", from, "reload two")

	from = len(l.said(0))
	if err := os.Remove(filepath.Join(l.records, "names", "two")); err != nil {
		t.Fatal(err)
	}
	l.await("the loss of a name", from, "two: the name of the namespace was removed: repairing")
	l.await("the loss of a name", from, "reload two")

	from = len(l.said(0))
	l.record("one", 0, true)
	l.await("the beginning of the end", from, "status 1 namespaces are watched")
	l.host.IP("route del 192.0.2.20 table local proto 118 metric 100")
	l.quiet("the beginning of the end", from)
	if err := os.Remove(filepath.Join(l.records, "one")); err != nil {
		t.Fatal(err)
	}
	l.services["one"].Remove()
	testnet.Eventually(t, "nothing holds the namespace", func() error {
		if out, err := l.host.TryIP("link show witness"); err == nil {
			return fmt.Errorf("its link is there: %s", out)
		}
		return nil
	})
}

// TestSameAgain: whoever breaks what is repaired is given way to, by name; what
// else breaks is repaired at once.
func TestSameAgain(t *testing.T) {
	l := newLab(t, "one")
	const broken = "the host's route to 192.0.2.20 was removed"
	for i := range free {
		from := len(l.said(0))
		l.host.IP("route del 192.0.2.20 table local proto 118 metric 100")
		l.await(fmt.Sprintf("removal %d", i), from, "reload one")
		l.way("one", 0)
	}
	from := len(l.said(0))
	l.host.IP("route del 192.0.2.20 table local proto 118 metric 100")
	l.await("one removal more", from, "one: "+broken+" by process ")
	l.await("one removal more", from, "again, after 3 repairs; the next one is in 1s: find out who does it")
	l.quiet("one removal more", from)
	l.await("a pause", from, "reload one")
	from = len(l.said(0))
	l.host.IP("neigh del 192.0.2.20 dev mv-int")
	l.await("something else", from, "reload one")
}

// reloads counts those of a unit in the keeper's lines from one on.
func (l *lab) reloads(from int, unit string) (n int) {
	for _, line := range l.said(from) {
		if strings.HasPrefix(line, "reload "+unit+" ") {
			n++
		}
	}
	return n
}

// TestThreatKeeper: a service that breaks another thing of the same kind each time is
// given way to, as if it were the same one. Whatever it does, other services are
// repaired at once.
func TestThreatKeeper(t *testing.T) {
	l := newLab(t, "one", "two")
	one := l.services["one"]
	for name, vary := range map[string]func(i int){
		"routes": func(i int) {
			route := fmt.Sprintf("203.0.113.%d dev mv0 proto 118", i)
			one.IP("route add " + route)
			one.IP("route del " + route)
		},
		"MTUs": func(i int) { one.IP(fmt.Sprintf("link set mv0 mtu %d", 1400-i)) },
	} {
		from := len(l.said(0))
		for i := range 20 {
			vary(i)
			time.Sleep(2 * debounce)
		}
		// So many pauses are 15 seconds.
		if n := l.reloads(from, "one"); n > free+4 {
			t.Errorf("%d repairs because of different %s: %q", n, name, l.said(from))
		}
	}
	from := len(l.said(0))
	one.IP("address del 192.0.2.20/24 dev mv0")
	l.await("something else", from, "reload one")

	from = len(l.said(0))
	stop := l.flood(one)
	for _, c := range []struct{ do, says string }{
		{"route del 192.0.2.21 table local proto 118 metric 100", "the host's route to 192.0.2.21 was removed"},
		{"neigh del 192.0.2.21 dev mv-int", "the host's neighbour entry for 192.0.2.21 was removed"},
	} {
		time.Sleep(500 * time.Millisecond)
		at, start := len(l.said(0)), time.Now()
		l.host.IP(c.do)
		l.await("another's breakage", at, "two: "+c.says)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("another's breakage was noticed after %s", took)
		}
	}
	stop()
	if n := l.reloads(from, "one"); n > free+4 {
		t.Errorf("a flood caused %d repairs", n)
	}
	for _, line := range l.said(from) {
		if len(line) > 2000 {
			t.Errorf("a line of %d bytes: %.200s…", len(line), line)
		}
	}
}

// flood makes and removes routes in a namespace until it is told to stop.
func (l *lab) flood(in *testnet.Namespace) (stop func()) {
	dir, ended := l.t.TempDir(), make(chan error, 1)
	go func() {
		out, err := in.Shell("cd " + dir + `
			for verb in add del; do
				for i in $(seq 0 4999); do echo "route $verb 10.0.$((i / 256)).$((i % 256)) dev mv0 proto 118"; done >$verb
			done
			until [ -e stop ]; do ip -batch add; ip -batch del; done`)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		ended <- err
	}()
	return func() {
		if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o600); err != nil {
			l.t.Fatal(err)
		}
		if err := <-ended; err != nil {
			l.t.Fatal(err)
		}
	}
}

// TestIdle: nothing of ours happens, so nothing is to be computed. What is kept in
// memory is measured of the program itself, by TestKeeper in tests/systemd.
func TestIdle(t *testing.T) {
	l := newLab(t, "one", "two")
	time.Sleep(500 * time.Millisecond)
	before := l.ticks()
	for range 100 {
		l.host.IP("route add 203.0.113.0/24 via 192.0.2.1 dev eth0")
		l.host.IP("route del 203.0.113.0/24")
	}
	// Go's runtime has some work of its own.
	if after := l.ticks(); after > before+1 {
		t.Errorf("ticks of CPU time: %d became %d, by 200 changes of others' routes", before, after)
	}
}

// ticks is the CPU time that the keeper has used, in ticks of 10 ms.
func (l *lab) ticks() (sum int) {
	l.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", l.keeper.Process.Pid))
	if err != nil {
		l.t.Fatal(err)
	}
	// Fields of proc_pid_stat(5) that follow the name: user and system time.
	stat := string(data)
	for _, f := range strings.Fields(stat[strings.LastIndex(stat, ")")+2:])[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			l.t.Fatal(err)
		}
		sum += n
	}
	return sum
}

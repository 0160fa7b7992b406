package bench

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

var (
	full     = flag.Bool("full", false, "measure, and write the results; without it only a look is taken that all contenders do what they should")
	rounds   = flag.Int("rounds", 30, "how often each contender is measured")
	only     = flag.String("only", "", "measure some parts alone, and leave the results as they are: service, vips, memory, data, failover, start, keeper, crowd, full, units")
	services = flag.Int("services", 500, "how many services a full host has")
	traces   = flag.Bool("trace", false, "show where the time of one ADD goes")
	draw     = flag.Bool("draw", false, "draw the last run's results again")
)

func TestMain(m *testing.M) {
	flag.Parse()
	// What `make bench` has built, as it is shipped.
	if dir := os.Getenv("BENCH_PATH"); dir != "" {
		os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		os.Exit(m.Run())
	}
	const upstream = "github.com/containernetworking/plugins/plugins/"
	os.Exit(testnet.Plugins(m,
		"macvlan-vip/plugins/macvlan-vip", "macvlan-vip/plugins/hairpin-route",
		upstream+"ipam/static", upstream+"main/macvlan", upstream+"meta/tuning",
		"github.com/containernetworking/cni/cnitool", "macvlan-vip/tests/bench/idle",
		"macvlan-vip/systemd/cmd/systemd-netns-helper", "macvlan-vip/systemd/cmd/systemd-netns-watch"))
}

// TestContenders: every way makes a service reachable, and takes it down; and
// the floor makes what the plugins make, no less.
func TestContenders(t *testing.T) {
	for name, shared := range map[string]bool{"first service": false, "further service": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, vips(3), shared)
			states := map[string][]string{}
			for _, w := range ways() {
				w.prepare(s)
				if w.name == nameArticle {
					// It leaves the host forwarding.
					s.host.Sysctl("net/ipv4/ip_forward", "1")
				}
				states[w.name] = s.verify(w)
			}
			if diff := cmp.Diff(states[nameQuiet], states[nameFloor]); diff != "" {
				t.Errorf("the floor (+) makes another state than the plugins (-):\n%s", diff)
			}
			s.verifyIdle()
		})
	}
}

// TestKept: all that is done to the keeper's services is repaired.
func TestKept(t *testing.T) {
	t.Parallel()
	for _, c := range kept(t, 1, []int{1, 2}) {
		if len(c.Series) == 0 {
			t.Errorf("%s: no figures", c.Title)
		}
	}
}

// TestStart: the kernel's trace of a start has all that the figures are made of.
func TestStart(t *testing.T) {
	f := newTakeover(t)
	f.lonely()
	for _, c := range append(f.starts(1), f.answers(10)) {
		if len(c.Series) == 0 {
			t.Errorf("%s: no figures", c.Title)
		}
		for _, s := range c.Series {
			// On a busy machine the two that the probe is the difference of differ by more.
			if s.Median <= 0 && s.Name != stageProbe {
				t.Errorf("%s: %s: %g ms", c.Title, s.Name, s.Median)
			}
		}
	}
}

// TestFull: a full host is measured in every way, and of services in namespaces nothing
// but the keeper goes on running.
func TestFull(t *testing.T) {
	all := append(crowdedLANs(t, 3, 1, 100*time.Millisecond), crowdedUnits(t, 3, 1)...)
	for _, c := range all {
		if len(c.Series) < 2 {
			t.Errorf("%s: no figures", c.Title)
		}
	}
}

// TestDivide: what a start consists of, by a trace with the threads, the executor and
// the processes beside it that a real one has.
func TestDivide(t *testing.T) {
	const trace = `
  <...>-9 [000] ..... 1.000000: sched_process_exec: filename=/usr/bin/systemctl pid=9 old_pid=9
systemd-5 [000] ..... 1.010000: sched_process_fork: comm=systemd pid=5 child_comm=systemd child_pid=20
  <...>-20 [000] ..... 1.015000: sched_process_exec: filename=/usr/lib/systemd/systemd-executor pid=20 old_pid=20
systemd-6 [001] ..... 1.016000: sched_process_fork: comm=systemd pid=6 child_comm=systemd child_pid=30
  <...>-30 [001] ..... 1.017000: sched_process_exec: filename=/x/systemd-netns-helper pid=30 old_pid=30
  <...>-20 [000] ..... 1.020000: sched_process_exec: filename=/x/systemd-netns-helper pid=20 old_pid=20
  <...>-20 [000] ..... 1.024000: sched_process_exit: comm=systemd-netns-h pid=20 prio=120 group_dead=true
systemd-5 [000] ..... 1.030000: sched_process_fork: comm=systemd pid=5 child_comm=systemd child_pid=21
  <...>-21 [000] ..... 1.040000: sched_process_exec: filename=/x/systemd-netns-helper pid=21 old_pid=21
  <...>-21 [000] ..... 1.041000: sched_process_fork: comm=x pid=21 child_comm=x child_pid=22
  <...>-22 [000] ..... 1.042000: sched_process_fork: comm=x pid=22 child_comm=x child_pid=23
  <...>-23 [000] ..... 1.043000: sched_process_exec: filename=/x/cnitool pid=23 old_pid=23
  <...>-23 [000] ..... 1.063000: sched_process_exit: comm=cnitool pid=23 prio=120
  <...>-22 [000] ..... 1.065000: sched_process_exit: comm=x pid=22 prio=120
  <...>-21 [000] ..... 1.070000: sched_process_exit: comm=x pid=21 prio=120
systemd-5 [000] ..... 1.075000: sched_process_fork: comm=systemd pid=5 child_comm=systemd child_pid=24
  <...>-24 [000] ..... 1.080000: sched_process_exec: filename=/usr/sbin/haproxy pid=24 old_pid=24
haproxy-24 [000] ..s.. 1.090000: inet_sock_set_state: family=AF_INET protocol=IPPROTO_TCP sport=80 dport=4 saddr=10.99.1.1 daddr=10.99.0.5 oldstate=TCP_ESTABLISHED newstate=TCP_CLOSE_WAIT
haproxy-24 [000] ..s.. 1.100000: inet_sock_set_state: family=AF_INET protocol=IPPROTO_TCP sport=80 dport=5 saddr=10.99.1.1 daddr=10.99.0.5 oldstate=TCP_ESTABLISHED newstate=TCP_FIN_WAIT1
`
	got, err := divide(parseTrace(trace), 5, successor{name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for stage, ms := range got {
		got[stage] = math.Round(ms)
	}
	want := map[string]float64{stageWhole: 100, stageSandbox: 20, stageMake: 4, stageAdd: 10, stageCNI: 20, stageHaproxy: 25, stageSystemd: 21}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("got (+), want (-):\n%s", diff)
	}
}

// parts are what a run consists of, in order; the crowd, which leaves the kernel
// much to clear away, is last.
var parts = []struct {
	name    string
	measure func(t *testing.T, rounds int) []Comparison
}{
	{"service", func(t *testing.T, rounds int) []Comparison {
		return append(oneService(t, rounds, false), oneService(t, rounds, true)...)
	}},
	{"vips", manyVIPs},
	{"memory", memory},
	{"data", dataPath},
	{"failover", failover},
	{"start", starts},
	{"keeper", keeper},
	{"crowd", manyServices},
	{"full", func(t *testing.T, rounds int) []Comparison { return fullHost(t, *services, rounds) }},
	{"units", manyUnits},
}

// TestBench is `make bench`.
func TestBench(t *testing.T) {
	if !*full {
		t.Skip("only `make bench` measures")
	}
	last, err := loadResults("results.json")
	if err != nil {
		t.Fatal(err)
	}
	r := &Results{Machine: machine(), Rounds: *rounds}
	for _, part := range parts {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), part.name) {
			continue
		}
		// A test of its own, at whose end all of its hosts go; the kernel clears
		// these away a little later.
		time.Sleep(time.Second)
		t.Run(part.name, func(t *testing.T) {
			done := &Results{Comparisons: part.measure(t, *rounds)}
			done.print(os.Stdout, last)
			r.Comparisons = append(r.Comparisons, done.Comparisons...)
		})
	}
	for _, worse := range r.regressions(last) {
		fmt.Println("WORSE than in the last run:", worse)
	}
	if *only == "" && !t.Failed() {
		publish(t, r)
	}
}

// publish writes what is committed.
func publish(t *testing.T, r *Results) {
	t.Helper()
	if err := errors.Join(r.save("results.json"), r.intoReadme("README.md"), r.figures("../../docs/figures")); err != nil {
		t.Fatal(err)
	}
}

// TestTrace is `make bench-trace`.
func TestTrace(t *testing.T) {
	if !*traces {
		t.Skip("only `make bench-trace` traces")
	}
	trace(t, os.Stdout)
}

// TestDraw draws the figures and writes the README's results again, from the
// results of the last run: `go test ./tests/bench -run TestDraw -draw`.
func TestDraw(t *testing.T) {
	if !*draw {
		t.Skip("only with -draw")
	}
	r, err := loadResults("results.json")
	if err != nil {
		t.Fatal(err)
	}
	publish(t, r)
}

func TestSpread(t *testing.T) {
	if got, want := spread([]float64{4, 1, 3, 2}), (Spread{1.75, 2.5, 3.25, 4}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	fixed, slope := line([]float64{1, 10, 1000}, []float64{7, 25, 2005})
	if math.Abs(fixed-5) > 1e-6 || math.Abs(slope-2) > 1e-6 {
		t.Errorf("line: %g + %g x, want 5 + 2 x", fixed, slope)
	}
}

// TestWorse: what is told of the last run.
func TestWorse(t *testing.T) {
	run := func(less bool, ratio float64) *Results {
		s := Series{Name: "x", Ratio: Spread{ratio * 0.98, ratio, ratio * 1.02, 9}}
		return &Results{Comparisons: []Comparison{{ID: "c", Less: less, Series: []Series{s}}}}
	}
	for _, c := range []struct {
		less      bool
		last, now float64
		worse     int
	}{{true, 1, 1.5, 1}, {true, 1, 1.03, 0}, {true, 1, 0.5, 0}, {false, 1, 0.5, 1}, {false, 1, 1.5, 0}} {
		if got := run(c.less, c.now).regressions(run(c.less, c.last)); len(got) != c.worse {
			t.Errorf("less is better %v, %g after %g: %q", c.less, c.now, c.last, got)
		}
	}
}

// TestPaths: every path leads to its server, and has its MTU.
func TestPaths(t *testing.T) {
	t.Parallel()
	for _, mtu := range []int{1500, 9000} {
		// Without ethtool, which only `make bench` installs.
		paths := newPaths(t, tuning{mtu: mtu})
		for _, p := range ends(paths) {
			p.server.Echo(httpPort, p.addr)
		}
		for _, p := range paths {
			if _, err := p.client.Ask("tcp", p.addr, httpPort); err != nil {
				t.Errorf("%s, MTU %d: %v", p.name, mtu, err)
			}
			// The largest packet passes whole, and none larger does.
			if p.name == pathLoopback {
				continue
			}
			if err := p.client.Ping(p.addr, "-Mdo", "-s", fmt.Sprint(mtu-28)); err != nil {
				t.Errorf("%s, MTU %d: %v", p.name, mtu, err)
			}
			if err := p.client.Ping(p.addr, "-Mdo", "-s", fmt.Sprint(mtu-27)); err == nil {
				t.Errorf("%s: a packet larger than the MTU %d passed", p.name, mtu)
			}
		}
	}
}

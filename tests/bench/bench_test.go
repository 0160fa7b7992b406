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
	full   = flag.Bool("full", false, "measure, and write the results; without it only a look is taken that all contenders do what they should")
	rounds = flag.Int("rounds", 30, "how often each contender is measured")
	only   = flag.String("only", "", "measure some parts alone, and leave the results as they are: service, vips, memory, data, failover, keeper, crowd")
	traces = flag.Bool("trace", false, "show where the time of one ADD goes")
	draw   = flag.Bool("draw", false, "draw the last run's results again")
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
		"github.com/containernetworking/cni/cnitool",
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
	{"keeper", keeper},
	{"crowd", manyServices},
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

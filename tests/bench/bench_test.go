package bench

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

var (
	full   = flag.Bool("full", false, "measure, and write the results; without it only a look is taken that all contenders do what they should")
	rounds = flag.Int("rounds", 30, "how often each contender is measured")
	only   = flag.String("only", "", "measure some parts alone, and leave the results as they are: service, vips, data, failover, crowd")
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
		"github.com/containernetworking/cni/cnitool"))
}

// TestContenders: every way makes a service reachable, and takes it down; and
// the floor makes what the plugins make, no less.
func TestContenders(t *testing.T) {
	for name, shared := range map[string]bool{"first service": false, "further service": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, vips(3), shared)
			states := map[string][]string{}
			for _, w := range []way{wayDefault(), wayNoProbe(), wayOneRound(), wayQuiet(), wayUpstream(), wayFloor(), wayArticle()} {
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
	{"crowd", manyServices},
}

// TestBench is `make bench`.
func TestBench(t *testing.T) {
	if !*full {
		t.Skip("only `make bench` measures")
	}
	r := &Results{Rounds: *rounds}
	for _, part := range parts {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), part.name) {
			continue
		}
		// A test of its own, at whose end all of its hosts go.
		t.Run(part.name, func(t *testing.T) {
			done := part.measure(t, *rounds)
			(&Results{Comparisons: done}).print(os.Stdout)
			r.Comparisons = append(r.Comparisons, done...)
		})
	}
}

package bench

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"macvlan-vip/tests/testnet"
)

const (
	iperfPort = 5201
	httpPort  = 8080
)

// tuning is how the links of all paths but loopback are set. veth comes without
// receive offload, and macvlan has what its master has.
type tuning struct {
	mtu int
	gro bool
}

var tunings = []tuning{{1500, false}, {1500, true}, {9000, true}}

func (u tuning) String() string {
	return fmt.Sprintf("MTU %d, GRO %s", u.mtu, map[bool]string{false: "off", true: "on"}[u.gro])
}

// dataPath measures each path's throughput, request rate and latency.
func dataPath(t *testing.T, rounds int) (all []Comparison) {
	rounds = max(rounds/6, 2)
	var speeds []*samples
	for _, u := range tunings {
		paths := newPaths(t, u)
		for _, p := range ends(paths) {
			p.serve(t)
		}
		figures := throughput(t, rounds, paths)
		speeds = append(speeds, figures)
		c := figures.comparison(fmt.Sprintf("throughput-%d", len(speeds)), "TCP throughput (iperf3), "+u.String(), "Gbit/s", pathBridge)
		c.Less = false
		all = append(all, c)
		if u == tunings[0] {
			all = append(all, requests(t, rounds, paths)...)
		}
	}
	return append(all, fastest(speeds))
}

// fastest takes of each path the tuning that it is fastest with.
func fastest(speeds []*samples) Comparison {
	best := newSamples(speeds[0].names()...)
	for _, name := range best.order {
		best.values[name] = slices.MaxFunc(speeds, func(a, b *samples) int {
			return cmp.Compare(quantile(a.values[name], 0.5), quantile(b.values[name], 0.5))
		}).values[name]
	}
	c := best.comparison("throughput", "TCP throughput (iperf3), each path tuned at its best", "Gbit/s", pathBridge)
	c.Less = false
	c.Goals = noSlower(c, best, 1)
	return c
}

// serve starts the servers at the path's end.
func (p path) serve(t testing.TB) {
	t.Helper()
	start(t, p.server, "iperf3", "-s", "-B", p.addr.String(), "-p", fmt.Sprint(iperfPort))
	config := filepath.Join(t.TempDir(), "haproxy.cfg")
	err := os.WriteFile(config, fmt.Appendf(nil, `
global
	nbthread 1
	maxconn 500
defaults
	mode http
	timeout connect 5s
	timeout client 60s
	timeout server 60s
frontend f
	bind %s:%d
	http-request return status 200 content-type text/plain string "hello"
`, p.addr, httpPort), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	start(t, p.server, "haproxy", "-db", "-f", config)
	for _, port := range []int{iperfPort, httpPort} {
		p.await(t, port)
	}
}

// await waits until the server takes connections.
func (p path) await(t testing.TB, port int) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		err = p.client.NetNS.Do(func(ns.NetNS) error {
			conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(p.addr, uint16(port)).String(), time.Second)
			if err == nil {
				conn.Close()
			}
			return err
		})
		if err == nil {
			return
		}
	}
	t.Fatalf("%s: no server: %v", p.name, err)
}

// pinned keeps client and server off each other's core, where there are two.
func pinned(core int, argv ...string) []string {
	if runtime.NumCPU() < 2 {
		return argv
	}
	return append([]string{"taskset", "-c", fmt.Sprint(core)}, argv...)
}

// start starts a server, which ends with the test.
func start(t testing.TB, n *testnet.Namespace, argv ...string) {
	t.Helper()
	argv = pinned(1, argv...)
	cmd := exec.Command(argv[0], argv[1:]...)
	n.Do(cmd.Start)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// client runs a client and gives what it prints.
func (p path) run(t testing.TB, argv ...string) []byte {
	t.Helper()
	argv = pinned(0, argv...)
	var out bytes.Buffer
	p.client.Do(func() error {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %s: %w: %s", p.name, strings.Join(argv, " "), err, &out)
		}
		return nil
	})
	return out.Bytes()
}

func throughput(t *testing.T, rounds int, paths []path) *samples {
	figures := newSamples()
	inTurn(rounds, paths, func(round int, p path) {
		var report struct {
			End struct {
				Received struct {
					BitsPerSecond float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		out := p.run(t, "iperf3", "-c", p.addr.String(), "-p", fmt.Sprint(iperfPort), "-t", "1", "-J")
		if err := json.Unmarshal(out, &report); err != nil || report.End.Received.BitsPerSecond == 0 {
			t.Fatalf("%s: iperf3: %v: %s", p.name, err, out)
		}
		if round >= 0 {
			figures.add(p.name, report.End.Received.BitsPerSecond/1e9)
		}
	})
	return figures
}

// wrkReport makes wrk print what it has measured as JSON.
const wrkReport = `done = function(summary, latency)
	io.write(string.format('{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "errors": %d}\n', summary.requests, summary.duration,
		latency:percentile(50), latency:percentile(99), summary.errors.connect + summary.errors.read + summary.errors.status + summary.errors.timeout))
end
`

// requests measures HTTP requests to a real haproxy, which answers by itself:
// by one connection, for the latency, and by many, for the rate.
func requests(t *testing.T, rounds int, paths []path) []Comparison {
	report := filepath.Join(t.TempDir(), "report.lua")
	if err := os.WriteFile(report, []byte(wrkReport), 0o600); err != nil {
		t.Fatal(err)
	}
	wrk := func(p path, connections int) (r struct {
		Requests, Microseconds, P50, P99, Errors float64
	}) {
		out := p.run(t, "wrk", "-t1", fmt.Sprintf("-c%d", connections), "-d1s", "-s", report, fmt.Sprintf("http://%s:%d/", p.addr, httpPort))
		at := bytes.IndexByte(out, '{')
		if at < 0 || json.Unmarshal(out[at:], &r) != nil || r.Requests == 0 || r.Errors > 0 {
			t.Fatalf("%s: wrk: %s", p.name, out)
		}
		return r
	}
	rate, median, tail := newSamples(), newSamples(), newSamples()
	inTurn(rounds, paths, func(round int, p path) {
		many, one := wrk(p, 32), wrk(p, 1)
		if round >= 0 {
			rate.add(p.name, many.Requests/many.Microseconds*1e6)
			// Finer than wrk's percentiles, which are whole microseconds.
			median.add(p.name, one.Microseconds/one.Requests)
			tail.add(p.name, one.P99)
		}
	})
	r := rate.comparison("http-rate", "HTTP requests to haproxy by 32 connections (wrk)", "1/s", pathBridge)
	r.Less = false
	r.Goals = noSlower(r, rate, 1)
	l := median.comparison("http-latency", "mean latency of an HTTP request by one connection", "us", pathBridge)
	l.Goals = noSlower(l, median, -1)
	return []Comparison{r, l, tail.comparison("http-latency-p99", "99th percentile of that latency", "us", pathBridge)}
}

// noise is what two runs of the same path may differ by.
const noise = 0.05

// noSlower bounds the hairpin by what a bridge gives, and tells what a macvlan
// costs a LAN peer. sign is -1 where less is better.
func noSlower(c Comparison, figures *samples, sign int) (goals []Goal) {
	for _, pair := range []struct{ key, of, to string }{{"hairpin", pathHairpin, pathBridge}, {"lan", pathLAN, pathOwn}} {
		g := figures.goal(c.ID+"-"+pair.key, fmt.Sprintf("%s: %s / %s", c.Title, pair.of, pair.to), pair.of, pair.to, 0)
		if sign > 0 {
			g.Least = 1 - noise
		} else {
			g.Most = 1 + noise
		}
		goals = append(goals, g)
	}
	return goals
}

package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"macvlan-vip/tests/testnet"
)

// The contenders of a full host.
const (
	nameOwn    = "addresses of the host"
	nameNobody = "a host without services"
	nameSpaces = "network namespaces alone"
)

// fullHost is what a host full of services costs.
func fullHost(t *testing.T, services, rounds int) []Comparison {
	// What the tests before have had.
	kernelMemory(t, 60)
	return crowdedLANs(t, services, max(rounds/15, 1), time.Second)
}

// crowdHost is a host with services, each of which has an IPv4 and an IPv6 VIP.
type crowdHost struct {
	*site
	name string
	n    int
	// wire and mac are the LAN's end of the cable.
	wire *packet.Conn
	mac  net.HardwareAddr
}

// crowdVIPs are those of service i.
func crowdVIPs(i int) (v4, v6 netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 99, byte(1 + i/250), byte(1 + i%250)}), netip.MustParseAddr(fmt.Sprintf("fd99::1:%x", 1+i))
}

// newCrowdHost makes a host whose services the given function attaches to it; spaces is
// the kernel's memory for their namespaces, which it makes before, and attached that for
// all that it does besides, in KiB for each service.
func newCrowdHost(t testing.TB, name string, n int, namespaces bool, attach func(h *crowdHost, i int, service *testnet.Namespace)) (h *crowdHost, spaces, attached float64) {
	t.Helper()
	h = &crowdHost{site: &site{t: t, dir: t.TempDir()}, name: name, n: n}
	h.host, h.lan = testnet.NewHost(t, hostAddr+"/16", "fd99::1:0:1/64")
	h.lan.AddAddress("port", lanAddr+"/16")
	h.lan.Do(func() error {
		link, err := net.InterfaceByName("port")
		if err == nil {
			h.mac = link.HardwareAddr
		}
		return err
	})
	services := make([]*testnet.Namespace, n)
	before := kernelMemory(t, 3)
	for i := range services {
		if namespaces {
			services[i] = testnet.New(t)
		}
	}
	between := kernelMemory(t, 3)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range runtime.NumCPU() {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				attach(h, i, services[i])
			}
		})
	}
	wg.Wait()
	after := kernelMemory(t, 3)
	h.wire = h.lan.WireOf("port", unix.ETH_P_LOOPBACK)
	return h, (between - before) / float64(n), (after - between) / float64(n)
}

// crowdKinds are the hosts that are compared, with how one service is attached.
var crowdKinds = []struct {
	name       string
	namespaces bool
	services   int
	attach     func(h *crowdHost, i int, service *testnet.Namespace)
}{
	{nameNobody, false, 0, nil},
	{nameOwn, false, 1, func(h *crowdHost, i int, _ *testnet.Namespace) {
		v4, v6 := crowdVIPs(i)
		h.host.AddAddress("eth0", v4.String()+"/16")
		h.host.AddAddress("eth0", v6.String()+"/64")
	}},
	{nameUpstream, true, 1, func(h *crowdHost, i int, service *testnet.Namespace) { h.attach(i, service, upstream()) }},
	{nameDefault, true, 1, func(h *crowdHost, i int, service *testnet.Namespace) { h.attach(i, service, ours(quiet)) }},
}

// attach runs a chain's ADD by the bare protocol.
func (h *crowdHost) attach(i int, service *testnet.Namespace, chain []map[string]any) {
	v4, v6 := crowdVIPs(i)
	chain[0]["ipam"] = map[string]any{"type": "static", "addresses": []map[string]string{{"address": v4.String() + "/16"}, {"address": v6.String() + "/64"}}}
	var result []byte
	for _, conf := range chain {
		if result != nil {
			conf["prevResult"] = json.RawMessage(result)
		}
		if out := h.pluginOf("full", conf["type"].(string), "ADD", fmt.Sprintf("full-%d", i), service, conf); len(out) > 0 {
			result = out
		}
	}
}

// leave takes all services of the project's down at once.
func (h *crowdHost) leave() {
	for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
		h.pluginOf("full", plugin, "GC", "", nil, map[string]any{
			"type": plugin, "master": "eth0", "ipam": map[string]string{"type": "static"}, "cni.dev/valid-attachments": []string{},
		})
	}
}

// crowdedLANs is the kernel's memory for n services, and the CPU time for what a LAN
// sends to all of its stations.
func crowdedLANs(t *testing.T, n, rounds int, lasts time.Duration) []Comparison {
	var hosts []*crowdHost
	memory := Comparison{ID: "full-memory", Title: fmt.Sprintf("the kernel's memory for each of %d services", n), Unit: "KiB", Base: nameUpstream, Less: true}
	kib := map[string]float64{}
	for _, kind := range crowdKinds {
		h, spaces, attached := newCrowdHost(t, kind.name, n*kind.services, kind.namespaces, kind.attach)
		hosts = append(hosts, h)
		switch kind.name {
		case nameNobody:
			continue
		case nameDefault:
			t.Cleanup(h.leave)
		case nameUpstream:
			kib[nameSpaces] = spaces
		}
		kib[kind.name] = attached
	}
	for _, name := range []string{nameOwn, nameSpaces, nameUpstream, nameDefault} {
		memory.Series = append(memory.Series, Series{Name: name, Spread: exactly(kib[name]), Ratio: exactly(kib[name] / kib[nameUpstream])})
	}
	all := []Comparison{memory}
	for _, f := range floods {
		used := newSamples()
		inTurn(rounds, hosts, func(round int, h *crowdHost) {
			if cpu := h.flood(f, lasts); round >= 0 {
				used.add(h.name, cpu)
			}
		})
		// What the sender itself takes is taken off.
		for _, h := range slices.Backward(hosts) {
			used.values[h.name] = differences(used.values[h.name], used.values[nameNobody])
		}
		delete(used.values, nameNobody)
		all = append(all, used.comparison("full-"+f.id, fmt.Sprintf("%s, 1,000 a second, %d services", f.title, n), "% of a core", nameUpstream))
	}
	return all
}

// flood is what a LAN sends, frame by frame.
type flood struct {
	id, title string
	frame     func(h *crowdHost, i int) []byte
}

var floods = []flood{
	{"arp", "ARP requests of LAN peers for each other", func(h *crowdHost, _ int) []byte {
		return arpRequest(h.mac, netip.MustParseAddr(lanAddr), netip.MustParseAddr("10.99.200.1"))
	}},
	{"arp-vips", "ARP requests of LAN peers for the VIPs in turn", func(h *crowdHost, i int) []byte {
		v4, _ := crowdVIPs(i % max(h.n, 1))
		return arpRequest(h.mac, netip.MustParseAddr(lanAddr), v4)
	}},
	{"ns", "IPv6 neighbour solicitations for the VIPs in turn", func(h *crowdHost, i int) []byte {
		_, v6 := crowdVIPs(i % max(h.n, 1))
		return solicitation(h.mac, linkLocal, v6)
	}},
	{"multicast", "multicasts to all IPv6 nodes", func(h *crowdHost, _ int) []byte { return allNodes(h.mac) }},
}

// floodRate is how many frames a second are sent.
const floodRate = 1000

// flood sends frames to the host for a while, and gives the CPU time that this takes, in
// per cent of one core.
func (h *crowdHost) flood(f flood, lasts time.Duration) float64 {
	h.t.Helper()
	frames := make([][]byte, max(h.n, 1))
	for i := range frames {
		frames[i] = f.frame(h, i)
	}
	to := &packet.Addr{HardwareAddr: net.HardwareAddr(frames[0][:6])}
	kernel := drained(h.t)
	own := ownTime(h.t)
	for began, sent := time.Now(), 0; time.Since(began) < lasts; time.Sleep(time.Millisecond) {
		for due := int(time.Since(began).Seconds() * floodRate); sent < due; sent++ {
			if _, err := h.wire.WriteTo(frames[sent%len(frames)], to); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	own = ownTime(h.t) - own
	return 100 * float64(own+drained(h.t)-kernel) / float64(lasts)
}

// drained is kernelTime when the kernel has handed on the last copies, which it queues,
// and hardly runs any more.
func drained(t testing.TB) time.Duration {
	t.Helper()
	last := kernelTime(t)
	for round, calm := 0, 0; round < 20 && calm < 2; round++ {
		settled()
		now := kernelTime(t)
		if calm++; now-last > settle/5 {
			calm = 0
		}
		last = now
	}
	return last
}

// ownTime is the CPU time of this process, in whose name the kernel receives what it sends
// through a veth.
func ownTime(t testing.TB) time.Duration {
	t.Helper()
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		t.Fatal(err)
	}
	return time.Duration(own.Utime.Nano() + own.Stime.Nano())
}

// kernelTime is the CPU time of the kernel's threads, which hand on copies.
func kernelTime(t testing.TB) (total time.Duration) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		// Of a thread that has just ended there is neither.
		stat, _ := os.ReadFile(dir + "/stat")
		_, after, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(after); len(fields) < 2 || fields[1] != kthreadd {
			continue
		}
		spent, _ := os.ReadFile(dir + "/schedstat")
		ns, _, _ := strings.Cut(string(spent), " ")
		n, _ := strconv.ParseInt(ns, 10, 64)
		total += time.Duration(n)
	}
	return total
}

// kthreadd is the parent of all threads of the kernel's.
const kthreadd = "2"

// kernelMemory is what the kernel has for itself, in KiB, once it changes little from one
// second to the next, or after so many: it frees late what is removed. Its caches, which it
// gives up when memory is scarce, do not count (proc(5), "/proc/meminfo").
func kernelMemory(t testing.TB, seconds int) float64 {
	t.Helper()
	const little = 512
	last := unreclaimable(t)
	for range seconds {
		time.Sleep(time.Second)
		now := unreclaimable(t)
		if math.Abs(now-last) < little {
			return now
		}
		last = now
	}
	return last
}

func unreclaimable(t testing.TB) (kib float64) {
	t.Helper()
	m := meminfo(t)
	for _, key := range []string{"SUnreclaim", "KernelStack", "PageTables", "VmallocUsed", "Percpu"} {
		kib += m[key]
	}
	return kib
}

func meminfo(t testing.TB) map[string]float64 {
	t.Helper()
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, ":")
		all[key], _ = strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
	}
	return all
}

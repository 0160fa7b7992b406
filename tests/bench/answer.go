package bench

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"macvlan-vip/tests/testnet"
)

const (
	// probeEvery is more than an answer takes, but on a machine that is overloaded.
	probeEvery = 20 * time.Millisecond
	// busyLoops is what keeps a station's CPUs busy: several processes for each of them.
	busyLoops = 8
	// probeWait is how long the conflict probe waits for an answer to its first packet, in
	// milliseconds.
	probeWait = 200
)

// answers is how long a station takes to answer a conflict probe, across a bridge: idle,
// and with more to do than it has CPUs for.
func (f *takeover) answers(probes int) Comparison {
	f.t.Helper()
	f.write(dropIns+"busy@.service", "[Service]\nExecStart=sh -c 'while :; do :; done'\n")
	f.run("systemctl daemon-reload")
	times := newSamples()
	slowest := 0.0
	for _, load := range []string{"idle", fmt.Sprintf("with %d busy loops", busyLoops)} {
		for i := range busyLoops {
			if load != "idle" {
				f.run(fmt.Sprintf("systemctl start busy@%d", i))
			}
		}
		time.Sleep(500 * time.Millisecond)
		for _, protocol := range []string{"ARP", "NDP"} {
			for _, took := range f.probe(protocol, probes) {
				times.add(protocol+", the station "+load, took)
				slowest = max(slowest, took)
			}
		}
	}
	f.run("systemctl stop busy@*")
	c := times.comparison("probe-answer", fmt.Sprintf("from a conflict probe to the station's answer, %d probes", probes), "ms", "ARP, the station idle")
	c.Goals = []Goal{{ID: "probe-slowest", Text: fmt.Sprintf("the conflict probe waits %d ms: the slowest of %d answers, ms", probeWait, 4*probes), Ratio: exactly(slowest), Most: probeWait}}
	return c
}

// probe asks for the machine's address again and again, and gives the milliseconds until
// each answer, by the kernel's clock.
func (f *takeover) probe(protocol string, probes int) (took []float64) {
	f.t.Helper()
	var mac net.HardwareAddr
	f.peer.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = link.HardwareAddr
		}
		return err
	})
	target := netip.MustParseAddr(machineAddr)
	frame := arpRequest(mac, netip.IPv4Unspecified(), target)
	if protocol == "NDP" {
		target = netip.MustParseAddr(machineAddr6)
		frame = solicitation(mac, netip.IPv6Unspecified(), target)
	}
	seen := f.peer.Capture("eth0")
	wire := f.peer.WireOf("eth0", unix.ETH_P_LOOPBACK)
	for range probes {
		if _, err := wire.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
			f.t.Fatal(err)
		}
		time.Sleep(probeEvery)
	}
	time.Sleep(5 * probeEvery)
	var asked time.Time
	for _, c := range seen.Claims() {
		switch {
		case c.Addr != target:
		case c.Kind != testnet.Probe:
			if !asked.IsZero() {
				took = append(took, ms(c.At.Sub(asked)))
			}
			asked = time.Time{}
		case asked.IsZero():
			// A probe before it that is not answered yet goes on counting.
			asked = c.At
		}
	}
	if len(took) == 0 {
		f.t.Fatalf("%s: none of %d probes was answered", protocol, probes)
	}
	return took
}

package cluster

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"macvlan-vip/tests/testnet"
)

// watch is the client, which asks every VIP all the time, by ping and by TCP,
// and remembers when it got an answer.
type watch struct {
	stop func()

	mu      sync.Mutex
	answers map[string][]time.Time
	// other is the last that a ping has printed beside answers.
	other map[string]string
}

// watch begins to ask VIPs that are there; report ends it.
func (l *lab) watch() *watch {
	l.t.Helper()
	w := &watch{answers: map[string][]time.Time{}, other: map[string]string{}}
	var wg sync.WaitGroup
	done := make(chan struct{})
	var pings []*exec.Cmd
	for _, vip := range vips {
		ping, out := l.ping(vip)
		pings = append(pings, ping)
		wg.Go(func() { w.readPing(fmt.Sprintf("ping %s", vip), out) })
		wg.Go(func() { w.connect(l.peer, vip, done) })
	}
	w.stop = sync.OnceFunc(func() {
		close(done)
		for _, ping := range pings {
			_ = ping.Process.Kill()
		}
		wg.Wait()
		for _, ping := range pings {
			_ = ping.Wait()
		}
	})
	l.t.Cleanup(w.stop)
	// An outage is counted from the answer before it.
	l.eventually("the client has an answer from every VIP, in every way", w.answeredAll)
	return w
}

func (w *watch) answeredAll() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.answers) < 2*len(vips) {
		return fmt.Errorf("it has answers to %v", slices.Collect(maps.Keys(w.answers)))
	}
	return nil
}

// ping begins to ask a VIP for an echo every 50 ms.
func (l *lab) ping(vip netip.Addr) (cmd *exec.Cmd, out io.Reader) {
	l.t.Helper()
	l.peer.Do(func() (err error) {
		cmd = exec.Command("ping", "-n", "-D", "-i", "0.05", vip.String())
		if out, err = cmd.StdoutPipe(); err != nil {
			return err
		}
		cmd.Stderr = cmd.Stdout
		return cmd.Start()
	})
	return cmd, out
}

// readPing takes the times of the answers from ping's lines, such as
// "[1719.25] 64 bytes from 192.0.2.10: icmp_seq=1 ttl=64 time=0.1 ms".
func (w *watch) readPing(name string, out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		stamp, rest, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "["), "] ")
		seconds, err := strconv.ParseFloat(stamp, 64)
		if err == nil && strings.Contains(rest, "bytes from") {
			w.answered(name, time.UnixMicro(int64(seconds*1e6)))
			continue
		}
		w.mu.Lock()
		w.other[name] = lines.Text()
		w.mu.Unlock()
	}
}

func (w *watch) connect(from *testnet.Namespace, vip netip.Addr, done chan struct{}) {
	_ = from.NetNS.Do(func(ns.NetNS) error {
		for {
			select {
			case <-done:
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(vip, 80).String(), 200*time.Millisecond)
			if err == nil {
				w.answered("connect "+vip.String(), time.Now())
				conn.Close()
			}
		}
	})
}

func (w *watch) answered(name string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[name] = append(w.answers[name], at)
}

// outage is a time without answers: from the last one before it to the first
// one after it.
type outage struct{ from, to time.Time }

func (o outage) seconds() float64 { return o.to.Sub(o.from).Seconds() }
func (o outage) String() string   { return fmt.Sprintf("%.2f s", o.seconds()) }

// longest is the longest outage of each way to ask since a time.
func (w *watch) longest(since time.Time) map[string]outage {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := map[string]outage{}
	for name, times := range w.answers {
		var o outage
		for i := 1; i < len(times); i++ {
			if times[i].Before(since) {
				continue
			}
			if times[i].Sub(times[i-1]) > o.to.Sub(o.from) {
				o = outage{times[i-1], times[i]}
			}
		}
		found[name] = o
	}
	return found
}

// report stops the client, and tells how long it was without each VIP.
func (w *watch) report(t testing.TB, what string, since time.Time) (worst outage) {
	t.Helper()
	// The VIP is back; let the client see it, too.
	time.Sleep(500 * time.Millisecond)
	w.stop()
	stopped := time.Now()
	outages := w.longest(since)
	var names []string
	for name := range outages {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) != 2*len(vips) {
		t.Errorf("%s: answers came to %v only", what, names)
	}
	for _, name := range names {
		o := outages[name]
		t.Logf("%s: %s: no answer for %s", what, name, o)
		if last := w.answers[name][len(w.answers[name])-1]; stopped.Sub(last) > 5*time.Second {
			t.Errorf("%s: %s: no answer since %s: %s", what, name, last, w.other[name])
		}
		if o.seconds() > worst.seconds() {
			worst = o
		}
	}
	return worst
}

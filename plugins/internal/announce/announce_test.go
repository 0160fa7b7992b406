package announce

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"macvlan-vip/tests/testnet"
)

func writeSysctl(key, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o644)
}

// A VIP moves to another host: whoever holds the old MAC, however fresh and
// sure of it, has the new one after a single round.
func TestAnnounceReplacesStaleNeighbours(t *testing.T) {
	t.Parallel()
	const old = "02:00:00:00:00:01"
	for _, state := range []string{"reachable", "stale", "delay"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			mv0, peer := l.service(l.host()), l.host()
			peer.hold(addrs("192.0.2.9 2001:db8::9")...)
			all := many(100)
			var commands []string
			for _, a := range all {
				commands = append(commands, fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud %s", a, old, state))
			}
			peer.ip(commands...)
			if err := mv0.open(all).Announce(t.Context(), all); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				var bad []string
				for _, line := range strings.Split(peer.show("neigh", "show", "dev", "eth0"), "\n") {
					a, err := netip.ParseAddr(strings.SplitN(line, " ", 2)[0])
					if err == nil && !a.IsLinkLocalUnicast() && !strings.Contains(line, mv0.mac.String()) {
						bad = append(bad, line)
					}
				}
				if len(bad) > 0 {
					return fmt.Errorf("%d entries have not %s, such as %s", len(bad), mv0.mac, bad[0])
				}
				return nil
			})
		})
	}
}

// An announcement tells nothing to those who did not want to know.
func TestAnnounceMakesNoNeighbours(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0, peer := l.service(l.host()), l.host()
	peer.hold(addrs("192.0.2.9 2001:db8::9")...)
	all := addrs("192.0.2.1 2001:db8::1 192.0.2.2 2001:db8::2")
	peer.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:01 dev eth0 nud stale", "neigh add 2001:db8::2 lladdr 02:00:00:00:00:01 dev eth0 nud stale")
	if err := mv0.open(all).Announce(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if n := strings.Count(peer.show("neigh", "show"), mv0.mac.String()); n != 2 {
			return fmt.Errorf("%d of 2 entries changed", n)
		}
		return nil
	})
	for _, a := range all[:2] {
		if got := peer.show("neigh", "show", a.String()); got != "" {
			t.Errorf("new entry %s", got)
		}
	}
}

// eventually waits for what takes the kernel a moment.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	testnet.Eventually(t, "the kernel is through", check)
}

func TestAnnounceOnAClosedConn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0 := l.service(l.host())
	all := addrs("192.0.2.1")
	c := mv0.open(all)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Announce(t.Context(), all); err == nil {
		t.Error("no error from a closed Conn")
	}
}

// A transmit queue much shorter than a round drops most of it, and says so.
func TestAnnounceThroughAFullQueue(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mv0, peer := l.service(l.host()), l.host()
	if out, err := mv0.tc("qdisc add dev mv0 root tbf rate 10mbit burst 2k limit 3k"); err != nil {
		t.Skipf("no queue of that kind: %v: %s", err, out)
	}
	frames := peer.Capture(peer.link)
	all := many(400)
	if err := mv0.open(all).Announce(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		got := map[string]bool{}
		for _, f := range frames.Frames() {
			got[announced(f)] = true
		}
		delete(got, "")
		if len(got) != len(all) {
			return fmt.Errorf("%d of %d addresses were announced", len(got), len(all))
		}
		return nil
	})
}

func BenchmarkAnnounce1000(b *testing.B) {
	l := newLab(b)
	mv0 := l.service(l.host())
	all := many(1000)
	c := mv0.open(all)
	for b.Loop() {
		if err := c.Announce(b.Context(), all); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	l := newLab(b)
	mv0 := l.service(l.host())
	ifi := mv0.ifi()
	mv0.Do(func() error {
		for b.Loop() {
			c, err := Open(ifi, many(2))
			if err != nil {
				return err
			}
			b.StopTimer()
			if err := c.Close(); err != nil {
				return err
			}
			b.StartTimer()
		}
		return nil
	})
}

func BenchmarkClose(b *testing.B) {
	l := newLab(b)
	mv0 := l.service(l.host())
	for b.Loop() {
		b.StopTimer()
		c := mv0.open(many(2))
		b.StartTimer()
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkProbe1000 shows what probing for 1,000 addresses costs, apart from
// what is waited.
func BenchmarkProbe1000(b *testing.B) {
	l := newLab(b)
	mv0 := l.service(l.host())
	all := many(1000)
	c := mv0.open(all)
	for b.Loop() {
		if _, err := c.Probe(b.Context(), all, ProbeConfig{Count: 1}); err != nil {
			b.Fatal(err)
		}
	}
}

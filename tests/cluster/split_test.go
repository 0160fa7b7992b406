package cluster

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

// pair makes a cluster of two hosts out of the page's file for three, with the
// cluster's own link alone, which is the set-up that a split brain wants: each
// host goes on by itself when it does not see the other.
func pair(t testing.TB) *lab {
	t.Helper()
	return newPacemaker(t, 2, func(file string) string {
		var kept []string
		for line := range strings.Lines(file) {
			if !strings.Contains(line, "ring1_addr") {
				kept = append(kept, line)
			}
		}
		file = strings.Join(kept, "")
		if from := strings.Index(file, "    node {\n        name: host3"); from >= 0 {
			to := from + strings.Index(file[from:], "    }\n") + len("    }\n")
			file = file[:from] + file[to:]
		}
		file = strings.Replace(file, "provider: corosync_votequorum", "provider: corosync_votequorum\n    two_node: 1", 1)
		return strings.Replace(file, "stonith-enabled=false", "stonith-enabled=false no-quorum-policy=ignore", 1)
	})
}

// TestSplitBrain parts two hosts that have no fencing, in every way.
func TestSplitBrain(t *testing.T) {
	if os.Getenv("SOAK") == "" {
		t.Skip("takes four minutes: make soak")
	}
	l := pair(t)
	holder := l.holder()
	l.refused(holder, l.otherThan(holder))
	l.unasked(holder, l.otherThan(holder))
	holder = l.holder()
	l.parted(l.otherThan(holder))
	holder = l.holder()
	l.diesLater(holder, l.otherThan(holder))
}

func (l *lab) otherThan(h *host) *host { return l.hosts[2-h.number] }

// refused cuts the cluster's link while the LAN is whole: the host that takes
// over asks the LAN, hears the holder, and leaves it alone.
func (l *lab) refused(holder, other *host) {
	w := l.watch()
	cut := time.Now()
	l.cutLink(other)
	l.alone(other)
	line, at := other.said("systemd-netns", " is in use by "+holder.mac(), cut)
	l.t.Logf("%s, %.1f s after the cut: %s", other, at.Sub(cut).Seconds(), line)
	for _, vip := range vips {
		if !strings.Contains(line, vip.String()) {
			l.t.Errorf("the line does not name %s: %s", vip, line)
		}
	}
	l.eventually("Pacemaker tells of the failed start", func() error {
		if out := other.run("crm_mon -1 -f"); !strings.Contains(out, "vips start on "+other.String()) {
			return errors.New(out)
		}
		return nil
	})
	l.onlyHolder(holder)
	l.heal(other)
	l.onlyHolder(holder)
	if worst := w.report(l.t, "a refused start", cut); worst.seconds() > 3 {
		l.t.Errorf("the client was without a VIP for %s", worst)
	}
}

// onlyHolder asserts that nothing has moved.
func (l *lab) onlyHolder(want *host) {
	l.t.Helper()
	if got := l.holder(); got != want {
		l.t.Fatalf("%s holds the VIPs, not %s", got, want)
	}
}

// cutLink takes a host's cluster link away, and alone waits until the host has
// noticed.
func (l *lab) cutLink(h *host) { l.switch_.IP("link set " + h.ringPort() + " nomaster") }

func (l *lab) alone(h *host) {
	l.t.Helper()
	l.eventually(h.String()+" is alone", func() error {
		if out := h.run("crm_mon -1"); !strings.Contains(out, "Online: [ "+h.String()+" ]") {
			return errors.New(out)
		}
		return nil
	})
}

// heal gives the link back, waits until the hosts are one cluster again, and
// has it forget the failures.
func (l *lab) heal(h *host) {
	l.t.Helper()
	l.wire("ring", h.ringPort())
	l.online(2)
	h.run("crm_resource --cleanup")
}

// unasked is the same with addressConflict: ignore.
func (l *lab) unasked(holder, other *host) {
	set := func(from, to string) {
		file := block(l.t, "Every host: the service", "json")
		other.write("etc/cni/net.d/haproxy.conflist", strings.Replace(file, from, to, 1))
	}
	set(`"master": "eth0",`, `"master": "eth0", "addressConflict": "ignore",`)
	defer set("", "")
	was := l.entry(vip4)
	l.cutLink(other)
	l.both()
	mac := other.mac()
	l.eventually("the client is moved to the second", func() error {
		for _, vip := range vips {
			if entry := l.entry(vip); !strings.Contains(entry, mac) {
				return fmt.Errorf("it knows %s by %q", vip, entry)
			}
		}
		return nil
	})
	l.t.Logf("the client knew the VIP by %s, and by %s since the second holder announced it", was, mac)
	w := l.watch()
	at := time.Now()
	l.heal(other)
	l.t.Logf("Pacemaker left the VIPs to %s", l.holder())
	w.report(l.t, "two holders, after the hosts see each other again", at)
}

// entry is how the client knows an address.
func (l *lab) entry(addr fmt.Stringer) string {
	return strings.TrimSpace(l.peer.IP("neigh show " + addr.String()))
}

// both waits until both hosts have the service.
func (l *lab) both() {
	l.t.Helper()
	l.eventually("both hosts have the VIPs", func() error {
		if holders := l.holders(); len(holders) != 2 {
			return fmt.Errorf("haproxy runs on %v", holders)
		}
		return nil
	})
}

// parted pulls the cable between two switches: each host has half of the LAN,
// where nobody else answers for the VIPs.
func (l *lab) parted(other *host) {
	far := testnet.New(l.t)
	l.plug(far, "eth0", "far", "lan2", "02:00:5e:00:53:06", "192.0.2.6/24", "2001:db8::6/64")
	l.wire("lan2", other.port())
	l.cutLink(other)
	l.both()
	for _, vip := range vips {
		l.eventually("each half of the LAN has the VIPs", func() error {
			return errors.Join(far.Ping(vip), l.peer.Ping(vip))
		})
	}
	l.t.Log("both halves of the LAN reach the VIPs, on a host each")
	w := l.watch()
	l.wire("lan", other.port(), "far")
	at := time.Now()
	// What ends it is the cluster manager alone.
	time.Sleep(2 * time.Second)
	if holders := l.holders(); len(holders) != 2 {
		l.t.Errorf("haproxy runs on %v while the hosts do not see each other", holders)
	}
	l.heal(other)
	last := l.holder()
	l.t.Logf("Pacemaker left the VIPs to %s", last)
	w.report(l.t, "the LAN is whole again", at)
	l.eventually("the other half's client reaches the VIPs, too", func() error {
		var errs []error
		for _, vip := range vips {
			body, err := far.Page(vip.String())
			if err == nil && body != answer {
				err = fmt.Errorf("got %q", body)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// diesLater cuts the power of the holder after the other has been refused: it
// gets another chance when its failure is forgotten.
func (l *lab) diesLater(holder, other *host) {
	cut := time.Now()
	l.cutLink(other)
	other.said("systemd-netns", " is in use by "+holder.mac(), cut)
	w := l.watch()
	at := holder.powerCut()
	l.onlyHolder(other)
	worst := w.report(l.t, "power cut after a refused start", at)
	l.t.Logf("%s had it after %s, with failure-timeout=30s", other, worst)
}

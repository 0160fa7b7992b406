package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/page"
)

// doc is the page that the tests take configuration and commands from.
const doc = "../../docs/clusters.md"

func blocks(t testing.TB, heading, language string) []string {
	t.Helper()
	blocks, err := page.Blocks(doc, heading, language)
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

func block(t testing.TB, heading, language string) string {
	t.Helper()
	return blocks(t, heading, language)[0]
}

// haproxyConfig is the same on every host: it is by the drop-in that the
// addresses are there where haproxy runs.
const haproxyConfig = `
defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
frontend vips
	bind 192.0.2.10:80
	bind [2001:db8::10]:80
	default_backend peer
backend peer
	server peer 192.0.2.5:8080
`

// prepare gives a host what is the same under every cluster manager.
func prepare(h *host) {
	h.write("etc/hostname", h.String()+"\n")
	// What Debian starts as soon as it is installed, before it is set up.
	for _, unit := range []string{"haproxy", "corosync", "pacemaker", "keepalived"} {
		if err := h.Systemctl("disable", unit); err != nil {
			h.lab.t.Fatal(err)
		}
	}
	h.write("etc/haproxy/haproxy.cfg", haproxyConfig)
	h.write("etc/cni/net.d/haproxy.conflist", block(h.lab.t, "Every host: the service", "json"))
}

// newPacemaker is a cluster that was set up as the page says, and has started
// haproxy somewhere.
func newPacemaker(t testing.TB, hosts int, change func(file string) string) *lab {
	t.Helper()
	l := newLab(t, hosts, prepare)
	conf := change(block(t, "Every host: Corosync", "text"))
	l.hosts[0].shell(block(t, "One host: the key", "sh"))
	key, err := l.hosts[0].Read("etc/corosync/authkey")
	if err != nil {
		t.Fatal(err)
	}
	l.everywhere(func(h *host) {
		h.shell(block(t, "Every host: the service", "sh"))
		h.write("etc/corosync/corosync.conf", conf)
		h.write("etc/corosync/authkey", key)
		h.shell(block(t, "Every host: start", "sh"))
	})
	l.online(hosts)
	l.hosts[0].shell(change(block(t, "One host: the resources", "sh")))
	l.holder()
	if status := l.hosts[0].run("crm_mon -1 -f"); strings.Contains(status, "Failed Resource Actions") {
		for _, h := range l.hosts {
			t.Logf("%s: %s", h, h.run("journalctl --no-pager -o short-precise -u systemd-netns@haproxy"))
		}
		t.Errorf("a start has failed that nothing stood in the way of: %s", status)
	}
	return l
}

// online waits until the cluster has so many hosts.
func (l *lab) online(hosts int) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("%d hosts are online", hosts), func() error {
		for _, h := range l.hosts {
			out, err := h.Run("crm_mon", "-1")
			if err != nil {
				return err
			}
			_, list, _ := strings.Cut(out, "Online: [")
			list, _, _ = strings.Cut(list, "]")
			if len(strings.Fields(list)) != hosts {
				return fmt.Errorf("%s", out)
			}
		}
		return nil
	})
}

// TestPacemaker is a cluster of three, of which one after the other has the
// service.
func TestPacemaker(t *testing.T) {
	l := newPacemaker(t, 3, func(file string) string { return file })
	holder := l.holder()
	holder = l.move(holder)
	l.survive(holder)
}

// move sets the holder on standby and back.
func (l *lab) move(from *host) (to *host) {
	w := l.watch()
	at := time.Now()
	from.run("crm_standby -v on")
	l.eventually(from.String()+" has let go", func() error {
		if from.active() {
			return errors.New("it has not")
		}
		return nil
	})
	to = l.holder()
	worst := w.report(l.t, "a move by hand", at)
	l.t.Logf("from %s to %s: the client was without a VIP for %s at most", from, to, worst)
	if left := from.run("ip netns list"); left != "" {
		l.t.Errorf("%s still has %s", from, left)
	}
	from.run("crm_standby -D")
	l.online(len(l.hosts))
	if now := l.holder(); now != to {
		l.t.Errorf("the service went to %s when %s was ready again", now, from)
	}
	return to
}

// survive cuts the holder's power, and gives it back.
func (l *lab) survive(dead *host) {
	w := l.watch()
	time.Sleep(500 * time.Millisecond)
	old := l.entry(vip4)
	at := dead.powerCut()
	to := l.holder()
	worst := w.report(l.t, "a power cut", at)
	_, seen := to.said("corosync", "A new membership", at)
	l.t.Logf("from %s to %s: Corosync had noticed after %.2f s", dead, to, seen.Sub(at).Seconds())
	to.takeover(at).log(l.t)
	l.t.Logf("the client knew the VIP by %q, and now does by %q", old, l.entry(vip4))
	if worst.seconds() > 60*float64(to.Slowness()) {
		l.t.Errorf("the client was without a VIP for %s", worst)
	}
	w = l.watch()
	back := time.Now()
	dead.powerOn()
	l.online(len(l.hosts))
	if now := l.holder(); now != to {
		l.t.Errorf("the service went to %s when %s came back", now, dead)
	}
	if worst := w.report(l.t, "the dead host is back", back); worst.seconds() > 3 {
		l.t.Errorf("the client was without a VIP for %s", worst)
	}
	if dead.active() {
		l.t.Errorf("%s has started haproxy as it came back", dead)
	}
}

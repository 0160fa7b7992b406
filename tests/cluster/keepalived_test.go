package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// newKeepalived is two hosts as the page says, of which one is master.
func newKeepalived(t testing.TB) *lab {
	t.Helper()
	l := newLab(t, 2, func(h *host) {
		prepare(h)
		blocks := blocks(h.lab.t, "keepalived", "text")
		h.write("etc/keepalived/keepalived.conf", blocks[0])
		h.write("etc/systemd/system/vips-haproxy.service", blocks[1])
	})
	l.everywhere(func(h *host) { h.shell(block(t, "keepalived", "sh")) })
	return l
}

// TestKeepalived moves the service by VRRP.
func TestKeepalived(t *testing.T) {
	l := newKeepalived(t)
	for _, h := range l.hosts {
		_, err := h.Run("keepalived", "--config-test")
		_, complaints, found := strings.Cut(fmt.Sprint(err), ": exit status 5: ")
		if !found {
			t.Errorf("keepalived --config-test: %v", err)
		}
		for complaint := range strings.Lines(complaints) {
			if !strings.Contains(complaint, "No VIP specified") {
				t.Errorf("keepalived --config-test: %v", err)
			}
		}
	}
	holder := l.holder()
	holder = l.stopMaster(holder)
	l.masterDies(holder)
}

// stopMaster stops keepalived on the master, and starts it again.
func (l *lab) stopMaster(from *host) (to *host) {
	w := l.watch()
	at := time.Now()
	from.run("systemctl stop keepalived")
	l.eventually(from.String()+" has let go", func() error {
		if from.active() {
			return errors.New("it has not")
		}
		return nil
	})
	to = l.holder()
	l.t.Logf("from %s to %s: the client was without a VIP for %s at most", from, to, w.report(l.t, "a move by hand", at))
	from.run("systemctl start keepalived")
	_, _ = from.said("Keepalived_vrrp", "Entering BACKUP STATE", at)
	if now := l.holder(); now != to {
		l.t.Errorf("the service went to %s when %s was ready again", now, from)
	}
	return to
}

// masterDies cuts the master's power, and gives it back.
func (l *lab) masterDies(dead *host) {
	w := l.watch()
	time.Sleep(500 * time.Millisecond)
	at := dead.powerCut()
	to := l.holder()
	worst := w.report(l.t, "a power cut", at)
	to.takeover(at).log(l.t)
	if worst.seconds() > 60*float64(to.Slowness()) {
		l.t.Errorf("the client was without a VIP for %s", worst)
	}
	w = l.watch()
	back := time.Now()
	dead.powerOn()
	_, _ = dead.said("Keepalived_vrrp", "Entering BACKUP STATE", back)
	if now := l.holder(); now != to {
		l.t.Errorf("the service went to %s when %s came back", now, dead)
	}
	if worst := w.report(l.t, "the dead host is back", back); worst.seconds() > 3 {
		l.t.Errorf("the client was without a VIP for %s", worst)
	}
	if out := dead.run("systemctl show --value --property=ActiveState vips-haproxy"); strings.TrimSpace(out) != "inactive" {
		l.t.Errorf("vips-haproxy is %s on %s", out, dead)
	}
}

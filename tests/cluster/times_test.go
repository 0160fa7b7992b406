package cluster

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// unitTime is when a unit was last in a state, by a property of its such as
// ActiveEnter.
func (h *host) unitTime(unit, property string) time.Time {
	h.lab.t.Helper()
	out := h.shell("systemctl show --value --property=" + property + "TimestampMonotonic " + unit + "; cat /proc/uptime")
	now := time.Now()
	var microseconds, uptime float64
	if _, err := fmt.Sscan(out, &microseconds, &uptime); err != nil {
		h.lab.t.Fatalf("%s: %s of %s: %v: %s", h, property, unit, err, out)
	}
	return now.Add(time.Duration((microseconds/1e6 - uptime) * 1e9))
}

// ahead is how far the host's clock is ahead of this machine's.
func (h *host) ahead() time.Duration {
	h.lab.t.Helper()
	out := h.run("date +%s.%N")
	now := time.Now()
	seconds, err := strconv.ParseFloat(out, 64)
	if err != nil {
		h.lab.t.Fatalf("%s: date: %v", h, err)
	}
	return time.UnixMicro(int64(seconds * 1e6)).Sub(now)
}

// said waits for a line in the journal since a time, and tells when it came.
func (h *host) said(identifier, text string, since time.Time) (line string, at time.Time) {
	h.lab.t.Helper()
	ahead := h.ahead()
	h.lab.eventually(fmt.Sprintf("%s's journal has %q", h, text), func() error {
		journal := h.run("journalctl --no-pager -o short-unix -t " + identifier)
		for line = range strings.Lines(journal) {
			stamp, rest, _ := strings.Cut(line, " ")
			seconds, err := strconv.ParseFloat(stamp, 64)
			at = time.UnixMicro(int64(seconds * 1e6)).Add(-ahead)
			if _, line, _ = strings.Cut(rest, ": "); err == nil && at.After(since) && strings.Contains(line, text) {
				return nil
			}
		}
		return errors.New(journal)
	})
	return strings.TrimSpace(line), at
}

// takeover is how the time that a client is without its VIP comes about.
type takeover struct {
	// detection is the time from the power cut until the cluster manager starts
	// the service elsewhere.
	detection time.Duration
	// shim is the time until the VIPs are up and announced, service that until
	// haproxy says that it is ready.
	shim, service time.Duration
}

func (h *host) takeover(since time.Time) takeover {
	h.lab.t.Helper()
	began := h.unitTime("systemd-netns@haproxy", "InactiveExit")
	up := h.unitTime("systemd-netns@haproxy", "ActiveEnter")
	ready := h.unitTime("haproxy", "ActiveEnter")
	return takeover{began.Sub(since), up.Sub(began), ready.Sub(up)}
}

func (x takeover) log(t testing.TB) {
	t.Helper()
	t.Logf("the manager starts the service after %.2f s; VIPs are up %.2f s later, and haproxy %.2f s later still", x.detection.Seconds(), x.shim.Seconds(), x.service.Seconds())
}

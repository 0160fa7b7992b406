package cluster

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unitTime is when a unit was last in a state, by a property of its such as
// ActiveEnter. Every machine here has the same clocks.
func (h *host) unitTime(unit, property string) time.Time {
	h.lab.t.Helper()
	value := h.run("systemctl show --value --property=" + property + "TimestampMonotonic " + unit)
	microseconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		h.lab.t.Fatalf("%s: %s of %s: %v", h, property, unit, err)
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &boot); err != nil {
		h.lab.t.Fatal(err)
	}
	return time.Now().Add(time.Duration(microseconds)*time.Microsecond - time.Duration(boot.Nano()))
}

// said waits for a line in the journal since a time, and tells when it came.
func (h *host) said(identifier, text string, since time.Time) (line string, at time.Time) {
	h.lab.t.Helper()
	eventually(h.lab.t, fmt.Sprintf("%s's journal has %q", h, text), func() error {
		journal := h.run("journalctl --no-pager -o short-unix -t " + identifier)
		for line = range strings.Lines(journal) {
			stamp, rest, _ := strings.Cut(line, " ")
			seconds, err := strconv.ParseFloat(stamp, 64)
			at = time.UnixMicro(int64(seconds * 1e6))
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

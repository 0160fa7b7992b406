package cni

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// failures are what each call could fail with.
var failures = map[string]unix.Errno{
	"sendto": unix.ENOBUFS, "mkdirat": unix.ENOSPC, "openat": unix.ENOSPC, "write": unix.ENOSPC, "renameat": unix.ENOSPC,
	"symlinkat": unix.ENOSPC, "unlinkat": unix.EPERM, "flock": unix.ENOLCK, "execve": unix.EPERM,
}

// TestFailedChange has each change of ADD and DEL of both plugins fail. After
// an ADD that failed everything is as before, at once, or, if the roll-back
// was hit as well, after DEL; and the next ADD works. After a DEL that failed
// the next one finishes.
func TestFailedChange(t *testing.T) {
	everyVerb(t, []string{"ADD", "DEL"}, func(t *testing.T, b *breaker) {
		points, missed, failed := 0, 0, 0
		b.each(func(_ int, at change) {
			before, service := b.state(), b.service.Snapshot()
			o, hit := b.inject(at, tampering{fail: failures[at.call]})
			points++
			if !hit {
				missed++
			}
			when := "failed at " + at.String() + ": " + o.String()
			if !o.ok() {
				failed++
				b.properError(when, o)
			}
			if !o.ok() && b.verb == "ADD" {
				// A lock that could not be taken is nobody's to remove.
				if !strings.Contains(o.err().Msg, "while undoing") && at.call != "flock" {
					b.mustBe(before, when)
				}
				if diff := lines(service, b.service.Snapshot()); diff != "" {
					t.Errorf("%s: the service's netns is another: %s", when, diff)
				}
				if next := b.run(b.plugin, "ADD", b.input()); !next.ok() {
					t.Errorf("%s: the next ADD: %s", when, next)
				}
			}
			b.down()
			b.nothing(when)
		})
		t.Logf("%d of %d failed", failed, points)
		b.mostlyHit(points, missed)
	})
}

// properError wants code and message. That a call failed which the verb can do
// without, such as removing an empty folder, is no reason to fail.
func (b *breaker) properError(when string, o outcome) {
	b.t.Helper()
	if e := o.err(); o.status != 1 || e.Code == 0 || e.Msg == "" {
		b.t.Errorf("%s: not an error as the specification has it", when)
	}
}

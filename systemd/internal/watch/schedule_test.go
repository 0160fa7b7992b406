package watch

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSchedule: what breaks for the first time is repaired at once, what breaks
// again and again after pauses that grow, and what has been calm is forgotten.
func TestSchedule(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSchedule()
	repair := func(what string) time.Duration {
		s.add(finding{namespace: "web", kind: what, what: what}, now)
		wait := s.next().Sub(now)
		now = now.Add(wait)
		if due := s.start(now, 4); len(due["web"].found) != 1 || due["web"].found[0].what != what {
			t.Fatalf("due after %s: %v", wait, due)
		}
		s.done("web", true, now)
		return wait
	}
	for i, want := range []time.Duration{debounce, debounce, debounce, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
		if got := repair("a route was removed"); got != want {
			t.Errorf("repair %d waits %s, want %s", i, got, want)
		}
	}
	if got := repair("a link was deleted"); got != debounce {
		t.Errorf("something else waits %s", got)
	}
	now = now.Add(2 * calm)
	if got := repair("a route was removed"); got != debounce {
		t.Errorf("after some calm it waits %s", got)
	}
	h := habit{times: 100}
	if got := h.pause(); got != longestPause {
		t.Errorf("the longest pause is %s", got)
	}
}

// TestScheduleCauses: what goes with a link is no habit of who breaks the link, and
// does not hurry its repair.
func TestScheduleCauses(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSchedule()
	link := finding{namespace: "web", kind: "down", what: "a link was taken down", link: true}
	entry := finding{namespace: "web", kind: "entry", what: "an entry was removed"}
	repair := func(found ...finding) time.Duration {
		for _, f := range found {
			s.add(f, now)
		}
		wait := s.next().Sub(now)
		now = now.Add(wait)
		s.start(now, 1)
		s.done("web", true, now)
		return wait
	}
	for i, want := range []time.Duration{debounce, debounce, debounce, time.Second, 2 * time.Second} {
		found := []finding{link, entry}
		if i%2 == 1 {
			found = []finding{entry, link}
		}
		if got := repair(found...); got != want {
			t.Errorf("repair %d waits %s, want %s", i, got, want)
		}
	}
	if got := repair(entry); got != debounce {
		t.Errorf("the entry alone waits %s", got)
	}
}

// TestScheduleWhileRunning: what happens during a repair makes one more.
func TestScheduleWhileRunning(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSchedule()
	s.add(finding{namespace: "web", what: "a"}, now)
	now = now.Add(debounce)
	s.start(now, 4)
	s.add(finding{namespace: "web", what: "b"}, now)
	s.add(finding{namespace: "web", what: "b"}, now)
	if next := s.next(); !next.IsZero() {
		t.Errorf("two at once: %s", next)
	}
	s.done("web", true, now)
	now = now.Add(debounce)
	if due := s.start(now, 4); len(due["web"].found) != 1 || !due["web"].found[0].note {
		t.Errorf("due: %v", due)
	}
	s.done("web", true, now)
	if next := s.next(); !next.IsZero() {
		t.Errorf("one more without a reason: %s", next)
	}
}

// TestScheduleMany: of many findings there are some of each kind, and the number of
// the others. They are one more repair of their kinds.
func TestScheduleMany(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSchedule()
	for i := range 1000 {
		s.add(newFinding("route %d was removed", i).in("web"), now)
	}
	s.add(newFinding("rule %d was removed", 1).in("web"), now)
	for i := range 1000 {
		s.add(newFinding("the host has got the address %d", i).in("web"), now)
	}
	now = now.Add(debounce)
	why := s.start(now, 1)["web"]
	if n := len(why.found); n != few+2 || why.more != 2000-few-1 {
		t.Errorf("%d are kept, and %d more told of", n, why.more)
	}
	if said := why.String(); !strings.Contains(said, "route 9 was removed, rule 1 was removed, the host") || !strings.HasSuffix(said, ", and 1989 more") {
		t.Errorf("it says %q", said)
	}
	s.done("web", true, now)
	s.add(newFinding("route %d was removed", 1).in("web"), now)
	if wait := s.next().Sub(now); wait != debounce {
		t.Errorf("the second repair waits %s", wait)
	}
}

// TestScheduleIsBounded: no more than asked for at once.
func TestScheduleIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSchedule()
	for _, name := range []string{"a", "b", "c"} {
		s.add(finding{namespace: name, what: "x"}, now)
	}
	now = now.Add(debounce)
	if due := s.start(now, 2); len(due) != 2 {
		t.Errorf("due: %v", due)
	}
	if due := s.start(now, 2); len(due) != 1 {
		t.Errorf("due: %v", due)
	}
}

func TestConflictPolicy(t *testing.T) {
	for config, want := range map[string]string{
		`{"type": "macvlan-vip", "addressConflict": "defend"}`:                             "defend",
		`{"plugins": [{"type": "x"}, {"type": "macvlan-vip", "addressConflict": "warn"}]}`: "warn",
		`{"plugins": [{"type": "macvlan", "addressConflict": "warn"}]}`:                    "",
		`{`: "",
	} {
		if got := conflictPolicy([]byte(config)); got != want {
			t.Errorf("%s: %q", config, got)
		}
	}
}

// TestDecoys: one of each network that has room for it, and never a VIP.
func TestDecoys(t *testing.T) {
	var networks []netip.Prefix
	var vips []netip.Addr
	for _, p := range []string{"192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "198.51.100.1/32"} {
		prefix := netip.MustParsePrefix(p)
		networks, vips = append(networks, prefix), append(vips, prefix.Addr())
	}
	for range 100 {
		all := decoys(networks, vips)
		for _, d := range all {
			if slices.Contains(vips, d) || !networks[0].Contains(d) && !networks[2].Contains(d) {
				t.Errorf("decoy %s", d)
			}
		}
		if len(all) > 2 {
			t.Errorf("decoys %s", all)
		}
	}
}

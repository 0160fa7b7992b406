package watch

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// debounce is how long to wait for more events: one command causes many.
	debounce = 20 * time.Millisecond
	// free is how many repairs in a row are immediate. If the same thing keeps
	// breaking, each further repair waits longer.
	free = 3
	// firstPause and longestPause bound that.
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	// few is how many findings are kept for a repair, and how many more of a kind of
	// which there is none yet.
	few = 10
	// calm is how long nothing must break until the counts are reset.
	calm = time.Minute
)

// turn is a namespace's place in the schedule.
type turn struct {
	// at is when it is to be repaired, if that is not zero.
	at time.Time
	reasons
	// running says that it is being repaired. An event meanwhile can be of the
	// repair itself, or of what breaks it again.
	running bool
	// habits are the recent repairs, by kind.
	habits map[string]*habit
}

// reasons are why a namespace is repaired.
type reasons struct {
	found []finding
	// more is how many more findings there were than are kept.
	more int
}

// take keeps a finding, unless it is there already or there are many.
func (r *reasons) take(f finding) bool {
	if slices.ContainsFunc(r.found, func(o finding) bool { return o.what == f.what }) {
		return false
	}
	n := len(r.found)
	if n >= few && (n >= 2*few || slices.ContainsFunc(r.found, func(o finding) bool { return o.kind == f.kind })) {
		r.more++
		return false
	}
	r.found = append(r.found, f)
	return true
}

// broken tells whether one of them is more than a note.
func (r *reasons) broken() bool {
	return slices.ContainsFunc(r.found, func(f finding) bool { return !f.note })
}

func (r *reasons) String() string {
	words := make([]string, len(r.found), len(r.found)+1)
	for i, f := range r.found {
		words[i] = f.String()
	}
	if r.more > 0 {
		words = append(words, fmt.Sprintf("and %d more", r.more))
	}
	return strings.Join(words, ", ")
}

// habit is how often one kind of thing was repaired in a row, and when last.
type habit struct {
	times int
	last  time.Time
}

// pause is how long the next repair of it waits.
func (h *habit) pause() time.Duration {
	if h == nil || h.times < free {
		return 0
	}
	return min(firstPause<<min(h.times-free, 16), longestPause)
}

// schedule plans the repairs of namespaces.
type schedule struct {
	turns map[string]*turn
	// waiting are those of the turns that have a time.
	waiting map[string]*turn
}

func newSchedule() *schedule {
	return &schedule{turns: map[string]*turn{}, waiting: map[string]*turn{}}
}

// add takes a finding in, and looks up who did it. pause is how long the repair waits, if
// that is longer than usual, and was not so already, times how often it was done in a row.
func (s *schedule) add(f finding, now time.Time) (pause time.Duration, times int) {
	t := s.turns[f.namespace]
	if t == nil {
		t = &turn{habits: map[string]*habit{}}
		s.turns[f.namespace] = t
	}
	if !t.take(f) {
		return 0, 0
	}
	// Now, since the process may end soon.
	t.found[len(t.found)-1].who = process(f.port)
	t.forget(now)
	if t.running {
		return 0, 0
	}
	s.waiting[f.namespace] = t
	return t.plan(now)
}

// forget drops the habits that have not been seen for long enough.
func (t *turn) forget(now time.Time) {
	for kind, h := range t.habits {
		if now.Sub(h.last) > calm+h.pause() {
			delete(t.habits, kind)
		}
	}
}

// plan sets the time of the next repair: only repeated ones wait.
func (t *turn) plan(now time.Time) (pause time.Duration, times int) {
	wait := longestPause
	for _, kind := range causes(t.found) {
		h := t.habits[kind]
		wait = min(wait, max(debounce, h.pause()))
		if p := h.pause(); p > pause {
			pause, times = p, h.times
		}
	}
	at := now.Add(wait)
	// What goes with a link can be told of before the link is.
	firstLink := slices.IndexFunc(t.found, isLink) == len(t.found)-1
	if !t.at.IsZero() && t.at.Before(at) && !firstLink {
		return 0, 0
	}
	t.at = at
	if wait <= debounce {
		return 0, 0
	}
	return pause, times
}

// causes gives the kinds of findings, once each, without those of what goes with a
// link if there is something about one.
func causes(found []finding) []string {
	aboutLink := slices.ContainsFunc(found, isLink)
	var kinds []string
	for _, f := range found {
		if (f.link || !aboutLink) && !slices.Contains(kinds, f.kind) {
			kinds = append(kinds, f.kind)
		}
	}
	return kinds
}

func isLink(f finding) bool { return f.link }

// start returns the namespaces that are due, at most n, with the reasons.
func (s *schedule) start(now time.Time, n int) map[string]reasons {
	due := map[string]reasons{}
	for name, t := range s.waiting {
		if len(due) == n {
			break
		}
		if t.at.After(now) {
			continue
		}
		for _, kind := range causes(t.found) {
			if t.habits[kind] == nil {
				t.habits[kind] = &habit{}
			}
			t.habits[kind].times++
			t.habits[kind].last = now
		}
		due[name], t.reasons = t.reasons, reasons{}
		t.at, t.running = time.Time{}, true
		delete(s.waiting, name)
	}
	return due
}

// done notes that a repair has ended, and plans another one for what happened
// meanwhile. If the repair has succeeded, most of that was its own doing, so the next
// one looks first.
func (s *schedule) done(name string, ok bool, now time.Time) (pause time.Duration, times int) {
	t := s.turns[name]
	if t == nil {
		return 0, 0
	}
	t.running = false
	if len(t.found) == 0 {
		return 0, 0
	}
	for i := range t.found {
		t.found[i].note = t.found[i].note || ok
	}
	s.waiting[name] = t
	return t.plan(now)
}

// next is when start has something to give; zero for never.
func (s *schedule) next() time.Time {
	var first time.Time
	for _, t := range s.waiting {
		if first.IsZero() || t.at.Before(first) {
			first = t.at
		}
	}
	return first
}

// forget drops a namespace that is gone.
func (s *schedule) forget(name string) {
	delete(s.turns, name)
	delete(s.waiting, name)
}

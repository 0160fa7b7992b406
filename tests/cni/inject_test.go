package cni

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"macvlan-vip/tests/testnet"
)

// breaker lets something happen to one verb of one plugin, at one of its
// changes after the other.
type breaker struct {
	*pair
	t            testing.TB
	plugin, verb string
	// without is the host's state without the attachment.
	without string
}

func newBreaker(t *testing.T, plugin, verb string) *breaker {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	b := &breaker{t: t, plugin: plugin, verb: verb, without: l.state()}
	// Ranges of one address each, which is the same every time.
	b.pair = l.up(t, "c1", "1.1.0", `"master": "eth0", "addressConflict": "ignore", "ipam": {"type": "host-local", "dataDir": "`+l.leases+`", "ranges": [
		[{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.7", "rangeEnd": "192.0.2.7"}],
		[{"subnet": "2001:db8::/64", "rangeStart": "2001:db8::7", "rangeEnd": "2001:db8::7"}]]}`)
	return b
}

// each prepares the verb, and calls try, for every change that the verb makes.
func (b *breaker) each(try func(i int, at change)) {
	b.t.Helper()
	b.down()
	b.prepare()
	seen := map[change]bool{}
	o := b.traced(b.plugin, b.verb, b.input(), func(at change) (what tampering) {
		if !b.isForeign(at.about) {
			seen[at] = true
		}
		return what
	})
	if !o.ok() {
		b.t.Fatalf("%s of %s: %s", b.verb, b.plugin, o)
	}
	b.mustCover(seen)
	b.down()
	for i, at := range sample(slices.SortedFunc(maps.Keys(seen), change.compare)) {
		b.prepare()
		try(i, at)
	}
	b.addAndDown()
}

// isForeign tells the files of the IPAM plugin, and those that `make cover` has
// the binaries write, from the plugin's own.
func (b *breaker) isForeign(path string) bool {
	coverage := os.Getenv("GOCOVERDIR")
	return strings.HasPrefix(path, b.leases) || coverage != "" && strings.HasPrefix(path, coverage)
}

// sample leaves out sysctls and folders but for the first and the last, except
// in `make soak`.
func sample(all []change) []change {
	alike := func(c change) bool {
		return testnet.Soak(0, 1) == 0 && (c.call == "mkdirat" || strings.HasPrefix(c.about, "/proc/sys/"))
	}
	var some []change
	for i, c := range all {
		if i > 0 && i < len(all)-1 && alike(c) && all[i-1].call == c.call && all[i+1].call == c.call {
			continue
		}
		some = append(some, c)
	}
	return some
}

// inject runs the verb, to which something happens at a change; hit is false
// where it did not come to that.
func (b *breaker) inject(at change, what tampering) (o outcome, hit bool) {
	b.t.Helper()
	o = b.traced(b.plugin, b.verb, b.input(), func(now change) tampering {
		if now != at {
			return tampering{}
		}
		hit = true
		return what
	})
	return o, hit
}

// mustCover fails where the tracer has not seen what the verb is for.
func (b *breaker) mustCover(seen map[change]bool) {
	b.t.Helper()
	for _, about := range map[string][]string{
		"macvlan-vip ADD":   {"RTM_NEWLINK", "RTM_NEWADDR", lookPath("host-local")},
		"macvlan-vip DEL":   {"RTM_DELLINK", lookPath("host-local")},
		"macvlan-vip GC":    {"RTM_DELLINK", lookPath("host-local")},
		"hairpin-route ADD": {"RTM_NEWROUTE", "RTM_NEWNEIGH"},
		"hairpin-route DEL": {"RTM_DELROUTE", "RTM_DELNEIGH"},
		"hairpin-route GC":  {"RTM_DELROUTE", "RTM_DELNEIGH"},
	}[b.plugin+" "+b.verb] {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(seen)), func(c change) bool { return c.about == about }) {
			b.t.Errorf("no %s among the changes: %v", about, seen)
		}
	}
}

// input is the verb's configuration.
func (b *breaker) input() string {
	if b.verb == "GC" {
		return b.garbage(b.plugin)
	}
	return b.config(b.plugin)
}

// garbage is a GC's configuration, with an empty list of valid attachments.
func (b *breaker) garbage(plugin string) string {
	b.t.Helper()
	return with(b.t, with(b.t, b.config(plugin), "prevResult", nil), "cni.dev/valid-attachments", []types.GCAttachment{})
}

// prepare brings about the state that the verb begins in, out of none.
func (b *breaker) prepare() {
	b.t.Helper()
	if b.plugin == "macvlan-vip" && b.verb == "ADD" {
		return
	}
	b.fill()
	if b.plugin == "hairpin-route" && b.verb != "ADD" {
		b.must("hairpin-route", "ADD", b.hairpin)
	}
}

// fill adds the attachment to macvlan-vip.
func (b *breaker) fill() {
	b.t.Helper()
	b.link = with(b.t, b.link, "prevResult", nil)
	o := b.must("macvlan-vip", "ADD", b.link)
	if !o.ok() {
		b.t.FailNow()
	}
	b.hairpin = with(b.t, b.hairpin, "prevResult", json.RawMessage(o.stdout))
}

// addAndDown is what a runtime does that knows nothing of what happened.
func (b *breaker) addAndDown() {
	b.t.Helper()
	b.fill()
	b.must("hairpin-route", "ADD", b.hairpin)
	b.down()
}

// collect is GC of both plugins.
func (b *breaker) collect() {
	b.t.Helper()
	for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
		b.must(plugin, "GC", b.garbage(plugin))
	}
}

// nothing is left of the attachment.
func (b *breaker) nothing(when string) {
	b.t.Helper()
	b.mustBe(b.without, when)
	if out := b.service.IP("link show"); strings.Contains(out, "mv0") {
		b.t.Errorf("%s: left in the netns:\n%s", when, out)
	}
}

// everyVerb runs a test of each verb that changes something, of each plugin.
func everyVerb(t *testing.T, verbs []string, test func(*testing.T, *breaker)) {
	for _, plugin := range plugins {
		for _, verb := range verbs {
			t.Run(plugin+" "+verb, func(t *testing.T) {
				t.Parallel()
				test(t, newBreaker(t, plugin, verb))
			})
		}
	}
}

// mostlyHit fails where what the changes were to be hit by missed them: the
// verb does the same things every time but for how it waits.
func (b *breaker) mostlyHit(points, missed int) {
	b.t.Helper()
	b.t.Logf("%d changes, of which %d were not made again", points, missed)
	if points < 10 || missed > points/10 {
		b.t.Errorf("%d of %d changes were not made again", missed, points)
	}
}

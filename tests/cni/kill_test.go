package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// A verb changes something by these system calls alone: netlink messages,
// and what makes, writes and removes files: those of the journal, the leases
// and the keys below /proc/sys. strace(1) kills before
// the call is made, so that the n-th kill shows the state after n-1 changes.
var changes = []string{"sendto", "mkdirat", "write", "renameat", "symlinkat", "unlinkat", "flock", "execve"}

// strace runs a verb under strace with the given options.
func (a *attachment) strace(plugin, verb, conf string, options ...string) outcome {
	argv := append([]string{"strace", "-f", "-qq"}, options...)
	return a.exec(a.env(verb), conf, append(argv, lookPath(plugin))...)
}

// count tells how often a verb makes each call, on the thread that makes it
// most often, which is how strace counts.
func (a *attachment) count(plugin, verb, conf string) map[string]int {
	a.t.Helper()
	trace := filepath.Join(a.t.TempDir(), "trace")
	o := a.strace(plugin, verb, conf, "-o", trace, "-e", "trace="+strings.Join(changes, ","))
	if !o.ok() {
		a.t.Fatalf("%s under strace: %s", verb, o)
	}
	data, err := os.ReadFile(trace)
	if err != nil {
		a.t.Fatal(err)
	}
	byThread, most := map[string]int{}, map[string]int{}
	for line := range strings.Lines(string(data)) {
		thread, call, _ := strings.Cut(line, " ")
		call, _, isCall := strings.Cut(strings.TrimSpace(call), "(")
		if !isCall {
			continue
		}
		byThread[thread+call]++
		most[call] = max(most[call], byThread[thread+call])
	}
	return most
}

// kill runs a verb that is killed before the n-th of a call. A thread or the
// IPAM plugin may come to its n-th call first, or none may.
func (a *attachment) kill(plugin, verb, conf, call string, n int) outcome {
	return a.strace(plugin, verb, conf, "-o", "/dev/null", "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, n))
}

// TestKilled kills each verb of each plugin before each of its changes. After
// a DEL, or a GC with an empty list, everything is as before, and the next ADD
// works.
func TestKilled(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("this needs strace: apt-get install strace, or `sudo make test`")
	}
	for _, plugin := range plugins {
		for _, verb := range []string{"ADD", "DEL"} {
			t.Run(plugin+" "+verb, func(t *testing.T) {
				t.Parallel()
				newKiller(t, plugin, verb).everywhere()
			})
		}
	}
}

// killer kills one verb of one plugin again and again.
type killer struct {
	*pair
	t            testing.TB
	plugin, verb string
	// without is the host's state without the attachment.
	without string
}

func newKiller(t *testing.T, plugin, verb string) *killer {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	k := &killer{t: t, plugin: plugin, verb: verb, without: l.state()}
	k.pair = l.up(t, "c1", "1.1.0", `"master": "eth0", "addressConflict": "ignore",
		"ipam": {"type": "host-local", "dataDir": "`+l.leases+`", "ranges": [[{"subnet": "192.0.2.0/24"}], [{"subnet": "2001:db8::/64"}]]}`)
	return k
}

// everywhere begins and ends with the attachment up.
func (k *killer) everywhere() {
	k.prepare()
	counts := k.count(k.plugin, k.verb, k.config(k.plugin))
	rounds := []func(){k.down, k.collect}
	if k.plugin == "macvlan-vip" && k.verb == "ADD" {
		rounds = append(rounds, k.addAndDown)
	}
	killed, failed := 0, 0
	for _, call := range changes {
		for n := 1; n <= counts[call]; n++ {
			for _, cleanUp := range rounds {
				k.prepare()
				before := k.state()
				o := k.kill(k.plugin, k.verb, k.config(k.plugin), call, n)
				switch when := fmt.Sprintf("killed before %s %d", call, n); {
				case o.err().Code != 0 && k.verb == "ADD":
					// The IPAM plugin was killed, and ADD noticed.
					failed++
					k.mustBe(before, "IPAM "+when)
				case !o.ok():
					killed++
				}
				cleanUp()
				k.nothing(fmt.Sprintf("killed before %s %d", call, n))
			}
		}
	}
	k.t.Logf("%s of %s: killed %d times, failed %d times (%v)", k.verb, k.plugin, killed, failed, counts)
	k.addAndDown()
}

// addAndDown is what a runtime does that knows nothing of the kill.
func (k *killer) addAndDown() {
	k.t.Helper()
	k.fill()
	k.must("hairpin-route", "ADD", k.hairpin)
	k.down()
}

// prepare brings about the state that the verb to be killed begins in.
func (k *killer) prepare() {
	k.t.Helper()
	k.down()
	switch {
	case k.plugin == "hairpin-route":
		k.fill()
		if k.verb == "DEL" {
			k.must("hairpin-route", "ADD", k.hairpin)
		}
	case k.verb == "DEL":
		k.fill()
	}
}

// fill adds the attachment to macvlan-vip; host-local gives another address
// each time.
func (k *killer) fill() {
	k.t.Helper()
	k.link = with(k.t, k.link, "prevResult", nil)
	o := k.must("macvlan-vip", "ADD", k.link)
	k.hairpin = with(k.t, k.hairpin, "prevResult", json.RawMessage(o.stdout))
}

// collect is GC with an empty list.
func (k *killer) collect() {
	k.t.Helper()
	for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
		k.must(plugin, "GC", with(k.t, with(k.t, k.config(plugin), "prevResult", nil), "cni.dev/valid-attachments", []types.GCAttachment{}))
	}
}

// nothing is left of the attachment.
func (k *killer) nothing(when string) {
	k.t.Helper()
	k.mustBe(k.without, when)
	if out := k.service.IP("link show"); strings.Contains(out, "mv0") {
		k.t.Errorf("%s: left in the netns:\n%s", when, out)
	}
}

package cni

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"macvlan-vip/tests/testnet"
)

// TestKilled kills each verb of each plugin before each of its changes. After
// a DEL, a GC with an empty list, or what a runtime does that knows nothing of
// it, everything is as before, and the next ADD works.
func TestKilled(t *testing.T) {
	everyVerb(t, []string{"ADD", "DEL", "GC"}, func(t *testing.T, b *breaker) {
		// In turn; `make soak` does them all at every change.
		cleanUps := []func(){b.down, b.collect}
		if b.plugin == "macvlan-vip" && b.verb == "ADD" {
			cleanUps = append(cleanUps, b.addAndDown)
		}
		points, missed := 0, 0
		b.each(func(i int, at change) {
			for round := range testnet.Soak(1, len(cleanUps)) {
				if round > 0 {
					b.prepare()
				}
				before := b.state()
				o, hit := b.inject(at, tampering{kill: true})
				points++
				switch {
				case !hit:
					missed++
				case at.call == "execve" && filepath.Base(at.about) == b.plugin:
					if !o.ok() {
						t.Errorf("without its announcer ADD fails: %s", o)
					}
				case at.call == "execve" && b.verb == "ADD":
					// The IPAM plugin's process was killed. ADD notices, and either
					// asks once more or leaves everything as it was.
					if !o.ok() {
						refused(t, o, o.err().Code)
						b.mustBe(before, "IPAM plugin killed")
					}
				case at.call != "execve" && o.status != -1:
					t.Errorf("not killed before %s: %s", at, o)
				}
				cleanUps[(i+round)%len(cleanUps)]()
				b.nothing("killed before " + at.String())
			}
		})
		b.mostlyHit(points, missed)
	})
}

// TestKilledAndSpoiled kills each verb before what the next one would be told by, and
// empties the records. DEL and GC then go by what they find.
func TestKilledAndSpoiled(t *testing.T) {
	everyVerb(t, []string{"ADD", "DEL"}, func(t *testing.T, b *breaker) {
		b.each(func(i int, at change) {
			if at.about != "RTM_SETLINK" && at.about != "RTM_DELLINK" {
				b.down()
				return
			}
			if o, hit := b.inject(at, tampering{kill: true}); !hit {
				t.Fatalf("not killed before %s: %s", at, o)
			}
			b.spoil()
			[]func(){b.down, b.collect}[i%2]()
			b.nothing("killed before " + at.String() + " and spoiled")
		})
	})
}

// TestKilledBesideSpoiledClaims kills a DEL while it removes what is in the place of a
// claim.
func TestKilledBesideSpoiledClaims(t *testing.T) {
	everyVerb(t, []string{"DEL"}, func(t *testing.T, b *breaker) {
		b.down()
		for n, hit := 1, true; hit; n++ {
			b.prepare()
			b.spoilClaims()
			left := n
			hit = false
			b.traced(b.plugin, b.verb, b.input(), func(at change) (what tampering) {
				if strings.Contains(at.about, "/claims") {
					left--
				}
				what.kill = left == 0
				hit = hit || what.kill
				return what
			})
			b.down()
			b.nothing(fmt.Sprintf("killed before change %d of the claims", n))
		}
	})
}

// spoilClaims puts files in the place of the claims.
func (b *breaker) spoilClaims() {
	b.t.Helper()
	for _, dir := range b.journals() {
		claims, _ := filepath.Glob(dir + "/claims/*/*")
		for _, claim := range claims {
			if err := errors.Join(os.Remove(claim), os.WriteFile(claim, nil, 0o600)); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

// spoil empties what records there are.
func (b *breaker) spoil() {
	b.t.Helper()
	for _, dir := range b.journals() {
		records, _ := filepath.Glob(dir + "/attachments/*.json")
		for _, file := range records {
			if err := os.Truncate(file, 0); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

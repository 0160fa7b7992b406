package lan

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A netns that goes before its DEL takes mv0 with it, but not the host's
// routes and neighbours, which would keep the host from its VIPs wherever they
// are next. DEL removes them all the same.
func TestDelAfterTheNetnsIsGone(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.2/16", "2001:db8::2/64")
	before := a.Snapshot()
	vips := []string{"10.0.0.10/16", "2001:db8::10/64"}
	sv := a.service("c1", quick, vips...)
	sv.mustAdd(t)
	sv.Service.Remove()
	eventually(t, func() error { return macIsFree(sv) })
	ours := func() string {
		return a.IP("-4 route show table local proto 118") + a.IP("-6 route show table local proto 118") + a.IP("neigh show nud permanent dev mv-int")
	}
	if out := ours(); strings.Count(out, "\n") != 4 {
		t.Errorf("want the routes and neighbours of both VIPs, still there:\n%s", out)
	}
	next := b.service("c1", quick, vips...)
	next.mustAdd(t)
	if a.Ping(next.vips[0]) == nil {
		t.Error("the stale route does no harm, so that this test shows nothing")
	}
	sv.mustDel(t)
	if diff := cmp.Diff(before, a.Snapshot()); diff != "" {
		t.Errorf("left on the host: %s", diff)
	}
	a.pings(t, next.vips...)
}

// Services come and go in quick succession, with the MAC that each always has.
// The kernel may still be clearing away the namespace that had it.
func TestFastRestarts(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(*testing.T, *service){
		"DEL": func(t *testing.T, sv *service) {
			if err := sv.chain.Del(sv.Attachment); err != nil {
				t.Error(err)
			}
		},
		"DEL, netns removed": func(t *testing.T, sv *service) {
			if err := sv.chain.Del(sv.Attachment); err != nil {
				t.Error(err)
			}
			sv.Service.Remove()
		},
		"netns removed": func(_ *testing.T, sv *service) { sv.Service.Remove() },
		"netns removed, DEL": func(t *testing.T, sv *service) {
			sv.Service.Remove()
			if err := sv.chain.Del(sv.Attachment); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			host := l.station("10.0.0.1/16", "2001:db8::1/64")
			macs := map[string]string{}
			for range 20 {
				for i := range 2 {
					id := fmt.Sprintf("c%d", i)
					sv := host.service(id, quick, fmt.Sprintf("10.0.0.%d/16", 10+i), fmt.Sprintf("2001:db8::%d/64", 10+i))
					sv.mustAdd(t)
					if was := macs[id]; was != "" && was != sv.mac {
						t.Errorf("the MAC of %s was %s and is %s", id, was, sv.mac)
					}
					macs[id] = sv.mac
					host.pings(t, sv.vips...)
					stop(t, sv)
				}
			}
		})
	}
}

// A namespace that was removed lives on for as long as any process holds it,
// and mv0 in it. ADD says whose MAC is in the way and that it is worth trying
// again, leaves nothing behind, and works as soon as the link is gone.
func TestLingeringNetns(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host := l.station("10.0.0.1/16", "2001:db8::1/64")
	before := host.Snapshot()
	vips := []string{"10.0.0.10/16", "2001:db8::10/64"}
	sv := host.service("c1", quick, vips...)
	sv.mustAdd(t)
	holder, err := os.Open(sv.Service.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	sv.Service.Remove()
	next := host.service("c1", quick, vips...)
	if err := next.add(); code(err) != 11 || !strings.Contains(err.Error(), sv.mac) {
		t.Errorf("ADD: code %d, want 11, naming %s: %v", code(err), sv.mac, err)
	}
	host.wantNothingLeft(t, before)
	holder.Close()
	eventually(t, next.add)
	host.pings(t, next.vips...)
}

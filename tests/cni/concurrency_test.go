package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"macvlan-vip/tests/testnet"
)

// atOnce runs a function for every attachment, all at the same time.
func atOnce(all []*pair, f func(i int, p *pair)) {
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() { f(i, p) })
	}
	wg.Wait()
}

// TestManyAtOnce: a hundred services are added and deleted at once, and every
// third of the adds fails, in one way or another.
func TestManyAtOnce(t *testing.T) {
	const services = 100
	l := newLab(t, "10.99.0.1/16")
	before := l.state()
	static := func(vip string) string {
		return fmt.Sprintf(`"ipam": {"type": "static", "addresses": [{"address": %q}]}`, vip)
	}
	all := make([]*pair, services)
	want := make([]uint, services)
	for i := range all {
		keys := static(fmt.Sprintf("10.99.1.%d/16", i+1))
		switch i % 12 {
		case 1:
			keys, want[i] = `"mtu": 9000, `+keys, types.ErrInvalidNetworkConfig
		case 4:
			keys, want[i] = static("10.99.0.1/16"), 100
		case 7:
			keys, want[i] = `"sysctl": {"net.ipv4.conf.IFNAME.nonesuch": "1"}, `+keys, types.ErrInvalidNetworkConfig
		case 10:
			// The one VIP of these goes to whoever comes first.
			keys, want[i] = static("10.99.2.1/16"), 100
		}
		keys = `"master": "eth0", "addressConflict": "ignore", ` + keys
		all[i] = &pair{attachment: l.attachment(fmt.Sprintf("c%d", i)), link: conf("1.1.0", "macvlan-vip", "lan", keys), hairpin: conf("1.1.0", "hairpin-route", "lan", "")}
	}
	for round := range testnet.Soak(2, 10) {
		began := time.Now()
		won := addAll(t, all, want)
		t.Logf("round %d: added %d in %s", round, services, time.Since(began))
		if won != 1 {
			t.Errorf("the shared VIP went to %d services", won)
		}
		if out := l.host.IP("-o link show type macvlan"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "mv-int") {
			t.Errorf("want one mv-int on the host:\n%s", out)
		}
		began = time.Now()
		atOnce(all, func(i int, p *pair) { p.down() })
		t.Logf("round %d: deleted %d in %s", round, services, time.Since(began))
		l.mustBe(before, "after all were deleted")
	}
}

// addAll adds all at once, and tells how many of those that want one VIP got it.
func addAll(t *testing.T, all []*pair, want []uint) (won int) {
	t.Helper()
	outcomes := make([]outcome, len(all))
	atOnce(all, func(i int, p *pair) {
		o := p.run("macvlan-vip", "ADD", p.link)
		if o.ok() {
			prev := with(t, p.hairpin, "prevResult", json.RawMessage(o.stdout))
			if o2 := p.run("hairpin-route", "ADD", prev); !o2.ok() {
				o = o2
			}
		}
		outcomes[i] = o
	})
	for i, o := range outcomes {
		switch {
		case i%12 == 10 && o.ok():
			won++
		case want[i] == 0 && !o.ok():
			t.Errorf("ADD of %d: %s", i, o)
		case want[i] != 0:
			refused(t, o, want[i])
		}
	}
	return won
}

// TestAddAndDeleteAtOnce: while some come, others go, and the host's link must
// stay for those that are there.
func TestAddAndDeleteAtOnce(t *testing.T) {
	const services = 12
	rounds := testnet.Soak(8, 100)
	l := newLab(t, "10.99.0.1/16")
	before := l.state()
	all := make([]*pair, services)
	for i := range all {
		all[i] = &pair{attachment: l.attachment(fmt.Sprintf("c%d", i)), hairpin: conf("1.1.0", "hairpin-route", "lan", ""), link: conf("1.1.0", "macvlan-vip", "lan",
			fmt.Sprintf(`"master": "eth0", "addressConflict": "ignore", "ipam": {"type": "static", "addresses": [{"address": "10.99.1.%d/16"}]}`, i+1))}
	}
	atOnce(all, func(i int, p *pair) {
		for range rounds {
			o := p.must("macvlan-vip", "ADD", p.link)
			prev := json.RawMessage(o.stdout)
			if !o.ok() || !json.Valid(prev) {
				return
			}
			p.must("hairpin-route", "ADD", with(t, p.hairpin, "prevResult", prev))
			p.must("hairpin-route", "CHECK", with(t, p.hairpin, "prevResult", prev))
			p.must("macvlan-vip", "CHECK", with(t, p.link, "prevResult", prev))
			p.down()
		}
	})
	l.mustBe(before, "after all were deleted")
}

// TestHungLockHolder: who holds a lock for good does not hang the others; they
// say who it is. Once it lets go, all is well.
func TestHungLockHolder(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	before := l.state()
	first := l.up(t, "first", "1.1.0", staticV4)
	locks, _ := filepath.Glob(l.journals()[0] + "/mv-int.lock")
	if len(locks) != 1 {
		t.Fatalf("locks: %v", locks)
	}
	lock, err := os.OpenFile(locks[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := lock.WriteAt([]byte("4242424\n"), 0); err != nil {
		t.Fatal(err)
	}

	second := &pair{attachment: l.attachment("second"), link: strings.Replace(first.link, "192.0.2.10", "192.0.2.11", 1)}
	second.link = with(t, second.link, "prevResult", nil)
	began := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { stuck(t, second.run("macvlan-vip", "ADD", second.link)) })
	wg.Go(func() { stuck(t, first.run("macvlan-vip", "DEL", first.link)) })
	wg.Wait()
	// The limit is ten seconds; the rest is for a busy machine.
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("they waited for %s", took)
	} else {
		t.Logf("they waited for %s", took)
	}
	lock.Close()
	second.must("macvlan-vip", "DEL", second.link)
	first.down()
	l.mustBe(before, "after the holder let go")
	second.must("macvlan-vip", "ADD", second.link)
	second.must("macvlan-vip", "DEL", second.link)
}

func stuck(t *testing.T, o outcome) {
	t.Helper()
	refused(t, o, types.ErrTryAgainLater)
	for _, part := range []string{"mv-int.lock", "4242424", "try again"} {
		if !strings.Contains(o.stdout, part) {
			t.Errorf("no %q in: %s", part, o)
		}
	}
}

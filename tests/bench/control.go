package bench

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// measure attaches and detaches once, each by itself.
func (s *site) measure(w way) (add, del cost) {
	s.t.Helper()
	add = s.run(w.add(s))
	settled()
	del = s.run(w.del(s))
	s.restore()
	return add, del
}

// oneService is a service with two VIPs, the host's first or its next.
func oneService(t *testing.T, rounds int, shared bool) []Comparison {
	s := newSite(t, vips(2), shared)
	ways := append(ways(), wayIdle())
	for _, w := range ways {
		w.prepare(s)
	}
	adds, dels, both, cpu := newSamples(), newSamples(), newSamples(), newSamples()
	inTurn(rounds, ways, func(round int, w way) {
		add, del := s.measure(w)
		if round < 0 {
			return
		}
		adds.add(w.name, ms(add.wall))
		dels.add(w.name, ms(del.wall))
		both.add(w.name, ms(add.wall+del.wall))
		cpu.add(w.name, ms(add.cpu+del.cpu))
	})
	suffix, text := "first", "the host's first service"
	if shared {
		suffix, text = "next", "a further service of the host"
	}
	// The last service's mv-int goes, too, which upstream's chain has not.
	mostDel := map[bool]float64{false: 1.3, true: 1.0}[shared]
	compare := func(what, title string, of *samples, most float64) Comparison {
		c := of.comparison(what+"-"+suffix, title+", "+text, "ms", nameArticle)
		for _, ours := range []struct{ key, name string }{{"noprobe", nameNoProbe}, {"once", nameOneRound}, {"quiet", nameQuiet}} {
			id := fmt.Sprintf("%s-%s-%s-upstream", what, suffix, ours.key)
			g := of.goal(id, fmt.Sprintf("%s: %s / %s", c.Title, ours.name, nameUpstream), ours.name, nameUpstream, most)
			g.Kernel, g.Idle = of.ratio(nameFloor, nameUpstream).Median, of.ratio(nameIdle, nameUpstream).Median
			c.Goals = append(c.Goals, g)
		}
		return c
	}
	return []Comparison{
		compare("add", "ADD of 2 VIPs", adds, 0.95), compare("del", "DEL of 2 VIPs", dels, mostDel),
		both.comparison("both-"+suffix, "ADD and DEL of 2 VIPs, "+text, "ms", nameArticle),
		cpu.comparison("cpu-"+suffix, "CPU time of ADD and DEL of 2 VIPs, "+text, "ms", nameArticle),
	}
}

// verify proves that a way does what it should, by packets and, of ours and of
// the floor, by the kernel's state, which is returned.
func (s *site) verify(w way) (state []string) {
	s.t.Helper()
	before := s.snapshot()
	s.run(w.add(s))
	s.lan.IP("neigh flush all")
	for _, vip := range []string{s.vips[0], s.vips[len(s.vips)-1]} {
		if err := s.lan.Ping(addrOf(vip)); err != nil {
			s.t.Errorf("%s: from the LAN: %v", w.name, err)
		}
		if err := s.host.Ping(addrOf(vip), "-W1"); (err == nil) != w.reachable {
			s.t.Errorf("%s: from the host, where an answer is %v: %v", w.name, w.reachable, err)
		}
	}
	state = s.snapshot()
	s.run(w.del(s))
	s.restore()
	s.host.IP("neigh flush all")
	if diff := cmp.Diff(before, s.snapshot()); diff != "" {
		s.t.Errorf("%s: DEL left another state (+) than there was (-):\n%s", w.name, diff)
	}
	return state
}

// verifyIdle proves that plugins that do nothing pass on what static gives, which is no use
// to anybody else, and change nothing.
func (s *site) verifyIdle() {
	s.t.Helper()
	w, before := wayIdle(), s.snapshot()
	w.prepare(s)
	add := w.add(s)
	cmd := exec.Command(add.argv[0], add.argv[1:]...)
	cmd.Env = add.env
	result, err := cmd.Output()
	if last := s.vips[len(s.vips)-1]; err != nil || !strings.Contains(string(result), strconv.Quote(last)) {
		s.t.Errorf("no %s in the result, %v:\n%s", last, err, result)
	}
	s.run(w.check(s))
	s.run(w.del(s))
	if diff := cmp.Diff(before, s.snapshot()); diff != "" {
		s.t.Errorf("%s: another state (+) than before (-):\n%s", w.name, diff)
	}
}

// sizes are the numbers of VIPs that are tried.
var sizes = []int{1, 10, 100, 1000}

// manyVIPs is one service with more and more VIPs: what each costs, and what
// comes before the first.
func manyVIPs(t *testing.T, rounds int) []Comparison {
	adds, dels, checks := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	var all []Comparison
	for _, n := range sizes {
		c := vipsOf(t, n, max(rounds/3, 5))
		for i, into := range []map[string][]float64{adds, dels, checks} {
			for _, series := range c[i].Series {
				into[series.Name] = append(into[series.Name], series.Median)
			}
		}
		all = append(all, c...)
	}
	all = append(all, slopes("vips-add", "ADD", adds, 1.4), slopes("vips-del", "DEL", dels, 1.6))
	c := slopes("vips-check", "CHECK", checks, 0)
	add, check, idle := adds[nameQuiet], checks[nameQuiet], checks[nameIdle]
	last := len(sizes) - 1
	c.Goals = []Goal{
		{ID: "check-1000", Text: "CHECK / ADD of 1,000 VIPs", Ratio: exactly(check[last] / add[last]), Most: 0.35, Idle: idle[last] / add[last]},
		{ID: "check-linear", Text: "CHECK of 1,000 VIPs / of 100, which is 10 at most if it is linear", Ratio: exactly(check[last] / check[last-1]), Most: 10},
	}
	return append(all, c)
}

func exactly(value float64) Spread { return Spread{value, value, value, 1} }

func vipsOf(t *testing.T, n, rounds int) []Comparison {
	s := newSite(t, vips(n), true)
	ways := []way{wayQuiet(), wayFloor(), wayIdle()}
	if n <= 100 {
		ways = append(ways, wayArticle())
	}
	for _, w := range ways {
		w.prepare(s)
	}
	adds, dels, checks := newSamples(), newSamples(), newSamples()
	inTurn(rounds, ways, func(round int, w way) {
		if w.name == nameArticle && n >= 100 && (round < 0 || round > 1) {
			return // it takes a thousand times as long as a process does
		}
		add := s.run(w.add(s))
		settled()
		if w.check != nil {
			if check := s.run(w.check(s)); round >= 0 {
				checks.add(w.name, ms(check.wall))
			}
			settled()
		}
		del := s.run(w.del(s))
		s.restore()
		if round < 0 {
			return
		}
		adds.add(w.name, ms(add.wall))
		dels.add(w.name, ms(del.wall))
	})
	id, title := fmt.Sprintf("-%d", n), fmt.Sprintf(" of %d VIPs", n)
	return []Comparison{
		adds.comparison("vips-add"+id, "ADD"+title, "ms", nameFloor), dels.comparison("vips-del"+id, "DEL"+title, "ms", nameFloor),
		checks.comparison("vips-check"+id, "CHECK"+title, "ms", nameQuiet),
	}
}

// slopes fits a fixed cost and a cost for each VIP to the medians. most is what the
// latter may be of ours, against the floor's.
func slopes(id, verb string, medians map[string][]float64, most float64) Comparison {
	c := Comparison{ID: id, Title: verb + ": time for each further VIP", Unit: "us", Base: nameFloor, Less: true}
	x := make([]float64, len(sizes))
	for i, n := range sizes {
		x[i] = float64(n)
	}
	slope := map[string]float64{}
	for name, y := range medians {
		_, slope[name] = line(x[:len(y)], y)
	}
	if _, ok := slope[nameFloor]; !ok {
		c.Base = nameQuiet
	}
	for _, name := range []string{nameQuiet, nameIdle, nameFloor, nameArticle} {
		if _, ok := slope[name]; ok {
			c.Series = append(c.Series, Series{Name: name, Spread: exactly(1000 * slope[name]), Ratio: exactly(slope[name] / slope[c.Base])})
		}
	}
	if c.Base == nameQuiet {
		return c
	}
	c.Goals = []Goal{{ID: id + "-slope", Text: fmt.Sprintf("%s: each further VIP, %s / %s", verb, nameQuiet, nameFloor),
		Ratio: exactly(slope[nameQuiet] / slope[nameFloor]), Most: most, Idle: slope[nameIdle] / slope[nameFloor]}}
	return c
}

// crowd is how many services the full host has before the one that is measured.
const crowd = 499

// manyServices is the first service of a host, whose mv-int is there, against
// the five hundredth of another. The floor shows what of it is the kernel's.
func manyServices(t *testing.T, rounds int) []Comparison {
	return crowded(t, rounds, crowd)
}

func crowded(t *testing.T, rounds, crowd int) []Comparison {
	type contender struct {
		site *site
		way  way
		name string
	}
	var contenders []contender
	last := fmt.Sprintf(", service %d", crowd+1)
	empty, full := newSite(t, vips(2), true), fullSite(t, crowd)
	for _, w := range []way{wayQuiet(), wayFloor()} {
		for _, s := range []*site{empty, full} {
			w.prepare(s)
		}
		contenders = append(contenders, contender{empty, w, w.name + ", service 1"}, contender{full, w, w.name + last})
	}
	adds, dels := newSamples(), newSamples()
	inTurn(rounds, contenders, func(round int, c contender) {
		if add, del := c.site.measure(c.way); round >= 0 {
			adds.add(c.name, ms(add.wall))
			dels.add(c.name, ms(del.wall))
		}
	})
	compare := func(id, verb string, of *samples) Comparison {
		c := of.comparison(id, fmt.Sprintf("%s of 2 VIPs, the host's first service and its %dth", verb, crowd+1), "ms", nameQuiet+", service 1")
		c.Goals = []Goal{of.goal(id, fmt.Sprintf("%s: service %d / service 1", verb, crowd+1), nameQuiet+last, nameQuiet+", service 1", 1.2)}
		return c
	}
	return []Comparison{compare("services-add", "ADD", adds), compare("services-del", "DEL", dels)}
}

// Package bench measures what an attachment costs, and what its data path and a
// failover give, against what a user would do instead. All contenders take part
// in one run on one machine, by turns, and what counts is the ratio between
// them; `make bench` runs it all. Hosts, services and LANs are network
// namespaces of the bench's own.
package bench

import (
	"slices"
	"time"
)

// settle is how long the kernel gets between two measurements, to finish what
// it does after a system call has returned: it frees links and routes after RCU
// grace periods, and holds its lock on all of that (rtnl) now and then.
const settle = 25 * time.Millisecond

// Comparison is one question, with the figures of each contender.
type Comparison struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	// Unit is what the figures of Series are in.
	Unit string `json:"unit"`
	// Base is the series that the others are divided by for the table.
	Base   string   `json:"base"`
	Series []Series `json:"series"`
	Goals  []Goal   `json:"goals,omitempty"`
	// Less tells whether less is better.
	Less bool `json:"less_is_better"`
}

// Series is one contender's figures.
type Series struct {
	Name string `json:"name"`
	Spread
	// Ratio is that to the base, taken round by round.
	Ratio  Spread    `json:"ratio_to_base"`
	Values []float64 `json:"-"`
}

// Goal is a bound of the ratio between two series, or of another figure.
type Goal struct {
	ID    string `json:"id"`
	Text  string `json:"text"`
	Ratio Spread `json:"ratio"`
	// Most is the largest ratio that is good, or Least the smallest.
	Most  float64 `json:"most,omitempty"`
	Least float64 `json:"least,omitempty"`
	// Kernel is the ratio of ip -batch, which does the kernel's operations, and Idle that of
	// plugins that do nothing, where they were measured: what of Ratio is not ours.
	Kernel float64 `json:"kernel,omitempty"`
	Idle   float64 `json:"idle,omitempty"`
}

// Met tells whether the median is within the bound.
func (g Goal) Met() bool {
	return (g.Most == 0 || g.Ratio.Median <= g.Most) && (g.Least == 0 || g.Ratio.Median >= g.Least)
}

// samples collects the figures of one comparison by contender.
type samples struct {
	order  []string
	values map[string][]float64
}

func newSamples(order ...string) *samples {
	return &samples{order, map[string][]float64{}}
}

func (s *samples) add(name string, value float64) {
	if !slices.Contains(s.order, name) {
		s.order = append(s.order, name)
	}
	s.values[name] = append(s.values[name], value)
}

// names are those that have figures, in order.
func (s *samples) names() []string {
	return slices.DeleteFunc(slices.Clone(s.order), func(name string) bool { return len(s.values[name]) == 0 })
}

// comparison makes the question out of its figures.
func (s *samples) comparison(id, title, unit, base string) Comparison {
	c := Comparison{ID: id, Title: title, Unit: unit, Base: base, Less: true}
	for _, name := range s.names() {
		c.Series = append(c.Series, Series{
			Name: name, Spread: spread(s.values[name]),
			Ratio: s.ratio(name, base), Values: s.values[name],
		})
	}
	return c
}

// ratio is that between two contenders, round by round.
func (s *samples) ratio(of, to string) Spread { return spread(ratios(s.values[of], s.values[to])) }

// goal bounds the ratio between two contenders from above.
func (s *samples) goal(id, text, of, to string, most float64) Goal {
	return Goal{ID: id, Text: text, Ratio: s.ratio(of, to), Most: most}
}

// inTurn runs every contender in each round, forwards and backwards by turns,
// after a backward round that does not count. measure is told the round, -1 at first.
func inTurn[T any](rounds int, contenders []T, measure func(round int, c T)) {
	for round := -1; round < rounds; round++ {
		order := slices.Clone(contenders)
		if round%2 != 0 {
			slices.Reverse(order)
		}
		for _, c := range order {
			measure(round, c)
		}
	}
}

// ms is a time in milliseconds.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func settled() { time.Sleep(settle) }

package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Results is a whole run.
type Results struct {
	Rounds      int          `json:"rounds"`
	Comparisons []Comparison `json:"comparisons"`
}

// print prints tables.
func (r *Results) print(out io.Writer) {
	for _, c := range r.Comparisons {
		fmt.Fprintf(out, "\n%s [%s]\n", c.Title, c.Unit)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, s := range c.Series {
			fmt.Fprintf(w, "  %s\t%.2f\t(%.2f - %.2f)\tx %.2f\t(%.2f - %.2f)\n", s.Name, s.Median, s.Q1, s.Q3, s.Ratio.Median, s.Ratio.Q1, s.Ratio.Q3)
		}
		w.Flush()
		for _, g := range c.Goals {
			fmt.Fprintf(out, "  goal %-5v %s: %.2f, at most %.2f\n", g.Met(), g.Text, g.Ratio.Median, g.Most)
		}
	}
}

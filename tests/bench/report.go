package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// Results is a whole run.
type Results struct {
	Machine     string       `json:"machine"`
	Rounds      int          `json:"rounds"`
	Comparisons []Comparison `json:"comparisons"`
}

// machine tells what the run was made on.
func machine() string {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	cpu := "unknown CPU"
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			cpu = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("Linux %s, %s, %d cores, %s", unix.ByteSliceToString(uts.Release[:]), cpu, runtime.NumCPU(), runtime.Version())
}

// loadResults reads an earlier run; without one it is empty.
func loadResults(path string) (*Results, error) {
	var r Results
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("results of the last run: %w", err)
	}
	return &r, nil
}

func (r *Results) save(path string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// find gives a comparison, an empty one if the run did not make it.
func (r *Results) find(id string) (c Comparison) {
	for _, c := range r.Comparisons {
		if c.ID == id {
			return c
		}
	}
	return c
}

// of gives a contender's figures.
func (c Comparison) of(name string) (s Series, ok bool) {
	for _, s := range c.Series {
		if s.Name == name {
			return s, true
		}
	}
	return s, false
}

// print prints a table of each comparison, and the last run's ratios.
func (r *Results) print(out io.Writer, last *Results) {
	for _, c := range r.Comparisons {
		before := last.find(c.ID)
		fmt.Fprintf(out, "\n%s [%s]\n", c.Title, c.Unit)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "  \tmedian\tquartiles\tratio\tquartiles\tlast ratio\n")
		for _, s := range c.Series {
			then := "-"
			if b, ok := before.of(s.Name); ok {
				then = fmt.Sprintf("%.2f", b.Ratio.Median)
				if c.worse(s, b) {
					then += "  WORSE"
				}
			}
			fmt.Fprintf(w, "  %s\t%.2f\t%.2f - %.2f\t%.2f\t%.2f - %.2f\t%s\n", s.Name, s.Median, s.Q1, s.Q3, s.Ratio.Median, s.Ratio.Q1, s.Ratio.Q3, then)
		}
		_ = w.Flush()
		for _, g := range c.Goals {
			fmt.Fprintf(out, "  goal %s: %s: %.2f, %s\n", g.verdict(), g.Text, g.Ratio.Median, g.bound())
		}
	}
}

func (g Goal) verdict() string {
	if g.Met() {
		return "met"
	}
	return "MISSED"
}

// beside is another's ratio beside ours, if it was measured.
func beside(ratio float64) string {
	if ratio == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", ratio)
}

func (g Goal) bound() string {
	if g.Least != 0 {
		return fmt.Sprintf("at least %.2f", g.Least)
	}
	return fmt.Sprintf("at most %.2f", g.Most)
}

// worse tells whether a ratio is worse than in the last run by more than the
// spread of both.
func (c Comparison) worse(now, last Series) bool {
	if c.Less {
		return now.Ratio.Q1 > last.Ratio.Q3 && now.Ratio.Median > last.Ratio.Median*(1+noise)
	}
	return now.Ratio.Q3 < last.Ratio.Q1 && now.Ratio.Median < last.Ratio.Median*(1-noise)
}

// regressions lists what is worse than in the last run.
func (r *Results) regressions(last *Results) (all []string) {
	for _, c := range r.Comparisons {
		before := last.find(c.ID)
		for _, s := range c.Series {
			if b, ok := before.of(s.Name); ok && c.worse(s, b) {
				all = append(all, fmt.Sprintf("%s: %s: ratio %.2f, last %.2f", c.Title, s.Name, s.Ratio.Median, b.Ratio.Median))
			}
		}
	}
	return all
}

// summary and results name the parts of the README that a run writes.
const summary, results = "summary", "results"

func begin(part string) string { return "<!-- " + part + ": `make bench` writes what follows -->\n" }
func end(part string) string   { return "<!-- end of the " + part + " -->\n" }

// intoReadme replaces what a run writes in a README.
func (r *Results) intoReadme(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	page := string(data)
	for part, text := range map[string]string{summary: r.summary(), results: r.markdown()} {
		head, rest, begun := strings.Cut(page, begin(part))
		_, tail, ended := strings.Cut(rest, end(part))
		if !begun || !ended {
			return fmt.Errorf("%s: no place for the %s, which is between %q and %q", path, part, begin(part), end(part))
		}
		page = head + begin(part) + text + end(part) + tail
	}
	return os.WriteFile(path, []byte(page), 0o644)
}

// summary is what a reader wants to know first, in units of this machine.
func (r *Results) summary() string {
	add, del := r.find("add-next"), r.find("del-next")
	whole, unasked, article := add.median(nameDefault), add.median(nameNoProbe), add.median(nameArticle)
	var b strings.Builder
	fmt.Fprintf(&b, "\nOn %s:\n\n", r.Machine)
	fmt.Fprintf(&b, "* Attaching a service with two VIPs takes **%.0f ms**: %.0f ms of work, and %.0f ms of\n  waiting for answers to the conflict probe. The article's commands take %.0f ms and ask\n  nobody.\n", whole, unasked, whole-unasked, article)
	if c := r.find("start"); len(c.Series) > 0 {
		whole, unasked := c.median(nameDefault), c.median(nameNoProbe)
		fmt.Fprintf(&b, "* `systemctl start haproxy` takes **%.0f ms** until a LAN peer has its first page, %.0f ms of them\n  the wait for answers to the probe. It takes %.0f ms on an address of the host, and %.0f ms with the\n  article's commands.\n",
			whole, whole-unasked, c.median(nameHost), c.median(nameArticle))
	}
	fmt.Fprintf(&b, "* Detaching it takes **%.0f ms**, nearly all of it the kernel's removal of the link.\n", del.median(nameDefault))
	for _, c := range []struct{ id, text string }{
		{"throughput", "TCP throughput from the LAN to a VIP is **%.2f** of that to an address of the host"},
		{"http-latency", "HTTP latency from the LAN to a VIP is **%.2f** of that to an address of the host"},
	} {
		fmt.Fprintf(&b, "* "+c.text+".\n", r.find(c.id).goal("LAN -> VIP / LAN -> host's own netns"))
	}
	return b.String() + "\n"
}

// goal is the median ratio of the goal whose text ends like this, NaN where there is none.
func (c Comparison) goal(text string) float64 {
	for _, g := range c.Goals {
		if strings.HasSuffix(g.Text, text) {
			return g.Ratio.Median
		}
	}
	return math.NaN()
}

// median is a contender's, NaN where it was not measured.
func (c Comparison) median(name string) float64 {
	s, ok := c.of(name)
	if !ok {
		return math.NaN()
	}
	return s.Median
}

// markdown holds ratios only: a time means nothing on another machine.
func (r *Results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s. Up to %d rounds. Each figure is the median of the rounds' ratios, with their\nquartiles.\n\n### Goals\n\nTwo ratios beside ours show what of it is not ours: \"kernel\" is that of `ip -batch`, which does\nthe kernel's operations, its own starts among them, \"idle\" that of `cnitool` with `static` and two plugins\nthat do nothing.\n\n| | ratio | quartiles | kernel | idle | goal | |\n|---|---:|---:|---:|---:|---:|---|\n", r.Machine, r.Rounds)
	for _, c := range r.Comparisons {
		for _, g := range c.Goals {
			fmt.Fprintf(&b, "| %s | %.2f | %.2f - %.2f | %s | %s | %s | %s |\n", g.Text, g.Ratio.Median, g.Ratio.Q1, g.Ratio.Q3, beside(g.Kernel), beside(g.Idle), g.bound(), strings.ToLower(g.verdict()))
		}
	}
	b.WriteString("\n### Figures\n\n")
	for _, name := range slices.Sorted(maps.Keys(r.scripts())) {
		fmt.Fprintf(&b, "![%s](../../docs/figures/bench-%s.svg)\n\n", name, name)
	}
	b.WriteString("### All ratios\n")
	for _, c := range r.Comparisons {
		fmt.Fprintf(&b, "\n**%s**, ratio to %s (%s is better):\n\n| | ratio | quartiles | rounds |\n|---|---:|---:|---:|\n", c.Title, c.Base, map[bool]string{true: "less", false: "more"}[c.Less])
		for _, s := range c.Series {
			fmt.Fprintf(&b, "| %s | %.2f | %.2f - %.2f | %d |\n", s.Name, s.Ratio.Median, s.Ratio.Q1, s.Ratio.Q3, s.N)
		}
	}
	b.WriteByte('\n')
	return b.String()
}

// writeFile writes a file and the folders above it.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

package bench

import (
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
)

// style is readable on a light page and on a dark one: no background, and
// everything in mid-grey or in colours that stand out from both.
const style = `set terminal svg size 820,%d font "sans-serif,13" noenhanced
set border lc rgb "#808080"
set tics textcolor rgb "#808080"
set key textcolor rgb "#808080" outside right top vertical samplen 1
set title textcolor rgb "#808080"
set ylabel textcolor rgb "#808080"
set xlabel textcolor rgb "#808080"
set grid ytics lc rgb "#808080" lw 0.3
`

var colours = []string{"#1f8dd6", "#e0782b", "#3aa655", "#b05bc7"}

// figures draws all that the run has measured into a folder.
func (r *Results) figures(dir string) error {
	for name, script := range r.scripts() {
		plot := exec.Command("gnuplot")
		plot.Stdin = strings.NewReader(script + "\nset output\n")
		svg, err := plot.Output()
		if err != nil {
			return fmt.Errorf("figure %s: %w", name, err)
		}
		if err := writeFile(filepath.Join(dir, "bench-"+name+".svg"), svg); err != nil {
			return err
		}
	}
	return nil
}

// scripts are gnuplot's for the figures that the run has measured, by name.
func (r *Results) scripts() map[string]string {
	all := map[string]string{
		"service": r.bars("An attachment of 2 VIPs, the host having others: time / that of the article's commands", "",
			column{"ADD", "add-next"}, column{"DEL", "del-next"}, column{"both", "both-next"}),
		"vips": r.scaling(),
		"data": r.bars("Paths: ratio to veth + bridge (of latency, less is better)", "",
			column{"throughput", "throughput"}, column{"requests per second", "http-rate"}, column{"latency", "http-latency"}),
		"failover": r.bars("Failover: time until a LAN peer has its answer / that of the article's commands", "set logscale y\nset yrange [0.001:2]\n", column{"IPv4", "failover"}),
		"crowd":    r.bars("A host with 1 service and one with 500: time / that of the plugins on the former", "", column{"ADD", "services-add"}, column{"DEL", "services-del"}),
	}
	maps.DeleteFunc(all, func(_, script string) bool { return script == "" })
	return all
}

// column is a comparison as one colour of bars.
type column struct{ title, id string }

// bars draws the contenders' ratios, with quartiles, side by side.
func (r *Results) bars(title, more string, columns ...column) string {
	first := r.find(columns[0].id)
	if len(first.Series) == 0 {
		return ""
	}
	var b, plot strings.Builder
	fmt.Fprintf(&b, style, 460)
	fmt.Fprintf(&b, "set title %q\nset style data histograms\nset style histogram errorbars gap 1 lw 1\nset style fill solid 0.9 border lc rgb \"#808080\"\nset xtics rotate by -22 left\nset yrange [0:*]\n%s", title, more)
	fmt.Fprintf(&b, "set errorbars lw 1\n")
	for i, col := range columns {
		fmt.Fprintf(&b, "$c%d << E\n", i)
		for _, s := range first.Series {
			if of, ok := r.find(col.id).of(s.Name); ok {
				fmt.Fprintf(&b, "%q %g %g %g\n", s.Name, of.Ratio.Median, of.Ratio.Q1, of.Ratio.Q3)
			}
		}
		b.WriteString("E\n")
		fmt.Fprintf(&plot, ", $c%d using 2:3:4:xtic(1) title %q lc rgb %q", i, col.title, colours[i])
	}
	return b.String() + "plot " + strings.TrimPrefix(plot.String(), ", ") + "\n"
}

// scaling draws what more VIPs cost.
func (r *Results) scaling() string {
	unit, ok := r.find("vips-add-1").of(nameFloor)
	if !ok {
		return ""
	}
	var b, plot strings.Builder
	fmt.Fprintf(&b, style, 460)
	b.WriteString("set title \"One service: time / that of an ADD of 1 VIP by ip -batch\"\nset logscale xy\nset xlabel \"VIPs\"\nset xrange [0.8:1300]\n")
	for i, curve := range []struct{ title, id, name string }{
		{"ADD, macvlan-vip", "vips-add-%d", nameQuiet}, {"ADD, ip -batch", "vips-add-%d", nameFloor},
		{"ADD, article's commands", "vips-add-%d", nameArticle}, {"CHECK, macvlan-vip", "vips-check-%d", nameQuiet},
	} {
		fmt.Fprintf(&b, "$c%d << E\n", i)
		for _, n := range sizes {
			if s, ok := r.find(fmt.Sprintf(curve.id, n)).of(curve.name); ok {
				fmt.Fprintf(&b, "%d %g %g %g\n", n, s.Median/unit.Median, s.Q1/unit.Median, s.Q3/unit.Median)
			}
		}
		b.WriteString("E\n")
		fmt.Fprintf(&plot, ", $c%d using 1:2:3:4 with yerrorlines title %q lw 2 pt 7 lc rgb %q", i, curve.title, colours[i])
	}
	return b.String() + "plot " + strings.TrimPrefix(plot.String(), ", ") + "\n"
}

package bench

import (
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
)

// style has a background of its own, so that a chart looks the same on a light
// page and on a dark one.
const style = `set terminal svg size 880,%d background rgb "#ffffff" font "Helvetica,13" noenhanced
set border lc rgb "#77767b"
set tics textcolor rgb "#241f31"
set title textcolor rgb "#241f31" font "Helvetica Bold,14"
set xlabel textcolor rgb "#3d3846"
set ylabel textcolor rgb "#3d3846"
set key textcolor rgb "#241f31"
set grid xtics lc rgb "#c0bfbc" lw 0.5
`

// Colours that stay apart for readers who do not tell red from green.
const (
	colourOurs  = "#1a5fb4"
	colourOther = "#c0bfbc"
	colourProbe = "#99c1f1"
)

var colours = []string{"#1a5fb4", "#77767b", "#c64600", "#26a269"}

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
		"service": r.service().script(), "vips": r.scaling(), "data": r.data().script(),
		"failover": r.failover().script(), "crowd": r.crowd().script(), "start": r.starting(), "full": r.full().script(),
	}
	maps.DeleteFunc(all, func(_, script string) bool { return script == "" })
	return all
}

const (
	less = "less is better"
	more = "more is better"
)

// service is what one start and one stop cost, the probe's wait shown apart.
func (r *Results) service() chart {
	names := []label{
		{nameDefault, "macvlan-vip, as it comes"}, {nameQuiet, "macvlan-vip, no probe, no announcement"},
		{nameUpstream, "upstream macvlan + static + tuning"}, {nameArticle, "the article's commands"}, {nameFloor, "ip -batch: kernel operations alone"}, {nameIdle, "cnitool, static, two idle plugins"},
	}
	add := r.panel("add-next", "cnitool add: ms, "+less, names)
	c := r.find("add-next")
	add.wait, add.waitFor = c.median(nameDefault)-c.median(nameNoProbe), "waiting for answers to the conflict probe"
	return chart{"Attach a service with 2 VIPs, and detach it: median of the rounds, with quartiles", []panel{add, r.panel("del-next", "cnitool del: ms, "+less, names)}}
}

func (r *Results) data() chart {
	names := []label{
		{"host -> VIP", "host to VIP"}, {"LAN -> VIP", "LAN to VIP"}, {"LAN -> host's own netns", "LAN to an address of the host"},
		{"veth + bridge", "veth and bridge"}, {"veth pair", "veth pair"}, {"loopback", "loopback"},
	}
	return chart{"What a service on a VIP gets: median of the rounds, with quartiles", []panel{
		r.panel("throughput", "TCP throughput (iperf3): Gbit/s, "+more, names),
		r.panel("http-rate", "HTTP requests a second to haproxy (wrk, 32 connections), "+more, names),
		r.panel("http-latency", "HTTP latency, 1 connection: µs, "+less, names),
	}}
}

func (r *Results) failover() chart {
	p := r.panel("failover", "from systemctl start there to a LAN peer's first answer: ms (log scale), "+less, []label{
		{nameDefault, "macvlan-vip"}, {nameFresh, "macvlan-vip, peer without an entry"},
		{nameNoProbe, "macvlan-vip, no probe"}, {nameNotify, "arp_notify alone"}, {nameArticle, "the article's commands"},
	})
	p.log = true
	return chart{"A VIP moves to another host: median of the rounds, with quartiles", []panel{p}}
}

func (r *Results) crowd() chart {
	names := []label{
		{nameQuiet + ", service 1", "macvlan-vip, first service"}, {nameQuiet + ", service 500", "macvlan-vip, 500th service"},
		{nameFloor + ", service 1", "ip -batch, first"}, {nameFloor + ", service 500", "ip -batch, 500th"},
	}
	return chart{"The first and the 500th service of a host (no probe, no announcement): median, with quartiles", []panel{
		r.panel("services-add", "cnitool add: ms, "+less, names), r.panel("services-del", "cnitool del: ms, "+less, names),
	}}
}

func (r *Results) full() chart {
	names := []label{
		{nameDefault, "macvlan-vip"}, {nameUpstream, "upstream macvlan + static + tuning"}, {nameOwn, "addresses of the host itself"},
	}
	units := []label{{nameDefault, "macvlan-vip"}, {nameBare, "the same units on the host's network"}}
	const percent = ", 1,000 a second: % of a core, " + less
	return chart{"A host of 500 services; the units of 100: median, with quartiles", []panel{
		r.panel("full-memory", "the kernel's memory: KiB a service, without its namespace, "+less, names),
		r.panel("full-arp", "ARP requests of LAN peers for each other"+percent, names),
		r.panel("full-ns", "IPv6 neighbour solicitations for the VIPs"+percent, names),
		r.panel("full-multicast", "multicasts to all IPv6 nodes"+percent, names),
		r.panel("full-start", "100 services, systemctl start: ms, "+less, units),
		r.panel("full-stop", "100 services, systemctl stop: ms, "+less, units),
		r.panel("full-one", "one service more, systemctl start: ms, "+less, units),
	}}
}

// label is a contender and what a chart calls it.
type label struct{ name, text string }

// chart is one figure of panels below each other.
type chart struct {
	title  string
	panels []panel
}

// panel is one comparison as horizontal bars.
type panel struct {
	title string
	bars  []bar
	// wait is the part of the first bar in which nothing is done but to wait.
	wait    float64
	waitFor string
	log     bool
}

type bar struct {
	text string
	ours bool
	Spread
}

// figure is the median with three digits, and without an exponent.
func (b bar) figure() string {
	if b.Median >= 100 {
		return fmt.Sprintf("%.0f", b.Median)
	}
	return fmt.Sprintf("%.3g", b.Median)
}

// panel takes what there is of a comparison; without any it has no bars.
func (r *Results) panel(id, title string, names []label) panel {
	p := panel{title: title}
	for _, n := range names {
		if s, ok := r.find(id).of(n.name); ok {
			p.bars = append(p.bars, bar{n.text, strings.HasPrefix(n.name, nameDefault) || strings.HasSuffix(n.name, "-> VIP"), s.Spread})
		}
	}
	return p
}

const (
	barHeight    = 26
	panelHeading = 80
	chartHeading = 44
)

// script is gnuplot's, or "" if a panel has nothing to show.
func (c chart) script() string {
	height := chartHeading
	for _, p := range c.panels {
		if len(p.bars) == 0 {
			return ""
		}
		height += panelHeading + barHeight*len(p.bars)
	}
	var b strings.Builder
	fmt.Fprintf(&b, style, height)
	fmt.Fprintf(&b, "set multiplot\nset label 1 %q at screen 0.5,%g center font \"Helvetica Bold,15\" textcolor rgb \"#241f31\"\n", c.title, 1-22/float64(height))
	top := float64(height - chartHeading)
	for _, p := range c.panels {
		p.write(&b, top/float64(height), (top-float64(panelHeading+barHeight*len(p.bars)))/float64(height), float64(height))
		top -= float64(panelHeading + barHeight*len(p.bars))
		b.WriteString("unset label 1\n")
	}
	return b.String() + "unset multiplot\n"
}

// write draws a panel between two heights, as parts of the figure's.
func (p panel) write(b *strings.Builder, top, bottom, height float64) {
	fmt.Fprintf(b, "set lmargin at screen 0.34\nset rmargin at screen 0.95\nset tmargin at screen %g\nset bmargin at screen %g\n", top-38/height, bottom+36/height)
	fmt.Fprintf(b, "set title %q offset 0,-0.4\n", p.title)
	from, longest := "0", 0.0
	for _, bar := range p.bars {
		longest = max(longest, bar.Q3)
	}
	if p.log {
		b.WriteString("set logscale x\n")
		from, longest = "10", 3*longest
	}
	// Room for the figure behind the longest bar.
	fmt.Fprintf(b, "set xrange [%s:%g]\nset yrange [0.4:%g]\nset ytics (", from, 1.12*longest, float64(len(p.bars))+0.6)
	for i, bar := range p.bars {
		fmt.Fprintf(b, "%s%q %d", strings.Repeat(", ", min(i, 1)), bar.text, len(p.bars)-i)
	}
	fmt.Fprintf(b, ") scale 0\n$bars << E\n")
	for i, bar := range p.bars {
		colour := colourOther
		if bar.ours {
			colour = colourOurs
		}
		fmt.Fprintf(b, "%d %g %g %g %s %s\n", len(p.bars)-i, bar.Median, bar.Q1, bar.Q3, strings.Replace(colour, "#", "0x", 1), bar.figure())
	}
	fmt.Fprintf(b, "E\nset style fill solid 1 noborder\nset key %s\n", map[bool]string{true: "inside bottom right samplen 1", false: "off"}[p.wait > 0])
	fmt.Fprintf(b, "plot $bars using (0):1:(%s):2:($1-0.33):($1+0.33):5 with boxxyerror lc rgb variable notitle", from)
	if p.wait > 0 {
		first := p.bars[0]
		fmt.Fprintf(b, ", '+' using (0):(%d):(%g):(%g):(%g):(%g) every ::::0 with boxxyerror fs solid 1 lc rgb %q title %q",
			len(p.bars), first.Median-p.wait, first.Median, float64(len(p.bars))-0.33, float64(len(p.bars))+0.33, colourProbe, p.waitFor)
	}
	b.WriteString(", $bars using 2:1:3:4 with xerrorbars pt 0 lc rgb \"#241f31\" lw 1 notitle")
	b.WriteString(", $bars using 4:1:(\"  \".strcol(6)) with labels left tc rgb \"#241f31\" notitle\n")
	if p.log {
		b.WriteString("unset logscale x\n")
	}
}

// scaling draws what more VIPs cost.
func (r *Results) scaling() string {
	if _, ok := r.find("vips-add-1").of(nameFloor); !ok {
		return ""
	}
	var b, plot strings.Builder
	fmt.Fprintf(&b, style, 470)
	b.WriteString("set title \"What more VIPs cost one service: ms, less is better (no probe, no announcement; median, with quartiles)\"\nset grid ytics\n" +
		"set logscale xy\nset xlabel \"VIPs of the service\"\nset ylabel \"ms\"\nset xrange [0.8:1300]\nset key bottom right\n")
	for i, curve := range []struct{ title, id, name string }{
		{"cnitool add, macvlan-vip", "vips-add-%d", nameQuiet}, {"ip -batch: kernel operations alone", "vips-add-%d", nameFloor},
		{"the article's commands", "vips-add-%d", nameArticle}, {"cnitool check, macvlan-vip", "vips-check-%d", nameQuiet},
	} {
		fmt.Fprintf(&b, "$c%d << E\n", i)
		for _, n := range sizes {
			if s, ok := r.find(fmt.Sprintf(curve.id, n)).of(curve.name); ok {
				fmt.Fprintf(&b, "%d %g %g %g\n", n, s.Median, s.Q1, s.Q3)
			}
		}
		b.WriteString("E\n")
		fmt.Fprintf(&plot, ", $c%d using 1:2:3:4 with yerrorlines title %q lw 2 pt 7 ps 0.6 lc rgb %q", i, curve.title, colours[i])
	}
	return b.String() + "plot " + strings.TrimPrefix(plot.String(), ", ") + "\n"
}

// segment is a part of a stacked bar: stages that are shown as one.
type segment struct {
	text, colour string
	stages       []string
}

var segments = []segment{
	{"systemd", colourOther, []string{stageSystemd, stageSandbox}},
	{"macvlan-vip's processes", colourOurs, []string{stageMake, stageAdd, stageCNI}},
	{"waiting for answers to the conflict probe", colourProbe, []string{stageProbe}},
	{"the article's unit", colours[2], []string{stageArticle}},
	{"haproxy", colours[3], []string{stageHaproxy}},
}

// starting shows what a start's time goes to: stacked bars of the stages' medians.
func (r *Results) starting() string {
	var bars []Comparison
	for _, name := range []string{nameDefault, nameNoProbe, nameArticle, nameHost} {
		c := r.find("start-stages " + name)
		if len(c.Series) == 0 {
			return ""
		}
		bars = append(bars, c)
	}
	var b, plot strings.Builder
	fmt.Fprintf(&b, style, 330)
	b.WriteString("set title \"From systemctl start haproxy to a LAN peer's first page: ms, less is better (medians)\"\n" +
		"set lmargin at screen 0.27\nset yrange [0.4:4.6]\nset xrange [0:*]\nset key below horizontal samplen 1 maxrows 2\nset style fill solid 1 noborder\nset ytics (")
	for i, name := range []string{"macvlan-vip", "macvlan-vip, no probe", "the article's commands", "haproxy on the host's address"} {
		fmt.Fprintf(&b, "%s%q %d", strings.Repeat(", ", min(i, 1)), name, len(bars)-i)
	}
	b.WriteString(") scale 0\n")
	ends := make([]float64, len(bars))
	for i, seg := range segments {
		fmt.Fprintf(&b, "$s%d << E\n", i)
		for row, c := range bars {
			width := 0.0
			for _, stage := range seg.stages {
				if s, ok := c.of(stage); ok {
					width += s.Median
				}
			}
			if width > 0 {
				fmt.Fprintf(&b, "%d %g %g\n", len(bars)-row, ends[row], ends[row]+width)
			}
			ends[row] += width
		}
		fmt.Fprintf(&b, "E\n")
		fmt.Fprintf(&plot, ", $s%d using 2:1:2:3:($1-0.33):($1+0.33) with boxxyerror lc rgb %q title %q", i, seg.colour, seg.text)
	}
	b.WriteString("$ends << E\n")
	for row, end := range ends {
		fmt.Fprintf(&b, "%d %g %.0f\n", len(bars)-row, end, end)
	}
	b.WriteString("E\n")
	return b.String() + "plot " + strings.TrimPrefix(plot.String(), ", ") + ", $ends using 2:1:(\"  \".strcol(3)) with labels left tc rgb \"#241f31\" notitle\n"
}

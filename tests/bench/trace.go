package bench

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// trace shows where one ADD's time goes: its system calls, and its processes
// with what they ask of the kernel. strace slows everything down, so that
// counts are right, and times only in proportion.
func trace(t testing.TB, out io.Writer) {
	s := newSite(t, vips(2), true)
	w := wayDefault()
	w.prepare(s)
	counts, calls := filepath.Join(s.dir, "counts"), filepath.Join(s.dir, "calls")
	for _, options := range [][]string{
		{"-c", "-f", "-S", "time", "-o", counts},
		{"-f", "-ttt", "-yy", "-s", "64", "-e", "trace=process,sendto,clone,clone3,exit_group", "-o", calls},
	} {
		add := w.add(s)
		add.argv = slices.Concat([]string{"strace"}, options, add.argv)
		s.run(add)
		s.run(w.del(s))
		s.restore()
	}
	table, err := os.ReadFile(counts)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(out, "System calls of `cnitool add`, 2 VIPs, default probe and announcements:\n%s\n", table)
	lines, err := os.Open(calls)
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	tl := timeline{threads: map[string]*process{}, starting: map[string]bool{}}
	for scan := bufio.NewScanner(lines); scan.Scan(); {
		tl.read(scan.Text())
	}
	tl.print(out)
}

// process is one of a trace.
type process struct {
	name string
	// depth is how many processes are above it.
	depth      int
	start, end float64
	netlink    map[string]int
}

// timeline is a trace's processes, in the order of their starts.
type timeline struct {
	processes []*process
	// threads finds a thread's process, starting tells of those that are about
	// to start a process, not a thread.
	threads  map[string]*process
	starting map[string]bool
}

var (
	traced  = regexp.MustCompile(`^(\d+) +(\d+\.\d+) (.*)$`)
	cloned  = regexp.MustCompile(`clone3?[ (].* = (\d+)`)
	execed  = regexp.MustCompile(`^execve\("([^"]*)"`)
	message = regexp.MustCompile(`nlmsg_type=(\w+)`)
)

// read takes one line of strace -f -ttt.
func (tl *timeline) read(line string) {
	m := traced.FindStringSubmatch(line)
	if m == nil {
		return
	}
	thread, call := m[1], m[3]
	at, _ := strconv.ParseFloat(m[2], 64)
	p := tl.threads[thread]
	if p == nil {
		p = tl.begin(thread, 0, at)
	}
	p.end = at
	if strings.HasPrefix(call, "clone") {
		tl.starting[thread] = !strings.Contains(call, "CLONE_THREAD")
	}
	if child := cloned.FindStringSubmatch(call); child != nil {
		switch existing := tl.threads[child[1]]; {
		case !tl.starting[thread]:
			tl.threads[child[1]] = p
			tl.processes = slices.DeleteFunc(tl.processes, func(o *process) bool { return o == existing })
		case existing != nil:
			existing.depth = p.depth + 1
		default:
			tl.begin(child[1], p.depth+1, at)
		}
	}
	if name := execed.FindStringSubmatch(call); name != nil {
		p.name = filepath.Base(name[1])
	}
	if kind := message.FindStringSubmatch(call); kind != nil && strings.HasPrefix(call, "sendto(") {
		p.netlink[messageName(kind[1])]++
	}
}

// messageName names what strace cannot, since it looks sockets up in its own
// network namespace alone (linux/rtnetlink.h).
func messageName(kind string) string {
	number, err := strconv.ParseUint(kind, 0, 16)
	if err != nil {
		return kind
	}
	objects := []string{"LINK", "ADDR", "ROUTE", "NEIGH"}
	if at := int(number-unix.RTM_BASE) / 4; at >= 0 && at < len(objects) {
		return "RTM_" + []string{"NEW", "DEL", "GET", "SET"}[number%4] + objects[at]
	}
	return kind
}

func (tl *timeline) begin(thread string, depth int, at float64) *process {
	p := &process{name: "(fork)", depth: depth, start: at, netlink: map[string]int{}}
	tl.threads[thread] = p
	tl.processes = append(tl.processes, p)
	return p
}

func (tl *timeline) print(out io.Writer) {
	fmt.Fprintf(out, "Processes, by per cent of the whole, and their netlink requests:\n")
	if len(tl.processes) == 0 {
		return
	}
	first := tl.processes[0]
	whole := first.end - first.start
	for _, p := range tl.processes {
		requests := 0
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(p.netlink)) {
			requests += p.netlink[kind]
			kinds = append(kinds, fmt.Sprintf("%s %d", kind, p.netlink[kind]))
		}
		fmt.Fprintf(out, "  %4.0f - %4.0f  %-24s %3d  %s\n", 100*(p.start-first.start)/whole, 100*(p.end-first.start)/whole,
			strings.Repeat("  ", p.depth)+p.name, requests, strings.Join(kinds, ", "))
	}
}

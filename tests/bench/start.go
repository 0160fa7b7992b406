package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	machines "macvlan-vip/tests/machine"
)

// nameHost is haproxy as Debian has it, on an address of the host.
const nameHost = "haproxy on the host's own address"

// newcomers are the ways in which haproxy gets an address that nobody had before.
func newcomers(t testing.TB) []successor {
	t.Helper()
	dropIn := netnsConf(t)
	network := func(keys map[string]any) string { return conflist(t, "haproxy", ours(keys), vip4+"/16") }
	return []successor{
		{name: nameHost, bind: machineAddr},
		{name: nameArticle, dropIn: articleDropIn},
		{name: nameNoProbe, dropIn: dropIn, conflist: network(map[string]any{"addressConflict": "ignore"})},
		{name: nameDefault, dropIn: dropIn, conflist: network(nil)},
	}
}

// The stages of a start, each of them the time of one thing that is waited for.
const (
	stageSystemd = "systemd, between processes"
	stageSandbox = "systemd, from fork to exec of our processes"
	stageMake    = "helper: make"
	stageAdd     = "helper: add, without cnitool"
	stageCNI     = "cnitool and plugins"
	stageProbe   = "waiting for answers to the conflict probe"
	stageArticle = "the article's unit"
	stageHaproxy = "haproxy, until the first page"
	stageWhole   = "the whole"
)

var stages = []string{stageSystemd, stageSandbox, stageMake, stageAdd, stageCNI, stageProbe, stageArticle, stageHaproxy, stageWhole}

// starts measures how long a user waits who starts a service.
func starts(t *testing.T, rounds int) []Comparison {
	f := newTakeover(t)
	f.lonely()
	return append(f.starts(max(rounds/3, 2)), f.answers(100))
}

func (f *takeover) starts(rounds int) []Comparison {
	f.t.Helper()
	whole := newSamples()
	parts := map[string]*samples{}
	ways := newcomers(f.t)
	inTurn(rounds, ways, func(round int, s successor) {
		took := f.newcomer(s)
		if round < 0 {
			return
		}
		whole.add(s.name, took[stageWhole])
		if parts[s.name] == nil {
			parts[s.name] = newSamples(stages...)
		}
		for stage, ms := range took {
			parts[s.name].add(stage, ms)
		}
	})
	// The probe is waited for inside of cnitool.
	probed, unprobed := parts[nameDefault].values, parts[nameNoProbe].values
	probed[stageProbe] = differences(probed[stageCNI], unprobed[stageCNI])
	probed[stageCNI] = unprobed[stageCNI]
	all := []Comparison{whole.comparison("start", "systemctl start, until a LAN peer has its first page from haproxy", "ms", nameHost)}
	ours, host := whole.values[nameNoProbe], whole.values[nameHost]
	all[0].Goals = []Goal{{ID: "start-ours", Text: "milliseconds of a start that are ours: " + nameNoProbe + " - " + nameHost, Ratio: spread(differences(ours, host)), Most: 30}}
	for _, s := range ways {
		all = append(all, parts[s.name].comparison("start-stages "+s.name, "where a start's time goes: "+s.name, "ms", stageWhole))
	}
	return all
}

// differences subtracts round by round.
func differences(of, from []float64) []float64 {
	all := make([]float64, min(len(of), len(from)))
	for i := range all {
		all[i] = of[i] - from[i]
	}
	return all
}

// lonely leaves the machine and the peer alone on the LAN. The peer asks for a VIP
// every few milliseconds, so that the time until it asks again is in no figure.
func (f *takeover) lonely() {
	f.t.Helper()
	f.old.IP("link set eth0 down")
	f.peer.Sysctl("net/ipv4/neigh/eth0/retrans_time_ms", "4")
	f.peer.Sysctl("net/ipv4/neigh/eth0/mcast_solicit", "100000")
}

// newcomer starts and stops haproxy, and tells the milliseconds of each stage.
func (f *takeover) newcomer(s successor) map[string]float64 {
	f.t.Helper()
	f.become(s)
	f.peer.IP("neigh flush all")
	settled()
	watch := f.trace()
	answer := f.firstAnswer(s.address(), eager(f.b.Slowness()))
	f.run("systemctl start haproxy")
	f.wait(answer)
	events := watch()
	f.stop()
	init, err := f.b.Init()
	if err != nil {
		f.t.Fatal(err)
	}
	took, err := divide(events, init, s)
	if err != nil {
		f.t.Fatal(err)
	}
	return took
}

// eager is a peer that asks every millisecond, and does not keep a CPU busy with it.
func eager(slowness int) asking {
	return asking{askers: 4, patience: time.Duration(20*slowness) * time.Millisecond, pause: 4 * time.Millisecond}
}

// event is something that the kernel of the machine saw.
type event struct {
	// at is in milliseconds of the kernel's monotonic clock.
	at   float64
	kind string
	// by and of are processes: of a fork the parent and the child, or else the one
	// and the same. Threads count as processes.
	by, of int
	// what is the program that is executed, or the state of a connection.
	what string
}

// tracing starts an instance of ftrace (Documentation/trace/ftrace.rst), or prints what it
// has seen, or ends it.
const tracing = `
dir=$1 name=$2
instance=$dir/instances/$name
case $3 in
on)
	mkdir -p "$dir"
	mountpoint -q "$dir" || mount -t tracefs tracefs "$dir"
	mkdir -p "$instance"
	cd "$instance"
	echo mono >trace_clock
	for event in sched/sched_process_fork sched/sched_process_exec sched/sched_process_exit sock/inet_sock_set_state; do
		echo 1 >"events/$event/enable"
	done
	;;
show)
	echo 0 >"$instance/tracing_on"
	cat "$instance/trace"
	;;
off)
	rmdir "$instance"
	umount "$dir"
	;;
esac`

// trace has the machine's kernel note processes and connections, until the returned
// function is called.
func (f *takeover) trace() (end func() []event) {
	f.t.Helper()
	run, dir := f.b.Run, "/run/bench-trace"
	if f.b.Kind == machines.Nspawn {
		// The kernel is this one.
		run, dir = local, filepath.Join(f.t.TempDir(), "trace")
	}
	name := fmt.Sprintf("bench-%d", os.Getpid())
	script := func(verb string) (string, error) { return run("sh", "-ec", tracing, "sh", dir, name, verb) }
	stop := sync.OnceValue(func() error {
		_, err := script("off")
		return err
	})
	f.t.Cleanup(func() { _ = stop() })
	if _, err := script("on"); err != nil {
		f.t.Fatal(err)
	}
	return func() []event {
		f.t.Helper()
		text, err := script("show")
		if err := errors.Join(err, stop()); err != nil {
			f.t.Fatal(err)
		}
		return parseTrace(text)
	}
}

// parseTrace reads tracefs' file trace.
func parseTrace(text string) (events []event) {
	for line := range strings.Lines(text) {
		if e, ok := parseEvent(strings.TrimSpace(line)); ok {
			events = append(events, e)
		}
	}
	return events
}

var (
	traceLine  = regexp.MustCompile(` (\d+\.\d+): (\w+): (.*)$`)
	traceField = regexp.MustCompile(`(\w+)=(\S+)`)
)

func parseEvent(line string) (e event, ok bool) {
	m := traceLine.FindStringSubmatch(line)
	if m == nil {
		return e, false
	}
	field := map[string]string{}
	for _, f := range traceField.FindAllStringSubmatch(m[3], -1) {
		field[f[1]] = f[2]
	}
	seconds, _ := strconv.ParseFloat(m[1], 64)
	e = event{at: 1000 * seconds, kind: strings.TrimPrefix(m[2], "sched_process_")}
	e.by, _ = strconv.Atoi(field["pid"])
	e.of = e.by
	switch e.kind {
	case "fork":
		e.of, _ = strconv.Atoi(field["child_pid"])
	case "exec":
		e.what = filepath.Base(field["filename"])
	case "inet_sock_set_state":
		e.what = strings.Join([]string{field["saddr"], field["sport"], field["newstate"]}, " ")
	}
	return e, true
}

// local is a machine's Run for this one.
func local(command ...string) (string, error) {
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
	}
	return string(out), err
}

// child is a process that the machine's systemd has started.
type child struct {
	program string
	// below are programs that were executed by its descendants, and when they ran.
	below            []*child
	fork, exec, exit float64
}

// children gives the processes that a process has started, in order.
func children(events []event, init int) (all []*child) {
	// Each process and thread below init belongs to one of the children.
	of, running := map[int]*child{}, map[int]*child{}
	for _, e := range events {
		top := of[e.by]
		switch {
		case e.kind == "fork" && e.by == init:
			c := &child{fork: e.at}
			of[e.of], running[e.of] = c, c
			all = append(all, c)
		case e.kind == "fork" && top != nil:
			of[e.of] = top
		case e.kind == "exec" && top != nil:
			// systemd 254 and later start a program through one of their own.
			if e.what == "systemd-executor" {
				continue
			}
			if running[e.by] == nil {
				running[e.by] = &child{}
				top.below = append(top.below, running[e.by])
			}
			running[e.by].program, running[e.by].exec = e.what, e.at
		case e.kind == "exit" && running[e.by] != nil:
			running[e.by].exit = e.at
		}
	}
	return all
}

// divide tells what a start's time went to. events begin with it; init is the process
// that starts units.
func divide(events []event, init int, s successor) (map[string]float64, error) {
	began, answered := 0.0, 0.0
	for _, e := range events {
		if began == 0 && e.kind == "exec" && e.what == "systemctl" {
			began = e.at
		}
		// haproxy ends a connection itself when it has sent a page.
		if answered == 0 && e.what == s.address()+" 80 TCP_FIN_WAIT1" {
			answered = e.at
		}
	}
	if began == 0 || answered == 0 {
		return nil, fmt.Errorf("%s: systemctl was started at %g ms, and a page sent at %g ms, by the kernel's trace", s.name, began, answered)
	}
	took := map[string]float64{stageWhole: answered - began}
	rest := answered - began
	spend := func(stage string, ms float64) {
		took[stage] += ms
		rest -= ms
	}
	var helpers []*child
	for _, c := range children(events, init) {
		switch {
		case c.fork < began || c.exec == 0 || c.exit == 0 && c.program != "haproxy":
		case c.program == "haproxy":
			spend(stageHaproxy, answered-c.fork)
			shim(helpers, spend)
			took[stageSystemd] = rest
			return took, nil
		case c.program == "systemd-netns-helper":
			helpers = append(helpers, c)
		case s.dropIn == articleDropIn:
			spend(stageArticle, c.exit-c.fork)
		}
	}
	return nil, fmt.Errorf("%s: the kernel's trace has no haproxy that systemd has started", s.name)
}

// shim divides what the shim's processes took. The last adds the namespace to its
// network; before that it is made.
func shim(helpers []*child, spend func(stage string, ms float64)) {
	for i, c := range helpers {
		spend(stageSandbox, c.exec-c.fork)
		stage := stageMake
		if i == len(helpers)-1 {
			stage = stageAdd
		}
		ran := c.exit - c.exec
		for _, below := range c.below {
			if below.program == "cnitool" {
				spend(stageCNI, below.exit-below.exec)
				ran -= below.exit - below.exec
			}
		}
		spend(stage, ran)
	}
}

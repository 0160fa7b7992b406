package bench

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	machines "macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

const (
	// bootedServices is how many the booted machine starts at once.
	bootedServices = 100
	nameBare       = "the same units on the host's network"
)

// town is a machine with units that do nothing but be there, each of a namespace
// (app@1, app@2 ...) or not (bare@1, bare@2 ...).
type town struct {
	*machines.Machine
	t testing.TB
}

// manyUnits is what many services at once cost a booted machine.
func manyUnits(t *testing.T, rounds int) []Comparison {
	return crowdedUnits(t, bootedServices, max(rounds/15, 1))
}

// crowdedUnits is how long systemd takes for n services at once, and for one among them.
func crowdedUnits(t *testing.T, n, rounds int) []Comparison {
	m := newTown(t, n+1)
	starts, stops, one, peaks, user := newSamples(), newSamples(), newSamples(), newSamples(), newSamples()
	inTurn(rounds, []string{"bare", "app"}, func(round int, template string) {
		name := map[string]string{"bare": nameBare, "app": nameDefault}[template]
		before := m.userMemory()
		peak := sampleMemory(t)
		start := m.systemctl("start", template, 1, n)
		used := peak()
		kept := m.userMemory() - before
		among := m.systemctl("start", template, n+1, n+1)
		m.systemctl("stop", template, n+1, n+1)
		stop := m.systemctl("stop", template, 1, n)
		if round < 0 {
			return
		}
		starts.add(name, ms(start))
		stops.add(name, ms(stop))
		one.add(name, ms(among))
		peaks.add(name, used)
		user.add(name, kept/float64(n))
	})
	title := fmt.Sprintf("%d services at once", n)
	return []Comparison{
		starts.comparison("full-start", "systemctl start of "+title, "ms", nameBare),
		stops.comparison("full-stop", "systemctl stop of "+title, "ms", nameBare),
		one.comparison("full-one", fmt.Sprintf("systemctl start of one service more than %d", n), "ms", nameBare),
		user.comparison("full-user", fmt.Sprintf("memory of user space for each of %d services, but for their own processes", n), "KiB", nameDefault),
		peaks.comparison("full-peak", "memory at the peak of a start of "+title, "MiB", nameDefault),
	}
}

func newTown(t *testing.T, n int) town {
	t.Helper()
	lan := testnet.New(t)
	m := machines.NewFor(t, []string{"-n50"}, machines.Connect(machines.NIC{LAN: lan.Path(), Port: "port", Addresses: []string{machineAddr + "/16"}}))
	lan.AddAddress("port", "10.99.0.5/16")
	talk(t, lan)
	const unit = "[Service]\nExecStart=sleep infinity\n"
	m.MustWrite(t, dropIns+"bare@.service", unit)
	m.MustWrite(t, dropIns+"app@.service", unit)
	m.MustWrite(t, dropIns+"app@.service.d/netns.conf", netnsConf(t))
	for i := range n {
		v4, _ := crowdVIPs(i)
		name := fmt.Sprintf("app-%d", i+1)
		m.MustWrite(t, "etc/cni/net.d/"+name+".conflist", conflist(t, name, ours(nil), v4.String()+"/16"))
	}
	if err := m.Systemctl("mask", "haproxy.service"); err != nil {
		t.Fatal(err)
	}
	m.MustBoot(t)
	return town{m, t}
}

// talk has somebody ask for an address now and then, as on any LAN: where nobody is
// heard, the keeper has a doubt about each new service, and looks after it twice.
func talk(t testing.TB, lan *testnet.Namespace) {
	t.Helper()
	ping := exec.Command("nsenter", "--net="+lan.Path(), "ping", "-q", "10.99.250.250")
	if err := ping.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ping.Process.Kill()
		_ = ping.Wait()
	})
}

// systemctl runs a verb on the instances from one number to another.
func (m town) systemctl(verb, template string, from, to int) time.Duration {
	m.t.Helper()
	command := []string{"systemctl", verb}
	for i := from; i <= to; i++ {
		command = append(command, fmt.Sprintf("%s@%d.service", template, i))
	}
	began := time.Now()
	m.MustRun(m.t, command...)
	m.settle()
	took := time.Since(began)
	want := map[string]string{"start": "active", "stop": "inactive"}[verb]
	out, _ := m.Run(append([]string{"systemctl", "is-active"}, command[2:]...)...)
	if strings.Count("\n"+out, "\n"+want) != to-from+1 {
		m.t.Fatalf("not all are %s: %s", want, out)
	}
	return took
}

// settle waits until systemd has no jobs: the shims stop after their services.
func (m town) settle() {
	m.t.Helper()
	testnet.Within(m.t, 5*time.Minute, "systemd has no jobs", func() error {
		out, err := m.Run("systemctl", "list-jobs", "--no-legend")
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("jobs: %s", out)
		}
		return err
	})
}

// userMemory is that of all processes but the services' own, in KiB, when those that
// announce VIPs have ended. Pages that processes share count once.
func (m town) userMemory() (kib float64) {
	m.t.Helper()
	testnet.Eventually(m.t, "nothing is announced any more", func() error {
		if out, err := m.Run("pgrep", "macvlan-vip"); err == nil {
			return fmt.Errorf("processes %s", out)
		}
		return nil
	})
	out := m.MustRun(m.t, "sh", "-c", `for p in /proc/[0-9]*; do read -r name <$p/comm && [ "$name" != sleep ] && grep -h ^Pss: $p/smaps_rollup; done 2>/dev/null; true`)
	for line := range strings.Lines(out) {
		var pss float64
		if _, err := fmt.Sscanf(line, "Pss: %g kB", &pss); err != nil {
			m.t.Fatalf("%q: %v", line, err)
		}
		kib += pss
	}
	return kib
}

// sampleMemory tells how much memory was used at the peak, in MiB more than at first.
func sampleMemory(t testing.TB) (peak func() float64) {
	available := func() float64 { return meminfo(t)["MemAvailable"] / 1024 }
	first := available()
	done, result := make(chan struct{}), make(chan float64)
	go func() {
		least := first
		for {
			select {
			case <-done:
				result <- first - least
				return
			case <-time.After(20 * time.Millisecond):
				least = min(least, available())
			}
		}
	}()
	return func() float64 {
		close(done)
		return <-result
	}
}

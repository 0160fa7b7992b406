package packages

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

const (
	vip1   = "172.16.26.1"
	vip2   = "172.16.26.2"
	answer = "answer of haproxy"
)

// lab is a machine without the project, on a LAN with one peer.
type lab struct {
	peer *testnet.Namespace
	m    *machine.Machine
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{peer: testnet.New(t)}
	l.m = machine.NewFor(t, []string{"-n", "100"}, machine.Bare(),
		machine.Connect(machine.NIC{LAN: l.peer.Path(), Port: "port", Addresses: []string{"172.16.27.217/22"}}))
	l.peer.AddAddress("port", "172.16.27.5/22")
	// It is started when its namespace can be made.
	if err := l.m.Systemctl("disable", "haproxy.service"); err != nil {
		t.Fatal(err)
	}
	l.write(t, "etc/haproxy/haproxy.cfg", fmt.Sprintf(`
defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
frontend vips
	bind %s:80
	bind %s:80
	http-request return status 200 content-type text/plain string %q
`, vip1, vip2, answer))
	l.m.MustBoot(t)
	return l
}

func (l *lab) write(t testing.TB, name, content string) {
	t.Helper()
	l.m.MustWrite(t, name, content)
}

// copyIn puts a package into the machine and gives its path there.
func (l *lab) copyIn(t testing.TB, path string) string {
	t.Helper()
	to := "/root/" + filepath.Base(path)
	l.write(t, to, string(read(t, path)))
	return to
}

// run runs a command line that must succeed; words are parted by spaces.
func (l *lab) run(t testing.TB, command string) string {
	t.Helper()
	out, err := l.try(command)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (l *lab) try(command string) (string, error) {
	out, err := l.m.Run(strings.Fields(command)...)
	return strings.TrimSpace(out), err
}

func (l *lab) serves(t testing.TB) {
	t.Helper()
	for name, from := range map[string]machine.Station{"host": l.m, "LAN peer": l.peer} {
		for _, vip := range []string{vip1, vip2} {
			testnet.Eventually(t, name+" gets the page of "+vip, func() error { return from.WantPage(vip, answer) })
		}
	}
}

// watch pings a VIP and fetches another one's page, from the LAN peer, until
// stop is called, which asserts that not one answer was missing.
func (l *lab) watch(t testing.TB) (stop func()) {
	t.Helper()
	var out strings.Builder
	ping := exec.Command("ping", "-n", "-i", "0.05", "-W", "5", vip1)
	ping.Stdout = &out
	l.peer.Do(ping.Start)
	var fetched, failed atomic.Int64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
			fetched.Add(1)
			if err := l.peer.WantPage(vip2, answer); err != nil {
				failed.Add(1)
				t.Errorf("after %d pages: %v", fetched.Load(), err)
			}
		}
	}()
	return func() {
		t.Helper()
		close(done)
		<-ended
		_ = ping.Process.Signal(os.Signal(unix.SIGINT))
		_ = ping.Wait()
		m := regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`).FindStringSubmatch(out.String())
		if m == nil || m[1] != m[2] || m[1] == "0" || fetched.Load() == 0 || failed.Load() > 0 {
			t.Errorf("%d of %d pages failed; ping:\n%s", failed.Load(), fetched.Load(), out.String())
			return
		}
		t.Logf("%s pings and %d pages, none missing", m[1], fetched.Load())
	}
}

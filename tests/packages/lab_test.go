package packages

import (
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
	"macvlan-vip/tests/testlab"
)

// lab is a machine without the project.
type lab struct{ *testlab.Lab }

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{testlab.New(t, []string{"-n", "100"}, testlab.HostAddresses, machine.Bare())}
	// It is started when its namespace can be made.
	if err := l.M.Systemctl("disable", "haproxy.service"); err != nil {
		t.Fatal(err)
	}
	l.Haproxy("")
	l.M.MustBoot(t)
	return l
}

// copyIn puts a package into the machine and gives its path there.
func (l *lab) copyIn(t testing.TB, path string) string {
	t.Helper()
	to := "/root/" + filepath.Base(path)
	l.Write(to, string(read(t, path)))
	return to
}

// watch pings a VIP and fetches another one's page, from the LAN peer, until
// stop is called, which asserts that not one testlab.Answer was missing.
func (l *lab) watch(t testing.TB) (stop func()) {
	t.Helper()
	var out strings.Builder
	ping := exec.Command("ping", "-n", "-i", "0.05", "-W", "5", testlab.VIP1)
	ping.Stdout = &out
	l.Peer.Do(ping.Start)
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
			if err := l.Peer.WantPage(testlab.VIP2, testlab.Answer); err != nil {
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

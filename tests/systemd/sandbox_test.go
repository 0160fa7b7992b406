package systemd

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"macvlan-vip/tests/machine"
)

// TestSandbox: no unit is more exposed than its page says, by systemd's own
// measure, and systemd finds no fault with any.
func TestSandbox(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.run0(t, "systemctl --root=%s mask haproxy.service")
	l.link("app.service.d/netns.conf", unitDir+"netns.conf")
	l.link("app.socket.d/netns.conf", unitDir+"netns-socket.conf")
	l.Write(dropIns+"app.service", "[Service]\nExecStart=sleep infinity\n")
	l.Write(dropIns+"app.socket", "[Socket]\nListenStream=80\n")
	l.link("article.service.d/netns.conf", unitDir+"private-network.conf")
	l.link("systemd-netns@article.service.d/private.conf", unitDir+"systemd-netns-private.conf")
	l.Write(dropIns+"article.service", "[Service]\nExecStart=sleep infinity\n")
	l.boot()
	l.newAnalyze(t)
	for unit, limit := range documentedExposure(t) {
		// The exit status is 1 above the threshold, in tenths.
		if out, err := l.Try("systemd-analyze security --no-pager --threshold=" + strconv.Itoa(limit) + " " + unit); err != nil {
			t.Errorf("%s is more exposed than documented: %v\n%s", unit, err, out)
		}
	}
	units := "systemd-netns@x.service systemd-netns-settle@x.service systemd-netns-access@x.service systemd-netns-repair@x.service systemd-netns-repair@x.timer systemd-netns-watch.service " +
		"app.service app.socket article.service systemd-netns@article.service"
	if out, err := l.M.Run("sh", "-c", "systemd-analyze verify --man=no "+units+" 2>&1"); err != nil || out != "" {
		t.Errorf("systemd-analyze verify: %v:\n%s", err, out)
	}
}

// newAnalyze skips what Debian 11's systemd-analyze cannot tell: it knows of no
// thresholds, nor of programs without a path or of PrivateIPC=.
func (l *lab) newAnalyze(t *testing.T) {
	t.Helper()
	if l.M.Systemd(t) == 247 {
		t.Skip("systemd-analyze is too old")
	}
}

// documentedExposure reads the figures, in tenths, out of the units' page.
func documentedExposure(t *testing.T) map[string]int {
	t.Helper()
	top, err := machine.Top()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(top, "systemd", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	figures := map[string]int{}
	row := regexp.MustCompile("(?m)^\\| `(systemd-netns[a-z-]*@)\\.service` \\| [0-9.]+ \\| ([0-9])\\.([0-9]) \\|")
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		tenths, err := strconv.Atoi(m[2] + m[3])
		if err != nil {
			t.Fatal(err)
		}
		figures[m[1]+"x.service"] = tenths
	}
	if len(figures) != 4 {
		t.Fatalf("figures of %d units in the page, want 4: %v", len(figures), figures)
	}
	return figures
}

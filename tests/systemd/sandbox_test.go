package systemd

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
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
// thresholds, nor of programs without a path.
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
	row := regexp.MustCompile("(?m)^\\| `(systemd-netns[a-z-]*@?)\\.service` \\| ([0-9])\\.([0-9]) \\|")
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		tenths, err := strconv.Atoi(m[2] + m[3])
		if err != nil {
			t.Fatal(err)
		}
		figures[strings.Replace(m[1], "@", "@x", 1)+".service"] = tenths
	}
	if len(figures) != 5 {
		t.Fatalf("figures of %d units in the page, want 5: %v", len(figures), figures)
	}
	return figures
}

// TestSandboxHolds: what the page says that the shim's processes can write, they can, and
// nothing else of what could change the machine; nor do they see what is not theirs.
func TestSandboxHolds(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxyDisabled()
	l.script("usr/local/bin/attempt", `exec >/var/lib/systemd-netns/attempts 2>/dev/null
for file in /etc/x /usr/x /boot/x /run/x /run/systemd/x /var/lib/x \
	/proc/sysrq-trigger /proc/sys/kernel/printk /proc/sys/vm/swappiness /proc/irq/default_smp_affinity \
	/sys/fs/cgroup/cgroup.procs /sys/class/net/lo/mtu /sys/module/macvlan/parameters/x \
	/run/cni/x /var/lib/cni/x /var/lib/systemd-netns/x /run/systemd-netns/haproxy/x /proc/sys/net/ipv4/conf/all/arp_ignore
do
	(: >>"$file") && echo "write $file"
done
mkdir /sys/fs/cgroup/x && echo "make a cgroup"
for file in /proc/kcore /proc/kmsg /dev/kmsg /dev/mem /dev/vda /dev/sda; do
	(: <"$file") && echo "read $file"
done
grep -qv '^0*0 ' /proc/kallsyms && echo "see the kernel's addresses"
ls -A /root /home | grep -q "^[^/]" && echo "see homes"
dmesg --syslog >/dev/null && echo "read the kernel's log"
(: >>/root/x)
mount -t tmpfs x /mnt && echo "mount"
mknod /tmp/x b 254 0 && echo "make a device"
rm -f /run/cni/x /var/lib/cni/x
`)
	l.Write(dropIns+"systemd-netns@haproxy.service.d/attempt.conf", "[Service]\nExecStartPost=attempt\n")
	l.boot()
	l.Run(t, "systemctl start haproxy")
	l.Serves(t, vip1)
	want := `write /run/cni/x
write /var/lib/cni/x
write /var/lib/systemd-netns/x
write /run/systemd-netns/haproxy/x
write /proc/sys/net/ipv4/conf/all/arp_ignore
`
	if got := l.Run(t, "cat /var/lib/systemd-netns/attempts") + "\n"; got != want {
		t.Errorf("processes of the shim can:\n%swant:\n%s", got, want)
	}
	// It has an empty one of its own.
	l.Run(t, "test ! -e /root/x")
}

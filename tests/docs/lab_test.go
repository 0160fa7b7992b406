// Package docs runs what the project's pages tell their readers to run, on a
// booted machine with Debian's haproxy and a peer on its LAN.
package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

func TestMain(m *testing.M) {
	os.Exit(testnet.Plugins(m, "macvlan-vip/plugins/macvlan-vip", "macvlan-vip/plugins/hairpin-route",
		"github.com/containernetworking/plugins/plugins/ipam/static", "github.com/containernetworking/plugins/plugins/ipam/host-local"))
}

const (
	vip = testlab.VIP1
	// clone is where the machine has the project's files, as a reader's does.
	clone = "/root/macvlan-vip"
)

type lab struct {
	*testlab.Lab
	top string
}

// newLab boots a machine that has a clone of the project, built, and a haproxy
// that is configured for the VIPs, and nothing else of what the pages tell.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{Lab: testlab.New(t, []string{"-n", "300"}, testlab.HostAddresses, machine.Bare())}
	var err error
	if l.top, err = machine.Top(); err != nil {
		t.Fatal(err)
	}
	l.clone(t)
	l.Haproxy("")
	l.Write("etc/systemd/system/haproxy.service.d/often.conf", "[Unit]\nStartLimitIntervalSec=0\n")
	// What the pages show broken is to stay so until they say how to mend it.
	for _, args := range [][]string{{"disable", "haproxy"}, {"mask", "systemd-netns-watch.service"}} {
		if err := l.M.Systemctl(args...); err != nil {
			t.Fatal(err)
		}
	}
	l.M.MustBoot(t)
	return l
}

// clone copies the project's files, with their times, so that the machine's
// make finds everything built.
func (l *lab) clone(t *testing.T) {
	t.Helper()
	to := l.M.Path(clone)
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("make -C %[1]s build && tar -C %[1]s --exclude=./build --exclude=./.git -cf - . | tar -C %[2]s -xf -", l.top, to)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("copy the project: %v: %s", err, out)
	}
}

// sh runs a script on the machine, in the clone.
func (l *lab) sh(script string) (string, error) {
	return l.M.Run(inClone(script)...)
}

func inClone(script string) []string { return []string{"sh", "-euc", "cd " + clone + "\n" + script} }

// must is sh for a script that may not fail.
func (l *lab) must(t *testing.T, script string) string {
	t.Helper()
	return l.M.MustRun(t, inClone(script)...)
}

// install brings the machine to where the README has its reader.
func (l *lab) install(t *testing.T) {
	t.Helper()
	l.must(t, `
make -s install >/dev/null
mkdir -p /etc/cni/net.d /etc/systemd/system/haproxy.service.d
cp conf/haproxy.conflist /etc/cni/net.d/
ln -sf /usr/local/lib/systemd/system/netns.conf /etc/systemd/system/haproxy.service.d/
systemctl daemon-reload
systemctl restart haproxy`)
}

// reset undoes what a page has done, and installs again.
func (l *lab) reset(t *testing.T) {
	t.Helper()
	l.must(t, `
systemctl stop haproxy
for i in $(seq 100); do systemctl is-active -q systemd-netns@haproxy || break; sleep 0.1; done
find /etc/systemd/system/haproxy.service.d /etc/systemd/system/systemd-netns@haproxy.service.d -name '*.conf' ! -name often.conf -delete 2>/dev/null || :
rm -rf /etc/cni /etc/systemd-netns /etc/netns
systemctl daemon-reload
systemctl reset-failed`)
	l.install(t)
}

// path of a file of the project.
func (l *lab) path(name string) string { return filepath.Join(l.top, name) }

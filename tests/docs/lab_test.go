// Package docs runs what the project's pages tell their readers to run, on a
// booted machine with Debian's haproxy and a peer on its LAN.
package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

func TestMain(m *testing.M) {
	os.Exit(testnet.Plugins(m, "macvlan-vip/plugins/macvlan-vip", "macvlan-vip/plugins/hairpin-route",
		"github.com/containernetworking/plugins/plugins/ipam/static", "github.com/containernetworking/plugins/plugins/ipam/host-local"))
}

const (
	hostAddr, peerAddr = "172.16.27.217", "172.16.27.5"
	vip                = "172.16.26.1"
	// answer is the backend's, which comes through haproxy.
	answer = "answer of the backend"
	// clone is where the machine has the project's files, as a reader's does.
	clone = "/root/macvlan-vip"
)

// lab is a machine on a LAN with one peer, which serves as haproxy's backend.
type lab struct {
	peer *testnet.Namespace
	m    *machine.Machine
	top  string
}

// newLab boots a machine that has a clone of the project, built, and a haproxy
// that is configured for the VIPs, and nothing else of what the pages tell.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{}
	var err error
	if l.top, err = machine.Top(); err != nil {
		t.Fatal(err)
	}
	l.peer = testnet.New(t)
	l.peer.IP("link set lo up")
	l.m = machine.NewFor(t, []string{"-n", "300"}, machine.Bare(),
		machine.Connect(machine.NIC{LAN: l.peer.Path(), Port: "port", Addresses: []string{hostAddr + "/22", "fd26::217/64"}}))
	l.peer.AddAddress("port", peerAddr+"/22")
	l.peer.AddAddress("port", "fd26::5/64")
	l.peer.ServePage(peerAddr+":8080", answer)
	l.clone(t)
	l.write(t, "etc/haproxy/haproxy.cfg", fmt.Sprintf(`
defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
frontend vips
	bind 172.16.26.1:80
	bind 172.16.26.2:80
	default_backend peer
backend peer
	server peer %s:8080
`, peerAddr))
	l.write(t, "etc/systemd/system/haproxy.service.d/often.conf", "[Unit]\nStartLimitIntervalSec=0\n")
	if err := l.m.Systemctl("disable", "haproxy"); err != nil {
		t.Fatal(err)
	}
	// What the pages show broken is to stay so until they say how to mend it.
	if out, err := exec.Command("systemctl", "--root="+l.m.Path(""), "mask", "systemd-netns-watch.service").CombinedOutput(); err != nil {
		t.Fatalf("mask the keeper: %v: %s", err, out)
	}
	l.m.MustBoot(t)
	return l
}

// clone copies the project's files, with their times, so that the machine's
// make finds everything built.
func (l *lab) clone(t *testing.T) {
	t.Helper()
	to := l.m.Path(clone)
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("make -C %[1]s build && tar -C %[1]s --exclude=./build --exclude=./.git -cf - . | tar -C %[2]s -xf -", l.top, to)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("copy the project: %v: %s", err, out)
	}
}

func (l *lab) write(t *testing.T, name, content string) {
	t.Helper()
	l.m.MustWrite(t, name, content)
}

// sh runs a script on the machine, in the clone.
func (l *lab) sh(script string) (string, error) {
	return l.m.Run("sh", "-euc", "cd "+clone+"\n"+script)
}

// must is sh for a script that may not fail.
func (l *lab) must(t *testing.T, script string) string {
	t.Helper()
	out, err := l.sh(script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// onPeer runs a script on the LAN's peer.
func (l *lab) onPeer(script string) (string, error) {
	var out []byte
	err := l.peer.NetNS.Do(func(ns.NetNS) (err error) {
		out, err = exec.Command("sh", "-euc", script).CombinedOutput()
		return err
	})
	return string(out), err
}

// serves asserts that the VIP gives the backend's answer to host and LAN.
func (l *lab) serves(t *testing.T) {
	t.Helper()
	const get = "curl -s --max-time 3 " + vip
	for name, run := range map[string]func(string) (string, error){"host": l.sh, "peer": l.onPeer} {
		testnet.Eventually(t, "the "+name+" gets an answer from "+vip, func() error {
			out, err := run(get)
			if err == nil && out != answer {
				err = fmt.Errorf("it answers %q", out)
			}
			return err
		})
	}
}

// silent asserts that the VIP is off the LAN.
func (l *lab) silent(t *testing.T) {
	t.Helper()
	testnet.Eventually(t, vip+" is silent", func() error {
		if out, err := l.onPeer("ip neigh flush all; ping -c1 -W1 " + vip); err == nil {
			return fmt.Errorf("it answers: %s", out)
		}
		return nil
	})
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

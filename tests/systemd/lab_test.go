// Package systemd tests the units on a booted systemd, with the
// distribution's own haproxy: what an operator sees, what the kernel holds,
// and what a peer on the LAN gets.
package systemd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

const (
	unitDir   = "/usr/local/lib/systemd/system/"
	dropIns   = "etc/systemd/system/"
	netDir    = "etc/cni/net.d/"
	hostAddr  = "172.16.27.217"
	peerAddr  = "172.16.27.5"
	hostAddr6 = "fd26::217"
	peerAddr6 = "fd26::5"
	vip1      = "172.16.26.1"
	vip2      = "172.16.26.2"
	// The backend's answer, which comes through haproxy.
	answer = "answer of the backend"
)

// lab is a machine on a LAN with one peer, which serves as haproxy's backend.
type lab struct {
	t    testing.TB
	peer *testnet.Namespace
	m    *machine.Machine
}

// newLab makes a machine that is not booted yet.
func newLab(t testing.TB, opts ...machine.Option) *lab {
	t.Helper()
	return newLabAt(t, []string{hostAddr + "/22", hostAddr6 + "/64"}, opts...)
}

// newLabAt is newLab with the addresses that eth0 gets before systemd runs.
func newLabAt(t testing.TB, addresses []string, opts ...machine.Option) *lab {
	t.Helper()
	l := &lab{t: t, peer: testnet.New(t)}
	l.peer.IP("link set lo up")
	l.m = machine.NewFor(t, []string{"-o", "short-precise", "-n", "600", "-u", "systemd-netns*", "-u", "haproxy*", "-u", "app*", "-u", "web*", "-u", "init.scope"},
		append([]machine.Option{lan(l.peer, addresses)}, opts...)...)
	for _, addr := range []string{peerAddr + "/22", peerAddr6 + "/64"} {
		l.peer.AddAddress("port", addr)
	}
	l.peer.ServePage(peerAddr+":8080", answer)
	return l
}

// lan connects the machine's eth0 to the peer, with addresses of the host's.
func lan(peer *testnet.Namespace, addresses []string) machine.Option {
	return machine.Connect(machine.NIC{LAN: peer.Path(), Port: "port", Addresses: addresses})
}

// stations are those that reach VIPs: the host, which is the machine itself,
// and the LAN peer.
func (l *lab) stations() map[string]machine.Station {
	return map[string]machine.Station{"host": l.m, "LAN peer": l.peer}
}

// withHaproxy sets haproxy up as the README says.
func (l *lab) withHaproxy() *lab {
	l.t.Helper()
	l.conflist("haproxy.conflist", "", "")
	l.link("haproxy.service.d/netns.conf", unitDir+"netns.conf")
	l.link("haproxy.service.d/haproxy.conf", "/usr/local/share/macvlan-vip/haproxy.service.d/haproxy.conf")
	l.haproxyConfig("")
	return l
}

func (l *lab) haproxyConfig(more string) {
	l.t.Helper()
	l.write("etc/haproxy/haproxy.cfg", fmt.Sprintf(`
global
	stats socket /run/haproxy/admin.sock mode 660 level admin
defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
frontend vips
	bind %s:80
	bind %s:80
	default_backend peer
backend peer
	server peer %s:8080
%s
`, vip1, vip2, peerAddr, more))
}

// conflist installs one of the examples, with one text replaced by another.
func (l *lab) conflist(example, old, new string) {
	l.t.Helper()
	top, err := machine.Top()
	if err != nil {
		l.t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(top, "conf", example))
	if err != nil {
		l.t.Fatal(err)
	}
	if old != "" && !strings.Contains(string(data), old) {
		l.t.Fatalf("no %q in %s", old, example)
	}
	l.write(netDir+example, strings.Replace(string(data), old, new, 1))
}

// network writes a network of the given VIPs.
func (l *lab) network(name string, vips ...string) {
	l.t.Helper()
	for i, vip := range vips {
		vips[i] = fmt.Sprintf(`{"address": %q}`, vip)
	}
	l.write(netDir+name+".conflist", fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [
		{"type": "macvlan-vip", "master": "eth0", "capabilities": {"ips": true}, "ipam": {"type": "static", "addresses": [%s]}},
		{"type": "hairpin-route"}]}`, name, strings.Join(vips, ", ")))
}

func (l *lab) write(name, content string) {
	l.t.Helper()
	l.m.MustWrite(l.t, name, content)
}

// link makes a drop-in out of a file of the project.
func (l *lab) link(dropIn, target string) {
	l.t.Helper()
	if err := l.m.Link(dropIns+dropIn, target); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) boot() *lab {
	l.t.Helper()
	l.m.MustBoot(l.t)
	return l
}

// run runs a command that must succeed.
func (l *lab) run(t testing.TB, command string) string {
	t.Helper()
	out, err := l.m.Run(strings.Fields(command)...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// try runs a command that may fail.
func (l *lab) try(command string) (string, error) {
	out, err := l.m.Run(strings.Fields(command)...)
	return strings.TrimSpace(out), err
}

func (l *lab) daemonReload(t testing.TB) {
	t.Helper()
	l.run(t, "systemctl daemon-reload")
	l.run(t, "systemctl reset-failed")
}

// serves asserts that VIPs give the backend's answer to host and LAN.
func (l *lab) serves(t testing.TB, vips ...string) {
	t.Helper()
	for name, from := range l.stations() {
		for _, vip := range vips {
			testnet.Eventually(t, fmt.Sprintf("the %s gets the answer from %s", name, vip), func() error { return from.WantPage(vip, answer) })
		}
	}
}

// silent asserts that a VIP answers neither host nor LAN, not even to ARP.
func (l *lab) silent(t testing.TB, vip string) {
	t.Helper()
	testnet.Eventually(t, vip+" is silent", func() error {
		l.peer.IP("neigh flush all")
		for name, from := range l.stations() {
			if body, err := from.Page(vip); err == nil {
				return fmt.Errorf("it answers the %s: %q", name, body)
			}
		}
		if entry := l.peer.IP("neigh show " + vip); strings.Contains(entry, "lladdr") {
			return fmt.Errorf("it answers ARP: %s", entry)
		}
		return nil
	})
}

// gone asserts that nothing is left on the machine of any service of ours.
func (l *lab) gone(t testing.TB, before string) {
	t.Helper()
	testnet.Eventually(t, "nothing is left", func() error {
		if after := l.m.Snapshot(); after != before {
			return fmt.Errorf("host before:\n%s\nafter:\n%s", before, after)
		}
		if names := l.run(t, "ip netns list"); names != "" {
			return fmt.Errorf("namespaces: %s", names)
		}
		if files, _ := l.try("find /run/cni /var/lib/cni/results /run/netns -type f"); files != "" {
			return fmt.Errorf("files: %s", files)
		}
		return nil
	})
}

// identity is what a service's namespace and link are known by.
func (l *lab) identity(t testing.TB, name string) string {
	t.Helper()
	return l.run(t, "stat -L -c %i /run/netns/"+name) + " " + l.run(t, "ip netns exec "+name+" cat /sys/class/net/mv0/address")
}

func (l *lab) state(unit string) string {
	out, _ := l.try("systemctl is-active " + unit)
	return out
}

func (l *lab) wantState(t testing.TB, unit, want string) {
	t.Helper()
	testnet.Eventually(t, unit+" is "+want, func() error {
		if got := l.state(unit); got != want {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

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
	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

const (
	unitDir = "/usr/local/lib/systemd/system/"
	dropIns = "etc/systemd/system/"
	netDir  = "etc/cni/net.d/"

	hostAddr, peerAddr   = testlab.HostAddr, testlab.PeerAddr
	hostAddr6, peerAddr6 = testlab.HostAddr6, testlab.PeerAddr6
	vip1, vip2           = testlab.VIP1, testlab.VIP2
	answer               = testlab.Answer
)

// journal is what a failed test shows.
var journal = []string{"-o", "short-precise", "-n", "600", "-u", "systemd-netns*", "-u", "haproxy*", "-u", "app*", "-u", "web*", "-u", "init.scope"}

type lab struct{ *testlab.Lab }

// newLab makes a machine that is not booted yet.
func newLab(t testing.TB, opts ...machine.Option) *lab {
	t.Helper()
	return newLabAt(t, testlab.HostAddresses, opts...)
}

// newLabAt is newLab with the addresses that eth0 gets before systemd runs.
func newLabAt(t testing.TB, addresses []string, opts ...machine.Option) *lab {
	t.Helper()
	return &lab{testlab.New(t, journal, addresses, opts...)}
}

// withHaproxy sets haproxy up as the README says.
func (l *lab) withHaproxy() *lab {
	l.T.Helper()
	l.conflist("haproxy.conflist", "", "")
	l.link("haproxy.service.d/netns.conf", unitDir+"netns.conf")
	l.link("haproxy.service.d/haproxy.conf", "/usr/local/share/macvlan-vip/haproxy.service.d/haproxy.conf")
	l.Haproxy("")
	return l
}

// withHaproxyDisabled is withHaproxy for a haproxy that does not start at boot.
func (l *lab) withHaproxyDisabled() *lab {
	l.T.Helper()
	l.withHaproxy()
	if err := l.M.Systemctl("disable", "haproxy.service"); err != nil {
		l.T.Fatal(err)
	}
	return l
}

// until waits for a command to succeed.
func (l *lab) until(t testing.TB, what, command string) {
	t.Helper()
	testnet.Eventually(t, what, func() error {
		_, err := l.Try(command)
		return err
	})
}

// conflist installs one of the examples, with one text replaced by another.
func (l *lab) conflist(example, old, new string) {
	l.T.Helper()
	top, err := machine.Top()
	if err != nil {
		l.T.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(top, "conf", example))
	if err != nil {
		l.T.Fatal(err)
	}
	if old != "" && !strings.Contains(string(data), old) {
		l.T.Fatalf("no %q in %s", old, example)
	}
	l.Write(netDir+example, strings.Replace(string(data), old, new, 1))
}

// network writes a network of the given VIPs.
func (l *lab) network(name string, vips ...string) {
	l.T.Helper()
	for i, vip := range vips {
		vips[i] = fmt.Sprintf(`{"address": %q}`, vip)
	}
	l.Write(netDir+name+".conflist", fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [
		{"type": "macvlan-vip", "master": "eth0", "capabilities": {"ips": true}, "ipam": {"type": "static", "addresses": [%s]}},
		{"type": "hairpin-route"}]}`, name, strings.Join(vips, ", ")))
}

// link makes a drop-in out of a file of the project.
func (l *lab) link(dropIn, target string) {
	l.T.Helper()
	if err := l.M.Link(dropIns+dropIn, target); err != nil {
		l.T.Fatal(err)
	}
}

func (l *lab) boot() *lab {
	l.T.Helper()
	l.M.MustBoot(l.T)
	return l
}

func (l *lab) daemonReload(t testing.TB) {
	t.Helper()
	l.Run(t, "systemctl daemon-reload")
	l.Run(t, "systemctl reset-failed")
}

// gone asserts that nothing is left on the machine of any service of ours.
func (l *lab) gone(t testing.TB, before string) {
	t.Helper()
	testnet.Eventually(t, "nothing is left", func() error {
		if after := l.M.Snapshot(); after != before {
			return fmt.Errorf("host before:\n%s\nafter:\n%s", before, after)
		}
		if names := l.Run(t, "ip netns list"); names != "" {
			return fmt.Errorf("namespaces: %s", names)
		}
		if files, _ := l.Try("find /run/cni /var/lib/cni/results /run/netns -type f"); files != "" {
			return fmt.Errorf("files: %s", files)
		}
		return nil
	})
}

// identity is what a service's namespace and link are known by.
func (l *lab) identity(t testing.TB, name string) string {
	t.Helper()
	return l.Run(t, "stat -L -c %i /run/netns/"+name) + " " + l.Run(t, "ip netns exec "+name+" cat /sys/class/net/mv0/address")
}

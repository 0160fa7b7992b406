// Package managers tests services on their VIPs on machines whose network is
// managed as people's are: by systemd-networkd, NetworkManager or ifupdown, with
// addresses by DHCP and router advertisements.
package managers

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

const (
	hostAddr   = "192.0.2.50"
	vip4, vip6 = "192.0.2.10", "2001:db8::10"
	answer     = "answer of haproxy"
	hostMAC    = "02:00:5e:00:53:50"
	// patience is for an emulated CPU, and for managers that wait a minute.
	patience = 4 * time.Minute
)

const haproxy = testlab.HaproxyDefaults + `
frontend vips
	bind :80
	bind [::]:80 v6only
	http-request return status 200 content-type text/plain string "answer of haproxy"
`

// lab is a machine with one network manager, on a LAN with one peer, which is
// also its DHCP server and router.
type lab struct {
	peer *testnet.Namespace
	m    *machine.Machine
	dhcp *exec.Cmd
}

// newLab makes a machine with as many network cards as there are MACs, on
// which a unit alone manages the network, and haproxy as Debian has it, on port 80.
func newLab(t *testing.T, unit string, macs ...string) *lab {
	t.Helper()
	l := &lab{peer: testnet.New(t)}
	l.peer.IP("link set lo up")
	l.peer.IP("link add lan type bridge")
	var nics []machine.NIC
	for i, mac := range macs {
		nics = append(nics, machine.NIC{LAN: l.peer.Path(), Port: fmt.Sprint("port", i), MAC: mac})
	}
	l.m = machine.NewFor(t, []string{"-b", "-n", "300", "-o", "short-monotonic"}, machine.With(packages()...), machine.Connect(nics...))
	for _, nic := range nics {
		l.peer.IP("link set " + nic.Port + " master lan")
	}
	l.peer.IP("link set lan up")
	l.peer.AddAddress("lan", "192.0.2.5/24")
	l.peer.AddAddress("lan", "2001:db8::5/64")
	maskOthers(t, l.m, unit)
	// An emulated CPU that has others to share with is slow beyond what systemd allows.
	l.m.MustWrite(t, "etc/systemd/system.conf.d/slow.conf", "[Manager]\nDefaultTimeoutStartSec=10min\n")
	l.m.MustWrite(t, "etc/haproxy/haproxy.cfg", haproxy)
	t.Cleanup(l.stopDHCP)
	return l
}

// maskOthers leaves a machine one manager. That they are disabled would not do:
// at its first boot systemd enables what its presets name.
func maskOthers(t *testing.T, m *machine.Machine, unit string) {
	t.Helper()
	for other, waits := range map[string]string{
		"systemd-networkd.service": "systemd-networkd-wait-online.service", "NetworkManager.service": "NetworkManager-wait-online.service",
		"networking.service": "", "dhcpcd.service": "",
	} {
		args := []string{"mask", other}
		if other == unit {
			args[0] = "enable"
		}
		if waits != "" {
			args = append(args, waits)
		}
		if err := m.Systemctl(args...); err != nil {
			t.Fatal(err)
		}
	}
}

// packages are all managers that are not systemd's, so that one root does. Each
// release's ifupdown gets the DHCP client that it comes with.
func packages() []string {
	if machine.DefaultSuite() == "bookworm" {
		return []string{"network-manager", "ifupdown", "isc-dhcp-client", "dhcpcd"}
	}
	return []string{"network-manager", "ifupdown", "dhcpcd"}
}

// boot boots the machine and says what it is.
func (l *lab) boot(t *testing.T) {
	t.Helper()
	begun := time.Now()
	l.m.MustBoot(t)
	t.Logf("%s: up after %.0f s", l.sh(t, "echo $(uname -r; systemctl --version | head -n 1)"), time.Since(begun).Seconds())
}

// sh runs a script on the machine that must succeed.
func (l *lab) sh(t *testing.T, script string) string {
	t.Helper()
	return l.m.MustRun(t, "sh", "-euc", script)
}

// startDHCP has the peer give the host its address, and advertise a prefix.
func (l *lab) startDHCP(t *testing.T) {
	t.Helper()
	l.dhcp = exec.Command("ip", slices.Concat(
		[]string{
			"netns", "exec", filepath.Base(l.peer.Path()), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
			"--port=0", "--pid-file=", "--user=root", "--interface=lan", "--bind-interfaces", "--log-facility=-",
		},
		testlab.DHCPServer(hostAddr+","+hostAddr+",255.255.255.0"), testlab.RouterOn("lan"))...)
	if err := l.dhcp.Start(); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) stopDHCP() {
	if l.dhcp != nil {
		_ = l.dhcp.Process.Kill()
		_ = l.dhcp.Wait()
		l.dhcp = nil
	}
}

// serves: host and LAN peer reach the service on each VIP.
func (l *lab) serves(t *testing.T) {
	t.Helper()
	l.pages(t, "LAN peer", l.peer)
	l.pages(t, "host", l.m)
}

func (l *lab) pages(t *testing.T, name string, from machine.Station) {
	t.Helper()
	testlab.Reached(t, patience, map[string]machine.Station{name: from}, map[string]string{vip4: answer, vip6: answer})
}

// online waits until the host has its addresses of both families.
func (l *lab) online(t *testing.T) {
	t.Helper()
	testnet.Within(t, patience, "the LAN peer pings the host", func() error { return l.peer.Ping(netip.MustParseAddr(hostAddr)) })
	host6 := netip.MustParseAddr(l.hostAddress6(t))
	testnet.Within(t, patience, "the LAN peer pings the host by IPv6", func() error { return l.peer.Ping(host6) })
}

// hostAddress6 waits for the address that the host has made of the router's
// prefix, which routers' advertisements bring late.
func (l *lab) hostAddress6(t *testing.T) string {
	t.Helper()
	var found string
	testnet.Within(t, patience, "the host has an IPv6 address of the LAN", func() error {
		out, err := l.m.TryIP("-6 address show scope global -tentative")
		m := regexp.MustCompile(`inet6 (2001:db8::[0-9a-f:]+)/`).FindStringSubmatch(out)
		if err != nil || m == nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		found = m[1]
		return nil
	})
	return found
}

// ours is what the host has of the project's, which no manager may touch. The address that
// the host asks from may be another afterwards: dhcpcd, which ifupdown calls since Debian 13,
// makes one in place of the kernel's.
func (l *lab) ours(t *testing.T) string {
	t.Helper()
	out := testnet.Steady(l.sh(t, `ip -o link show mv-int; ip -o address show dev mv-int
ip route show table local proto 118; ip -6 route show table local proto 118; ip neighbour show dev mv-int nud permanent | sort`))
	return strings.ReplaceAll(out, " src "+l.hostAddress6(t)+" ", " src (the host's) ")
}

// stay: what is ours is, once more, what it was, down to the link's index.
func (l *lab) stay(t *testing.T, ours string) {
	t.Helper()
	testnet.Within(t, patience, "what is on mv-int is as it was", func() error {
		if now := l.ours(t); now != ours {
			return fmt.Errorf("before:\n%s\nnow:\n%s", ours, now)
		}
		return nil
	})
}

// ping pings an address from the peer until stop is called, which tells how
// many echo requests went unanswered.
func (l *lab) ping(addr string) (stop func() (lost, sent int)) {
	var out strings.Builder
	cmd := exec.Command("ping", "-n", "-i", "0.2", "-W", "5", addr)
	cmd.Stdout = &out
	l.peer.Do(cmd.Start)
	return func() (lost, sent int) {
		// What is under way may arrive.
		time.Sleep(2 * time.Second)
		_ = cmd.Process.Signal(unix.SIGINT)
		_ = cmd.Wait()
		return unanswered(out.String())
	}
}

var summary = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// unanswered reads what ping(8) says at its end; lost is -1 if it says nothing.
func unanswered(out string) (lost, sent int) {
	m := summary.FindStringSubmatch(out)
	if m == nil {
		return -1, 0
	}
	sent, _ = strconv.Atoi(m[1])
	received, _ := strconv.Atoi(m[2])
	return sent - received, sent
}

// noWorse: while do runs, no VIP loses more than the host's own address of the
// same family does, but for a packet or two that the emulated CPU is late with.
func (l *lab) noWorse(t *testing.T, do func()) {
	t.Helper()
	host6 := l.hostAddress6(t)
	pairs := [][2]string{{vip4, hostAddr}, {vip6, host6}}
	var stops [2][2]func() (int, int)
	for i, pair := range pairs {
		for j, addr := range pair {
			stops[i][j] = l.ping(addr)
		}
	}
	do()
	for i, pair := range pairs {
		vipLost, sent := stops[i][0]()
		hostLost, _ := stops[i][1]()
		t.Logf("of %d pings, %s lost %d, the host's %s lost %d", sent, pair[0], vipLost, pair[1], hostLost)
		if vipLost > hostLost+2 || vipLost < 0 {
			t.Errorf("%s lost %d pings, the host's own %s %d", pair[0], vipLost, pair[1], hostLost)
		}
	}
}

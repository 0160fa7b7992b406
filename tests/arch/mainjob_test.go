// Package arch tests the main job on machines of other architectures, which
// QEMU emulates.
package arch

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

const (
	vip4, vip6 = "192.0.2.10", "2001:db8::10"
	answer     = "answer of haproxy"
	// patience is for an emulated CPU, on a machine that has others to emulate.
	patience = 5 * time.Minute
)

const network = `{
  "cniVersion": "1.1.0", "name": "haproxy",
  "plugins": [
    {"type": "macvlan-vip", "master": "eth0", "ipam": {"type": "static", "addresses": [
      {"address": "192.0.2.10/24"}, {"address": "2001:db8::10/64"}]}},
    {"type": "hairpin-route"}
  ]
}`

const haproxy = testlab.HaproxyDefaults + `
frontend vips
	bind 192.0.2.10:80
	bind [2001:db8::10]:80
	http-request return status 200 content-type text/plain string "answer of haproxy"
`

// TestMainJob: on the architecture that ARCH names, the host and a LAN peer
// reach an unmodified haproxy on its VIPs, after a restart, too, and a stop
// leaves the host as it was.
func TestMainJob(t *testing.T) {
	arch := os.Getenv("ARCH")
	if arch == "" {
		t.Skip("takes long: `make test-arch ARCH=s390x` runs it")
	}
	peer := testnet.New(t)
	peer.IP("link set lo up")
	m := machine.NewFor(t, []string{"-n", "200"}, machine.Arch(arch), machine.Connect(machine.NIC{
		LAN: peer.Path(), Port: "port", Addresses: []string{"192.0.2.1/24", "2001:db8::1/64"},
	}))
	peer.AddAddress("port", "192.0.2.5/24")
	peer.AddAddress("port", "2001:db8::5/64")
	m.MustWrite(t, "etc/cni/net.d/haproxy.conflist", network)
	m.MustWrite(t, "etc/haproxy/haproxy.cfg", haproxy)
	if err := m.Link("etc/systemd/system/haproxy.service.d/netns.conf", "/usr/local/lib/systemd/system/netns.conf"); err != nil {
		t.Fatal(err)
	}
	m.MustBoot(t)
	run := func(command string) string {
		t.Helper()
		return m.MustRun(t, strings.Fields(command)...)
	}
	t.Logf("%s, %s", run("uname -rm"), run("systemctl --version"))
	serves := func(t *testing.T) {
		t.Helper()
		testlab.Reached(t, patience, map[string]machine.Station{"host": m, "LAN peer": peer}, map[string]string{vip4: answer, vip6: answer})
	}
	before := m.Snapshot()
	run("systemctl start haproxy")
	t.Run("serves", serves)
	t.Run("what the kernel holds", func(t *testing.T) {
		for command, want := range map[string]string{
			"ip route show table local proto 118":                        "192.0.2.10 dev mv-int scope link src 192.0.2.1 metric 100",
			"ip -6 route show table local proto 118":                     "2001:db8::10 dev mv-int",
			"ip neighbour show dev mv-int nud permanent to 192.0.2.10":   "192.0.2.10 lladdr ",
			"ip neighbour show dev mv-int nud permanent to 2001:db8::10": "2001:db8::10 lladdr ",
			"ip -netns haproxy address show dev mv0":                     "inet 192.0.2.10/24 brd 192.0.2.255 ",
			"ip -netns haproxy neighbour show nud permanent":             "192.0.2.1 dev mv0 lladdr ",
		} {
			if got := run(command); !strings.Contains(got, want) {
				t.Errorf("%s: no %q in:\n%s", command, want, got)
			}
		}
	})
	t.Run("restart", func(t *testing.T) {
		run("systemctl restart haproxy")
		serves(t)
	})
	t.Run("the keeper repairs, and CHECK finds nothing", func(t *testing.T) {
		run("ip route del 192.0.2.10 table local proto 118 dev mv-int")
		testnet.Within(t, patience, "the route is back", func() error {
			if got := run("ip route show table local proto 118"); !strings.Contains(got, "192.0.2.10 dev mv-int") {
				return fmt.Errorf("%q", got)
			}
			return nil
		})
		run("systemctl reload systemd-netns@haproxy")
		serves(t)
		out := run("journalctl --no-pager -o cat -t systemd-netns")
		for _, want := range []string{"the host's route to 192.0.2.10 was removed by process ", "nothing to repair"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in the journal:\n%s", want, out)
			}
		}
	})
	t.Run("a VIP that the LAN has is refused", func(t *testing.T) {
		run("systemctl stop haproxy")
		peer.AddAddress("port", vip4+"/24")
		defer peer.IP("address delete " + vip4 + "/24 dev port")
		if out, err := m.Run("systemctl", "start", "haproxy"); err == nil {
			t.Errorf("started on an address that the peer has: %s", out)
		}
	})
	t.Run("stop leaves nothing", func(t *testing.T) {
		_, _ = m.Run("systemctl", "stop", "haproxy")
		testnet.Within(t, patience, "the host is as before", func() error {
			if now := m.Snapshot(); now != before {
				return fmt.Errorf("before:\n%s\nnow:\n%s", before, now)
			}
			return nil
		})
	})
}

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/gopacket/gopacket/layers"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"macvlan-vip/tests/testnet"
)

// released tells whether a DHCPRELEASE came over the wire. Upstream's daemon
// sends it without a source address, which the server's own socket never sees.
func released(c *testnet.Capture) bool {
	return slices.ContainsFunc(c.Frames(), func(f testnet.Frame) bool {
		m, ok := f.Layer(layers.LayerTypeDHCPv4).(*layers.DHCPv4)
		return ok && slices.ContainsFunc(m.Options, func(o layers.DHCPOption) bool {
			return o.Type == layers.DHCPOptMessageType && string(o.Data) == string([]byte{byte(layers.DHCPMsgTypeRelease)})
		})
	})
}

// startDHCP starts upstream's daemon on a host.
func startDHCP(t *testing.T, host *testnet.Namespace, socket string, args ...string) (kill func()) {
	t.Helper()
	dhcp, err := exec.LookPath("dhcp")
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(dhcp, append([]string{"daemon", "-socketpath", socket}, args...)...)
	if err := host.NetNS.Do(func(ns.NetNS) error { return daemon.Start() }); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	}
	t.Cleanup(kill)
	within(t, "the daemon listens", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return kill
}

// TestDHCP gets a VIP from a DHCP server on the LAN, through upstream's daemon,
// and gives it back.
func TestDHCP(t *testing.T) {
	host, lan := testnet.NewHost(t, "192.0.2.1/24")
	lan.AddAddress("port", "192.0.2.5/24")
	t.Cleanup(lan.ServeDHCP("port", netip.MustParseAddr("192.0.2.5"), netip.MustParsePrefix("192.0.2.10/24"), dhcpv4.WithRouter(net.IPv4(192, 0, 2, 5))))
	wire := lan.Capture("port")
	socket := filepath.Join(t.TempDir(), "dhcp.sock")
	kill := startDHCP(t, host, socket)

	a := attach(t, host, "c1")
	conf := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan-vip", "master": "eth0", "ipam": {"type": "dhcp", "daemonSocketPath": %q}}`, socket)
	r := add(t, a, conf)
	if len(r.IPs) != 1 || r.IPs[0].Address.String() != "192.0.2.10/24" {
		t.Fatalf("addresses: %v", r.IPs)
	}
	if out := a.Service.IP("route show default"); !strings.Contains(out, "default via 192.0.2.5 dev mv0") {
		t.Errorf("the server's route: %q", out)
	}

	// While it runs, to an address of the configuration's own and back again.
	own := testnet.With(t, conf, "ipam", map[string]any{"type": "static", "addresses": []any{map[string]string{"address": "192.0.2.20/24"}}})
	add(t, a, own)
	within(t, "the lease is given back by the change", func() bool { return released(wire) })
	if out := a.Service.IP("address show mv0"); strings.Contains(out, "192.0.2.10/") || !strings.Contains(out, "192.0.2.20/24") {
		t.Errorf("changed to static:\n%s", out)
	}
	add(t, a, conf)
	if out := a.Service.IP("address show mv0"); !strings.Contains(out, "192.0.2.10/24") || strings.Contains(out, "192.0.2.20/") {
		t.Errorf("changed back to dhcp:\n%s", out)
	}

	// A new link needs a new lease.
	a.Service.IP("link del mv0")
	r = add(t, a, conf)
	if out := a.Service.IP("address show mv0"); !strings.Contains(out, "192.0.2.10/24") {
		t.Errorf("the link was deleted:\n%s", out)
	}

	// A daemon that was started again knows of no lease to renew or to give back. The
	// CHECK that follows each repair has it ask for one.
	kill()
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	startDHCP(t, host, socket)
	if err := a.Check(testnet.With(t, conf, "prevResult", r), cmdCheck); err != nil {
		t.Errorf("CHECK after the daemon's restart: %v", err)
	}

	wire = lan.Capture("port")
	del(t, a, conf)
	within(t, "the lease is given back", func() bool { return released(wire) })
}

// TestExpiredLease: the daemon takes the link down when a lease has expired, and renews it no
// more. A repair gets another lease then, and does not go on without one.
func TestExpiredLease(t *testing.T) {
	host, lan := testnet.NewHost(t, "192.0.2.1/24")
	server := netip.MustParseAddr("192.0.2.5")
	lan.AddAddress("port", "192.0.2.5/24")
	stop := lan.ServeDHCP("port", server, netip.MustParsePrefix("192.0.2.10/24"), dhcpv4.WithLeaseTime(2))
	socket := filepath.Join(t.TempDir(), "dhcp.sock")
	startDHCP(t, host, socket, "-timeout", "200ms", "-resendtimeout", "500ms")

	a := attach(t, host, "c1")
	conf := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan-vip", "master": "eth0", "ipam": {"type": "dhcp", "daemonSocketPath": %q}}`, socket)
	add(t, a, conf)
	stop()
	within(t, "the link is down", func() bool { return !strings.Contains(a.Service.IP("link show mv0"), ",UP") })

	t.Cleanup(lan.ServeDHCP("port", server, netip.MustParsePrefix("192.0.2.11/24")))
	r := add(t, a, conf)
	if out := a.Service.IP("address show mv0"); strings.Contains(out, "192.0.2.10/") || !strings.Contains(out, "192.0.2.11/24") {
		t.Errorf("after the repair:\n%s", out)
	}
	if err := a.Check(testnet.With(t, conf, "prevResult", r), cmdCheck); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	del(t, a, conf)
}

func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

// TestMachine: what tests rely on, of the kind that MACHINE names.
func TestMachine(t *testing.T) {
	lan := testnet.New(t)
	m := NewFor(t, []string{"-n", "50"}, Bare(), Connect(
		NIC{LAN: lan.Path(), Port: "port0", MAC: "02:00:5e:00:53:01", Addresses: []string{"192.0.2.1/24", "2001:db8::1/64"}},
		NIC{LAN: lan.Path(), Port: "port1"},
	))
	lan.AddAddress("port0", "192.0.2.5/24")
	lan.AddAddress("port0", "2001:db8::5/64")
	if err := errors.Join(m.Write("etc/before", "written before"), m.Link("etc/link", "before"), m.Systemctl("mask", "haproxy.service")); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	m.MustBoot(t)
	t.Logf("%s, kernel %s: up after %s", m.Kind, m.run1(t, "uname -r"), time.Since(start).Round(time.Second/10))

	t.Run("commands", func(t *testing.T) { testCommands(t, m) })
	t.Run("files", func(t *testing.T) { testFiles(t, m) })
	t.Run("network", func(t *testing.T) { testNetwork(t, m, lan) })
	t.Run("power", func(t *testing.T) { testPower(t, m, lan) })
	t.Run("crash", func(t *testing.T) { testCrash(t, m) })
}

func (m *Machine) run1(t *testing.T, command string) string {
	t.Helper()
	out, err := m.Run("sh", "-c", command)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func testCommands(t *testing.T, m *Machine) {
	out, err := m.Run("sh", "-c", "echo out; echo complaint >&2; exit 7")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Status != 7 || out != "out\n" || !strings.Contains(err.Error(), "complaint") {
		t.Errorf("output %q, error %v", out, err)
	}
	// Neither ends without the other.
	var wg sync.WaitGroup
	for _, script := range []string{"mkfifo /run/pipe; cat /run/pipe", "until test -p /run/pipe; do sleep 0.1; done; echo | tee /run/pipe"} {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), testnet.Patience)
			defer cancel()
			if out, err := m.RunContext(ctx, "sh", "-ec", script); err != nil || out != "\n" {
				t.Errorf("%s: %q, %v", script, out, err)
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := m.RunContext(ctx, "sleep", "1000"); err == nil {
		t.Error("a command outlived its context")
	}
	testnet.Eventually(t, "the command is killed", func() error {
		if out, err := m.Run("pgrep", "-f", "sleep 1000"); err == nil {
			return fmt.Errorf("it runs: %s", out)
		}
		return nil
	})
	if out := m.run1(t, "head -c 3000000 /dev/zero | wc -c; head -c 1000000 /dev/zero | base64 -w0"); len(out) < 1_300_000 || !strings.HasPrefix(out, "3000000") {
		t.Errorf("%d bytes of output", len(out))
	}
}

func testFiles(t *testing.T, m *Machine) {
	if out, err := m.Read("etc/link"); err != nil || out != "written before" {
		t.Errorf("%q, %v", out, err)
	}
	content := strings.Repeat("line\n", 50_000)
	if err := m.Write("srv/new/file", content); err != nil {
		t.Fatal(err)
	}
	if out, err := m.Read("srv/new/file"); err != nil || out != content {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	if err := m.Link("srv/linked/file", "/srv/new/file"); err != nil {
		t.Fatal(err)
	}
	if out, err := m.Run("readlink", "/srv/linked/file"); err != nil || out != "/srv/new/file\n" {
		t.Errorf("the link leads to %q, %v", out, err)
	}
	if out, _ := m.Run("systemctl", "is-enabled", "haproxy.service"); out != "masked\n" {
		t.Errorf("haproxy is %q", out)
	}
}

func testNetwork(t *testing.T, m *Machine, lan *testnet.Namespace) {
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		testnet.Eventually(t, "the machine answers at "+addr, func() error { return lan.Ping(netip.MustParseAddr(addr)) })
	}
	if mac := m.run1(t, "cat /sys/class/net/eth0/address"); mac != "02:00:5e:00:53:01" {
		t.Errorf("eth0 has MAC %s", mac)
	}
	m.run1(t, "ip link set eth1 up")
	for _, on := range []bool{false, true} {
		if err := m.SetCarrier(1, on); err != nil {
			t.Fatal(err)
		}
		want := map[bool]string{false: "0", true: "1"}[on]
		testnet.Eventually(t, "eth1 has carrier "+want, func() error {
			if got := m.run1(t, "cat /sys/class/net/eth1/carrier"); got != want {
				return fmt.Errorf("carrier %s", got)
			}
			return nil
		})
	}
	// Nothing that a test does to the network parts it from its machine.
	m.run1(t, "for link in lo eth0 eth1; do ip link set $link down; ip link set $link up; done; ip address flush dev eth0")
	if out := m.run1(t, "echo still here"); out != "still here" {
		t.Error(out)
	}
}

func testPower(t *testing.T, m *Machine, lan *testnet.Namespace) {
	m.run1(t, "echo kept >/srv/kept; sync; echo $(cat /proc/sys/kernel/random/boot_id) >/srv/boot")
	host := netip.MustParseAddr("192.0.2.1")
	if err := m.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := lan.Ping(host); err == nil {
		t.Error("the machine answers while it is off")
	}
	m.MustBoot(t)
	testnet.Eventually(t, "it answers again", func() error { return lan.Ping(host) })
	m.run1(t, "sync")
	m.Cut()
	if err := lan.Ping(host); err == nil {
		t.Error("the machine answers after a power cut")
	}
	m.MustBoot(t)
	testnet.Eventually(t, "it answers again", func() error { return lan.Ping(host) })
	if out := m.run1(t, "cat /srv/kept"); out != "kept" {
		t.Errorf("the file holds %q", out)
	}
}

// testCrash: of a machine that has crashed there is no journal to read, but what
// its kernel said of it.
func testCrash(t *testing.T, m *Machine) {
	want := []string{"the machine has ended: "}
	if m.Kind == QEMU {
		_, _ = m.Run("sh", "-c", "echo c >/proc/sysrq-trigger")
		want = append(want, "sysrq triggered crash")
	} else {
		m.kill()
	}
	select {
	case <-m.exited():
	case <-time.After(testnet.Patience):
		t.Fatal("it has not ended")
	}
	said := m.lastWords(nil)
	for _, w := range want {
		if !strings.Contains(said, w) {
			t.Errorf("no %q in:\n%s", w, said)
		}
	}
}

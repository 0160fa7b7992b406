package machine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"macvlan-vip/tests/testnet"
)

// NewFor is New for a test, which the machine goes with; if the test fails,
// journal, the arguments of a journalctl on the machine, tells why.
func NewFor(t testing.TB, journal []string, opts ...Option) *Machine {
	t.Helper()
	m, err := New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	m.t = t
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.lastWords(journal))
		}
		if err := m.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// lastWords are those of the machine's journal, or, if it has ended though nobody
// asked it to, of its console, where a kernel says why.
func (m *Machine) lastWords(journal []string) string {
	if m.running {
		select {
		case <-m.exited():
			return fmt.Sprintf("the machine has ended: %v; its console:\n%s", m.failure(), m.Console())
		default:
		}
	}
	out, err := m.Run(append([]string{"journalctl", "--no-pager"}, journal...)...)
	if err != nil {
		return fmt.Sprintf("no journal: %v; console:\n%s", err, m.Console())
	}
	lines := strings.SplitAfter(out, "\n")
	if len(lines) <= shownLines {
		return "journal:\n" + out
	}
	path, err := m.keep(out)
	if err != nil {
		return fmt.Sprintf("keep the journal: %v\n%s", err, out)
	}
	return fmt.Sprintf("the journal's end, all of it is in %s:\n%s", path, strings.Join(lines[len(lines)-shownLines:], ""))
}

// shownLines is how much of a journal a failed test shows, so that where many fail, what
// each of them has found can still be read.
const shownLines = 40

// keep writes a failed test's journal to a file of its own.
func (m *Machine) keep(journal string) (path string, err error) {
	top, err := Top()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(top, "build", "journals")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// A test can have several machines.
	f, err := os.CreateTemp(dir, strings.ReplaceAll(m.t.Name(), "/", "-")+"-*.log")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(journal)
	return f.Name(), errors.Join(err, f.Close())
}

// MustWrite is Write for a test.
func (m *Machine) MustWrite(t testing.TB, name, content string) {
	t.Helper()
	if err := m.Write(name, content); err != nil {
		t.Fatal(err)
	}
}

// MustBoot is Boot for a test.
func (m *Machine) MustBoot(t testing.TB) {
	t.Helper()
	if err := m.Boot(); err != nil {
		t.Fatal(err)
	}
}

// MustRun is Run for a test, of a command that must succeed. It gives what the
// command prints, without the space around it.
func (m *Machine) MustRun(t testing.TB, command ...string) string {
	t.Helper()
	out, err := m.Run(command...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// MustSetCarrier is SetCarrier for a test.
func (m *Machine) MustSetCarrier(t testing.TB, nic int, on bool) {
	t.Helper()
	if err := m.SetCarrier(nic, on); err != nil {
		t.Fatal(err)
	}
}

// Systemd is the version of the systemd that the machine runs.
func (m *Machine) Systemd(t testing.TB) (version int) {
	t.Helper()
	out, err := m.Run("systemctl", "--version")
	if err == nil {
		_, err = fmt.Sscanf(out, "systemd %d", &version)
	}
	if err != nil {
		t.Fatalf("ask for systemd's version: %v: %s", err, out)
	}
	return version
}

// IP runs ip(8) on the machine and gives what it prints.
func (m *Machine) IP(args string) string {
	m.t.Helper()
	out, err := m.TryIP(args)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// TryIP is IP for commands that may fail.
func (m *Machine) TryIP(args string) (string, error) {
	return m.Run(append([]string{"ip"}, strings.Fields(args)...)...)
}

// Snapshot is the machine's whole state of links, addresses, routes and
// permanent neighbours, as testnet.Namespace has it.
func (m *Machine) Snapshot() string {
	m.t.Helper()
	out, err := m.Run("sh", "-ec", testnet.SnapshotScript)
	if err != nil {
		m.t.Fatal(err)
	}
	return testnet.Steady(out)
}

// Page fetches the page of an address from the machine.
func (m *Machine) Page(addr string) (body string, err error) {
	return m.Run("curl", "--silent", "--show-error", "--noproxy", "*", "--connect-timeout", "2", "--max-time", "5", "http://"+net.JoinHostPort(addr, "80"))
}

// WantPage fetches the page of an address, and says so if it is another one.
func (m *Machine) WantPage(addr, page string) error {
	body, err := m.Page(addr)
	if err == nil && body != page {
		err = fmt.Errorf("%s answers %q", addr, body)
	}
	return err
}

// Ping sends one echo request from the machine.
func (m *Machine) Ping(dst netip.Addr, flags ...string) error {
	_, err := m.Run(append([]string{"ping", "-n", "-c1", "-W2", dst.String()}, flags...)...)
	return err
}

// Station is what can ask for a VIP: a machine, or a namespace on the LAN.
type Station interface {
	IP(args string) string
	Page(addr string) (string, error)
	WantPage(addr, page string) error
	Ping(dst netip.Addr, flags ...string) error
}

var (
	_ Station = (*Machine)(nil)
	_ Station = (*testnet.Namespace)(nil)
)

package nspawn

import (
	"fmt"
	"testing"
)

// NewFor is New for a test, which the machine goes with; if the test fails,
// journal, the arguments of a journalctl on the machine, tells why.
func NewFor(t testing.TB, netns string, journal []string, opts ...Option) *Machine {
	t.Helper()
	m, err := New(netns, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.Run(append([]string{"journalctl", "--no-pager"}, journal...)...)
			t.Logf("journal:\n%s", out)
		}
		if err := m.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return m
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

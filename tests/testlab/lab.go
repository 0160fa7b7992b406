// Package testlab is what the tests on a booted systemd share: a machine with
// Debian's haproxy, on a LAN with one peer.
package testlab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

// The addresses of the host and of its LAN peer, both of a /22 and a /64, and
// the VIPs that haproxy listens on.
const (
	HostAddr  = "172.16.27.217"
	PeerAddr  = "172.16.27.5"
	HostAddr6 = "fd26::217"
	PeerAddr6 = "fd26::5"
	VIP1      = "172.16.26.1"
	VIP2      = "172.16.26.2"
	// Answer is what the backend on the LAN peer answers, through haproxy.
	Answer = "answer of the backend"
)

// HaproxyDefaults is the section of haproxy's configuration that all proxies share.
const HaproxyDefaults = `
defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s`

// HostAddresses are those of the machine's eth0.
var HostAddresses = []string{HostAddr + "/22", HostAddr6 + "/64"}

// Lab is a machine on a LAN with one peer, which serves as haproxy's backend.
type Lab struct {
	T    testing.TB
	Peer *testnet.Namespace
	M    *machine.Machine
}

// New makes a machine that is not booted yet, with addresses on its eth0.
// journal are journalctl's arguments, should the test fail.
func New(t testing.TB, journal, addresses []string, opts ...machine.Option) *Lab {
	t.Helper()
	l := &Lab{T: t, Peer: testnet.New(t)}
	l.Peer.IP("link set lo up")
	opts = append([]machine.Option{Connect(l.Peer, addresses)}, opts...)
	l.M = machine.NewFor(t, journal, opts...)
	l.Peer.AddAddress("port", PeerAddr+"/22")
	l.Peer.AddAddress("port", PeerAddr6+"/64")
	l.Peer.ServePage(PeerAddr+":8080", Answer)
	return l
}

// Connect connects a machine's eth0 to the peer.
func Connect(peer *testnet.Namespace, addresses []string) machine.Option {
	return machine.Connect(machine.NIC{LAN: peer.Path(), Port: "port", Addresses: addresses})
}

// Stations are those that reach VIPs: the host, which is the machine itself,
// and the LAN peer.
func (l *Lab) Stations() map[string]machine.Station {
	return map[string]machine.Station{"host": l.M, "LAN peer": l.Peer}
}

// Haproxy configures haproxy for the two VIPs and the backend on the peer, with
// more sections if need be.
func (l *Lab) Haproxy(more string) {
	l.T.Helper()
	l.Write("etc/haproxy/haproxy.cfg", fmt.Sprintf(`
global
	stats socket /run/haproxy/admin.sock mode 660 level admin
%s
frontend vips
	bind %s:80
	bind %s:80
	default_backend peer
backend peer
	server peer %s:8080
%s
`, HaproxyDefaults, VIP1, VIP2, PeerAddr, more))
}

// Write writes a file of the machine.
func (l *Lab) Write(name, content string) {
	l.T.Helper()
	l.M.MustWrite(l.T, name, content)
}

// Run runs a command that must succeed; spaces separate its words.
func (l *Lab) Run(t testing.TB, command string) string {
	t.Helper()
	return l.M.MustRun(t, strings.Fields(command)...)
}

// Try runs a command that may fail.
func (l *Lab) Try(command string) (string, error) {
	out, err := l.M.Run(strings.Fields(command)...)
	return strings.TrimSpace(out), err
}

// Serves asserts that VIPs give haproxy's answer to host and LAN.
func (l *Lab) Serves(t testing.TB, vips ...string) {
	t.Helper()
	for name, from := range l.Stations() {
		for _, vip := range vips {
			testnet.Eventually(t, fmt.Sprintf("the %s gets the answer from %s", name, vip), func() error { return from.WantPage(vip, Answer) })
		}
	}
}

// Silent asserts that a VIP answers neither host nor LAN, not even to ARP.
func (l *Lab) Silent(t testing.TB, vip string) {
	t.Helper()
	testnet.Eventually(t, vip+" is silent", func() error {
		l.Peer.IP("neigh flush all")
		for name, from := range l.Stations() {
			if body, err := from.Page(vip); err == nil {
				return fmt.Errorf("it answers the %s: %q", name, body)
			}
		}
		if entry := l.Peer.IP("neigh show " + vip); strings.Contains(entry, "lladdr") {
			return fmt.Errorf("it answers ARP: %s", entry)
		}
		return nil
	})
}

// State is what systemd says of a unit: active, inactive, failed and so on.
func (l *Lab) State(unit string) string {
	out, _ := l.Try("systemctl is-active " + unit)
	return out
}

// WantState waits until a unit is in a state.
func (l *Lab) WantState(t testing.TB, unit, want string) {
	t.Helper()
	testnet.Eventually(t, unit+" is "+want, func() error {
		if got := l.State(unit); got != want {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

// MainPID is haproxy's main process.
func (l *Lab) MainPID(t testing.TB) string {
	t.Helper()
	return l.Run(t, "systemctl show haproxy -p MainPID --value")
}

// Reached waits until each station, known by its name, gets the page of each VIP
// and pings it.
func Reached(t testing.TB, patience time.Duration, stations map[string]machine.Station, pages map[string]string) {
	t.Helper()
	for name, from := range stations {
		for vip, page := range pages {
			testnet.Within(t, patience, name+" gets the page of "+vip, func() error { return from.WantPage(vip, page) })
			testnet.Within(t, patience, name+" pings "+vip, func() error { return from.Ping(netip.MustParseAddr(vip)) })
		}
	}
}

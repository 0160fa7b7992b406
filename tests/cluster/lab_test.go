// Package cluster tests that VIPs follow their service between hosts: machines
// with a systemd each on one switch, under a cluster manager of Debian's, with
// a client on the LAN that counts the seconds.
package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

const (
	answer = testlab.Answer
	// patience bounds waits for what a cluster manager is about to do, on a
	// machine that is busy with other things.
	patience = 90 * time.Second
)

// journal is what a failed test shows of each host.
var journal = []string{"-o", "short-precise", "-p", "info", "-n", "300"}

// The addresses are those of docs/clusters.md.
var (
	vip4   = netip.MustParseAddr("192.0.2.10")
	vip6   = netip.MustParseAddr("2001:db8::10")
	vips   = []netip.Addr{vip4, vip6}
	client = []string{"192.0.2.5/24", "2001:db8::5/64"}
)

// lab is hosts on a switch that carries a LAN and, apart from it, the
// cluster's own link, and a client on the LAN, which serves as haproxy's
// backend, too.
type lab struct {
	t             testing.TB
	switch_, peer *testnet.Namespace
	hosts         []*host
}

// host is one of the machines.
type host struct {
	*machine.Machine
	lab *lab
	// number counts from 1, and gives the host its addresses and names.
	number int
}

func (h *host) String() string { return fmt.Sprintf("host%d", h.number) }

// newLab boots hosts that have been prepared, all at once.
func newLab(t testing.TB, hosts int, prepare func(*host)) *lab {
	t.Helper()
	l := &lab{t: t, switch_: testnet.New(t), peer: testnet.New(t)}
	for _, bridge := range []string{"lan", "lan2", "ring"} {
		l.switch_.IP("link add " + bridge + " type bridge forward_delay 0")
		l.switch_.IP("link set " + bridge + " up")
	}
	l.peer.IP("link set lo up")
	l.plug(l.peer, "eth0", "peer", "lan", "02:00:5e:00:53:05", client...)
	// An entry that nobody corrects stays for longer than a test lasts.
	for _, family := range []string{"ipv4", "ipv6"} {
		l.peer.Sysctl("net/"+family+"/neigh/eth0/base_reachable_time_ms", "3600000")
	}
	l.peer.ServePage("192.0.2.5:8080", answer)
	for number := range hosts {
		l.hosts = append(l.hosts, l.newHost(number+1))
		prepare(l.hosts[number])
	}
	l.boot(l.hosts...)
	return l
}

// plug cables a namespace to the switch. A card keeps its MAC over a reboot.
func (l *lab) plug(n *testnet.Namespace, link, port, bridge, mac string, addrs ...string) {
	l.t.Helper()
	testnet.Cable(l.t, n, link, l.switch_, port)
	n.IP("link set " + link + " address " + mac)
	l.switch_.IP("link set " + port + " master " + bridge)
	for _, addr := range addrs {
		n.AddAddress(link, addr)
	}
}

func (l *lab) newHost(number int) *host {
	l.t.Helper()
	h := &host{lab: l, number: number}
	h.Machine = machine.NewFor(l.t, journal, machine.With(machine.Managers...), machine.Connect(
		machine.NIC{
			LAN: l.switch_.Path(), Port: h.port(), MAC: fmt.Sprintf("02:00:5e:00:53:a%d", number),
			Addresses: []string{fmt.Sprintf("192.0.2.%d/24", number), fmt.Sprintf("2001:db8::%d/64", number)},
		},
		machine.NIC{
			LAN: l.switch_.Path(), Port: h.ringPort(), MAC: fmt.Sprintf("02:00:5e:00:53:b%d", number),
			Addresses: []string{fmt.Sprintf("198.51.100.%d/24", number)},
		},
	))
	l.wire("lan", h.port())
	l.wire("ring", h.ringPort())
	return h
}

func (h *host) port() string     { return h.String() }
func (h *host) ringPort() string { return h.String() + "ring" }

// boot boots hosts at the same time.
func (l *lab) boot(hosts ...*host) {
	l.t.Helper()
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { errs[i] = h.Boot() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		l.t.Fatal(err)
	}
}

// powerCut is the end of a host at once, its network card included.
func (h *host) powerCut() (at time.Time) {
	h.lab.t.Helper()
	at = time.Now()
	h.Cut()
	return at
}

// powerOn brings a host back that has been cut off.
func (h *host) powerOn() {
	h.lab.t.Helper()
	h.lab.boot(h)
}

// wire puts the ports of the switch into bridges, as on switches that the
// cable between has been pulled from, or put back.
func (l *lab) wire(bridge string, ports ...string) {
	l.t.Helper()
	for _, port := range ports {
		l.switch_.IP("link set " + port + " master " + bridge)
	}
}

// write writes a file of the host.
func (h *host) write(name, content string) {
	h.lab.t.Helper()
	h.MustWrite(h.lab.t, name, content)
}

// run runs a command that must succeed.
func (h *host) run(command string) string {
	h.lab.t.Helper()
	return h.shell("exec " + command)
}

// shell runs commands as an operator would type them.
func (h *host) shell(script string) string {
	h.lab.t.Helper()
	return h.MustRun(h.lab.t, "sh", "-ec", script)
}

// everywhere runs something on every host at the same time.
func (l *lab) everywhere(do func(*host)) {
	var wg sync.WaitGroup
	for _, h := range l.hosts {
		wg.Go(func() { do(h) })
	}
	wg.Wait()
}

// serves tells whether haproxy runs on the host.
func (h *host) active() bool {
	out, _ := h.Run("systemctl", "is-active", "haproxy")
	return strings.TrimSpace(out) == "active"
}

// mac is the MAC that the service has on this host, or "".
func (h *host) mac() string {
	out, _ := h.Run("ip", "netns", "exec", "haproxy", "cat", "/sys/class/net/mv0/address")
	return strings.TrimSpace(out)
}

// holders are the hosts on which haproxy runs.
func (l *lab) holders() (holders []*host) {
	for _, h := range l.hosts {
		if h.active() {
			holders = append(holders, h)
		}
	}
	return holders
}

// holder waits until one host alone has the service, and it has settled there:
// all get the answer from every VIP.
func (l *lab) holder() (holder *host) {
	l.t.Helper()
	l.eventually("one host has the VIPs", func() error {
		holders := l.holders()
		if len(holders) != 1 {
			return fmt.Errorf("haproxy runs on %v", holders)
		}
		holder = holders[0]
		return l.served(holder)
	})
	return holder
}

// served checks that the client and the hosts that are up get an answer from
// each VIP, and that it is the holder's MAC by which the LAN knows it.
func (l *lab) served(holder *host) error {
	from := map[string]machine.Station{"the client": l.peer}
	for _, h := range l.hosts {
		if _, err := h.Run("true"); err == nil {
			from[h.String()] = h
		}
	}
	mac := holder.mac()
	if mac == "" {
		return fmt.Errorf("%s has no link for the service", holder)
	}
	for name, n := range from {
		for _, vip := range vips {
			if err := n.WantPage(vip.String(), answer); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if n == machine.Station(holder) {
				continue
			}
			if entry := n.IP("neigh show " + vip.String()); !strings.Contains(entry, mac) {
				return fmt.Errorf("%s knows %s by %q, not by %s's MAC %s", name, vip, strings.TrimSpace(entry), holder, mac)
			}
		}
	}
	return nil
}

// eventually waits for something that a cluster manager is about to do.
func (l *lab) eventually(what string, check func() error) {
	l.t.Helper()
	testnet.Within(l.t, patience*time.Duration(l.hosts[0].Slowness()), what, check)
}

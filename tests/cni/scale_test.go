package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

// TestThousandVIPs: one service has a thousand addresses, half of them IPv6.
// The kernel's neighbour table, which holds 1024 entries that are not
// permanent, must not be in the way.
func TestThousandVIPs(t *testing.T) {
	l := newLab(t, "10.99.0.1/16", "2001:db8::1/64")
	l.lan.AddAddress("port", "10.99.0.2/16")
	l.lan.AddAddress("port", "2001:db8::2/64")
	var vips []string
	for i := range 500 {
		vips = append(vips, fmt.Sprintf(`{"address": "10.99.%d.%d/16"}`, 1+i/250, 1+i%250), fmt.Sprintf(`{"address": "2001:db8::1:%x/64"}`, i+1))
	}
	began := time.Now()
	p := l.up(t, "c1", "1.1.0", `"master": "eth0", "ipam": {"type": "static", "addresses": [`+strings.Join(vips, ", ")+`]}`)
	t.Logf("ADD of both plugins: %s", time.Since(began))
	for _, vip := range []string{"10.99.1.1", "10.99.2.250", "2001:db8::1:1", "2001:db8::1:1f4"} {
		if err := l.host.Ping(netip.MustParseAddr(vip)); err != nil {
			t.Errorf("from the host: %v", err)
		}
		if err := l.lan.Ping(netip.MustParseAddr(vip)); err != nil {
			t.Errorf("from the LAN: %v", err)
		}
	}
	for _, count := range []struct{ what, query string }{
		{"routes", "route show table local proto 118"}, {"routes", "-6 route show table local proto 118"},
		{"neighbours", "-4 neigh show nud permanent dev mv-int"}, {"neighbours", "-6 neigh show nud permanent dev mv-int"},
	} {
		if got := strings.Count(l.host.IP(count.query), "\n"); got != 500 {
			t.Errorf("%d %s by ip %s", got, count.what, count.query)
		}
	}
	began = time.Now()
	for _, plugin := range plugins {
		p.must(plugin, "CHECK", p.config(plugin))
	}
	t.Logf("CHECK of both plugins: %s", time.Since(began))
	began = time.Now()
	p.down()
	t.Logf("DEL of both plugins: %s", time.Since(began))
}

// TestManyServices: each costs what the first did.
func TestManyServices(t *testing.T) {
	services := testnet.Soak(300, 500)
	if testing.Short() {
		services = 50
	}
	l := newLab(t, "10.99.0.1/16")
	before := l.state()
	all := make([]*pair, services)
	var spent, cpu []time.Duration
	for i := range all {
		p := &pair{attachment: l.attachment(fmt.Sprintf("c%d", i)), hairpin: conf("1.1.0", "hairpin-route", "lan", ""), link: conf("1.1.0", "macvlan-vip", "lan",
			fmt.Sprintf(`"master": "eth0", "ipam": {"type": "static", "addresses": [{"address": "10.99.%d.%d/16"}]}`, 1+i/250, 1+i%250))}
		all[i] = p
		began := time.Now()
		added := p.must("macvlan-vip", "ADD", p.link)
		if !added.ok() {
			t.FailNow()
		}
		p.hairpin = with(t, p.hairpin, "prevResult", json.RawMessage(added.stdout))
		routed := p.must("hairpin-route", "ADD", p.hairpin)
		spent = append(spent, time.Since(began))
		cpu = append(cpu, added.cpu+routed.cpu)
	}
	tenth := services / 10
	t.Logf("ADD of both plugins: %s a service for the first %d, %s for the last", quantile(spent[:tenth], 2), tenth, quantile(spent[services-tenth:], 2))
	// What a process computes grows with the load, too, by what other processes
	// push out of the caches: the cheapest show the cost itself.
	first, end := quantile(cpu[:tenth], 5), quantile(cpu[services-tenth:], 5)
	t.Logf("of this, computed: %s for the first, %s for the last", first, end)
	if end > first*3/2 {
		t.Errorf("ADD costs %s at the beginning and %s at the end", first, end)
	}
	last := all[services-1]
	if err := l.host.Ping(netip.MustParseAddr(fmt.Sprintf("10.99.%d.%d", 1+(services-1)/250, 1+(services-1)%250))); err != nil {
		t.Error(err)
	}
	last.must("hairpin-route", "CHECK", last.hairpin)
	began := time.Now()
	for _, p := range all {
		p.down()
	}
	t.Logf("DEL of both plugins: %s a service", time.Since(began)/time.Duration(services))
	l.mustBe(before, "after all were deleted")
}

// quantile gives the value that every n-th is below; the median for 2.
func quantile(all []time.Duration, n int) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/n]
}

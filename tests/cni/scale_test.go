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
	p.must("hairpin-route", "DEL", p.hairpin)
	first, repeated := p.must("hairpin-route", "ADD", p.hairpin).cpu, p.must("hairpin-route", "ADD", p.hairpin).cpu
	t.Logf("ADD of hairpin-route computes: %s, and %s when it is repeated", first, repeated)
	if repeated > 3*first {
		t.Errorf("an ADD computes for %s, and for %s when there is nothing to do", first, repeated)
	}
	began = time.Now()
	p.down()
	t.Logf("DEL of both plugins: %s", time.Since(began))
}

// TestManyServices: one on a host that has many costs what one on a host that
// has few does.
func TestManyServices(t *testing.T) {
	services := testnet.Soak(100, 500)
	if testing.Short() {
		services = 50
	}
	crowd, few := newLab(t, "10.99.0.1/16"), newLab(t, "10.99.0.1/16")
	before := crowd.state()
	all := make([]*pair, services)
	for i := range all {
		all[i], _ = crowd.serve(i)
	}
	last := all[services-1]
	if err := crowd.host.Ping(netip.MustParseAddr(vipOf(services - 1))); err != nil {
		t.Error(err)
	}
	last.must("hairpin-route", "CHECK", last.hairpin)
	first, _ := few.serve(0)
	compareCosts(t, few, crowd, services)
	first.down()
	began := time.Now()
	for _, p := range all {
		p.down()
	}
	t.Logf("DEL of both plugins: %s a service", time.Since(began)/time.Duration(services))
	crowd.mustBe(before, "after all were deleted")
}

// compareCosts adds one service more to either host, by turns: what a process
// computes depends on what else the machine has, too, and on what others push
// out of the caches. The cheapest show the cost itself.
func compareCosts(t *testing.T, few, crowd *lab, number int) {
	t.Helper()
	spent := map[*lab][]time.Duration{}
	for range 30 {
		for _, l := range []*lab{few, crowd} {
			p, cpu := l.serve(number)
			p.down()
			spent[l] = append(spent[l], cpu)
		}
	}
	least, most := quantile(spent[few], 5), quantile(spent[crowd], 5)
	t.Logf("ADD of both plugins computes: %s on a host with one service, %s on one with %d", least, most, number)
	if most > least*3/2 {
		t.Errorf("ADD costs %s with one service, and %s with %d", least, most, number)
	}
}

// serve adds a service with a VIP of its number, and tells what that computed.
// It has nothing to say to the LAN: a broadcast the kernel copies to each
// macvlan, at the sender's expense.
func (l *lab) serve(number int) (p *pair, cpu time.Duration) {
	l.t.Helper()
	p = &pair{
		attachment: l.attachment(fmt.Sprintf("c%d", number)), hairpin: conf("1.1.0", "hairpin-route", "lan", ""),
		link: conf("1.1.0", "macvlan-vip", "lan", fmt.Sprintf(`"master": "eth0", "addressConflict": "ignore", "announce": {"count": 0},
			"ipam": {"type": "static", "addresses": [{"address": "%s/16"}]}`, vipOf(number))),
	}
	added := p.must("macvlan-vip", "ADD", p.link)
	if !added.ok() {
		l.t.FailNow()
	}
	p.hairpin = with(l.t, p.hairpin, "prevResult", json.RawMessage(added.stdout))
	routed := p.must("hairpin-route", "ADD", p.hairpin)
	return p, added.cpu + routed.cpu
}

func vipOf(number int) string { return fmt.Sprintf("10.99.%d.%d", 1+number/250, 1+number%250) }

// quantile gives the value that every n-th is below; the median for 2.
func quantile(all []time.Duration, n int) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/n]
}

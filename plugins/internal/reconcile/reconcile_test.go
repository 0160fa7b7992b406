package reconcile

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/tests/testnet"
)

type lab struct {
	host, service *testnet.Namespace
	k             *kernel.Kernel
}

func newLab(t *testing.T) *lab {
	t.Helper()
	host, _ := testnet.NewHost(t, "192.0.2.1/24", "2001:db8::1/64")
	host.IP("link add br0 type bridge")
	l := &lab{host: host, service: testnet.New(t)}
	l.host.Do(func() (err error) {
		h, err := kernel.OpenHost()
		if err != nil {
			return err
		}
		s, err := kernel.OpenService(l.service.Path())
		l.k = &kernel.Kernel{Host: h, Service: s}
		return err
	})
	t.Cleanup(l.k.Close)
	// The first up leaves traces on lo that no down takes away.
	l.service.IP("link set lo up")
	l.service.IP("link set lo down")
	return l
}

func (l *lab) snapshot() string { return l.host.Snapshot() + l.service.Snapshot() }

const (
	hostMAC    = "02:00:00:00:00:01"
	serviceMAC = "02:00:00:00:00:02"
)

// whole is a plan with something of every kind.
func whole() plan.Desired {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	return plan.Desired{
		Links: []plan.Link{
			{Side: plan.Host, Kind: plan.KindMacvlan, Name: "mv-int", Mode: "bridge", Master: "eth0", MasterSide: plan.Host, MAC: hostMAC, Alias: "test host"},
			{Side: plan.Service, Kind: plan.KindLoopback, Name: "lo"},
			{Side: plan.Service, Kind: plan.KindMacvlan, Name: "mv0", Mode: "bridge", Master: "eth0", MasterSide: plan.Host, MAC: serviceMAC, MTU: 1400, Alias: "test service"},
		},
		Sysctls: []plan.Sysctl{
			{Side: plan.Host, Key: "net/ipv4/conf/mv-int/arp_ignore", Value: "1"},
			{Side: plan.Service, Key: "net/ipv4/ping_group_range", Value: "0 9"},
			{Side: plan.Service, Key: "net/ipv6/conf/mv0/accept_ra", Value: "0", Optional: true},
			{Side: plan.Service, Key: "net/ipv4/conf/mv0/not_in_this_kernel", Value: "0", Optional: true},
		},
		Forwarding: []plan.Forwarding{{Side: plan.Host, Bridge: "br0", MAC: serviceMAC}},
		Addresses: []plan.Address{
			{Side: plan.Service, Link: "mv0", Prefix: prefix("192.0.2.10/24")},
			{Side: plan.Service, Link: "mv0", Prefix: prefix("2001:db8::10/64")},
		},
		Routes: []plan.Route{
			{Side: plan.Host, Link: "mv-int", Dst: prefix("192.0.2.10/32"), Source: addr("192.0.2.1"), Table: 255, Metric: 100, Exclusive: true},
			{Side: plan.Host, Link: "mv-int", Dst: prefix("2001:db8::10/128"), Source: addr("2001:db8::1"), Table: 255, Metric: 100, Exclusive: true},
			{Side: plan.Service, Link: "mv0", Dst: prefix("192.0.2.1/32")},
			{Side: plan.Service, Link: "mv0", Dst: prefix("0.0.0.0/0"), Gateway: addr("198.51.100.1"), OnLink: true, MTU: 1300},
			{Side: plan.Service, Link: "mv0", Dst: prefix("::/0"), Gateway: addr("2001:db8::1"), Metric: 7},
			{Side: plan.Service, Link: "mv0", Dst: prefix("0.0.0.0/0"), Gateway: addr("192.0.2.2"), Table: 118002},
		},
		Rules: []plan.Rule{
			{Side: plan.Service, From: prefix("192.0.2.10/31"), Table: 118002, Priority: 11801},
			{Side: plan.Service, From: prefix("2001:db8::10/128"), Table: 118002, Priority: 11800},
		},
		Neighbours: []plan.Neighbour{
			{Side: plan.Host, Link: "mv-int", Addr: addr("192.0.2.10"), MAC: serviceMAC},
			{Side: plan.Service, Link: "mv0", Addr: addr("2001:db8::1"), MAC: hostMAC},
		},
	}
}

func verified(t *testing.T, l *lab, d plan.Desired) []string {
	t.Helper()
	l.k.Host.Refresh()
	l.k.Service.Refresh()
	drift, err := Verify(l.k, d)
	if err != nil {
		t.Fatal(err)
	}
	return drift
}

func TestApplyVerifyRemove(t *testing.T) {
	l := newLab(t)
	before := l.snapshot()
	for range 2 {
		if err := Apply(l.k, whole(), &Undo{}); err != nil {
			t.Fatal(err)
		}
		if drift := verified(t, l, whole()); len(drift) != 0 {
			t.Errorf("drift after Apply: %q", drift)
		}
	}
	for _, want := range []struct{ netns, query, line string }{
		{"host", "-d link show mv-int", "macvlan mode bridge"},
		{"host", "link show mv-int", "alias test host"},
		{"host", "route show table local proto 118", "192.0.2.10 dev mv-int scope link src 192.0.2.1 metric 100"},
		{"host", "-6 route show table local proto 118", "2001:db8::10 dev mv-int src 2001:db8::1 metric 100"},
		{"host", "neigh show dev mv-int", "192.0.2.10 lladdr 02:00:00:00:00:02 PERMANENT"},
		{"service", "link show mv0", "mtu 1400"},
		{"service", "address show mv0", "inet6 2001:db8::10/64 scope global nodad"},
		{"service", "route show", "default via 198.51.100.1 dev mv0 proto 118 onlink mtu 1300"},
		{"service", "-6 route show", "default via 2001:db8::1 dev mv0 proto 118 metric 7"},
		{"service", "route show table 118002", "default via 192.0.2.2 dev mv0 proto 118"},
		{"service", "-4 rule show", "11801:	from 192.0.2.10/31 lookup 118002 proto 118"},
		{"service", "-6 rule show", "11800:	from 2001:db8::10 lookup 118002 proto 118"},
	} {
		n := l.host
		if want.netns == "service" {
			n = l.service
		}
		if out := n.IP(want.query); !strings.Contains(out, want.line) {
			t.Errorf("%s: ip %s: no %q in:\n%s", want.netns, want.query, want.line, out)
		}
	}
	if want := serviceMAC + " dev br0 master br0 permanent"; !strings.Contains(l.host.Snapshot(), want) {
		t.Errorf("no %q in:\n%s", want, l.host.Snapshot())
	}
	for range 2 {
		if err := Remove(l.k, whole()); err != nil {
			t.Fatal(err)
		}
	}
	l.service.IP("link set lo down")
	if diff := cmp.Diff(before, l.snapshot()); diff != "" {
		t.Error(diff)
	}
}

// TestEveryStepFails puts an item that the kernel refuses at every place of
// the plan in turn, and expects the kernel's state to be as before.
func TestEveryStepFails(t *testing.T) {
	bad := netip.MustParsePrefix("203.0.113.9/32")
	type breaker struct {
		name string
		at   func(d *plan.Desired, i int) bool
	}
	breakers := []breaker{
		{"link", func(d *plan.Desired, i int) bool {
			return insert(&d.Links, i, plan.Link{Side: plan.Service, Kind: plan.KindMacvlan, Name: "bad", Mode: "bridge", Master: "none", MasterSide: plan.Host, MAC: hostMAC})
		}},
		{"sysctl", func(d *plan.Desired, i int) bool {
			return insert(&d.Sysctls, i, plan.Sysctl{Side: plan.Service, Key: "net/ipv4/ip_forward", Value: "maybe"})
		}},
		{"sysctl that is none", func(d *plan.Desired, i int) bool {
			return insert(&d.Sysctls, i, plan.Sysctl{Side: plan.Host, Key: "net/ipv4/conf/none/forwarding", Value: "1"})
		}},
		{"busy MAC", func(d *plan.Desired, i int) bool {
			return insert(&d.Links, i, plan.Link{Side: plan.Service, Kind: plan.KindMacvlan, Name: "bad", Mode: "bridge", Master: "eth0", MasterSide: plan.Host, MAC: hostMAC})
		}},
		{"forwarding", func(d *plan.Desired, i int) bool {
			return insert(&d.Forwarding, i, plan.Forwarding{Side: plan.Host, Bridge: "br0", MAC: "00:00:00:00:00:00"})
		}},
		{"forwarding without a bridge", func(d *plan.Desired, i int) bool {
			return insert(&d.Forwarding, i, plan.Forwarding{Side: plan.Host, Bridge: "none", MAC: hostMAC})
		}},
		{"address", func(d *plan.Desired, i int) bool {
			return insert(&d.Addresses, i, plan.Address{Side: plan.Service, Link: "none", Prefix: bad})
		}},
		{"neighbour", func(d *plan.Desired, i int) bool {
			return insert(&d.Neighbours, i, plan.Neighbour{Side: plan.Service, Link: "none", Addr: bad.Addr(), MAC: hostMAC})
		}},
		{"route", func(d *plan.Desired, i int) bool {
			return insert(&d.Routes, i, plan.Route{Side: plan.Service, Link: "mv0", Dst: bad, Gateway: netip.MustParseAddr("203.0.113.1")})
		}},
	}
	l := newLab(t)
	before := l.snapshot()
	for _, b := range breakers {
		for i := 0; ; i++ {
			d := whole()
			if !b.at(&d, i) {
				break
			}
			t.Run(fmt.Sprintf("%s %d", b.name, i), func(t *testing.T) {
				l.k.Host.Refresh()
				l.k.Service.Refresh()
				undo := &Undo{}
				if err := Apply(l.k, d, undo); err == nil {
					t.Fatal("Apply succeeded")
				}
				if err := undo.Run(); err != nil {
					t.Errorf("undo: %v", err)
				}
				if diff := cmp.Diff(before, l.snapshot()); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// insert puts an item at place i; false where there is no such place.
func insert[T any](all *[]T, i int, item T) bool {
	if i > len(*all) {
		return false
	}
	*all = append((*all)[:i:i], append([]T{item}, (*all)[i:]...)...)
	return true
}

// TestVerifyNamesEveryDrift changes one thing after the other behind the
// plan's back.
func TestVerifyNamesEveryDrift(t *testing.T) {
	l := newLab(t)
	apply := func() {
		t.Helper()
		if err := Apply(l.k, whole(), &Undo{}); err != nil {
			t.Fatal(err)
		}
	}
	apply()
	for _, tt := range []struct {
		side, change string
		lines        []string
	}{
		{"service", "address del 192.0.2.10/24 dev mv0", []string{"service: address 192.0.2.10/24 dev mv0: missing"}},
		{"service", "address del 2001:db8::10/64 dev mv0", []string{"service: address 2001:db8::10/64 dev mv0: missing"}},
		{"host", "route change 192.0.2.10 dev mv-int table local metric 100 proto 118", []string{"host: route 192.0.2.10/32 dev mv-int table local metric 100 src 192.0.2.1: source is none"}},
		{"host", "route del 2001:db8::10 dev mv-int table local", []string{"host: route 2001:db8::10/128 dev mv-int table local metric 100 src 2001:db8::1: missing"}},
		{"host", "neigh del 192.0.2.10 dev mv-int", []string{"host: neighbour 192.0.2.10 lladdr 02:00:00:00:00:02 dev mv-int: missing"}},
		{"service", "neigh replace 2001:db8::1 lladdr 02:00:00:00:00:99 dev mv0", []string{"service: neighbour 2001:db8::1 lladdr 02:00:00:00:00:01 dev mv0: lladdr is 02:00:00:00:00:99"}},
		{"service", "neigh replace 2001:db8::1 lladdr 02:00:00:00:00:01 dev mv0 nud stale", []string{"service: neighbour 2001:db8::1 lladdr 02:00:00:00:00:01 dev mv0: not permanent"}},
		{"host", "link set mv-int down", []string{
			"host: link mv-int: state is down, not up",
			"host: route 192.0.2.10/32 dev mv-int table local metric 100 src 192.0.2.1: missing",
			"host: neighbour 192.0.2.10 lladdr 02:00:00:00:00:02 dev mv-int: missing",
		}},
		{"service", "link set lo down", []string{"service: link lo: state is down, not up"}},
		{"host", "link del mv-int", []string{"host: link mv-int type macvlan mode bridge on eth0: missing"}},
		{"service", "link del mv0", []string{"service: link mv0 type macvlan mode bridge on eth0: missing", "service: address 192.0.2.10/24 dev mv0: missing"}},
	} {
		t.Run(tt.change, func(t *testing.T) {
			n := l.host
			if tt.side == "service" {
				n = l.service
			}
			n.IP(tt.change)
			drift := strings.Join(verified(t, l, whole()), "\n")
			for _, line := range tt.lines {
				if !strings.Contains(drift, line) {
					t.Errorf("no line %q in:\n%s", line, drift)
				}
			}
			apply()
			if drift := verified(t, l, whole()); len(drift) != 0 {
				t.Errorf("not put right: %q", drift)
			}
		})
	}
}

func TestSomebodyElses(t *testing.T) {
	l := newLab(t)
	l.host.IP("link add mv-int type veth peer name other")
	l.host.IP("link set mv-int up")
	l.host.IP("route add 192.0.2.10 dev eth0 table local metric 100")
	l.service.IP("link add mv0 type veth peer name mv1")
	before := l.snapshot()
	route := plan.Desired{Routes: whole().Routes[:1]}
	if err := Apply(l.k, route, &Undo{}); err == nil || !strings.Contains(err.Error(), "somebody else's route") {
		t.Errorf("a stranger's route: %v", err)
	}
	for i, link := range whole().Links {
		if link.Kind != plan.KindMacvlan {
			continue
		}
		if err := Apply(l.k, plan.Desired{Links: whole().Links[i : i+1]}, &Undo{}); err == nil || !strings.Contains(err.Error(), link.Name) {
			t.Errorf("a stranger's link %s: %v", link.Name, err)
		}
	}
	if err := Remove(l.k, plan.Desired{Links: whole().Links, Routes: whole().Routes[:1]}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, l.snapshot()); diff != "" {
		t.Error(diff)
	}
}

package plan

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"macvlan-vip/plugins/internal/config"
)

var sameAddr = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func attachment(t *testing.T, keys string) Attachment {
	t.Helper()
	if keys != "" {
		keys = "," + keys
	}
	conf, err := config.ParseMacvlan([]byte(`{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan-vip", "master": "eth0"`+keys+`}`), "", "mv0")
	if err != nil {
		t.Fatal(err)
	}
	return Attachment{
		Conf: conf, ContainerID: "c1", IfName: "mv0", HostInterface: conf.HostInterface,
		Master: LinkFacts{Name: "eth0", Index: 2, MAC: "52:54:00:00:00:01", MTU: 1500, Up: true},
	}
}

func ipamResult(t *testing.T, body string) *current.Result {
	t.Helper()
	r, err := current.NewResult([]byte(`{"cniVersion": "1.1.0", ` + body + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return r.(*current.Result)
}

func TestStableMAC(t *testing.T) {
	a, again, b := StableMAC("m", "x"), StableMAC("m", "x"), StableMAC("m", "y")
	if a.String() != again.String() || a.String() == b.String() {
		t.Errorf("%s, %s and %s: want the first two alike and the third not", a, again, b)
	}
	if StableMAC("ab", "c").String() == StableMAC("a", "bc").String() {
		t.Error("the parts run together")
	}
	for i := range 1000 {
		mac := StableMAC("m", string(rune(i)))
		if mac[0]&1 != 0 || mac[0]&2 == 0 {
			t.Fatalf("%s is not a locally administered unicast address", mac)
		}
	}
}

func TestHostSide(t *testing.T) {
	a := attachment(t, "")
	fresh := a.HostSide(nil)
	if len(fresh.Links) != 1 || len(fresh.Sysctls) == 0 {
		t.Fatalf("want one link and its sysctls: %+v", fresh)
	}
	link := fresh.Links[0]
	want := Link{Side: Host, Kind: KindMacvlan, Name: "mv-int", Mode: "bridge", Master: "eth0", MasterSide: Host, Shared: true, NoARP: true,
		MTU: 1500, MAC: StableMAC("52:54:00:00:00:01", "mv-int").String(), Alias: "macvlan-vip: host side of eth0"}
	if diff := cmp.Diff(want, link); diff != "" {
		t.Error(diff)
	}

	ours := a.HostSide(&LinkFacts{Name: "mv-int", MAC: "02:00:00:00:00:99", Alias: link.Alias})
	if ours.Links[0].MAC != "02:00:00:00:00:99" || len(ours.Sysctls) == 0 {
		t.Errorf("ours from before the master changed its MAC is to be kept: %+v", ours)
	}
	foreign := a.HostSide(&LinkFacts{Name: "mv-int", MAC: "02:00:00:00:00:99", Alias: "mine"})
	if !foreign.Links[0].NoARP || foreign.Links[0].MTU != 0 {
		t.Errorf("somebody else's link: %+v", foreign)
	}
	station := a.HostSide(&LinkFacts{Name: "mv-int", MAC: "02:00:00:00:00:99", Alias: "mine", Addressed: true})
	if station.Links[0].NoARP || len(station.Sysctls) != 2 || station.Sysctls[0].Kept {
		t.Errorf("somebody else's station: %+v", station)
	}
	if none := attachment(t, `"mode": "private"`).HostSide(nil); len(none.Links) != 0 {
		t.Errorf("a host side in private mode: %+v", none)
	}
	forward := attachment(t, `"ipForward": true`).HostSide(nil)
	if forward.Sysctls[0] != (Sysctl{Side: Host, Key: "net/ipv4/ip_forward", Value: "1", Kept: true}) {
		t.Errorf("ipForward: %+v", forward.Sysctls)
	}
}

func TestServiceSide(t *testing.T) {
	d, err := attachment(t, `"mtu": 1400, "mac": "02:00:00:00:00:01", "bcqueuelen": 9`).ServiceSide()
	if err != nil {
		t.Fatal(err)
	}
	want := []Link{
		{Side: Service, Kind: KindLoopback, Name: "lo"},
		{Side: Service, Kind: KindMacvlan, Name: "mv0", Mode: "bridge", Master: "eth0", MasterSide: Host,
			MTU: 1400, MAC: "02:00:00:00:00:01", BCQueueLen: 9, Alias: "macvlan-vip: lan c1"},
	}
	if diff := cmp.Diff(want, d.Links); diff != "" {
		t.Error(diff)
	}
	if _, err := attachment(t, `"mtu": 1501`).ServiceSide(); err == nil || !strings.Contains(err.Error(), "1500") {
		t.Errorf("mtu above the master's: %v", err)
	}
	const masters = `"mac": "52:54:00:00:00:01"`
	if _, err := attachment(t, masters).ServiceSide(); err == nil || !strings.Contains(err.Error(), `mac: "52:54:00:00:00:01": the MAC of the master "eth0"`) {
		t.Errorf("the master's MAC: %v", err)
	}
	if _, err := attachment(t, masters+`, "mode": "passthru"`).ServiceSide(); err != nil {
		t.Errorf("the master's MAC in passthru mode: %v", err)
	}
	inside, _ := attachment(t, `"linkInContainer": true`).ServiceSide()
	if inside.Links[1].MasterSide != Service {
		t.Errorf("master of linkInContainer on the %s's side", inside.Links[1].MasterSide)
	}
	long := ServiceAlias("n", strings.Repeat("x", 300))
	if len(long) != 255 {
		t.Errorf("alias of %d bytes", len(long))
	}
}

func TestUsersSysctlsOverrideOurs(t *testing.T) {
	d, err := attachment(t, `"sysctl": {"net.ipv4.conf.IFNAME.arp_announce": "0", "net.core.somaxconn": "9"}`).ServiceSide()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, s := range d.Sysctls {
		if _, twice := values[s.Key]; twice {
			t.Errorf("%s is set twice", s.Key)
		}
		values[s.Key] = s.Value
	}
	for key, want := range map[string]string{
		"net/ipv4/conf/mv0/arp_announce": "0", "net/core/somaxconn": "9",
		"net/ipv4/conf/mv0/arp_notify": "1", "net/ipv6/conf/mv0/accept_ra": "0",
	} {
		if values[key] != want {
			t.Errorf("%s = %q, want %q", key, values[key], want)
		}
	}
}

func TestAddresses(t *testing.T) {
	a := attachment(t, "")
	d, err := a.Addresses(ipamResult(t, `
		"ips": [{"address": "192.0.2.10/32", "gateway": "192.0.2.1"}, {"address": "2001:db8::10/64", "gateway": "2001:db8::1"}],
		"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "198.51.100.7/24", "gw": "192.0.2.9", "mtu": 1300, "advmss": 1200, "priority": 5, "table": 9}, {"dst": "2001:db8:1::/48", "gw": "fe80::1"},
			{"dst": "203.0.113.0/24", "gw": "0.0.0.0", "scope": 253}]`))
	if err != nil {
		t.Fatal(err)
	}
	prefix, addr, onLink := netip.MustParsePrefix, netip.MustParseAddr, 253
	want := Desired{
		Sysctls: []Sysctl{
			{Side: Service, Key: "net/ipv6/conf/lo/disable_ipv6", Value: "0"},
			{Side: Service, Key: "net/ipv6/conf/mv0/disable_ipv6", Value: "0"},
		},
		Addresses: []Address{{Service, "mv0", prefix("192.0.2.10/32")}, {Service, "mv0", prefix("2001:db8::10/64")}},
		Routes: []Route{
			{Side: Service, Link: "mv0", Dst: prefix("0.0.0.0/0"), Gateway: addr("192.0.2.1"), OnLink: true},
			{Side: Service, Link: "mv0", Dst: prefix("::/0"), Gateway: addr("2001:db8::1")},
			{Side: Service, Link: "mv0", Dst: prefix("198.51.100.0/24"), Gateway: addr("192.0.2.9"), OnLink: true, MTU: 1300, AdvMSS: 1200, Metric: 5, Table: 9},
			{Side: Service, Link: "mv0", Dst: prefix("2001:db8:1::/48"), Gateway: addr("fe80::1")},
			{Side: Service, Link: "mv0", Dst: prefix("203.0.113.0/24"), Scope: &onLink},
		},
	}
	if diff := cmp.Diff(want, d, sameAddr); diff != "" {
		t.Error(diff)
	}
}

// TestAddressesBesideTheirGateway: each IPv6 gateway outside of the VIPs' networks has a
// route of its own, before those through it.
func TestAddressesBesideTheirGateway(t *testing.T) {
	d, err := attachment(t, "").Addresses(ipamResult(t, `
		"ips": [{"address": "2001:db8::10/128", "gateway": "2001:db8::1"}],
		"routes": [{"dst": "::/0"}, {"dst": "2001:db8:1::/48"}, {"dst": "2001:db8:2::/48", "gw": "fe80::1"}]`))
	if err != nil {
		t.Fatal(err)
	}
	prefix, gw := netip.MustParsePrefix, netip.MustParseAddr("2001:db8::1")
	want := []Route{
		{Side: Service, Link: "mv0", Dst: prefix("2001:db8::1/128")},
		{Side: Service, Link: "mv0", Dst: prefix("::/0"), Gateway: gw, OnLink: true},
		{Side: Service, Link: "mv0", Dst: prefix("2001:db8:1::/48"), Gateway: gw, OnLink: true},
		{Side: Service, Link: "mv0", Dst: prefix("2001:db8:2::/48"), Gateway: netip.MustParseAddr("fe80::1")},
	}
	if diff := cmp.Diff(want, d.Routes, sameAddr); diff != "" {
		t.Error(diff)
	}
}

// TestForwarding: only a service's macvlan on a bridge needs an entry there, and only if
// its MAC is its own.
func TestForwarding(t *testing.T) {
	for _, tt := range []struct {
		name, bridge, keys string
		want               []Forwarding
	}{
		{"no bridge", "", `"mac": "02:00:5e:10:00:01"`, nil},
		{"bridge", "br0", `"mac": "02:00:5e:10:00:01"`, []Forwarding{{Host, "br0", "02:00:5e:10:00:01"}}},
		{"private", "br0", `"mac": "02:00:5e:10:00:01", "mode": "private"`, []Forwarding{{Host, "br0", "02:00:5e:10:00:01"}}},
		{"passthru", "br0", `"mode": "passthru"`, nil},
		{"in the container", "br0", `"mac": "02:00:5e:10:00:01", "linkInContainer": true`, []Forwarding{{Service, "br0", "02:00:5e:10:00:01"}}},
	} {
		a := attachment(t, tt.keys)
		a.Master.Bridge = tt.bridge
		service, err := a.ServiceSide()
		if err != nil {
			t.Fatal(err)
		}
		links := slices.Concat(a.HostSide(nil).Links, service.Links)
		if diff := cmp.Diff(tt.want, a.Forwarding(links)); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func TestAddressesThatNoLANHas(t *testing.T) {
	for name, body := range map[string]string{
		"none":               `"ips": []`,
		"unspecified":        `"ips": [{"address": "0.0.0.0/24"}]`,
		"multicast":          `"ips": [{"address": "224.0.0.1/24"}]`,
		"multicast 6":        `"ips": [{"address": "ff02::1/64"}]`,
		"loopback":           `"ips": [{"address": "127.0.0.1/8"}]`,
		"loopback 6":         `"ips": [{"address": "::1/128"}]`,
		"all ones":           `"ips": [{"address": "255.255.255.255/32"}]`,
		"network":            `"ips": [{"address": "192.0.2.0/24"}]`,
		"broadcast":          `"ips": [{"address": "192.0.2.255/24"}]`,
		"of network 0":       `"ips": [{"address": "0.1.2.3/8"}]`,
		"link-local":         `"ips": [{"address": "169.254.169.254/32"}]`,
		"anycast 6":          `"ips": [{"address": "2001:db8::/64"}]`,
		"prefix length 0":    `"ips": [{"address": "192.0.2.1/0"}]`,
		"prefix length 0, 6": `"ips": [{"address": "2001:db8::1/0"}]`,
		"its own gateway":    `"ips": [{"address": "192.0.2.1/24", "gateway": "192.0.2.1"}]`,
		"twice":              `"ips": [{"address": "192.0.2.1/24"}, {"address": "192.0.2.1/25"}]`,
		"gateway of family":  `"ips": [{"address": "192.0.2.1/24"}], "routes": [{"dst": "0.0.0.0/0", "gw": "2001:db8::1"}]`,
	} {
		if d, err := attachment(t, "").Addresses(ipamResult(t, body)); err == nil {
			t.Errorf("%s: accepted: %+v", name, d)
		}
	}
	small, low := attachment(t, `"mtu": 1279`), attachment(t, "")
	low.Master.MTU = 1279
	for want, a := range map[string]Attachment{"mtu: 1279: too small": small, `master: "eth0": its MTU of 1279 is too small`: low} {
		if _, err := a.Addresses(ipamResult(t, `"ips": [{"address": "2001:db8::1/64"}]`)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("IPv6 with an MTU of 1279: %v, want %s", err, want)
		}
	}
	for _, fine := range []string{"192.0.2.0/31", "192.0.2.0/32", "192.0.2.255/23", "2001:db8::/127", "2001:db8::/128", "fe80::10/64"} {
		if _, err := attachment(t, "").Addresses(ipamResult(t, `"ips": [{"address": "`+fine+`"}]`)); err != nil {
			t.Errorf("%s: %v", fine, err)
		}
	}
}

func TestResult(t *testing.T) {
	a := attachment(t, "")
	service, err := a.ServiceSide()
	if err != nil {
		t.Fatal(err)
	}
	ipam := ipamResult(t, `"ips": [{"address": "192.0.2.10/24"}, {"address": "192.0.2.11/24"}], "dns": {"nameservers": ["192.0.2.53"]}`)
	r := a.Result(a.HostSide(nil), service, ipam, "/run/netns/x")
	if len(r.Interfaces) != 2 || r.Interfaces[0].Name != "mv-int" || r.Interfaces[0].Sandbox != "" || r.Interfaces[1].Name != "mv0" || r.Interfaces[1].Sandbox != "/run/netns/x" {
		t.Errorf("interfaces: %v", r.Interfaces)
	}
	for _, ip := range r.IPs {
		if *ip.Interface != 1 {
			t.Errorf("%v is on interface %d", ip.Address, *ip.Interface)
		}
	}
	if len(r.DNS.Nameservers) != 1 {
		t.Errorf("DNS of IPAM is lost: %v", r.DNS)
	}
	a.Conf.DNS = types.DNS{Domain: "example.org"}
	if r := a.Result(Desired{}, service, nil, "/x"); r.DNS.Domain != "example.org" || len(r.IPs) != 0 {
		t.Errorf("without IPAM: %v", r)
	}
}

func TestHairpinPlan(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	v4, v6, h4, h6, other := addr("192.0.2.10"), addr("2001:db8::10"), addr("192.0.2.1"), addr("2001:db8::1"), addr("172.17.0.1")
	on := func(link int, addrs ...netip.Addr) (facts []AddrFacts) {
		for _, a := range addrs {
			facts = append(facts, AddrFacts{Prefix: single(a), Link: link})
		}
		return facts
	}
	h := Hairpin{
		Conf:          &config.Hairpin{Table: 255, Metric: 100, ReturnPath: true},
		HostLink:      LinkFacts{Name: "mv-int", MAC: "02:00:00:00:00:01", Lower: 2},
		LinkLocal:     addr("fe80::1"),
		ServiceLink:   LinkFacts{Name: "mv0", MAC: "02:00:00:00:00:02"},
		VIPs:          []netip.Addr{v4, v6},
		Sources:       map[netip.Addr]netip.Addr{v4: h4, v6: h6},
		HostAddresses: slices.Concat(on(2, h4), on(3, other), on(2, h6, h4)),
	}
	want := Desired{
		Sysctls: []Sysctl{{Side: Host, Key: "net/ipv6/conf/mv-int/disable_ipv6", Value: "0", Kept: true}},
		Routes: []Route{
			{Side: Host, Link: "mv-int", Dst: prefix("192.0.2.10/32"), Source: h4, Table: 255, Metric: 100, Exclusive: true},
			{Side: Host, Link: "mv-int", Dst: prefix("2001:db8::10/128"), Source: h6, Table: 255, Metric: 100, Exclusive: true},
			{Side: Service, Link: "mv0", Dst: prefix("172.17.0.1/32"), Metric: 2000},
			{Side: Service, Link: "mv0", Dst: prefix("192.0.2.1/32")},
			{Side: Service, Link: "mv0", Dst: prefix("2001:db8::1/128")},
		},
		Neighbours: []Neighbour{
			{Host, "mv-int", v4, "02:00:00:00:00:02"}, {Host, "mv-int", v6, "02:00:00:00:00:02"},
			{Service, "mv0", other, "02:00:00:00:00:01"}, {Service, "mv0", h4, "02:00:00:00:00:01"}, {Service, "mv0", h6, "02:00:00:00:00:01"},
			{Service, "mv0", addr("fe80::1"), "02:00:00:00:00:01"},
		},
	}
	if diff := cmp.Diff(want, h.Plan(), sameAddr); diff != "" {
		t.Error(diff)
	}
	h.Conf.ReturnPath = false
	for _, r := range h.Plan().Routes {
		if r.Side == Service {
			t.Errorf("returnPath is false, yet: %s", r)
		}
	}
	h.VIPs, h.Conf.ReturnPath = []netip.Addr{v4}, true
	for _, r := range h.Plan().Routes {
		if r.Dst.Addr().Is6() {
			t.Errorf("no VIP is IPv6, yet: %s", r)
		}
	}
}

func TestMinus(t *testing.T) {
	prefix := netip.MustParsePrefix
	old := Desired{
		Links:  []Link{{Name: "a"}},
		Routes: []Route{{Dst: prefix("192.0.2.1/32"), Source: netip.MustParseAddr("192.0.2.7")}, {Dst: prefix("192.0.2.2/32")}},
	}
	now := Desired{Routes: []Route{{Dst: prefix("192.0.2.1/32"), Source: netip.MustParseAddr("192.0.2.8")}}}
	want := Desired{Routes: []Route{{Dst: prefix("192.0.2.2/32")}}}
	if diff := cmp.Diff(want, old.Minus(now), sameAddr, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// TestDesiredOutlivesJSON: the journal's records must come back as they were.
func TestDesiredOutlivesJSON(t *testing.T) {
	a := attachment(t, "")
	want := a.HostSide(nil)
	service, _ := a.ServiceSide()
	want.Add(service)
	vips, err := a.Addresses(ipamResult(t, `"ips": [{"address": "192.0.2.10/24", "gateway": "192.0.2.1"}], "routes": [{"dst": "0.0.0.0/0", "scope": 253}]`))
	if err != nil {
		t.Fatal(err)
	}
	want.Add(vips)
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Desired
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, sameAddr); diff != "" {
		t.Error(diff)
	}
}

func TestStringsAreThoseOfIproute2(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	for _, tt := range []struct {
		item interface{ String() string }
		want string
	}{
		{Route{Side: Host, Link: "mv-int", Dst: prefix("192.0.2.1/32"), Table: 255, Metric: 100, Source: addr("192.0.2.7")}, "host: route 192.0.2.1/32 dev mv-int table local metric 100 src 192.0.2.7"},
		{Route{Side: Service, Link: "mv0", Dst: prefix("0.0.0.0/0"), Gateway: addr("192.0.2.7")}, "service: route 0.0.0.0/0 via 192.0.2.7 dev mv0"},
		{Neighbour{Host, "mv-int", addr("192.0.2.1"), "02:00:00:00:00:01"}, "host: neighbour 192.0.2.1 lladdr 02:00:00:00:00:01 dev mv-int"},
		{Address{Service, "mv0", prefix("192.0.2.1/24")}, "service: address 192.0.2.1/24 dev mv0"},
		{Link{Side: Host, Kind: KindMacvlan, Name: "mv-int", Mode: "bridge", Master: "eth0"}, "host: link mv-int type macvlan mode bridge on eth0"},
	} {
		if got := tt.item.String(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	for table, want := range map[int]string{255: "local", 254: "main", 253: "default", 7: "7"} {
		if got := TableName(table); got != want {
			t.Errorf("table %d is %q, want %q", table, got, want)
		}
	}
}

func TestHostInterfaceOf(t *testing.T) {
	seen := map[string]string{}
	for master, want := range map[string]string{
		"eth1": "mv-int-eth1", "bond0.26": "mv-int-bond0.26", "enp129s0f0np0": "mv-int-", "enp130s0f0np0": "mv-int-", "enp129s0f1np1": "mv-int-", "bond0.1026": "mv-int-",
	} {
		got := HostInterfaceOf(master)
		if !strings.HasPrefix(got, want) || len(got) > 15 || !strings.HasSuffix(got, master[len(master)-4:]) || got != HostInterfaceOf(master) {
			t.Errorf("of %s: %q", master, got)
		}
		if other, taken := seen[got]; taken {
			t.Errorf("%s and %s: both %q", master, other, got)
		}
		seen[got] = master
	}
}

// TestChooseHostInterface: eth0 has index 2, eth1 3, and bond0.26, a VLAN, lies on eth0.
func TestChooseHostInterface(t *testing.T) {
	on := func(lower int) LinkFacts { return LinkFacts{Kind: KindMacvlan, Lower: lower} }
	eth0 := LinkFacts{Name: "eth0", Index: 2, Kind: "device"}
	vlan := LinkFacts{Name: "bond0.26", Index: 7, Lower: 2, Kind: "vlan"}
	upper := LinkFacts{Name: "mv1", Index: 8, Lower: 2, Kind: KindMacvlan}
	for _, tt := range []struct {
		name, keys, before string
		master             LinkFacts
		links              map[string]LinkFacts
		want               string
		exists             bool
	}{
		{name: "first", master: eth0, want: "mv-int"},
		{name: "shared", master: eth0, links: map[string]LinkFacts{"mv-int": on(2)}, want: "mv-int", exists: true},
		{name: "another master's", master: eth0, links: map[string]LinkFacts{"mv-int": on(3)}, want: "mv-int-eth0"},
		{name: "below the VLAN", master: vlan, links: map[string]LinkFacts{"mv-int": on(2)}, want: "mv-int-bond0.26"},
		{name: "on the VLAN", master: vlan, links: map[string]LinkFacts{"mv-int": on(7)}, want: "mv-int", exists: true},
		{name: "a macvlan as master", master: upper, links: map[string]LinkFacts{"mv-int": on(2)}, want: "mv-int", exists: true},
		{name: "no macvlan", master: eth0, links: map[string]LinkFacts{"mv-int": {Kind: "bridge"}}, want: "mv-int-eth0"},
		{name: "the first is gone", master: eth0, links: map[string]LinkFacts{"mv-int-eth0": on(2)}, want: "mv-int-eth0", exists: true},
		{name: "as before", before: "mv-int-eth0", master: eth0, want: "mv-int-eth0"},
		{name: "as before, beside another", before: "mv-int-eth0", master: eth0, links: map[string]LinkFacts{"mv-int": on(2), "mv-int-eth0": on(2)}, want: "mv-int-eth0", exists: true},
		{name: "taken meanwhile", before: "mv-int", master: eth0, links: map[string]LinkFacts{"mv-int": on(3)}, want: "mv-int-eth0"},
		{name: "both taken", master: eth0, links: map[string]LinkFacts{"mv-int": on(3), "mv-int-eth0": on(3)}, want: "mv-int-eth0", exists: true},
		{name: "named", keys: `"hostInterface": "mine"`, master: eth0, links: map[string]LinkFacts{"mv-int": on(2), "mine": on(3)}, want: "mine", exists: true},
	} {
		a := attachment(t, tt.keys)
		a.Master = tt.master
		got, existing, err := a.ChooseHostInterface(a.HostInterfaces(tt.before), func(name string) (*LinkFacts, error) {
			if f, ok := tt.links[name]; ok {
				return &f, nil
			}
			return nil, nil
		})
		if err != nil || got != tt.want || (existing != nil) != tt.exists {
			t.Errorf("%s: %q, there: %v, %v; want %q, %v", tt.name, got, existing != nil, err, tt.want, tt.exists)
		}
	}
}

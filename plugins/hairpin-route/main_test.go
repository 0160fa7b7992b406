package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/google/go-cmp/cmp"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/tests/testnet"
)

func TestMain(m *testing.M) {
	const upstream = "github.com/containernetworking/plugins/plugins/"
	os.Exit(testnet.Plugins(m, "macvlan-vip/plugins/macvlan-vip", "macvlan-vip/plugins/hairpin-route", upstream+"ipam/static", upstream+"main/macvlan"))
}

// host is a host with a host-side macvlan, and a service with mv0 and a VIP,
// all made by hand.
func byHand(t *testing.T) (host *testnet.Namespace, a *testnet.Attachment) {
	t.Helper()
	host, _, a = byHandOnLAN(t)
	return host, a
}

func byHandOnLAN(t *testing.T) (host, lan *testnet.Namespace, a *testnet.Attachment) {
	t.Helper()
	host, lan = testnet.NewHost(t, "192.0.2.1/24", "2001:db8::1/64")
	host.IP("link add mv-int link eth0 type macvlan mode bridge")
	host.IP("link set mv-int up")
	a = &testnet.Attachment{Host: host, Service: testnet.New(t), ID: "c1", IfName: "mv0"}
	host.IP("link add mv0 link eth0 type macvlan mode bridge")
	host.IP("link set mv0 netns " + strings.TrimPrefix(a.Service.Path(), "/var/run/netns/"))
	a.Service.IP("link set mv0 up")
	a.Service.AddAddress("mv0", "192.0.2.10/24")
	a.Service.AddAddress("mv0", "2001:db8::10/64")
	return host, lan, a
}

func conf(cniVersion, keys, prev string) string {
	if keys != "" {
		keys = ", " + keys
	}
	if prev != "" {
		keys += `, "prevResult": ` + prev
	}
	return fmt.Sprintf(`{"cniVersion": %q, "name": "lan", "type": "hairpin-route"%s}`, cniVersion, keys)
}

// prevResult is what a plugin of a given version would have printed.
func prevResult(v string) string {
	if !testutils.SpecVersionHasChaining(v) {
		return fmt.Sprintf(`{"cniVersion": %q, "ip4": {"ip": "192.0.2.10/24"}, "ip6": {"ip": "2001:db8::10/64"}}`, v)
	}
	family := func(n int) string {
		if testutils.SpecVersionHasIPVersion(v) {
			return fmt.Sprintf(`"version": "%d", `, n)
		}
		return ""
	}
	return fmt.Sprintf(`{"cniVersion": %q, "interfaces": [{"name": "mv-int"}, {"name": "mv0", "sandbox": "/run/netns/x"}],
		"ips": [{%s"address": "192.0.2.10/24", "interface": 1}, {%s"address": "2001:db8::10/64", "interface": 1}]}`, v, family(4), family(6))
}

func code(err error) uint {
	if err == nil {
		return 0
	}
	return cnierr.ToCNI(err).Code
}

// TestVersions walks every verb through every version of the specification.
func TestVersions(t *testing.T) {
	host, a := byHand(t)
	for _, v := range version.All.SupportedVersions() {
		t.Run(v, func(t *testing.T) {
			before := host.Snapshot() + a.Service.Snapshot()
			c := conf(v, "", prevResult(v))
			_, printed, err := a.Add(c, cmdAdd)
			if err != nil {
				t.Fatalf("ADD: %v", err)
			}
			var got, want any
			if err := json.Unmarshal(printed, &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(prevResult(v)), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(drop(want, "dns"), drop(got, "dns")); diff != "" {
				t.Errorf("prevResult was not passed through: %s", diff)
			}
			for _, vip := range []string{"192.0.2.10", "2001:db8::10"} {
				if err := host.Ping(netip.MustParseAddr(vip)); err != nil {
					t.Error(err)
				}
			}
			if testutils.SpecVersionHasCHECK(v) {
				if err := a.Check(c, cmdCheck); err != nil {
					t.Errorf("CHECK: %v", err)
				}
			}
			if testutils.SpecVersionHasSTATUS(v) {
				if err := a.GC(conf(v, "", ""), cmdStatus); err != nil {
					t.Errorf("STATUS: %v", err)
				}
			}
			// cnitool has no prevResult for an ADD that failed further on.
			for _, c := range []string{conf(v, "", ""), c} {
				if err := a.Del(c, cmdDel); err != nil {
					t.Errorf("DEL: %v", err)
				}
			}
			if diff := cmp.Diff(before, host.Snapshot()+a.Service.Snapshot()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// drop takes out an empty key that some versions print and others do not.
func drop(v any, key string) any {
	if m, ok := v.(map[string]any); ok {
		delete(m, key)
	}
	return v
}

func TestKeys(t *testing.T) {
	host, a := byHand(t)
	host.AddAddress("eth0", "192.0.2.7/24")
	for _, tt := range []struct{ keys, query, line string }{
		{``, "route show table local proto 118", "192.0.2.10 dev mv-int scope link src 192.0.2.1 metric 100"},
		{`"source": "192.0.2.7"`, "route show table local proto 118", "192.0.2.10 dev mv-int scope link src 192.0.2.7 metric 100"},
		{`"table": "main", "metric": 7`, "route show proto 118", "192.0.2.10 dev mv-int scope link src 192.0.2.1 metric 7"},
		{`"table": 4711`, "-6 route show table 4711", "2001:db8::10 dev mv-int proto 118 src 2001:db8::1 metric 100"},
		{`"hostInterface": "mv-int"`, "route show table local proto 118", "192.0.2.10 dev mv-int"},
	} {
		t.Run(tt.keys, func(t *testing.T) {
			before := host.Snapshot() + a.Service.Snapshot()
			c := conf("1.1.0", tt.keys, prevResult("1.1.0"))
			if _, _, err := a.Add(c, cmdAdd); err != nil {
				t.Fatal(err)
			}
			if out := host.IP(tt.query); !strings.Contains(out, tt.line) {
				t.Errorf("ip %s: no %q in:\n%s", tt.query, tt.line, out)
			}
			if err := a.Check(c, cmdCheck); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			if err := a.Del(c, cmdDel); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(before, host.Snapshot()+a.Service.Snapshot()); diff != "" {
				t.Error(diff)
			}
		})
	}
	c := conf("1.1.0", `"returnPath": false`, prevResult("1.1.0"))
	before := a.Service.Snapshot()
	if _, _, err := a.Add(c, cmdAdd); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, a.Service.Snapshot()); diff != "" {
		t.Errorf("returnPath is false: %s", diff)
	}
	if err := a.Del(c, cmdDel); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	host, a := byHand(t)
	host.IP("link add other0 type veth peer name other1")
	host.IP("link set other0 up")
	host.IP("link add mv-other link other0 type macvlan mode bridge")
	host.IP("link set mv-other up")
	host.IP("link add mv-down link eth0 type macvlan mode bridge")
	prev := prevResult("1.1.0")
	const invalid = types.ErrInvalidNetworkConfig
	for _, tt := range []struct {
		name, keys, prev string
		code             uint
		text             []string
	}{
		{"not chained", ``, ``, invalid, []string{"prevResult", "chained"}},
		{"no address", ``, `{"cniVersion": "1.1.0", "interfaces": [{"name": "mv-int"}, {"name": "mv0", "sandbox": "/x"}]}`, invalid, []string{"prevResult.ips", `"mv0"`}},
		{"no host side", ``, `{"cniVersion": "1.1.0", "interfaces": [{"name": "mv0", "sandbox": "/x"}], "ips": [{"address": "192.0.2.10/24", "interface": 0}]}`, invalid, []string{"hostInterface", "prevResult"}},
		{"host side missing", `"hostInterface": "nonesuch"`, prev, invalid, []string{"hostInterface", `"nonesuch"`}},
		{"host side no macvlan", `"hostInterface": "eth0"`, prev, invalid, []string{"hostInterface", `"eth0"`, "veth"}},
		{"host side down", `"hostInterface": "mv-down"`, prev, types.ErrTryAgainLater, []string{"hostInterface", `"mv-down"`, "try again"}},
		{"host side elsewhere", `"hostInterface": "mv-other"`, prev, invalid, []string{"hostInterface", `"mv-other"`, "master"}},
		{"source not the host's", `"source": "192.0.2.99"`, prev, invalid, []string{"source", "192.0.2.99"}},
		{"a host's network on the LAN", `"hostNetworks": "192.0.2.128/25"`, prev, invalid, []string{"hostNetworks", "192.0.2.128/25", "LAN"}},
		{"VIP is the host's", ``, strings.Replace(prev, "192.0.2.10/", "192.0.2.1/", 1), cnierr.AddressConflict, []string{"192.0.2.1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := host.Snapshot() + a.Service.Snapshot()
			_, _, err := a.Add(conf("1.1.0", tt.keys, tt.prev), cmdAdd)
			if code(err) != tt.code {
				t.Fatalf("code %d, want %d: %v", code(err), tt.code, err)
			}
			whole := cnierr.ToCNI(err).Error()
			for _, text := range tt.text {
				if !strings.Contains(whole, text) {
					t.Errorf("no %q in: %s", text, whole)
				}
			}
			if diff := cmp.Diff(before, host.Snapshot()+a.Service.Snapshot()); diff != "" {
				t.Errorf("left behind: %s", diff)
			}
		})
	}
}

// TestRouteInTheWay tells apart whose the route is that is there already.
func TestRouteInTheWay(t *testing.T) {
	host, a := byHand(t)
	c := conf("1.1.0", "", prevResult("1.1.0"))

	t.Run("a stranger's", func(t *testing.T) {
		for _, stranger := range []string{"192.0.2.10", "2001:db8::10"} {
			host.IP("route add " + stranger + " dev eth0 table local metric 100")
			before := host.Snapshot() + a.Service.Snapshot()
			_, _, err := a.Add(c, cmdAdd)
			if code(err) != cnierr.AddressConflict || !strings.Contains(err.Error(), stranger) || !strings.Contains(err.Error(), "eth0") {
				t.Errorf("code %d: %v", code(err), err)
			}
			if err := a.Del(c, cmdDel); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(before, host.Snapshot()+a.Service.Snapshot()); diff != "" {
				t.Error(diff)
			}
			host.IP("route del " + stranger + " dev eth0 table local metric 100")
		}
	})

	if _, _, err := a.Add(c, cmdAdd); err != nil {
		t.Fatal(err)
	}
	t.Run("another attachment's", func(t *testing.T) {
		before := host.Snapshot() + a.Service.Snapshot()
		other := &testnet.Attachment{Host: host, Service: a.Service, ID: "c2", IfName: "mv0"}
		_, _, err := other.Add(c, cmdAdd)
		if code(err) != cnierr.AddressConflict || !strings.Contains(err.Error(), "lan:c1:mv0") {
			t.Errorf("code %d: %v", code(err), err)
		}
		if err := other.Del(c, cmdDel); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(before, host.Snapshot()+a.Service.Snapshot()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("its own", func(t *testing.T) {
		before := host.Snapshot() + a.Service.Snapshot()
		if _, _, err := a.Add(c, cmdAdd); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(before, host.Snapshot()+a.Service.Snapshot()); diff != "" {
			t.Error(diff)
		}
	})
	if err := a.Del(c, cmdDel); err != nil {
		t.Error(err)
	}
}

// TestRouteBeforeOurs: a route that goes before ours takes the host's packets, though
// it is not in its way.
func TestRouteBeforeOurs(t *testing.T) {
	host, a := byHand(t)
	c := conf("1.1.0", "", prevResult("1.1.0"))
	for _, stranger := range []struct{ route, says string }{
		{"192.0.2.10 dev eth0 table local metric 50", "dev eth0"},
		{"2001:db8::10 dev eth0 table local metric 50", "dev eth0"},
		{"blackhole 192.0.2.10 table local", "no way to it"},
		{"blackhole 2001:db8::10 table local metric 50", "no way to it"},
		{"local 192.0.2.10 dev lo", "the host takes packets to it for its own"},
		{"local 2001:db8::10 dev lo table local metric 50", "the host takes packets to it for its own"},
	} {
		t.Run(stranger.route, func(t *testing.T) {
			before := host.Snapshot() + a.Service.Snapshot()
			host.IP("route add " + stranger.route)
			_, _, err := a.Add(c, cmdAdd)
			if code(err) != cnierr.AddressConflict || !strings.Contains(err.Error(), stranger.says) {
				t.Errorf("ADD: code %d: %v", code(err), err)
			}
			host.IP("route del " + stranger.route)
			if diff := cmp.Diff(before, host.Snapshot()+a.Service.Snapshot()); diff != "" {
				t.Errorf("after a refused ADD: %s", diff)
			}
			if _, _, err := a.Add(c, cmdAdd); err != nil {
				t.Fatal(err)
			}
			host.IP("route add " + stranger.route)
			if err := a.Check(c, cmdCheck); code(err) != cnierr.Drift || !strings.Contains(err.Error(), stranger.says) {
				t.Errorf("CHECK: code %d: %v", code(err), err)
			}
			host.IP("route del " + stranger.route)
			if err := a.Check(c, cmdCheck); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			if err := a.Del(c, cmdDel); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDeadLink: a host that ignores routes over links without a carrier is no host on which
// somebody else's go before ours.
func TestDeadLink(t *testing.T) {
	host, lan, a := byHandOnLAN(t)
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, link := range []string{"all", "mv-int"} {
			host.Sysctl("net/"+family+"/conf/"+link+"/ignore_routes_with_linkdown", "1")
		}
	}
	lan.IP("link set port down")
	testnet.Eventually(t, "mv-int has no carrier", func() error {
		if out := host.IP("link show mv-int"); !strings.Contains(out, "NO-CARRIER") {
			return errors.New(out)
		}
		return nil
	})
	c := conf("1.1.0", "", prevResult("1.1.0"))
	for range 2 {
		if _, _, err := a.Add(c, cmdAdd); err != nil {
			t.Error(err)
		}
	}
}

// TestHostsAddressChanges: CHECK says so, and a repeated ADD puts it right,
// without a trace of the old address.
func TestHostsAddressChanges(t *testing.T) {
	host, a := byHand(t)
	c := conf("1.1.0", "", prevResult("1.1.0"))
	if _, _, err := a.Add(c, cmdAdd); err != nil {
		t.Fatal(err)
	}
	host.AddAddress("eth0", "192.0.2.77/24")
	host.AddAddress("eth0", "2001:db8::77/64")
	host.IP("address del 192.0.2.1/24 dev eth0")
	host.IP("address del 2001:db8::1/64 dev eth0")
	host.AddAddress("eth0", "192.0.2.77/24")

	err := a.Check(c, cmdCheck)
	if code(err) != cnierr.Drift || !strings.Contains(err.Error(), "src 192.0.2.77: source is 192.0.2.1") {
		t.Errorf("code %d: %v", code(err), err)
	}
	if _, _, err := a.Add(c, cmdAdd); err != nil {
		t.Fatal(err)
	}
	if err := a.Check(c, cmdCheck); err != nil {
		t.Errorf("after the repair: %v", err)
	}
	for _, vip := range []string{"192.0.2.10", "2001:db8::10"} {
		if err := host.Ping(netip.MustParseAddr(vip)); err != nil {
			t.Error(err)
		}
	}
	state := a.Service.IP("route show") + a.Service.IP("-6 route show") + a.Service.IP("neigh show nud permanent")
	for _, old := range []string{"192.0.2.1 ", "2001:db8::1 "} {
		if strings.Contains(state, old) {
			t.Errorf("the old address %s is still there:\n%s", old, state)
		}
	}
	if err := a.Del(c, cmdDel); err != nil {
		t.Error(err)
	}
	if left := host.IP("route show table local proto 118") + host.IP("neigh show nud permanent"); left != "" {
		t.Errorf("left on the host: %s", left)
	}
}

// TestNoIPv6Address: a host with no IPv6 address at all, but a route, is repaired and takes
// services on IPv6 VIPs. The kernel says that it would send from ::1.
func TestNoIPv6Address(t *testing.T) {
	host, a := byHand(t)
	host.IP("-6 address flush dev eth0")
	host.IP("-6 address flush dev mv-int")
	host.IP("-6 route add default dev eth0")
	if out := host.IP("-6 route get 2001:db8::10 oif eth0"); !strings.Contains(out, "src ::1 ") {
		t.Skipf("this kernel names another source: %s", out)
	}
	c := conf("1.1.0", "", prevResult("1.1.0"))
	for range 2 {
		if _, _, err := a.Add(c, cmdAdd); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Check(c, cmdCheck); err != nil {
		t.Error(err)
	}
	if err := host.Ping(netip.MustParseAddr("192.0.2.10")); err != nil {
		t.Error(err)
	}
	if err := a.Del(c, cmdDel); err != nil {
		t.Error(err)
	}
}

// TestChanged: whoever watches the host is told which attachments to repair.
func TestChanged(t *testing.T) {
	host, a := byHand(t)
	c := conf("1.1.0", "", prevResult("1.1.0"))
	says := func(want ...string) {
		t.Helper()
		var out bytes.Buffer
		host.Do(func() error { return changed(&out) })
		if len(want) == 0 {
			if out.Len() > 0 {
				t.Errorf("nothing has changed, yet: %s", &out)
			}
			return
		}
		var got change
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%v: %s", err, &out)
		}
		if got.ContainerID != "c1" || got.Network != "lan" || got.IfName != "mv0" || got.Netns != a.Service.Path() {
			t.Errorf("another attachment: %+v", got)
		}
		if diff := cmp.Diff(want, got.Changes); diff != "" {
			t.Error(diff)
		}
	}
	repair := func() {
		t.Helper()
		if _, _, err := a.Add(c, cmdAdd); err != nil {
			t.Fatal(err)
		}
		says()
	}
	says()
	repair()
	mac := strings.Fields(host.IP("-br link show mv-int"))[2]
	host.AddAddress("eth0", "192.0.2.77/32")
	says("service: route 192.0.2.77/32 dev mv0: missing", "service: neighbour 192.0.2.77 lladdr "+mac+" dev mv0: missing")
	repair()
	host.IP("address del 192.0.2.77/32 dev eth0")
	says("service: route 192.0.2.77/32 dev mv0: left over", "service: neighbour 192.0.2.77 lladdr "+mac+" dev mv0: left over")
	repair()
	host.IP("link set mv-int down")
	says("host: link mv-int: state is down, not up")
	host.IP("link del mv-int")
	says("host: link mv-int: missing")
	if err := a.Del(c, cmdDel); err != nil {
		t.Error(err)
	}
	says()
}

// TestChangedInVRF: the routes of a host-side link in a VRF are in the VRF's table,
// unless the configuration names one.
func TestChangedInVRF(t *testing.T) {
	host, _ := byHand(t)
	for keys, want := range map[string]int{"": 10, `"table": 7`: 7} {
		again, err := planInVRF(t, host, "red", keys, nil)
		if err != nil {
			t.Error(err)
		}
		for _, r := range plan.OnSide(plan.Host, again.Routes) {
			if r.Table != want {
				t.Errorf("with %q: %s, not in table %d", keys, r, want)
			}
		}
	}
}

// planInVRF plans the way of what byHand makes as if mv-int were in a VRF, or in none
// for the empty name, and the host had certain addresses.
func planInVRF(t *testing.T, host *testnet.Namespace, vrf, keys string, addrs []plan.AddrFacts) (d plan.Desired, err error) {
	t.Helper()
	rec := &journal.Record{Key: journal.Key{IfName: "mv0"}, Input: json.RawMessage(conf("1.1.0", keys, prevResult("1.1.0")))}
	host.Do(func() error {
		k, openErr := kernel.OpenHost()
		if openErr != nil {
			return openErr
		}
		defer k.Close()
		link, _, linkErr := k.Link("mv-int")
		if link.VRF = vrf; vrf != "" {
			link.VRFTable = 10
		}
		d, err = planAgain(k, addrs, rec, link)
		return linkErr
	})
	return d, err
}

// TestDeprecatedAddress: nothing new is sent from one, but it is the host's for all who
// know it (RFC 4862, section 5.5.4). Cluster managers add IPv6 addresses like that.
func TestDeprecatedAddress(t *testing.T) {
	host, a := byHand(t)
	deprecated := []string{"192.0.2.77/32", "2001:db8::77/128 nodad"}
	for _, addr := range deprecated {
		host.IP("address add dev eth0 preferred_lft 0 " + addr)
	}
	if _, _, err := a.Add(conf("1.1.0", "", prevResult("1.1.0")), cmdAdd); err != nil {
		t.Fatal(err)
	}
	for _, addr := range deprecated {
		text, _, _ := strings.Cut(addr, "/")
		addr := netip.MustParseAddr(text)
		testnet.Eventually(t, "the service reaches "+addr.String(), func() error { return a.Service.Ping(addr) })
	}
	for vip, source := range map[string]string{"192.0.2.10": "192.0.2.77", "2001:db8::10": "2001:db8::77"} {
		if err := host.Ping(netip.MustParseAddr(vip), "-I", source); err != nil {
			t.Errorf("from %s: %v", source, err)
		}
		if route := host.IP("route get " + vip); strings.Contains(route, source) {
			t.Errorf("the host begins from a deprecated address: %s", route)
		}
	}
}

// TestAddressesOfOtherVRFs: they can be anybody's on the service's LAN, its router's
// for instance. The service is led to the host for none of them, and one can be a VIP.
// What is in no VRF, the host keeps from all of them.
func TestAddressesOfOtherVRFs(t *testing.T) {
	host, _ := byHand(t)
	in := func(vrf, addr string) plan.AddrFacts {
		return plan.AddrFacts{Prefix: netip.MustParsePrefix(addr), Stable: true, Held: true, Usable: true, Neighbourly: true, VRF: vrf}
	}
	const vip = "192.0.2.10/24"
	for name, tt := range map[string]struct {
		vrf   string
		addrs []plan.AddrFacts
		// led are the addresses that the service has a route to; nil for an error.
		led []string
	}{
		"in a VRF": {
			"red", []plan.AddrFacts{in("red", "192.0.2.7/24"), in("blue", "192.0.2.8/24"), in("", "192.0.2.9/24"), in("blue", "2001:db8::8/64")},
			[]string{"192.0.2.1", "192.0.2.7", "2001:db8::1"},
		},
		"in none": {
			"", []plan.AddrFacts{in("red", "192.0.2.7/24"), in("", "192.0.2.9/24"), in("red", "2001:db8::8/64")},
			[]string{"192.0.2.1", "192.0.2.9", "2001:db8::1"},
		},
		"a VIP that another VRF has":      {"red", []plan.AddrFacts{in("blue", vip)}, []string{"192.0.2.1", "2001:db8::1"}},
		"a VIP in none that a VRF has":    {"", []plan.AddrFacts{in("red", vip)}, []string{"192.0.2.1", "2001:db8::1"}},
		"a VIP that the VRF has":          {"red", []plan.AddrFacts{in("red", vip)}, nil},
		"a VIP that the host has in none": {"red", []plan.AddrFacts{in("", vip)}, nil},
		"a VIP in none that the host has": {"", []plan.AddrFacts{in("", vip)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := planInVRF(t, host, tt.vrf, "", tt.addrs)
			if tt.led == nil {
				if code(err) != cnierr.AddressConflict {
					t.Errorf("code %d: %v", code(err), err)
				}
				return
			}
			var led []string
			for _, r := range plan.OnSide(plan.Service, d.Routes) {
				led = append(led, r.Dst.Addr().String())
			}
			slices.Sort(led)
			if diff := cmp.Diff(tt.led, led); diff != "" || err != nil {
				t.Error(diff, err)
			}
		})
	}
}

// TestDelWithoutNetns: the host's routes would blackhole the VIP.
func TestDelWithoutNetns(t *testing.T) {
	for _, path := range []string{"", "/run/netns/nonesuch", "/etc/hostname"} {
		host, a := byHand(t)
		before := host.Snapshot()
		c := conf("1.1.0", "", prevResult("1.1.0"))
		if _, _, err := a.Add(c, cmdAdd); err != nil {
			t.Fatal(err)
		}
		a.Service.IP("link del mv0")
		for range 2 {
			if err := a.DelAt(path, conf("1.1.0", "", ""), cmdDel); err != nil {
				t.Errorf("netns %q: %v", path, err)
			}
		}
		if diff := cmp.Diff(before, host.Snapshot()); diff != "" {
			t.Errorf("netns %q: %s", path, diff)
		}
	}
}

func TestGC(t *testing.T) {
	host, a := byHand(t)
	before := host.Snapshot() + a.Service.Snapshot()
	c := conf("1.1.0", "", prevResult("1.1.0"))
	if _, _, err := a.Add(c, cmdAdd); err != nil {
		t.Fatal(err)
	}
	during := host.Snapshot() + a.Service.Snapshot()
	gc := conf("1.1.0", "", "")
	for _, keep := range []string{gc, testnet.With(t, gc, "cni.dev/valid-attachments", []types.GCAttachment{{ContainerID: "c1", IfName: "mv0"}})} {
		if err := a.GC(keep, cmdGC); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(during, host.Snapshot()+a.Service.Snapshot()); diff != "" {
			t.Errorf("GC took what it was told to keep: %s", diff)
		}
	}
	if err := a.GC(testnet.With(t, gc, "cni.dev/valid-attachments", []types.GCAttachment{}), cmdGC); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, host.Snapshot()+a.Service.Snapshot()); diff != "" {
		t.Error(diff)
	}
}

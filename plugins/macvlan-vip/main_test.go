package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/google/go-cmp/cmp"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/verb"
	"macvlan-vip/tests/testnet"
)

func TestMain(m *testing.M) {
	const ipam = "github.com/containernetworking/plugins/plugins/ipam/"
	os.Exit(testnet.Plugins(m, ipam+"static", ipam+"host-local", ipam+"dhcp"))
}

// network is a configuration with the given keys of the plugin; VIPs come from static.
func network(cniVersion, keys string, vips ...string) string {
	for i, vip := range vips {
		vips[i] = fmt.Sprintf(`{"address": %q}`, vip)
	}
	if keys != "" {
		keys += ", "
	}
	return fmt.Sprintf(`{"cniVersion": %q, "name": "lan", "type": "macvlan-vip", "master": "eth0", "probe": {"count": 1, "waitMs": 20}, %s"ipam": {"type": "static", "addresses": [%s]}}`,
		cniVersion, keys, strings.Join(vips, ", "))
}

func attach(t *testing.T, host *testnet.Namespace, id string) *testnet.Attachment {
	t.Helper()
	return &testnet.Attachment{Host: host, Service: testnet.New(t), ID: id, IfName: "mv0"}
}

// add is ADD with its result in the current type; it ends the test on an error.
func add(t *testing.T, a *testnet.Attachment, conf string) *current.Result {
	t.Helper()
	result, _, err := a.Add(conf, cmdAdd)
	if err != nil {
		t.Fatalf("ADD: %v", err)
	}
	r, err := current.NewResultFromResult(result)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func del(t *testing.T, a *testnet.Attachment, conf string) {
	t.Helper()
	if err := a.Del(conf, cmdDel); err != nil {
		t.Errorf("DEL: %v", err)
	}
}

// records lists what the journal holds of a host.
func records(t *testing.T, host *testnet.Namespace) (files []string) {
	t.Helper()
	host.Do(func() error {
		store, err := verb.OpenJournal(name)
		if err != nil {
			return err
		}
		keys, err := store.List("lan")
		for _, key := range keys {
			files = append(files, key.String())
		}
		return err
	})
	return files
}

// code is the CNI code of an error.
func code(err error) uint {
	if err == nil {
		return 0
	}
	return cnierr.ToCNI(err).Code
}

// TestVersions walks every verb through every version of the specification.
func TestVersions(t *testing.T) {
	for _, v := range version.All.SupportedVersions() {
		t.Run(v, func(t *testing.T) {
			host, _ := testnet.NewHost(t, "192.0.2.1/24")
			a := attach(t, host, "c1")
			before := host.Snapshot()
			conf := network(v, "", "192.0.2.10/24")

			_, printed, err := a.Add(conf, cmdAdd)
			if err != nil {
				t.Fatalf("ADD: %v", err)
			}
			var shape struct{ CNIVersion string }
			if err := json.Unmarshal(printed, &shape); err != nil || shape.CNIVersion != v {
				t.Errorf("result of version %q: %v", shape.CNIVersion, err)
			}
			if out := a.Service.IP("address show mv0"); !strings.Contains(out, "inet 192.0.2.10/24") {
				t.Errorf("no VIP on mv0:\n%s", out)
			}
			if testutils.SpecVersionHasCHECK(v) {
				if err := a.Check(testnet.With(t, conf, "prevResult", json.RawMessage(printed)), cmdCheck); err != nil {
					t.Errorf("CHECK: %v", err)
				}
			}
			if testutils.SpecVersionHasSTATUS(v) {
				if err := a.GC(conf, cmdStatus); err != nil {
					t.Errorf("STATUS: %v", err)
				}
			}
			del(t, a, conf)
			del(t, a, conf)
			if diff := cmp.Diff(before, host.Snapshot()); diff != "" {
				t.Errorf("left on the host: %s", diff)
			}
		})
	}
}

func TestResult(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	a := attach(t, host, "c1")
	conf := network("1.1.0", `"mac": "02:00:00:00:00:42"`, "192.0.2.10/24", "2001:db8::10/64")
	r := add(t, a, conf)
	t.Cleanup(func() { del(t, a, conf) })
	if len(r.Interfaces) != 2 {
		t.Fatalf("interfaces: %v", r.Interfaces)
	}
	hostSide, own := r.Interfaces[0], r.Interfaces[1]
	if hostSide.Name != "mv-int" || hostSide.Sandbox != "" || !strings.Contains(host.IP("link show mv-int"), hostSide.Mac) {
		t.Errorf("host side: %v", hostSide)
	}
	if own.Name != "mv0" || own.Sandbox != a.Service.Path() || own.Mac != "02:00:00:00:00:42" {
		t.Errorf("service side: %v", own)
	}
	for _, ip := range r.IPs {
		if ip.Interface == nil || *ip.Interface != 1 {
			t.Errorf("%v points at %v", ip.Address, ip.Interface)
		}
	}
}

// TestSharedHostInterface: made by the first, kept by the second, gone with
// the last; one that somebody else made stays as it was.
func TestSharedHostInterface(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		t.Run(fmt.Sprintf("foreign %v", foreign), func(t *testing.T) {
			host, _ := testnet.NewHost(t, "192.0.2.1/24")
			if foreign {
				host.IP("link add mv-int link eth0 type macvlan mode bridge")
				host.IP("link set mv-int up")
				host.AddAddress("mv-int", "192.0.2.2/24")
			}
			before := host.Snapshot()
			a, b := attach(t, host, "a"), attach(t, host, "b")
			confA, confB := network("1.1.0", "", "192.0.2.10/24"), network("1.1.0", "", "192.0.2.11/24")
			first, second := add(t, a, confA), add(t, b, confB)
			if first.Interfaces[0].Mac != second.Interfaces[0].Mac {
				t.Errorf("two host sides: %v and %v", first.Interfaces[0], second.Interfaces[0])
			}
			if first.Interfaces[1].Mac == second.Interfaces[1].Mac {
				t.Errorf("one MAC for two services: %v", first.Interfaces[1])
			}
			del(t, a, confA)
			if _, err := host.TryIP("link show mv-int"); err != nil {
				t.Errorf("gone with the first of two: %v", err)
			}
			del(t, b, confB)
			if diff := cmp.Diff(before, host.Snapshot()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestMACIsStable over DEL and ADD, and over a netns that was made anew.
func TestMACIsStable(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	conf := network("1.1.0", "", "192.0.2.10/24")
	var macs []string
	for range 3 {
		a := attach(t, host, "c1")
		r := add(t, a, conf)
		macs = append(macs, r.Interfaces[0].Mac+" "+r.Interfaces[1].Mac)
		del(t, a, conf)
	}
	if macs[0] != macs[1] || macs[1] != macs[2] {
		t.Errorf("MACs: %q", macs)
	}
}

// TestRefusals: every bad input gets the right code, a message that names it,
// and leaves nothing behind.
func TestRefusals(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	host.IP("link add down0 type veth peer name down1")
	host.IP("link add br0 type bridge")
	host.IP("link add port0 type veth peer name port1")
	host.IP("link set port0 master br0 up")
	host.IP("link add other0 type veth peer name other1")
	host.IP("link set other0 up")
	host.IP("link add mv-other link other0 type macvlan mode bridge")
	host.IP("link add mv-vepa link eth0 type macvlan mode vepa")
	host.IP("link add pass0 type veth peer name pass1")
	host.IP("link set pass0 up")
	host.IP("link add mv-pass link pass0 type macvlan mode passthru")
	const again, invalid, environment = types.ErrTryAgainLater, types.ErrInvalidNetworkConfig, types.ErrInvalidEnvironmentVariables
	tests := []struct {
		name, conf string
		code       uint
		text       []string
	}{
		{"master missing", network("1.1.0", `"master": "eth9"`, "192.0.2.10/24"), invalid, []string{"master", `"eth9"`, "still to come, try again"}},
		{"master down", network("1.1.0", `"master": "down0"`, "192.0.2.10/24"), again, []string{"master", `"down0"`, "still to come, try again", "ip link set down0 up"}},
		{"master is loopback", network("1.1.0", `"master": "lo"`, "192.0.2.10/24"), invalid, []string{"master", `"lo"`}},
		{"master is a bridge port", network("1.1.0", `"master": "port0"`, "192.0.2.10/24"), invalid, []string{"master", `"port0"`, "br0"}},
		{"master has one in passthru mode", network("1.1.0", `"master": "pass0"`, "192.0.2.10/24"), invalid, []string{"pass0", "passthru", "master"}},
		{"passthru beside another", network("1.1.0", `"mode": "passthru"`, "192.0.2.10/24"), invalid, []string{"eth0", "passthru", "another macvlan"}},
		{"no default route", strings.Replace(network("1.1.0", "", "192.0.2.10/24"), `"master": "eth0"`, `"master": ""`, 1), invalid, []string{"master", "default route", "still to come, try again"}},
		{"no VIP", network("1.1.0", ""), invalid, []string{"ipam", "static"}},
		{"VIP without prefix", network("1.1.0", "", "192.0.2.10"), invalid, []string{"ipam", "192.0.2.10"}},
		{"VIP is the host's", network("1.1.0", "", "192.0.2.1/24"), cnierr.AddressConflict, []string{"192.0.2.1", "eth0"}},
		{"VIP is multicast", network("1.1.0", "", "224.0.0.9/24"), invalid, []string{"224.0.0.9"}},
		{"mtu above the master's", network("1.1.0", `"mtu": 1501`, "192.0.2.10/24"), invalid, []string{"mtu", "1501", "1500"}},
		{"mode", network("1.1.0", `"mode": "bad"`, "192.0.2.10/24"), invalid, []string{"mode", `"bad"`, "bridge"}},
		{"mac", network("1.1.0", `"mac": "02:zz"`, "192.0.2.10/24"), invalid, []string{"mac", `"02:zz"`}},
		{"sysctl outside net.", network("1.1.0", `"sysctl": {"kernel.panic": "1"}`, "192.0.2.10/24"), invalid, []string{"sysctl", "kernel.panic"}},
		{"sysctl that is none", network("1.1.0", `"sysctl": {"net.ipv4.conf.IFNAME.nonesuch": "1"}`, "192.0.2.10/24"), invalid, []string{"sysctl", "net.ipv4.conf.mv0.nonesuch"}},
		{"sysctl's value", network("1.1.0", `"sysctl": {"net.ipv4.conf.IFNAME.forwarding": "maybe"}`, "192.0.2.10/24"), invalid, []string{"sysctl", "forwarding", "maybe"}},
		{"hostInterface is no macvlan", network("1.1.0", `"hostInterface": "br0"`, "192.0.2.10/24"), invalid, []string{"hostInterface", `"br0"`, "bridge"}},
		{"hostInterface on another master", network("1.1.0", `"hostInterface": "mv-other"`, "192.0.2.10/24"), invalid, []string{"hostInterface", `"mv-other"`, "other0"}},
		{"hostInterface in another mode", network("1.1.0", `"hostInterface": "mv-vepa"`, "192.0.2.10/24"), invalid, []string{"hostInterface", `"mv-vepa"`, "vepa"}},
		{"IPAM plugin missing", strings.Replace(network("1.1.0", ""), `"static"`, `"nonesuch"`, 1), invalid, []string{"ipam", "nonesuch", "CNI_PATH"}},
		{"route through no gateway", strings.Replace(network("1.1.0", "", "192.0.2.10/24"), `]}}`, `], "routes": [{"dst": "2001:db8::/32", "gw": "192.0.2.1"}]}}`, 1), invalid, []string{"route", "2001:db8::/32"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := attach(t, host, "c1")
			a.Service.IP("link set lo up")
			a.Service.IP("link set lo down")
			before := host.Snapshot() + a.Service.Snapshot()
			_, _, err := a.Add(tt.conf, cmdAdd)
			if err == nil {
				t.Fatal("accepted")
			}
			if got := code(err); got != tt.code {
				t.Errorf("code %d, want %d", got, tt.code)
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
			if left := records(t, host); len(left) != 0 {
				t.Errorf("records left behind: %q", left)
			}
			del(t, a, tt.conf)
		})
	}
	t.Run("interface name taken", func(t *testing.T) {
		a := attach(t, host, "c1")
		a.Service.IP("link add mv0 type veth peer name mv1")
		_, _, err := a.Add(network("1.1.0", "", "192.0.2.10/24"), cmdAdd)
		if code(err) != environment || !strings.Contains(err.Error(), `"mv0"`) {
			t.Errorf("code %d: %v", code(err), err)
		}
		if _, err := a.Service.TryIP("link show mv1"); err != nil {
			t.Errorf("the other's link is gone: %v", err)
		}
	})
	t.Run("netns that is none", func(t *testing.T) {
		for _, path := range []string{"/run/netns/nonesuch", "/etc/hostname"} {
			args := &testnet.Attachment{Host: host, Service: testnet.New(t), ID: "c1", IfName: "mv0"}
			_, _, err := args.AddAt(path, network("1.1.0", "", "192.0.2.10/24"), cmdAdd)
			if code(err) != types.ErrInvalidNetNS || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: code %d: %v", path, code(err), err)
			}
		}
	})
	t.Run("the host's own netns", func(t *testing.T) {
		a := attach(t, host, "c1")
		_, _, err := a.AddAt(host.Path(), network("1.1.0", "", "192.0.2.10/24"), cmdAdd)
		if code(err) != types.ErrInvalidNetNS {
			t.Errorf("code %d: %v", code(err), err)
		}
	})
}

// TestVIPOfAnother: the loser is refused, and neither its failed ADD nor its
// DEL touches the owner.
func TestVIPOfAnother(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	owner, loser := attach(t, host, "owner"), attach(t, host, "loser")
	conf := network("1.1.0", `"addressConflict": "ignore"`, "192.0.2.10/24")
	add(t, owner, conf)
	before := host.Snapshot() + owner.Service.Snapshot()
	for range 2 {
		_, _, err := loser.Add(conf, cmdAdd)
		if code(err) != cnierr.AddressConflict || !strings.Contains(err.Error(), "192.0.2.10") || !strings.Contains(err.Error(), "owner") {
			t.Errorf("code %d: %v", code(err), err)
		}
		del(t, loser, conf)
	}
	if diff := cmp.Diff(before, host.Snapshot()+owner.Service.Snapshot()); diff != "" {
		t.Errorf("the owner was touched: %s", diff)
	}
	del(t, owner, conf)
	add(t, loser, conf)
	del(t, loser, conf)
}

// TestRepeatedAddRepairs, with a host-local lease that stays the same.
func TestRepeatedAddRepairs(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	a := attach(t, host, "c1")
	conf := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan-vip", "master": "eth0", "probe": {"count": 1, "waitMs": 20},
		"ipam": {"type": "host-local", "dataDir": %q, "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100"}}`, t.TempDir())
	first := add(t, a, conf)
	for _, change := range []struct {
		in  *testnet.Namespace
		cmd string
	}{
		{host, "link del mv-int"}, {host, "link set mv-int down"}, {a.Service, "link set mv0 down"},
		{a.Service, "address flush dev mv0 scope global"}, {a.Service, "link set lo down"},
		{a.Service, "link set mv0 address 02:00:00:00:00:99"}, {a.Service, "link set mv0 mtu 1300"}, {host, "link set mv-int mtu 1300"},
		{host, "link set eth0 address 02:00:00:00:00:98"},
	} {
		change.in.IP(change.cmd)
		again := add(t, a, conf)
		if diff := cmp.Diff(first, again); diff != "" {
			t.Errorf("after %s: %s", change.cmd, diff)
		}
		printed, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Check(testnet.With(t, conf, "prevResult", json.RawMessage(printed)), cmdCheck); err != nil {
			t.Errorf("CHECK after %s: %v", change.cmd, err)
		}
	}
	_, _, err := a.Add(testnet.With(t, conf, "mtu", 1400), cmdAdd)
	if code(err) != types.ErrInvalidNetworkConfig || !strings.Contains(err.Error(), "another configuration") {
		t.Errorf("another configuration: code %d: %v", code(err), err)
	}
	if out := a.Service.IP("address show mv0"); !strings.Contains(out, "192.0.2.100") {
		t.Errorf("the refused ADD took the VIP away:\n%s", out)
	}
	del(t, a, conf)
}

// TestRefusedByHostLocal: the error says why host-local gave no addresses, once, although
// its DEL fails for the same reason.
func TestRefusedByHostLocal(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ keys, reason string }{
		"no ranges":                {fmt.Sprintf(`"dataDir": %q`, t.TempDir()), "no IP ranges specified"},
		"a dataDir that is a file": {fmt.Sprintf(`"dataDir": %q, "subnet": "192.0.2.0/24"`, file), "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			before := host.Snapshot()
			_, _, err := attach(t, host, "c1").Add(`{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan-vip", "master": "eth0",
				"ipam": {"type": "host-local", `+c.keys+`}}`, cmdAdd)
			if code(err) != types.ErrInvalidNetworkConfig {
				t.Fatalf("code %d: %v", code(err), err)
			}
			said, undoing, _ := strings.Cut(err.Error(), "while undoing it")
			if !strings.Contains(said, `"host-local": give addresses`) || !strings.Contains(said, c.reason) || strings.Count(said+undoing, "take addresses back") > 1 {
				t.Error(err)
			}
			if diff := cmp.Diff(before, host.Snapshot()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSource: what a service sends comes from its first VIP, whatever the family, also
// after a repair of all of them.
func TestSource(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	a := attach(t, host, "c1")
	c := network("1.1.0", "", "192.0.2.11/24", "192.0.2.10/24", "2001:db8::11/64", "2001:db8::10/64")
	for _, what := range []string{"at first", "after a repair"} {
		add(t, a, c)
		for dst, want := range map[string]string{"192.0.2.99": "192.0.2.11", "2001:db8::99": "2001:db8::11"} {
			if route := a.Service.IP("route get " + dst); !strings.Contains(route, "src "+want+" ") {
				t.Errorf("%s: %s, want %s", what, route, want)
			}
		}
		a.Service.IP("route flush table main")
		a.Service.IP("-6 route flush table main")
	}
}

// TestRepairOfRoutes: what others have made on the link stays, and the routes that were made
// again go with their addresses.
func TestRepairOfRoutes(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	a := attach(t, host, "c1")
	c := network("1.1.0", "", "192.0.2.11/24", "192.0.2.10/24")
	add(t, a, c)
	a.Service.IP("route add 198.51.100.0/24 via 192.0.2.254")
	a.Service.IP("neigh replace 192.0.2.254 lladdr 02:00:5e:00:53:fe nud permanent dev mv0")
	// Before Linux 5.14 the kernel makes one for the network's own address, too, which serves
	// nobody; it is not made again.
	lowest := regexp.MustCompile(`(?m)^broadcast 192\.0\.2\.0 .*\n`)
	state := func() string { return lowest.ReplaceAllString(a.Service.Snapshot(), "") }
	want := state()
	for _, damage := range []string{"route del 192.0.2.0/24 dev mv0", "route flush table local dev mv0"} {
		a.Service.IP(damage)
		add(t, a, c)
		if diff := cmp.Diff(want, state()); diff != "" {
			t.Errorf("%s: %s", damage, diff)
		}
	}
	for _, addr := range []string{"192.0.2.10/24", "192.0.2.11/24"} {
		a.Service.IP("address del " + addr + " dev mv0")
	}
	if left := a.Service.IP("route show table all dev mv0"); strings.Contains(left, "192.0.2.") {
		t.Errorf("without an address: %s", left)
	}
}

// TestNetnsMadeAnew: an ADD after the netns was replaced without a DEL clears
// away what was the old one's and gives the same lease again.
func TestNetnsMadeAnew(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	conf := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan-vip", "master": "eth0", "probe": {"count": 1, "waitMs": 20},
		"ipam": {"type": "host-local", "dataDir": %q, "subnet": "192.0.2.0/30"}}`, t.TempDir())
	first := attach(t, host, "c1")
	add(t, first, conf)
	first.Service.IP("link del mv0")
	second := attach(t, host, "c1")
	r := add(t, second, conf)
	if got := r.IPs[0].Address.String(); got != "192.0.2.2/30" {
		t.Errorf("the only free address is 192.0.2.2, not %s", got)
	}
	del(t, second, conf)
	if left := records(t, host); len(left) != 0 {
		t.Errorf("records left: %q", left)
	}
}

// TestDelIsLenient: no ADD before, no netns, no prevResult, twice.
func TestDelIsLenient(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	conf := network("1.1.0", "", "192.0.2.10/24")
	before := host.Snapshot()
	a := attach(t, host, "c1")
	del(t, a, conf)
	for _, path := range []string{"", "/run/netns/nonesuch", "/etc/hostname"} {
		add(t, a, conf)
		if err := a.DelAt(path, conf, cmdDel); err != nil {
			t.Errorf("netns %q: %v", path, err)
		}
		// The record knows the netns, whatever DEL is told.
		if out, err := a.Service.TryIP("link show mv0"); err == nil {
			t.Errorf("netns %q: left in the netns: %s", path, out)
		}
		if diff := cmp.Diff(before, host.Snapshot()); diff != "" {
			t.Errorf("netns %q: %s", path, diff)
		}
	}
}

// TestGC sweeps what is not listed, with its lease, and nothing else.
func TestGC(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	leases := t.TempDir()
	conf := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan-vip", "master": "eth0", "probe": {"count": 1, "waitMs": 20},
		"ipam": {"type": "host-local", "dataDir": %q, "subnet": "192.0.2.0/29", "rangeStart": "192.0.2.4"}}`, leases)
	kept, lost := attach(t, host, "kept"), attach(t, host, "lost")
	add(t, kept, conf)
	add(t, lost, conf)
	if err := kept.GC(conf, cmdGC); err != nil {
		t.Fatalf("GC without a list: %v", err)
	}
	if got := records(t, host); len(got) != 2 {
		t.Fatalf("GC without a list left %q", got)
	}
	valid := testnet.With(t, conf, "cni.dev/valid-attachments", []types.GCAttachment{{ContainerID: "kept", IfName: "mv0"}})
	for range 2 {
		if err := kept.GC(valid, cmdGC); err != nil {
			t.Fatalf("GC: %v", err)
		}
	}
	if diff := cmp.Diff([]string{"lan:kept:mv0"}, records(t, host)); diff != "" {
		t.Error(diff)
	}
	if _, err := lost.Service.TryIP("link show mv0"); err == nil {
		t.Error("the swept attachment's link is still there")
	}
	if _, err := os.Stat(leases + "/lan/192.0.2.5"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the swept attachment's lease is still there: %v", err)
	}
	if out := kept.Service.IP("address show mv0"); !strings.Contains(out, "192.0.2.4/29") {
		t.Errorf("the kept attachment lost its VIP:\n%s", out)
	}
	del(t, kept, conf)
}

func TestStatus(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	host.IP("link add down0 type veth peer name down1")
	a := &testnet.Attachment{Host: host}
	for keys, want := range map[string]uint{
		``: 0, `"master": "eth9"`: types.ErrPluginNotAvailable, `"master": "down0"`: types.ErrPluginNotAvailable,
		`"mode": "bad"`: types.ErrInvalidNetworkConfig,
	} {
		if err := a.GC(network("1.1.0", keys), cmdStatus); code(err) != want {
			t.Errorf("%s: code %d, want %d: %v", keys, code(err), want, err)
		}
	}
}

// TestCheckNeedsPrevResult, that of this interface.
func TestCheckNeedsPrevResult(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	a := attach(t, host, "c1")
	conf := network("1.1.0", "", "192.0.2.10/24")
	add(t, a, conf)
	t.Cleanup(func() { del(t, a, conf) })
	for name, prev := range map[string]string{
		"none":             "null",
		"of another":       `{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}]}`,
		"without a VIP":    `{"cniVersion": "1.1.0", "interfaces": [{"name": "mv0", "sandbox": "/x"}]}`,
		"with another VIP": `{"cniVersion": "1.1.0", "interfaces": [{"name": "mv0", "sandbox": "/x"}], "ips": [{"address": "192.0.2.11/24", "interface": 0}]}`,
	} {
		if err := a.Check(testnet.With(t, conf, "prevResult", json.RawMessage(prev)), cmdCheck); err == nil {
			t.Errorf("prevResult %s: accepted", name)
		}
	}
}

// TestNoCarrier: a LAN that is not there keeps no service from starting.
func TestNoCarrier(t *testing.T) {
	host, lan := testnet.NewHost(t, "192.0.2.1/24")
	lan.IP("link set port down")
	a := attach(t, host, "c1")
	conf := network("1.1.0", "", "192.0.2.10/24", "2001:db8::10/64")
	add(t, a, conf)
	lan.IP("link set port up")
	lan.AddAddress("port", "192.0.2.5/24")
	if err := lan.Ping(netip.MustParseAddr("192.0.2.10")); err != nil {
		t.Error(err)
	}
	del(t, a, conf)
}

// TestMACsAreSet in the call that makes the links: udev's MACAddressPolicy=
// leaves such a MAC alone (NET_ADDR_SET is 3 in
// Documentation/ABI/testing/sysfs-class-net).
func TestMACsAreSet(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	a := attach(t, host, "c1")
	conf := network("1.1.0", "", "192.0.2.10/24")
	add(t, a, conf)
	for link, in := range map[string]*testnet.Namespace{"mv-int": host, "mv0": a.Service} {
		out, err := exec.Command("ip", "netns", "exec", filepath.Base(in.Path()), "cat", "/sys/class/net/"+link+"/addr_assign_type").Output()
		if err != nil || strings.TrimSpace(string(out)) != "3" {
			t.Errorf("%s: addr_assign_type %q, want 3: %v", link, out, err)
		}
	}
	del(t, a, conf)
}

// TestStaticByDefault: an ipam section without a type is static's.
func TestStaticByDefault(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.1/24")
	a := attach(t, host, "c1")
	conf := strings.Replace(network("1.1.0", "", "192.0.2.10/24"), `"type": "static", `, "", 1)
	r := add(t, a, conf)
	if len(r.IPs) != 1 {
		t.Errorf("addresses: %v", r.IPs)
	}
	del(t, a, conf)
}

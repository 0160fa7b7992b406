package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

// TestUpstreamsConfigurations: what works with upstream's macvlan works alike
// with macvlan-vip.
func TestUpstreamsConfigurations(t *testing.T) {
	const ipam = `"ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}]}`
	const mac = "02:00:5e:00:53:07"
	for name, tt := range map[string]struct {
		version, keys, args string
	}{
		"as little as possible": {keys: ipam},
		"master":                {keys: `"master": "eth0", ` + ipam},
		"mode bridge":           {keys: `"mode": "bridge", ` + ipam},
		"mode private":          {keys: `"mode": "private", ` + ipam},
		"mode vepa":             {keys: `"mode": "vepa", ` + ipam},
		"mode passthru":         {keys: `"mode": "passthru", ` + ipam},
		"mtu":                   {keys: `"mtu": 1400, ` + ipam},
		"mtu 0":                 {keys: `"mtu": 0, ` + ipam},
		"mac":                   {keys: `"mac": "` + mac + `", ` + ipam},
		"bcqueuelen":            {keys: `"bcqueuelen": 2000, ` + ipam},
		"layer 2 alone":         {keys: `"mtu": 1300`},
		"empty ipam":            {keys: `"ipam": {}`},
		"linkInContainer":       {keys: `"master": "inner0", "linkInContainer": true, ` + ipam},
		"linkInContainer, mtu":  {keys: `"master": "inner0", "linkInContainer": true, "mtu": 1400, "mac": "` + mac + `", ` + ipam},
		"runtimeConfig.mac":     {keys: `"mac": "02:00:5e:00:53:99", "runtimeConfig": {"mac": "` + mac + `"}, ` + ipam, args: "IgnoreUnknown=1;MAC=02:00:5e:00:53:98"},
		"CNI_ARGS MAC":          {keys: `"mac": "02:00:5e:00:53:99", ` + ipam, args: "MAC=" + mac + ";IgnoreUnknown=true"},
		"CNI_ARGS of others":    {keys: ipam, args: "IgnoreUnknown=1;K8S_POD_NAME=x;MAC=" + mac},
		"CNI_ARGS IP":           {keys: `"ipam": {"type": "static"}`, args: "IgnoreUnknown=1;IP=192.0.2.77/24;GATEWAY=192.0.2.254"},
		"args.cni.ips":          {keys: `"args": {"cni": {"ips": ["192.0.2.77/24"]}}, "ipam": {"type": "static"}`},
		"runtimeConfig.ips":     {keys: `"runtimeConfig": {"ips": ["192.0.2.77/24", "2001:db8::77/64"]}, "ipam": {"type": "static"}`},
		"IPv6":                  {keys: `"ipam": {"type": "static", "addresses": [{"address": "2001:db8::10/64", "gateway": "2001:db8::fe"}], "routes": [{"dst": "::/0"}]}`},
		"two families":          {keys: `"ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}, {"address": "2001:db8::10/64"}]}`},
		"host-local":            {keys: `"ipam": {"type": "host-local", "dataDir": "LEASES", "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.50", "routes": [{"dst": "0.0.0.0/0"}]}`},
		"dns":                   {keys: `"dns": {"nameservers": ["192.0.2.53"], "domain": "example.org", "search": ["a.example"], "options": ["ndots:2"]}, ` + ipam},
		"0.3.1":                 {version: "0.3.1", keys: ipam},
		"0.2.0":                 {version: "0.2.0", keys: ipam},
		"1.0.0":                 {version: "1.0.0", keys: ipam},
		"routes": {keys: `"ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24", "gateway": "192.0.2.254"}, {"address": "192.0.2.11/24"}],
			"routes": [{"dst": "0.0.0.0/0"}, {"dst": "198.51.100.0/24", "gw": "192.0.2.253"}, {"dst": "203.0.113.0/24", "priority": 77},
			{"dst": "198.18.0.0/16", "gw": "0.0.0.0", "scope": 253}]}`},
		"a route on the link": {keys: `"ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}], "routes": [{"dst": "203.0.113.0/24", "scope": 253}, {"dst": "198.51.100.0/24"}]}`},
		"mode passthru, mac":  {keys: `"mode": "passthru", "mac": "02:00:5e:00:53:99", ` + ipam},
		"a route in a table":  {keys: `"ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24", "gateway": "192.0.2.254"}], "routes": [{"dst": "0.0.0.0/0", "table": 1234, "priority": 5}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "bcqueuelen" && !testnet.Linux(t, 5, 11) {
				t.Skip("upstream's ignores it on this kernel, ours refuses it: tests/lan")
			}
			if tt.version == "" {
				tt.version = "1.1.0"
			}
			theirs := trial(t, "macvlan", tt.version, tt.keys, tt.args)
			ours := trial(t, "macvlan-vip", tt.version, tt.keys, tt.args)
			if !strings.Contains(tt.keys+tt.args, mac) {
				// Where none is asked for, upstream's is random.
				theirs.Link.MAC, ours.Link.MAC = "", ""
			}
			if diff := cmp.Diff(theirs, ours); diff != "" {
				t.Errorf("upstream's -, ours +: %s", diff)
			}
		})
	}
}

// observed is what a service sees of its attachment.
type observed struct {
	Link   observedLink
	Routes []string
	Result string
}

type observedLink struct {
	Flags    []string `json:"flags"`
	MTU      int      `json:"mtu"`
	MAC      string   `json:"address"`
	LinkInfo struct {
		Kind string `json:"info_kind"`
		Data any    `json:"info_data"`
	} `json:"linkinfo"`
	Addresses []struct {
		Local     string `json:"local"`
		PrefixLen int    `json:"prefixlen"`
		Scope     string `json:"scope"`
	} `json:"addr_info"`
}

// trial adds, checks and deletes an attachment of one plugin on a host of its
// own, and observes it in between.
func trial(t *testing.T, plugin, cniVersion, keys, args string) (o observed) {
	t.Helper()
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	l.host.IP("route add default via 192.0.2.254")
	defer l.host.IP("route del default via 192.0.2.254")
	a := l.attachment("c1")
	a.args = args
	if strings.Contains(keys, "linkInContainer") {
		a.service.IP("link add inner0 type veth peer name inner1")
		a.service.IP("link set inner0 up")
		a.service.IP("link set inner1 up")
	}
	before := l.state()
	c := conf(cniVersion, plugin, "lan", strings.ReplaceAll(keys, "LEASES", l.leases))
	added := a.run(plugin, "ADD", c)
	if !added.ok() {
		t.Fatalf("%s: ADD: %s", plugin, added)
	}
	o.observe(a.service)
	o.Result = resultOf(t, cniVersion, added.stdout)
	// Upstream's own looks for every route in the main table.
	if cniVersion >= "0.4.0" && plugin == "macvlan-vip" {
		a.must(plugin, "CHECK", with(t, c, "prevResult", json.RawMessage(added.stdout)))
	}
	a.must(plugin, "DEL", c)
	l.mustBe(before, plugin+": after DEL")
	return o
}

func (o *observed) observe(service *testnet.Namespace) {
	var links []observedLink
	if err := json.Unmarshal([]byte(service.IP("-j -d address show dev mv0")), &links); err != nil {
		panic(err)
	}
	o.Link = links[0]
	// The link-local address follows from the MAC.
	o.Link.Addresses = slices.DeleteFunc(o.Link.Addresses, func(a struct {
		Local     string `json:"local"`
		PrefixLen int    `json:"prefixlen"`
		Scope     string `json:"scope"`
	}) bool {
		return a.Scope == "link"
	})
	slices.Sort(o.Link.Flags)
	for _, query := range []string{"-j -4 route show table all", "-j -6 route show table all"} {
		var routes []map[string]any
		if err := json.Unmarshal([]byte(service.IP(query)), &routes); err != nil {
			panic(err)
		}
		for _, r := range routes {
			if r["protocol"] == "kernel" {
				continue
			}
			// Ours carry a number of their own.
			delete(r, "protocol")
			// Where none is asked for, ours is the one that ip(8) takes as well.
			if r["gateway"] == nil {
				delete(r, "scope")
			}
			o.Routes = append(o.Routes, fmt.Sprint(r))
		}
	}
	slices.Sort(o.Routes)
}

// resultOf is the part of a result that both plugins give: macvlan-vip lists
// the host's side as well.
func resultOf(t *testing.T, cniVersion, printed string) string {
	t.Helper()
	r := decode(t, cniVersion, printed)
	own := &current.Result{CNIVersion: r.CNIVersion, Routes: r.Routes, DNS: r.DNS}
	for _, ip := range r.IPs {
		if ip.Interface != nil {
			ip.Interface = current.Int(0)
		}
		own.IPs = append(own.IPs, ip)
	}
	out, err := json.Marshal(own)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestBehindUpstream: hairpin-route follows upstream's macvlan, when it is
// told of a macvlan on the host.
func TestBehindUpstream(t *testing.T) {
	l := newLab(t, "198.51.100.1/24")
	l.host.IP("link add shared0 link eth0 type macvlan mode bridge")
	l.host.IP("link set shared0 up")
	defer l.host.IP("link del shared0")
	before := l.state()
	folder, network := t.TempDir(), fmt.Sprintf("lab-%d", l.cookie())
	conflist := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "plugins": [
		{"type": "macvlan", "master": "eth0", "ipam": {"type": "static", "addresses": [{"address": "198.51.100.10/24"}]}},
		{"type": "hairpin-route", "hostInterface": "shared0"}]}`, network)
	if err := os.WriteFile(filepath.Join(folder, "lab.conflist"), []byte(conflist), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &tool{lab: l, folder: folder, network: network, netns: testnet.New(t)}
	a.add()
	a.must("check")
	if err := l.host.Ping(netip.MustParseAddr("198.51.100.10")); err != nil {
		t.Error(err)
	}
	a.must("del")
	l.mustBe(before, "after del")
	a.nothingLeft()
}

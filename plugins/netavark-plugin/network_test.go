package main

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const dualStack = `{
	"name": "vips", "id": "2f25", "driver": "macvlan-vip", "created": "2026-11-25T00:00:00Z",
	"network_interface": "eth0", "internal": false, "dns_enabled": false, "ipv6_enabled": true,
	"subnets": [
		{"subnet": "192.0.2.0/24", "gateway": "192.0.2.1", "lease_range": {"start_ip": "192.0.2.128", "end_ip": "192.0.2.143"}},
		{"subnet": "2001:db8::/64", "gateway": "2001:db8::1"}
	],
	"routes": [{"destination": "198.51.100.0/24", "gateway": "192.0.2.9", "metric": 7}],
	"options": %s, "ipam_options": {"driver": "host-local"}
}`

func parse(t *testing.T, options string) *network {
	t.Helper()
	var n network
	if err := json.Unmarshal([]byte(strings.Replace(dualStack, "%s", options, 1)), &n); err != nil {
		t.Fatal(err)
	}
	return &n
}

// TestList: what a podman network and its options are as a CNI network.
func TestList(t *testing.T) {
	n := parse(t, `{
		"mtu": "1400", "bcqueuelen": "2000", "probe.count": "5", "probe.waitMs": "200", "announce.count": "0",
		"ipForward": "true", "addressConflict": "warn", "hostInterface": "mv-lan", "table": "main", "source": "192.0.2.2,2001:db8::2", "hostNetworks": "connected", "metric": "50"
	}`)
	ipam, err := n.ipam([]netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")})
	if err != nil {
		t.Fatal(err)
	}
	l, err := n.list(ipam)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(l.plugins)
	if err != nil {
		t.Fatal(err)
	}
	compareJSON(t, string(got), `[
		{
			"type": "macvlan-vip", "master": "eth0", "mtu": 1400, "bcqueuelen": 2000, "ipForward": true, "addressConflict": "warn",
			"hostInterface": "mv-lan", "probe": {"count": 5, "waitMs": 200}, "announce": {"count": 0},
			"ipam": {
				"type": "static",
				"addresses": [
					{"address": "192.0.2.10/24", "gateway": "192.0.2.1"},
					{"address": "2001:db8::10/64", "gateway": "2001:db8::1"}
				],
				"routes": [
					{"dst": "0.0.0.0/0", "gw": "192.0.2.1", "priority": 50},
					{"dst": "::/0", "gw": "2001:db8::1", "priority": 50},
					{"dst": "198.51.100.0/24", "gw": "192.0.2.9", "priority": 7}
				]
			}
		},
		{"type": "hairpin-route", "table": "main", "source": ["192.0.2.2", "2001:db8::2"], "hostNetworks": ["connected"]}
	]`)
	if l.name != "podman-vips" {
		t.Errorf("the CNI network is called %q", l.name)
	}
}

func compareJSON(t *testing.T, got, want string) {
	t.Helper()
	var a, b any
	for text, into := range map[string]*any{got: &a, want: &b} {
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	if diff := cmp.Diff(b, a); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultRoutes(t *testing.T) {
	for _, c := range []struct {
		name, options string
		internal      bool
		want          int
	}{
		{"both families", `{}`, false, 3},
		{"switched off", `{"no_default_route": "1"}`, false, 1},
		{"not switched off", `{"no_default_route": "false"}`, false, 3},
		{"an internal network", `null`, true, 1},
	} {
		n := parse(t, c.options)
		n.Internal = c.internal
		routes, err := n.routes()
		if err != nil || len(routes) != c.want {
			t.Errorf("%s: got %v, %v, want %d routes", c.name, routes, err, c.want)
		}
	}
}

// TestRefused: an error names the option or field, the value and the remedy.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, options string
		change        func(*network)
		assigned      string
		want          string
	}{
		{"unknown option", `{"mode": "private"}`, nil, "", `option: "mode": unknown; use addressConflict, `},
		{"no number", `{"mtu": "big"}`, nil, "", `option mtu: "big": not a whole number; use one from 0 to`},
		{"below zero", `{"metric": "-1"}`, nil, "", `option metric: "-1": not a whole number`},
		{"no boolean", `{"ipForward": "yes"}`, nil, "", `option ipForward: "yes": neither true nor false`},
		{"no boolean of podman's", `{"no_default_route": "yes"}`, nil, "", `option no_default_route: "yes": neither`},
		{"no parent", `{"parent": ""}`, nil, "", `option parent: "": not a link; name the host's uplink`},
		{"two parents", `{"parent": "eth1"}`, nil, "", `option parent: "eth1": the network's interface is "eth0"; give either`},
		{"off-subnet address", `{}`, nil, "198.51.100.1", `ip: "198.51.100.1": in no subnet of the network; use an address in 192.0.2.0/24 or 2001:db8::/64`},
		{"DHCP", `{}`, func(n *network) { n.IPAMOptions["driver"] = "dhcp" }, "", `ipam-driver: "dhcp": not supported; leave it out`},
		{"no subnet", `{}`, func(n *network) { n.Subnets = nil }, "", `subnet: "": missing; give the LAN's by --subnet`},
		{"blackhole", `{}`, func(n *network) { n.Routes[0].Type = "blackhole" }, "", `route 198.51.100.0/24: "blackhole": not supported`},
	} {
		n := parse(t, c.options)
		if c.change != nil {
			c.change(n)
		}
		var assigned []netip.Addr
		if c.assigned != "" {
			assigned = append(assigned, netip.MustParseAddr(c.assigned))
		}
		err := n.checkIPAM()
		var ipam section
		if err == nil {
			ipam, err = n.ipam(assigned)
		}
		if err == nil {
			_, err = n.list(ipam)
		}
		if err == nil || !strings.HasPrefix(message(err), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// TestDocumented: the page and --help name every option, and no other.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, reference, _ := strings.Cut(string(page), "\n## Options\n")
	var items []string
	for line := range strings.Lines(reference) {
		if item, _, _ := strings.Cut(line, ": "); strings.HasPrefix(item, "* `") {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(item, -1) {
				items = append(items, m[1])
			}
		}
	}
	if got := slices.Sorted(slices.Values(items)); !slices.Equal(got, optionNames()) {
		t.Errorf("README.md lists\n%q, and there are\n%q", got, optionNames())
	}
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^  ([A-Za-z_.]+)  `).FindAllStringSubmatch(help, -1) {
		listed = append(listed, m[1])
	}
	if got := slices.Sorted(slices.Values(listed)); !slices.Equal(got, optionNames()) {
		t.Errorf("--help lists\n%q, and there are\n%q", got, optionNames())
	}
}

func TestVerbs(t *testing.T) {
	for _, c := range []struct {
		args []string
		in   string
		want string
	}{
		{[]string{"remove"}, "", `"remove": no such verb; use create, setup, teardown or info`},
		{[]string{"setup"}, "{}", "setup: give the path of the container's network namespace"},
		{[]string{"teardown", "/run/netns/x"}, "{", "teardown: read the container's network: unexpected EOF"},
		{[]string{"create"}, "[]", "create: read the network: json: cannot unmarshal array"},
	} {
		_, err := run(context.Background(), c.args, strings.NewReader(c.in))
		if err == nil || !strings.HasPrefix(message(err), c.want) {
			t.Errorf("%q: got %v, want %q", c.args, err, c.want)
		}
	}
	for _, args := range [][]string{nil, {"info"}} {
		got, err := run(context.Background(), args, strings.NewReader(""))
		if want := map[string]string{"api_version": "1.0.0", "version": version}; err != nil || !maps.Equal(got.(map[string]string), want) {
			t.Errorf("%q: got %v, %v", args, got, err)
		}
	}
}

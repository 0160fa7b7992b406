package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestRuntimeVIPs(t *testing.T) {
	const static = `"ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}, {"address": "2001:db8::10/64"}]}`
	for _, tt := range []struct {
		name, keys, args string
		want             map[string]string
	}{
		{"none", static, "", nil},
		{"capability", `"ipam": {}, "runtimeConfig": {"ips": ["192.0.2.77/24", "2001:db8::77"]}`, "", map[string]string{"192.0.2.77": "runtimeConfig.ips", "2001:db8::77": "runtimeConfig.ips"}},
		{"CNI_ARGS", static, "IgnoreUnknown=1;IP=192.0.2.77/24,2001:db8::77/64", map[string]string{"192.0.2.77": "CNI_ARGS IP", "2001:db8::77": "CNI_ARGS IP"}},
		{"args", static + `, "args": {"cni": {"ips": ["::ffff:192.0.2.77/120"]}}`, "", map[string]string{"192.0.2.77": "args.cni.ips"}},
		{"listed by the network, too", static + `, "runtimeConfig": {"ips": ["192.0.2.10/32", "192.0.2.77/24"]}`, "", map[string]string{"192.0.2.77": "runtimeConfig.ips"}},
		{"host-local keeps to its ranges", `"ipam": {"type": "host-local", "subnet": "192.0.2.0/24"}, "runtimeConfig": {"ips": ["192.0.2.77/24"]}`, "", nil},
		{"what is none", static + `, "runtimeConfig": {"ips": [7, "x", null, {"address": 5}]}`, "", nil},
	} {
		c, err := ParseMacvlan([]byte(`{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan-vip", `+tt.keys+`}`), tt.args, "mv0")
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := map[string]string{}
		for addr, key := range c.RuntimeVIPs {
			got[addr.String()] = key
		}
		if !maps.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestAllowedVIPs(t *testing.T) {
	parse := func(list string) (*Macvlan, error) {
		return ParseMacvlan(fmt.Appendf(nil, `{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan-vip", "allowedVIPs": [%s]}`, list), "", "mv0")
	}
	c, err := parse(`"198.51.100.0/24", "2001:db8:99::/64", "203.0.113.7/32"`)
	want := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:99::/64"), netip.MustParsePrefix("203.0.113.7/32")}
	if err != nil || !slices.Equal(c.AllowedVIPs, want) {
		t.Errorf("%v, %v", c, err)
	}
	for _, bad := range []string{"198.51.100.7", "198.51.100.7/24", "lan", "2001:db8::/129", ""} {
		if _, err := parse(fmt.Sprintf("%q", bad)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("allowedVIPs: %q", bad)) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

package main

import (
	"slices"
	"strings"
	"testing"

	"macvlan-vip/systemd/internal/dropin"
)

func TestServiceName(t *testing.T) {
	for name, want := range map[string]string{
		"haproxy": "haproxy.service", "haproxy.service": "haproxy.service", "app@1": "app@1.service",
		"app@": "", "web.socket": "", "../x": "", "/etc/x.service": "", ".service": "",
	} {
		got, err := serviceName(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}

func TestParseWish(t *testing.T) {
	got, err := parseWish([]string{"--vip", "192.0.2.20/24", "web", "--network=lan", "--vip=2001:db8::20/64", "--in", "front"})
	want := dropin.Wish{Unit: "web.service", In: "front", Network: "lan", VIPs: []string{"192.0.2.20/24", "2001:db8::20/64"}}
	if err != nil || !slices.Equal(got.VIPs, want.VIPs) || got.Unit != want.Unit || got.In != want.In || got.Network != want.Network {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "web other", "web --vip 192.0.2.20", "web --in ../x", "../web", "web --nonsense", "web --in", "web --network ../x"} {
		if _, err := parseWish(strings.Fields(bad)); err == nil {
			t.Errorf("enable %s: no error", bad)
		}
	}
}

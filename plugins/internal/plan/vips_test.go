package plan

import (
	"net/netip"
	"strings"
	"testing"

	"macvlan-vip/plugins/internal/cnierr"
)

func TestCheckVIPs(t *testing.T) {
	prefix := netip.MustParsePrefix
	s := Surroundings{
		Networks: []netip.Prefix{prefix("192.0.2.1/24"), prefix("10.1.0.9/32"), prefix("2001:db8::1/64")},
		Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.254"), netip.MustParseAddr("2001:db8::ffff")},
	}
	for _, tt := range []struct {
		vip     string
		chosen  bool
		problem string
	}{
		{"192.0.2.10", true, ""}, {"192.0.2.10", false, ""}, {"2001:db8::10", true, ""}, {"10.1.0.9", true, ""},
		{"198.51.100.7", true, ""}, {"2001:db8:99::7", true, ""},
		{"203.0.113.7", false, ""}, {"2001:db8:1::7", false, ""},
		{"203.0.113.7", true, `runtimeConfig.ips: "203.0.113.7": not in a network of the master "eth0" (192.0.2.0/24, 10.1.0.9/32)`},
		{"2001:db8:1::7", true, `not in a network of the master "eth0" (2001:db8::/64)`},
		{"192.0.2.254", true, "the host's router"}, {"192.0.2.254", false, `ipam address: "192.0.2.254": the address of the host's router`}, {"2001:db8::ffff", false, "the host's router"},
		{"192.0.2.0", false, "the first or the last address of 192.0.2.0/24"}, {"192.0.2.255", true, "the first or the last address of 192.0.2.0/24"},
		{"2001:db8::", false, "the first or the last address of 2001:db8::/64"}, {"2001:db8::ffff:ffff:ffff:ffff", false, ""},
	} {
		a := attachment(t, `"allowedVIPs": ["198.51.100.0/24", "2001:db8:99::/64"]`)
		vip := netip.MustParseAddr(tt.vip)
		if tt.chosen {
			a.Conf.RuntimeVIPs = map[netip.Addr]string{vip: "runtimeConfig.ips"}
		}
		err := a.CheckVIPs([]netip.Addr{vip}, s)
		if (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
			t.Errorf("%s, chosen by the runtime: %v: %v, want %q", tt.vip, tt.chosen, err, tt.problem)
		}
		if err != nil && strings.Contains(tt.problem, "not in") && !strings.Contains(cnierr.ToCNI(err).Details, "allowedVIPs") {
			t.Errorf("%s: the remedy is %q", tt.vip, cnierr.ToCNI(err).Details)
		}
	}
	// Without an address on the master there may be one later.
	a := attachment(t, "")
	vip := netip.MustParseAddr("192.0.2.10")
	a.Conf.RuntimeVIPs = map[netip.Addr]string{vip: "CNI_ARGS IP"}
	err := a.CheckVIPs([]netip.Addr{vip}, Surroundings{})
	if err == nil || !strings.Contains(err.Error(), "no network of this family") || !strings.Contains(cnierr.ToCNI(err).Details, cnierr.TryAgain) {
		t.Errorf("master without addresses: %v", err)
	}
}

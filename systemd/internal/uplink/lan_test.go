package uplink

import (
	"net/netip"
	"slices"
	"testing"

	"macvlan-vip/tests/testnet"
)

// TestAll: a host's links with their prefixes and gateways, and none of lo's.
func TestAll(t *testing.T) {
	host, lan := testnet.NewHost(t, "192.0.2.2/24", "2001:db8::2/64")
	lan.AddAddress("port", "192.0.2.1/24")
	host.IP("route add default via 192.0.2.1 metric 200")
	host.IP("route add default via 192.0.2.254 metric 100")
	host.IP("-6 route add default via fe80::1 dev eth0")
	host.Do(func() error {
		all, err := All()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(l Link) bool { return l.Name == "eth0" })
		if i < 0 || slices.ContainsFunc(all, func(l Link) bool { return l.Name == "lo" }) {
			t.Fatalf("%v", all)
		}
		eth0 := all[i]
		if !slices.Contains(eth0.Prefixes, netip.MustParsePrefix("192.0.2.2/24")) || !slices.Contains(eth0.Prefixes, netip.MustParsePrefix("2001:db8::2/64")) || len(eth0.Prefixes) != 2 {
			t.Errorf("prefixes: %v", eth0.Prefixes)
		}
		if gw, ok := eth0.Gateway(true); !ok || gw.String() != "192.0.2.254" {
			t.Errorf("gateway: %v", gw)
		}
		if gw, ok := eth0.Gateway(false); !ok || gw.String() != "fe80::1" {
			t.Errorf("IPv6 gateway: %v", gw)
		}
		return nil
	})
}

// TestMultipath: a default route by several gateways gives each to its own link.
func TestMultipath(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.2/24", "2001:db8::2/64")
	testnet.Cable(t, host, "eth1", testnet.New(t), "port")
	host.AddAddress("eth1", "198.51.100.2/24")
	host.AddAddress("eth1", "2001:db8:1::2/64")
	host.IP("route add default nexthop via 192.0.2.1 nexthop via 198.51.100.1 nexthop via 198.51.100.254")
	host.IP("-6 route add default nexthop via 2001:db8::1 nexthop via 2001:db8:1::1")
	host.IP("route add default via 198.51.100.9 metric 100")
	want := map[string][]netip.Addr{
		"eth0": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		"eth1": {netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.254"), netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8:1::1")},
	}
	host.Do(func() error {
		all, err := All()
		if err != nil {
			return err
		}
		for _, l := range all {
			slices.SortStableFunc(l.Gateways, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
			if !slices.Equal(l.Gateways, want[l.Name]) {
				t.Errorf("gateways of %s: %v", l.Name, l.Gateways)
			}
		}
		return nil
	})
}

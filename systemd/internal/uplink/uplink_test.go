package uplink

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMaster(t *testing.T) {
	prefix := netip.MustParsePrefix
	eth0 := Link{Name: "eth0", Prefixes: []netip.Prefix{prefix("192.0.2.5/24"), prefix("2001:db8::5/64")}}
	eth1 := Link{Name: "eth1", Prefixes: []netip.Prefix{prefix("192.0.2.6/24"), prefix("198.51.100.6/24")}}
	wide := Link{Name: "wide", Prefixes: []netip.Prefix{prefix("192.0.0.1/16")}}
	for name, c := range map[string]struct {
		links []Link
		vips  string
		want  string
		words []string
	}{
		"one link":                       {[]Link{eth0}, "192.0.2.10/24", "eth0", nil},
		"the other link":                 {[]Link{eth0, eth1}, "198.51.100.10/24", "eth1", nil},
		"both families":                  {[]Link{eth0, eth1}, "192.0.2.10/24 2001:db8::10/64", "eth0", nil},
		"the longest prefix":             {[]Link{wide, eth0}, "192.0.2.10/24", "eth0", nil},
		"one VIP without a prefix":       {[]Link{eth0, wide}, "192.0.2.10/24 fd00::1/64", "eth0", nil},
		"a VIP of its own prefix length": {[]Link{eth0}, "192.0.2.10/32", "eth0", nil},
		"two links":                      {[]Link{eth0, eth1}, "192.0.2.10/24", "", []string{"more than one", "eth0 192.0.2.5/24", "eth1 192.0.2.6/24"}},
		"none":                           {[]Link{eth0, wide}, "203.0.113.1/24", "", []string{"no link", "eth0 192.0.2.5/24", "wide 192.0.0.1/16"}},
		"VIPs of different links":        {[]Link{eth0, eth1}, "198.51.100.10/24 2001:db8::10/64", "", []string{"all of", "eth0", "eth1"}},
	} {
		var vips []netip.Prefix
		for _, vip := range strings.Fields(c.vips) {
			vips = append(vips, prefix(vip))
		}
		got, err := Master(c.links, vips)
		if got.Name != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %q, %v", name, got.Name, err)
		}
		for _, word := range c.words {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: no %q in %v", name, word, err)
			}
		}
	}
}

// TestGatewaysInVRF: a link in a VRF has the gateways of its VRF's table, others those of
// main.
func TestGatewaysInVRF(t *testing.T) {
	member := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 2, MasterIndex: 9}}
	port := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 3, MasterIndex: 8}}
	links := []netlink.Link{
		member, port,
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: 8}},
		&netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Index: 9}, Table: 1000},
	}
	var routes []netlink.Route
	for i, table := range []int{unix.RT_TABLE_MAIN, 1000} {
		for _, l := range []netlink.Link{member, port} {
			gw := netip.AddrFrom4([4]byte{192, 0, byte(l.Attrs().Index), byte(i)})
			routes = append(routes, netlink.Route{LinkIndex: l.Attrs().Index, Table: table, Gw: gw.AsSlice()})
		}
	}
	for l, want := range map[netlink.Link]string{member: "192.0.2.1", port: "192.0.3.0"} {
		if got := gateways(routes, l, tableOf(l, links)); !slices.Equal(got, []netip.Addr{netip.MustParseAddr(want)}) {
			t.Errorf("%d: %v, want %s", l.Attrs().Index, got, want)
		}
	}
}

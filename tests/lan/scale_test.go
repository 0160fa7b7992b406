package lan

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
)

// gcThresh3 is the size of the machine's IPv4 neighbour table, which all its
// namespaces share.
func gcThresh3(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
	if err != nil {
		t.Skipf("the neighbour table's size: %v", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// More VIPs than the neighbour table has room for. Past gc_thresh3 (1024 where
// nobody raised it) the kernel makes no new entry until it has collected old
// ones, and the packets that need one are lost ("neighbour table overflow").
// Permanent entries such as ours are neither collected nor, since Linux 5.0,
// counted, so that any number of VIPs finds room, and so do the stations that
// the host meets besides. LAN peers have no such entries: one that talks to
// more than a thousand VIPs needs a larger table.
func TestMoreVIPsThanNeighbours(t *testing.T) {
	n := 1100
	if limit := gcThresh3(t); limit >= n {
		t.Logf("gc_thresh3 is %d here: %d VIPs of either family do not fill it", limit, n)
	}
	l := newLAN(t)
	host, peer := l.station("10.0.0.1/8", "2001:db8::1/64"), l.station("10.0.0.5/8", "2001:db8::5/64")
	sv := host.service("c1", quick, many(2*n, 1)...)
	sv.mustAdd(t)
	for _, family := range []string{"-4", "-6"} {
		if got := strings.Count(host.IP(family+" neigh show nud permanent dev mv-int"), "\n"); got < n {
			t.Errorf("%s: %d permanent entries, want %d", family, got, n)
		}
	}
	// Listening on all addresses at once, both families.
	sv.Service.Echo(echoPort, netip.IPv6Unspecified())
	for _, vip := range sv.vips {
		if _, err := host.Ask("tcp", vip, echoPort); err != nil {
			t.Fatal(err)
		}
	}
	host.IP("neigh flush dev eth0")
	host.pings(t, netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("2001:db8::5"))
	peer.pings(t, sv.vips[0], sv.vips[1], sv.vips[len(sv.vips)-2], sv.vips[len(sv.vips)-1])
	if err := sv.check(); err != nil {
		t.Error(err)
	}
}

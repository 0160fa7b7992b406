package facts

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFactsInWords(t *testing.T) {
	vip, other := netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")
	f := Facts{
		Link: "mv0", MAC: "02:00:00:00:00:01", Master: "eth0", VIPs: []netip.Prefix{vip, other}, Host: "mv-int",
		Ways: []Way{{Source: "192.0.2.9", VIPs: []netip.Addr{vip.Addr()}}, {VIPs: []netip.Addr{other.Addr()}}},
	}
	for _, c := range []struct{ got, want []string }{
		{f.Made("lan"), []string{
			"192.0.2.1/24 2001:db8::1/64 on mv0, network lan", "mv0 on eth0, MAC 02:00:00:00:00:01",
			"host reaches 192.0.2.1 through mv-int from 192.0.2.9", "host reaches 2001:db8::1 through mv-int",
		}},
		{Facts{Link: "mv0"}.Made("lan"), []string{"no VIPs on mv0, network lan"}},
		{f.Removed(Facts{}, "lan"), []string{
			"removed mv0 192.0.2.1/24 2001:db8::1/64, network lan", "removed the host's routes to 192.0.2.1", "removed the host's routes to 2001:db8::1",
			"removed mv-int, which no other service needs",
		}},
		{f.Removed(f, "lan"), nil},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Error(diff)
		}
	}
	var many []netip.Prefix
	for range 10 {
		many = append(many, vip)
	}
	if got := List(many); !strings.HasSuffix(got, " 192.0.2.1/24 and 2 more") {
		t.Error(got)
	}
}

package networks

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestOwn: a network is read back as it was written, and what an administrator
// has added to it stays.
func TestOwn(t *testing.T) {
	vip, vip6 := netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8::10/64")
	o := NewOwn("app@1", "eth0")
	o.SetVIPs([]netip.Prefix{vip})
	for _, gw := range []string{"192.0.2.1", "fe80::1", "192.0.2.2"} {
		o.SetGateway(netip.MustParseAddr(gw))
	}
	o.SetDNS([]netip.Addr{netip.MustParseAddr("192.0.2.53")})
	text, err := o.Text()
	if err != nil {
		t.Fatal(err)
	}
	text = strings.Replace(text, `"master": "eth0"`, `"master": "eth0", "mtu": 1400`, 1)
	text = strings.Replace(text, `"address": "192.0.2.10/24"`, `"address": "192.0.2.10/24", "gateway": "192.0.2.254"`, 1)
	if o, err = ParseOwn("app@1", []byte(text)); err != nil {
		t.Fatal(err)
	}
	if o.Master() != "eth0" || !slices.Equal(o.VIPs(), []netip.Prefix{vip}) {
		t.Errorf("%s, %v", o.Master(), o.VIPs())
	}
	o.SetVIPs([]netip.Prefix{vip, vip6})
	o.SetGateway(netip.MustParseAddr("fe80::2"))
	o.SetDNS(nil)
	if text, err = o.Text(); err != nil {
		t.Fatal(err)
	}
	const want = `{"cniVersion": "1.1.0", "name": "app-1", "comment": "Written by ` + "`systemd-netns enable` for app@1; `systemd-netns disable`" + ` removes it.",
		"plugins": [{"type": "macvlan-vip", "master": "eth0", "mtu": 1400, "ipam": {"type": "static", "addresses": [
		{"address": "192.0.2.10/24", "gateway": "192.0.2.254"}, {"address": "2001:db8::10/64"}],
		"routes": [{"dst": "0.0.0.0/0", "gw": "192.0.2.2"}, {"dst": "::/0", "gw": "fe80::2"}]}}, {"type": "hairpin-route"}]}`
	if !SameJSON([]byte(want), []byte(text)) {
		t.Errorf("got %s", text)
	}
}

func TestParseOwnRefuses(t *testing.T) {
	o := NewOwn("app@1", "eth0")
	text, err := o.Text()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ namespace, text, want string }{
		"an administrator's":  {"app@1", `{"name": "app-1", "plugins": []}`, "not written by this program"},
		"another namespace's": {"app-1", text, "app@1"},
		"no JSON":             {"app@1", "{", "JSON"},
		"other plugins":       {"app@1", strings.Replace(text, "macvlan-vip", "macvlan", 1), "no macvlan-vip"},
	} {
		if !json.Valid([]byte(text)) {
			t.Fatal(text)
		}
		if _, err := ParseOwn(c.namespace, []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

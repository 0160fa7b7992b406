package kernel

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// TestWireless goes by what cfg80211 and the wireless extensions leave in
// sysfs, since no machine has a wireless link for certain.
func TestWireless(t *testing.T) {
	sys := t.TempDir()
	for _, dir := range []string{"eth0/queues", "wlan0/phy80211", "wlan1/wireless"} {
		if err := os.MkdirAll(filepath.Join(sys, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"eth0": false, "wlan0": true, "wlan1": true, "none": false} {
		if got := isWireless(sys, name); got != want {
			t.Errorf("%s: wireless %v, want %v", name, got, want)
		}
	}
}

// TestVRFsOf: a VRF's own addresses are in it. A bridge in one is, its port is not.
func TestVRFsOf(t *testing.T) {
	link := func(index, upper int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Index: index, MasterIndex: upper, Name: map[int]string{10: "red", 20: "blue"}[index]}
	}
	links := []netlink.Link{
		&netlink.Device{LinkAttrs: link(1, 0)}, &netlink.Device{LinkAttrs: link(2, 10)}, &netlink.Macvlan{LinkAttrs: link(3, 20)},
		&netlink.Vrf{LinkAttrs: link(10, 0)}, &netlink.Vrf{LinkAttrs: link(20, 0)},
		&netlink.Bridge{LinkAttrs: link(30, 10)}, &netlink.Veth{LinkAttrs: link(4, 30)},
	}
	want := map[int]string{1: "", 2: "red", 3: "blue", 10: "red", 20: "blue", 30: "red", 4: ""}
	if diff := cmp.Diff(want, vrfsOf(links)); diff != "" {
		t.Error(diff)
	}
}

package kernel

import (
	"os"
	"path/filepath"
	"testing"
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
		if got := wirelessAt(sys, name); got != want {
			t.Errorf("%s: wireless %v, want %v", name, got, want)
		}
	}
}

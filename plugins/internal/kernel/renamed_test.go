package kernel

import (
	"testing"

	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/tests/testnet"
)

// TestRenamed: a link of ours that somebody has given another name does not keep
// the one in its place from coming up, and goes; another's with that MAC stays.
func TestRenamed(t *testing.T) {
	host, _ := testnet.NewHost(t, "192.0.2.9/24")
	l := plan.Link{Side: plan.Host, MasterSide: plan.Host, Kind: plan.KindMacvlan, Name: "mv-int", Master: "eth0", Mode: "bridge", MAC: "02:00:00:00:00:01", Alias: "ours", Shared: true}
	make := func() (raised bool, err error) {
		host.Do(func() error {
			h, openErr := OpenHost()
			if openErr != nil {
				return openErr
			}
			k := &Kernel{Host: h}
			defer k.Close()
			if _, err = k.CreateLink(l); err == nil {
				raised, err = k.RaiseLink(l)
			}
			return nil
		})
		return raised, err
	}
	if raised, err := make(); !raised || err != nil {
		t.Fatal(raised, err)
	}
	for _, state := range []string{"up", "down"} {
		host.IP("link set mv-int down")
		host.IP("link set mv-int name other")
		host.IP("link set other " + state)
		if raised, err := make(); !raised || err != nil {
			t.Fatal(state, raised, err)
		}
		if out, err := host.TryIP("link show other"); err == nil {
			t.Errorf("left: %s", out)
		}
	}
	host.IP("link del mv-int")
	host.IP("link add other link eth0 address 02:00:00:00:00:01 type macvlan mode bridge")
	host.IP("link set other up")
	if _, err := make(); err == nil {
		t.Error("no error although another has the MAC")
	}
	host.IP("link show other")
}

package kernel

import (
	"testing"

	"golang.org/x/sys/unix"

	"macvlan-vip/tests/testnet"
)

// TestNoFamily: a kernel has no rules of a family that it does not have, as IPv6 with
// ipv6.disable=1; DECnet stands for it here.
func TestNoFamily(t *testing.T) {
	host, _ := testnet.NewHost(t)
	var n *Namespace
	host.Do(func() (err error) {
		n, err = OpenHost()
		return err
	})
	k := &Kernel{Host: n}
	t.Cleanup(k.Close)
	if ours, err := n.rulesOf(unix.AF_DECnet); err != nil || ours != nil {
		t.Errorf("%v, %v", ours, err)
	}
}

package kernel

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/tests/testnet"
)

// TestFirstAddressGoes: with a subnet's first IPv4 address the kernel removes the routes of
// all others, and makes them again. No packet to one that stays is lost meanwhile.
func TestFirstAddressGoes(t *testing.T) {
	service, peer := testnet.New(t), testnet.New(t)
	testnet.Cable(t, service, "mv0", peer, "eth0")
	peer.AddAddress("eth0", "10.99.0.1/16")
	service.Sysctl("net/ipv4/conf/mv0/promote_secondaries", "1")
	k := &Kernel{}
	var err error
	if k.Service, err = OpenService(service.Path()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	all := make([]plan.Address, 300)
	for i := range all {
		all[i] = plan.Address{Side: plan.Service, Link: "mv0", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, 1 + byte(i/100), byte(i % 100)}), 16)}
	}
	if _, err := k.AddAddresses(plan.Service, all); err != nil {
		t.Fatal(err)
	}
	stays := all[len(all)-1].Prefix.Addr()
	service.Echo(7, stays)
	lost := exchange(t, peer, stays, 7)
	for i := range 20 {
		if err := k.RemoveAddresses(plan.Service, all[i:i+1]); err != nil {
			t.Error(err)
		}
	}
	if n := lost(); n > 0 {
		t.Errorf("%d packets to %s were lost", n, stays)
	}
	// As a process leaves it that is killed in between.
	service.IP("route add local " + stays.String() + " dev mv0 table local metric 1 proto 118")
	if err := k.RemoveAddresses(plan.Service, all[200:201]); err != nil {
		t.Error(err)
	}
	if left := service.IP("route show table all proto 118"); left != "" {
		t.Errorf("left over:\n%s", left)
	}
}

// exchange sends a packet whenever the last one was answered, until lost ends it, which gives
// the number of those without an answer.
func exchange(t *testing.T, from *testnet.Namespace, to netip.Addr, port int) (lost func() int) {
	t.Helper()
	var missing, answered int
	var ending sync.WaitGroup
	end := make(chan struct{})
	ending.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			if _, err := from.Ask("udp", to, port); err != nil {
				missing++
			} else {
				answered++
			}
		}
	})
	time.Sleep(50 * time.Millisecond)
	return func() int {
		t.Helper()
		close(end)
		ending.Wait()
		if answered == 0 {
			t.Error("no packet was answered")
		}
		return missing
	}
}

package cni

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

// exampleLeases is where conf/host-local.conflist keeps its leases.
const exampleLeases = "/run/cni/leases"

// TestExamples runs the networks in conf/ as they are.
func TestExamples(t *testing.T) {
	if _, err := os.Stat(exampleLeases); errors.Is(err, fs.ErrNotExist) {
		t.Cleanup(func() { os.RemoveAll(exampleLeases) })
	}
	for network, tt := range map[string]struct {
		host, lan []string
		vips      int
	}{
		"haproxy":    {[]string{"172.16.24.10/22"}, []string{"172.16.24.1/22"}, 2},
		"dual-stack": {[]string{"192.0.2.2/24", "2001:db8::2/64"}, []string{"192.0.2.1/24", "2001:db8::1/64"}, 4},
		"host-local": {[]string{"192.0.2.2/24"}, []string{"192.0.2.1/24"}, 1},
	} {
		t.Run(network, func(t *testing.T) {
			l := newLab(t, tt.host...)
			for _, addr := range tt.lan {
				l.lan.AddAddress("port", addr)
			}
			before := l.state() + files(t, exampleLeases)
			a := &tool{lab: l, folder: "../../conf", network: network, netns: testnet.New(t)}
			a.must("status")
			result := a.add()
			if len(result.IPs) != tt.vips {
				t.Errorf("result: %v", result)
			}
			a.must("check")
			a.reachable(result)
			a.must("del")
			if after := l.state() + files(t, exampleLeases); after != before {
				t.Errorf("left behind: %s", cmp.Diff(before, after))
			}
			a.nothingLeft()
		})
	}
}

// tool runs cnitool for one attachment.
type tool struct {
	*lab
	folder, network string
	netns           *testnet.Namespace
}

func (a *tool) run(verb string) outcome {
	return a.cnitool(verb, a.folder, a.network, a.netns.Path())
}

func (a *tool) must(verb string) outcome {
	a.t.Helper()
	o := a.run(verb)
	if !o.ok() {
		a.t.Fatalf("cnitool %s: %s", verb, o)
	}
	return o
}

func (a *tool) add() *current.Result {
	a.t.Helper()
	o := a.must("add")
	var result current.Result
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil {
		a.t.Fatalf("%v: %s", err, o)
	}
	return &result
}

// reachable pings every VIP from the host and from the LAN.
func (a *tool) reachable(result *current.Result) {
	a.t.Helper()
	for _, ip := range result.IPs {
		vip, _ := netip.AddrFromSlice(ip.Address.IP)
		for _, from := range []*testnet.Namespace{a.host, a.lan} {
			if err := from.Ping(vip.Unmap()); err != nil {
				a.t.Error(err)
			}
		}
	}
}

// nothingLeft looks where the lab's state does not reach.
func (a *tool) nothingLeft() {
	a.t.Helper()
	if left := a.netns.IP("link show"); strings.Contains(left, "eth0") {
		a.t.Errorf("left in the netns:\n%s", left)
	}
	if left := cached(a.t, a.netns.Path()); left != "" {
		a.t.Errorf("left in the cache: %s", left)
	}
}

// Package runtimes runs containers on virtual IPs, by the container runtimes
// that people have, and by the commands of docs/runtimes.md.
package runtimes

import (
	"os"
	"testing"

	"macvlan-vip/tests/testnet"
)

func TestMain(m *testing.M) {
	os.Exit(testnet.Plugins(m,
		"macvlan-vip/plugins/macvlan-vip", "macvlan-vip/plugins/hairpin-route", "macvlan-vip/plugins/netavark-plugin",
		"macvlan-vip/systemd/cmd/systemd-netns-helper",
		"github.com/containernetworking/plugins/plugins/ipam/static",
		"github.com/containernetworking/plugins/plugins/ipam/host-local",
		"github.com/containernetworking/plugins/plugins/main/loopback",
		"github.com/containernetworking/cni/cnitool",
		"macvlan-vip/tests/runtimes/answer",
	))
}

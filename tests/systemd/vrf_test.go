package systemd

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"macvlan-vip/tests/testnet"
)

// TestMasterInVRF: the master is in a VRF, and so are the host's addresses on it, its
// default routes and what of the host reaches the VIPs. It takes a kernel that has the
// driver, as distributions' have: MACHINE=qemu.
func TestMasterInVRF(t *testing.T) {
	t.Parallel()
	const red = "link add red type vrf table 10"
	if os.Getenv("MACHINE") != "qemu" {
		if _, err := testnet.New(t).TryIP(red); err != nil {
			t.Skipf("this kernel has no driver for it: %v", err)
		}
	}
	l := newCommandLab(t)
	l.Write("usr/lib/systemd/system/web.service", "[Service]\nExecStart=/usr/bin/socat TCP6-LISTEN:80,fork,reuseaddr,ipv6only=0 TCP:"+peerAddr+":8080\n")
	l.boot()
	l.withoutDNS()
	for _, command := range []string{
		red, "link set red up", "link set eth0 master red",
		// A link that joins is down for a moment, which takes IPv6's addresses.
		"address replace " + hostAddr + "/22 dev eth0", "address replace " + hostAddr6 + "/64 dev eth0 nodad",
		"route add default via " + peerAddr + " dev eth0 table 10", "-6 route add default via " + peerAddr6 + " dev eth0 table 10",
	} {
		l.M.IP(command)
	}
	before := l.M.Snapshot()
	// The keeper would repair what check is to find.
	l.Run(t, "systemctl mask --now systemd-netns-watch.service")
	l.Run(t, "systemctl start web")
	l.Run(t, program+"enable web --vip 172.16.26.4/22 --vip fd26::4/64")

	for family, gateway := range map[string]string{"-4": peerAddr, "-6": peerAddr6} {
		if out := l.M.IP("-n web " + family + " route show default"); !strings.Contains(out, "via "+gateway+" dev mv0") {
			t.Errorf("the service's default route: %q", out)
		}
	}
	for _, vip := range []string{"172.16.26.4", "fd26::4"} {
		if err := l.M.Ping(netip.MustParseAddr(vip), "-I", "red"); err != nil {
			t.Error(err)
		}
		testnet.Eventually(t, "the host gets the page of "+vip, func() error { return l.pageInVRF(vip) })
		testnet.Eventually(t, "the LAN gets the page of "+vip, func() error { return l.Peer.WantPage(vip, answer) })
	}
	l.wantStatus(t, 0, program+"check web")

	l.M.IP("route flush table 10 proto 118")
	if f := l.finding(t, "web", "host"); f.OK || f.Detail != "this host gets no answer from 172.16.26.4" {
		t.Errorf("%+v", f)
	} else {
		l.Run(t, f.Remedy)
	}
	l.wantStatus(t, 0, program+"check web")

	l.Run(t, program+"disable web --yes")
	l.Run(t, "systemctl stop web")
	l.gone(t, before)
}

// pageInVRF gets the page of a VIP as a program of the machine does that is in the VRF.
func (l *lab) pageInVRF(vip string) error {
	address := "TCP4:" + vip
	if strings.Contains(vip, ":") {
		address = "TCP6:[" + vip + "]"
	}
	out, err := l.M.Run("sh", "-c", `printf 'GET / HTTP/1.0\r\n\r\n' | socat -t 5 - `+address+":80,so-bindtodevice=red")
	if err == nil && !strings.Contains(out, answer) {
		err = fmt.Errorf("%s answers %q", vip, out)
	}
	return err
}

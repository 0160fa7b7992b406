package systemd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

const vip6 = "fd26::1"

// dualStack are the VIPs of withDualStack.
var dualStack = []string{vip1, vip2, vip6}

// withDualStack sets haproxy up on VIPs of both families, with a backend that
// it reaches over both.
func (l *lab) withDualStack(dropIn string) *lab {
	l.T.Helper()
	l.network("haproxy", vip1+"/22", vip2+"/22", vip6+"/64")
	l.link("haproxy.service.d/netns.conf", unitDir+dropIn)
	l.Write(dropIns+"haproxy.service.d/often.conf", "[Unit]\nStartLimitIntervalSec=0\n")
	l.Peer.ServePage("["+peerAddr6+"]:8080", answer)
	l.Write("etc/haproxy/haproxy.cfg", testlab.HaproxyDefaults+fmt.Sprintf(`
frontend vips
	bind %s:80
	bind %s:80
	default_backend peer
frontend vips6
	bind [%s]:80
	default_backend peer6
backend peer
	server peer %s:8080
backend peer6
	server peer [%s]:8080
`, vip1, vip2, vip6, peerAddr, peerAddr6))
	return l
}

// reached asserts that all that a host does is done at every VIP, by the
// service and by the kernel's own sockets in its namespace: for the host and
// for a LAN peer that has forgotten the VIPs.
func (l *lab) reached(t testing.TB) {
	t.Helper()
	l.Peer.IP("neigh flush all")
	l.Serves(t, dualStack...)
	for name, from := range l.Stations() {
		for _, vip := range dualStack {
			testnet.Eventually(t, fmt.Sprintf("%s answers a ping of the %s", vip, name), func() error { return from.Ping(netip.MustParseAddr(vip)) })
		}
	}
	for _, vip := range dualStack {
		if err := l.refusedAt(net.JoinHostPort(vip, "81")); err != nil {
			t.Error(err)
		}
	}
}

// refusedAt: a closed port is refused by a reset, which the kernel sends.
func (l *lab) refusedAt(addr string) error {
	var err error
	l.Peer.Do(func() error {
		_, err = net.DialTimeout("tcp", addr, 5*time.Second)
		return nil
	})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s is not refused: %w", addr, err)
	}
	return nil
}

// TestBothFamilies is the main job on IPv4 and IPv6 VIPs, from the first start
// to a power cut.
func TestBothFamilies(t *testing.T) {
	t.Parallel()
	l := newLab(t).withDualStack("netns.conf")
	l.run0(t, "systemctl --root=%s mask haproxy.service")
	l.boot()
	before := l.M.Snapshot()
	l.Run(t, "systemctl unmask haproxy.service")
	// A router's, a Kubernetes node's, and for nobody but the subnet. New namespaces have
	// them from the host.
	l.Run(t, "sysctl -w net.ipv4.ip_forward=1 net.ipv4.conf.all.arp_ignore=2 net.ipv4.conf.all.route_localnet=1")
	l.Run(t, "systemctl start haproxy")
	l.reached(t)
	got := l.Run(t, "ip netns exec haproxy sysctl -n net.ipv4.ip_forward net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.route_localnet")
	if !slices.Equal(strings.Fields(got), []string{"0", "0", "0"}) {
		t.Errorf("the service's namespace forwards, and answers ARP, as the host does: %q", got)
	}
	t.Run("restart", func(t *testing.T) {
		l.restart(t)
		l.reached(t)
	})
	t.Run("crash", func(t *testing.T) {
		l.crash(t)
		l.reached(t)
	})
	t.Run("filters of slices and units", l.filters)
	t.Run("stop leaves nothing", func(t *testing.T) {
		l.Run(t, "systemctl stop haproxy")
		l.gone(t, before)
		for _, vip := range dualStack {
			l.Silent(t, vip)
		}
	})
	// Enabled, as Debian has it.
	t.Run("reboot", func(t *testing.T) {
		if err := l.M.PowerOff(); err != nil {
			t.Fatal(err)
		}
		l.boot()
		l.WantState(t, "haproxy", "active")
		l.reached(t)
	})
	t.Run("power cut", func(t *testing.T) {
		l.M.Cut()
		l.boot()
		l.WantState(t, "haproxy", "active")
		l.reached(t)
	})
}

// filters: what systemd does by BPF programs on cgroups, and by accounting,
// does not reach a namespace's own sockets, which belong to the shim's cgroup.
func (l *lab) filters(t *testing.T) {
	const all = "IPAccounting=yes\nMemoryAccounting=yes\nTasksAccounting=yes\nCPUAccounting=yes\nIOAccounting=yes\n"
	l.Write(dropIns+"system.slice.d/deny.conf", "[Slice]\nIPAddressDeny=any\n"+all)
	l.Write(dropIns+"systemd-netns@.service.d/deny.conf", "[Service]\nIPAddressDeny=any\nSocketBindDeny=any\nDevicePolicy=closed\n"+all)
	l.Write(dropIns+"systemd-netns-access@.service.d/deny.conf", "[Service]\nSocketBindDeny=any\nDevicePolicy=closed\n"+all)
	l.Write(dropIns+"haproxy.service.d/allow.conf", "[Service]\nIPAddressAllow=any\n")
	l.rebuilt(t)
	l.reached(t)
	// The service's own filter is about the service's own sockets.
	l.Write(dropIns+"haproxy.service.d/allow.conf", "[Service]\nIPAddressDeny=any\nIPAddressAllow="+peerAddr+" "+peerAddr6+"\n")
	l.rebuilt(t)
	for _, vip := range dualStack {
		if err := l.Peer.Ping(netip.MustParseAddr(vip)); err != nil {
			t.Error(err)
		}
		if err := l.Peer.WantPage(vip, answer); err != nil {
			t.Error(err)
		}
		if page, err := l.M.Page(vip); l.filtersIP(t) && err == nil {
			t.Errorf("the host, which the service denies, gets %q from %s", page, vip)
		}
	}
	l.Run(t, "rm "+strings.ReplaceAll("/A/system.slice.d/deny.conf /A/systemd-netns@.service.d/deny.conf /A/systemd-netns-access@.service.d/deny.conf /A/haproxy.service.d/allow.conf", "/A/", "/"+dropIns))
	l.rebuilt(t)
}

// rebuilt stops the service, and starts it in a namespace that is made anew.
func (l *lab) rebuilt(t *testing.T) {
	t.Helper()
	l.Run(t, "systemctl stop haproxy")
	l.WantState(t, "systemd-netns@haproxy", "inactive")
	l.daemonReload(t)
	l.Run(t, "systemctl start haproxy")
}

// filtersIP tells whether the machine's systemd filters at all, which it does
// on cgroup v2 alone.
func (l *lab) filtersIP(t *testing.T) bool {
	t.Helper()
	return l.Run(t, "stat -f -c %T /sys/fs/cgroup") == "cgroup2fs"
}

// TestBothFamiliesTheArticlesWay: the same, with a namespace that systemd makes.
func TestBothFamiliesTheArticlesWay(t *testing.T) {
	t.Parallel()
	l := newLab(t).withDualStack("private-network.conf")
	l.link("systemd-netns@haproxy.service.d/private.conf", unitDir+"systemd-netns-private.conf")
	l.boot()
	l.WantState(t, "haproxy", "active")
	l.reached(t)
	t.Run("repairs", l.repairsOfPrivate)
	t.Run("filters of slices and units", l.filters)
	l.reached(t)
}

// repairsOfPrivate: without the keeper, what the pages and `check` say to reload repairs,
// and so does the timer's service.
func (l *lab) repairsOfPrivate(t *testing.T) {
	l.Run(t, "systemctl mask --now systemd-netns-watch")
	pid := l.MainPID(t)
	for _, c := range []struct {
		name   string
		repair func() string
	}{
		{"the pages", func() string { return "systemctl reload systemd-netns@haproxy" }},
		{"check", func() string { return l.finding(t, "haproxy", "attachment").Remedy }},
		{"the timer", func() string { return "systemctl start systemd-netns-repair@haproxy.service" }},
	} {
		l.M.IP("link del mv-int")
		if out, err := l.Try(c.repair()); err != nil {
			t.Errorf("%s: %q: %v: %s", c.name, c.repair(), err, out)
			l.Run(t, "systemctl reload systemd-netns-access@haproxy")
		}
		l.reached(t)
	}
	// Said by a repair, which applies nothing.
	l.Run(t, "sed -i s/"+vip2+"/172.16.26.3/ /"+netDir+"haproxy.conflist")
	l.Run(t, "systemctl start systemd-netns-repair@haproxy.service")
	l.says(t, "`systemctl reload systemd-netns@haproxy.service` applies it")
	l.Run(t, "systemctl reload systemd-netns@haproxy.service")
	testnet.Eventually(t, "the edited VIP answers", func() error { return l.Peer.Ping(netip.MustParseAddr("172.16.26.3")) })
	l.Silent(t, vip2)
	l.Run(t, "sed -i s/172.16.26.3/"+vip2+"/ /"+netDir+"haproxy.conflist")
	l.Run(t, "systemctl reload systemd-netns@haproxy.service")
	l.reached(t)
	if now := l.MainPID(t); now != pid {
		t.Error("haproxy was restarted")
	}
	l.Run(t, "systemctl unmask systemd-netns-watch")
}

package docs

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"macvlan-vip/tests/page"
)

// A fault is what a section of the troubleshooting page is about.
type fault struct {
	// host and peer are the scripts that make it; undo, on the host, what a
	// reload of the shim does not mend.
	host, peer, undo, undoPeer string
	// cableOut says that the uplink's is.
	cableOut bool
	// works says that the VIP answers all the same, once the page's remedy is done.
	works bool
}

const (
	network   = "/etc/cni/net.d/haproxy.conflist"
	newShim   = "; systemctl restart systemd-netns@haproxy; systemctl restart haproxy"
	portRules = "nft delete table netdev port"
)

var faults = map[string]fault{
	"Troubleshooting": {works: true},
	"The switch or cloud takes one MAC a port": {
		peer:     "nft 'table netdev port { chain in { type filter hook ingress device port priority 0; ether saddr != UPLINK drop; }; }'; ip neigh flush all",
		undoPeer: portRules,
	},
	"The master is another link, or a VLAN's trunk": {
		host: "systemctl stop haproxy; sed -i 's/\"eth0\"/\"eth9\"/' " + network,
		undo: "sed -i 's/\"eth9\"/\"eth0\"/' " + network + "; systemctl start haproxy",
	},
	"The uplink has no carrier": {cableOut: true},
	"A peer has an old neighbour entry": {
		peer:  "ip neigh replace 172.16.26.1 lladdr 02:00:5e:00:53:99 dev port nud reachable",
		works: true,
	},
	"No answer from the host": {works: true},
	"The network has no hairpin-route": {
		host: "sed -i '/^    {$/{N;/hairpin-route/{N;d}}; s/^    },$/    }/' " + network + newShim,
		undo: "cp conf/haproxy.conflist " + network + newShim,
	},
	"mv-int is gone or down":   {host: "ip link del mv-int", works: true},
	"The host's route is gone": {host: "ip route flush table local proto 118", undo: "systemctl reload systemd-netns@haproxy"},
	"A policy rule comes first": {
		host: "ip rule add pref 100 lookup local; ip rule del pref 0; ip route add 172.16.24.0/22 dev eth0 table 50; ip rule add pref 50 lookup 50",
		undo: "ip rule add pref 0 lookup local; ip rule del pref 50; ip rule del pref 100; ip route flush table 50",
	},
	"A firewall drops what comes from mv-int": {
		host: "nft 'table inet fw { chain in { type filter hook input priority 0; iifname mv-int drop; }; }'",
		undo: "nft delete table inet fw",
	},
	"The start is refused: the VIP is in use": {
		host:     "systemctl stop haproxy",
		peer:     "ip address add 172.16.26.1/22 dev port",
		undoPeer: "ip address del 172.16.26.1/22 dev port",
		undo:     "systemctl restart haproxy",
	},
	"The service does not start: Dependency failed": {
		host: "systemctl stop haproxy; mv " + network + " /root/",
		undo: "mv /root/haproxy.conflist " + network + "; systemctl start haproxy",
	},
	"The service was skipped": {
		host: "printf '[Unit]\\nConditionPathExists=/nowhere\\n' >/etc/systemd/system/haproxy.service.d/condition.conf; systemctl daemon-reload",
		undo: "rm /etc/systemd/system/haproxy.service.d/condition.conf; systemctl daemon-reload; systemctl start haproxy",
	},
	"A socket-activated service listens on the host": {
		host: `cd /etc/systemd/system; printf '[Socket]\nListenStream=8081\n' >web.socket; printf '[Service]\nExecStart=sleep infinity\n' >web.service
mkdir -p web.service.d; ln -s /usr/local/lib/systemd/system/netns.conf web.service.d/
sed 's/172.16.26.1/172.16.26.8/; s/172.16.26.2/172.16.26.9/; s/"haproxy"/"web"/' /etc/cni/net.d/haproxy.conflist >/etc/cni/net.d/web.conflist
systemctl daemon-reload; systemctl start web.socket; systemctl start web.service`,
		undo: "systemctl stop web.socket web.service; rm -r /etc/systemd/system/web.*; systemctl daemon-reload",
	},
	"A change of the network has no effect": {
		host: `sed -i 's,{ "address": "172.16.26.2/22" },&\, { "address": "172.16.26.3/22" },' ` + network, works: true,
		undo: "cp conf/haproxy.conflist " + network + newShim,
	},
	"Names are not resolved": {
		host:  "echo nameserver 127.0.0.53 >/etc/resolv.conf; systemctl stop haproxy; systemctl start haproxy",
		works: true, undo: "rm -r /etc/netns",
	},
	"Large packets get lost": {host: "ip link set eth0 mtu 1400; ip link set eth0 mtu 1500", works: true},
	"The service's link was down": {
		host: "ip -netns haproxy link set mv0 down; ip -netns haproxy link set mv0 up", works: true,
	},
	"Garbage collection removed the attachment": {
		host: "CNI_PATH=/opt/cni/bin NETCONFPATH=/etc/cni/net.d CNI_IFNAME=mv0 cnitool gc haproxy /run/netns/any", works: true,
	},
}

// TestTroubleshooting makes the fault of each section, finds what the section
// says that its commands show, and does what it tells to do.
func TestTroubleshooting(t *testing.T) {
	l := newLab(t)
	l.install(t)
	p, err := page.Read(l.path("docs/troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string][]page.Block{}
	var order []string
	for _, b := range commands(p) {
		if len(sections[b.Section]) == 0 {
			order = append(order, b.Section)
		}
		sections[b.Section] = append(sections[b.Section], b)
	}
	for name := range faults {
		if len(sections[name]) == 0 {
			t.Errorf("the page has no commands for %q", name)
		}
	}
	for _, name := range order {
		t.Run(name, func(t *testing.T) { l.section(t, name, sections[name]) })
	}
}

func (l *lab) section(t *testing.T, name string, blocks []page.Block) {
	f, ok := faults[name]
	if !ok {
		t.Fatalf("no fault is known for the section %q", name)
	}
	l.Serves(t, vip)
	defer l.keepAsking(t)()
	uplink := strings.Fields(l.M.IP("-o link show dev eth0 up"))
	mac := uplink[slices.Index(uplink, "link/ether")+1]
	l.make(t, strings.ReplaceAll(f.peer, "UPLINK", mac), f.host)
	if f.cableOut {
		l.M.MustSetCarrier(t, 0, false)
	}
	for _, b := range blocks {
		if err := l.run(b); err != nil {
			t.Errorf("%s: %v", b.At(), err)
		}
	}
	if f.works {
		l.Serves(t, vip)
	}
	if f.cableOut {
		l.M.MustSetCarrier(t, 0, true)
	}
	l.make(t, f.undoPeer, f.undo)
	l.Serves(t, vip)
}

// make runs a fault's scripts.
func (l *lab) make(t *testing.T, peer, host string) {
	t.Helper()
	if out, err := l.Peer.Shell(peer); err != nil {
		t.Fatalf("%s: %v: %s", peer, err, out)
	}
	if out, err := l.sh(host); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// keepAsking has host and peer ask the VIP all the time, as users do.
func (l *lab) keepAsking(t *testing.T) (stop func()) {
	t.Helper()
	command := []string{"ping", "-n", "-q", "-i", "0.5", vip}
	onPeer := exec.Command(command[0], command[1:]...)
	l.Peer.Do(onPeer.Start)
	ctx, cancel := context.WithCancel(t.Context())
	var onHost sync.WaitGroup
	onHost.Go(func() { _, _ = l.M.RunContext(ctx, command...) })
	return func() {
		cancel()
		onHost.Wait()
		_ = onPeer.Process.Kill()
		_ = onPeer.Wait()
	}
}

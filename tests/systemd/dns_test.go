package systemd

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

// Each DNS server of a test gives an address of its own for this name.
const (
	dnsName   = "name.example"
	peerSays  = "192.0.2.77"
	otherSays = "192.0.2.78"
	otherDNS  = "172.16.27.6"
)

// dnsmasq runs one on the LAN peer.
func (l *lab) dnsmasq(t *testing.T, addr string, args ...string) {
	t.Helper()
	dnsmasq(t, l.Peer, addr, args...)
}

// dnsmasq runs one on a LAN.
func dnsmasq(t *testing.T, lan *testnet.Namespace, addr string, args ...string) {
	t.Helper()
	args = append([]string{
		"netns", "exec", filepath.Base(lan.Path()), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
		"--no-hosts", "--pid-file=", "--user=root", "--bind-interfaces", "--log-facility=-", "--listen-address=" + addr,
	}, args...)
	cmd := exec.Command("ip", args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("dnsmasq: %s", said.String())
		}
	})
	testnet.Eventually(t, "dnsmasq listens on "+addr, func() (err error) {
		lan.Do(func() error {
			var conn net.Conn
			if conn, err = net.Dial("tcp", addr+":53"); err == nil {
				conn.Close()
			}
			return nil
		})
		return err
	})
}

// resolves asserts what a lookup gives in a service's namespaces, and that the
// LAN has seen the question come from a VIP.
func (l *lab) resolves(t *testing.T, unit, vip, want string) {
	t.Helper()
	lan := l.Peer.Capture("port")
	pid := l.Run(t, "systemctl show -p MainPID --value "+unit)
	out, err := l.Try("nsenter --mount --net --target " + pid + " getent ahostsv4 " + dnsName)
	if err != nil || !strings.HasPrefix(out, want+" ") {
		t.Errorf("%s resolves %s to %q, %v; want %s", unit, dnsName, out, err, want)
	}
	testnet.Eventually(t, "the question is seen on the LAN", func() error {
		for _, f := range lan.Frames() {
			ip, _ := f.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
			udp, _ := f.Layer(layers.LayerTypeUDP).(*layers.UDP)
			if ip != nil && udp != nil && udp.DstPort == 53 && ip.SrcIP.String() == vip {
				return nil
			}
		}
		return fmt.Errorf("no question from %s", vip)
	})
}

// TestDNS: on a host whose resolv.conf names systemd-resolved's stub, which is
// on a loopback address, a service can resolve names all the same.
func TestDNS(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.With(machine.Resolved...))
	l.Peer.AddAddress("port", otherDNS+"/22")
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	l.run0(t, "systemctl --root=%s enable systemd-resolved.service")
	l.run0(t, "ln -sf ../run/systemd/resolve/stub-resolv.conf %s/etc/resolv.conf")
	l.Write("etc/systemd/resolved.conf", "[Resolve]\nDNS="+peerAddr+"\nFallbackDNS=\nMulticastDNS=no\nLLMNR=no\n")
	l.dnsmasq(t, peerAddr, "--address=/"+dnsName+"/"+peerSays)
	l.dnsmasq(t, otherDNS, "--address=/"+dnsName+"/"+otherSays)
	// Its start is over when it is in its namespaces.
	l.Write(dropIns+"app.service", "[Service]\nType=exec\nExecStart=sleep infinity\n")
	l.link("app.service.d/netns.conf", unitDir+"netns.conf")
	l.network("app", vip1+"/22")
	l.Write(dropIns+"other@.service", "[Service]\nType=exec\nExecStart=sleep infinity\n")
	l.boot()
	l.WantState(t, "systemd-resolved", "active")
	if out := l.Run(t, "cat /etc/resolv.conf"); !strings.Contains(out, "nameserver 127.0.0.53") {
		t.Fatalf("the host does not use the stub:\n%s", out)
	}
	before := l.M.Snapshot()
	start := func(t *testing.T) {
		l.Run(t, "systemctl start app")
		t.Cleanup(func() {
			l.Run(t, "systemctl stop app")
			l.gone(t, before)
			// systemd removes the folder after the shim's last process.
			l.until(t, "nothing is left in /run/systemd-netns", "test ! -e /run/systemd-netns/app")
		})
	}
	t.Run("the host's upstream servers", func(t *testing.T) {
		start(t)
		l.resolves(t, "app", vip1, peerSays)
		l.says(t, "app: DNS servers "+peerAddr+", from /run/systemd/resolve/resolv.conf")
	})
	t.Run("check asks the service's servers", func(t *testing.T) {
		start(t)
		for _, target := range []string{"/run/systemd/resolve/stub-resolv.conf", "../run/systemd/resolve/stub-resolv.conf"} {
			l.Run(t, "ln -sf "+target+" /etc/resolv.conf")
			l.Run(t, "systemctl restart app")
			if f := l.finding(t, "app", "dns"); !f.OK || f.Detail != peerAddr+" answers" {
				t.Errorf("/etc/resolv.conf -> %s: %+v", target, f)
			}
		}
	})
	t.Run("the network's servers", func(t *testing.T) {
		l.Write(netDir+"app.conflist", `{"cniVersion": "1.1.0", "name": "app", "plugins": [
			{"type": "macvlan-vip", "master": "eth0", "ipam": {"type": "static", "addresses": [{"address": "`+vip1+`/22"}], "dns": {"nameservers": ["`+otherDNS+`"]}}},
			{"type": "hairpin-route"}]}`)
		start(t)
		l.resolves(t, "app", vip1, otherSays)
		l.says(t, "app: DNS servers "+otherDNS+", from the network")
	})
	t.Run("an administrator's file wins, after a reload too", func(t *testing.T) {
		start(t)
		t.Cleanup(func() { l.Run(t, "rm -r /etc/netns/app") })
		l.Write("etc/netns/app/resolv.conf", "nameserver "+peerAddr+"\n")
		l.Run(t, "systemctl reload systemd-netns@app")
		l.Run(t, "systemctl restart app")
		l.resolves(t, "app", vip1, peerSays)
	})
	t.Run("names that are special in a drop-in", func(t *testing.T) {
		for unit, options := range map[string]string{`other@1`: ` --in a:b`, `other@a:b`: "", `other@2`: ` --in a:b\x2dc`, `other@a:b\x2dc`: ""} {
			// 255 to 257 take backslashes from the shim's RuntimeDirectory=.
			if strings.Contains(unit+options, `\`) && l.M.Systemd(t) >= 255 {
				continue
			}
			l.Run(t, program+"enable "+unit+" --vip "+vip2+"/22"+options)
			l.Run(t, "systemctl start "+unit)
			l.resolves(t, unit, vip2, peerSays)
			l.Run(t, program+"disable --yes "+unit)
			l.Run(t, "systemctl stop "+unit)
		}
		l.gone(t, before)
	})
	t.Run("loopback servers alone", func(t *testing.T) {
		l.network("app", vip1+"/22")
		l.Run(t, "systemctl stop systemd-resolved")
		l.Run(t, "rm -rf /run/systemd/resolve /etc/resolv.conf")
		l.Write("etc/resolv.conf", "nameserver 127.0.0.1\n")
		start(t)
		l.says(t, "write the service's servers to /etc/netns/app/resolv.conf")
	})
}

// says asserts that the shim's journal has a line with a text.
func (l *lab) says(t *testing.T, text string) {
	t.Helper()
	testnet.Eventually(t, fmt.Sprintf("the journal says %q", text), func() error {
		if out := l.Run(t, "journalctl --no-pager -o cat -t systemd-netns"); !strings.Contains(out, text) {
			return fmt.Errorf("journal:\n%s", out)
		}
		return nil
	})
}

// TestDHCP: a VIP that a DHCP server of the LAN gives, through the daemon's
// socket, which the shim's sandbox lets cnitool reach.
func TestDHCP(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	l.dnsmasq(t, peerAddr, testlab.DHCPServer("172.16.26.50,172.16.26.59,255.255.252.0")...)
	l.Write(dropIns+"dhcp.service", "[Service]\nExecStartPre=mkdir -p /run/cni\nExecStart=/opt/cni/bin/dhcp daemon\n")
	l.Write(dropIns+"app.service", "[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:80,fork,reuseaddr TCP:"+peerAddr+":8080\n")
	l.link("app.service.d/netns.conf", unitDir+"netns.conf")
	l.Write(netDir+"app.conflist", `{"cniVersion": "1.1.0", "name": "app", "plugins": [
		{"type": "macvlan-vip", "master": "eth0", "ipam": {"type": "dhcp"}}, {"type": "hairpin-route"}]}`)
	l.boot()
	t.Run("without the daemon", func(t *testing.T) {
		if _, err := l.Try("systemctl start app"); err == nil {
			t.Error("the start succeeded")
		}
		l.says(t, "; start the DHCP daemon")
	})
	l.Run(t, "systemctl start dhcp")
	l.until(t, "the daemon listens", "test -S /run/cni/dhcp.sock")
	l.Run(t, "systemctl start app")
	vip, _, _ := strings.Cut(strings.Fields(l.Run(t, "ip netns exec app ip -4 -o address show mv0"))[3], "/")
	if !strings.HasPrefix(vip, "172.16.26.5") {
		t.Fatalf("VIP %q", vip)
	}
	l.Serves(t, vip)
	l.Run(t, "systemctl stop app")
	l.Silent(t, vip)
}

package systemd

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

// run0 runs a command on the machine's root from outside, before it is booted.
func (l *lab) run0(t testing.TB, command string) {
	t.Helper()
	args := strings.Fields(strings.ReplaceAll(command, "%s", l.M.Path("")))
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// TestReboot: an enabled service is on its VIPs after a reboot and after a
// power cut, with a lease that is the same as before.
func TestReboot(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxy()
	l.Write(netDir+"haproxy.conflist", `{"cniVersion": "1.1.0", "name": "haproxy", "plugins": [
		{"type": "macvlan-vip", "master": "eth0", "ipam": {"type": "host-local", "dataDir": "/run/cni/leases", "ranges": [
			[{"subnet": "172.16.24.0/22", "rangeStart": "172.16.26.1", "rangeEnd": "172.16.26.1"}], [{"subnet": "172.16.24.0/22", "rangeStart": "172.16.26.2", "rangeEnd": "172.16.26.2"}]]}},
		{"type": "hairpin-route"}]}`)
	l.boot()
	l.WantState(t, "haproxy", "active")
	l.Serves(t, vip1, vip2)
	if err := l.M.PowerOff(); err != nil {
		t.Fatal(err)
	}
	l.boot()
	l.WantState(t, "haproxy", "active")
	l.Serves(t, vip1, vip2)

	l.M.Cut()
	l.boot()
	l.WantState(t, "haproxy", "active")
	l.Serves(t, vip1, vip2)
}

// TestNetworkComesLate: at boot a start waits for the host's network, which no unit may have
// waited for.
func TestNetworkComesLate(t *testing.T) {
	if os.Getenv("MACHINE") != string(machine.QEMU) {
		t.Skip("only with MACHINE=qemu: a container has been up for as long as its host")
	}
	t.Parallel()
	l := newLab(t).withHaproxy()
	// As ifupdown's allow-hotplug: eth0 comes up 12 s after the start has begun to wait, which is
	// more than it waits for anything later on.
	l.Write(dropIns+"test-lan.service.d/late.conf", "[Service]\nType=simple\nExecStart=\nExecStart=sh -c '"+
		`until journalctl -t systemd-netns | grep "eth0.*the link is down"; do sleep 1; done; sleep 12; ip link set eth0 up; ip address add `+hostAddr+"/22 dev eth0'\n")
	l.boot()
	l.WantState(t, "haproxy", "active")
	l.Serves(t, vip1, vip2)
}

// TestBootOrder: sockets in a namespace come up at boot with their shim, which comes
// after the targets that sockets usually come before. systemd breaks a cycle in the order
// by leaving one of its units out, the shim or the socket.
func TestBootOrder(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t)
	l.Write("usr/lib/systemd/system/web.socket", "[Socket]\nListenStream=80\n[Install]\nWantedBy=sockets.target\n")
	l.Write("usr/lib/systemd/system/web.service", "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd "+peerAddr+":8080\n")
	l.Write("usr/lib/systemd/system/backend.service", "[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:9000,bind=127.0.0.1,fork,reuseaddr TCP:"+peerAddr+":8080\n[Install]\nWantedBy=multi-user.target\n")
	l.Write("usr/lib/systemd/system/front.service", "[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:80,fork,reuseaddr TCP:127.0.0.1:9000\n[Install]\nWantedBy=multi-user.target\n")
	l.Write("usr/lib/systemd/system/early.service", "[Unit]\nBefore=network.target\n[Service]\n"+sleep)
	l.up()
	l.Run(t, "systemctl enable --now web.socket backend front")
	l.Run(t, program+"enable web --vip 172.16.26.4/22 --vip fd26::4/64")
	l.Run(t, program+"enable front --vip 172.16.26.5/22 --forward 9000")
	l.refused(t, program+"enable early --vip 172.16.26.6/22", "early.service", "network.target")
	if err := l.M.PowerOff(); err != nil {
		t.Fatal(err)
	}
	l.boot()
	l.Serves(t, "172.16.26.4", "fd26::4", "172.16.26.5")
	// What is left out at a boot is random; what systemd says then is in no container's journal.
	out, _ := l.M.Run("sh", "-c", "systemd-analyze verify --man=no default.target 2>&1")
	if strings.Contains(out, "ordering cycle") {
		t.Errorf("systemd finds a cycle:\n%s", out)
	}
}

// TestLocalIsMountedLate: where /usr/local is mounted after systemd has read the units, a
// service that is in a namespace does not start at boot, rather than on the host's addresses.
func TestLocalIsMountedLate(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t)
	l.run0(t, "mv %s/usr/local %s/srv/local")
	l.run0(t, "mkdir %s/usr/local")
	l.Write("etc/fstab", "/srv/local /usr/local none bind 0 0\n")
	l.Write("usr/lib/systemd/system/app.service", "[Service]\n"+sleep+"[Install]\nWantedBy=multi-user.target\n")
	l.up()
	files := l.etc(t)
	l.Run(t, program+"enable app --vip 172.16.26.4/22 --hardened")
	l.Run(t, "systemctl enable --now app")
	l.on(t, "app", "/run/netns/app")
	if err := l.M.PowerOff(); err != nil {
		t.Fatal(err)
	}
	l.boot()
	l.WantState(t, "usr-local.mount", "active")
	l.WantState(t, "app", "inactive")
	l.daemonReload(t)
	l.Run(t, "systemctl start app")
	l.on(t, "app", "/run/netns/app")
	l.Run(t, "systemctl disable --now app")
	l.Run(t, program+"disable --yes app")
	l.untouched(t, files)
}

// TestServicesOfAllKinds on one machine: two instances of a template, a
// socket-activated service, and one whose VIPs come from its environment file.
func TestServicesOfAllKinds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.run0(t, "systemctl --root=%s mask haproxy.service")
	backend := "/usr/bin/socat TCP-LISTEN:80,fork,reuseaddr TCP:" + peerAddr + ":8080"
	l.Write(dropIns+"app@.service", "[Unit]\nDescription=Instance %i\n[Service]\nExecStart="+backend+"\n")
	l.link("app@.service.d/netns.conf", unitDir+"netns.conf")
	l.network("app-1", vip1+"/22")
	l.network("app-2", vip2+"/22")

	l.Write(dropIns+"web.socket", "[Socket]\nListenStream=80\n")
	l.Write(dropIns+"web.service", "[Unit]\nDescription=Socket-activated\n[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd "+peerAddr+":8080\n")
	l.link("web.service.d/netns.conf", unitDir+"netns.conf")
	l.link("web.socket.d/netns.conf", unitDir+"netns-socket.conf")
	l.network("web", "172.16.26.3/22")

	l.Write(dropIns+"env.service", "[Service]\nExecStart="+backend+"\n")
	l.link("env.service.d/netns.conf", unitDir+"netns.conf")
	l.Write("etc/netns/env/resolv.conf", "nameserver 172.16.27.5\n")
	l.Write("etc/systemd-netns/env.env", "NETWORK=app-1\nCAP_ARGS={\"ips\":[\"172.16.26.4/22\",\"fd26::4/64\"]}\n")
	l.boot()
	before := l.M.Snapshot()

	t.Run("two instances side by side", func(t *testing.T) {
		l.Run(t, "systemctl start app@1 app@2")
		l.Serves(t, vip1, vip2)
		l.Run(t, "systemctl stop app@1")
		l.Silent(t, vip1)
		l.Serves(t, vip2)
		l.Run(t, "systemctl stop app@2")
		l.gone(t, before)
	})
	t.Run("socket activation", func(t *testing.T) {
		l.Run(t, "systemctl start web.socket")
		if got := listeners(l.Run(t, "ss -ntlH")); len(got) != 0 {
			t.Errorf("the socket listens on the host: %q", got)
		}
		if got := l.State("web.service"); got != "inactive" {
			t.Errorf("web.service is %s before anybody asks", got)
		}
		l.Serves(t, "172.16.26.3")
		l.WantState(t, "web.service", "active")
		l.Run(t, "systemctl stop web.socket web.service")
		l.gone(t, before)
	})
	t.Run("VIPs from the environment file", func(t *testing.T) {
		l.Run(t, "systemctl start env app@1")
		l.Serves(t, "172.16.26.4", vip1)
		l.Run(t, "ping -c1 -W2 fd26::4")
		if err := l.Peer.Ping(netip.MustParseAddr("fd26::4")); err != nil {
			t.Error(err)
		}
		root := "/proc/" + l.Run(t, "systemctl show env -p MainPID --value") + "/root"
		if out := l.Run(t, "cat "+root+"/etc/resolv.conf"); out != "nameserver 172.16.27.5" {
			t.Errorf("the service's resolv.conf: %q", out)
		}
		l.Run(t, "systemctl stop env app@1")
		l.gone(t, before)
	})
	t.Run("a VIP of another service", func(t *testing.T) {
		l.Write("etc/systemd-netns/env.env", "NETWORK=app-1\n")
		l.Run(t, "systemctl start app@1")
		if _, err := l.Try("systemctl start env"); err == nil {
			t.Error("a second service got the same VIP")
		}
		l.Serves(t, vip1)
		l.Run(t, "systemctl stop app@1")
		l.gone(t, before)
	})
	t.Run("repair timer", func(t *testing.T) {
		l.Run(t, "systemctl start app@1")
		l.M.IP("link del mv-int")
		l.Run(t, "systemctl start systemd-netns-repair@app@1.service")
		l.Serves(t, vip1)
		l.Run(t, "journalctl --sync")
		// It runs every minute, for each service. systemd 247 applies LogLevelMax= to what the
		// unit's processes say alone, not to what it says itself.
		if said := l.Run(t, "journalctl -q -o cat -u systemd-netns-repair@app@1.service"); said != "" && l.M.Systemd(t) > 247 {
			t.Errorf("the journal has of a repair:\n%s", said)
		}
		l.Run(t, "systemctl start systemd-netns-repair@app@1.timer")
		l.Run(t, "systemctl stop app@1")
		l.WantState(t, "systemd-netns-repair@app@1.timer", "inactive")
		l.gone(t, before)
	})
	t.Run("units are clean", func(t *testing.T) {
		l.newAnalyze(t)
		units := "systemd-netns@x.service systemd-netns-settle@x.service systemd-netns-access@x.service systemd-netns-repair@x.service systemd-netns-repair@x.timer"
		if out, err := l.M.Run("sh", "-c", "systemd-analyze verify --man=no "+units+" 2>&1"); err != nil || strings.TrimSpace(out) != "" {
			t.Errorf("%v:\n%s", err, out)
		}
	})
}

// TestArticlesWay: PrivateNetwork= and JoinsNamespaceOf=, with the access unit.
func TestArticlesWay(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.conflist("haproxy.conflist", "", "")
	l.Haproxy("")
	l.run0(t, "systemctl --root=%s mask haproxy.service")
	l.link("haproxy.service.d/private-network.conf", unitDir+"private-network.conf")
	l.link("systemd-netns@haproxy.service.d/private.conf", unitDir+"systemd-netns-private.conf")
	l.boot()
	before := l.M.Snapshot()
	l.Run(t, "systemctl unmask haproxy")
	l.Run(t, "systemctl start haproxy")
	l.validationOfPrivate(t)
	l.crash(t)
	l.Run(t, "systemctl stop haproxy")
	l.gone(t, before)
	l.Silent(t, vip1)

	l.conflist("haproxy.conflist", `"master": "eth0"`, `"master": "eth0", "mode": "bad"`)
	if _, err := l.Try("systemctl start haproxy"); err == nil {
		t.Error("the start succeeded without access")
	}
	testnet.Eventually(t, "haproxy is not running", func() error {
		if out, _ := l.Try("pgrep haproxy"); out != "" {
			return fmt.Errorf("processes %s", out)
		}
		return nil
	})
	l.gone(t, before)
}

func (l *lab) validationOfPrivate(t *testing.T) {
	t.Helper()
	l.Serves(t, vip1, vip2)
	if out := l.Run(t, "ip netns list"); !strings.HasPrefix(out, "haproxy") {
		t.Errorf("ip netns: %q", out)
	}
	if got := listeners(l.Run(t, "ss -ntlH")); len(got) != 0 {
		t.Errorf("something listens on the host: %q", got)
	}
	l.Run(t, "ping -c1 -W2 -I mv-int "+vip2)
}

// TestNetworkd: the host's own systemd-networkd, which removes routes that it
// does not know, leaves the VIPs alone when it restarts, even where it is told
// to configure every link.
func TestNetworkd(t *testing.T) {
	t.Parallel()
	// eth0's addresses are networkd's to set.
	l := newLabAt(t, nil).withHaproxy()
	l.Write("etc/systemd/network/80-all.network", "[Match]\nType=ether\n[Network]\nAddress="+hostAddr+"/22\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n")
	l.run0(t, "systemctl --root=%s enable systemd-networkd.service")
	l.boot()
	l.WantState(t, "haproxy", "active")
	l.Serves(t, vip1, vip2)
	for _, disturb := range []string{"systemctl restart systemd-networkd", "networkctl reload", "networkctl reconfigure eth0"} {
		l.Run(t, disturb)
		testnet.Eventually(t, "networkd has configured eth0", func() error {
			if out := l.Run(t, "networkctl list --no-legend"); !strings.Contains(out, "configured") {
				return fmt.Errorf("networkctl: %s", out)
			}
			return nil
		})
		l.Serves(t, vip1, vip2)
		if out, err := l.Try("/usr/local/libexec/macvlan-vip/systemd-netns-helper repair haproxy"); err != nil {
			t.Errorf("after %s: %v: %s", disturb, err, out)
		}
	}
	if out := l.Run(t, "networkctl list --no-legend"); !strings.Contains(line(out, "mv-int"), "unmanaged") || !strings.Contains(line(out, "eth0"), "configured") {
		t.Errorf("networkctl:\n%s", out)
	}
	if out := l.Run(t, "journalctl --no-pager -o cat -t systemd-netns"); strings.Contains(out, "missing") {
		t.Errorf("something was missing:\n%s", out)
	}
}

// line is the first line of a text that holds a word.
func line(text, word string) string {
	for l := range strings.Lines(text) {
		if strings.Contains(l, word) {
			return l
		}
	}
	return ""
}

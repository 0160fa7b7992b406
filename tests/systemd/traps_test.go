package systemd

import (
	"fmt"
	"strings"
	"testing"

	"macvlan-vip/tests/testnet"
)

// TestEdits: what an operator changes under a running service neither confuses
// a start nor keeps a stop from undoing all that was done.
func TestEdits(t *testing.T) {
	l := newLab(t).withHaproxy()
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	// Another service keeps mv-int, and with it routes that nobody removes.
	l.write(dropIns+"app.service", "[Service]\nExecStart=sleep infinity\n")
	l.link("app.service.d/netns.conf", unitDir+"netns.conf")
	l.network("app", "172.16.26.3/22")
	l.boot()
	l.run(t, "systemctl start app")
	before := l.m.Snapshot()

	t.Run("name removed, then a start of what runs", func(t *testing.T) {
		l.start(t, before)
		l.run(t, "ip netns delete haproxy")
		l.run(t, "systemctl start haproxy")
		l.named(t)
		l.stop(t, before)
		l.silent(t, vip1)
	})
	network := netDir + "haproxy.conflist"
	t.Run("another VIP, while it runs", func(t *testing.T) {
		l.start(t, before)
		l.run(t, "systemctl reload systemd-netns@haproxy")
		l.says(t, "haproxy: all is as it should be")
		l.conflist("haproxy.conflist", "172.16.26.2/22", "172.16.26.8/22")
		const edited = "/" + netDir + "haproxy.conflist has changed since: `systemctl reload systemd-netns@haproxy.service`"
		if out := l.run(t, program+"status haproxy"); !strings.Contains(out, edited) {
			t.Errorf("status: %s", out)
		}
		// The keeper repairs, and leaves the edit to the person who makes it.
		l.m.IP("route flush table local proto 118")
		l.says(t, "haproxy: repaired as it was made, but "+edited)
		l.serves(t, vip1, vip2)
		pid := l.mainPID(t)
		l.run(t, "sed -i s/"+vip2+":80/172.16.26.8:80/ /etc/haproxy/haproxy.cfg")
		l.run(t, "systemctl reload systemd-netns@haproxy")
		if now := l.mainPID(t); now != pid {
			t.Error("haproxy was restarted")
		}
		l.silent(t, vip2)
		l.run(t, "systemctl restart haproxy")
		l.serves(t, vip1, "172.16.26.8")
		if out := l.run(t, program+"status haproxy"); !strings.Contains(out, "172.16.26.8/22") || strings.Contains(out, "changed") {
			t.Errorf("status: %s", out)
		}
		l.stop(t, before)
		l.haproxyConfig("")
	})
	for name, edit := range map[string]func(){
		"network without hairpin-route": func() {
			l.write(network, `{"cniVersion": "1.1.0", "name": "haproxy", "plugins": [{"type": "macvlan-vip", "master": "eth0",
				"ipam": {"type": "static", "addresses": [{"address": "172.16.26.9/22"}]}}]}`)
		},
		"network of another name":   func() { l.conflist("haproxy.conflist", `"name": "haproxy"`, `"name": "other"`) },
		"network that is no JSON":   func() { l.write(network, "{") },
		"no network":                func() { l.run(t, "rm /"+network) },
		"environment":               func() { l.write("etc/systemd-netns/haproxy.env", "NETWORK=app\nCNI_IFNAME=eth0\n") },
		"environment, no such link": func() { l.write("etc/systemd-netns/haproxy.env", "CNI_IFNAME=eth1\n") },
	} {
		t.Run(name, func(t *testing.T) {
			l.start(t, before)
			edit()
			l.stop(t, before)
		})
	}
}

// TestSharedNamespace: several services in one namespace, which one of them
// being skipped neither keeps up nor takes from the others.
func TestSharedNamespace(t *testing.T) {
	l := newLab(t)
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	l.write(dropIns+"one.service", "[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:80,fork,reuseaddr TCP:"+peerAddr+":8080\n")
	l.write(dropIns+"two.service", "[Unit]\nConditionPathExists=/run/wanted\n[Service]\nExecStart=sleep infinity\n")
	l.network("shared", vip1+"/22")
	dropIn, err := l.m.Read(unitDir + "netns.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"one", "two"} {
		l.write(dropIns+service+".service.d/shared.conf", strings.ReplaceAll(dropIn, "%N", "shared"))
	}
	l.boot()
	before := l.m.Snapshot()

	l.run(t, "systemctl start two")
	l.wantState(t, "systemd-netns@shared", "inactive")
	l.gone(t, before)

	l.run(t, "systemctl start one two")
	l.run(t, "systemctl restart two")
	l.wantState(t, "systemd-netns-settle@shared", "inactive")
	l.serves(t, vip1)
	l.run(t, "touch /run/wanted")
	// The next start finds no name, fails, and has it given back.
	l.run(t, "ip netns delete shared")
	_, _ = l.try("systemctl start two")
	l.wantState(t, "two", "failed")
	l.wantState(t, "systemd-netns-settle@shared", "inactive")
	l.run(t, "systemctl start two")
	l.serves(t, vip1)
	for _, service := range []string{"one", "two"} {
		pid := l.run(t, "systemctl show -p MainPID --value "+service)
		if ours, named := l.run(t, "stat -L -c %i /proc/"+pid+"/ns/net"), l.run(t, "stat -L -c %i /run/netns/shared"); ours != named {
			t.Errorf("%s is in namespace %s, not %s", service, ours, named)
		}
	}
	l.run(t, "systemctl stop one")
	l.wantState(t, "systemd-netns@shared", "active")
	l.run(t, "systemctl stop two")
	l.gone(t, before)
}

// start brings haproxy up as the example has it.
func (l *lab) start(t *testing.T, before string) {
	t.Helper()
	l.conflist("haproxy.conflist", "", "")
	l.write("etc/systemd-netns/haproxy.env", "")
	l.run(t, "systemctl reset-failed")
	l.run(t, "systemctl start haproxy")
	l.serves(t, vip1, vip2)
}

// stop stops haproxy, of which nothing is to be left.
func (l *lab) stop(t *testing.T, before string) {
	t.Helper()
	l.run(t, "systemctl stop haproxy")
	testnet.Eventually(t, "nothing is left of haproxy", func() error {
		if after := l.m.Snapshot(); after != before {
			return fmt.Errorf("host before:\n%s\nafter:\n%s", before, after)
		}
		if names := l.run(t, "ip netns list"); strings.Contains(names, "haproxy") {
			return fmt.Errorf("namespaces: %s", names)
		}
		if files := l.run(t, "find /run/cni /var/lib/cni/results -name *haproxy*") + l.run(t, "find /run -maxdepth 1 -name systemd-netns.*"); files != "" {
			return fmt.Errorf("files: %s", files)
		}
		return nil
	})
}

// named asserts that the name is that of the namespace that haproxy runs in.
func (l *lab) named(t *testing.T) {
	t.Helper()
	testnet.Eventually(t, "the namespace has its name back", func() error {
		want := l.run(t, "stat -L -c %i /proc/"+l.mainPID(t)+"/ns/net")
		got, err := l.try("stat -L -c %i /run/netns/haproxy")
		if err == nil && got != want {
			err = fmt.Errorf("it is of %s, haproxy's is %s", got, want)
		}
		return err
	})
	l.serves(t, vip1, vip2)
}

// TestArticlesTraps: the article's way has the same traps, and ways out.
func TestArticlesTraps(t *testing.T) {
	l := newLab(t)
	l.haproxyConfig("")
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	l.link("haproxy.service.d/private-network.conf", unitDir+"private-network.conf")
	l.link("systemd-netns@haproxy.service.d/private.conf", unitDir+"systemd-netns-private.conf")
	l.boot()
	before := l.m.Snapshot()

	t.Run("restart", func(t *testing.T) {
		l.start(t, before)
		l.restart(t)
	})
	t.Run("name removed, then a start of what runs", func(t *testing.T) {
		l.run(t, "ip netns delete haproxy")
		l.run(t, "systemctl start haproxy")
		l.named(t)
	})
	t.Run("name removed, then a reload", func(t *testing.T) {
		l.run(t, "ip netns delete haproxy")
		l.run(t, "systemctl reload systemd-netns-access@haproxy")
		l.named(t)
	})
	t.Run("name removed, then a restart", func(t *testing.T) {
		l.run(t, "ip netns delete haproxy")
		l.run(t, "systemctl restart haproxy")
		l.named(t)
	})
	t.Run("name removed, then a stop", func(t *testing.T) {
		l.run(t, "ip netns delete haproxy")
		l.stop(t, before)
		l.silent(t, vip1)
	})
	t.Run("stop and start in a row", func(t *testing.T) {
		for range 5 {
			l.start(t, before)
			l.run(t, "systemctl stop haproxy")
		}
		l.stop(t, before)
	})
	t.Run("final failure", func(t *testing.T) {
		l.start(t, before)
		l.haproxyConfig("this is no configuration")
		_, _ = l.try("systemctl restart haproxy")
		l.wantState(t, "haproxy", "failed")
		l.gone(t, before)
		l.haproxyConfig("")
	})
	t.Run("skipped by a condition", func(t *testing.T) {
		l.start(t, before)
		l.condition(t, before)
		l.stop(t, before)
	})
}

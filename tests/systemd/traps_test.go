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
	t.Parallel()
	l := newLab(t).withHaproxyDisabled()
	// Another service keeps mv-int, and with it routes that nobody removes.
	l.Write(dropIns+"app.service", "[Service]\nExecStart=sleep infinity\n")
	l.link("app.service.d/netns.conf", unitDir+"netns.conf")
	l.network("app", "172.16.26.3/22")
	l.boot()
	l.Run(t, "systemctl start app")
	before := l.M.Snapshot()

	t.Run("name removed, then a start of what runs", func(t *testing.T) {
		l.start(t, before)
		l.Run(t, "ip netns delete haproxy")
		l.Run(t, "systemctl start haproxy")
		l.named(t)
		l.stop(t, before)
		l.Silent(t, vip1)
	})
	network := netDir + "haproxy.conflist"
	t.Run("another VIP, while it runs", func(t *testing.T) {
		l.start(t, before)
		l.Run(t, "systemctl reload systemd-netns@haproxy")
		l.says(t, "haproxy: nothing to repair")
		l.conflist("haproxy.conflist", "172.16.26.2/22", "172.16.26.8/22")
		const edited = "/" + netDir + "haproxy.conflist has changed since: `systemctl reload systemd-netns@haproxy.service`"
		if out := l.Run(t, program+"status haproxy"); !strings.Contains(out, edited) {
			t.Errorf("status: %s", out)
		}
		// The keeper repairs, and leaves the edit to the person who makes it.
		l.M.IP("route flush table local proto 118")
		l.says(t, "haproxy: repaired according to the record, but "+edited)
		l.Serves(t, vip1, vip2)
		pid := l.MainPID(t)
		l.Run(t, "sed -i s/"+vip2+":80/172.16.26.8:80/ /etc/haproxy/haproxy.cfg")
		l.Run(t, "systemctl reload systemd-netns@haproxy")
		if now := l.MainPID(t); now != pid {
			t.Error("haproxy was restarted")
		}
		l.Silent(t, vip2)
		l.Run(t, "systemctl restart haproxy")
		l.Serves(t, vip1, "172.16.26.8")
		if out := l.Run(t, program+"status haproxy"); !strings.Contains(out, "172.16.26.8/22") || strings.Contains(out, "changed") {
			t.Errorf("status: %s", out)
		}
		l.stop(t, before)
		l.Haproxy("")
	})
	for name, edit := range map[string]func(){
		"network without hairpin-route": func() {
			l.Write(network, `{"cniVersion": "1.1.0", "name": "haproxy", "plugins": [{"type": "macvlan-vip", "master": "eth0",
				"ipam": {"type": "static", "addresses": [{"address": "172.16.26.9/22"}]}}]}`)
		},
		"network of another name":   func() { l.conflist("haproxy.conflist", `"name": "haproxy"`, `"name": "other"`) },
		"network that is no JSON":   func() { l.Write(network, "{") },
		"no network":                func() { l.Run(t, "rm /"+network) },
		"environment":               func() { l.Write("etc/systemd-netns/haproxy.env", "NETWORK=app\nCNI_IFNAME=eth0\n") },
		"environment, no such link": func() { l.Write("etc/systemd-netns/haproxy.env", "CNI_IFNAME=eth1\n") },
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
	t.Parallel()
	l := newLab(t)
	// The keeper would give the name back before a start misses it.
	l.link("systemd-netns-watch.service", "/dev/null")
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	l.Write(dropIns+"one.service", "[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:80,fork,reuseaddr TCP:"+peerAddr+":8080\n")
	l.Write(dropIns+"two.service", "[Unit]\nConditionPathExists=/run/wanted\n[Service]\nExecStart=sleep infinity\n")
	l.network("shared", vip1+"/22")
	dropIn, err := l.M.Read(unitDir + "netns.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"one", "two"} {
		l.Write(dropIns+service+".service.d/shared.conf", strings.ReplaceAll(dropIn, "%N", "shared"))
	}
	l.boot()
	before := l.M.Snapshot()

	l.Run(t, "systemctl start two")
	l.WantState(t, "systemd-netns@shared", "inactive")
	l.gone(t, before)

	l.Run(t, "systemctl start one two")
	l.Run(t, "systemctl restart two")
	l.WantState(t, "systemd-netns-settle@shared", "inactive")
	l.Serves(t, vip1)
	l.Run(t, "touch /run/wanted")
	// The next start finds no name, fails, and has it given back.
	l.Run(t, "ip netns delete shared")
	_, _ = l.Try("systemctl start two")
	l.WantState(t, "two", "failed")
	l.WantState(t, "systemd-netns-settle@shared", "inactive")
	l.Run(t, "systemctl start two")
	l.Serves(t, vip1)
	for _, service := range []string{"one", "two"} {
		pid := l.Run(t, "systemctl show -p MainPID --value "+service)
		if ours, named := l.Run(t, "stat -L -c %i /proc/"+pid+"/ns/net"), l.Run(t, "stat -L -c %i /run/netns/shared"); ours != named {
			t.Errorf("%s is in namespace %s, not %s", service, ours, named)
		}
	}
	l.Run(t, "systemctl stop one")
	l.WantState(t, "systemd-netns@shared", "active")
	l.Run(t, "systemctl stop two")
	l.gone(t, before)
}

// start brings haproxy up as the example has it.
func (l *lab) start(t *testing.T, before string) {
	t.Helper()
	l.conflist("haproxy.conflist", "", "")
	l.Write("etc/systemd-netns/haproxy.env", "")
	l.Run(t, "systemctl reset-failed")
	l.Run(t, "systemctl start haproxy")
	l.Serves(t, vip1, vip2)
}

// stop stops haproxy, of which nothing is to be left.
func (l *lab) stop(t *testing.T, before string) {
	t.Helper()
	l.Run(t, "systemctl stop haproxy")
	testnet.Eventually(t, "nothing is left of haproxy", func() error {
		if after := l.M.Snapshot(); after != before {
			return fmt.Errorf("host before:\n%s\nafter:\n%s", before, after)
		}
		if names := l.Run(t, "ip netns list"); strings.Contains(names, "haproxy") {
			return fmt.Errorf("namespaces: %s", names)
		}
		if files := l.Run(t, "find /run/cni /var/lib/cni/results -name *haproxy*") + l.Run(t, "find /run -maxdepth 1 -type d -name systemd-netns.*"); files != "" {
			return fmt.Errorf("files: %s", files)
		}
		return nil
	})
}

// named asserts that the name is that of the namespace that haproxy runs in.
func (l *lab) named(t *testing.T) {
	t.Helper()
	testnet.Eventually(t, "the namespace has its name back", func() error {
		want := l.Run(t, "stat -L -c %i /proc/"+l.MainPID(t)+"/ns/net")
		got, err := l.Try("stat -L -c %i /run/netns/haproxy")
		if err == nil && got != want {
			err = fmt.Errorf("it is of %s, haproxy's is %s", got, want)
		}
		return err
	})
	l.Serves(t, vip1, vip2)
}

// TestArticlesTraps: the article's way has the same traps, and ways out.
func TestArticlesTraps(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.Haproxy("")
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	l.link("haproxy.service.d/private-network.conf", unitDir+"private-network.conf")
	l.link("systemd-netns@haproxy.service.d/private.conf", unitDir+"systemd-netns-private.conf")
	l.boot()
	before := l.M.Snapshot()

	t.Run("restart", func(t *testing.T) {
		l.start(t, before)
		l.restart(t)
	})
	t.Run("name removed, then a start of what runs", func(t *testing.T) {
		l.Run(t, "ip netns delete haproxy")
		l.Run(t, "systemctl start haproxy")
		l.named(t)
	})
	t.Run("name removed, then a reload", func(t *testing.T) {
		l.Run(t, "ip netns delete haproxy")
		l.Run(t, "systemctl reload systemd-netns-access@haproxy")
		l.named(t)
	})
	t.Run("name removed, then a restart", func(t *testing.T) {
		l.Run(t, "ip netns delete haproxy")
		l.Run(t, "systemctl restart haproxy")
		l.named(t)
	})
	t.Run("name removed, then a stop", func(t *testing.T) {
		l.Run(t, "ip netns delete haproxy")
		l.stop(t, before)
		l.Silent(t, vip1)
	})
	t.Run("stop and start in a row", func(t *testing.T) {
		for range 5 {
			l.start(t, before)
			l.Run(t, "systemctl stop haproxy")
		}
		l.stop(t, before)
	})
	t.Run("final failure", func(t *testing.T) {
		// A slow machine does not fail often enough in ten seconds.
		l.Write(dropIns+"haproxy.service.d/limit.conf", "[Unit]\nStartLimitIntervalSec=1h\n")
		l.Run(t, "systemctl daemon-reload")
		l.start(t, before)
		l.Haproxy("this is no configuration")
		_, _ = l.Try("systemctl restart haproxy")
		l.WantState(t, "haproxy", "failed")
		l.gone(t, before)
		l.Haproxy("")
		l.Run(t, "rm /etc/systemd/system/haproxy.service.d/limit.conf")
		l.Run(t, "systemctl daemon-reload")
		l.Run(t, "systemctl reset-failed haproxy")
	})
	t.Run("skipped by a condition", func(t *testing.T) {
		l.start(t, before)
		l.condition(t, before)
		l.stop(t, before)
	})
}

// TestFolderOfNames: a name is one mount, which a process that has had a mount namespace of its
// own before sees, too, and ip-netns(8) goes on in the same folder. Names that are there before
// stay, in a folder that is no mount yet.
func TestFolderOfNames(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t)
	l.Write("usr/lib/systemd/system/early.service", "[Service]\nPrivateMounts=yes\n"+sleep)
	l.up()
	l.Run(t, "systemctl start early")
	l.Run(t, program+"enable one --vip 172.16.26.4/22")
	l.Run(t, "systemctl start one")
	mounts := func(name string) int {
		return strings.Count(l.Run(t, "cat /proc/self/mountinfo"), " /run/netns/"+name+" ")
	}
	if n := mounts("one"); n != 1 {
		t.Errorf("the name is %d mounts", n)
	}
	early := strings.TrimSpace(l.Run(t, "systemctl show early -p MainPID --value"))
	l.Run(t, "ip netns add other")
	for _, name := range []string{"one", "other"} {
		if kind := l.Run(t, "nsenter --mount -t "+early+" stat -f -c %T /run/netns/"+name); strings.TrimSpace(kind) != "nsfs" {
			t.Errorf("%s is a %s for a process with mounts of its own", name, kind)
		}
	}
	l.Run(t, "ip netns exec one true")
	if perm := strings.TrimSpace(l.Run(t, "stat -c %a:%u /run/netns")); perm != "755:0" {
		t.Errorf("the folder is %s", perm)
	}

	l.Run(t, "systemctl stop one")
	l.until(t, "the name is gone", "test ! -e /run/netns/one")
	l.Run(t, "ip netns delete other")
	l.Run(t, "umount /run/netns")
	l.Run(t, "touch /run/netns/mine")
	l.Run(t, "mount --bind /proc/self/ns/net /run/netns/mine")
	l.Run(t, "systemctl start one")
	for _, name := range []string{"one", "mine"} {
		l.Run(t, "ip netns exec "+name+" true")
	}
}

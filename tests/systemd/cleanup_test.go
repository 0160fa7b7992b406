package systemd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const envFile = "etc/systemd-netns/haproxy.env"

// holder is a service that keeps haproxy's namespace from going with its name.
const holder = "[Service]\nNetworkNamespacePath=/run/netns/haproxy\nExecStart=sleep infinity\n"

// TestCleanUp: whatever is edited or damaged under a running service, a stop
// undoes what was made, and a start works again once the damage is mended.
func TestCleanUp(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxyDisabled()
	// Another service keeps mv-int, and with it routes that nobody removes.
	l.Write(dropIns+"app.service", "[Service]\nExecStart=sleep infinity\n")
	l.link("app.service.d/netns.conf", unitDir+"netns.conf")
	l.network("app", "172.16.26.3/22")
	l.Write(dropIns+"hold.service", holder)
	l.boot()
	l.Run(t, "systemctl start app")
	before := l.M.Snapshot()

	cache, err := l.M.Run("sh", "-c", "systemctl start haproxy && ls /var/lib/cni/results/haproxy-*")
	if err != nil {
		t.Fatal(err)
	}
	l.stop(t, before)
	cache = strings.TrimSpace(cache)
	for name, damage := range map[string]func(){
		"RETRY_SEC that is no number":    func() { l.Write(envFile, "RETRY_SEC=soon\n") },
		"malformed CAP_ARGS":             func() { l.Write(envFile, "CAP_ARGS={\n") },
		"malformed CNI_ARGS":             func() { l.Write(envFile, "CNI_ARGS=a;b\n") },
		"no plugins in CNI_PATH":         func() { l.Write(envFile, "CNI_PATH=/nowhere\n") },
		"another link":                   func() { l.Write(envFile, "CNI_IFNAME=vip0\n") },
		"binary environment file":        func() { l.Write(envFile, "A=\x00\xff\xfe\n") },
		"emptied file of cnitool":        func() { l.Write(cache, "") },
		"truncated file of cnitool":      func() { l.Write(cache, `{"kind":"cniCacheV1","containerId":"`) },
		"emptied record of the shim":     func() { l.Write("var/lib/systemd-netns/haproxy", "") },
		"no record of the shim":          func() { l.Run(t, "rm /var/lib/systemd-netns/haproxy") },
		"no record, emptied cache":       func() { l.Run(t, "rm /var/lib/systemd-netns/haproxy"); l.Write(cache, "") },
		"no memory but the plugins'":     func() { l.Run(t, "rm /var/lib/systemd-netns/haproxy /"+cache) },
		"emptied record and no settings": func() { l.Write("var/lib/systemd-netns/haproxy", ""); l.Write(cache, ""); l.Write(envFile, "A=\x00\n") },
	} {
		t.Run(name, func(t *testing.T) {
			l.start(t, before)
			damage()
			l.daemonReload(t)
			l.Run(t, "systemctl stop haproxy")
			l.Silent(t, vip1)
			l.stop(t, before)
			if state := l.State("systemd-netns@haproxy"); state != "inactive" {
				t.Errorf("the shim is %s", state)
			}
		})
	}
	t.Run("a sandbox that cannot be set up", func(t *testing.T) {
		l.start(t, before)
		// As on a full disk, systemd runs nothing but what is outside the sandbox.
		broken := dropIns + "systemd-netns@haproxy.service.d/broken.conf"
		l.Write(broken, "[Service]\nInaccessiblePaths=/nowhere\n")
		l.daemonReload(t)
		defer l.daemonReload(t)
		defer l.Run(t, "rm /"+broken)
		l.Run(t, "systemctl stop haproxy")
		l.Silent(t, vip1)
		l.stop(t, before)
		l.WantState(t, "systemd-netns@haproxy", "inactive")
	})
	t.Run("nothing to clean up with", func(t *testing.T) {
		l.start(t, before)
		// The VIPs would be on the LAN as long as it is.
		l.Run(t, "systemctl start hold")
		defer l.Run(t, "systemctl stop hold")
		l.Run(t, "mv /opt/cni/bin/hairpin-route /opt/cni/bin/macvlan-vip /root/")
		const journal = "journalctl --no-pager -o cat -t systemd-netns"
		earlier := strings.Count(l.Run(t, journal), "repaired")
		l.Run(t, "systemctl stop haproxy")
		l.Silent(t, vip1)
		l.WantState(t, "systemd-netns@haproxy", "failed")
		if out := l.Run(t, journal); strings.Count(out, "repaired") != earlier {
			t.Errorf("the keeper repairs what was stopped:\n%s", out)
		}
		for _, words := range []string{"failed to find plugin", "the host's routes to 172.16.26.1 172.16.26.2", "/systemd-netns-helper clear haproxy"} {
			l.says(t, words)
		}
		l.Run(t, "mv /root/hairpin-route /root/macvlan-vip /opt/cni/bin/")
		l.Run(t, "/usr/local/libexec/macvlan-vip/systemd-netns-helper clear haproxy")
		l.stop(t, before)
	})
	t.Run("one plugin fails, the other cleans up", func(t *testing.T) {
		l.start(t, before)
		l.Run(t, "mv /opt/cni/bin/hairpin-route /root/")
		l.Run(t, "systemctl stop haproxy")
		l.WantState(t, "systemd-netns@haproxy", "failed")
		if files, _ := l.Try("find /run/cni/macvlan-vip -name *haproxy*"); files != "" {
			t.Errorf("macvlan-vip was not called: %s", files)
		}
		l.Run(t, "mv /root/hairpin-route /opt/cni/bin/")
		// The next start clears up by itself.
		l.start(t, before)
		l.stop(t, before)
	})
}

// TestRepairAsMade: a reload repairs what was made, although the network was
// edited since, and says that it was.
func TestRepairAsMade(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxyDisabled()
	l.boot()
	// The keeper would repair before the reload does.
	l.Run(t, "systemctl mask --now systemd-netns-watch.service")
	before := l.M.Snapshot()
	network := netDir + "haproxy.conflist"
	for name, c := range map[string]struct {
		edit func()
		says string
	}{
		"another MTU":             {func() { l.conflist("haproxy.conflist", `"master": "eth0"`, `"master": "eth0", "mtu": 1400`) }, "/" + network},
		"no JSON":                 {func() { l.Write(network, "{") }, "unexpected end of JSON input"},
		"no file":                 {func() { l.Run(t, "rm /"+network) }, "the network's file, which is gone,"},
		"binary environment file": {func() { l.Write(envFile, "\x00") }, "not a text file"},
		"bad RETRY_SEC":           {func() { l.Write(envFile, "RETRY_SEC=-1") }, `RETRY_SEC: "-1"`},
		"no plugins in CNI_PATH":  {func() { l.Write(envFile, "CNI_PATH=/nowhere\n") }, ""},
		"CNI_ARGS":                {func() { l.Write(envFile, "CNI_ARGS=a;b\n") }, "CNI_ARGS in /etc/systemd-netns/haproxy.env"},
	} {
		t.Run(name, func(t *testing.T) {
			l.start(t, before)
			l.Run(t, "journalctl --rotate --vacuum-time=1s")
			c.edit()
			l.M.IP("link del mv-int")
			l.Run(t, "systemctl reload systemd-netns@haproxy")
			l.Serves(t, vip1, vip2)
			if c.says != "" {
				l.says(t, "haproxy: repaired according to the record, but ")
				l.says(t, c.says)
			}
			l.stop(t, before)
		})
	}
}

// TestOthersFiles: networks, environment files and records of others that cannot be
// read are in nobody's way: neither at a start, a reload and a stop nor for what
// tells of services.
func TestOthersFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxyDisabled()
	l.boot()
	l.withoutDNS()
	before := l.M.Snapshot()
	l.Write(netDir+"0.conflist", "\x00\xff")
	l.Write(netDir+"1.conf", "{")
	l.Write("etc/systemd-netns/other.env", "\x00\xff")
	l.Write("etc/systemd-netns/net.d/0.conflist", "")
	l.Write("var/lib/systemd-netns/other", "")
	l.Write("var/lib/cni/results/other-cnitool-0123456789abcdef0123-mv0", "{")
	l.start(t, before)
	l.M.IP("link del mv-int")
	l.Run(t, "systemctl reload systemd-netns@haproxy")
	l.Serves(t, vip1, vip2)
	for _, command := range []string{"list", "status haproxy", "check haproxy"} {
		if out, err := l.Try(program + command); err != nil || !strings.Contains(out, vip1) {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
	l.stop(t, before)
}

// TestStale: a start takes over from a namespace that a process holds, and that no stop
// has undone: its VIPs are in the new one alone.
func TestStale(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxyDisabled()
	l.Write(dropIns+"hold.service", holder)
	l.boot()
	before := l.M.Snapshot()
	l.start(t, before)
	l.Run(t, "systemctl start hold")
	const helper = "/usr/local/libexec/macvlan-vip/systemd-netns-helper"
	l.Run(t, "mv "+helper+" /root/")
	_, _ = l.Try("systemctl stop haproxy")
	// The shim stops after it.
	l.WantState(t, "systemd-netns@haproxy", "failed")
	l.Run(t, "mv /root/systemd-netns-helper "+helper)
	inside := "nsenter --net --target " + l.Run(t, "systemctl show -p MainPID --value hold") + " ip link show mv0"
	l.Run(t, inside)
	l.Run(t, "test -s /var/lib/systemd-netns/haproxy")

	l.Run(t, "systemctl start haproxy")
	l.Serves(t, vip1, vip2)
	if out, err := l.Try(inside); err == nil {
		t.Errorf("the stale namespace still has its link: %s", out)
	}
	l.Run(t, "systemctl stop hold")
	l.stop(t, before)
}

// script writes a program of the machine.
func (l *lab) script(name, text string) {
	l.T.Helper()
	l.Write(name, "#!/bin/sh\n"+text)
	if err := l.M.Chmod(name, 0o755); err != nil {
		l.T.Fatal(err)
	}
}

// TestHang: what hangs is ended, and the rest is cleaned up.
func TestHang(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxyDisabled()
	l.Write(netDir+"slow.conflist", fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "slow", "plugins": [
		{"type": "macvlan-vip", "master": "eth0", "ipam": {"type": "slow", "addresses": [{"address": "%s/22"}]}}, {"type": "hairpin-route"}]}`, vip1))
	l.script("opt/cni/bin/slow", `test -e /run/hang-$CNI_COMMAND && exec sleep 1000
exec /opt/cni/bin/static
`)
	l.Write(dropIns+"app.service", "[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:80,fork,reuseaddr TCP:"+peerAddr+":8080\n")
	l.link("app.service.d/netns.conf", unitDir+"netns.conf")
	l.Write("etc/systemd-netns/app.env", "NETWORK=slow\n")
	l.boot()
	before := l.M.Snapshot()
	t.Run("IPAM at ADD", func(t *testing.T) {
		l.Run(t, "touch /run/hang-ADD")
		if _, err := l.Try("systemctl start app"); err == nil {
			t.Error("the start succeeded")
		}
		l.says(t, `ipam: "slow": give addresses: no answer within 45s; find out what it waits for`)
		l.Run(t, "rm /run/hang-ADD")
		l.WantState(t, "systemd-netns@app", "failed")
		l.gone(t, before)
		if left, _ := l.Try("pgrep -f ^sleep.1000"); left != "" {
			t.Errorf("processes are left: %s", left)
		}
	})
	t.Run("IPAM at DEL", func(t *testing.T) {
		l.Run(t, "systemctl start app")
		l.Serves(t, vip1)
		l.Run(t, "touch /run/hang-DEL")
		l.Run(t, "systemctl stop app")
		l.WantState(t, "systemd-netns@app", "failed")
		l.Silent(t, vip1)
		if ways := l.Run(t, "ip route show table local proto 118"); ways != "" {
			t.Errorf("left: %s", ways)
		}
		l.Run(t, "rm /run/hang-DEL")
		l.Run(t, "systemctl start app")
		l.Serves(t, vip1)
		l.Run(t, "systemctl stop app")
		l.gone(t, before)
	})
	t.Run("a start that waits longer than the unit's time-out", func(t *testing.T) {
		l.Write(dropIns+"systemd-netns@app.service.d/short.conf", "[Service]\nTimeoutStartSec=5\n")
		l.Write("etc/systemd-netns/app.env", "NETWORK=slow\nRETRY_SEC=60\n")
		l.daemonReload(t)
		l.M.IP("link set eth0 down")
		started := make(chan error, 1)
		go func() {
			_, err := l.Try("systemctl start app")
			started <- err
		}()
		l.says(t, `master: "eth0": the link is down`)
		l.Run(t, "sleep 8")
		l.M.IP("link set eth0 up")
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		l.Serves(t, vip1)
		// Which went with the link's being up.
		l.M.IP("address add " + hostAddr6 + "/64 dev eth0 nodad")
		l.Run(t, "systemctl stop app")
		l.gone(t, before)
	})
}

// TestPowerCut: the first start after one succeeds at once, although host-local's
// leases outlive it.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	l.Write(netDir+"app.conflist", `{"cniVersion": "1.1.0", "name": "app", "plugins": [
		{"type": "macvlan-vip", "master": "eth0", "ipam": {"type": "host-local",
			"ranges": [[{"subnet": "172.16.24.0/22", "rangeStart": "`+vip1+`", "rangeEnd": "`+vip1+`"}]]}}, {"type": "hairpin-route"}]}`)
	l.Write(dropIns+"app.service", "[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:80,fork,reuseaddr TCP:"+peerAddr+":8080\n[Install]\nWantedBy=multi-user.target\n")
	l.link("app.service.d/netns.conf", unitDir+"netns.conf")
	l.run0(t, "systemctl --root=%s enable app.service")
	for _, c := range []struct {
		name   string
		damage func()
	}{
		{"as it is", func() {}},
		{"and the record is empty", func() { l.Write("var/lib/systemd-netns/app", "") }},
		{"and cnitool's memory is empty", func() {
			l.eachFile("var/lib/cni/results", func(name string) { l.Write(name, "") })
		}},
		{"and host-local's lease is empty", func() { l.Write("var/lib/cni/networks/app/"+vip1, "") }},
		{"and both are", func() {
			l.Write("var/lib/systemd-netns/app", "")
			l.eachFile("var/lib/cni/results", func(name string) { l.Write(name, "") })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.boot()
			l.Serves(t, vip1)
			c.damage()
			l.Run(t, "sync")
			l.M.Cut()
			l.boot()
			if n := l.Run(t, "systemctl show -p NRestarts --value app"); n != "0" {
				t.Errorf("restarts: %s", n)
			}
			l.Serves(t, vip1)
			if out := l.Run(t, "journalctl --no-pager -o cat -b -t systemd-netns -p err"); out != "" {
				t.Errorf("errors: %s", out)
			}
			l.M.Cut()
		})
	}
}

// eachFile does something with each file of a folder of the machine.
func (l *lab) eachFile(folder string, do func(name string)) {
	l.T.Helper()
	names := strings.Fields(l.Run(l.T, "find /"+folder+" -type f"))
	if len(names) == 0 {
		l.T.Fatalf("no files in %s", folder)
	}
	for _, name := range names {
		do(name)
	}
}

// TestStopIsNotReplaced: systemd lets a reload take the place of a stop, for which
// somebody waits; one of the keeper's, or of the repair timer's, does not.
func TestStopIsNotReplaced(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxyDisabled()
	// The stop takes its time before the links go, and is seen. ExecStop= would be left out
	// if a reload was under way.
	l.Write(dropIns+"systemd-netns@haproxy.service.d/slow.conf", `[Service]
ExecStopPost=
ExecStopPost=+/bin/sh -c 'touch /run/stopping; sleep 8'
ExecStopPost=-/usr/local/libexec/macvlan-vip/systemd-netns-helper undo %i
ExecStopPost=+/usr/local/libexec/macvlan-vip/systemd-netns-helper remove %i
`)
	l.boot()
	before := l.M.Snapshot()
	for name, reload := range map[string]func(){
		"the keeper's":       func() { l.M.IP("route flush table local proto 118") },
		"the repair timer's": func() { l.Run(t, "systemctl start --no-block systemd-netns-repair@haproxy") },
	} {
		t.Run(name, func(t *testing.T) {
			l.Run(t, "systemctl start haproxy")
			l.Serves(t, vip1)
			l.Run(t, "rm -f /run/stopping")
			stopped := make(chan error, 1)
			go func() {
				_, err := l.Try("systemctl stop haproxy systemd-netns@haproxy")
				stopped <- err
			}()
			l.until(t, "the stop is under way", "test -e /run/stopping")
			reload()
			if err := <-stopped; err != nil {
				t.Errorf("the stop: %v", err)
			}
			l.gone(t, before)
			l.noComplaints(t)
		})
	}
	// Nor does the keeper complain of a stop that takes the place of its reload.
	l.Write(dropIns+"systemd-netns@haproxy.service.d/slow.conf", "[Service]\nExecReload=\nExecReload=+/bin/sh -c 'touch /run/reloading; sleep 5'\n")
	l.daemonReload(t)
	for range 3 {
		l.Run(t, "systemctl start haproxy")
		l.Run(t, "rm -f /run/reloading")
		l.M.IP("route flush table local proto 118")
		l.until(t, "the keeper's reload is under way", "test -e /run/reloading")
		l.Run(t, "systemctl stop haproxy systemd-netns@haproxy")
		l.gone(t, before)
		l.noComplaints(t)
	}
}

func (l *lab) noComplaints(t *testing.T) {
	t.Helper()
	if out := l.Run(t, "journalctl --no-pager -o cat -t systemd-netns -p warning"); out != "" {
		t.Errorf("complaints:\n%s", out)
	}
}

// TestStopMeanwhile: a service that is stopped while its shim is being started, or
// reloaded, when systemd refuses to stop that, leaves nothing either, whether the start or
// the reload succeeds or not.
func TestStopMeanwhile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ unit, dropIn, shims string }{
		"a named namespace": {unit: "systemd-netns@haproxy", dropIn: "netns.conf"},
		"the article's way": {unit: "systemd-netns-access@haproxy", dropIn: "private-network.conf", shims: "systemd-netns-private.conf"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t).withDualStack(c.dropIn)
			if c.shims != "" {
				l.link("systemd-netns@haproxy.service.d/private.conf", unitDir+c.shims)
			}
			l.run0(t, "systemctl --root=%s disable haproxy.service")
			const slow = "+/bin/sh -c 'test -e /srv/slow || exit 0; touch /srv/slow/now; sleep 3; exit $(cat /srv/slow/status)'\n"
			l.Write(dropIns+c.unit+".service.d/slow.conf", "[Service]\nExecStartPost="+slow+"ExecReload="+slow)
			l.boot()
			before := l.M.Snapshot()
			for _, status := range []string{"0", "1"} {
				l.stopMeanwhile(t, before, "start haproxy", status)
				for _, reloaded := range slices.Compact([]string{c.unit, "systemd-netns@haproxy"}) {
					l.Run(t, "systemctl start haproxy")
					l.reached(t)
					l.stopMeanwhile(t, before, "reload "+reloaded, status)
				}
			}
		})
	}
}

// TestShimStopsMeanwhile: a shim that is itself stopped while it is reloaded has not failed.
func TestShimStopsMeanwhile(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxyDisabled()
	l.boot()
	before := l.M.Snapshot()
	l.Run(t, "mv /opt/cni/bin/hairpin-route /opt/cni/bin/real")
	l.Write("opt/cni/bin/hairpin-route", "#!/bin/sh\n[ $CNI_COMMAND != CHECK ] || { touch /run/cni/checking; sleep 10; }\nexec /opt/cni/bin/real\n")
	l.Run(t, "chmod +x /opt/cni/bin/hairpin-route")
	l.Run(t, "systemctl start haproxy")
	l.Run(t, "systemctl --no-block reload systemd-netns@haproxy")
	l.until(t, "the reload is under way", "test -e /run/cni/checking")
	l.Run(t, "systemctl stop systemd-netns@haproxy")
	l.Run(t, "rm /run/cni/checking")
	l.stop(t, before)
	l.WantState(t, "systemd-netns@haproxy", "inactive")
}

// stopMeanwhile stops haproxy while systemd does something that ends with a status.
func (l *lab) stopMeanwhile(t *testing.T, before, what, status string) {
	t.Helper()
	l.Write("srv/slow/status", status)
	l.Run(t, "systemctl --no-block "+what)
	l.until(t, what+" is under way", "test -e /srv/slow/now")
	l.stop(t, before)
	for _, vip := range dualStack {
		l.Silent(t, vip)
	}
	l.Run(t, "rm -r /srv/slow")
}

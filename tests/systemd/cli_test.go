package systemd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

// status gives a command's exit status and what it prints on standard output.
func (l *lab) status(t *testing.T, command string) (int, string) {
	t.Helper()
	out, err := l.M.Run(strings.Fields(command)...)
	var exit *machine.ExitError
	if errors.As(err, &exit) {
		return exit.Status, out
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, out
}

// wantStatus runs a command that ends with a status.
func (l *lab) wantStatus(t *testing.T, want int, command string) string {
	t.Helper()
	got, out := l.status(t, command)
	if got != want {
		t.Errorf("%s: status %d, want %d; it printed:\n%s", command, got, want, out)
	}
	return out
}

// decode runs a command whose standard output is JSON and nothing else.
func decode[T any](t *testing.T, l *lab, command string) (value T) {
	t.Helper()
	_, out := l.status(t, command)
	decoder := json.NewDecoder(strings.NewReader(out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&value); err != nil {
		t.Errorf("%s: %v in:\n%s", command, err, out)
	}
	if decoder.More() {
		t.Errorf("%s: more than one value:\n%s", command, out)
	}
	return value
}

// The documented JSON, apart from the program's own types.
type (
	listed struct {
		Service, State, Namespace, Network string
		VIPs                               []string `json:"vips"`
		Link, MAC, Master                  string
	}
	shown struct {
		listed
		Drift  []string
		Edited bool
	}
	finding struct {
		Service, Check, Detail, Remedy string
		OK                             bool
	}
)

const (
	serve = "ExecStart=/usr/bin/socat TCP-LISTEN:80,fork,reuseaddr TCP:" + peerAddr + ":8080\n"
	sleep = "ExecStart=sleep infinity\n"
)

// newCommandLab has services of several kinds, and a gateway, but no network.
func newCommandLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	for _, service := range []string{"one", "app@"} {
		l.Write("usr/lib/systemd/system/"+service+".service", "[Service]\n"+serve)
	}
	l.Write("usr/lib/systemd/system/two.service", "[Service]\n"+sleep)
	l.Write("usr/lib/systemd/system/real.service", "[Service]\n"+sleep+"[Install]\nAlias=nick.service\n")
	l.run0(t, "ln -s /usr/lib/systemd/system/real.service %s/etc/systemd/system/nick.service")
	l.Write("etc/systemd/system.conf.d/often.conf", "[Manager]\nDefaultStartLimitIntervalSec=0\n")
	return l
}

// up boots the machine, and gives it a gateway.
func (l *lab) up() *lab {
	l.T.Helper()
	l.boot()
	l.M.IP("route add default via " + peerAddr)
	return l
}

// withoutDNS configures no server, since there is none to ask.
func (l *lab) withoutDNS() {
	l.T.Helper()
	l.Write("etc/resolv.conf", "# none\n")
}

// TestFromNothing: one command from a host without any network file to a VIP, and
// one back.
func TestFromNothing(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t).up()
	l.withoutDNS()
	before, files := l.M.Snapshot(), l.etc(t)
	const own = "/etc/systemd-netns/net.d/one.conflist"
	l.Run(t, "systemctl start one")

	t.Run("dry run", func(t *testing.T) {
		out := l.Run(t, program+"enable one --vip 172.16.26.4/22 --vip fd26::4/64 --dry-run")
		for _, want := range []string{"write " + own, `"172.16.26.4/22"`, `"eth0"`, peerAddr, "link /etc/systemd/system/one.service.d/netns.conf", "systemctl restart one.service"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in:\n%s", want, out)
			}
		}
		l.on(t, "one", hostNetns)
		l.untouched(t, files)
	})
	t.Run("enable", func(t *testing.T) {
		out := l.Run(t, program+"enable one --vip 172.16.26.4/22 --vip fd26::4/64")
		for _, want := range []string{"one.service is in namespace one", "172.16.26.4/22 fd26::4/64 on mv0", "gateway: " + peerAddr + " answers", "this host reaches its VIPs"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in:\n%s", want, out)
			}
		}
		l.on(t, "one", "/run/netns/one")
		l.Serves(t, "172.16.26.4")
		if route := l.Run(t, "ip -n one route show default"); !strings.HasPrefix(route, "default via "+peerAddr+" dev mv0") {
			t.Errorf("default route: %q", route)
		}
		if out := l.Run(t, "find /etc -path /etc/cni* -type f"); out != "" {
			t.Errorf("files where container runtimes look: %s", out)
		}
		if out := l.Run(t, program+"enable one --vip 172.16.26.4/22 --vip fd26::4/64"); !strings.Contains(out, "already") {
			t.Errorf("again: %q", out)
		}
	})
	t.Run("JSON", func(t *testing.T) {
		mac := l.Run(t, "ip netns exec one cat /sys/class/net/mv0/address")
		want := listed{"one.service", "active", "one", "one", []string{"172.16.26.4/22", "fd26::4/64"}, "mv0", mac, "eth0"}
		if got := decode[[]listed](t, l, program+"list -o json"); len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
			t.Errorf("list: %+v, want %+v", got, want)
		}
		if got := decode[shown](t, l, program+"status one -o json"); fmt.Sprint(got.listed) != fmt.Sprint(want) || got.Drift == nil || len(got.Drift) != 0 || got.Edited {
			t.Errorf("status: %+v", got)
		}
		for _, f := range decode[[]finding](t, l, program+"check one -o json") {
			if !f.OK || f.Service != "one.service" || f.Check == "" || f.Detail == "" || f.Remedy != "" {
				t.Errorf("check: %+v", f)
			}
		}
		l.wantStatus(t, 0, program+"check one")
	})
	t.Run("exec", func(t *testing.T) {
		if out := l.Run(t, program+"exec one -- ip -br address show mv0"); !strings.Contains(out, "172.16.26.4/22") {
			t.Errorf("exec: %q", out)
		}
		if out := l.Run(t, program+"exec one ls /sys/class/net"); strings.Contains(out, "eth0") || !strings.Contains(out, "mv0") {
			t.Errorf("/sys: %q", out)
		}
		l.wantStatus(t, 3, program+"exec one -- sh -c exit${IFS}3")
		l.wantStatus(t, 127, program+"exec one -- no-such-command")
		l.wantStatus(t, 126, program+"exec one -- /etc/passwd")
	})
	t.Run("disable asks", func(t *testing.T) {
		in := l.etc(t)
		l.wantStatus(t, 2, program+"disable one")
		l.refused(t, program+"disable one", "one.service", "--yes")
		for answer, want := range map[string]string{"n": "nothing was changed", "": "nothing was changed"} {
			out, err := l.M.Run("sh", "-c", "echo "+answer+" | script --quiet --return --command '"+program+"disable one' /dev/null")
			if err == nil || !strings.Contains(out, "Continue? [y/N]") || !strings.Contains(out, want) {
				t.Errorf("answer %q on a terminal: %v: %s", answer, err, out)
			}
		}
		l.on(t, "one", "/run/netns/one")
		l.untouched(t, in)
	})
	t.Run("disable", func(t *testing.T) {
		out, err := l.M.Run("sh", "-c", "echo y | script --quiet --return --command '"+program+"disable one' /dev/null")
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		l.on(t, "one", hostNetns)
		l.gone(t, before)
		l.untouched(t, files)
		if got := decode[[]listed](t, l, program+"list -o json"); got == nil || len(got) != 0 {
			t.Errorf("list: %#v", got)
		}
	})
	t.Run("a network of its own that is not to be removed", func(t *testing.T) {
		for edit, why := range map[string]string{"s/^{/{broken/": "invalid character 'b'", "/comment/d": "not written by this program"} {
			l.Run(t, program+"enable one --vip 172.16.26.4/22")
			l.Run(t, "sed -i "+edit+" "+own)
			text := l.Run(t, "cat "+own)
			out, err := l.M.Run("sh", "-c", program+"disable one --yes 2>&1 >/dev/null")
			if err != nil || !strings.Contains(out, own) || !strings.Contains(out, why) {
				t.Errorf("%s: %v, on standard error: %q", edit, err, out)
			}
			l.on(t, "one", hostNetns)
			l.gone(t, before)
			if left := l.Run(t, "cat "+own); left != text {
				t.Errorf("%s: %s", own, left)
			}
			l.Run(t, "rm -r /etc/systemd-netns")
			l.untouched(t, files)
		}
	})
	t.Run("candidates", func(t *testing.T) {
		l.refused(t, program+"enable one --vip 203.0.113.9/24", "no link has a prefix that holds 203.0.113.9/24", "eth0 "+hostAddr+"/22")
		l.refused(t, program+"enable one --vip 172.16.26.4/22 --master nothing", "no such link")
		l.untouched(t, files)
	})
	t.Run("networks that cannot be read", func(t *testing.T) {
		l.Write("etc/cni/net.d/10-flannel.conflist", "")
		l.Run(t, program+"enable one --vip 172.16.26.4/22")
		l.Serves(t, "172.16.26.4")
		l.Run(t, program+"disable one --yes")
		l.Write("etc/cni/net.d/one.conflist", "{")
		l.refused(t, program+"enable one --vip 172.16.26.4/22", "/etc/cni/net.d/one.conflist", "correct its JSON")
	})
}

// TestKinds: services that are more than a name.
func TestKinds(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t)
	l.Write("etc/systemd/system-generators/quadlet", `#!/bin/sh
printf '[Unit]\nSourcePath=/etc/containers/systemd/box.container\n[Service]\nExecStart=sleep infinity\n' >$1/box.service
printf '[Service]\nExecStart=sleep infinity\n' >$1/made.service
`)
	l.run0(t, "chmod 755 %s/etc/systemd/system-generators/quadlet")
	l.run0(t, "ln -s /dev/null %s/etc/systemd/system/masked.service")
	l.network("lan", "172.16.26.9/22")
	l.up()
	before, files := l.M.Snapshot(), l.etc(t)

	t.Run("an alias", func(t *testing.T) {
		l.Run(t, "systemctl start real")
		l.Run(t, program+"enable nick --vip 172.16.26.4/22")
		l.on(t, "real", "/run/netns/real")
		if got := decode[shown](t, l, program+"status nick -o json"); got.Service != "real.service" || got.Namespace != "real" {
			t.Errorf("status: %+v", got)
		}
		l.Run(t, program+"disable nick --yes")
		l.on(t, "real", hostNetns)
		l.Run(t, "systemctl stop real")
		l.gone(t, before)
		l.untouched(t, files)
	})
	t.Run("a template's drop-in", func(t *testing.T) {
		l.link("app@.service.d/netns.conf", unitDir+"netns.conf")
		l.Write("etc/systemd-netns/app@1.env", "NETWORK=lan\nCAP_ARGS={\"ips\":[\"172.16.26.5/22\"]}\n")
		l.daemonReload(t)
		l.Run(t, "systemctl start app@1")
		got := decode[[]listed](t, l, program+"list -o json")
		if len(got) != 1 || got[0].Service != "app@1.service" || got[0].Namespace != "app@1" || fmt.Sprint(got[0].VIPs) != "[172.16.26.5/22]" {
			t.Errorf("list: %+v", got)
		}
		l.refused(t, program+"disable app@1 --yes", "app@.service.d/netns.conf")
		l.on(t, "app@1", "/run/netns/app@1")
		l.Run(t, "systemctl stop app@1")
		l.Run(t, "rm -r /etc/systemd/system/app@.service.d /etc/systemd-netns")
		l.daemonReload(t)
		l.gone(t, before)
	})
	t.Run("a container's", func(t *testing.T) {
		l.refused(t, program+"enable box --vip 172.16.26.4/22", "/etc/containers/systemd/box.container", "Network=ns:/run/netns/box", "BindsTo=systemd-netns@box.service")
		l.untouched(t, files)
	})
	t.Run("a generated one", func(t *testing.T) {
		l.Run(t, "systemctl start made")
		l.Run(t, program+"enable made --vip 172.16.26.4/22")
		l.on(t, "made", "/run/netns/made")
		l.Run(t, program+"disable made --yes")
		l.Run(t, "systemctl stop made")
		l.gone(t, before)
		l.untouched(t, files)
	})
	t.Run("no service", func(t *testing.T) {
		l.refused(t, program+"enable masked --vip 172.16.26.4/22", "masked", "unmask")
		l.refused(t, program+"disable nothing --yes", "no such unit")
		l.wantStatus(t, 4, program+"check nothing")
		l.wantStatus(t, 1, program+"check one")
		l.wantStatus(t, 2, program+"enable app@")
		l.wantStatus(t, 2, program+"enable one --vip 172.16.26.4")
	})
	t.Run("nobody", func(t *testing.T) {
		l.Run(t, program+"enable two --vip 172.16.26.4/22")
		l.Run(t, "systemctl start two")
		const nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups "
		got := decode[[]listed](t, l, nobody+program+"list -o json")
		if len(got) != 1 || got[0].Service != "two.service" || got[0].State != "active" || len(got[0].VIPs) != 0 {
			t.Errorf("list: %+v", got)
		}
		if out, err := l.M.Run("sh", "-c", nobody+program+"list 2>&1 >/dev/null"); err != nil || !strings.Contains(out, "root") {
			t.Errorf("what can't be seen is not said: %q, %v", out, err)
		}
		l.refused(t, nobody+program+"check two", "sudo")
		l.refused(t, nobody+program+"disable two --yes", "sudo")
		l.Run(t, program+"disable two --yes")
		l.Run(t, "systemctl stop two")
		l.gone(t, before)
		l.untouched(t, files)
	})
}

// TestTransactions are whole or not at all.
func TestTransactions(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t)
	// It runs in a namespace only.
	l.Write("usr/lib/systemd/system/inside.service", "[Service]\nExecStartPre=sh -c '! ip link show eth0'\n"+sleep)
	// It runs on the host only, and fails after its start, but in time on a slow machine, too.
	l.Write("usr/lib/systemd/system/outside.service", "[Service]\nExecStart=sh -c 'while read -r link _; do [ $$link = eth0: ] && exec sleep infinity; done </proc/self/net/dev; exit 1'\n")
	l.up()
	before := l.M.Snapshot()

	t.Run("enable", func(t *testing.T) {
		l.Run(t, "systemctl start outside")
		files := l.etc(t)
		l.refused(t, program+"enable outside --vip 172.16.26.4/22", "outside.service", "everything was rolled back")
		l.on(t, "outside", hostNetns)
		l.untouched(t, files)
		l.Run(t, "systemctl stop outside")
		l.gone(t, before)
	})
	t.Run("disable", func(t *testing.T) {
		l.Run(t, program+"enable inside --vip 172.16.26.4/22")
		l.Run(t, "systemctl start inside")
		files := l.etc(t)
		l.refused(t, program+"disable inside --yes", "inside.service", "systemctl stop inside.service", "everything was rolled back")
		l.on(t, "inside", "/run/netns/inside")
		l.untouched(t, files)
		l.Run(t, "systemctl stop inside")
		l.Run(t, program+"disable inside --yes")
		l.gone(t, before)
	})
	t.Run("a VIP that is in use", func(t *testing.T) {
		l.Peer.AddAddress("port", "172.16.26.9/22")
		defer l.Peer.IP("address del 172.16.26.9/22 dev port")
		l.Write("etc/systemd-netns/two.env", "RETRY_SEC=0\n")
		l.Run(t, "systemctl start two")
		files := l.etc(t)
		l.refused(t, program+"enable two --vip 172.16.26.9/22", "172.16.26.9 is in use", "everything was rolled back")
		l.on(t, "two", hostNetns)
		// Nothing is left that somebody would have to see to.
		l.WantState(t, "systemd-netns@two", "inactive")
		l.Run(t, "systemctl stop two")
		l.Run(t, program+"enable two --vip 172.16.26.9/22")
		if out, err := l.Try("systemctl start two"); err == nil {
			t.Errorf("it started: %s", out)
		}
		l.WantState(t, "systemd-netns@two", "failed")
		l.Run(t, program+"disable two --yes")
		l.WantState(t, "systemd-netns@two", "inactive")
		l.untouched(t, files)
		l.Run(t, "rm -r /etc/systemd-netns")
		l.gone(t, before)
	})
	t.Run("the service's package is gone", func(t *testing.T) {
		files := l.etc(t)
		const unit = "usr/lib/systemd/system/passing.service"
		for _, options := range []string{"", "--in elsewhere "} {
			l.Write(unit, "[Service]\n"+sleep)
			l.daemonReload(t)
			l.Run(t, program+"enable passing "+options+"--vip 172.16.26.4/22 --forward 9000")
			l.Run(t, "rm /"+unit)
			l.daemonReload(t)
			l.Run(t, program+"disable passing --yes")
			l.untouched(t, files)
		}
		l.gone(t, before)
	})
	t.Run("refused before a running service is touched", func(t *testing.T) {
		const admins = "etc/systemd/system/two.service.d/zz-admin.conf"
		l.Write(admins, "[Service]\nNetworkNamespacePath=/run/netns/by-hand\n")
		l.Run(t, "ip netns add by-hand")
		l.daemonReload(t)
		l.Run(t, "systemctl start two")
		files := l.etc(t)
		l.refused(t, program+"enable two --vip 172.16.26.4/22", "/"+admins, "/run/netns/by-hand")
		if f := l.finding(t, "two", "drop-in"); f.OK || strings.Contains(f.Remedy, "restart") {
			t.Errorf("%+v", f)
		}
		l.refused(t, program+"disable two --yes", "/"+admins)
		l.untouched(t, files)
		l.on(t, "two", "/run/netns/by-hand")
		l.Run(t, "systemctl stop two")
		l.Run(t, "rm -r /etc/systemd/system/two.service.d")
		l.Run(t, "ip netns delete by-hand")
		l.daemonReload(t)
		l.gone(t, before)
	})
	t.Run("an administrator's drop-in", func(t *testing.T) {
		const admins = "etc/systemd/system/two.service.d/zz-admin.conf"
		l.Write(admins, "[Unit]\nBindsTo=systemd-netns@two.service\nAfter=systemd-netns@two.service\n[Service]\nNetworkNamespacePath=/run/netns/two\n")
		l.Run(t, program+"enable two --vip 172.16.26.4/22")
		l.Run(t, "systemctl start two")
		files := l.etc(t)
		l.refused(t, program+"disable two --yes", "/"+admins, "everything was rolled back")
		l.on(t, "two", "/run/netns/two")
		l.untouched(t, files)
		l.Run(t, "systemctl stop two")
		l.Run(t, "rm /"+admins)
		l.Run(t, program+"disable two --yes")
		l.Write(admins, "[Service]\nNetworkNamespacePath=\n")
		l.refused(t, program+"enable two --in two --vip 172.16.26.4/22", "/"+admins, "everything was rolled back")
		l.Run(t, "rm -r /etc/systemd/system/two.service.d")
		l.daemonReload(t)
		l.gone(t, before)
	})
	t.Run("files that a power cut has emptied", func(t *testing.T) {
		files := l.etc(t)
		const enable, empty = program + "enable one --in front --vip 172.16.26.4/22", "truncate --size=0 /etc/systemd-netns/net.d/front.conflist /etc/systemd/system/one.service.d/netns.conf"
		l.Run(t, enable)
		l.Run(t, empty)
		l.daemonReload(t)
		l.refused(t, program+"enable one --in front", "/etc/systemd-netns/net.d/front.conflist")
		l.Run(t, enable)
		l.Run(t, "systemctl start one")
		l.on(t, "one", "/run/netns/front")
		l.Serves(t, "172.16.26.4")
		l.Run(t, empty)
		l.Run(t, program+"disable one --yes")
		l.Run(t, "systemctl stop one")
		l.gone(t, before)
		l.untouched(t, files)
	})
	t.Run("two at once", func(t *testing.T) {
		files := l.etc(t)
		var all sync.WaitGroup
		for i, service := range []string{"one", "two", "real"} {
			all.Go(func() { l.Run(t, fmt.Sprintf("%senable %s --vip 172.16.26.%d/22", program, service, 4+i)) })
		}
		all.Wait()
		l.Run(t, "systemctl start one two real")
		if got := decode[[]listed](t, l, program+"list -o json"); len(got) != 3 {
			t.Errorf("list: %+v", got)
		}
		for _, service := range []string{"one", "two", "real"} {
			all.Go(func() { l.Run(t, program+"disable --yes "+service) })
		}
		all.Wait()
		l.Run(t, "systemctl stop one two real")
		l.gone(t, before)
		l.untouched(t, files)
	})
	t.Run("others", func(t *testing.T) {
		files := l.etc(t)
		l.Run(t, program+"enable one --in front --vip 172.16.26.4/22")
		l.Run(t, program+"enable two --in front")
		l.Run(t, "systemctl start one two")
		in := l.etc(t)
		l.refused(t, program+"enable one --vip 172.16.26.5/22", "two.service", "--yes")
		l.wantStatus(t, 2, program+"enable one --vip 172.16.26.5/22")
		l.refused(t, program+"set one --gateway "+hostAddr, "two.service", "--yes")
		l.wantStatus(t, 2, program+"set one --gateway "+hostAddr)
		l.untouched(t, in)
		l.Run(t, program+"enable one --vip 172.16.26.5/22 --yes")
		l.on(t, "two", "/run/netns/front")
		l.Serves(t, "172.16.26.5")
		l.Run(t, program+"disable one --yes")
		l.Run(t, program+"disable two --yes")
		l.Run(t, "systemctl stop one two")
		l.gone(t, before)
		l.untouched(t, files)
	})
}

// TestSet: VIPs come and go while the service runs, and not a packet to the
// others is lost.
// TestSetTheArticlesWay: the VIPs are changed live there, too, and a change that fails is taken
// back.
func TestSetTheArticlesWay(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t).up()
	l.Run(t, program+"enable one --vip 172.16.26.4/22")
	l.Run(t, "rm /"+dropIns+"one.service.d/netns.conf")
	l.M.MustRun(t, "sh", "-ec", "mkdir -p $1/systemd-netns@one.service.d; ln -s $2/private-network.conf $1/one.service.d/netns.conf; ln -s $2/systemd-netns-private.conf $1/systemd-netns@one.service.d/private.conf",
		"sh", "/"+dropIns, unitDir)
	l.Run(t, "systemctl stop one")
	l.WantState(t, "systemd-netns@one", "inactive")
	l.daemonReload(t)
	l.Run(t, "systemctl start one")
	pid := l.Run(t, "systemctl show one -p MainPID --value")
	l.Run(t, program+"set one --add-vip 172.16.26.5/22 --add-vip fd26::15/64")
	for _, vip := range []string{"172.16.26.4", "172.16.26.5", "fd26::15"} {
		if err := l.Peer.Ping(netip.MustParseAddr(vip)); err != nil {
			t.Error(err)
		}
	}
	in := l.etc(t)
	l.refused(t, program+"set one --add-vip "+hostAddr+"/22", "everything was rolled back")
	l.untouched(t, in)
	l.Serves(t, "172.16.26.4", "172.16.26.5")
	if got := l.Run(t, "systemctl show one -p MainPID --value"); got != pid {
		t.Errorf("the service was restarted: PID %s, then %s", pid, got)
	}
}

func TestSet(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t).up()
	l.M.IP("-6 route add default via " + peerAddr6)
	l.withoutDNS()
	before, files := l.M.Snapshot(), l.etc(t)
	const own = "/etc/systemd-netns/net.d/one.conflist"
	l.Run(t, "systemctl start one")
	l.Run(t, program+"enable one --vip 172.16.26.4/22")
	pid := l.Run(t, "systemctl show one -p MainPID --value")
	var pings sync.WaitGroup
	for name, from := range l.Stations() {
		pings.Go(func() {
			if err := from.Ping(netip.MustParseAddr("172.16.26.4"), "-q", "-i", "0.02", "-c", "1000", "-w", "60"); err != nil {
				t.Errorf("the %s lost packets: %v", name, err)
			}
		})
	}
	defer pings.Wait()
	l.Run(t, program+"set one --add-vip 172.16.26.5/22 --add-vip fd26::15/64")
	l.Serves(t, "172.16.26.4", "172.16.26.5")
	l.gateways(t, peerAddr, peerAddr6)
	l.Run(t, program+"set one --remove-vip 172.16.26.5/22")
	l.Silent(t, "172.16.26.5")
	l.Run(t, "sed -i s/fd26::15/fd26::16/ "+own)
	l.Run(t, "systemctl reload systemd-netns@one")
	status := decode[shown](t, l, program+"status one -o json")
	if fmt.Sprint(status.VIPs) != "[172.16.26.4/22 fd26::16/64]" || status.Edited || len(status.Drift) != 0 {
		t.Errorf("status: %+v", status)
	}
	in := l.etc(t)
	l.refused(t, program+"set one --add-vip "+hostAddr+"/22", "everything was rolled back")
	l.untouched(t, in)
	l.wantStatus(t, 0, program+"check one")
	pings.Wait()
	if got := l.Run(t, "systemctl show one -p MainPID --value"); got != pid {
		t.Errorf("the service was restarted: PID %s, then %s", pid, got)
	}
	l.refused(t, program+"set one --remove-vip 172.16.26.9/22", "not one of its VIPs")
	t.Run("an edit of VIPs", func(t *testing.T) {
		l.Run(t, "sed -i s/fd26::16/fd26::17/ "+own)
		l.Run(t, program+"set one --add-vip fd26::17/64")
		if got := decode[shown](t, l, program+"status one -o json"); fmt.Sprint(got.VIPs) != "[172.16.26.4/22 fd26::17/64]" || got.Edited {
			t.Errorf("status: %+v", got)
		}
	})
	t.Run("while the keeper repairs", func(t *testing.T) {
		// As it does just before it has the unit reloaded.
		l.Run(t, "touch /run/systemd-netns/one/repair")
		l.Run(t, program+"set one --add-vip 172.16.26.8/22")
		l.Serves(t, "172.16.26.4", "172.16.26.8")
		l.Run(t, "touch /run/systemd-netns/one/repair")
		l.Run(t, program+"set one --remove-vip 172.16.26.8/22")
		l.Silent(t, "172.16.26.8")
	})
	t.Run("an edit that takes a restart", func(t *testing.T) {
		l.Run(t, `sed -i s/"master":/"mtu":1400,"master":/ `+own)
		in := l.etc(t)
		for _, change := range []string{"--add-vip 172.16.26.6/22", "--add-vip fd26::17/64"} {
			l.refused(t, program+"set one "+change, own+" has changed", "`systemctl restart systemd-netns@one.service`")
		}
		l.untouched(t, in)
		l.Run(t, "systemctl restart systemd-netns@one")
		l.Run(t, program+"set one --add-vip 172.16.26.6/22")
		l.Serves(t, "172.16.26.4", "172.16.26.6")
	})
	t.Run("the gateway of one family", func(t *testing.T) {
		l.Run(t, program+"set one --gateway "+hostAddr)
		l.gateways(t, hostAddr, peerAddr6)
		l.Run(t, program+"set one --gateway "+hostAddr6)
		l.gateways(t, hostAddr, hostAddr6)
	})
	l.Run(t, program+"disable one --yes")
	l.Run(t, "systemctl stop one")
	l.gone(t, before)
	l.untouched(t, files)
}

// gateways asserts which default routes service one has.
func (l *lab) gateways(t *testing.T, gw4, gw6 string) {
	t.Helper()
	for family, gw := range map[string]string{"-4": gw4, "-6": gw6} {
		via, _, _ := strings.Cut(l.Run(t, "ip -n one "+family+" route show default"), " dev ")
		if strings.TrimPrefix(via, "default via ") != gw {
			t.Errorf("ip %s: %q, want %q", family, via, gw)
		}
	}
}

// TestEnableOptions: what --dns and --hardened make of a service, and that nothing of it
// is left.
func TestEnableOptions(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t).up()
	before, files := l.M.Snapshot(), l.etc(t)
	l.Run(t, "systemctl start one")
	effective := func() string {
		return l.Run(t, "systemctl show one --property=CapabilityBoundingSet,NoNewPrivileges,PrivateDevices,ProtectSystem")
	}
	unhardened := effective()
	l.Run(t, program+"enable one --vip 172.16.26.4/22 --dns "+peerAddr+" --dns "+peerAddr6+" --hardened")
	l.Serves(t, "172.16.26.4")
	t.Run("--dns", func(t *testing.T) {
		pid := l.Run(t, "systemctl show one -p MainPID --value")
		seen := l.Run(t, "nsenter --mount --target "+pid+" cat /etc/resolv.conf")
		if !strings.Contains(seen, "nameserver "+peerAddr+"\nnameserver "+peerAddr6) {
			t.Errorf("the service's resolv.conf:\n%s", seen)
		}
		if out := l.Run(t, program+"exec one -- cat /etc/resolv.conf"); out != seen {
			t.Errorf("exec sees another one:\n%s", out)
		}
	})
	t.Run("--hardened", func(t *testing.T) {
		got := effective()
		for _, want := range []string{"NoNewPrivileges=yes", "PrivateDevices=yes", "ProtectSystem=full"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in:\n%s", want, got)
			}
		}
		pid := l.Run(t, "systemctl show one -p MainPID --value")
		status := l.Run(t, "grep CapBnd /proc/"+pid+"/status")
		var bounding uint64
		if _, err := fmt.Sscanf(status, "CapBnd: %x", &bounding); err != nil || bounding&(1<<unix.CAP_NET_ADMIN|1<<unix.CAP_NET_RAW|1<<unix.CAP_SYS_ADMIN) != 0 {
			t.Errorf("%s: %v", status, err)
		}
	})
	l.Run(t, program+"disable one --yes")
	if got := effective(); got != unhardened {
		t.Errorf("after disable: %s", got)
	}
	l.Run(t, "systemctl stop one")
	l.gone(t, before)
	l.untouched(t, files)
}

// TestForward: what the service finds on its localhost is the host's 127.0.0.1.
func TestForward(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t)
	l.Write("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
	l.Write("usr/lib/systemd/system/backend.service", "[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:9000,bind=127.0.0.1,fork,reuseaddr TCP:"+peerAddr+":8080\n")
	l.Write("usr/lib/systemd/system/front.service", "[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:80,fork,reuseaddr TCP:127.0.0.1:9000\n")
	l.up()
	before, files := l.M.Snapshot(), l.etc(t)
	l.Run(t, "systemctl start backend front")
	l.Run(t, program+"enable front --vip 172.16.26.4/22 --forward 9000")
	l.Serves(t, "172.16.26.4")
	l.Run(t, "systemctl restart front")
	l.Serves(t, "172.16.26.4")
	l.forwards(t, "127.0.0.1", "::1", "localhost")

	const socket = "systemd-netns-forward@front:9000.socket"
	// systemd 247 restarts no socket whose service runs.
	again := func(t *testing.T) {
		l.Run(t, "systemctl stop "+socket)
		l.Run(t, "systemctl start "+socket)
	}
	t.Run("IPv6 is turned off", func(t *testing.T) {
		off := program + "exec front -- sysctl -w net.ipv6.conf.all.disable_ipv6="
		l.Run(t, off+"1")
		again(t)
		l.forwards(t, "127.0.0.1", "localhost")
		l.Run(t, off+"0")
	})
	t.Run("one that listens on 127.0.0.1 alone", func(t *testing.T) {
		l.Run(t, "sed -i /::1/d /etc/systemd/system/"+socket+".d/netns.conf")
		l.Run(t, "systemctl daemon-reload")
		again(t)
		// A client of "localhost" asks 127.0.0.1 then.
		l.forwards(t, "127.0.0.1", "localhost")
		if f := l.loopback(t, "localhost"); !f.OK {
			t.Errorf("%+v", f)
		}
		l.Run(t, program+"enable front --forward 9000")
		l.forwards(t, "127.0.0.1", "::1", "localhost")
	})
	l.Run(t, program+"disable front --yes")
	l.Run(t, "systemctl stop front backend")
	l.gone(t, before)
	l.untouched(t, files)
	if out := l.Run(t, "systemctl list-units --no-legend --state=active systemd-netns-forward@*"); out != "" {
		t.Errorf("left: %s", out)
	}

	t.Run("what is somebody else's stays", func(t *testing.T) {
		const admins, others = "etc/systemd/system/systemd-netns-forward@front:9100.service.d/netns.conf", "/etc/systemd/system/systemd-netns-forward@front:x:9000.socket.d/netns.conf"
		l.Run(t, program+"enable two --in front:x --vip 172.16.26.5/22 --forward 9000")
		l.Write(admins, "[Service]\nEnvironment=PORT=9101\n")
		in := l.etc(t)
		l.refused(t, program+"enable front --vip 172.16.26.4/22 --forward 9100", "/"+admins, "left alone")
		l.untouched(t, in)
		l.Run(t, program+"enable front --vip 172.16.26.4/22 --forward 9000")
		l.Run(t, program+"disable front --yes")
		l.untouched(t, in)
		l.Run(t, program+"disable two --yes")
		l.refused(t, "test -e "+others)
		l.Run(t, "rm -r /etc/systemd/system/systemd-netns-forward@front:9100.service.d")
		l.untouched(t, files)
	})
	t.Run("check finds that it is missing", func(t *testing.T) {
		l.Run(t, "systemctl start backend front")
		l.Run(t, program+"enable front --vip 172.16.26.4/22")
		var f finding
		// On a slow machine a client does not come to its second address while check looks.
		testnet.Eventually(t, "both addresses refuse while check looks", func() error {
			if f = l.loopback(t, "localhost"); !strings.Contains(f.Detail, "tcp [::1]:9000") || !strings.Contains(f.Detail, "tcp 127.0.0.1:9000") {
				return fmt.Errorf("%+v", f)
			}
			return nil
		})
		if f.OK || f.Remedy != "systemd-netns enable front --in front --forward 9000" {
			t.Fatalf("%+v", f)
		}
		pid := l.Run(t, "systemctl show front -p MainPID --value")
		l.Run(t, f.Remedy)
		l.Serves(t, "172.16.26.4")
		if got := l.Run(t, "systemctl show front -p MainPID --value"); got != pid {
			t.Errorf("the service was restarted: PID %s, then %s", pid, got)
		}
		if f := l.loopback(t, "localhost"); !f.OK {
			t.Errorf("%+v", f)
		}
	})
}

// forwards asserts that front's port 9000 on names of its own leads to the backend.
func (l *lab) forwards(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if page, err := l.ask(name); page != answer || err != nil {
			t.Errorf("%s: %q, %v", name, page, err)
		}
	}
}

// ask asks port 9000 of a name in front's namespace; curl tries all addresses of it.
func (l *lab) ask(name string) (string, error) {
	return l.Try(program + "exec front -- curl --silent --show-error --noproxy * --max-time 5 http://" + net.JoinHostPort(name, "9000"))
}

// loopback gives what check finds while somebody in front's namespace asks a name.
func (l *lab) loopback(t *testing.T, name string) finding {
	t.Helper()
	checking, checked := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		for checking.Err() == nil {
			_, _ = l.ask(name)
		}
	})
	defer asking.Wait()
	defer checked()
	return l.finding(t, "front", "loopback")
}

// TestLinkLocal: VIPs of link-local scope are listed and checked as others are. An address
// of that scope that the kernel gave the link is none.
func TestLinkLocal(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t).up()
	l.withoutDNS()
	before := l.M.Snapshot()
	l.Run(t, "systemctl mask --now systemd-netns-watch.service")
	l.Run(t, "systemctl start one")
	l.Run(t, program+"enable one --vip fe80::10/64 --master eth0")
	l.M.IP("-n one address add fe80::99/64 dev mv0 nodad")
	wantVIPs := func(want ...string) {
		t.Helper()
		if got := decode[[]listed](t, l, program+"list -o json"); len(got) != 1 || !slices.Equal(got[0].VIPs, want) {
			t.Errorf("listed: %+v, want %v", got, want)
		}
		if out := l.wantStatus(t, 0, program+"check one"); !strings.Contains(out, strings.Join(want, " ")+" on mv0") {
			t.Errorf("check:\n%s", out)
		}
		for _, vip := range want {
			addr := netip.MustParsePrefix(vip).Addr()
			for link, from := range map[string]machine.Station{"mv-int": l.M, "port": l.Peer} {
				if err := from.Ping(addr.WithZone(link)); err != nil {
					t.Error(err)
				}
			}
		}
	}
	wantVIPs("fe80::10/64")
	l.Run(t, program+"set one --add-vip fe80::11/64")
	// The kernel lists the latest first.
	wantVIPs("fe80::11/64", "fe80::10/64")

	l.Peer.IP("-6 address add fe80::11/64 dev port nodad")
	if f := l.finding(t, "one", "duplicate-address"); f.OK || !strings.Contains(f.Detail, "fe80::11 is in use by ") {
		t.Errorf("%+v", f)
	}
	l.Peer.IP("-6 address del fe80::11/64 dev port")
	for _, rule := range []string{"add table inet filter", "add chain inet filter input { type filter hook input priority 0 ; }", "add rule inet filter input iifname mv-int drop"} {
		l.Run(t, "nft "+rule)
	}
	if f := l.finding(t, "one", "host"); f.OK || f.Detail != "this host gets no answer from fe80::11 fe80::10" {
		t.Errorf("%+v", f)
	}
	f := l.finding(t, "one", "firewall")
	l.Run(t, f.Remedy)
	wantVIPs("fe80::11/64", "fe80::10/64")
	l.Run(t, "nft delete table inet filter")
	l.Run(t, program+"disable one --yes")
	l.Run(t, "systemctl stop one")
	l.gone(t, before)
}

// finding gives one check's outcome.
func (l *lab) finding(t *testing.T, service, check string) finding {
	t.Helper()
	all := decode[[]finding](t, l, program+"check "+service+" -o json")
	for _, f := range all {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no %s in %+v", check, all)
	return finding{}
}

// TestCheck: each fault is found, and its remedy mends it.
func TestCheck(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t)
	l.Write("usr/lib/systemd/system/web.socket", "[Socket]\nListenStream=81\n")
	l.Write("usr/lib/systemd/system/web.service", "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd "+peerAddr+":8080\n")
	l.up()
	l.withoutDNS()
	l.Run(t, "systemctl start one")
	l.Run(t, program+"enable one --vip 172.16.26.4/22 --vip fd26::4/64")
	l.wantStatus(t, 0, program+"check one")
	// The keeper would repair what is to be found.
	l.Run(t, "systemctl mask --now systemd-netns-watch.service")
	wrong := func(t *testing.T, service, check string, words ...string) finding {
		t.Helper()
		f := l.finding(t, service, check)
		for _, word := range words {
			if f.OK || !strings.Contains(f.Detail+f.Remedy, word) {
				t.Errorf("no %q, or ok: %+v", word, f)
			}
		}
		l.wantStatus(t, 1, program+"check "+service)
		return f
	}
	mended := func(t *testing.T, f finding) {
		t.Helper()
		l.Run(t, f.Remedy)
		testnet.Eventually(t, "all is ok after: "+f.Remedy, func() error {
			if code, out := l.status(t, program+"check one"); code != 0 {
				return fmt.Errorf("status %d: %s", code, out)
			}
			return nil
		})
	}
	t.Run("a duplicate address", func(t *testing.T) {
		l.Peer.AddAddress("port", "172.16.26.4/22")
		wrong(t, "one", "duplicate-address", "172.16.26.4 is in use by ")
		l.Peer.IP("address del 172.16.26.4/22 dev port")
		l.Peer.IP("-6 address add fd26::4/64 dev port nodad")
		wrong(t, "one", "duplicate-address", "fd26::4 is in use by ")
		l.Peer.IP("-6 address del fd26::4/64 dev port")
		l.wantStatus(t, 0, program+"check one")
	})
	t.Run("the gateway", func(t *testing.T) {
		l.Peer.IP("address del " + peerAddr + "/22 dev port")
		wrong(t, "one", "gateway", peerAddr+" does not answer")
		l.Peer.AddAddress("port", peerAddr+"/22")
	})
	t.Run("no carrier", func(t *testing.T) {
		l.M.MustSetCarrier(t, 0, false)
		wrong(t, "one", "master", "eth0 has no carrier")
		l.M.MustSetCarrier(t, 0, true)
		testnet.Eventually(t, "carrier", func() error {
			if f := l.finding(t, "one", "master"); !f.OK {
				return fmt.Errorf("%+v", f)
			}
			return nil
		})
	})
	t.Run("the wrong master", func(t *testing.T) {
		l.M.IP("link add other type veth peer name nobody")
		l.M.IP("link set other up")
		// Its other end is on this host, which would answer there.
		l.M.IP("link set nobody up arp off")
		l.Run(t, program+"enable two --vip 172.16.26.6/22 --master other --gateway "+peerAddr)
		l.Run(t, "systemctl start two")
		f := wrong(t, "two", "master", "other is not on the LAN of the VIPs, as eth0 is", "--master eth0")
		l.Run(t, f.Remedy)
		if f := l.finding(t, "two", "master"); !f.OK {
			t.Errorf("%+v", f)
		}
		l.Run(t, "systemctl stop two")
		l.Run(t, program+"disable two --yes")
		l.M.IP("link del other")
	})
	t.Run("no such master", func(t *testing.T) {
		l.Run(t, program+"enable two --vip 172.16.26.6/22")
		l.Run(t, "sed -i s/eth0/eth9/ /etc/systemd-netns/net.d/two.conflist")
		l.Write("etc/systemd-netns/two.env", "RETRY_SEC=0\n")
		l.refused(t, "systemctl start two")
		wrong(t, "two", "master", "eth9: no such link", "--master LINK")
		wrong(t, "two", "service", "systemd-netns@two.service failed", "journalctl")
		l.Run(t, "rm /etc/systemd-netns/two.env")
		l.Run(t, program+"disable two --yes")
		l.Run(t, "systemctl reset-failed")
	})
	t.Run("a service that is skipped", func(t *testing.T) {
		l.Write("etc/systemd/system/two.service.d/skip.conf", "[Unit]\nConditionPathExists=/nothing\n")
		l.Run(t, program+"enable two --vip 172.16.26.6/22")
		l.Run(t, "systemctl start two")
		wrong(t, "two", "service", "skipped because of a condition")
		l.Run(t, program+"disable two --yes")
		l.Run(t, "rm -r /etc/systemd/system/two.service.d")
		l.daemonReload(t)
	})
	t.Run("a route is gone", func(t *testing.T) {
		l.M.IP("route flush table local proto 118")
		wrong(t, "one", "host", "no answer from")
		mended(t, wrong(t, "one", "attachment", "172.16.26.4"))
	})
	t.Run("a policy rule comes first", func(t *testing.T) {
		l.M.IP("route add 172.16.26.0/24 dev eth0 table 50")
		l.M.IP("rule add pref 50 lookup 50")
		l.M.IP("rule add pref 100 lookup local")
		l.M.IP("rule del pref 0")
		mended(t, wrong(t, "one", "host", "by eth0, not by mv-int", "ip rule add pref 40 to 172.16.26.4 lookup local"))
		l.M.IP("rule add pref 0 lookup local")
		for _, pref := range []string{"40", "50", "100"} {
			l.M.IP("rule del pref " + pref)
		}
	})
	t.Run("the service's link was down", func(t *testing.T) {
		l.M.IP("-n one link set mv0 down")
		l.M.IP("-n one link set mv0 up")
		wrong(t, "one", "way-back", hostAddr)
		mended(t, wrong(t, "one", "attachment", "via "+peerAddr+" dev mv0: missing"))
	})
	t.Run("the MTU", func(t *testing.T) {
		l.M.IP("link set eth0 mtu 1400")
		l.M.IP("link set eth0 mtu 1500")
		mended(t, wrong(t, "one", "attachment", "1400"))
	})
	t.Run("the link was removed", func(t *testing.T) {
		l.M.IP("-n one link del mv0")
		mended(t, wrong(t, "one", "attachment", "mv0"))
	})
	t.Run("mv-int is gone", func(t *testing.T) {
		l.M.IP("link del mv-int")
		wrong(t, "one", "host", "no answer from")
		mended(t, wrong(t, "one", "attachment", "mv-int"))
	})
	t.Run("a firewall", func(t *testing.T) {
		l.Run(t, "nft add table inet filter")
		l.Run(t, "nft add chain inet filter input { type filter hook input priority 0 ; policy drop ; }")
		l.Run(t, "nft add rule inet filter input iifname eth0 accept")
		f := wrong(t, "one", "firewall", "mv-int", "nft insert rule inet filter input iifname mv-int accept")
		mended(t, f)
		l.Run(t, "nft delete table inet filter")
	})
	t.Run("DNS", func(t *testing.T) {
		l.Write("etc/resolv.conf", "nameserver "+peerAddr+"\n")
		wrong(t, "one", "dns", peerAddr)
		l.withoutDNS()
	})
	t.Run("edited", func(t *testing.T) {
		l.Run(t, "sed -i s/fd26::4/fd26::15/ /etc/systemd-netns/net.d/one.conflist")
		wrong(t, "one", "edited", "one.conflist has changed")
		if got := decode[shown](t, l, program+"status one -o json"); !got.Edited {
			t.Errorf("status: %+v", got)
		}
		l.Run(t, "sed -i s/fd26::15/fd26::4/ /etc/systemd-netns/net.d/one.conflist")
	})
	t.Run("an administrator's network", l.checkAdministrators)
	t.Run("a socket on the host", func(t *testing.T) {
		l.Run(t, "systemctl start web.socket")
		l.link("web.service.d/netns.conf", unitDir+"netns.conf")
		l.daemonReload(t)
		wrong(t, "web", "sockets", "web.socket")
	})
	t.Run("a service that does not run", func(t *testing.T) {
		l.Run(t, "systemctl stop one")
		_, _ = l.Try("systemctl reset-failed one")
		wrong(t, "one", "service", "systemctl start one.service")
	})
}

// checkAdministrators: no remedy is a command that refuses to change an administrator's
// network.
func (l *lab) checkAdministrators(t *testing.T) {
	const file = "/" + netDir + "two.conflist"
	l.Write(file[1:], `{"cniVersion": "1.1.0", "name": "two", "plugins": [{"type": "macvlan-vip", "master": "eth0", "ipam": {"type": "static",
		"addresses": [{"address": "172.16.26.6/22"}], "routes": [{"dst": "0.0.0.0/0", "gw": "172.16.27.99"}]}}, {"type": "hairpin-route"}]}`)
	l.Write("etc/resolv.conf", "nameserver "+peerAddr+"\n")
	l.link("two.service.d/netns.conf", unitDir+"netns.conf")
	l.daemonReload(t)
	l.Run(t, "systemctl start two")
	wrong := func(check, key string) (command string) {
		t.Helper()
		f := l.finding(t, "two", check)
		_, command, found := strings.Cut(f.Remedy, "then: ")
		if f.OK || !found || strings.Contains(f.Remedy, "systemd-netns set") || !strings.Contains(f.Remedy, "correct "+key+" in "+file) {
			t.Errorf("%+v", f)
		}
		return command
	}
	mended := func(check string) {
		t.Helper()
		testnet.Eventually(t, check+" is ok", func() error {
			if f := l.finding(t, "two", check); !f.OK {
				return fmt.Errorf("%+v", f)
			}
			return nil
		})
	}

	restart := wrong("gateway", "`routes` under `ipam`")
	l.Run(t, "sed -i s/172.16.27.99/"+peerAddr+"/ "+file)
	l.Run(t, restart)
	mended("gateway")

	l.Peer.AddAddress("port", "172.16.26.6/22")
	restart = wrong("duplicate-address", "`addresses` under `ipam`")
	l.Run(t, "sed -i s/172.16.26.6/172.16.26.7/ "+file)
	l.Run(t, restart)
	mended("duplicate-address")
	l.Peer.IP("address del 172.16.26.6/22 dev port")

	l.Peer.AddAddress("port", otherDNS+"/22")
	l.dnsmasq(t, otherDNS)
	f := l.finding(t, "two", "dns")
	if out, err := l.M.Run("sh", "-c", strings.ReplaceAll(f.Remedy, "ADDR", otherDNS)); f.OK || err != nil {
		t.Errorf("%+v: %v: %s", f, err, out)
	}
	mended("dns")
	l.withoutDNS()

	l.Run(t, "systemctl stop two")
	l.Run(t, "sed -i s/eth0/eth9/ "+file)
	l.Write("etc/systemd-netns/two.env", "RETRY_SEC=0\n")
	l.refused(t, "systemctl start two")
	start := wrong("master", "`master`")
	l.Run(t, "sed -i s/eth9/eth0/ "+file)
	l.Run(t, start)
	mended("master")
	l.Run(t, "systemctl stop two")
	l.Run(t, "rm -r "+file+" /etc/netns/two /etc/systemd-netns/two.env /etc/systemd/system/two.service.d")
	l.daemonReload(t)
}

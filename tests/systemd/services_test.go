package systemd

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

// TestServicesOfPackages: services as packages and administrators have them, with others that
// need them.
func TestServicesOfPackages(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t)
	const vendor = "usr/lib/systemd/system/"
	l.Write(vendor+"web.socket", "[Socket]\nListenStream=80\n")
	l.Write(vendor+"web.service", "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd "+peerAddr+":8080\n")
	l.Write(vendor+"needs@.service", "[Unit]\nRequires=%i.service\nAfter=%i.service\n[Service]\n"+sleep)
	l.Write(vendor+"behind@.service", "[Unit]\nBindsTo=needs@%i.service\n[Service]\n"+sleep)
	l.Write(vendor+"part@.service", "[Unit]\nPartOf=%i.service\n[Service]\n"+sleep)
	l.Write(vendor+"nostop.service", "[Unit]\nRefuseManualStop=yes\n[Service]\n"+sleep)
	l.Write(vendor+"nostart.service", "[Unit]\nRefuseManualStart=yes\nPartOf=two.service\n[Service]\n"+sleep)
	l.Write(vendor+"dull.service", "[Unit]\nWants=nostart.service nostop.service\n[Service]\n"+sleep)
	l.Write(vendor+"tunnel.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=ip netns add tunnel\nExecStop=ip netns delete tunnel\n")
	l.Write(vendor+"tunnelled.service", "[Unit]\nBindsTo=tunnel.service\nAfter=tunnel.service\n[Service]\nNetworkNamespacePath=/run/netns/tunnel\n"+sleep)
	l.Write(vendor+"joins.service", "[Unit]\nJoinsNamespaceOf=joined.service\nAfter=joined.service\n[Service]\nPrivateTmp=yes\n"+sleep)
	l.Write(vendor+"joined.service", "[Service]\nPrivateTmp=yes\n"+sleep)
	l.Write("srv/hangs", "use IO::Socket;\nmy $s = IO::Socket::INET->new(LocalPort => 80, Listen => 1) or die;\nsleep 1000;\n")
	l.Write(vendor+"hangs.service", "[Service]\nExecStart=/usr/bin/perl /srv/hangs\n")
	l.Write(vendor+"daily.timer", "[Timer]\nOnActiveSec=1h\n")
	l.Write(vendor+"daily.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n")
	// As Debian's postfix, postgresql, tor and openvpn are.
	l.Write(vendor+"post.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecReload=/bin/true\n")
	l.Write(vendor+"post@.service", "[Unit]\nPartOf=post.service\nBefore=post.service\nReloadPropagatedFrom=post.service\n[Service]\nType=forking\nGuessMainPID=no\nExecReload=/bin/true\n"+
		"ExecStart=/bin/sh -c 'socat TCP-LISTEN:80,fork,reuseaddr TCP:"+peerAddr+":8080 & sleep 0.2'\n")
	l.run0(t, "mkdir %s/etc/systemd/system/post.service.wants")
	l.run0(t, "ln -s /usr/lib/systemd/system/post@.service %s/etc/systemd/system/post.service.wants/post@-.service")
	l.up()
	l.withoutDNS()
	before, files := l.M.Snapshot(), l.etc(t)
	asBefore := func(t *testing.T) {
		t.Helper()
		l.gone(t, before)
		l.untouched(t, files)
	}

	// What requires a service stops with it, and is to run again with it.
	for _, service := range []string{"web", "two"} {
		t.Run("others require "+service, func(t *testing.T) {
			all := []string{service, "needs@" + service, "behind@" + service, "part@" + service}
			start := "systemctl start"
			for _, name := range all {
				start += " " + name
			}
			l.Run(t, start)
			if service == "web" {
				l.Run(t, "systemctl stop web")
				l.Run(t, "systemctl start web.socket")
				l.Run(t, start)
			}
			run := func(what string) {
				t.Helper()
				for _, name := range all {
					if got := l.State(name); got != "active" {
						t.Errorf("after %s %s is %s", what, name, got)
					}
				}
				l.Run(t, start)
			}
			l.refused(t, program+"enable "+service+" --vip 172.16.26.4/22", "needs@"+service+".service", "--yes")
			run("a question")
			l.Run(t, program+"enable "+service+" --vip 172.16.26.4/22 --yes")
			run("enable")
			l.Run(t, program+"enable "+service+" --vip 172.16.26.5/22 --yes")
			run("another VIP")
			l.refused(t, program+"enable "+service+" --vip "+hostAddr+"/22 --yes", "rolled back")
			run("a failure")
			l.Run(t, program+"disable "+service+" --yes")
			run("disable")
			l.refused(t, program+"enable "+service+" --vip "+hostAddr+"/22 --yes", "rolled back")
			run("another failure")
			l.Run(t, "systemctl stop web.socket "+service)
			asBefore(t)
		})
	}
	t.Run("what systemd would not restart", func(t *testing.T) {
		l.Run(t, "systemctl start two dull")
		for _, name := range []string{"nostart", "nostop", "two"} {
			l.refused(t, program+"enable "+name+" --yes --vip 172.16.26.4/22", "only other units may start or stop it", "RefuseManualStart=no")
			l.on(t, name, hostNetns)
		}
		l.untouched(t, files)
		l.Run(t, "systemctl stop two")
		l.Run(t, program+"enable two --vip 172.16.26.4/22")
		l.Run(t, "systemctl start two")
		l.Run(t, "systemctl mask two")
		l.refused(t, program+"disable two --yes", "masked", "systemctl unmask two")
		l.WantState(t, "two", "active")
		l.Run(t, "systemctl stop two")
		l.Run(t, program+"disable two --yes")
		l.Run(t, "systemctl unmask two")
		asBefore(t)
	})
	t.Run("one that stands for its instances", func(t *testing.T) {
		l.refused(t, program+"enable post --vip 172.16.26.4/22", "post@-.service", "systemd-netns enable post@-")
		l.Run(t, "systemctl start post")
		l.Run(t, program+"enable post@- --vip 172.16.26.4/22")
		l.Serves(t, "172.16.26.4")
		l.Run(t, "systemctl reload post")
		l.Run(t, "systemctl restart post")
		l.Serves(t, "172.16.26.4")
		// As by hand, or before it was refused.
		l.network("post", "172.16.26.5/22")
		l.link("post.service.d/netns.conf", unitDir+"netns.conf")
		l.Run(t, "systemctl daemon-reload")
		l.Run(t, "systemctl restart post")
		if f := l.finding(t, "post", "service"); f.OK || !strings.Contains(f.Detail, "post@-.service") || !strings.Contains(f.Remedy, "enable post@-") {
			t.Errorf("%+v", f)
		}
		l.Run(t, program+"disable post --yes")
		l.Run(t, program+"disable post@- --yes")
		l.Run(t, "rm -r /etc/cni")
		l.Run(t, "systemctl stop post")
		asBefore(t)
	})
	t.Run("one in a namespace of somebody else's", func(t *testing.T) {
		l.Run(t, "systemctl start tunnelled")
		its := l.Run(t, "stat -L -c %i /run/netns/tunnel")
		for _, options := range []string{"", "--in front "} {
			l.refused(t, program+"enable tunnelled --vip 172.16.26.4/22 "+options, "/run/netns/tunnel", "/lib/systemd/system/tunnelled.service")
		}
		l.refused(t, program+"disable tunnelled --yes", "/lib/systemd/system/tunnelled.service")
		if f := l.finding(t, "tunnelled", "drop-in"); f.OK || f.Detail != "it is in no namespace" {
			t.Errorf("%+v", f)
		}
		for _, command := range []string{"enable two --in tunnel", "enable tunnel"} {
			l.refused(t, program+command+" --vip 172.16.26.4/22", "/run/netns/tunnel", "--in")
		}
		if now := l.Run(t, "stat -L -c %i /run/netns/tunnel"); now != its {
			t.Errorf("/run/netns/tunnel is %s, was %s", now, its)
		}
		l.on(t, "tunnelled", "/run/netns/tunnel")
		l.untouched(t, files)
		l.Run(t, "systemctl stop tunnel tunnelled")
		l.gone(t, before)
	})
	t.Run("two that share a /tmp", func(t *testing.T) {
		l.Run(t, "systemctl start joins joined")
		l.refused(t, program+"enable joins --vip 172.16.26.4/22", "on the host's network", "joined.service (JoinsNamespaceOf=)", "everything was rolled back")
		l.on(t, "joins", hostNetns)
		asBefore(t)
		l.Run(t, "systemctl stop joins joined")
		l.Run(t, program+"enable joined --vip 172.16.26.4/22")
		l.Run(t, program+"enable joins --vip 172.16.26.5/22")
		l.Run(t, "systemctl start joins joined")
		if f := l.finding(t, "joins", "drop-in"); f.OK || !strings.Contains(f.Detail, "joined.service (JoinsNamespaceOf=)") {
			t.Errorf("%+v", f)
		}
		l.Run(t, "systemctl stop joins joined")
		l.Run(t, program+"enable joins --in joined")
		l.Run(t, "systemctl start joins joined")
		for _, name := range []string{"joins", "joined"} {
			l.on(t, name, "/run/netns/joined")
			if f := l.finding(t, name, "drop-in"); !f.OK {
				t.Errorf("%+v", f)
			}
		}
		l.Run(t, "systemctl stop joins joined")
		l.Run(t, program+"disable joins --yes")
		l.Run(t, program+"disable joined --yes")
		asBefore(t)
	})
	// Such as that of an administrator who comes by ssh to a VIP.
	t.Run("a shell in a service's namespaces", func(t *testing.T) {
		l.Run(t, program+"enable one --vip 172.16.26.4/22")
		l.Run(t, "systemctl start one two")
		inside := "nsenter --net --mount --target " + l.Run(t, "systemctl show -p MainPID --value one") + " " + program
		l.wantStatus(t, 0, inside+"check one")
		if got := decode[shown](t, l, inside+"status one -o json"); len(got.Drift) != 0 || got.Master != "eth0" {
			t.Errorf("status: %+v", got)
		}
		if out := l.Run(t, inside+"exec one -- ip -brief link show mv0"); !strings.HasPrefix(out, "mv0@") {
			t.Errorf("exec: %q", out)
		}
		l.Run(t, inside+"enable two --vip 172.16.26.5/22")
		l.on(t, "two", "/run/netns/two")
		l.Run(t, inside+"disable two --yes")
		l.Run(t, program+"disable one --yes")
		l.Run(t, "systemctl stop one two")
		asBefore(t)
	})
	t.Run("one that accepts no connection", func(t *testing.T) {
		l.Run(t, program+"enable hangs --vip 172.16.26.4/22")
		l.Run(t, "systemctl start hangs")
		testnet.Eventually(t, "it listens", func() error {
			out, err := l.Try("ip netns exec hangs ss -ntlH sport = :80")
			if err == nil && out == "" {
				err = errors.New("nothing listens")
			}
			return err
		})
		// Its queue takes two connections.
		said := false
		for range 3 {
			said = strings.Contains(l.wantStatus(t, 0, program+"check hangs"), "does not answer it on port 80")
		}
		if !said {
			t.Error("check does not say that the service does not answer")
		}
		l.Run(t, program+"disable hangs --yes")
		l.Run(t, "systemctl stop hangs")
		asBefore(t)
	})
	t.Run("one that a timer starts", func(t *testing.T) {
		l.Run(t, program+"enable daily --vip 172.16.26.4/22")
		if f := l.finding(t, "daily", "service"); f.OK {
			t.Errorf("%+v", f)
		}
		l.Run(t, "systemctl start daily.timer")
		if f := l.finding(t, "daily", "service"); !f.OK || f.Detail != "inactive; daily.timer starts it" {
			t.Errorf("%+v", f)
		}
		l.Run(t, "systemctl start daily")
		l.Run(t, "systemctl stop daily.timer")
		l.Run(t, program+"disable daily --yes")
		asBefore(t)
	})
}

// TestManyStarts: a crowd of services starts, 8 for each CPU at a time, and stops without a
// trace. All at once systemd would fail to set up some of the sandboxes.
func TestManyStarts(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.run0(t, "systemctl --root=%s mask haproxy.service")
	l.Write(dropIns+"app@.service", "[Service]\n"+sleep)
	l.link("app@.service.d/netns.conf", unitDir+"netns.conf")
	n := testnet.Soak(40, 500)
	var units, vips []string
	for i := range n {
		vip := fmt.Sprintf("172.16.%d.%d", 24+i/240, 10+i%240)
		units, vips = append(units, fmt.Sprintf("app@%d", i)), append(vips, vip)
		// The wait for answers is what would be done by all at once.
		l.Write(fmt.Sprintf("%sapp-%d.conflist", netDir, i), fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "app-%d", "plugins": [
			{"type": "macvlan-vip", "master": "eth0", "probe": {"count": 2, "intervalMs": 1000, "waitMs": 500}, "ipam": {"type": "static", "addresses": [{"address": "%s/22"}]}},
			{"type": "hairpin-route"}]}`, i, vip))
	}
	l.boot()
	before := l.M.Snapshot()
	l.Write("srv/count", "while sleep 0.02; do set -- $(pgrep -fx '/usr/local/libexec/macvlan-vip/systemd-netns-helper start .*'); echo $#; done >/srv/counted\n")
	l.Run(t, "systemd-run --unit=count sh /srv/count")
	l.Run(t, "systemctl start "+strings.Join(units, " "))
	l.Run(t, "systemctl stop count")
	cpus, err := strconv.Atoi(strings.TrimSpace(l.Run(t, "nproc")))
	if err != nil {
		t.Fatal(err)
	}
	l.Run(t, "sort -n -o /srv/counted /srv/counted")
	if most, err := strconv.Atoi(strings.TrimSpace(l.Run(t, "tail -n1 /srv/counted"))); err != nil || most == 0 || most > 8*cpus {
		t.Errorf("%d at a time on %d CPUs: %v", most, cpus, err)
	}
	for name, from := range l.Stations() {
		for _, vip := range []string{vips[0], vips[n/2], vips[n-1]} {
			testnet.Eventually(t, name+" pings "+vip, func() error { return from.Ping(netip.MustParseAddr(vip)) })
		}
	}
	// systemd may be too busy for an answer within 25 s, by when systemctl gives up.
	l.Run(t, "systemctl stop --no-block app@*")
	testnet.Within(t, 10*time.Minute, "systemd has no jobs", func() error {
		jobs, err := l.Try("systemctl list-jobs --no-legend")
		if err == nil && strings.TrimSpace(jobs) != "" {
			err = errors.New(jobs)
		}
		return err
	})
	l.gone(t, before)
}

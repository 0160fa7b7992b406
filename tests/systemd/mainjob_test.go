package systemd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

// TestMainJob is what the article promises, on one machine, in the order in
// which an operator would meet it.
func TestMainJob(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxy()
	l.run0(t, "systemctl --root=%s mask haproxy.service")
	l.boot()
	before := l.M.Snapshot()
	l.Run(t, "systemctl unmask haproxy.service")
	// The keeper asks a LAN of which it has heard nothing for two seconds again, which is logged.
	talking, silence := context.WithCancel(t.Context())
	defer silence()
	go func() {
		for talking.Err() == nil {
			_ = l.Peer.Ping(netip.MustParseAddr(hostAddr))
			time.Sleep(200 * time.Millisecond)
		}
	}()
	l.Run(t, "systemctl start haproxy")

	t.Run("validation", l.validation)
	t.Run("drop-in", l.dropIn)
	t.Run("journal", l.journalIsPlain)
	silence()
	t.Run("restart keeps netns and MAC", l.restart)
	t.Run("crash keeps netns and MAC", l.crash)
	t.Run("reload repairs under the running service", l.repair)
	t.Run("the namespace's name is removed", l.nameRemoved)
	t.Run("stop leaves nothing", func(t *testing.T) {
		// ip's own must not come to lie on top of ours.
		l.Run(t, "ip netns add other")
		l.Run(t, "ip netns delete other")
		l.Run(t, "systemctl stop haproxy")
		l.gone(t, before)
		l.Silent(t, vip1)
		l.says(t, "haproxy: removed mv0 172.16.26.1/22 172.16.26.2/22, network haproxy")
		l.says(t, "haproxy: removed mv-int, which no other service needs")
	})
	t.Run("start again", func(t *testing.T) {
		l.Run(t, "systemctl start haproxy")
		l.Serves(t, vip1, vip2)
	})
	t.Run("stop and start in a row", func(t *testing.T) {
		for range 5 {
			l.Run(t, "systemctl stop haproxy")
			// haproxy's own limit of starts is not what is tested.
			l.Run(t, "systemctl reset-failed haproxy")
			l.Run(t, "systemctl start haproxy")
		}
		l.Serves(t, vip1, vip2)
	})
	t.Run("final failure takes the VIPs down", func(t *testing.T) {
		l.Haproxy("this is no configuration")
		_, _ = l.Try("systemctl restart haproxy")
		l.WantState(t, "haproxy", "failed")
		l.gone(t, before)
		l.Silent(t, vip1)
		l.Haproxy("")
		l.Run(t, "systemctl reset-failed haproxy")
		l.Run(t, "systemctl start haproxy")
		l.Serves(t, vip1)
	})
	t.Run("skipped by a condition", func(t *testing.T) { l.condition(t, before) })
	t.Run("a shim that fails keeps the service off the host", func(t *testing.T) { l.shimFails(t, before) })
	t.Run("errors say the remedy", l.remedies)
	t.Run("a master that comes up late", func(t *testing.T) { l.masterLate(t) })
	t.Run("a predecessor that is long in leaving", func(t *testing.T) { l.predecessor(t) })
}

// predecessor: another station has a VIP for longer than a claim asks for it.
func (l *lab) predecessor(t *testing.T) {
	l.Run(t, "systemctl stop haproxy")
	// A start before it has stopped keeps it, with its VIPs.
	l.WantState(t, "systemd-netns@haproxy", "inactive")
	l.Peer.IP("address add " + vip1 + "/32 dev port")
	time.AfterFunc(4*time.Second, func() { l.Peer.IP("address del " + vip1 + "/32 dev port") })
	start := time.Now()
	l.Run(t, "systemctl start haproxy")
	if took := time.Since(start); took < 4*time.Second {
		t.Errorf("it was there after %s already", took)
	}
	l.says(t, "VIP "+vip1+" is in use by ")
	l.Serves(t, vip1, vip2)
}

// validation is the article's section of that name.
func (l *lab) validation(t *testing.T) {
	if out := l.Run(t, "ip netns list"); !strings.HasPrefix(out, "haproxy") {
		t.Errorf("ip netns: %q", out)
	}
	out := l.Run(t, "ip netns exec haproxy ip address show mv0")
	for _, want := range []string{"inet 172.16.26.1/22 ", "inet 172.16.26.2/22 ", ",UP,LOWER_UP>"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if got := listeners(l.Run(t, "ip netns exec haproxy ss -ntlH")); !slices.Equal(got, []string{vip1 + ":80", vip2 + ":80"}) {
		t.Errorf("haproxy listens on %q", got)
	}
	if got := listeners(l.Run(t, "ss -ntlH")); len(got) != 0 {
		t.Errorf("something listens on the host: %q", got)
	}
	if out := l.Run(t, "ip address show mv-int"); strings.Contains(out, "inet ") || !strings.Contains(out, ",UP,LOWER_UP>") {
		t.Errorf("mv-int:\n%s", out)
	}
	l.Run(t, "ping -c1 -W2 -I mv-int "+vip2)
	l.Serves(t, vip1, vip2)
	if got := l.Run(t, "ip netns exec haproxy sysctl -n net.ipv4.conf.mv0.forwarding net.ipv4.conf.mv0.arp_notify net.ipv4.conf.mv0.arp_announce net.ipv6.conf.mv0.use_tempaddr"); strings.Join(strings.Fields(got), " ") != "1 1 2 0" {
		t.Errorf("sysctls: %q", got)
	}
}

func listeners(ss string) []string {
	var all []string
	for _, line := range strings.Split(ss, "\n") {
		if fields := strings.Fields(line); len(fields) > 3 {
			all = append(all, fields[3])
		}
	}
	slices.Sort(all)
	return all
}

func (l *lab) dropIn(t *testing.T) {
	for _, want := range []string{"Slice=haproxy.slice", "PrivateTmp=yes", "CPUAccounting=yes", "IOAccounting=yes", "MemoryAccounting=yes", "TasksAccounting=yes", "NetworkNamespacePath=/run/netns/haproxy"} {
		key, _, _ := strings.Cut(want, "=")
		if got := l.Run(t, "systemctl show haproxy -p "+key); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := l.Run(t, "systemctl status haproxy --no-pager"); !strings.Contains(got, "haproxy.conf, netns.conf") || !strings.Contains(got, "active (running)") {
		t.Errorf("status:\n%s", got)
	}
	if got := l.Run(t, "readlink /proc/"+l.MainPID(t)+"/ns/net"); got == l.Run(t, "readlink /proc/1/ns/net") {
		t.Error("haproxy is in the host's netns")
	}
}

// journalIsPlain: a few lines say what was done, as the kernel has it, and
// cnitool's JSON and usage text are not there.
func (l *lab) journalIsPlain(t *testing.T) {
	out := l.Run(t, "journalctl --no-pager -o cat -t systemd-netns")
	mac := l.Run(t, "ip netns exec haproxy cat /sys/class/net/mv0/address")
	for _, want := range []string{
		"haproxy: 172.16.26.1/22 172.16.26.2/22 on mv0, network haproxy",
		"haproxy: mv0 on eth0, MAC " + mac,
		"haproxy: host reaches 172.16.26.1 172.16.26.2 through mv-int from 172.16.27.217",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no line %q in:\n%s", want, out)
		}
	}
	for _, noise := range []string{"{", "Usage", "Flags", "cniVersion"} {
		if strings.Contains(out, noise) {
			t.Errorf("%q in:\n%s", noise, out)
		}
	}
	if n := strings.Count(out, "\n") + 1; n > 4 {
		t.Errorf("%d lines for a start:\n%s", n, out)
	}
	if out := l.Run(t, "journalctl --no-pager -o cat -t systemd-netns -p notice"); out != "" {
		t.Errorf("more than information in the journal:\n%s", out)
	}
	if out := l.Run(t, "systemctl status systemd-netns@haproxy --no-pager"); !strings.Contains(out, `Status: "2 VIPs on mv0, network haproxy"`) || !strings.Contains(out, "host reaches") {
		t.Errorf("status:\n%s", out)
	}
}

// remedies: each error is one line at its level, and ends with what to do.
func (l *lab) remedies(t *testing.T) {
	l.Run(t, "systemctl stop haproxy")
	for name, c := range map[string]struct{ conflist, want string }{
		"no network":       {`{"cniVersion": "1.1.0", "name": "other", "plugins": [{"type": "macvlan-vip"}]}`, "network \"haproxy\": no such network in /etc/cni/net.d; give VIPs with --vip, as `systemd-netns enable SERVICE --vip 192.0.2.10/24`; or copy an example of /usr/local/share/macvlan-vip/conf there"},
		"no JSON":          {`{`, "/etc/cni/net.d/haproxy.conflist: unexpected end of JSON input; correct its JSON"},
		"no such plugin":   {`{"cniVersion": "1.1.0", "name": "haproxy", "plugins": [{"type": "nothing"}]}`, `failed to find plugin "nothing" in path [/usr/local/lib/macvlan-vip /opt/cni/bin]; install that plugin`},
		"no such master":   {`{"cniVersion": "1.1.0", "name": "haproxy", "plugins": [{"type": "macvlan-vip", "master": "eth7"}]}`, `master: "eth7": `},
		"an address taken": {`{"cniVersion": "1.1.0", "name": "haproxy", "plugins": [{"type": "macvlan-vip", "master": "eth0", "ipam": {"type": "static", "addresses": [{"address": "` + peerAddr + `/22"}]}}]}`, "use another VIP"},
	} {
		l.WantState(t, "systemd-netns@haproxy", "inactive")
		l.Write(netDir+"haproxy.conflist", c.conflist)
		l.Write("etc/systemd-netns/haproxy.env", "RETRY_SEC=1\n")
		if _, err := l.Try("systemctl start haproxy"); err == nil {
			t.Errorf("%s: the start succeeded", name)
		}
		out := l.Run(t, "journalctl --no-pager -o cat -t systemd-netns -p err -n 2")
		if !strings.Contains(out, c.want) || strings.Contains(out, "failed (add)") || strings.Contains(out, "Usage") {
			t.Errorf("%s: no %q in:\n%s", name, c.want, out)
		}
		l.Run(t, "systemctl reset-failed")
	}
	l.Run(t, "rm /etc/systemd-netns/haproxy.env")
	l.conflist("haproxy.conflist", "", "")
}

func (l *lab) restart(t *testing.T) {
	before, pid := l.identity(t, "haproxy"), l.MainPID(t)
	l.Run(t, "systemctl restart haproxy")
	if pid == l.MainPID(t) {
		t.Fatal("haproxy was not restarted")
	}
	if after := l.identity(t, "haproxy"); after != before {
		t.Errorf("netns and MAC %s became %s", before, after)
	}
	l.Serves(t, vip1, vip2)
}

func (l *lab) crash(t *testing.T) {
	before, pid := l.identity(t, "haproxy"), l.MainPID(t)
	l.Run(t, "kill -KILL "+pid)
	testnet.Eventually(t, "haproxy is back", func() error {
		if now := l.MainPID(t); now == pid || now == "0" {
			return fmt.Errorf("main PID %s", now)
		}
		return nil
	})
	l.Serves(t, vip1, vip2)
	if after := l.identity(t, "haproxy"); after != before {
		t.Errorf("netns and MAC %s became %s", before, after)
	}
}

// repair: what is missing is named, and put right, and the service stays.
func (l *lab) repair(t *testing.T) {
	pid := l.MainPID(t)
	// It would be faster, and does not look at what is missing first.
	l.Run(t, "systemctl stop systemd-netns-watch")
	defer l.Run(t, "systemctl start systemd-netns-watch")
	for _, damage := range []string{"link del mv-int", "link set mv-int down", "route flush table local proto 118", "neigh flush nud permanent dev mv-int"} {
		l.M.IP(damage)
		l.Run(t, "systemctl reload systemd-netns@haproxy")
		l.Serves(t, vip1, vip2)
	}
	if now := l.MainPID(t); now != pid {
		t.Error("haproxy was restarted")
	}
	journal := l.Run(t, "journalctl --no-pager -o cat -t systemd-netns")
	for _, line := range []string{"  host: link mv-int type macvlan mode bridge on eth0: missing", "  host: link mv-int: state is down, not up", "  host: route 172.16.26.1/32 dev mv-int table local metric 100 src 172.16.27.217: missing"} {
		if !strings.Contains(journal, line) {
			t.Errorf("no line %q in:\n%s", line, journal)
		}
	}
}

// nameRemoved: `ip netns delete` under a running service takes only the name;
// a reload gives it back, and a restart without it finds the way as well.
func (l *lab) nameRemoved(t *testing.T) {
	pid := l.MainPID(t)
	l.Run(t, "ip netns delete haproxy")
	l.Serves(t, vip1)
	l.Run(t, "systemctl reload systemd-netns@haproxy")
	if out := l.Run(t, "ip netns list"); !strings.HasPrefix(out, "haproxy") {
		t.Errorf("ip netns after the reload: %q", out)
	}
	if l.MainPID(t) != pid {
		t.Error("haproxy was restarted")
	}
	l.Serves(t, vip1, vip2)

	l.Run(t, "ip netns delete haproxy")
	l.Run(t, "systemctl reset-failed haproxy")
	_, _ = l.Try("systemctl restart haproxy")
	testnet.Eventually(t, "haproxy is restarted", func() error {
		state := l.State("haproxy")
		if state == "failed" {
			// A slow machine has used up systemd's five attempts before the name is back.
			_, _ = l.Try("systemctl reset-failed haproxy")
			_, _ = l.Try("systemctl start haproxy")
		}
		if state != "active" {
			return errors.New(state)
		}
		return nil
	})
	l.Serves(t, vip1, vip2)
	l.WantState(t, "haproxy", "active")

	l.Run(t, "ip netns delete haproxy")
	l.Run(t, "systemctl stop haproxy")
	l.WantState(t, "systemd-netns@haproxy", "inactive")
	l.Silent(t, vip1)
	l.Run(t, "systemctl reset-failed haproxy")
	l.Run(t, "systemctl start haproxy")
	l.Serves(t, vip1, vip2)
}

func (l *lab) condition(t *testing.T, before string) {
	l.Write(dropIns+"haproxy.service.d/condition.conf", "[Unit]\nConditionPathExists=/run/wanted\n")
	l.daemonReload(t)
	// While it runs, then as a restart, then as a start of its own.
	l.Serves(t, vip1)
	for _, verb := range []string{"restart", "start"} {
		l.Run(t, "systemctl "+verb+" haproxy")
		l.WantState(t, "systemd-netns@haproxy", "inactive")
		l.gone(t, before)
	}
	l.Silent(t, vip1)
	l.Run(t, "touch /run/wanted")
	l.Run(t, "systemctl start haproxy")
	l.Serves(t, vip1)
}

// shimFails: the service never runs on the host, the error is in the journal,
// and nothing is left.
func (l *lab) shimFails(t *testing.T, before string) {
	l.Run(t, "systemctl stop haproxy")
	// A start that follows a stop closely may find the shim still up.
	l.WantState(t, "systemd-netns@haproxy", "inactive")
	l.conflist("haproxy.conflist", `"master": "eth0"`, `"master": "eth0", "mode": "bad"`)
	if _, err := l.Try("systemctl start haproxy"); err == nil {
		t.Error("the start succeeded")
	}
	if out, _ := l.Try("pgrep haproxy"); out != "" {
		t.Errorf("haproxy runs: %s", out)
	}
	if got := l.State("haproxy"); got != "inactive" {
		t.Errorf("haproxy is %s", got)
	}
	l.gone(t, before)
	if out := l.Run(t, "journalctl --no-pager -o cat -t systemd-netns -n 3"); !strings.Contains(out, `mode: "bad": no such macvlan mode; use one of bridge`) {
		t.Errorf("journal:\n%s", out)
	}
	l.conflist("haproxy.conflist", "", "")
	l.Run(t, "systemctl reset-failed")
}

// masterLate: a start waits for a master that comes up while it does.
func (l *lab) masterLate(t *testing.T) {
	l.M.IP("link set eth0 down")
	started := make(chan error, 1)
	go func() {
		_, err := l.Try("systemctl start haproxy")
		started <- err
	}()
	testnet.Eventually(t, "the shim has said why it waits", func() error {
		if out := l.Run(t, "journalctl --no-pager -o cat -t systemd-netns -n 5"); !strings.Contains(out, `master: "eth0": the link is down`) {
			return fmt.Errorf("journal: %s", out)
		}
		return nil
	})
	l.M.IP("link set eth0 up")
	select {
	case err := <-started:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the start hangs")
	}
	l.Serves(t, vip1, vip2)
}

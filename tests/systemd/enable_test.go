package systemd

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const program = "/usr/local/bin/systemd-netns "

// refused runs a command that must fail, with words in what it says.
func (l *lab) refused(t *testing.T, command string, words ...string) {
	t.Helper()
	_, err := l.Try(command)
	if err == nil {
		t.Errorf("%s: no error", command)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: no %q in:\n%v", command, word, err)
		}
	}
}

// on asserts which network namespace a service's main process is in.
func (l *lab) on(t *testing.T, unit, netns string) {
	t.Helper()
	pid := l.Run(t, "systemctl show -p MainPID --value "+unit)
	its, want := l.Run(t, "stat -L -c %i /proc/"+pid+"/ns/net"), l.Run(t, "stat -L -c %i "+netns)
	if its != want {
		t.Errorf("%s is in namespace %s, not %s (%s)", unit, its, want, netns)
	}
}

const hostNetns = "/proc/1/ns/net"

// TestEnable: one command in, and one out, with nothing left.
func TestEnable(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.Haproxy("")
	// Until it has its VIPs, haproxy's configuration binds what is not there.
	l.Write("etc/sysctl.d/nonlocal.conf", "net.ipv4.ip_nonlocal_bind=1\n")
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	backend := "ExecStart=/usr/bin/socat TCP-LISTEN:80,fork,reuseaddr TCP:" + peerAddr + ":8080\n"
	for _, service := range []string{"one", "two", "app@"} {
		l.Write("usr/lib/systemd/system/"+service+".service", "[Service]\n"+backend)
	}
	l.Write("usr/lib/systemd/system/two.service", "[Service]\nExecStart=sleep infinity\n")
	l.Write("usr/lib/systemd/system/rare.service", "[Unit]\nStartLimitIntervalSec=60\nStartLimitBurst=1\n[Service]\nExecStart=sleep infinity\n")
	// The others start far more often than in real life.
	l.Write("etc/systemd/system.conf.d/often.conf", "[Manager]\nDefaultStartLimitIntervalSec=0\n")
	l.Write("usr/lib/systemd/system/web.socket", "[Socket]\nListenStream=80\n[Install]\nWantedBy=sockets.target\n")
	l.Write("usr/lib/systemd/system/web.service", "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd "+peerAddr+":8080\n")
	l.boot()
	before := l.M.Snapshot()

	t.Run("no network", func(t *testing.T) {
		l.refused(t, program+"enable haproxy", `network "haproxy"`, "/etc/cni/net.d", "/usr/local/share/macvlan-vip/conf")
	})
	l.conflist("haproxy.conflist", "", "")
	l.network("lan", "172.16.26.9/22")
	l.network("other", "172.16.26.9/22")
	files := l.etc(t)
	t.Run("a running service, and back", func(t *testing.T) {
		l.Run(t, "sysctl -q -w net.ipv4.ip_nonlocal_bind=1")
		l.Run(t, "systemctl start haproxy")
		l.on(t, "haproxy", hostNetns)
		for _, name := range []string{"haproxy", "haproxy.service"} {
			l.Run(t, program+"enable "+name)
			l.on(t, "haproxy", "/run/netns/haproxy")
			l.Serves(t, vip1, vip2)
		}
		if target := l.Run(t, "readlink /"+dropIns+"haproxy.service.d/netns.conf"); target != unitDir+"netns.conf" {
			t.Errorf("drop-in: %q", target)
		}
		if out := line(l.Run(t, program+"list"), "haproxy.service"); strings.Join(strings.Fields(out), " ") != "haproxy.service active haproxy haproxy 172.16.26.1/22 172.16.26.2/22" {
			t.Errorf("list: %q", out)
		}
		out := l.Run(t, program+"status haproxy")
		for _, want := range []string{"haproxy.service is active", "172.16.26.1/22 172.16.26.2/22 on mv0", "through mv-int from 172.16.27.217"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in status:\n%s", want, out)
			}
		}
		for range 2 { // the second has nothing to do
			l.Run(t, program+"disable haproxy --yes")
		}
		l.on(t, "haproxy", hostNetns)
		l.gone(t, before)
		l.untouched(t, files)
		l.Run(t, "systemctl stop haproxy")
	})
	t.Run("a socket-activated service", func(t *testing.T) {
		l.Run(t, "systemctl start web.socket")
		l.Run(t, program+"enable web --network lan --vip 172.16.26.3/22")
		if got := listeners(l.Run(t, "ss -ntlH")); len(got) != 0 {
			t.Errorf("the socket listens on the host: %q", got)
		}
		l.Serves(t, "172.16.26.3")
		l.Run(t, program+"disable web --yes")
		if got := listeners(l.Run(t, "ss -ntlH")); len(got) != 1 {
			t.Errorf("the socket does not listen on the host: %q", got)
		}
		l.Run(t, "systemctl stop web.socket web.service")
		l.gone(t, before)
		l.untouched(t, files)
	})
	t.Run("two in one namespace, and a template's instance", func(t *testing.T) {
		l.Run(t, "systemctl start one")
		l.Run(t, program+"enable one --in front --network lan --vip 172.16.26.4/22 --vip fd26::4/64")
		l.Run(t, program+"enable two --in front")
		l.Run(t, program+"enable --network=lan --vip=172.16.26.5/22 app@1")
		l.Run(t, "systemctl start two app@1")
		l.on(t, "one", "/run/netns/front")
		l.on(t, "two", "/run/netns/front")
		l.on(t, "app@1", "/run/netns/app@1")
		l.Serves(t, "172.16.26.4", "172.16.26.5")
		l.refused(t, program+"set one --add-vip 172.16.26.5/22", "everything was rolled back")
		l.says(t, `VIP 172.16.26.5: namespace app@1 of network "lan" on this host owns it`)
		l.Run(t, program+"disable one --yes")
		l.on(t, "one", hostNetns)
		l.on(t, "two", "/run/netns/front")
		l.Run(t, "systemctl stop one")
		l.Run(t, program+"disable two --yes")
		l.on(t, "two", hostNetns)
		l.Run(t, program+"disable app@1 --yes")
		l.Run(t, "systemctl stop two app@1")
		l.gone(t, before)
		l.untouched(t, files)
	})
	t.Run("a service that is in one already", func(t *testing.T) {
		l.Run(t, "systemctl start one")
		l.Run(t, program+"enable one --in front --network lan --vip 172.16.26.4/22")
		l.Run(t, program+"enable two --in front")
		l.Run(t, "systemctl start two")
		in := l.etc(t)
		for _, wish := range []string{"--in front", "--in back --network lan"} {
			l.refused(t, program+"enable one --yes "+wish+" --vip "+hostAddr+"/22", "the host itself has it", "rolled back")
			l.untouched(t, in)
			l.on(t, "one", "/run/netns/front")
			l.on(t, "two", "/run/netns/front")
			l.Serves(t, "172.16.26.4")
		}
		l.Run(t, program+"enable one --in front --vip 172.16.26.6/22 --yes")
		l.on(t, "two", "/run/netns/front")
		l.Serves(t, "172.16.26.6")
		l.Silent(t, "172.16.26.4")
		l.Run(t, "systemctl stop two")
		l.Run(t, program+"disable two --yes")
		l.Run(t, program+"enable one --in back --network lan --vip 172.16.26.7/22")
		l.on(t, "one", "/run/netns/back")
		l.Serves(t, "172.16.26.7")
		l.Silent(t, "172.16.26.6")
		if names := l.Run(t, "ip netns list"); !strings.HasPrefix(names, "back") || strings.Contains(names, "\n") {
			t.Errorf("namespaces: %s", names)
		}
		l.Run(t, program+"disable one --yes")
		l.Run(t, "systemctl stop one")
		l.gone(t, before)
		l.untouched(t, files)
	})
	t.Run("a person's lines in a file that enable wrote", func(t *testing.T) {
		const env = "etc/systemd-netns/one.env"
		l.Run(t, "systemctl start one")
		l.Run(t, program+"enable one --network lan --vip 172.16.26.4/22")
		text := l.Run(t, "cat /"+env) + "\n# The switch is slow.\nRETRY_SEC=20\nCNI_IFNAME=vip0\n"
		l.Write(env, strings.Replace(text, "{", `{"note": "mine", `, 1))
		l.Run(t, "systemctl restart systemd-netns@one")
		l.Run(t, program+"set one --add-vip 172.16.26.5/22")
		want := strings.Replace(text, `["172.16.26.4/22"]`, `["172.16.26.4/22","172.16.26.5/22"],"note":"mine"`, 1)
		if diff := cmp.Diff(strings.TrimSpace(want), l.Run(t, "cat /"+env)); diff != "" {
			t.Errorf("%s: %s", env, diff)
		}
		l.Serves(t, "172.16.26.4", "172.16.26.5")
		l.Run(t, program+"disable one --yes")
		l.Run(t, "systemctl stop one")
		l.gone(t, before)
		l.untouched(t, files)
	})
	t.Run("refusals", func(t *testing.T) {
		l.refused(t, program+"enable nothing", "nothing.service", "no such unit")
		l.refused(t, program+"enable ../haproxy", "not a valid unit name")
		l.refused(t, program+"enable app@", "instances")
		l.refused(t, program+"enable one --network haproxy --vip 172.16.26.4/22", `"ips": true`)
		l.refused(t, program+"enable one --network lan --vip 172.16.26.4", "prefix length")
		l.refused(t, program+"status one", "in no namespace", "systemd-netns enable one")
		l.untouched(t, files)
	})
	t.Run("a start that fails leaves the service as it was", func(t *testing.T) {
		l.Run(t, "systemctl start one")
		l.refused(t, program+"enable one --network lan --vip "+hostAddr+"/22", "the host itself has it")
		l.on(t, "one", hostNetns)
		l.gone(t, before)
		l.untouched(t, files)
		l.Run(t, "systemctl stop one")
	})
	t.Run("the same if it may not start again so soon", func(t *testing.T) {
		l.Run(t, "systemctl start rare")
		l.refused(t, program+"enable rare --network lan --vip "+hostAddr+"/22", "the host itself has it")
		l.on(t, "rare", hostNetns)
		l.untouched(t, files)
		l.Run(t, "systemctl stop rare")
	})
	t.Run("an administrator's files", func(t *testing.T) {
		const env, dropIn = "etc/systemd-netns/one.env", dropIns + "one.service.d/netns.conf"
		l.Write(env, "NETWORK=other\n")
		l.refused(t, program+"enable one --network lan --vip 172.16.26.4/22", "/"+env, "NETWORK=lan")
		l.Write(dropIn, "[Service]\nNice=1\n")
		files := l.etc(t)
		l.refused(t, program+"enable one", "/"+dropIn)
		l.untouched(t, files)
	})
}

// etc lists an administrator's files, with their modes, owners and content.
func (l *lab) etc(t *testing.T) string {
	t.Helper()
	which := "find /etc -path /etc/systemd* -o -path /etc/cni* "
	names := strings.Split(l.Run(t, strings.ReplaceAll(which, " -o", ` -printf %p:%y:%l:%m:%u:%g\n -o`)+`-printf %p:%y:%l:%m:%u:%g\n`), "\n")
	slices.Sort(names)
	return strings.Join(names, "\n") + "\n" + l.Run(t, "find /etc -path /etc/systemd* -type f -exec md5sum {} + -o -path /etc/cni* -type f -exec md5sum {} +")
}

func (l *lab) untouched(t *testing.T, before string) {
	t.Helper()
	if diff := cmp.Diff(before, l.etc(t)); diff != "" {
		t.Errorf("files: %s", diff)
	}
}

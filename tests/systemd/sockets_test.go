package systemd

import (
	"strings"
	"testing"
)

// TestSockets: a service's sockets go with it, whether systemd has loaded them or not, as
// one that is installed and neither enabled nor started.
func TestSockets(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t)
	const proxy = "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd " + peerAddr + ":8080\n"
	units := map[string]string{
		"web.socket":   "[Socket]\nListenStream=80\n",
		"admin.socket": "[Socket]\nListenStream=81\nService=web.service\n",
		"web.service":  proxy,
	}
	install := func(t *testing.T) {
		t.Helper()
		for name, text := range units {
			l.Write("usr/lib/systemd/system/"+name, text)
		}
	}
	install(t)
	l.Write("usr/lib/systemd/system/near@.socket", "[Socket]\nListenStream=80\n")
	l.Write("usr/lib/systemd/system/near@.service", proxy)
	// Of another service, which stays.
	l.Write("usr/lib/systemd/system/two.socket", "[Socket]\nListenStream=82\n")
	l.up()
	l.withoutDNS()
	before, files := l.M.Snapshot(), l.etc(t)
	offHost := func(t *testing.T) {
		t.Helper()
		if got := listeners(l.Run(t, "ss -ntlH")); len(got) != 0 {
			t.Errorf("the host listens: %q", got)
		}
		if body, err := l.Peer.Page(hostAddr); err == nil {
			t.Errorf("a LAN peer gets %q from the host's own address", body)
		}
	}

	disabled := func(t *testing.T, service string) {
		t.Helper()
		l.Run(t, program+"disable "+service+" --yes")
		l.gone(t, before)
		l.untouched(t, files)
	}
	for _, c := range []struct{ name, service, sockets string }{
		{"those that are not loaded", "web", "web.socket admin.socket"},
		{"that of a template's instance", "near@1", "near@1.socket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.Run(t, program+"enable "+c.service+" --vip 172.16.26.4/22")
			l.Run(t, "systemctl start "+c.sockets)
			offHost(t)
			l.Serves(t, "172.16.26.4")
			l.Run(t, "systemctl stop "+c.sockets+" "+c.service+".service")
			disabled(t, c.service)
		})
	}
	t.Run("a service that waits for its socket", func(t *testing.T) {
		l.Run(t, "systemctl start web.socket")
		out := l.Run(t, program+"enable web --vip 172.16.26.4/22")
		if strings.Contains(out, "systemctl start") || !strings.Contains(out, "172.16.26.4/22 on mv0") {
			t.Errorf("enable: %s", out)
		}
		l.wantStatus(t, 0, program+"check web")
		l.WantState(t, "web.service", "inactive")
		if f := l.finding(t, "web", "service"); !f.OK || f.Detail != "inactive; web.socket starts it" || f.Remedy != "" {
			t.Errorf("%+v", f)
		}
		l.Serves(t, "172.16.26.4")
		l.Run(t, "systemctl stop web.socket web.service")
		if f := l.finding(t, "web", "service"); f.OK || !strings.Contains(f.Detail, "silent") {
			t.Errorf("without a socket that listens: %+v", f)
		}
		disabled(t, "web")
	})
	t.Run("masked", func(t *testing.T) {
		l.Run(t, program+"enable web --vip 172.16.26.4/22")
		l.Run(t, "systemctl mask web.socket admin.socket")
		l.Run(t, program+"disable web --yes")
		l.Run(t, "systemctl unmask web.socket admin.socket")
		l.untouched(t, files)
	})
	t.Run("the package is gone", func(t *testing.T) {
		for _, options := range []string{"", "--in front "} {
			l.Run(t, program+"enable two --vip 172.16.26.5/22 "+options)
			in := l.etc(t)
			l.Run(t, program+"enable web --vip 172.16.26.4/22 --yes "+options)
			for name := range units {
				l.Run(t, "rm /usr/lib/systemd/system/"+name)
			}
			l.daemonReload(t)
			l.Run(t, program+"disable web --yes")
			if options == "" {
				l.untouched(t, in)
			} else if out := l.Run(t, "find /etc/systemd/system -name *.socket.d -printf %f\\n"); strings.Contains(out, "web") || !strings.Contains(out, "two.socket.d") {
				t.Errorf("sockets that are still in the namespace: %s", out)
			}
			l.Run(t, program+"disable two --yes")
			l.untouched(t, files)
			install(t)
			l.daemonReload(t)
			l.Run(t, "systemctl start web.socket")
			if got := listeners(l.Run(t, "ss -ntlH")); len(got) != 1 || !strings.HasSuffix(got[0], ":80") {
				t.Errorf("the host listens: %q", got)
			}
			l.Run(t, "systemctl stop web.socket web.service")
			l.gone(t, before)
		}
	})
	t.Run("left behind when everything else is gone", func(t *testing.T) {
		l.link("web.socket.d/netns.conf", unitDir+"netns-socket.conf")
		for name := range units {
			l.Run(t, "rm /usr/lib/systemd/system/"+name)
		}
		l.daemonReload(t)
		l.Run(t, program+"disable web --yes")
		l.untouched(t, files)
		install(t)
		l.daemonReload(t)
	})
}

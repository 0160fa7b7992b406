package systemd

import "testing"

// TestSockets: a service's sockets go with it, whether systemd has loaded them or not, as
// one that is installed and neither enabled nor started.
func TestSockets(t *testing.T) {
	t.Parallel()
	l := newCommandLab(t)
	const proxy = "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd " + peerAddr + ":8080\n"
	for name, text := range map[string]string{
		"web.socket":    "[Socket]\nListenStream=80\n",
		"admin.socket":  "[Socket]\nListenStream=81\nService=web.service\n",
		"web.service":   proxy,
		"near@.socket":  "[Socket]\nListenStream=80\n",
		"near@.service": proxy,
	} {
		l.Write("usr/lib/systemd/system/"+name, text)
	}
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

	t.Run("one that is not loaded", func(t *testing.T) {
		l.Run(t, program+"enable web --vip 172.16.26.4/22")
		l.Run(t, "systemctl start web.socket admin.socket")
		offHost(t)
		l.Serves(t, "172.16.26.4")
		l.Run(t, "systemctl stop web.socket admin.socket web.service")
		l.Run(t, program+"disable web --yes")
		l.gone(t, before)
		l.untouched(t, files)
	})
	t.Run("that of a template's instance", func(t *testing.T) {
		l.Run(t, program+"enable near@1 --vip 172.16.26.4/22")
		l.Run(t, "systemctl start near@1.socket")
		offHost(t)
		l.Serves(t, "172.16.26.4")
		l.Run(t, "systemctl stop near@1.socket near@1.service")
		l.Run(t, program+"disable near@1 --yes")
		l.gone(t, before)
		l.untouched(t, files)
	})
}

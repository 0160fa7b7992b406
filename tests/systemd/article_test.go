package systemd

import "testing"

// articlesDropIn joins the shim's namespaces as the article's does.
const articlesDropIn = `[Unit]
BindsTo = systemd-netns@haproxy.service
After = systemd-netns@haproxy.service
JoinsNamespaceOf = systemd-netns@haproxy.service

[Service]
PrivateNetwork = true
PrivateTmp = true
`

// TestArticlesDropIn: it keeps no service from its namespace, and by itself puts none on the
// host's network.
func TestArticlesDropIn(t *testing.T) {
	t.Parallel()
	l := newLab(t).withHaproxyDisabled()
	l.Write(dropIns+"haproxy.service.d/article.conf", articlesDropIn)
	l.boot()
	before := l.M.Snapshot()
	l.Run(t, "systemctl start haproxy")
	l.on(t, "haproxy", "/run/netns/haproxy")
	l.Serves(t, vip1, vip2)
	l.Run(t, "systemctl stop haproxy")
	l.gone(t, before)

	l.Run(t, "rm /"+dropIns+"haproxy.service.d/netns.conf")
	l.daemonReload(t)
	l.Run(t, "sysctl -q -w net.ipv4.ip_nonlocal_bind=1")
	if out, err := l.Try("systemctl start haproxy"); err == nil {
		t.Errorf("haproxy starts on addresses that its namespace has not: %s", out)
	}
	if got := listeners(l.Run(t, "ss -ntlH")); len(got) != 0 {
		t.Errorf("something listens on the host: %q", got)
	}
}

package systemd

import (
	"path/filepath"
	"strings"
	"testing"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/page"
)

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
	if out := l.Run(t, program+"list"); !strings.Contains(out, "haproxy.service") {
		t.Errorf("list: %s", out)
	}
	l.Run(t, "sed -i s/172.16.26.[12]:80/:80/ /etc/haproxy/haproxy.cfg")
	l.Run(t, "systemctl start haproxy")
	if got := listeners(l.Run(t, "ss -ntlH")); len(got) != 0 {
		t.Errorf("something listens on the host: %q", got)
	}
	if f := l.finding(t, "haproxy", "drop-in"); f.OK || !strings.Contains(f.Detail+f.Remedy, "JoinsNamespaceOf=") {
		t.Errorf("check: %+v", f)
	}
	l.refused(t, program+"enable haproxy", "/etc/systemd/system/haproxy.service.d/article.conf", "JoinsNamespaceOf=")
}

// articlesUnits have the article's names, and make what its units make.
var articlesUnits = map[string]string{"systemd-netns@.service": `[Unit]
Description=A namespace of its own
BindsTo=systemd-netns-access@%i.service
PartOf=%i.service

[Service]
Type=oneshot
RemainAfterExit=yes
PrivateNetwork=yes
ExecStart=install -D /dev/null /run/netns/%i
ExecStart=mount --bind /proc/self/ns/net /run/netns/%i
ExecStop=ip netns delete %i

[Install]
WantedBy=multi-user.target
`, "systemd-netns-access@.service": `[Unit]
Description=Its links
BindsTo=systemd-netns@%i.service
After=systemd-netns@%i.service
Before=%i.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh /usr/local/bin/ns-%i

[Install]
WantedBy=multi-user.target
`}

// TestFromTheArticle: the page's way from the article's own files, whose units hide ours.
func TestFromTheArticle(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.Haproxy("")
	l.run0(t, "systemctl --root=%s disable haproxy.service")
	for name, text := range articlesUnits {
		l.Write(dropIns+name, text)
	}
	l.Write(dropIns+"haproxy.service.d/haproxy.conf", articlesDropIn)
	l.Write("usr/local/bin/ns-haproxy", `set -e
ip link add mv-int up link eth0 type macvlan mode bridge
ip link add mv0 netns haproxy link eth0 type macvlan mode bridge
ip -n haproxy link set lo up
ip -n haproxy link set mv0 up
for vip in `+vip1+" "+vip2+`; do
	ip -n haproxy address add $vip/22 dev mv0
	ip route add $vip dev mv-int metric 100 table local
done
`)
	l.boot()
	if l.M.Systemd(t) >= 254 {
		t.Skip("the article's units do not work: PrivateNetwork= gives them a mount namespace")
	}
	before := l.M.Snapshot()
	l.Run(t, "systemctl enable systemd-netns@haproxy systemd-netns-access@haproxy")
	l.Run(t, "systemctl start haproxy")
	l.on(t, "haproxy", "/run/netns/haproxy")
	const hidden = "/etc/systemd/system/systemd-netns@.service"
	l.refused(t, program+"enable haproxy --vip "+vip1+"/22", hidden)
	if f := l.finding(t, "haproxy", "drop-in"); f.OK || !strings.Contains(f.Detail, hidden) {
		t.Errorf("check: %+v", f)
	}
	top, err := machine.Top()
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := page.Blocks(filepath.Join(top, "systemd", "README.md"), "From the article's own files", "sh")
	if err != nil {
		t.Fatal(err)
	}
	for command := range strings.Lines(blocks[0]) {
		l.Run(t, command)
	}
	l.Serves(t, vip1, vip2)
	l.on(t, "haproxy", "/run/netns/haproxy")
	if out := l.Run(t, program+"list"); !strings.Contains(out, vip1+"/22 "+vip2+"/22") {
		t.Errorf("list: %s", out)
	}

	l.Write("usr/local/bin/ns-haproxy", "sysctl -w net.ipv4.ip_default_ttl=77\n")
	l.Write(dropIns+"systemd-netns@haproxy.service.d/local.conf", "[Service]\nExecStartPost=+ip netns exec %i sh /usr/local/bin/ns-haproxy start\n")
	l.daemonReload(t)
	l.Run(t, "systemctl restart systemd-netns@haproxy")
	if out := l.Run(t, "ip netns exec haproxy sysctl -n net.ipv4.ip_default_ttl"); out != "77" {
		t.Errorf("the namespace after the drop-in's command: %s", out)
	}
	l.Serves(t, vip1)
	l.Run(t, "systemctl stop haproxy")
	l.Run(t, program+"disable haproxy --yes")
	l.gone(t, before)
}

package docs

import (
	"fmt"
	"strings"
	"testing"
)

// sysAttack is an attack that systemd itself keeps a service from since 254: it
// mounts a /sys of the service's own namespace (systemd.exec(5),
// "NetworkNamespacePath=").
const sysAttack = "set the host's MTU through /sys"

// attacks are what root in a service does to get out of its namespace, or to
// reach what is the host's through it; each fails where it is kept from it.
var attacks = map[string]string{
	"enter the host's namespace":        "nsenter --net=/proc/1/ns/net ip link show mv-int",
	"enter a namespace by its name":     "nsenter --net=/run/netns/haproxy true",
	"have systemd run something":        "test -n \"$(systemd-run --quiet --wait --pipe ip -o link show mv-int)\"",
	sysAttack:                           "echo 1400 >/sys/class/net/eth0/mtu; echo 1500 >/sys/class/net/eth0/mtu",
	"write a record":                    "touch /run/cni/macvlan-vip/forged; rm /run/cni/macvlan-vip/forged",
	"write a record of the shim":        "touch /var/lib/systemd-netns/forged; rm /var/lib/systemd-netns/forged",
	"give others a resolv.conf":         "mkdir /run/systemd-netns/forged; rmdir /run/systemd-netns/forged",
	"leave the host a unit":             "touch /run/systemd/system/forged.service; rm /run/systemd/system/forged.service",
	"leave the host a udev rule":        "touch /run/udev/rules.d/forged.rules; rm /run/udev/rules.d/forged.rules",
	"leave the host a cron job":         "touch /var/spool/cron/crontabs/forged; rm /var/spool/cron/crontabs/forged",
	"leave root a key":                  "touch /root/.ssh/authorized_keys",
	"ask root's own systemd":            "socat -u OPEN:/dev/null UNIX-CONNECT:/run/user/0/private",
	"ask a container runtime":           "socat -u OPEN:/dev/null UNIX-CONNECT:/run/docker.sock",
	"restart the host":                  "test $((0x$(sed -n 's/CapBnd:.//p' /proc/self/status) >> 22 & 1)) = 1 # CAP_SYS_BOOT",
	"open a packet socket":              "timeout 1 tcpdump -i mv0 -w /dev/null || test $? = 124",
	"add an address":                    "ip address add 172.16.26.99/22 dev mv0; ip address del 172.16.26.99/22 dev mv0",
	"take another MAC":                  "ip link set mv0 address 02:00:5e:00:53:99; ip link set mv0 address $(cat /root/mac)",
	"make a macvlan of mode source":     "ip link add link mv0 name spy type macvlan mode source; ip link del spy",
	"set a sysctl of its own namespace": "sysctl -qw net.ipv4.conf.mv0.arp_announce=2",
	"make a namespace of its own":       "unshare --net true",
}

// TestThreats: with all its capabilities root in a service gets out of its
// namespace in every way that the threat model names, and with
// netns-hardened.conf in none; Debian's haproxy works with that, too.
func TestThreats(t *testing.T) {
	l := newLab(t)
	l.install(t)
	l.Serves(t, vip)
	// As on a machine of metal: nspawn leaves /sys for reading alone.
	l.must(t, "mkdir /run/sys; mount -t sysfs sysfs /run/sys; mount -o remount,rw /run/sys; mount --rbind /sys/fs/cgroup /run/sys/fs/cgroup; mount --rbind /run/sys /sys")
	l.must(t, "ip netns exec haproxy ip -o link show mv0 | sed 's,.*link/ether \\([^ ]*\\).*,\\1,' >/root/mac")
	l.lock(t)
	l.must(t, "mkdir -p /run/systemd/system /run/udev/rules.d /var/spool/cron/crontabs /root/.ssh /run/user/0")
	for _, socket := range []string{"/run/user/0/private", "/run/docker.sock"} {
		l.must(t, "systemd-run --quiet socat UNIX-LISTEN:"+socket+",fork OPEN:/dev/null; for i in $(seq 50); do test -S "+socket+" && break; sleep 0.1; done")
	}
	dropIn := l.must(t, "sed s/%N/haproxy/g /usr/local/lib/systemd/system/netns.conf")
	l.Write("etc/systemd/system/attack@.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -eux /root/attack-%i\n")
	l.Write("etc/systemd/system/attack@.service.d/netns.conf", dropIn)
	numbers := map[string]int{}
	for name, script := range attacks {
		numbers[name] = len(numbers)
		l.Write(fmt.Sprintf("root/attack-%d", numbers[name]), script+"\n")
	}
	l.must(t, "systemctl daemon-reload")
	try := func(name string) error {
		_, err := l.sh(fmt.Sprintf("systemctl start attack@%d", numbers[name]))
		return err
	}
	systemd := l.M.Systemd(t)
	for name := range attacks {
		want := name != sysAttack || systemd < 254
		if err := try(name); (err == nil) != want {
			log, _ := l.sh(fmt.Sprintf("journalctl --no-pager -o cat -u attack@%d", numbers[name]))
			t.Errorf("root with all capabilities, to %s: %v, which is not what the page says: %s", name, err, log)
		}
	}
	before := l.must(t, "systemd-analyze security haproxy --no-pager | tail -1")

	l.must(t, `for s in haproxy attack@; do
		mkdir -p /etc/systemd/system/$s.service.d
		ln -s /usr/local/lib/systemd/system/netns-hardened.conf /etc/systemd/system/$s.service.d/
	done
	systemctl daemon-reload; systemctl reset-failed
	systemctl reload systemd-netns@haproxy; systemctl restart haproxy`)
	for name := range attacks {
		if err := try(name); err == nil {
			t.Errorf("with netns-hardened.conf root can %s", name)
		}
	}
	l.Serves(t, vip)
	l.must(t, "systemctl reload haproxy")
	l.Serves(t, vip)
	l.works(t)
	after := l.must(t, "systemd-analyze security haproxy --no-pager | tail -1")
	t.Logf("haproxy without netns-hardened.conf: %s; with it: %s", strings.TrimSpace(before), strings.TrimSpace(after))
	if before == after {
		t.Error("systemd sees no difference")
	}
	l.must(t, "systemctl stop haproxy")
	l.Silent(t, vip)
	if out := l.must(t, "ip netns list; find /run/cni -type f"); out != "" {
		t.Errorf("left: %s", out)
	}
}

// lock: an ordinary user can read the names of namespaces, as where ip(8) has made their
// folder, so can lock it, as ip does; services start nevertheless, even in the short time in
// which ip and the shim take the lock themselves, because the folder is no mount yet.
func (l *lab) lock(t *testing.T) {
	t.Helper()
	const nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups "
	if out := l.must(t, nobody+"ip netns list"); !strings.Contains(out, "haproxy") {
		t.Errorf("`ip netns list` of an ordinary user: %q", out)
	}
	const locked = "! flock --nonblock /run/netns true"
	// Below the shim's own file system is a folder that nobody else can open, unless ip made it.
	for _, before := range []string{"true", "umount --lazy /run/netns; chmod 755 /run/netns"} {
		l.must(t, "systemctl stop haproxy systemd-netns@haproxy; "+before)
		l.must(t, "systemd-run --quiet --unit=locker --uid=65534 flock /run/netns sleep infinity; for i in $(seq 50); do "+locked+" && break; sleep 0.1; done; "+locked)
		l.must(t, "timeout 20 systemctl start haproxy")
		l.must(t, "systemctl stop locker")
		l.Serves(t, vip)
		l.must(t, "test \"$(findmnt -no PROPAGATION /run/netns)\" = shared")
	}
}

// works asserts that what a service needs of systemd is there with netns-hardened.conf: the
// sockets of journal and notifications, a folder in /run, a credential.
func (l *lab) works(t *testing.T) {
	t.Helper()
	credential := "LoadCredential=name:/etc/hostname\nExecStartPre=/bin/sh -eux -c 'test -s \"$CREDENTIALS_DIRECTORY/name\"'\n"
	if l.M.Systemd(t) < 250 {
		credential = "" // In nspawn no service with mounts of its own gets one.
	}
	l.Write("etc/systemd/system/haproxy.service.d/zz-needs.conf", "[Service]\n"+credential+`RuntimeDirectory=needs
ExecStartPre=/bin/sh -eux -c 'touch /run/needs/it; logger -t needs "it is heard"'
`)
	l.must(t, `systemctl daemon-reload; systemctl restart haproxy; journalctl --sync
		test "$(systemctl show -p Type --value haproxy)" = notify
		journalctl -t needs --no-pager -o cat | grep -qx "it is heard"
		rm /etc/systemd/system/haproxy.service.d/zz-needs.conf; systemctl daemon-reload; systemctl restart haproxy`)
	l.Serves(t, vip)
}

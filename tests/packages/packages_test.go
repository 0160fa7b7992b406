package packages

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

// manager is a package manager, as an operator calls it in the machine.
type manager struct {
	kind                           string
	install, upgrade               string
	remove, purge, installed, list string
}

// managers are the machine's.
func (l *lab) managers() []manager {
	// Debian's rpm knows of no other package, so it must be told not to look.
	flags := "--nodeps "
	if _, err := l.Try("rpm --force-debian --version"); err == nil {
		flags += "--force-debian "
	}
	return []manager{debian, {
		kind: "rpm", install: "rpm --install " + flags, upgrade: "rpm --upgrade " + flags,
		remove: "rpm --erase " + flags + "macvlan-vip", purge: "rpm --erase " + flags + "macvlan-vip",
		installed: "rpm --query --queryformat=ii%{VERSION}-%{RELEASE} macvlan-vip", list: "rpm --query --list macvlan-vip",
	}}
}

var debian = manager{
	kind: "deb", install: "apt-get install -y -qq ", upgrade: "apt-get install -y -qq ",
	remove: "apt-get remove -y -qq macvlan-vip", purge: "apt-get purge -y -qq macvlan-vip",
	installed: "dpkg-query --show --showformat=${db:Status-Abbrev}${Version} macvlan-vip", list: "dpkg -L macvlan-vip",
}

// TestPackages makes packages of two versions and lives with them on one machine.
func TestPackages(t *testing.T) {
	made := build(t, older, "022")
	t.Run("reproducible", func(t *testing.T) { reproducible(t, made) })
	t.Run("licences", func(t *testing.T) { licences(t, made["deb"]) })
	t.Run("lintian", func(t *testing.T) { lintian(t, made["deb"]) })
	next := build(t, newer, "022")
	l := newLab(t)
	t.Run("same contents", func(t *testing.T) { l.sameContents(t, made) })
	for _, mgr := range l.managers() {
		t.Run(mgr.kind, func(t *testing.T) { l.life(t, mgr, made[mgr.kind], next[mgr.kind]) })
	}
}

// sameContents: what differs is how each distribution takes licence,
// changelog and lint.
func (l *lab) sameContents(t *testing.T, made map[string]string) {
	root := t.TempDir()
	unpack := exec.Command("sh", "-c", `dpkg-deb -x "$1" "$2" && cd "$2" && find . -type f -printf '/%P 0%m ' -exec sha256sum {} \;`, "sh", made["deb"], root)
	out, err := unpack.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	deb := shared(string(out))
	dump := l.Run(t, "rpm --query --package --queryformat=[%{FILENAMES}\\t%{FILEMODES:octal}\\t%{FILEDIGESTS}\\n] "+l.copyIn(t, made["rpm"]))
	rpm := shared(strings.ReplaceAll(dump, "\t100", "\t0"))
	if len(deb) < 25 || !slices.Equal(deb, rpm) {
		t.Errorf("deb:\n%s\nrpm:\n%s", strings.Join(deb, "\n"), strings.Join(rpm, "\n"))
	}
}

// shared sorts lines of path, mode and digest, but for those of one kind of
// package alone.
func shared(lines string) []string {
	var all []string
	for line := range strings.Lines(lines) {
		fields := strings.Fields(line)
		if len(fields) < 3 || strings.HasPrefix(fields[0], "/usr/share/lintian/") ||
			strings.HasPrefix(fields[0], "/usr/share/licenses/") || strings.HasSuffix(fields[0], "/changelog.Debian.gz") {
			continue
		}
		// Debian has a folder of its own for what packages bring zsh.
		fields[0] = strings.Replace(fields[0], "/zsh/vendor-completions/", "/zsh/site-functions/", 1)
		all = append(all, strings.Join(fields[:3], " "))
	}
	slices.Sort(all)
	return all
}

// lintian finds nothing, and no override is for nothing.
func lintian(t *testing.T, deb string) {
	out, err := exec.Command("lintian", "--allow-root", "--fail-on=error,warning", "--tag-display-limit=0", "--display-level=>=info", deb).CombinedOutput()
	if err != nil || strings.Contains(string(out), "override") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// life is a package's, from its installation to its purge.
func (l *lab) life(t *testing.T, mgr manager, first, second string) {
	before, links := l.traces(t), l.M.Snapshot()
	// Without this, systemd-networkd manages no link here.
	const all = "etc/systemd/network/80-all.network"
	l.Write(all, "[Match]\nName=mv-*\n[Network]\nLinkLocalAddressing=no\n")
	l.Run(t, "systemctl start systemd-networkd")
	l.Run(t, mgr.install+l.copyIn(t, first))
	l.leftAlone(t)
	l.Run(t, "rm /"+all)
	l.Run(t, "systemctl stop systemd-networkd.service systemd-networkd.socket")
	l.wantInstalled(t, mgr, older)
	l.verifyUnits(t)
	l.manuals(t)

	// As the README says, with the package's paths.
	l.Run(t, "mkdir -p /etc/cni/net.d /etc/systemd/system/haproxy.service.d")
	l.Run(t, "cp /usr/share/macvlan-vip/conf/haproxy.conflist /etc/cni/net.d/")
	l.Run(t, "ln -s /usr/lib/systemd/system/netns.conf /etc/systemd/system/haproxy.service.d/")
	l.Run(t, "systemctl daemon-reload")
	l.Run(t, "systemctl restart haproxy")
	l.Serves(t, testlab.VIP1, testlab.VIP2)
	l.wantInside(t)

	t.Run("refused while in use", func(t *testing.T) { l.refused(t, mgr) })
	t.Run("upgrade", func(t *testing.T) { l.upgrade(t, mgr, second) })

	l.Run(t, "systemctl stop haproxy")
	testnet.Eventually(t, "the host is as before", func() error {
		if now := l.M.Snapshot(); now != links {
			return fmt.Errorf("before:\n%s\nnow:\n%s", links, now)
		}
		// A shim that has not quite ended is in use.
		if state, _ := l.Try("systemctl is-active systemd-netns@haproxy"); state != "inactive" {
			return fmt.Errorf("the shim is %s", state)
		}
		return nil
	})
	t.Run("what a failed stop leaves", func(t *testing.T) {
		const plugin, away = "/opt/cni/bin/hairpin-route", "/root/hairpin-route"
		l.Run(t, "systemctl start haproxy")
		l.Run(t, "mv "+plugin+" "+away)
		_, _ = l.Try("systemctl stop haproxy")
		l.WantState(t, "systemd-netns@haproxy", "failed")
		out, err := l.M.Run("sh", "-c", mgr.remove+" 2>&1")
		if err == nil || !strings.Contains(out, "not everything was undone") {
			t.Errorf("removal without a plugin: %v: %s", err, out)
		}
		l.wantInstalled(t, mgr, newer)
		l.Run(t, "mv "+away+" "+plugin)
	})
	const text = "/etc/systemd/system/other.service.d/netns.conf"
	l.Write(text[1:], "[Unit]\nBindsTo=systemd-netns@front.service\n")
	out, err := l.M.Run("sh", "-c", mgr.remove+" 2>&1")
	if err != nil || !strings.Contains(out, "/etc/systemd/system/haproxy.service.d/netns.conf") || !strings.Contains(out, text) {
		t.Errorf("removal does not tell of the drop-ins that are left: %v: %s", err, out)
	}
	if now := l.M.Snapshot(); now != links {
		t.Errorf("before:\n%s\nafter the removal:\n%s", links, now)
	}
	if mgr.purge != mgr.remove {
		l.Run(t, mgr.purge)
	}
	// The administrator's own files stay.
	l.Run(t, "rm /etc/cni/net.d/haproxy.conflist /etc/systemd/system/haproxy.service.d/netns.conf "+text)
	l.Run(t, "rmdir /etc/cni/net.d /etc/cni /etc/systemd/system/haproxy.service.d /etc/systemd/system/other.service.d")
	l.Run(t, "systemctl daemon-reload")
	if after := l.traces(t); after != before {
		t.Errorf("files before:\n%s\nafter:\n%s", before, after)
	}
}

// traces lists the machine's files with a name of the project's or of CNI's, but
// for the pages that man(1) has formatted and the folder that ip(8) keeps.
func (l *lab) traces(t testing.TB) string {
	t.Helper()
	return l.Run(t, `find / /run -xdev -regextype posix-extended -regex .*(macvlan-vip|hairpin-route|netns|mv-int|cni).* -not -path /root/* -not -path /var/cache/man/* -not -path /run/netns`)
}

func (l *lab) wantInstalled(t testing.TB, mgr manager, version string) {
	t.Helper()
	if got := strings.ReplaceAll(l.Run(t, mgr.installed), " ", ""); got != "ii"+version+"-1" {
		t.Errorf("installed: %q, want version %s", got, version)
	}
	if got := l.Run(t, "/opt/cni/bin/macvlan-vip --version"); !strings.Contains(got, version) {
		t.Errorf("macvlan-vip --version: %q, want %s", got, version)
	}
}

// leftAlone: a systemd-networkd that ran before leaves a host-side link alone.
func (l *lab) leftAlone(t testing.TB) {
	t.Helper()
	l.M.IP("link add mv-int link eth0 type macvlan mode bridge")
	defer l.M.IP("link del mv-int")
	testnet.Eventually(t, "systemd-networkd leaves mv-int alone", func() error {
		out, err := l.M.Run("networkctl", "--no-legend", "list", "mv-int")
		if err == nil && !strings.Contains(out, "unmanaged") {
			err = errors.New(out)
		}
		return err
	})
}

// verifyUnits: systemd finds nothing to say about any unit, whose manual pages
// it looks for, too.
func (l *lab) verifyUnits(t testing.TB) {
	t.Helper()
	paths := strings.Fields(l.Run(t, "find /usr/lib/systemd/system -name systemd-netns*@.*"))
	if len(paths) < 4 {
		t.Fatalf("units: %q", paths)
	}
	for _, path := range paths {
		if strings.Contains(path, "-forward@.") {
			continue // `systemd-netns enable` says by a drop-in on what its socket listens.
		}
		unit := strings.Replace(filepath.Base(path), "@.", "@haproxy.", 1)
		if out, err := l.M.Run("sh", "-c", "systemd-analyze verify "+unit+" 2>&1"); err != nil || strings.Contains(out, "netns") {
			t.Errorf("systemd-analyze verify %s: %v: %s", unit, err, out)
		}
	}
}

// manuals: man(1) finds and formats every page without a complaint.
func (l *lab) manuals(t testing.TB) {
	t.Helper()
	for page, want := range map[string]string{
		"macvlan-vip(8)": "addressConflict", "hairpin-route(8)": "returnPath",
		"systemd-netns@.service(8)": "systemctl reload", "netns.conf(5)": "NetworkNamespacePath=",
	} {
		name, section, _ := strings.Cut(strings.TrimSuffix(page, ")"), "(")
		out, err := l.M.Run("env", "LC_ALL=C.UTF-8", "MANWIDTH=80", "sh", "-c", fmt.Sprintf("man --warnings=all %s %s 2>&1", section, name))
		if err != nil || !strings.Contains(out, want) || strings.Contains(out, "warning:") {
			t.Errorf("man %s: %v:\n%s", page, err, out)
		}
	}
}

// wantInside: haproxy is in its namespace, by the package's own IPAM plugin.
func (l *lab) wantInside(t testing.TB) {
	t.Helper()
	if got := l.Run(t, "readlink /proc/"+l.MainPID(t)+"/ns/net"); got == l.Run(t, "readlink /proc/1/ns/net") {
		t.Error("haproxy is in the host's namespace")
	}
}

// refused: a namespace in use keeps the package, whole, and the remedy is told.
func (l *lab) refused(t *testing.T, mgr manager) {
	before := l.Run(t, mgr.list)
	out, err := l.M.Run("sh", "-c", mgr.remove+" 2>&1")
	if err == nil || !strings.Contains(out, "systemctl stop systemd-netns@haproxy.service haproxy.service") {
		t.Errorf("removal while in use: %v: %s", err, out)
	}
	l.wantInstalled(t, mgr, older)
	if after := l.Run(t, mgr.list); after != before {
		t.Errorf("files before: %s\nafter: %s", before, after)
	}
	l.Serves(t, testlab.VIP1, testlab.VIP2)
}

// upgrade replaces the package under the running service, which no client notices.
func (l *lab) upgrade(t *testing.T, mgr manager, path string) {
	pid, mac := l.MainPID(t), l.Run(t, "ip netns exec haproxy cat /sys/class/net/mv0/address")
	path = l.copyIn(t, path)
	stop := l.watch(t)
	l.Run(t, mgr.upgrade+path)
	l.Serves(t, testlab.VIP1, testlab.VIP2)
	stop()
	l.wantInstalled(t, mgr, newer)
	if got := l.MainPID(t); got != pid {
		t.Errorf("haproxy's process was %s and is %s", pid, got)
	}
	if got := l.Run(t, "ip netns exec haproxy cat /sys/class/net/mv0/address"); got != mac {
		t.Errorf("the MAC was %s and is %s", mac, got)
	}
	if got := l.Run(t, "systemctl show systemd-netns@haproxy haproxy --property=NeedDaemonReload --value"); strings.Contains(got, "yes") {
		t.Error("systemd has not read the new units")
	}
	keeper := l.Run(t, "systemctl show --property=MainPID --value systemd-netns-watch")
	if got := l.Run(t, "readlink /proc/"+keeper+"/exe"); strings.Contains(got, "deleted") {
		t.Errorf("the keeper is still the old one: %s", got)
	}
	l.Run(t, "systemctl reload systemd-netns@haproxy")
	l.Serves(t, testlab.VIP1, testlab.VIP2)
}

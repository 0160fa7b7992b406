package attach

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/sdlog"
)

// hostsFile is the resolv.conf(5) of the host.
const hostsFile = "/etc/resolv.conf"

// upstreams are where managers of the host's DNS write the servers that their
// own one on a loopback address asks: systemd-resolved, NetworkManager.
var upstreams = []string{"/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"}

// giveDNS makes sure that the service has DNS servers that it can reach,
// through the resolv.conf that the drop-in binds: an administrator's for this
// namespace or else the network's. Failing both it is the host's own, of which
// a server on a loopback address needs another, and a link-local one another zone.
func (n *Netns) giveDNS(result *current.Result) error {
	file := n.ResolvConf()
	admins := filepath.Join("/etc/netns", n.Name, "resolv.conf")
	if _, err := os.Stat(admins); err == nil {
		return files.Link(file, admins).Put()
	}
	inside := func(text string) string { return n.inside(text, result) }
	text, from, err := chooseDNS(result.DNS, os.ReadFile, inside)
	if err != nil {
		n.Say(sdlog.LevelWarning, "%v; write the service's servers to %s", err, admins)
	}
	if text == "" {
		return files.RemoveIfThere(file)
	}
	if old, err := os.ReadFile(file); err == nil && string(old) == text {
		return nil
	}
	n.Say(sdlog.LevelInfo, "DNS servers %s, from %s", strings.Join(servers(text), " "), from)
	if err := files.Text(file, text).Put(); err != nil {
		return err
	}
	if err := copyLabel(hostsFile, file); err != nil {
		n.Say(sdlog.LevelWarning, "a service that SELinux confines may not be able to read %s: %v", file, err)
	}
	return nil
}

// copyLabel gives a file the SELinux label of another, if that has one. Services that the policy
// of Fedora and RHEL confines may read a resolv.conf by the host's label, and no file of ours in
// /run.
func copyLabel(from, to string) error {
	const key = "security.selinux"
	label := make([]byte, 4096)
	size, err := unix.Getxattr(from, key, label)
	if err != nil {
		return nil // Neither a file nor a label, as on most hosts.
	}
	return unix.Setxattr(to, key, label[:size], 0)
}

// inside is a resolv.conf of the host's with the service's link in place of its master as
// the zone of link-local servers, which are on the LAN of both (RFC 4007, section 6).
func (n *Netns) inside(text string, result *current.Result) string {
	if !strings.Contains(text, "%") {
		return text
	}
	f, err := n.look(result)
	if err != nil {
		return text
	}
	master, err := net.InterfaceByName(f.Master)
	if err != nil {
		return text
	}
	return rezone(text, []string{master.Name, strconv.Itoa(master.Index)}, n.IfName)
}

// rezone replaces any of some zones of name servers by another.
func rezone(text string, zones []string, by string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if addr, zone, _ := strings.Cut(f[1], "%"); slices.Contains(zones, zone) {
				line = "nameserver " + addr + "%" + by + "\n"
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// chooseDNS gives the resolv.conf(5) that the service needs, and where it is
// from; none if the host's own will do. inside makes one of the host's good for the
// namespace.
func chooseDNS(dns types.DNS, read func(string) ([]byte, error), inside func(string) string) (text, from string, err error) {
	if len(dns.Nameservers) > 0 {
		return resolvConf(dns), "the network", nil
	}
	host, err := read(hostsFile)
	if err != nil || !onLoopback(servers(string(host))) {
		// A host without DNS has none to give.
		if text := inside(string(host)); text != string(host) {
			return text, hostsFile, nil
		}
		return "", "", nil
	}
	for _, file := range upstreams {
		data, err := read(file)
		if err == nil && !onLoopback(servers(string(data))) {
			return inside(string(data)), file, nil
		}
	}
	return "", "", errors.New("no DNS: the host's /etc/resolv.conf names only itself, which the service cannot reach")
}

// servers are the name servers of a resolv.conf.
func servers(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			all = append(all, f[1])
		}
	}
	return all
}

// onLoopback is true if every server is on a loopback address, as the one that
// stands for an empty list is.
func onLoopback(servers []string) bool {
	for _, s := range servers {
		if addr, err := netip.ParseAddr(s); err != nil || !addr.IsLoopback() {
			return false
		}
	}
	return true
}

// resolvConf writes a CNI result's DNS in the format of resolv.conf(5).
func resolvConf(dns types.DNS) string {
	var b strings.Builder
	for _, s := range dns.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	search := dns.Search
	if len(search) == 0 && dns.Domain != "" {
		search = []string{dns.Domain}
	}
	for _, line := range [][]string{append([]string{"search"}, search...), append([]string{"options"}, dns.Options...)} {
		if len(line) > 1 {
			fmt.Fprintln(&b, strings.Join(line, " "))
		}
	}
	return b.String()
}

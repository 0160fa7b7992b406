package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"macvlan-vip/systemd/internal/enter"
)

// connectTime is how long a connection within the host is waited for.
const connectTime = time.Second

// ask asks all VIPs at once, since each that is lost takes connectTime. lost are those to
// which this host, or what of it is in the master's VRF, gets no connection, not even a
// refusal. mute is a port of the service's that does not answer where the kernel does: the
// service accepts nothing, or a filter is in between.
func (s *subject) ask() (lost []netip.Addr, mute uint16) {
	port := s.listening()
	heard := make([]uint16, len(s.facts.VIPs))
	var asked sync.WaitGroup
	for i, vip := range s.facts.VIPs {
		asked.Go(func() {
			switch {
			case s.answers(vip.Addr(), port):
				heard[i] = port
			case port != closedPort && s.answers(vip.Addr(), closedPort):
				heard[i] = closedPort
			}
		})
	}
	asked.Wait()
	for i, vip := range s.facts.VIPs {
		switch heard[i] {
		case port:
		case closedPort:
			mute = port
		default:
			lost = append(lost, vip.Addr())
		}
	}
	return lost, mute
}

// answers tells whether a port accepts or refuses a connection from this host.
func (s *subject) answers(vip netip.Addr, port uint16) bool {
	dialer := net.Dialer{Timeout: connectTime, Control: s.inVRF}
	conn, err := dialer.Dial("tcp", netip.AddrPortFrom(s.zoned(vip), port).String())
	if err == nil {
		conn.Close()
	}
	return err == nil || errors.Is(err, syscall.ECONNREFUSED)
}

// inVRF puts a socket into the master's VRF.
func (s *subject) inVRF(_, _ string, socket syscall.RawConn) error {
	if s.facts.VRF == "" {
		return nil
	}
	var bound error
	err := socket.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), s.facts.VRF) })
	return errors.Join(err, bound)
}

// zoned is a VIP as this host has to name it: a link-local one with the link.
func (s *subject) zoned(vip netip.Addr) netip.Addr {
	if isLinkLocal(vip) {
		return vip.WithZone(s.facts.Host)
	}
	return vip
}

// isLinkLocal tells whether an address takes a zone, as IPv4's do not.
func isLinkLocal(addr netip.Addr) bool { return addr.Is6() && addr.IsLinkLocalUnicast() }

// closedPort is refused where nothing listens on it: tcpmux, which nobody has.
const closedPort = 1

// listening is a TCP port on which something listens in the namespace, for a
// firewall that drops all others, or else a closed one.
func (s *subject) listening() uint16 {
	for _, file := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", s.unit.MainPID, file))
		if err != nil || s.unit.MainPID == 0 {
			continue
		}
		if port := firstListener(string(text)); port != 0 {
			return port
		}
	}
	return closedPort
}

// firstListener reads a table of proc_net_tcp(5) for a socket that listens, but
// on a loopback address.
func firstListener(table string) uint16 {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != "0A" {
			continue
		}
		addr, port, _ := strings.Cut(fields[1], ":")
		// 127.0.0.0/8 in the order of this machine's bytes, and ::1.
		if strings.HasSuffix(addr, "7F") && len(addr) == 8 || addr == "00000000000000000000000001000000" {
			continue
		}
		if n, err := strconv.ParseUint(port, 16, 16); err == nil {
			return uint16(n)
		}
	}
	return 0
}

// checkHost: this host reaches the VIPs.
func checkHost(_ context.Context, s *subject) *Finding {
	lost, mute := s.unreached()
	switch {
	case len(lost) == 0 && mute != 0:
		return ok("this host reaches its VIPs, but the service does not answer it on port %d: it hangs, or a filter drops that (IPAddressDeny=, a firewall)", mute)
	case len(lost) == 0:
		return ok("this host reaches its VIPs")
	}
	f := fail(s.reload(), "this host gets no answer from %s", join(lost))
	routed := s.routed()
	for _, vip := range lost {
		switch {
		case !strings.Contains(string(s.known.Config), `"hairpin-route"`):
			f.Remedy = `add { "type": "hairpin-route" } behind macvlan-vip to the network's file, then: ` + s.restart()
		case !slices.Contains(routed, vip):
			f.Remedy = s.reload()
		case s.oif(vip) != s.facts.Host:
			f.Remedy = fmt.Sprintf("ip rule add pref 40 to %s lookup local", vip)
			f.Detail += fmt.Sprintf("; its packets leave by %s, not by %s", s.oif(vip), s.facts.Host)
		default:
			f.Remedy = "see the finding on the firewall, or: " + s.reload()
		}
	}
	return f
}

func join[T fmt.Stringer](all []T) string {
	words := make([]string, len(all))
	for i, a := range all {
		words[i] = a.String()
	}
	return strings.Join(words, " ")
}

// routed are the VIPs to which hairpin-route has a route.
func (s *subject) routed() (all []netip.Addr) {
	for _, w := range s.facts.Ways {
		all = append(all, w.VIPs...)
	}
	return all
}

// oif is the link by which this host sends to an address.
func (s *subject) oif(addr netip.Addr) string {
	if isLinkLocal(addr) {
		return s.facts.Host
	}
	h, err := netlinksafe.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return ""
	}
	defer h.Close()
	routes, err := h.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{VrfName: s.facts.VRF})
	if err != nil || len(routes) == 0 {
		return ""
	}
	link, err := h.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return link.Attrs().Name
}

// checkWayBack: the namespace sends to the host's addresses directly.
func checkWayBack(_ context.Context, s *subject) *Finding {
	routes, err := s.routes()
	if err != nil {
		return fail(s.reload(), "%v", err)
	}
	var missing []string
	for _, w := range s.facts.Ways {
		has := slices.ContainsFunc(routes, func(r netlink.Route) bool {
			return r.Dst != nil && r.Dst.String() == hostPrefix(w.Source)
		})
		if w.Source != "" && !has {
			missing = append(missing, w.Source)
		}
	}
	if len(s.facts.Ways) == 0 {
		return nil
	}
	f := ok("answers to this host leave by %s", s.facts.Link)
	if len(missing) > 0 {
		f = fail(s.reload(), "no route in the namespace to this host's %s", strings.Join(missing, " "))
	}
	return f
}

func hostPrefix(addr string) string {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return ""
	}
	return netip.PrefixFrom(a, a.BitLen()).String()
}

// checkFirewall: if the routes are correct and yet no answer arrives, a rule of this host
// drops it.
func checkFirewall(_ context.Context, s *subject) *Finding {
	if s.facts.Host == "" {
		return nil
	}
	routed := s.routed()
	lost, _ := s.unreached()
	lost = slices.DeleteFunc(lost, func(vip netip.Addr) bool {
		return !slices.Contains(routed, vip) || s.oif(vip) != s.facts.Host
	})
	if len(lost) == 0 {
		return ok("no packet from %s is dropped", s.facts.Host)
	}
	out, _ := exec.Command("nft", "list", "ruleset").Output()
	chain := droppingChain(string(out))
	detail := ""
	if chain != "" {
		detail = "; chain " + chain + " drops packets"
	}
	return fail(acceptFrom(s.facts.Host, chain), "answers from %s through %s are lost%s", join(lost), s.facts.Host, detail)
}

// acceptFrom is a command that accepts what arrives on a link in a chain of nftables; "" is
// none that is known. firewalld lets nobody else change its own.
func acceptFrom(link, chain string) string {
	switch {
	case chain == "":
		return fmt.Sprintf("iptables -I INPUT -i %s -j ACCEPT", link)
	case strings.HasPrefix(chain, "inet firewalld "):
		return fmt.Sprintf("firewall-cmd --zone=trusted --change-interface=%s, and the same with --permanent", link)
	default:
		return fmt.Sprintf("nft insert rule %s iifname %s accept", chain, link)
	}
}

// droppingChain is the first chain on packets to this host that drops some, as
// "inet filter input", by the text of `nft list ruleset`.
func droppingChain(ruleset string) string {
	table, chain, input := "", "", false
	for line := range strings.Lines(ruleset) {
		f := strings.Fields(line)
		switch {
		case len(f) >= 3 && f[0] == "table":
			table = f[1] + " " + f[2]
		case len(f) >= 2 && f[0] == "chain":
			chain, input = f[1], false
		case strings.Contains(line, " hook "):
			input = strings.Contains(line, "hook input") || strings.Contains(line, "hook prerouting")
		}
		if input && (strings.Contains(line, "drop") || strings.Contains(line, "reject")) {
			return table + " " + chain
		}
	}
	return ""
}

// checkDNS: a server that the service asks answers.
func checkDNS(_ context.Context, s *subject) *Finding {
	text, err := enter.ReadFile(s.unit.MainPID, "etc/resolv.conf")
	if err != nil {
		return nil
	}
	all := servers(text)
	if len(all) == 0 {
		return ok("no server is configured")
	}
	remedy := fmt.Sprintf("systemd-netns enable %s --in %s --dns ADDR", s.stem(), s.namespace.Name)
	if !s.hasOwn() {
		remedy = fmt.Sprintf("mkdir -p /etc/netns/%[1]s && echo nameserver ADDR >/etc/netns/%[1]s/resolv.conf && %[2]s && systemctl restart %[3]s", s.namespace.Name, s.reload(), s.unit.Name)
	}
	var answered netip.Addr
	err = enter.Do(s.namespace.Path, func() error {
		for _, server := range all {
			if query(server) == nil {
				answered = server
				return nil
			}
		}
		return nil
	})
	f := ok("%s answers", answered)
	if err != nil || !answered.IsValid() {
		f = fail(remedy, "none of the service's DNS servers answers: %s", join(all))
	}
	return f
}

// servers are the name servers of a resolv.conf(5).
func servers(text string) (all []netip.Addr) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if addr, err := netip.ParseAddr(f[1]); err == nil {
				all = append(all, addr)
			}
		}
	}
	return all
}

// query asks a DNS server for the root's name servers; any answer will do.
func query(server netip.Addr) error {
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(os.Getpid()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET}},
	}
	data, err := message.Pack()
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("udp", netip.AddrPortFrom(server, 53).String(), connectTime)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(connectTime)); err != nil {
		return err
	}
	if _, err := conn.Write(data); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 512))
	return err
}

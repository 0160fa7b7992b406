package announce

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"macvlan-vip/tests/testnet"
)

// lab is a LAN: a bridge in a netns of its own, the ports of which lead to
// stations in theirs.
type lab struct {
	t   testing.TB
	lan *station
	n   int
}

// station is a netns with one link on the LAN.
type station struct {
	*testnet.Namespace
	t      testing.TB
	link   string
	mac    net.HardwareAddr
	parent *station // The host of a macvlan.
	port   string   // The bridge port that leads to it.
}

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	l := &lab{t: t, lan: newStation(t, "br0")}
	l.lan.ip("link add br0 type bridge", "link set br0 up")
	return l
}

func newStation(t testing.TB, link string) *station {
	t.Helper()
	return &station{Namespace: testnet.New(t), t: t, link: link}
}

// host is a station like any on a LAN, with the link eth0.
func (l *lab) host() *station {
	l.t.Helper()
	s := newStation(l.t, "eth0")
	l.n++
	s.port = fmt.Sprintf("p%d", l.n)
	l.lan.ip(fmt.Sprintf("link add %s type veth peer name eth0 netns %s", s.port, s.name()),
		"link set "+s.port+" master br0 up")
	s.ip("link set eth0 up")
	s.readMAC()
	return s
}

// service is a netns with a macvlan of a host's.
func (l *lab) service(parent *station) *station {
	l.t.Helper()
	s := newStation(l.t, "mv0")
	s.parent, s.port = parent, parent.port
	parent.ip("link add link eth0 name mv0 netns " + s.name() + " type macvlan mode bridge")
	s.ip("link set mv0 up")
	s.readMAC()
	return s
}

func (s *station) name() string { return filepath.Base(s.Path()) }

// ip runs ip(8) commands in the station's netns.
func (s *station) ip(commands ...string) {
	s.t.Helper()
	cmd := exec.Command("ip", "-n", s.name(), "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("ip: %v: %s", err, out)
	}
}

// show returns what an ip(8) command prints.
func (s *station) show(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("ip", append([]string{"-n", s.name()}, args...)...).Output()
	if err != nil {
		s.t.Fatalf("ip %v: %v", args, err)
	}
	return string(bytes.TrimSpace(out))
}

func (s *station) readMAC() { s.mac = s.ifi().HardwareAddr }

func (s *station) ifi() (ifi *net.Interface) {
	s.t.Helper()
	s.Do(func() (err error) {
		ifi, err = net.InterfaceByName(s.link)
		return err
	})
	return ifi
}

// hold gives the station addresses, as a kernel that answers for them.
func (s *station) hold(addrs ...netip.Addr) {
	s.t.Helper()
	var commands []string
	for _, a := range addrs {
		nodad := ""
		if a.Is6() {
			nodad = " nodad"
		}
		commands = append(commands, fmt.Sprintf("addr add %s/%d dev %s%s", a, a.BitLen(), s.link, nodad))
	}
	s.ip(commands...)
}

func (s *station) open(addrs []netip.Addr) (c *Conn) {
	s.t.Helper()
	ifi := s.ifi()
	s.Do(func() (err error) {
		c, err = Open(ifi, addrs)
		return err
	})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// addrs parses addresses separated by spaces.
func addrs(list string) (out []netip.Addr) {
	for _, s := range strings.Fields(list) {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// many returns n addresses, every other one IPv6.
func many(n int) (out []netip.Addr) {
	for i := range n {
		v4 := netip.AddrFrom4([4]byte{192, 0, byte(2 + i>>8), byte(i)})
		v6 := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: byte(1 + i>>8), 15: byte(i)})
		out = append(out, []netip.Addr{v4, v6}[i%2])
	}
	return out
}

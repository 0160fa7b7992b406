package lan

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const sessionPort = 7778

// session is a TCP connection that stays open.
type session struct{ conn net.Conn }

// holdSessions makes a service repeat what it hears on long connections.
func holdSessions(t *testing.T, sv *service) {
	t.Helper()
	for _, vip := range sv.vips {
		sv.Service.Do(func() error {
			l, err := net.Listen("tcp", netip.AddrPortFrom(vip, sessionPort).String())
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						_, _ = io.Copy(conn, conn)
						conn.Close()
					}()
				}
			}()
			return nil
		})
	}
}

// sessions opens one to each VIP.
func (s *station) sessions(t *testing.T, sv *service) (all []session) {
	t.Helper()
	for _, vip := range sv.vips {
		s.Do(func() error {
			conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(vip, sessionPort).String(), 5*time.Second)
			if err == nil {
				t.Cleanup(func() { conn.Close() })
				all = append(all, session{conn})
			}
			return err
		})
	}
	return all
}

// goesOn tells whether the connection still carries something, unless it was
// made from the lost address. TCP repeats itself, so what was lost in between
// only takes longer.
func (s session) goesOn(lost netip.Addr) error {
	if s.conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap() == lost {
		return nil
	}
	_ = s.conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, err := s.conn.Write([]byte("?"))
	if err == nil {
		_, err = io.ReadFull(s.conn, make([]byte, 1))
	}
	if err != nil {
		return fmt.Errorf("the connection from before: %w", err)
	}
	return nil
}

// damage is what happens to hosts in the long run.
type damage struct {
	name string
	// do are ip(8) commands on the host, in the service's netns if they begin
	// with an @.
	do []string
	// check are the beginnings of CHECK's lines. Of two plugins that have
	// something to say, the runtime hears only the first.
	check []string
	// without is what the host's routes show where the kernel does no damage.
	without string
	// then are commands of the operator's or the network manager's.
	then []string
	// lost is a host's address that is gone for good, and its connections with it.
	lost netip.Addr
}

var (
	hostRoutes = []string{
		"host: route 10.0.0.10/32 dev mv-int table local metric 100 src 10.0.0.1: missing",
		"host: route 2001:db8::10/128 dev mv-int table local metric 100 src 2001:db8::1: missing",
	}
	hostNeighbours = []string{
		"host: neighbour 10.0.0.10 lladdr MV0 dev mv-int: missing",
		"host: neighbour 2001:db8::10 lladdr MV0 dev mv-int: missing",
	}
)

var damages = []damage{
	{
		name:  "mv-int down",
		do:    []string{"link set mv-int down"},
		check: []string{"host: link mv-int: state is down, not up"},
	},
	{
		name:  "mv-int down and up",
		do:    []string{"link set mv-int down", "link set mv-int up"},
		check: slices.Concat(hostRoutes, hostNeighbours),
	},
	{
		name: "mv-int deleted",
		do:   []string{"link del mv-int"},
		check: []string{
			"host: link mv-int type macvlan mode bridge on eth0: missing", "host: sysctl net/ipv4/conf/mv-int/arp_ignore = 1: missing",
			"host: sysctl net/ipv4/conf/mv-int/medium_id = -1: missing", "host: sysctl net/ipv4/conf/mv-int/rp_filter >= 1: missing",
		},
	},
	{
		name:  "uplink down",
		do:    []string{"link set eth0 down"},
		check: []string{`master: "eth0": the link is down`},
		then:  []string{"link set eth0 up", "address add 2001:db8::1/64 dev eth0 nodad"},
	},
	{
		// The kernel takes the IPv6 addresses of a link that goes down away,
		// and nobody has put this one back yet.
		name: "uplink down and up",
		do:   []string{"link set eth0 down", "link set eth0 up"},
		check: []string{
			"host: route 2001:db8::10/128 dev mv-int table local metric 100: source is 2001:db8::1",
			"service: route 2001:db8::1/128 dev mv0: left over", "service: neighbour 2001:db8::1 lladdr MV-INT dev mv0: left over",
		},
		lost: host6,
	},
	{
		name: "uplink down and up, its addresses there again",
		do:   []string{"link set eth0 down", "link set eth0 up", "address add 2001:db8::1/64 dev eth0 nodad"},
	},
	{
		// The kernel lowers the macvlans' MTU, too.
		name: "MTU lowered",
		do:   []string{"link set eth0 mtu 1400"},
	},
	{
		name:  "MTU lowered and raised",
		do:    []string{"link set eth0 mtu 1400", "link set eth0 mtu 1500"},
		check: []string{"host: link mv-int: MTU is 1400, not 1500", "service: link mv0: MTU is 1400, not 1500"},
	},
	{
		name:  "routes flushed",
		do:    []string{"route flush table local proto 118", "-6 route flush table local proto 118"},
		check: hostRoutes,
	},
	{
		name:  "neighbours flushed",
		do:    []string{"neigh flush nud permanent dev mv-int"},
		check: hostNeighbours,
	},
	{
		name: "the way back flushed",
		do:   []string{"@neigh flush nud permanent dev mv0", "@route flush proto 118", "@-6 route flush proto 118"},
		check: []string{
			"service: route 10.0.0.1/32 dev mv0: missing", "service: route 2001:db8::1/128 dev mv0: missing",
			"service: neighbour 10.0.0.1 lladdr MV-INT dev mv0: missing", "service: neighbour 2001:db8::1 lladdr MV-INT dev mv0: missing",
			"service: neighbour fe80::",
		},
	},
	{
		name: "the service's main table flushed",
		do:   []string{"@route flush table main", "@-6 route flush table main"},
		check: []string{
			"service: address 10.0.0.10/16 dev mv0: the route to 10.0.0.0/16 is missing",
			"service: address 2001:db8::10/64 dev mv0: the route to 2001:db8::/64 is missing",
		},
	},
	{
		name: "the service's table local flushed",
		do:   []string{"@route flush table local", "@-6 route flush table local"},
		check: []string{
			"service: address 10.0.0.10/16 dev mv0: its route in table local is missing",
			"service: address 2001:db8::10/64 dev mv0: its route in table local is missing",
		},
	},
	{
		name:  "the route of a VIP's subnet removed",
		do:    []string{"@-6 route del 2001:db8::/64 dev mv0"},
		check: []string{"service: address 2001:db8::10/64 dev mv0: the route to 2001:db8::/64 is missing"},
	},
	{
		name:  "mode changed",
		do:    []string{"@link set mv0 type macvlan mode vepa"},
		check: []string{"service: link mv0: mode is vepa, not bridge"},
	},
	{
		name:  "a VIP removed",
		do:    []string{"@address del 10.0.0.10/16 dev mv0"},
		check: []string{"service: address 10.0.0.10/16 dev mv0: missing"},
	},
	{
		// A new address is one more to find the way back to; the sources stay.
		name:  "another address on the host",
		do:    []string{"address add 10.0.0.2/16 dev eth0"},
		check: []string{"service: route 10.0.0.2/32 dev mv0: missing", "service: neighbour 10.0.0.2 lladdr MV-INT dev mv0: missing"},
	},
	{
		// The kernel leaves routes in table local alone when their source goes.
		name: "the host's address replaced",
		do:   []string{"address add 10.0.0.3/24 dev eth0", "address del 10.0.0.1/16 dev eth0", "route replace 10.0.0.0/16 dev eth0 src 10.0.0.3"},
		check: []string{
			"host: route 10.0.0.10/32 dev mv-int table local metric 100 src 10.0.0.3: source is 10.0.0.1",
			"service: route 10.0.0.3/32 dev mv0: missing", "service: neighbour 10.0.0.3 lladdr MV-INT dev mv0: missing",
			"service: route 10.0.0.1/32 dev mv0: left over", "service: neighbour 10.0.0.1 lladdr MV-INT dev mv0: left over",
		},
		lost: host4,
	},
	{
		name: "the host's addresses removed and added again",
		do: []string{
			"address del 10.0.0.1/16 dev eth0", "address del 2001:db8::1/64 dev eth0",
			"address add 10.0.0.1/16 dev eth0", "address add 2001:db8::1/64 dev eth0 nodad",
		},
		// Of IPv6 routes the kernel takes the source away with the address; before
		// Linux 6.6 it does so for routes out of the address's own link alone
		// (fib6_remove_prefsrc in net/ipv6/route.c).
		check:   []string{"host: route 2001:db8::10/128 dev mv-int table local metric 100 src 2001:db8::1: source is none"},
		without: "2001:db8::10 dev mv-int src 2001:db8::1",
	},
}

// TestRepair: CHECK says what is missing, one line an item; a repeated ADD puts
// it right, and the service and its connections live on.
func TestRepair(t *testing.T) {
	t.Parallel()
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			host, peer := l.station("10.0.0.1/16", "2001:db8::1/64"), l.station("10.0.0.5/16", "2001:db8::5/64")
			sv := host.service("c1", quick, "10.0.0.10/16", "2001:db8::10/64")
			sv.mustAdd(t)
			sv.Service.Echo(echoPort, sv.vips...)
			holdSessions(t, sv)
			open := append(peer.sessions(t, sv), host.sessions(t, sv)...)
			before := identity(sv)
			macs := strings.NewReplacer("MV-INT", macOf(host.Namespace, "mv-int"), "MV0", sv.mac)

			host.suffer(sv, d.do)
			if d.without != "" && strings.Contains(host.IP("-6 route show table local proto 118"), d.without) {
				d.check = nil
			}
			d.checkSays(t, sv.check(), macs)
			host.suffer(sv, d.then)
			sv.mustAdd(t)
			if err := sv.check(); err != nil {
				t.Errorf("after a repeated ADD: %v", err)
			}
			host.uses(t, sv)
			peer.uses(t, sv)
			for _, s := range open {
				if err := s.goesOn(d.lost); err != nil {
					t.Error(err)
				}
			}
			if after := identity(sv); after != before {
				t.Errorf("mv0 was %s and is %s", before, after)
			}
		})
	}
}

// suffer runs a damage's commands.
func (s *station) suffer(sv *service, commands []string) {
	for _, command := range commands {
		at := s.Namespace
		if in, ok := strings.CutPrefix(command, "@"); ok {
			at, command = sv.Service, in
		}
		at.IP(command)
	}
}

// checkSays compares what CHECK said, but for its heading.
func (d damage) checkSays(t *testing.T, err error, macs *strings.Replacer) {
	t.Helper()
	if len(d.check) == 0 {
		if err != nil {
			t.Errorf("CHECK: %v", err)
		}
		return
	}
	lines := strings.Split(fmt.Sprint(err), "\n")
	if len(lines) > 1 {
		lines = lines[1:]
	}
	for i := range max(len(lines), len(d.check)) {
		if i >= len(lines) || i >= len(d.check) || !strings.HasPrefix(strings.TrimSpace(lines[i]), macs.Replace(d.check[i])) {
			t.Errorf("CHECK said\n%v\nwant\n%s", err, macs.Replace(strings.Join(d.check, "\n")))
			return
		}
	}
}

// identity tells whether mv0 is still the link that it was.
func identity(sv *service) string {
	index, _, _ := strings.Cut(sv.Service.IP("-o link show dev mv0"), ":")
	return "link " + index + ", " + macOf(sv.Service, "mv0")
}

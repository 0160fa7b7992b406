package systemd

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/testlab"
	"macvlan-vip/tests/testnet"
)

// The station on the second LAN.
const second4, second6 = "10.77.0.5", "fd77::5"

// site is the model of a machine that a history happens to. It has two uplinks,
// and four services on them, of which one has its addresses from host-local, and
// one from a DHCP server on the LAN.
type site struct {
	*lab
	r        *rapid.T
	services []*service
	// lans are the stations at the other ends of eth0 and eth1, and carrier tells
	// which of these have one.
	lans    []*testnet.Namespace
	carrier []bool
	// hostHas tells whether the host has got another address, noDaemon whether
	// nobody asks for leases of DHCP.
	hostHas, noDaemon bool
	// before is the machine's state without services.
	before string
	// since are journalctl's arguments for what was said since the last event began.
	since []string
	// story is what has happened, for a history that fails.
	story []string
}

// service is a unit in a namespace, and what its files hold.
type service struct {
	name, ipam string
	uplink     int
	// wants are the last parts of the VIPs that its network's file asks for, made
	// those that it was started or changed with.
	wants, made []int
	// badNetwork and badEnv say what is wrong with its files, if anything.
	badNetwork, badEnv string
	// unsure tells that something was killed since made was known, spoiled that a
	// file was which a reload may need.
	unsure, spoiled bool
}

func (s *service) shim() string    { return "systemd-netns@" + s.name + ".service" }
func (s *service) envFile() string { return "etc/systemd-netns/" + s.name + ".env" }
func (s *service) network() string { return netDir + s.name + ".conflist" }

// isBad tells whether it cannot be started as it is configured.
func (s *service) isBad() bool { return s.badNetwork+s.badEnv != "" }

// vips are the addresses of parts.
func (s *service) vips(parts []int) (all []string) {
	for _, n := range parts {
		switch {
		case s.ipam == "dhcp":
			all = append(all, fmt.Sprintf("10.77.1.%d", n))
		case s.uplink == 0:
			all = append(all, fmt.Sprintf("172.16.26.%d", n), fmt.Sprintf("fd26::1:%d", n))
		default:
			all = append(all, fmt.Sprintf("10.77.1.%d", n), fmt.Sprintf("fd77::1:%d", n))
		}
	}
	return all
}

func newSite(t *testing.T) *site {
	second := testnet.New(t)
	m := &site{carrier: []bool{true, true}}
	m.lab = newLab(t, machine.Connect(machine.NIC{LAN: second.Path(), Port: "port", Addresses: []string{"10.77.0.1/16", "fd77::1/64"}}))
	second.IP("link set lo up")
	second.AddAddress("port", second4+"/16")
	second.AddAddress("port", second6+"/64")
	second.ServePage(second4+":8080", answer)
	dnsmasq(t, second, second4, testlab.DHCPServer("10.77.1.30,10.77.1.30,255.255.0.0")...)
	m.lans = []*testnet.Namespace{m.Peer, second}
	m.services = []*service{{name: "web1", ipam: "static"}, {name: "web2", ipam: "static"}, {name: "web3", ipam: "host-local", uplink: 1}, {name: "web4", ipam: "dhcp", uplink: 1}}
	for i, s := range m.services {
		s.wants = []int{10 + i}
		if s.ipam == "dhcp" {
			s.wants = []int{30}
		}
		m.install(s)
		if i > 0 && m.M.Kind == machine.QEMU {
			// Several at once on a CPU that is emulated would not make it in their time.
			m.Write(dropIns+s.shim()+".d/in-turn.conf", "[Unit]\nAfter="+m.services[i-1].name+".service\n")
		}
	}
	m.Write(dropIns+"dhcp.service", "[Unit]\nBefore=network-online.target\nStartLimitIntervalSec=0\n"+
		"[Service]\nRestart=always\nRestartSec=0.1\nExecStartPre=mkdir -p /run/cni\nExecStartPre=rm -f /run/cni/dhcp.sock\n"+
		"ExecStart=/opt/cni/bin/dhcp daemon\nExecStartPost=sh -c 'until test -S /run/cni/dhcp.sock; do sleep 0.05; done'\n[Install]\nWantedBy=multi-user.target\n")
	m.link("multi-user.target.wants/dhcp.service", "/etc/systemd/system/dhcp.service")
	m.run0(t, "systemctl --root=%s disable haproxy.service")
	m.boot()
	m.foreign()
	m.before = m.state()
	// Each later boot starts them all.
	m.Run(t, "systemctl enable "+m.names())
	return m
}

// install writes the files of a service, which listens wherever it is, and leads
// to the backend on its LAN.
func (m *site) install(s *service) {
	backend := []string{peerAddr, second4}[s.uplink]
	m.Write(dropIns+s.name+".service", "[Service]\nExecStart=/usr/bin/socat TCP6-LISTEN:80,fork,reuseaddr,ipv6only=0 TCP:"+backend+":8080\n[Install]\nWantedBy=multi-user.target\n")
	m.link(s.name+".service.d/netns.conf", unitDir+"netns.conf")
	m.Write(dropIns+s.name+".service.d/often.conf", "[Unit]\nStartLimitIntervalSec=0\n")
	m.mend(s)
}

// names are those of all services.
func (m *site) names() string {
	var all []string
	for _, s := range m.services {
		all = append(all, s.name)
	}
	return strings.Join(all, " ")
}

// mark has said tell of what is said from now on.
func (m *site) mark() {
	out := m.M.MustRun(m.T, "journalctl", "-q", "-n", "0", "--show-cursor")
	m.since = []string{"--after-cursor", strings.TrimPrefix(out, "-- cursor: ")}
}

// foreign makes what is somebody else's. What is in /run has 32 MB.
func (m *site) foreign() {
	m.Run(m.T, "mount -o remount,size=32m /run")
	for _, args := range []string{
		"route add 203.0.113.0/24 dev eth0 proto static", "route add 203.0.113.9 dev eth0 table local metric 100 proto static",
		"neigh add 203.0.113.9 lladdr 02:00:00:00:00:77 dev eth0 nud permanent", "rule add from 203.0.113.9 lookup main pref 11000",
	} {
		m.M.IP(args)
	}
}

// foreignThere fails where something took away what is somebody else's.
func (m *site) foreignThere() {
	out := m.M.MustRun(m.T, "sh", "-c", "ip route show table all 203.0.113.0/24; ip route show table all 203.0.113.9; ip neigh show 203.0.113.9 nud permanent; ip rule show pref 11000")
	if n := strings.Count(out, "203.0.113."); n != 4 {
		m.fail("of somebody else's only this is left: %s", out)
	}
}

// passing is what a boot, a carrier that is lost and the host's other address
// change of a machine's state.
var passing = regexp.MustCompile(`(?m)^.*\b172\.16\.27\.99\b.*\n|^\d+: |@if\d+|link-netnsid \d+|,LOWER_UP|NO-CARRIER,| linkdown`)

// state is the machine's, and the files of ours on it.
func (m *site) state() string {
	files, _ := m.Try("find /run/cni /run/netns /run/systemd-netns /var/lib/systemd-netns /var/lib/cni/results -type f -o -type l")
	return passing.ReplaceAllString(m.M.Snapshot(), "") + files
}

func (m *site) note(format string, args ...any) {
	m.story = append(m.story, fmt.Sprintf(format, args...))
	m.r.Logf(format, args...)
}

// fail ends the history.
func (m *site) fail(format string, args ...any) {
	m.r.Helper()
	journal, _ := m.M.Run("journalctl", "--no-pager", "-o", "short-precise", "-n", "60", "-t", "systemd-netns", "-t", "systemd")
	m.r.Fatalf("%s\n%s\n%s", fmt.Sprintf(format, args...), strings.Join(m.story, "\n"), journal)
}

// mend writes the files of a service again.
func (m *site) mend(s *service) {
	s.badNetwork, s.badEnv = "", ""
	m.Write(s.envFile(), "RETRY_SEC=1\n")
	m.writeNetwork(s)
}

// writeNetwork writes a network's file.
func (m *site) writeNetwork(s *service) {
	m.Write(s.network(), m.conf(s))
	s.badNetwork = ""
}

// conf is a service's network.
func (m *site) conf(s *service) string {
	var items []string
	for i, vip := range s.vips(s.wants) {
		subnet := [][]string{{"172.16.24.0/22", "fd26::/64"}, {"10.77.0.0/16", "fd77::/64"}}[s.uplink][i%2]
		_, length, _ := strings.Cut(subnet, "/")
		if s.ipam == "host-local" {
			items = append(items, fmt.Sprintf(`[{"subnet": %q, "rangeStart": %q, "rangeEnd": %[2]q}]`, subnet, vip))
		} else {
			items = append(items, fmt.Sprintf(`{"address": "%s/%s"}`, vip, length))
		}
	}
	key := map[string]string{"static": "addresses", "host-local": "ranges", "dhcp": "none"}[s.ipam]
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [
		{"type": "macvlan-vip", "master": "eth%d", "probe": {"count": 1, "waitMs": 20}, "announce": {"count": 1}, "ipam": {"type": %q, %q: [%s]}},
		{"type": "hairpin-route"}]}`, s.name, s.uplink, s.ipam, key, strings.Join(items, ", "))
}

func (m *site) any() *service { return rapid.SampledFrom(m.services).Draw(m.r, "service") }

func (m *site) isActive(s *service) bool { return m.settledState(s.name+".service") == "active" }

// settledState is a unit's state, once it is no state on the way to another.
func (m *site) settledState(unit string) (state string) {
	for deadline := m.deadline(90 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if state = m.State(unit); !strings.HasSuffix(state, "ing") {
			return state
		}
	}
	m.fail("%s is %s for 90 s", unit, state)
	return state
}

// inTheWay says what could keep a service from the VIPs that it wants.
func (m *site) inTheWay(s *service) string {
	if s.isBad() {
		return "its files are bad: " + s.badNetwork + s.badEnv
	}
	if s.ipam == "dhcp" && m.noDaemon {
		return "nobody asks for a lease"
	}
	for _, o := range m.services {
		if o != s && o.uplink == s.uplink && slices.ContainsFunc(s.wants, func(n int) bool { return slices.Contains(append(slices.Clone(o.made), o.wants...), n) }) {
			return o.name + " may have one of its VIPs"
		}
	}
	return ""
}

// quiet waits until no unit is on its way to another state, and the keeper has
// nothing to repair.
func (m *site) quiet() {
	for deadline := m.deadline(40 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if jobs := m.Run(m.T, "systemctl list-jobs --no-legend --no-pager"); !strings.Contains(jobs, "systemd-netns") && !strings.Contains(jobs, "web") {
			return
		}
	}
	m.fail("jobs do not end: %s", m.Run(m.T, "systemctl list-jobs --no-pager"))
}

// check is what must hold after every event.
func (m *site) check(*rapid.T) {
	m.quiet()
	m.oneHolder()
	m.foreignThere()
	allDown := true
	for _, s := range m.services {
		if m.isActive(s) {
			allDown = false
			m.healthy(s)
			continue
		}
		allDown = m.isDown(s) && allDown
	}
	if allDown {
		m.nothingLeft()
	}
}

// isDown fails where a service that is not active still has something. What was
// killed while it cleaned up is a failed unit, which names the remedy. It tells
// whether nothing is left to do: a lease of DHCP needs the daemon.
func (m *site) isDown(s *service) (done bool) {
	if s.unsure && m.State(s.shim()) == "failed" {
		out, err := m.Try("/usr/local/libexec/macvlan-vip/systemd-netns-helper clear " + s.name)
		m.note("clear %s: %v", s.name, err == nil)
		if err != nil && s.ipam == "dhcp" && m.noDaemon {
			return false
		}
		if err != nil {
			m.fail("clear %s: %v: %s", s.name, err, out)
		}
	}
	s.made, s.unsure, s.spoiled = nil, false, false
	if err := m.eventually(func() error { return m.shimIsDown(s) }); err != nil {
		m.fail("%s is not active: %v", s.name, err)
	}
	return true
}

func (m *site) shimIsDown(s *service) error {
	if state := m.State(s.shim()); state != "inactive" && state != "failed" {
		return fmt.Errorf("its shim is %s", state)
	}
	if held := m.holds(s); len(held) > 0 {
		return fmt.Errorf("its namespace has %v", held)
	}
	return nil
}

// deadline is when to give up what takes a container not nearly as long.
func (m *site) deadline(limit time.Duration) time.Time {
	return time.Now().Add(limit * time.Duration(m.M.Slowness()))
}

// eventually waits for what is about to be so, for some seconds.
func (m *site) eventually(do func() error) (err error) {
	for deadline := m.deadline(10 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = do(); err == nil {
			return nil
		}
	}
	return err
}

// healthy fails where a running service is not reached on all its VIPs and no
// unit says why, or one reload or the restart that it names does not heal it.
func (m *site) healthy(s *service) {
	if !m.carrier[s.uplink] {
		return
	}
	if s.unsure {
		// What was killed or spoiled left it with the one or the other: the last
		// word is a restart's, or a reload's.
		m.heal(s)
		return
	}
	err := m.eventually(func() error { return m.reached(s) })
	if err == nil {
		return
	}
	if why := m.said(s); why == "" {
		m.fail("%s is active with %v, and no unit says why: %v", s.name, s.made, err)
	}
	m.heal(s)
}

// said is what the units have said about a service since the last event began.
func (m *site) said(s *service) (lines string) {
	out, _ := m.M.Run(append([]string{"journalctl", "--no-pager", "-o", "cat", "-t", "systemd-netns", "-p", "warning"}, m.since...)...)
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, s.name+":") {
			lines += line
		}
	}
	if state := m.State(s.shim()); state == "failed" {
		lines += state
	}
	return lines
}

// heal reloads the shim, or restarts the service if that is what a reload says is
// to be done.
func (m *site) heal(s *service) {
	s.unsure = false
	_, err := m.Try("systemctl reload " + s.shim())
	m.note("reload of %s: %v", s.name, err == nil)
	if err == nil {
		if m.inTheWay(s) == "" {
			s.made = s.wants
		} else {
			s.made = m.parts(s)
		}
		if err := m.eventually(func() error { return m.reached(s) }); err != nil {
			m.fail("one reload does not heal %s, which should have %v: %v", s.name, s.made, err)
		}
		return
	}
	if said := m.said(s); !strings.Contains(said, "restart") && m.inTheWay(s) == "" {
		m.fail("a reload of %s fails, and names no remedy: %q", s.name, said)
	}
	m.mend(s)
	_, err = m.Try("systemctl restart " + s.shim())
	m.note("mended, and restart of %s: %v", s.shim(), err == nil)
	m.started(s, err)
}

// parts are those whose addresses are on the link of a service.
func (m *site) parts(s *service) (all []int) {
	held := m.holds(s)
	for n := range 256 {
		if slices.Contains(held, s.vips([]int{n})[0]) {
			all = append(all, n)
		}
	}
	return all
}

// started judges a start.
func (m *site) started(s *service, err error) {
	why := m.inTheWay(s)
	switch {
	case err != nil && why == "":
		m.fail("start of %s: %v", s.name, err)
	case err != nil && s.ipam == "dhcp" && m.noDaemon:
		// A lease from before cannot be given back.
		s.unsure = true
	case err == nil:
		s.made, s.unsure, s.spoiled = s.wants, false, false
	}
}

// holds are the VIPs on the link of a service.
func (m *site) holds(s *service) (held []string) {
	out, err := m.Try("ip -n " + s.name + " -br address show dev mv0 up")
	if err != nil {
		return nil
	}
	for _, field := range strings.Fields(out)[min(2, len(strings.Fields(out))):] {
		if addr, _, ok := strings.Cut(field, "/"); ok && !strings.HasPrefix(addr, "fe80:") {
			held = append(held, addr)
		}
	}
	return held
}

// tellsOf fails where systemd-netns tells of other VIPs than a running service has.
func (m *site) tellsOf(s *service) {
	if !m.isActive(s) {
		return
	}
	out, err := m.Try(program + "status " + s.name)
	for _, vip := range s.vips(s.made) {
		if !strings.Contains(out, vip+"/") {
			m.fail("status of %s, which has %v: %v: %s", s.name, s.made, err, out)
		}
	}
}

// oneHolder fails where two have one VIP.
func (m *site) oneHolder() {
	holders := map[string]string{}
	for _, s := range m.services {
		for _, vip := range m.holds(s) {
			if other, taken := holders[vip]; taken {
				m.fail("%s is on the links of %s and %s", vip, other, s.name)
			}
			holders[vip] = s.name
		}
	}
}

// reached asks the VIPs of a service for the page, from the host and the LAN.
func (m *site) reached(s *service) error {
	for _, vip := range s.vips(s.made) {
		for name, from := range map[string]machine.Station{"host": m.M, "LAN": m.lans[s.uplink]} {
			if err := from.WantPage(vip, answer); err != nil {
				return fmt.Errorf("from the %s: %w", name, err)
			}
		}
	}
	return nil
}

// nothingLeft fails where no service is active, and something of ours is there.
func (m *site) nothingLeft() {
	var now string
	err := m.eventually(func() error {
		if now = m.state(); now != m.before {
			return errors.New(cmp.Diff(strings.Split(m.before, "\n"), strings.Split(now, "\n")))
		}
		return nil
	})
	if err != nil {
		m.fail("no service is active, and something is left: %v", err)
	}
}

package runtimes

import (
	"net/netip"
	"strings"
	"testing"
)

const (
	podmans = "podman 5"
	// podmanImage is the image in the page; the tests have one of their own by
	// its name.
	podmanImage = "docker.io/library/nginx"
)

// podman5 is what every host with podman 5 has to show.
func podman5(s site) {
	s.t.Helper()
	before := s.state()
	steps := blocks(s.t, podmans, "sh")
	s.sh(steps[0]) // the network
	s.sh(steps[1]) // two containers
	s.reached(vip4, vip6, s.address("more", 4), s.address("more", 6))
	for _, answer := range strings.Split(s.sh(steps[2]), "\n") { // curl to both VIPs
		if !strings.Contains(answer, host4) && !strings.Contains(answer, host6) {
			s.t.Errorf("curl prints %q", answer)
		}
	}
	if got := s.address("more", 4); !netip.MustParsePrefix("192.0.2.128/28").Contains(netip.MustParseAddr(got)) {
		s.t.Errorf("podman has assigned %s, which is not in --ip-range", got)
	}
	s.podmanConflicts()
	s.podmanConnect()
	s.podmanSurvives()
	s.sh(steps[3]) // restart, remove
	s.clean(before)
	s.podmanMisuse()
	s.clean(before)
}

// address is the one that podman says a container has.
func (s site) address(name string, family int) string {
	s.t.Helper()
	key := map[int]string{4: "IPAddress", 6: "GlobalIPv6Address"}[family]
	return s.sh(`podman inspect --format '{{range .NetworkSettings.Networks}}{{.` + key + `}}{{end}}' ` + name)
}

// podmanConflicts: addresses that others have are refused in the plugin's words,
// and nothing is left of who wanted them.
func (s site) podmanConflicts() {
	s.t.Helper()
	with := s.state()
	run := "podman run --detach --name other --network vips:ip=IP,ip=2001:db8::20 " + podmanImage
	s.refused(strings.ReplaceAll(run, "IP,", peer4+","), "VIP "+peer4+" is in use by ")
	s.sh("podman rm --force other")
	s.refused(strings.ReplaceAll(run, "IP,", host4+","), "VIP "+host4+": the host itself has it")
	s.sh("podman rm --force other")
	s.refused(strings.ReplaceAll(run, "IP,", vip4+","), "already allocated to container") // podman's own words
	s.sh("podman rm --force other")
	s.clean(with)
}

// podmanConnect moves a running container into the network and out again, beside
// podman's own bridge.
func (s site) podmanConnect() {
	s.t.Helper()
	s.sh("podman run --detach --name joins --network podman " + podmanImage)
	with := s.state()
	s.sh("podman network connect --ip 192.0.2.20 --ip6 2001:db8::20 vips joins")
	s.reached("192.0.2.20", "2001:db8::20")
	s.sh("podman network disconnect vips joins")
	s.clean(with)
	s.silent("192.0.2.20")
	s.sh("podman rm --force --time 0 joins")
	s.sh("ip link delete podman0 2>/dev/null || true")
}

// podmanSurvives: a restart keeps addresses and MAC, and the end of a
// container's process gives the VIP back.
func (s site) podmanSurvives() {
	s.t.Helper()
	mac := `podman inspect --format '{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}' web`
	before := s.sh(mac)
	s.sh("podman stop --time 0 web")
	s.silent(vip4)
	s.sh("podman start web")
	s.reached(vip4, vip6)
	if after := s.sh(mac); after != before {
		s.t.Errorf("after a restart the MAC is %s, not %s", after, before)
	}
}

// podmanMisuse: networks that could not work are not made.
func (s site) podmanMisuse() {
	s.t.Helper()
	create := "podman network create --driver macvlan-vip "
	for options, why := range map[string]string{
		"--opt parent=eth9 --subnet 192.0.2.0/24 wrong":                    `master: "eth9": no such link`,
		"--opt parent=eth0 wrong":                                          `subnet: "": missing`,
		"--opt parent=eth0 --ipam-driver dhcp wrong":                       `ipam-driver: "dhcp": not supported`,
		"--opt parent=eth0 --opt isolate=true --subnet 192.0.2.0/24 wrong": `option: "isolate": unknown`,
		"--opt parent=eth0 --opt mtu=big --subnet 192.0.2.0/24 wrong":      `option mtu: "big": not a whole number`,
		"--opt parent=eth0 --opt table=9999999999 --subnet 192.0.2.0/24 w": `table: "9999999999": not a routing table`,
	} {
		s.refused(create+options, why)
	}
}

// TestPodman5 runs podman 5 of Debian 13 on this machine's kernel, without a
// systemd.
func TestPodman5(t *testing.T) {
	m := newMachine(t, trixie(t))
	m.podmanWrapper()
	m.load("podman load --input", podmanImage, "serve")
	podman5(m.site)
}

// TestPodman4 is podman's old way, a CNI network.
func TestPodman4(t *testing.T) {
	m := newPodman4(t)
	before := m.state()
	steps := strings.Split(strings.TrimSpace(fenced(t, "podman 4", "sh")), "\n") // run, remove
	for range 2 {                                                                // the second start is at once, with the same VIPs
		m.sh(steps[0])
		m.reached(vip4, vip6)
		m.sh(steps[1])
		m.clean(before)
	}
}

func newPodman4(t testing.TB) *machine {
	t.Helper()
	requirePackages(t, "podman", "runc")
	m := newMachine(t, "")
	m.write("/etc/containers/containers.conf", fenced(t, "podman 4", "toml"))
	m.write("/etc/cni/net.d/web.conflist", fenced(t, "The network", "json"))
	m.podmanWrapper()
	m.load("podman load --input", podmanImage, "serve")
	return m
}

// TestPodmanJoins: a container joins the namespace that the shim has made.
func TestPodmanJoins(t *testing.T) {
	m := newPodman4(t)
	before := m.state()
	m.sh("ip netns add web && /usr/local/bin/systemd-netns-helper add web")
	with := m.state()
	for range 2 {
		m.sh("podman run --detach --name web --network ns:/run/netns/web " + podmanImage)
		m.reached(vip4, vip6)
		m.sh("podman rm --force --time 0 web")
		m.clean(with)
	}
	m.sh("/usr/local/bin/systemd-netns-helper clear web")
	m.clean(before)
}

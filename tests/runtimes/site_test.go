package runtimes

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/page"
	"macvlan-vip/tests/testnet"
)

// guide is the page that the tests take commands and configuration from.
const guide = "../../docs/runtimes.md"

// blocks are those of a language in a section of the page.
func blocks(t testing.TB, section, language string) []string {
	t.Helper()
	found, err := page.Blocks(guide, section, language)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// fenced is the first of them.
func fenced(t testing.TB, section, language string) string {
	t.Helper()
	return blocks(t, section, language)[0]
}

// The addresses in the page, and those of the site.
const (
	vip4, vip6   = "192.0.2.10", "2001:db8::10"
	host4, host6 = "192.0.2.2", "2001:db8::2"
	peer4, peer6 = "192.0.2.3", "2001:db8::3"
)

// site is a host with a container runtime, and a peer on its LAN.
type site struct {
	t testing.TB
	// try runs a shell script on the host.
	try func(script string) (string, error)
	lan *testnet.Namespace
	// patience bounds the wait for a container's process to listen.
	patience time.Duration
}

// newLAN gives the LAN the addresses of the peer and the gateways. The peer's own
// are those that the kernel prefers: the first of IPv4, the last of IPv6.
func newLAN(lan *testnet.Namespace, port string) {
	for _, address := range []string{peer4 + "/24", "192.0.2.1/24", "2001:db8::1/64", peer6 + "/64"} {
		lan.AddAddress(port, address)
	}
}

// sh runs a script on the host, which may not fail.
func (s site) sh(script string) string {
	s.t.Helper()
	out, err := s.try(script)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// refused asserts that a script fails, and that it says why.
func (s site) refused(script, why string) {
	s.t.Helper()
	out, err := s.try(script)
	if err == nil || !strings.Contains(err.Error()+out, why) {
		s.t.Errorf("%s: got %v, %s; want an error that says %q", script, err, out, why)
	}
}

// state is all that attachments change on a host; host-local keeps a lock and the
// address that it gave last.
func (s site) state() string {
	s.t.Helper()
	return s.sh(`
ip -o link show | sed 's/ state [A-Z]* / /; s/link-netns[^ ]* [^ ]*//'
ip -o address show scope global
ip -4 route show table all
ip -6 route show table all proto 118
ip neigh show nud permanent | sort
find /run/cni /run/netns /var/lib/cni ! -type d ! -path '/run/cni/ipam/*/l*' 2>/dev/null | sort || true`)
}

// clean asserts that all is as it was when the state was taken.
func (s site) clean(before string) {
	s.t.Helper()
	if after := s.state(); after != before {
		s.t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, before)
	}
}

// reached asserts that host and LAN reach each VIP, and that it sees them at
// their own addresses.
func (s site) reached(vips ...string) {
	s.t.Helper()
	for _, vip := range vips {
		s.sees(vip, like(vip, host4, host6), s.try)
		s.sees(vip, like(vip, peer4, peer6), s.lan.Shell)
	}
}

// like is the one of a station's addresses that is of a VIP's family.
func like(vip, four, six string) string {
	if strings.Contains(vip, ":") {
		return six
	}
	return four
}

// sees asserts that a container sees who asks it at an address.
func (s site) sees(vip, want string, try func(string) (string, error)) {
	s.t.Helper()
	url := "http://" + netip.AddrPortFrom(netip.MustParseAddr(vip), 80).String()
	testnet.Within(s.t, s.patience, url+" answers "+want, func() error {
		out, err := try("curl --silent --show-error --noproxy '*' --connect-timeout 2 --max-time 5 '" + url + "'")
		if err != nil {
			return err
		}
		seen, err := netip.ParseAddr(strings.TrimSpace(out))
		if err != nil || seen.Unmap() != netip.MustParseAddr(want) {
			return fmt.Errorf("it sees its peer at %q", out)
		}
		return nil
	})
}

// silent asserts that nobody on the LAN has a VIP.
func (s site) silent(vip string) {
	s.t.Helper()
	if out, err := s.lan.Shell("ip neigh flush all; ping -c1 -W1 " + vip); err == nil {
		s.t.Errorf("%s answers: %s", vip, out)
	}
}

package lan

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

// announcers are the processes on a host that go on announcing after ADD.
func (s *station) announcers() []int { return s.Processes("announce") }

// announcer is the one that a service has, once it shows in /proc.
func (s *station) announcer(t *testing.T) (pid int) {
	t.Helper()
	eventually(t, func() error {
		pids := s.announcers()
		if len(pids) != 1 {
			return fmt.Errorf("announcers: %v, want one", pids)
		}
		pid = pids[0]
		return nil
	})
	return pid
}

func (s *station) noAnnouncers() error {
	if pids := s.announcers(); len(pids) > 0 {
		return fmt.Errorf("announcers are still there: %v", pids)
	}
	return nil
}

// Every VIP is announced in every form, once before ADD returns and then as
// often as configured; the process that does so ends.
func TestAnnouncements(t *testing.T) {
	t.Parallel()
	const count = 3
	l := newLAN(t)
	host := l.station("10.0.0.1/8", "2001:db8::1/64")
	sv := host.service("c1", fmt.Sprintf(`"probe": {"count": 1, "waitMs": 20}, "announce": {"count": %d, "intervalMs": 200}`, count), many(20, 1)...)
	seen := host.capture()
	sv.mustAdd(t)
	returned := time.Now()
	mac := sv.mac
	eventually(t, func() error {
		for _, vip := range sv.vips {
			if got := announced(seen, vip, mac); got < count {
				return fmt.Errorf("%s was announced %d times, want %d", vip, got, count)
			}
		}
		return nil
	})
	eventually(t, host.noAnnouncers)
	for _, vip := range sv.vips {
		if got := announced(seen, vip, mac); got != count {
			t.Errorf("%s was announced %d times, want %d", vip, got, count)
		}
	}
	firstRoundBefore(t, seen, sv.vips, returned)
	for _, c := range seen.Claims() {
		if c.Kind == testnet.Unsolicited && c.MAC == mac && (!c.Override || c.From != c.Addr) {
			t.Errorf("advertisement of %s from %s, override flag %t", c.Addr, c.From, c.Override)
		}
	}
}

// announced counts the whole rounds: both forms of gratuitous ARP, or the
// unsolicited advertisement.
func announced(seen *testnet.Capture, vip netip.Addr, mac string) int {
	got := kinds(seen, vip, mac)
	if vip.Is6() {
		return got[testnet.Unsolicited]
	}
	return min(got[testnet.GratuitousRequest], got[testnet.GratuitousReply])
}

func firstRoundBefore(t *testing.T, seen *testnet.Capture, vips []netip.Addr, returned time.Time) {
	t.Helper()
	first := map[netip.Addr]time.Time{}
	for _, c := range seen.Claims() {
		if _, known := first[c.Addr]; !known && c.Kind != testnet.Probe && c.Kind != testnet.Ask {
			first[c.Addr] = c.At
		}
	}
	for _, vip := range vips {
		if at := first[vip]; at.After(returned) {
			t.Errorf("%s was announced first %s after ADD had returned", vip, at.Sub(returned))
		}
	}
}

// longAnnounce has the announcer run for much longer than any test.
const longAnnounce = `"probe": {"count": 1, "waitMs": 20}, "announce": {"count": 100, "intervalMs": 200}`

// The announcer ends when the service is deleted or its namespace removed, and
// says nothing any more of an address that may be another host's by now.
func TestAnnouncerEndsWithTheService(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *service){
		"DEL": func(t *testing.T, sv *service) {
			if err := sv.chain.Del(sv.Attachment); err != nil {
				t.Fatal(err)
			}
		},
		"netns removed": func(t *testing.T, sv *service) {
			sv.Service.Remove()
			eventually(t, func() error { return macIsFree(sv) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			host := l.station("10.0.0.1/16", "2001:db8::1/64")
			sv := host.service("c1", longAnnounce, "10.0.0.10/16", "2001:db8::10/64")
			seen := host.capture()
			sv.mustAdd(t)
			mac := sv.mac
			host.announcer(t)
			end(t, sv)
			ended := time.Now()
			eventually(t, host.noAnnouncers)
			for _, c := range seen.Claims() {
				if c.MAC == mac && c.At.After(ended) {
					t.Errorf("%s of %s %s after the service's end", c.Kind, c.Addr, c.At.Sub(ended))
				}
			}
		})
	}
}

// Between rounds the announcer keeps no namespace: the service's goes as soon
// as it is removed, and with it mv0.
func TestAnnouncerKeepsNoNamespace(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host := l.station("10.0.0.1/16")
	sv := host.service("c1", `"probe": {"count": 1, "waitMs": 20}, "announce": {"count": 2, "intervalMs": 30000}`, "10.0.0.10/16")
	sv.mustAdd(t)
	announcer := host.announcer(t)
	t.Cleanup(func() { _ = syscall.Kill(announcer, syscall.SIGKILL) })
	sv.Service.Remove()
	eventually(t, func() error { return macIsFree(sv) })
	if now := host.announcers(); !slices.Equal(now, []int{announcer}) {
		t.Errorf("announcers: %d, then %v: this shows nothing unless it slept all the time", announcer, now)
	}
}

// macIsFree tells whether another link can have mv0's MAC.
func macIsFree(sv *service) error {
	if _, err := sv.Host.TryIP("link add free link eth0 address " + sv.mac + " type macvlan mode bridge"); err != nil {
		return err
	}
	defer sv.Host.IP("link del free")
	_, err := sv.Host.TryIP("link set free up")
	return err
}

// A service of 100 VIPs moves to another host while a peer talks to all of
// them. One announcement puts every entry of the peer's right; the peer itself
// has no reason to ask for anything.
func TestMove(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.station("10.0.0.1/8", "2001:db8::1/64"), l.station("10.0.0.2/8", "2001:db8::2/64")
	peer := l.station("10.0.0.5/8", "2001:db8::5/64")
	for _, family := range []string{"ipv4", "ipv6"} {
		peer.Sysctl("net/"+family+"/neigh/eth0/base_reachable_time_ms", "600000")
	}
	vips := many(100, 1)
	from, to := a.service("c1", quick, vips...), b.service("c1", quick, vips...)
	from.mustAdd(t)
	from.Service.Echo(echoPort, from.vips...)
	traffic := peer.flow(t, from.vips, 50*time.Millisecond)
	eventually(t, func() error { return allAt(peer, from.vips, from.mac) })
	eventually(t, traffic.answered)

	seen := peer.capture()
	if err := from.chain.Del(from.Attachment); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	to.mustAdd(t)
	mac := to.mac
	eventually(t, func() error { return allAt(peer, to.vips, mac) })
	moved := time.Now()
	for _, c := range seen.Claims() {
		if c.Kind == testnet.Ask && c.MAC == macOf(peer.Namespace, "eth0") {
			t.Errorf("the peer asked for %s: its entry may be right on account of that", c.Addr)
		}
	}
	to.Service.Echo(echoPort, to.vips...)
	traffic.forget()
	eventually(t, traffic.answered)
	for _, vip := range to.vips {
		if got := announced(seen, vip, mac); got != 1 {
			t.Errorf("%s was announced %d times, want once", vip, got)
		}
	}
	t.Logf("from DEL to right entries for all of %d VIPs: %s", len(vips), moved.Sub(deleted))
}

// allAt tells whether a station has all addresses at a MAC.
func allAt(s *station, addrs []netip.Addr, mac string) error {
	have := neighbours(s.Namespace, "eth0")
	wrong := 0
	for _, addr := range addrs {
		if have[addr] != mac {
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d entries are not at %s, such as %v", wrong, len(addrs), mac, have[addrs[0]])
	}
	return nil
}

package cni

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

// static is an ipam section with addresses of 10.99.0.0/16 and 2001:db8::/64,
// by their last part.
func static(parts ...int) string {
	var addrs []string
	for _, n := range parts {
		addrs = append(addrs, fmt.Sprintf(`{"address": "10.99.1.%d/16"}, {"address": "2001:db8::1:%d/64"}`, n, n))
	}
	return `"ipam": {"type": "static", "addresses": [` + strings.Join(addrs, ", ") + `]}`
}

// vips are the addresses of static.
func vips(parts ...int) (addrs []netip.Addr) {
	for _, n := range parts {
		addrs = append(addrs, netip.MustParseAddr(fmt.Sprintf("10.99.1.%d", n)), netip.MustParseAddr(fmt.Sprintf("2001:db8::1:%d", n)))
	}
	return addrs
}

func span(from, to int) (parts []int) {
	for n := from; n < to; n++ {
		parts = append(parts, n)
	}
	return parts
}

// newWideLab is a lab of static's networks, with a LAN peer.
func newWideLab(t *testing.T) *lab {
	l := newLab(t, "10.99.0.1/16", "2001:db8::1/64")
	l.lan.AddAddress("port", "10.99.0.2/16")
	l.lan.AddAddress("port", "2001:db8::2/64")
	return l
}

// pings asks an address a hundred times a second until stop, which tells of the
// answers that are missing.
func pings(t *testing.T, who string, from *testnet.Namespace, to netip.Addr) (stop func()) {
	t.Helper()
	var out strings.Builder
	cmd := exec.Command("ping", "-n", "-i", "0.01", "-W", "2", to.String())
	cmd.Stdout = &out
	from.Do(cmd.Start)
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return func() {
		t.Helper()
		ended = true
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		var sent int
		var answered []int
		for line := range strings.Lines(out.String()) {
			seq := 0
			_, text, _ := strings.Cut(line, "icmp_seq=")
			if n, _ := fmt.Sscanf(text, "%d", &seq); n == 1 {
				answered = append(answered, seq)
			}
			_, _ = fmt.Sscanf(line, "%d packets transmitted", &sent)
		}
		// The last ones may have been on their way: on a slow machine for 0.1 s.
		lost := slices.DeleteFunc(span(1, max(sent-10, slices.Max(append(answered, 0)))+1), func(seq int) bool { return slices.Contains(answered, seq) })
		if len(answered) < 10 {
			t.Errorf("ping %s: %s", to, out.String())
		}
		if len(lost) > 0 {
			t.Errorf("the %s's pings of %s: no answer to %v of %d", who, to, lost, sent)
		}
	}
}

// held is a connection that repeats what it hears.
func held(t *testing.T, service, from *testnet.Namespace, to netip.Addr) (goesOn func()) {
	t.Helper()
	var listener net.Listener
	service.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(to, 0).String())
		return err
	})
	t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	var conn net.Conn
	from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return func() {
		t.Helper()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err := conn.Write([]byte("?"))
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1))
		}
		if err != nil {
			t.Errorf("the connection to %s: %v", to, err)
		}
	}
}

// TestChange: an add that is repeated with other addresses changes those, the
// first of their subnets among them, and nothing else: no packet of the others
// is lost, connections live on, link and MAC stay. What was asked and announced
// on the LAN is about the new addresses alone.
func TestChange(t *testing.T) {
	for name, tt := range map[string]struct{ was, is []int }{
		"one":     {span(10, 12), span(11, 13)},
		"hundred": {span(10, 110), span(60, 160)},
	} {
		t.Run(name, func(t *testing.T) {
			l := newWideLab(t)
			before := l.state()
			a := &tool{lab: l, netns: testnet.New(t)}
			a.folder, a.network = l.chain(static(tt.was...))
			a.add()
			link := testnet.Steady(a.netns.IP("-o link show eth0"))
			kept, news := slices.Clone(tt.was), slices.Clone(tt.is)
			kept = slices.DeleteFunc(kept, func(n int) bool { return !slices.Contains(tt.is, n) })
			news = slices.DeleteFunc(news, func(n int) bool { return slices.Contains(tt.was, n) })
			gone := slices.DeleteFunc(slices.Clone(tt.was), func(n int) bool { return slices.Contains(tt.is, n) })

			var stops []func()
			for _, vip := range vips(kept[0], kept[len(kept)-1]) {
				stops = append(stops, pings(t, "host", l.host, vip), pings(t, "peer", l.lan, vip))
			}
			fromHost, fromLAN := held(t, a.netns, l.host, vips(kept[0])[0]), held(t, a.netns, l.lan, vips(kept[0])[1])
			capture := l.lan.Capture("port")
			time.Sleep(300 * time.Millisecond)
			a.folder, _ = l.chain(static(tt.is...))
			result := a.add()
			time.Sleep(300 * time.Millisecond)
			for _, stop := range stops {
				stop()
			}
			fromHost()
			fromLAN()
			if now := testnet.Steady(a.netns.IP("-o link show eth0")); now != link {
				t.Errorf("the link is another: %s", cmp.Diff(link, now))
			}
			if len(result.IPs) != 2*len(tt.is) {
				t.Errorf("result: %d addresses", len(result.IPs))
			}
			a.must("check")
			if len(tt.is) < 10 {
				a.reachable(result)
			}
			wantOnLink(t, a.netns, vips(tt.is...))
			if out := l.host.IP("route show table local proto 118") + l.host.IP("-6 route show table local proto 118") + l.host.IP("neigh show nud permanent"); mentions(out, vips(gone...)) {
				t.Errorf("the host still has a way to the VIPs that went:\n%s", out)
			}
			spoken := map[netip.Addr]bool{}
			for _, c := range capture.Claims() {
				if slices.Contains([]testnet.ClaimKind{testnet.Probe, testnet.GratuitousReply, testnet.GratuitousRequest, testnet.Unsolicited}, c.Kind) {
					spoken[c.Addr] = true
				}
			}
			for _, vip := range vips(news...) {
				if !spoken[vip] {
					t.Errorf("%s was not announced", vip)
				}
			}
			for _, vip := range vips(append(kept, gone...)...) {
				if spoken[vip] {
					t.Errorf("%s was spoken of on the LAN", vip)
				}
			}
			// What went is free for others, at once.
			other := &tool{lab: l, netns: testnet.New(t)}
			other.folder, other.network = l.chain(static(gone...))
			other.add()
			other.must("del")
			a.must("del")
			l.mustBe(before, "after del")
			a.nothingLeft()
		})
	}
}

func wantOnLink(t *testing.T, service *testnet.Namespace, want []netip.Addr) {
	t.Helper()
	out := service.IP("-o address show dev eth0 scope global")
	if n := strings.Count(out, "\n"); n != len(want) {
		t.Errorf("%d addresses on the link, not %d:\n%s", n, len(want), out)
	}
	for _, vip := range want {
		if !strings.Contains(out, " "+vip.String()+"/") {
			t.Errorf("%s is not on the link:\n%s", vip, out)
		}
	}
}

func mentions(out string, addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		return regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(a.String()) + ` `).MatchString(out)
	})
}

// whole is the state of a service and its host, without what a change for
// nothing may leave in the record, and in the order of the addresses.
func (a *tool) whole() string {
	a.t.Helper()
	return unordered(a.host.Snapshot() + a.netns.Snapshot() + files(a.t, a.leases))
}

// unordered is a state without the order of its addresses and links.
func unordered(state string) string {
	// The source of the kernel's own routes is the first address of the subnet.
	state = regexp.MustCompile(`(?m)(proto kernel .*) src \S+`).ReplaceAllString(state, "$1")
	all := strings.Split(regexp.MustCompile(`(?m)( secondary|^\d+: |@if\d+)`).ReplaceAllString(state, ""), "\n")
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// TestChangeFails: whatever keeps an add from changing the addresses, those
// that were there stay, in the kernel, the lease and the records; what did come
// to be changed, an add with the configuration of before changes back.
func TestChangeFails(t *testing.T) {
	local := func(l *lab, start, end int) string {
		return fmt.Sprintf(`"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.99.0.0/16", "rangeStart": "10.99.1.%d", "rangeEnd": "10.99.1.%d"}]]}`, l.leases, start, end)
	}
	const foreign = "address add 10.99.1.40/16 dev port"
	for name, tt := range map[string]struct {
		was, is func(l *lab) string
		spoil   func(l *lab)
		names   string
		code    uint
	}{
		"conflict": {
			func(*lab) string { return static(10, 11) }, func(*lab) string { return static(11, 40) },
			func(l *lab) { l.lan.IP(foreign) }, "10.99.1.40", 100,
		},
		"conflict with host-local": {
			func(l *lab) string { return local(l, 10, 20) }, func(l *lab) string { return local(l, 40, 40) },
			func(l *lab) { l.lan.IP(foreign) }, "10.99.1.40", 100,
		},
		"conflict, from host-local to static": {
			func(l *lab) string { return local(l, 10, 20) }, func(*lab) string { return static(40) },
			func(l *lab) { l.lan.IP(foreign) }, "10.99.1.40", 100,
		},
		"IPAM fails": {
			func(l *lab) string { return local(l, 10, 20) }, func(l *lab) string { return local(l, 30, 20) },
			func(*lab) {}, "host-local", types.ErrInvalidNetworkConfig,
		},
		"no such IPAM plugin": {
			func(l *lab) string { return local(l, 10, 20) }, func(*lab) string { return `"ipam": {"type": "nonesuch"}` },
			func(*lab) {}, "nonesuch", types.ErrInvalidNetworkConfig,
		},
		"host's own address": {
			func(*lab) string { return static(10, 11) }, func(*lab) string { return `"ipam": {"type": "static", "addresses": [{"address": "10.99.0.1/16"}]}` },
			func(*lab) {}, "10.99.0.1", 100,
		},
		"hairpin-route fails": {
			func(*lab) string { return static(10, 11) }, func(*lab) string { return static(11, 40) },
			func(l *lab) { l.host.IP("route add 10.99.1.40 dev eth0 table local metric 100 proto static") }, "10.99.1.40", 100,
		},
		"hairpin-route fails with host-local": {
			func(l *lab) string { return local(l, 10, 20) }, func(l *lab) string { return local(l, 40, 40) },
			func(l *lab) { l.host.IP("route add 10.99.1.40 dev eth0 table local metric 100 proto static") }, "10.99.1.40", 100,
		},
		"more than addresses": {
			func(*lab) string { return static(10, 11) }, func(*lab) string { return `"mtu": 1400, ` + static(11, 12) },
			func(*lab) {}, "another configuration: mtu", types.ErrInvalidNetworkConfig,
		},
		"no addresses at all": {
			func(*lab) string { return static(10) }, func(*lab) string { return `"mode": "bridge"` },
			func(*lab) {}, "another configuration", types.ErrInvalidNetworkConfig,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newWideLab(t)
			before := l.state()
			a := &tool{lab: l, netns: testnet.New(t)}
			a.folder, a.network = l.chain(tt.was(l))
			was, folder := a.add(), a.folder
			tt.spoil(l)
			whole := a.whole()
			a.folder, _ = l.chain(tt.is(l))
			o := a.run("add")
			if o.ok() || !strings.Contains(o.stdout+o.stderr, tt.names) {
				t.Errorf("want an error with %q: %s", tt.names, o)
			}
			a.folder = folder
			if strings.HasPrefix(name, "hairpin-route") {
				if diff := cmp.Diff(was.IPs, a.add().IPs); diff != "" {
					t.Errorf("changed back, other addresses: %s", diff)
				}
			}
			if diff := lines(whole, a.whole()); diff != "" {
				t.Errorf("after the failure: %s", diff)
			}
			a.must("check")
			a.reachable(was)
			// And it can still be changed.
			a.folder, _ = l.chain(static(12))
			a.reachable(a.add())
			a.must("check")
			a.must("del")
			_, _ = l.host.TryIP("route del 10.99.1.40 dev eth0 table local metric 100 proto static")
			l.mustBe(before, "after del")
			a.nothingLeft()
		})
	}
}

// TestKilledChange kills either plugin before each of its changes while it
// changes addresses. The VIP that stays is reached all the time; an add with
// either configuration makes everything as that has it.
func TestKilledChange(t *testing.T) {
	for _, plugin := range plugins {
		t.Run(plugin, func(t *testing.T) {
			t.Parallel()
			l := newWideLab(t)
			without := l.state()
			network := fmt.Sprintf("lab-%d", l.cookie())
			linkConf := func(parts ...int) string {
				return conf("1.1.0", "macvlan-vip", network, `"master": "eth0", "addressConflict": "ignore", `+static(parts...))
			}
			p := &pair{attachment: l.attachment("c1"), hairpin: conf("1.1.0", "hairpin-route", network, "")}
			turn := func(parts ...int) {
				t.Helper()
				p.link = linkConf(parts...)
				p.hairpin = with(t, p.hairpin, "prevResult", json.RawMessage(p.must("macvlan-vip", "ADD", p.link).stdout))
				p.must("hairpin-route", "ADD", p.hairpin)
			}
			all := func() string {
				return unordered(l.host.Snapshot() + p.service.Snapshot())
			}
			was, is := []int{10, 11}, []int{11, 12}
			turn(is...)
			p.down()
			turn(was...)
			wholeWas := all()
			// The one killed, or what is asked before it.
			begin := func(at func(change) tampering) outcome {
				p.link = linkConf(is...)
				if plugin == "macvlan-vip" {
					return p.traced(plugin, "ADD", p.link, at)
				}
				p.hairpin = with(t, p.hairpin, "prevResult", json.RawMessage(p.must("macvlan-vip", "ADD", p.link).stdout))
				return p.traced(plugin, "ADD", p.hairpin, at)
			}
			seen := map[change]bool{}
			if o := begin(func(at change) (what tampering) { seen[at] = true; return what }); !o.ok() {
				t.Fatal(o)
			}
			p.must("hairpin-route", "ADD", with(t, p.hairpin, "prevResult", json.RawMessage(p.must("macvlan-vip", "ADD", p.link).stdout)))
			wholeIs := all()
			points := sample(slices.SortedFunc(maps.Keys(seen), change.compare))
			for i, at := range points {
				turn(was...)
				begin(func(now change) (what tampering) { what.kill = now == at; return what })
				for _, vip := range vips(11) {
					for _, from := range []*testnet.Namespace{l.host, l.lan} {
						if err := from.Ping(vip); err != nil {
							t.Errorf("killed before %s: %v", at, err)
						}
					}
				}
				want, then := wholeWas, was
				if i%2 == 1 {
					want, then = wholeIs, is
				}
				turn(then...)
				if diff := lines(want, all()); diff != "" {
					t.Errorf("killed before %s, then %v: %s", at, then, diff)
				}
				if i%8 == 7 {
					begin(func(now change) (what tampering) { what.kill = now == at; return what })
					p.down()
					l.mustBe(without, "killed before "+at.String()+", then DEL")
				}
			}
			t.Logf("%d changes", len(points))
			p.down()
			l.mustBe(without, "after DEL")
		})
	}
}

package cni

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"macvlan-vip/tests/testnet"
)

// uplink gives the lab's host one more uplink, eth1, and a LAN peer at its end.
func (l *lab) uplink() {
	l.t.Helper()
	testnet.Cable(l.t, l.host, "eth1", l.lan, "port1")
	l.host.AddAddress("eth1", "198.51.100.1/24")
	l.lan.AddAddress("port1", "198.51.100.5/24")
}

// again repeats the ADDs, after which CHECK finds everything, and the host and the
// LAN reach the first VIP.
func (p *pair) again(vip netip.Addr) {
	p.t.Helper()
	p.link = with(p.t, p.link, "prevResult", nil)
	prev := json.RawMessage(p.must("macvlan-vip", "ADD", p.link).stdout)
	p.link, p.hairpin = with(p.t, p.link, "prevResult", prev), with(p.t, p.hairpin, "prevResult", prev)
	p.must("hairpin-route", "ADD", p.hairpin)
	for _, plugin := range plugins {
		p.must(plugin, "CHECK", p.config(plugin))
	}
	for _, from := range []*testnet.Namespace{p.host, p.lan} {
		if err := from.Ping(vip); err != nil {
			p.t.Error(err)
		}
	}
}

// known is what the LAN knows a service by: its MAC and its addresses.
func (p *pair) known() string {
	p.t.Helper()
	link, addrs := strings.Fields(p.service.IP("-br link show mv0")), strings.Fields(p.service.IP("-br address show mv0 scope global"))
	return strings.Join(slices.Concat(link[2:3], addrs[2:]), "\n")
}

// TestLinkGone: a service's link is deleted, by itself or with its master. A
// repeated ADD makes it again, with its MAC and the addresses that IPAM gave. It
// does not ask IPAM, which could give others, or give these to others.
func TestLinkGone(t *testing.T) {
	local := func(l *lab) (ipam, vip string) { return l.hostLocal("198.51.100.0/24"), "198.51.100.2" }
	another := func(*lab) (ipam, vip string) { return `"ipam": {"type": "spy"}`, "198.51.100.10" }
	alone := func(p *pair) { p.service.IP("link del mv0") }
	for name, tt := range map[string]struct {
		ipam func(l *lab) (ipam, vip string)
		lose func(p *pair)
	}{
		"link":                           {local, alone},
		"link, with another IPAM plugin": {another, alone},
		"master":                         {local, func(p *pair) { p.host.IP("link del eth1"); p.uplink() }},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "192.0.2.1/24")
			ipam := newSpy(l, "198.51.100.10/24")
			l.uplink()
			defer l.host.IP("link del eth1")
			keys, text := tt.ipam(l)
			vip := netip.MustParseAddr(text)
			p := l.up(t, "c1", "1.1.0", `"master": "eth1", `+keys)
			known, leases := p.known(), files(t, l.leases)
			for range 2 {
				tt.lose(p)
				ipam.calls()
				p.again(vip)
				if diff := lines(known, p.known()); diff != "" {
					t.Errorf("it is another link: %s", diff)
				}
				if diff := lines(leases, files(t, l.leases)); diff != "" {
					t.Errorf("the lease is another: %s", diff)
				}
				if verbs := ipam.verbs(); strings.Contains(verbs, "ADD") || strings.Contains(verbs, "DEL") {
					t.Errorf("IPAM was asked: %s", verbs)
				}
				other := l.attachment("other")
				refused(t, other.run("macvlan-vip", "ADD", conf("1.1.0", "macvlan-vip", "other", `"master": "eth1", "ipam": {"addresses": [{"address": "`+text+`/24"}]}`)), 100)
			}
			p.down()
		})
	}
}

// TestLinkGoneAndVIPTaken: while a service had no link, a LAN peer took its VIP. It
// keeps the lease, and gets the VIP when the peer leaves.
func TestLinkGoneAndVIPTaken(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	p := l.up(t, "c1", "1.1.0", `"master": "eth0", `+l.hostLocal("192.0.2.0/24"))
	known, leases := p.known(), files(t, l.leases)
	p.service.IP("link del mv0")
	l.lan.AddAddress("port", "192.0.2.2/24")
	p.link = with(t, p.link, "prevResult", nil)
	refused(t, p.run("macvlan-vip", "ADD", p.link), 100)
	if diff := lines(leases, files(t, l.leases)); diff != "" {
		t.Errorf("refused, the lease is another: %s", diff)
	}
	l.lan.IP("address del 192.0.2.2/24 dev port")
	l.lan.AddAddress("port", "192.0.2.5/24")
	p.again(netip.MustParseAddr("192.0.2.2"))
	if diff := lines(known, p.known()); diff != "" {
		t.Errorf("it is another link: %s", diff)
	}
	p.down()
}

// TestADDAfterFailedDEL asks IPAM anew, which may have given the addresses away.
func TestADDAfterFailedDEL(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	ipam := newSpy(l, "192.0.2.10/24")
	p := l.up(t, "c1", "1.1.0", `"master": "eth0", "ipam": {"type": "spy"}`)
	ipam.fails("DEL", 11)
	if o := p.verb("macvlan-vip", "DEL"); o.ok() {
		t.Errorf("DEL without IPAM's: %s", o)
	}
	ipam.answers("DEL", "")
	ipam.answers("ADD", `{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.20/24"}]}`)
	ipam.calls()
	l.lan.AddAddress("port", "192.0.2.5/24")
	p.again(netip.MustParseAddr("192.0.2.20"))
	if verbs := ipam.verbs(); !strings.HasPrefix(verbs, "DEL ADD") {
		t.Errorf("IPAM was asked: %s", verbs)
	}
	p.down()
}

// TestDefaultRouteMoves: without the key master, a service stays on the link that had
// the default route when it was added, wherever the route or the link's name is now.
func TestDefaultRouteMoves(t *testing.T) {
	for name, events := range map[string][]string{
		"moves":                      {"route replace default via 192.0.2.5 dev eth0"},
		"moves, and the link goes":   {"route replace default via 192.0.2.5 dev eth0", "@link del mv0"},
		"goes":                       {"route del default"},
		"moves, and a name, too":     {"link set eth1 down", "link set eth1 name lan1", "link set lan1 up", "route add default via 192.0.2.5 dev eth0"},
		"moves, and names are mixed": {"link set eth1 down", "link set eth1 name lan1", "link set lan1 up", "link add eth1 type bridge", "link set eth1 up", "route add default via 192.0.2.5 dev eth0"},
		"moves, names are mixed, and the link goes": {"link set eth1 down", "link set eth1 name lan1", "link set lan1 up", "link add eth1 type bridge", "link set eth1 up", "route add default via 192.0.2.5 dev eth0", "@link del mv0"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "192.0.2.1/24")
			l.lan.AddAddress("port", "192.0.2.5/24")
			l.uplink()
			l.host.IP("route add default via 198.51.100.5 dev eth1")
			p := l.up(t, "c1", "1.1.0", `"ipam": {"addresses": [{"address": "198.51.100.10/24"}]}`)
			known := p.known()
			for _, event := range events {
				if inner, isInside := strings.CutPrefix(event, "@"); isInside {
					p.service.IP(inner)
					continue
				}
				l.host.IP(event)
			}
			if !strings.Contains(name, "the link goes") {
				p.must("macvlan-vip", "CHECK", p.link)
			}
			host := l.host.Snapshot()
			p.again(netip.MustParseAddr("198.51.100.10"))
			if diff := lines(host, l.host.Snapshot()); diff != "" {
				t.Errorf("a repeated ADD changed the host: %s", diff)
			}
			if diff := lines(known, p.known()); diff != "" {
				t.Errorf("it is another link: %s", diff)
			}
			p.down()
			for _, link := range []string{"eth1", "lan1"} {
				_, _ = l.host.TryIP("link del " + link)
			}
			_, _ = l.host.TryIP("route del default")
		})
	}
}

// TestMasterGone: the master is deleted, while another link has a default route, too. The
// service does not move there, and is back as soon as the master is.
func TestMasterGone(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	l.lan.AddAddress("port", "192.0.2.5/24")
	l.uplink()
	l.host.IP("route add default via 198.51.100.5 dev eth1")
	l.host.IP("route add default via 192.0.2.5 dev eth0 metric 200")
	p := l.up(t, "c1", "1.1.0", `"ipam": {"addresses": [{"address": "198.51.100.10/24"}]}`)
	known := p.known()
	l.host.IP("link del eth1")
	o := p.run("macvlan-vip", "ADD", with(t, p.link, "prevResult", nil))
	refused(t, o, 7)
	for _, words := range []string{"eth1", "try again"} {
		if !strings.Contains(o.String(), words) {
			t.Errorf("no %q in %s", words, o)
		}
	}
	if links := l.host.IP("-o link show"); strings.Contains(links, "mv-int") {
		t.Errorf("the host has:\n%s", links)
	}
	l.uplink()
	p.again(netip.MustParseAddr("198.51.100.10"))
	if diff := lines(known, p.known()); diff != "" {
		t.Errorf("it is another link: %s", diff)
	}
	p.down()
	l.host.IP("link del eth1")
	l.host.IP("route del default")
}

// TestHostSideOfAnotherMaster: a service's mv-int was deleted, and one of that name
// was made for another master. A repeated ADD makes one of another name, and is not
// the one that keeps the other there.
func TestHostSideOfAnotherMaster(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	l.lan.AddAddress("port", "192.0.2.5/24")
	l.uplink()
	defer l.host.IP("link del eth1")
	before := l.state()
	p := l.up(t, "c1", "1.1.0", `"master": "eth1", "ipam": {"addresses": [{"address": "198.51.100.10/24"}]}`)
	l.host.IP("link del mv-int")
	l.up(t, "c2", "1.1.0", staticV4).down()
	p.again(netip.MustParseAddr("198.51.100.10"))
	if out, err := l.host.TryIP("link show mv-int"); err == nil {
		t.Errorf("nobody uses mv-int:\n%s", out)
	}
	p.down()
	l.mustBe(before, "after DEL")
}

// TestMasterRenamed: the last service to go knows the master of mv-int by another
// name than the one that made it.
func TestMasterRenamed(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	l.uplink()
	before := l.state()
	first := l.up(t, "c1", "1.1.0", `"master": "eth1", "ipam": {"addresses": [{"address": "198.51.100.10/24"}]}`)
	rename := func(from, to string) {
		l.host.IP("link set " + from + " down")
		l.host.IP("link set " + from + " name " + to)
		l.host.IP("link set " + to + " up")
	}
	rename("eth1", "lan1")
	second := l.up(t, "c2", "1.1.0", `"master": "lan1", "ipam": {"addresses": [{"address": "198.51.100.11/24"}]}`)
	first.down()
	second.down()
	rename("lan1", "eth1")
	l.mustBe(before, "after DEL")
	l.host.IP("link del eth1")
}

// TestPassthruMAC: the MAC of a master in passthru mode was changed, and the
// service's link has it. Neither CHECK nor a repeated ADD knows better.
func TestPassthruMAC(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	l.uplink()
	defer l.host.IP("link del eth1")
	a := l.attachment("c1")
	passthru := conf("1.1.0", "macvlan-vip", "lan", `"master": "eth1", "mode": "passthru", "ipam": {"addresses": [{"address": "198.51.100.10/24"}]}`)
	added := a.must("macvlan-vip", "ADD", passthru)
	const mac = "02:00:00:00:00:77"
	l.host.IP("link set eth1 address " + mac)
	a.must("macvlan-vip", "CHECK", with(t, passthru, "prevResult", json.RawMessage(added.stdout)))
	added = a.must("macvlan-vip", "ADD", passthru)
	for link, in := range map[string]*testnet.Namespace{"eth1": l.host, "mv0": a.service} {
		if out := in.IP("-br link show " + link); !strings.Contains(out, mac) {
			t.Errorf("its MAC is not %s: %s", mac, out)
		}
	}
	if got := decode(t, "1.1.0", added.stdout).Interfaces[0].Mac; got != mac {
		t.Errorf("the result has the MAC %s", got)
	}
	a.must("macvlan-vip", "DEL", passthru)
}

// TestAddressesThere: a repeated ADD asks the kernel for no address that it has: for each
// IPv6 address that it is asked for, it reports all of the link's multicast groups again.
func TestAddressesThere(t *testing.T) {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	p := l.up(t, "c1", "1.1.0", `"master": "eth0", "ipam": {"type": "static", "addresses": [
		{"address": "192.0.2.10/24"}, {"address": "2001:db8::10/64"}, {"address": "192.0.2.11/24"}, {"address": "2001:db8::11/64"}]}`)
	known := p.known()
	for _, lost := range []string{"", "192.0.2.11/24", "2001:db8::10/64"} {
		want := 0
		if lost != "" {
			want = 1
			p.service.IP("address del " + lost + " dev mv0")
		}
		asked := 0
		o := p.traced("macvlan-vip", "ADD", with(t, p.link, "prevResult", nil), func(at change) (none tampering) {
			if at.about == "RTM_NEWADDR" {
				asked++
			}
			return none
		})
		if !o.ok() || asked != want {
			t.Errorf("lost %q: addresses are asked for %d times, want %d: %s", lost, asked, want, o)
		}
		if diff := lines(known, p.known()); diff != "" {
			t.Errorf("lost %q: other addresses: %s", lost, diff)
		}
	}
	p.down()
}

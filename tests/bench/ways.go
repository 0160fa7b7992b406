package bench

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The contenders' names, as tables and figures have them.
const (
	nameDefault  = "macvlan-vip"
	nameNoProbe  = "macvlan-vip, no probe"
	nameOneRound = "macvlan-vip, no probe, announced once"
	nameQuiet    = "macvlan-vip, no probe, not announced"
	nameArticle  = "article's commands"
	nameUpstream = "upstream macvlan + static + tuning"
	nameFloor    = "ip -batch"
	nameIdle     = "plugins that do nothing"
)

// way is one of the ways to attach a service and to detach it again.
type way struct {
	name string
	// check is nil where there is no such thing.
	add, check, del func(*site) call
	// reachable tells that the host reaches the VIPs.
	reachable bool
	// prepare writes what add and del need, once for a site.
	prepare func(*site)
}

// ways are all of them, the article's last: it leaves the host forwarding.
func ways() []way {
	return []way{wayDefault(), wayNoProbe(), wayOneRound(), wayQuiet(), wayUpstream(), wayFloor(), wayArticle()}
}

// quiet leaves out what waits for the network, or tells it anything.
var quiet = map[string]any{"addressConflict": "ignore", "announce": map[string]any{"count": 0}}

// forwarding is what the article sets beside what the plugin always sets.
var forwarding = map[string]string{"net.ipv4.conf.IFNAME.forwarding": "1"}

// ours is the project's chain, with more keys for the first plugin.
func ours(keys map[string]any) []map[string]any {
	link := map[string]any{"type": "macvlan-vip", "master": "eth0", "sysctl": forwarding}
	for key, value := range keys {
		link[key] = value
	}
	return []map[string]any{link, {"type": "hairpin-route"}}
}

// upstream is the chain that a user would write without this project: a
// macvlan, its addresses, and the article's sysctls.
func upstream() []map[string]any {
	return []map[string]any{
		{"type": "macvlan", "master": "eth0", "mode": "bridge"},
		{"type": "tuning", "sysctl": map[string]string{
			"net.ipv4.conf.IFNAME.forwarding": "1", "net.ipv4.conf.IFNAME.arp_notify": "1",
			"net.ipv4.conf.IFNAME.arp_announce": "2", "net.ipv6.conf.IFNAME.use_tempaddr": "0",
		}},
	}
}

// chain is a way through cnitool.
func chain(name, network string, plugins []map[string]any, reachable bool) way {
	verb := func(verb string) func(*site) call {
		return func(s *site) call { return s.cnitool(verb, network, s.service) }
	}
	return way{
		name: name, add: verb("add"), check: verb("check"), del: verb("del"), reachable: reachable,
		prepare: func(s *site) { s.writeNetwork(network, plugins, s.vips...) },
	}
}

func wayDefault() way { return chain(nameDefault, "default", ours(nil), true) }
func wayNoProbe() way {
	return chain(nameNoProbe, "noprobe", ours(map[string]any{"addressConflict": "ignore"}), true)
}
func wayOneRound() way {
	return chain(nameOneRound, "once", ours(map[string]any{"addressConflict": "ignore", "announce": map[string]any{"count": 1}}), true)
}
func wayQuiet() way    { return chain(nameQuiet, "quiet", ours(quiet), true) }
func wayUpstream() way { return chain(nameUpstream, "upstream", upstream(), false) }

// wayIdle attaches nothing. It is what cnitool, static and two more processes take.
func wayIdle() way {
	return chain(nameIdle, "idle", []map[string]any{{"type": "idle"}, {"type": "idle"}}, false)
}

//go:embed article.sh
var articleScript string

// script is a way through a shell script with the service's namespace as its
// second argument.
func script(name, file, content string, more func(*site) []string) way {
	verb := func(verb string) func(*site) call {
		return func(s *site) call {
			argv := append([]string{"sh", filepath.Join(s.dir, file), verb, filepath.Base(s.service.Path())}, more(s)...)
			env := os.Environ()
			if s.shared {
				env = append(env, "HOSTLINK="+articlesLink)
			} else {
				env = append(env, "LAST=1")
			}
			return call{argv: argv, env: env}
		}
	}
	return way{
		name: name, add: verb("add"), del: verb("del"), reachable: true,
		prepare: func(s *site) { s.write(file, content) },
	}
}

func wayArticle() way {
	return script(nameArticle, "article.sh", articleScript, func(s *site) []string { return append([]string{"eth0"}, s.vips...) })
}

//go:embed floor.sh
var floorScript string

func wayFloor() way {
	w := script(nameFloor, "floor.sh", floorScript, func(s *site) []string { return []string{s.dir} })
	prepare := w.prepare
	w.prepare = func(s *site) {
		prepare(s)
		s.writeBatches()
	}
	return w
}

// link is what `ip -json link` tells.
type link struct {
	Address string `json:"address"`
	Alias   string `json:"ifalias"`
}

// writeBatches writes what makes the very state that the plugins make, which
// it looks up from them.
func (s *site) writeBatches() {
	s.t.Helper()
	model := wayQuiet()
	model.prepare(s)
	s.run(model.add(s))
	host, service := parseLink(s, s.host.IP("-json link show mv-int")), parseLink(s, s.service.IP("-json link show mv0"))
	s.run(model.del(s))
	s.restore()

	netns := filepath.Base(s.service.Path())
	var links, inService, inHost, undo strings.Builder
	if !s.shared {
		fmt.Fprintf(&links, "link add mv-int link eth0 address %s arp off type macvlan mode bridge\n", host.Address)
		fmt.Fprintf(&links, "link set mv-int alias %q\n", host.Alias)
		fmt.Fprintf(&inHost, "link set mv-int up\n")
		s.write("sysctls.host", sysctls("ipv4/conf/mv-int/arp_ignore=1", "ipv4/conf/mv-int/medium_id=-1", "ipv4/conf/mv-int/rp_filter=1", "ipv6/conf/mv-int/accept_ra=0",
			"ipv6/conf/mv-int/autoconf=0", "ipv6/conf/mv-int/use_tempaddr=0", "ipv6/conf/mv-int/accept_dad=0"))
	}
	fmt.Fprintf(&links, "link add mv0 link eth0 netns %s address %s type macvlan mode bridge\n", netns, service.Address)
	s.write("sysctls.service", sysctls("ipv4/conf/mv0/arp_notify=1", "ipv4/conf/mv0/arp_announce=2", "ipv4/conf/mv0/arp_ignore=1", "ipv4/conf/mv0/promote_secondaries=1", "ipv4/conf/mv0/forwarding=1",
		"ipv6/conf/mv0/ndisc_notify=1", "ipv6/conf/mv0/accept_ra=0", "ipv6/conf/mv0/autoconf=0",
		"ipv6/conf/mv0/use_tempaddr=0", "ipv6/conf/mv0/keep_addr_on_down=1"))
	fmt.Fprintf(&inService, "link set mv0 alias %q\nlink set lo up\nlink set mv0 up\n", service.Alias)
	for _, vip := range s.vips {
		addr := addrOf(vip)
		fmt.Fprintf(&inService, "address add %s broadcast + dev mv0\n", vip)
		fmt.Fprintf(&inHost, "route add %s/32 dev mv-int scope link src %s metric 100 table local proto 118\n", addr, hostAddr)
		fmt.Fprintf(&inHost, "neighbour replace %s lladdr %s nud permanent dev mv-int\n", addr, service.Address)
		fmt.Fprintf(&undo, "route del %s/32 dev mv-int metric 100 table local proto 118\n", addr)
		fmt.Fprintf(&undo, "neighbour del %s dev mv-int\n", addr)
	}
	fmt.Fprintf(&inService, "route add %s/32 dev mv0 proto 118 scope link\n", hostAddr)
	fmt.Fprintf(&inService, "neighbour replace %s lladdr %s nud permanent dev mv0\n", hostAddr, host.Address)
	for name, batch := range map[string]*strings.Builder{"links": &links, "service": &inService, "host": &inHost, "host.del": &undo} {
		s.write(name, batch.String())
	}
}

func parseLink(s *site, text string) link {
	s.t.Helper()
	var links []link
	if err := json.Unmarshal([]byte(text), &links); err != nil || len(links) != 1 {
		s.t.Fatalf("a link of `ip -json`: %v: %s", err, text)
	}
	return links[0]
}

// sysctls sets keys without a process for each.
func sysctls(all ...string) string {
	var b strings.Builder
	for _, one := range all {
		key, value, _ := strings.Cut(one, "=")
		fmt.Fprintf(&b, "echo %s >/proc/sys/net/%s\n", value, key)
	}
	return b.String()
}

package bench

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	machines "macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

// The contenders of a failover.
const (
	nameFresh  = "macvlan-vip, to a peer without an entry"
	nameNotify = "arp_notify alone, addresses before link up"
)

const (
	vip4, vip6 = "10.99.1.1", "fd99::1:1"
	// machineAddr and machineAddr6 are the machine's own addresses.
	machineAddr, machineAddr6 = "10.99.0.2", "fd99::2"
	dropIns                   = "etc/systemd/system/"
)

// takeover is a LAN on which a machine takes a VIP over from another station,
// and a peer that talks to it.
type takeover struct {
	t         testing.TB
	old, peer *testnet.Namespace
	b         *machines.Machine
}

// successor is how the machine gets the VIP.
type successor struct {
	name string
	// dropIn is haproxy's, conflist the network where it needs one, env the
	// environment of the article's unit.
	dropIn, conflist, env string
	// bind is the IPv4 address that haproxy has [vip4].
	bind string
	// fresh makes the peer forget the VIP.
	fresh bool
	// slow ones, which wait for timers of the peer's, take part in few rounds.
	slow bool
}

// address is the IPv4 address that haproxy answers on.
func (s successor) address() string { return cmp.Or(s.bind, vip4) }

func newTakeover(t *testing.T, opts ...machines.Option) *takeover {
	t.Helper()
	f := &takeover{t: t}
	f.old, f.peer = testnet.New(t), testnet.New(t)
	lan := testnet.New(t)
	lan.IP("link add br0 type bridge")
	lan.IP("link set br0 up")
	for i, n := range []*testnet.Namespace{f.old, f.peer} {
		port := fmt.Sprintf("port%d", i)
		testnet.Cable(t, n, "eth0", lan, port)
		lan.IP("link set " + port + " master br0")
	}
	f.peer.AddAddress("eth0", "10.99.0.5/16")
	f.peer.AddAddress("eth0", "fd99::5/64")
	f.old.Sysctl("net/ipv6/conf/eth0/keep_addr_on_down", "1")
	f.old.AddAddress("eth0", vip4+"/16")
	f.old.AddAddress("eth0", vip6+"/64")
	f.boot(lan, opts)
	return f
}

func (f *takeover) boot(lan *testnet.Namespace, opts []machines.Option) {
	f.t.Helper()
	card := machines.NIC{LAN: lan.Path(), Port: "port2", Addresses: []string{machineAddr + "/16", machineAddr6 + "/64"}}
	f.b = machines.NewFor(f.t, []string{"-n50"}, append(opts, machines.Connect(card))...)
	lan.IP("link set port2 master br0")
	f.write("usr/local/bin/article.sh", articleScript)
	f.write(dropIns+"article.service", `[Unit]
StopWhenUnneeded=yes
[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/etc/article.env
ExecStartPre=-ip netns delete haproxy
ExecStart=ip netns add haproxy
ExecStart=sh /usr/local/bin/article.sh add haproxy eth0 `+vip4+`/16
ExecStop=sh /usr/local/bin/article.sh del haproxy eth0 `+vip4+`/16
ExecStopPost=ip netns delete haproxy
`)
	// Debian enables it.
	if err := os.Symlink("/dev/null", f.b.Path(dropIns+"haproxy.service")); err != nil {
		f.t.Fatal(err)
	}
	f.b.MustBoot(f.t)
	f.run("systemctl unmask haproxy.service")
}

func (f *takeover) write(name, content string) {
	f.t.Helper()
	f.b.MustWrite(f.t, name, content)
}

func (f *takeover) run(command string) {
	f.t.Helper()
	f.b.MustRun(f.t, strings.Fields(command)...)
}

// become makes the machine ready to take the VIP in one way.
func (f *takeover) become(s successor) {
	f.t.Helper()
	binds := "\tbind " + s.address() + ":80\n"
	if s.conflist != "" {
		if strings.Contains(s.conflist, vip6) {
			binds += "\tbind [" + vip6 + "]:80\n"
		}
		f.write("etc/cni/net.d/haproxy.conflist", s.conflist)
	}
	f.write(dropIns+"haproxy.service.d/way.conf", s.dropIn)
	f.write("etc/article.env", s.env+"\nLAST=1\n")
	f.write("etc/haproxy/haproxy.cfg", `defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
frontend f
`+binds+`	http-request return status 200 content-type text/plain string "hello"
`)
	f.run("systemctl daemon-reload")
	f.run("systemctl reset-failed")
}

// stop waits until what the service needed has stopped, too: the next way uses the same names.
func (f *takeover) stop() {
	f.t.Helper()
	f.run("systemctl stop haproxy systemd-netns@haproxy article")
}

// failover measures how long a peer waits for its first answer.
func failover(t *testing.T, rounds int) []Comparison {
	f := newTakeover(t, machines.Of(machines.Nspawn))
	ours4, ours6 := newSamples(), newSamples()
	slowRounds := max(rounds/15, 1)
	inTurn(max(rounds/5, 2), successors(t), func(round int, s successor) {
		if s.slow && (round < 0 || round >= slowRounds) {
			return
		}
		v4, v6 := f.takeOver(s)
		if round < 0 {
			return
		}
		ours4.add(s.name, ms(v4))
		if v6 > 0 {
			ours6.add(s.name, ms(v6))
		}
	})
	c4 := ours4.comparison("failover", "systemctl start on another host, until a LAN peer with a stale entry has its answer from haproxy", "ms", nameArticle)
	c4.Goals = []Goal{
		{ID: "failover-article", Text: "failover: " + nameDefault + " / " + nameArticle, Ratio: quotient(ours4, nameDefault, nameArticle), Most: 0.1},
		{ID: "failover-fresh", Text: "failover: a peer with a stale entry / one without", Ratio: quotient(ours4, nameDefault, nameFresh), Most: 1.1},
	}
	c6 := ours6.comparison("failover-v6", "the same by IPv6, which the article's way has not", "ms", nameFresh)
	c6.Goals = []Goal{{ID: "failover-v6-fresh", Text: "failover, IPv6: a peer with a stale entry / one without", Ratio: quotient(ours6, nameDefault, nameFresh), Most: 1.1}}
	for i, s := range c4.Series {
		c4.Series[i].Ratio = quotient(ours4, s.Name, nameArticle)
	}
	return []Comparison{c4, c6}
}

// quotient divides by a median, where there are fewer rounds of one than of
// the other.
func quotient(figures *samples, of, to string) Spread {
	a, b := spread(figures.values[of]), spread(figures.values[to])
	return Spread{a.Q1 / b.Median, a.Median / b.Median, a.Q3 / b.Median, a.N}
}

const articleDropIn = "[Unit]\nBindsTo=article.service\nAfter=article.service\n[Service]\nNetworkNamespacePath=/run/netns/haproxy\n"

// netnsConf is the project's drop-in.
func netnsConf(t testing.TB) string {
	t.Helper()
	top, err := machines.Top()
	if err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile(filepath.Join(top, "systemd/netns.conf"))
	if err != nil {
		t.Fatal(err)
	}
	return string(conf)
}

func successors(t testing.TB) []successor {
	t.Helper()
	dropIn := netnsConf(t)
	both := []string{vip4 + "/16", vip6 + "/64"}
	return []successor{
		{name: nameDefault, dropIn: dropIn, conflist: conflist(t, "haproxy", ours(nil), both...)},
		{name: nameFresh, dropIn: dropIn, conflist: conflist(t, "haproxy", ours(nil), both...), fresh: true},
		{name: nameNoProbe, dropIn: dropIn, conflist: conflist(t, "haproxy", ours(map[string]any{"addressConflict": "ignore"}), both...)},
		{name: nameNotify, dropIn: articleDropIn, env: "EARLY=1"},
		{name: nameArticle, dropIn: articleDropIn, slow: true},
	}
}

// takeOver lets a peer talk to the old station, ends that, and starts the
// service on the machine. v6 is 0 where there is no IPv6 VIP.
func (f *takeover) takeOver(s successor) (v4, v6 time.Duration) {
	f.t.Helper()
	f.become(s)
	f.old.IP("link set eth0 up")
	f.peer.IP("neigh flush all")
	for _, vip := range []string{vip4, vip6} {
		f.awaitOld(vip)
	}
	f.old.IP("link set eth0 down")
	if s.fresh {
		f.peer.IP("neigh flush all")
	}
	began := time.Now()
	first4, first6 := f.firstAnswer(vip4, persistent), make(<-chan time.Time)
	if s.conflist != "" {
		first6 = f.firstAnswer(vip6, persistent)
	}
	f.run("systemctl start haproxy")
	v4 = f.wait(first4).Sub(began)
	if s.conflist != "" {
		v6 = f.wait(first6).Sub(began)
	}
	f.stop()
	return v4, v6
}

// awaitOld waits until the old station answers, which gives the peer an entry.
func (f *takeover) awaitOld(vip string) {
	f.t.Helper()
	var err error
	for range 20 {
		if err = f.peer.Ping(netip.MustParseAddr(vip), "-W1"); err == nil {
			return
		}
	}
	f.t.Fatalf("the old station: %v", err)
}

// failoverTimeout is more than the peer's timers of an entry take together.
const failoverTimeout = 90 * time.Second

func (f *takeover) wait(answer <-chan time.Time) time.Time {
	f.t.Helper()
	select {
	case at := <-answer:
		return at
	case <-time.After(failoverTimeout):
		f.t.Fatal("no answer")
		return time.Time{}
	}
}

// asking is how a peer asks for a page: askers take turns, each with some patience,
// so that a packet that goes nowhere costs no more than patience/askers of accuracy.
type asking struct {
	askers          int
	patience, pause time.Duration
}

var persistent = asking{askers: 20, patience: 200 * time.Millisecond, pause: time.Millisecond}

// firstAnswer tells when the peer first has a page. Each attempt is a
// connection of its own, so that none waits for TCP to send again.
func (f *takeover) firstAnswer(vip string, a asking) <-chan time.Time {
	f.t.Helper()
	answer := make(chan time.Time, a.askers)
	ctx, cancel := context.WithTimeout(context.Background(), failoverTimeout)
	var wg sync.WaitGroup
	f.t.Cleanup(func() { cancel(); wg.Wait() })
	for i := range a.askers {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * a.patience / time.Duration(a.askers))
			_ = f.peer.NetNS.Do(func(ns.NetNS) error {
				for ctx.Err() == nil && !gotPage(vip, a.patience) {
					time.Sleep(a.pause)
				}
				answer <- time.Now()
				cancel()
				return nil
			})
		})
	}
	return answer
}

func gotPage(vip string, patience time.Duration) bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(vip, "80"), patience)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	page, err := io.ReadAll(conn)
	return err == nil && strings.Contains(string(page), "hello")
}

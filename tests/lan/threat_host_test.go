package lan

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/mdlayher/packet"

	"macvlan-vip/tests/testnet"
)

func parse(addr string) netip.Addr { return netip.MustParseAddr(addr) }

// broadcasts sends n broadcasts, and gives how many it could.
func (th *threat) broadcasts(wire *packet.Conn, from string, n int) (sent int) {
	th.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		datagram(mac(th, from), broadcastMAC, webVIP, parse("192.0.2.255"))...); err != nil {
		th.Fatal(err)
	}
	for range n {
		if _, err := wire.WriteTo(buf.Bytes(), &packet.Addr{HardwareAddr: broadcastMAC}); err == nil {
			sent++
		}
	}
	return sent
}

// dropped and received are a link's counters.
func dropped(t *testing.T, n *testnet.Namespace, link string) int {
	return counter(t, n, link, 4)
}

func received(t *testing.T, n *testnet.Namespace, link string) int {
	return counter(t, n, link, 2)
}

// counter is a column of /proc/net/dev.
func counter(t *testing.T, n *testnet.Namespace, link string, column int) (value int) {
	t.Helper()
	n.Do(func() error {
		data, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(strings.Replace(line, ":", " ", 1)); fields[0] == link {
				value, err = strconv.Atoi(fields[column])
				return err
			}
		}
		return fmt.Errorf("no counters of %s", link)
	})
	return value
}

// hostServices are those of a host, at 127.0.0.1 and ::1, its own addresses,
// every address, an abstract socket and a file.
func hostServices(t *testing.T, th *threat) (abstract, file string) {
	t.Helper()
	th.host.Echo(echoPort, parse("127.0.0.1"), parse("::1"), hostAddr, hostAddr6)
	th.host.Echo(echoPort+1, parse("::"))
	abstract, file = "@macvlan-vip-"+filepath.Base(th.host.Path()), filepath.Join(t.TempDir(), "socket")
	th.host.Do(func() error {
		for _, name := range []string{abstract, file} {
			l, err := net.Listen("unix", name)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
		}
		return nil
	})
	return abstract, file
}

// TestThreatHostServices: the host's loopback and its abstract sockets are out
// of reach; its LAN addresses, mv-int's own and files are not.
func TestThreatHostServices(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	web := th.web.Service
	abstract, file := hostServices(t, th)
	for _, addr := range []string{"127.0.0.1", "::1"} {
		if seen, err := web.Ask("tcp", parse(addr), echoPort); err == nil {
			t.Errorf("the service reaches the host's %s as %s", addr, seen)
		}
	}
	for addr, want := range map[netip.Addr]netip.Addr{hostAddr: webVIP, hostAddr6: webVIP6} {
		if seen, err := web.Ask("tcp", addr, echoPort); err != nil || seen != want {
			t.Errorf("the host's service at %s sees the service at %s, %v", addr, seen, err)
		}
	}
	// From its VIP, to which the host has a way; it has none to mv0's own
	// link-local address.
	if seen, err := web.AskFrom(webVIP6, linkLocal(t, th.host.Namespace, "mv-int").WithZone("mv0"), echoPort+1); err != nil {
		t.Errorf("mv-int's link-local address: seen as %s, %v", seen, err)
	}
	web.Do(func() error {
		if conn, err := net.Dial("unix", abstract); err == nil {
			conn.Close()
			t.Error("the service reaches the host's abstract socket")
		}
		conn, err := net.Dial("unix", file)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

func linkLocal(t *testing.T, n *testnet.Namespace, link string) netip.Addr {
	t.Helper()
	fields := strings.Fields(n.IP("-6 -o address show dev " + link + " scope link"))
	if len(fields) < 4 {
		t.Fatalf("%s has no link-local address: %q", link, fields)
	}
	return netip.MustParsePrefix(fields[3]).Addr()
}

// TestThreatLoopbackFrames: nor do frames forged for it get to the loopback.
func TestThreatLoopbackFrames(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	heard := th.listen(parse("127.0.0.1"), hostAddr)
	to := mac(t, macOf(th.host.Namespace, "mv-int"))
	th.send(datagram(mac(t, webMAC), to, webVIP, parse("127.0.0.1"))...)
	th.send(datagram(mac(t, webMAC), to, parse("127.0.0.1"), hostAddr)...)
	// Those that follow are through when this one is.
	th.send(datagram(mac(t, webMAC), to, webVIP, hostAddr)...)
	if from := <-heard; from != webVIP {
		t.Errorf("a datagram from %s came in by mv-int", from)
	}
}

// listen tells from which addresses datagrams come to forgedPort on the host.
func (th *threat) listen(at ...netip.Addr) <-chan netip.Addr {
	th.Helper()
	heard := make(chan netip.Addr, 100)
	for _, addr := range at {
		th.host.Do(func() error {
			conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, forgedPort)))
			if err != nil {
				return err
			}
			th.Cleanup(func() { conn.Close() })
			go func() {
				for {
					_, from, err := conn.ReadFromUDPAddrPort(make([]byte, 100))
					if err != nil {
						return
					}
					heard <- from.Addr().Unmap()
				}
			}()
			return nil
		})
	}
	return heard
}

// TestThreatForgedSender: a service with CAP_NET_RAW can write to its host in
// the name of a LAN peer by IPv6, unless the host's rules look. For IPv4 it can't,
// but where somebody has turned mv-int's rp_filter off.
func TestThreatForgedSender(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	th.host.openARP()
	heard := th.listen(hostAddr, hostAddr6)
	peer6 := parse("2001:db8::5")
	forge := func(from, to netip.Addr, want bool) {
		t.Helper()
		th.send(datagram(mac(t, webMAC), mac(t, macOf(th.host.Namespace, "mv-int")), from, to)...)
		patience := settle
		if want {
			patience = testnet.Patience
		}
		select {
		case <-heard:
			if !want {
				t.Errorf("one from %s came through", from)
			}
		case <-time.After(patience):
			if want {
				t.Errorf("none from %s came through", from)
			}
		}
	}
	forge(peerAddr, hostAddr, false)
	forge(peer6, hostAddr6, true)
	th.host.Sysctl("net/ipv4/conf/mv-int/rp_filter", "0")
	forge(peerAddr, hostAddr, true)
	th.load(th.host.Namespace, "Filter mv-int")
	forge(peerAddr, hostAddr, false)
	forge(peer6, hostAddr6, false)
	th.host.pings(t, webVIP, otherVIP, webVIP6)
}

// TestThreatFilterHost: with the page's rules a service can begin nothing
// towards its host, which still reaches the service.
func TestThreatFilterHost(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	hostServices(t, th)
	th.web.Service.Echo(echoPort, webVIP, webVIP6)
	th.load(th.host.Namespace, "Filter mv-int")
	for _, addr := range []netip.Addr{hostAddr, hostAddr6} {
		if seen, err := th.web.Service.Ask("tcp", addr, echoPort); err == nil {
			t.Errorf("the service reaches the host's %s as %s", addr, seen)
		}
	}
	if _, err := th.web.Service.AskFrom(webVIP6, linkLocal(t, th.host.Namespace, "mv-int").WithZone("mv0"), echoPort+1); err == nil {
		t.Error("the service reaches mv-int's link-local address")
	}
	for _, vip := range th.web.vips {
		for _, network := range []string{"tcp", "udp"} {
			if _, err := th.host.Ask(network, vip, echoPort); err != nil {
				t.Error(err)
			}
		}
	}
	th.wellBehaved()
	if err := th.web.check(); err != nil {
		t.Error(err)
	}
}

// TestThreatReturnPath: returnPath false takes away the way to the host, which
// a service with CAP_NET_ADMIN can make again.
func TestThreatReturnPath(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	host := l.station("192.0.2.2/24")
	host.Echo(echoPort, hostAddr)
	web := host.service("web", quick, "192.0.2.10/24")
	web.chain = testnet.NewChain(t, `{"cniVersion": "1.1.0", "name": "lan", "plugins": [
		{"type": "macvlan-vip", "master": "eth0", `+quick+`, "ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}]}},
		{"type": "hairpin-route", "returnPath": false}]}`)
	web.mustAdd(t)
	if _, err := web.Service.Ask("tcp", hostAddr, echoPort); err == nil {
		t.Error("the service reaches the host")
	}
	if err := host.Ping(webVIP); err == nil {
		t.Error("the host gets an answer")
	}
	web.Service.IP("neigh replace 192.0.2.2 lladdr " + macOf(host.Namespace, "mv-int") + " dev mv0")
	if _, err := web.Service.Ask("tcp", hostAddr, echoPort); err != nil {
		t.Error(err)
	}
}

// TestThreatSysctls: a service's settings are its own namespace's.
func TestThreatSysctls(t *testing.T) {
	t.Parallel()
	th := newThreat(t)
	before := allSysctls(t, th.host.Namespace)
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv4/conf/all/arp_ignore", "net/ipv4/conf/all/arp_accept", "net/ipv4/conf/all/proxy_arp", "net/ipv6/conf/all/forwarding"} {
		th.web.Service.Sysctl(key, "1")
	}
	if after := allSysctls(t, th.host.Namespace); !bytes.Equal(after, before) {
		t.Error("the host's sysctls have changed")
	}
	th.host.pings(t, otherVIP, routerAddr)
	th.peer.pings(t, otherVIP, hostAddr)
}

// allSysctls are those of links and addresses, for a comparison.
func allSysctls(t *testing.T, n *testnet.Namespace) []byte {
	t.Helper()
	var all bytes.Buffer
	n.Do(func() error {
		for _, pattern := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/*/arp_*", "/proc/sys/net/ipv4/conf/*/proxy_arp", "/proc/sys/net/ipv6/conf/*/forwarding"} {
			files, err := filepath.Glob(pattern)
			if err != nil {
				return err
			}
			if len(files) == 0 {
				return fmt.Errorf("there is no %s", pattern)
			}
			for _, file := range files {
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				fmt.Fprint(&all, file, " ")
				_, err = io.Copy(&all, f)
				f.Close()
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	return all.Bytes()
}

// TestThreatNeighbourTable: the neighbours that a service looks for, which
// takes no privilege, count in the one table that it shares with its host.
func TestThreatNeighbourTable(t *testing.T) {
	const many = 200
	th := newThreat(t)
	// Other namespaces' come and go meanwhile.
	eventually(t, func() error {
		before := entries(t)
		th.web.Service.Do(func() error {
			conn, err := net.ListenPacket("udp", "192.0.2.10:0")
			if err != nil {
				return err
			}
			defer conn.Close()
			for i := range many {
				_, _ = conn.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(30 + i)}), forgedPort)))
			}
			return nil
		})
		if grown := entries(t) - before; grown < many*9/10 {
			th.web.Service.IP("neigh flush dev mv0")
			return fmt.Errorf("the kernel's table has grown by %d entries, the service has looked for %d", grown, many)
		}
		return nil
	})
}

// entries is how many the kernel's IPv4 neighbour table holds. It is shown in
// the first namespace alone, in which the tests begin.
func entries(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/net/stat/arp_cache")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(strings.SplitN(string(data), "\n", 3)[1])
	value, err := strconv.ParseInt(fields[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(value)
}

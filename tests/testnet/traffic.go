package testnet

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
)

// answerTimeout bounds the wait for an answer that should come within
// microseconds; it is long because a busy machine may not run the other side.
const answerTimeout = 3 * time.Second

// Echo serves TCP and UDP on a port of the given addresses: it tells whoever
// asks which address it sees them at.
func (n *Namespace) Echo(port int, addrs ...netip.Addr) {
	n.t.Helper()
	n.Do(func() error {
		for _, addr := range addrs {
			at := netip.AddrPortFrom(addr, uint16(port)).String()
			tcp, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			n.t.Cleanup(func() { tcp.Close() })
			go serveTCP(tcp)
			udp, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			n.t.Cleanup(func() { udp.Close() })
			go serveUDP(udp)
		}
		return nil
	})
}

func serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(conn, conn.RemoteAddr())
		conn.Close()
	}
}

func serveUDP(conn net.PacketConn) {
	for {
		_, from, err := conn.ReadFrom(make([]byte, 1500))
		if err != nil {
			return
		}
		_, _ = conn.WriteTo([]byte(from.String()), from)
	}
}

// Ask asks an Echo from inside the namespace and tells which source address
// it saw. network is tcp or udp.
func (n *Namespace) Ask(network string, dst netip.Addr, port int) (seen netip.Addr, err error) {
	return n.ask(&net.Dialer{Timeout: answerTimeout}, network, dst, port)
}

// AskFrom is Ask by TCP from an address of the namespace's.
func (n *Namespace) AskFrom(src, dst netip.Addr, port int) (seen netip.Addr, err error) {
	from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
	return n.ask(&net.Dialer{Timeout: answerTimeout, LocalAddr: from}, "tcp", dst, port)
}

func (n *Namespace) ask(dialer *net.Dialer, network string, dst netip.Addr, port int) (seen netip.Addr, err error) {
	err = n.NetNS.Do(func(ns.NetNS) error {
		conn, err := dialer.Dial(network, netip.AddrPortFrom(dst, uint16(port)).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(answerTimeout))
		if network == "udp" {
			if _, err := conn.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 100)
		size, err := conn.Read(buf)
		if err != nil {
			return err
		}
		from, err := netip.ParseAddrPort(string(buf[:size]))
		seen = from.Addr().Unmap()
		return err
	})
	return seen, err
}

// Ping sends one echo request from inside the namespace.
func (n *Namespace) Ping(dst netip.Addr, flags ...string) error {
	return n.NetNS.Do(func(ns.NetNS) error {
		out, err := exec.Command("ping", append([]string{"-n", "-c1", "-W2", dst.String()}, flags...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ping %s: %w: %s", dst, err, out)
		}
		return nil
	})
}

// Sysctl sets a key, written with slashes, in the namespace.
func (n *Namespace) Sysctl(key, value string) {
	n.t.Helper()
	n.Do(func() error {
		out, err := exec.Command("sysctl", "-qw", key+"="+value).CombinedOutput()
		if err != nil {
			return fmt.Errorf("sysctl %s=%s: %w: %s", key, value, err, out)
		}
		return nil
	})
}

// NFT loads nftables rules into the namespace.
func (n *Namespace) NFT(rules string) {
	n.t.Helper()
	if err := n.TryNFT(rules); err != nil {
		n.t.Fatal(err)
	}
}

// TryNFT is NFT for rules that the kernel may refuse.
func (n *Namespace) TryNFT(rules string) error {
	return n.NetNS.Do(func(ns.NetNS) error {
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(rules)
		if out, err := nft.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
}

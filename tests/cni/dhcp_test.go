package cni

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

// leased is the last part of the address that the LAN's DHCP server gives.
const leased = 30

// dhcp is upstream's DHCP daemon on a host, and the server of its LAN.
type dhcp struct {
	t          testing.TB
	host       *testnet.Namespace
	stopServer func()
	daemon     *exec.Cmd
	socket     string
	// ended is closed when the daemon has ended.
	ended chan struct{}
}

// newDHCP serves DHCP on the second LAN, and starts the daemon.
func newDHCP(t testing.TB, host, lan *testnet.Namespace) *dhcp {
	t.Helper()
	d := &dhcp{t: t, host: host, socket: filepath.Join(t.TempDir(), "dhcp.sock")}
	d.stopServer = lan.ServeDHCP("port", netip.AddrFrom4([4]byte{10, 98, 0, 2}), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 98, 1, leased}), 16))
	d.start()
	return d
}

// start starts the daemon, which asks the server for some seconds only. The thread
// that it is a child of does nothing else: a tracer waits for all its thread's children.
func (d *dhcp) start() {
	d.t.Helper()
	_ = os.Remove(d.socket)
	d.daemon = exec.Command("nsenter", "--net="+d.host.Path(), lookPath("dhcp"),
		"daemon", "-socketpath", d.socket, "-timeout", "1s", "-resendmax", "1s", "-resendtimeout", "3s")
	d.ended = make(chan struct{})
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		started <- d.daemon.Start()
		_ = d.daemon.Wait()
		close(d.ended)
	}()
	if err := <-started; err != nil {
		d.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", d.socket)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the DHCP daemon does not listen: %v", err)
		}
	}
}

func (d *dhcp) kill() {
	_ = d.daemon.Process.Kill()
	<-d.ended
}

func (d *dhcp) end() {
	d.kill()
	d.stopServer()
}

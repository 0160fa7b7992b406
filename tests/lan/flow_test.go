package lan

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// flow is UDP traffic from a station to an Echo at each of some addresses.
type flow struct {
	conns []*net.UDPConn
	quit  chan struct{}
	wg    sync.WaitGroup
	once  sync.Once

	mu sync.Mutex
	// answers counts each address's.
	answers map[netip.Addr]int
}

// flow begins to send a datagram to each address every interval.
func (s *station) flow(t *testing.T, addrs []netip.Addr, interval time.Duration) *flow {
	t.Helper()
	f := &flow{quit: make(chan struct{}), answers: map[netip.Addr]int{}}
	s.Do(func() error {
		for _, addr := range addrs {
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, echoPort)))
			if err != nil {
				return err
			}
			f.conns = append(f.conns, conn)
			f.wg.Go(func() { f.count(conn, addr) })
		}
		return nil
	})
	f.wg.Go(func() { f.send(interval) })
	t.Cleanup(f.stop)
	return f
}

func (f *flow) send(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		for _, conn := range f.conns {
			_, _ = conn.Write([]byte("?"))
		}
		select {
		case <-f.quit:
			return
		case <-tick.C:
		}
	}
}

func (f *flow) count(conn *net.UDPConn, addr netip.Addr) {
	buf := make([]byte, 100)
	for {
		_, err := conn.Read(buf)
		select {
		case <-f.quit:
			return
		default:
		}
		// Errors are answers of the network's own: nobody is there yet.
		if err == nil {
			f.mu.Lock()
			f.answers[addr]++
			f.mu.Unlock()
		}
	}
}

func (f *flow) stop() {
	f.once.Do(func() {
		close(f.quit)
		for _, conn := range f.conns {
			_ = conn.Close()
		}
		f.wg.Wait()
	})
}

// silent lists the addresses that have given no answer since the last call.
func (f *flow) silent() (addrs []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, conn := range f.conns {
		addr := conn.RemoteAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		if f.answers[addr] == 0 {
			addrs = append(addrs, addr)
		}
	}
	clear(f.answers)
	return addrs
}

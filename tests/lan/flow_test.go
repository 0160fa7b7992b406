package lan

import (
	"fmt"
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
			f.answers[addr] = 0
		}
		return nil
	})
	for i, addr := range addrs {
		f.wg.Go(func() { f.count(f.conns[i], addr) })
	}
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

// answered tells whether every address has given an answer since the flow
// began, or since forget.
func (f *flow) answered() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var silent []netip.Addr
	for addr, n := range f.answers {
		if n == 0 {
			silent = append(silent, addr)
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf("no answer from %d of %d addresses, such as %s", len(silent), len(f.answers), silent[0])
	}
	return nil
}

// forget forgets the answers so far.
func (f *flow) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for addr := range f.answers {
		f.answers[addr] = 0
	}
}

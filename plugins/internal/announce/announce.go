package announce

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Announce tells the link once that the addresses are at its MAC: a gratuitous
// ARP request for every IPv4 address (RFC 5227, section 2.3) and an unsolicited
// neighbour advertisement for every IPv6 address (RFC 4861, section 7.2.6),
// then a gratuitous ARP reply for those that learn from nothing else. 1,000
// addresses of each family take some 50 ms. The addresses should be on the
// link by then, since answers come at once.
func (c *Conn) Announce(ctx context.Context, addrs []netip.Addr) error {
	all, err := c.announcements(addrs)
	if err == nil {
		err = c.session(ctx, ignore, func(ctx context.Context) error { return c.send(ctx, all) })
	}
	if err != nil {
		return fmt.Errorf("announce addresses on %s: %w", c.ifi.Name, err)
	}
	return nil
}

// Repeat announces rounds times more, each time after an interval. It ends,
// with an error that is ErrLinkDown, as soon as the link goes down or away: the
// Conn keeps the network namespace alive for as long as it is open.
//
// Before each round current, unless it is nil, is given the addresses and
// returns those that are still to be announced. When there are none Repeat
// returns.
func (c *Conn) Repeat(ctx context.Context, addrs []netip.Addr, rounds int, interval time.Duration, current func([]netip.Addr) []netip.Addr) error {
	err := c.session(ctx, ignore, func(ctx context.Context) error {
		for range rounds {
			if err := sleep(ctx, interval); err != nil {
				return err
			}
			if current != nil {
				addrs = current(addrs)
			}
			if len(addrs) == 0 {
				return nil
			}
			all, err := c.announcements(addrs)
			if err == nil {
				err = c.send(ctx, all)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("announce addresses on %s again: %w", c.ifi.Name, err)
	}
	return nil
}

// announcements puts the replies last, so that every address is announced as
// early as possible, and so that one burst of loss does not take both forms.
func (c *Conn) announcements(addrs []netip.Addr) ([]outgoing, error) {
	addrs, err := c.normalize(addrs)
	if err != nil {
		return nil, err
	}
	all, err := packets(addrs, c.announcement)
	if err != nil {
		return nil, err
	}
	var ipv4 []netip.Addr
	for _, a := range addrs {
		if a.Is4() {
			ipv4 = append(ipv4, a)
		}
	}
	replies, err := packets(ipv4, c.gratuitousReply)
	return append(all, replies...), err
}

func ignore(claim) {}

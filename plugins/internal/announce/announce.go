package announce

import (
	"context"
	"fmt"
	"net/netip"
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

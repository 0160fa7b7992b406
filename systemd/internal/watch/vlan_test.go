package watch

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestOtherVLAN: a station of another VLAN of the same trunk has the VIP's number.
func TestOtherVLAN(t *testing.T) {
	l := newLab(t, "one")
	from := len(l.said(0))
	tag := func(f []byte) []byte { return slices.Concat(f[:12], []byte{0x81, 0, 0, 26}, f[12:]) }
	l.sends(tag(must(announcement(vip(0), stranger))), tag(must(announcement(netip.MustParseAddr("2001:db8::20"), stranger))))
	time.Sleep(500 * time.Millisecond)
	l.quiet("a tagged frame", from)
}

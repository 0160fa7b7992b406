package plan

import (
	"crypto/sha256"
	"net"
	"strings"
)

// StableMAC derives a MAC from what names its owner: the same after every
// restart, so that no LAN peer's neighbour entry goes stale, and another on
// every host, since the first part is the master's own MAC. It is a unicast,
// locally administered address (IEEE 802-2014, section 8.4).
func StableMAC(parts ...string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

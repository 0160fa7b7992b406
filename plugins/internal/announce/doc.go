// Package announce asks a LAN whether addresses are free, and tells it whose
// they are from now on: ARP probes and announcements (RFC 5227) for IPv4,
// duplicate address detection (RFC 4862) and unsolicited neighbour
// advertisements (RFC 4861) for IPv6.
//
// It speaks through packet sockets, so that the link needs no address: an
// address is added only after its probe has found it free, and the kernel's
// own duplicate address detection, which takes more than a second and which
// IPv4 has not got, can be left out.
package announce

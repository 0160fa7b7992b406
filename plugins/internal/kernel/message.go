package kernel

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/plan"
)

// The messages of rtnetlink(7) that batches are made of.

// request is a message as the kernel reads it (struct nlmsghdr, netlink(7)). The
// library's takes a dozen objects.
type request []byte

// newRequest begins with a message's own struct, behind which attributes come.
func newRequest(kind, flags int, own nl.NetlinkRequestData) request {
	r := make(request, unix.SizeofNlMsghdr, 128)
	binary.NativeEndian.PutUint16(r[4:], uint16(kind))
	r.setFlags(unix.NLM_F_REQUEST | flags)
	return append(r, own.Serialize()...)
}

func (r request) setFlags(flags int) {
	binary.NativeEndian.PutUint16(r[6:], binary.NativeEndian.Uint16(r[6:])|uint16(flags))
}

// add adds an attribute (struct rtattr), which the next one follows at a multiple of 4.
func (r *request) add(kind int, value []byte) {
	all := binary.NativeEndian.AppendUint16(*r, uint16(unix.SizeofRtAttr+len(value)))
	all = append(binary.NativeEndian.AppendUint16(all, uint16(kind)), value...)
	for len(all)%unix.RTA_ALIGNTO != 0 {
		all = append(all, 0)
	}
	*r = all
}

func (r *request) addNumber(kind, value int) {
	var number [4]byte
	binary.NativeEndian.PutUint32(number[:], uint32(value))
	r.add(kind, number[:])
}

// finished is the message with its length, and with a number that its answer has.
func (r request) finished(number uint32) request {
	binary.NativeEndian.PutUint32(r, uint32(len(r)))
	binary.NativeEndian.PutUint32(r[8:], number)
	return r
}

// What x/sys has not (linux/if_bridge.h).
const (
	// Of BRIDGE_VLANDB_ENTRY.
	vlanEntry      = 1
	vlanEntryInfo  = 1
	vlanEntryRange = 2
	// Of struct br_vlan_msg.
	sizeofVLANMsg = 8
)

// bridgeVLANs is a struct br_vlan_msg that asks for the VLANs of all bridges and ports.
// If it names one, kernels before 5.17 never come to an end (br_vlan_rtm_dump in
// net/bridge/br_vlan.c).
type bridgeVLANs struct{}

func (bridgeVLANs) Len() int { return sizeofVLANMsg }

func (bridgeVLANs) Serialize() []byte {
	return append([]byte{unix.AF_BRIDGE}, make([]byte, sizeofVLANMsg-1)...)
}

// parseVLANs reads an answer, if it is about a bridge: a struct br_vlan_msg, and entries
// with a struct bridge_vlan_info each, and, for a range, its last VLAN.
func parseVLANs(data []byte, bridge int) (all []int) {
	if len(data) < sizeofVLANMsg || int(binary.NativeEndian.Uint32(data[4:])) != bridge {
		return nil
	}
	for kind, entry := range attributes(data[sizeofVLANMsg:]) {
		if kind != vlanEntry {
			continue
		}
		first, last := 0, 0
		for kind, value := range attributes(entry) {
			switch {
			case kind == vlanEntryInfo && len(value) >= 4:
				first = int(binary.NativeEndian.Uint16(value[2:]))
			case kind == vlanEntryRange && len(value) >= 2:
				last = int(binary.NativeEndian.Uint16(value))
			}
		}
		for vlan := first; vlan <= max(first, last) && first != 0; vlan++ {
			all = append(all, vlan)
		}
	}
	return all
}

const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL

// finishRequest sets a link's alias, flags and VRF, which is 0 for none.
func finishRequest(link int, l plan.Link, vrf int) request {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link)
	if l.NoARP {
		msg.Flags, msg.Change = unix.IFF_NOARP, unix.IFF_NOARP
	}
	req := newRequest(unix.RTM_SETLINK, 0, msg)
	req.add(unix.IFLA_IFALIAS, []byte(l.Alias))
	if vrf != 0 {
		req.addNumber(unix.IFLA_MASTER, vrf)
	}
	return req
}

// modeRequest sets a macvlan's mode. The library's request names the link, too, which
// kernels before 6.2 refuse of one that is up.
func modeRequest(link int, mode string) request {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link)
	var data, info request
	// A bit for each, in the order in which the library counts them (linux/if_link.h).
	data.addNumber(nl.IFLA_MACVLAN_MODE, 1<<(modes[mode]-netlink.MACVLAN_MODE_PRIVATE))
	info.add(nl.IFLA_INFO_KIND, []byte(plan.KindMacvlan))
	info.add(nl.IFLA_INFO_DATA|unix.NLA_F_NESTED, data)
	req := newRequest(unix.RTM_NEWLINK, 0, msg)
	req.add(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, info)
	return req
}

func addressRequest(kind, flags int, link int, p netip.Prefix) request {
	addr := p.Addr()
	msg := nl.NewIfAddrmsg(familyOf(addr))
	msg.Index = uint32(link)
	msg.Prefixlen = uint8(p.Bits())
	if addr.Is6() {
		msg.Flags = unix.IFA_F_NODAD
	}
	req := newRequest(kind, flags, msg)
	req.add(unix.IFA_LOCAL, addr.AsSlice())
	req.add(unix.IFA_ADDRESS, addr.AsSlice())
	if addr.Is4() && p.Bits() <= 30 {
		// Smaller networks have no broadcast address (RFC 3021).
		req.add(unix.IFA_BROADCAST, plan.Broadcast(p).AsSlice())
	}
	return req
}

func neighbourRequest(kind, flags int, link int, e plan.Neighbour) (request, error) {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return nil, err
	}
	req := newRequest(kind, flags, &netlink.Ndmsg{
		Family: uint8(familyOf(e.Addr)), Index: uint32(link),
		State: unix.NUD_PERMANENT, Type: unix.RTN_UNICAST,
	})
	req.add(netlink.NDA_DST, e.Addr.AsSlice())
	req.add(netlink.NDA_LLADDR, mac)
	return req, nil
}

// forwardingRequest names an entry of a bridge's own. Without a VLAN the kernel takes
// it for one outside of VLANs, and for one in each VLAN that the bridge itself is in
// (br_fdb_add in net/bridge/br_fdb.c).
func forwardingRequest(kind, flags int, state uint16, bridge int, f plan.Forwarding) (request, error) {
	mac, err := net.ParseMAC(f.MAC)
	if err != nil {
		return nil, err
	}
	req := newRequest(kind, flags, &netlink.Ndmsg{
		Family: unix.AF_BRIDGE, Index: uint32(bridge), State: state, Flags: unix.NTF_SELF,
	})
	req.add(netlink.NDA_LLADDR, mac)
	return req, nil
}

// askForwardingRequest asks for a bridge's entry in a VLAN, or outside of VLANs for 0.
func askForwardingRequest(bridge int, f plan.Forwarding, vlan int) (request, error) {
	req, err := forwardingRequest(unix.RTM_GETNEIGH, 0, 0, bridge, f)
	if err == nil && vlan != 0 {
		req.add(netlink.NDA_VLAN, binary.NativeEndian.AppendUint16(nil, uint16(vlan)))
	}
	return req, err
}

// parseForwarding reads, in the answer, whether the entry stays: it is local or static,
// and not learned.
func parseForwarding(data []byte) (stays bool, err error) {
	if len(data) < unix.SizeofNdMsg {
		return false, unix.EBADMSG
	}
	return binary.NativeEndian.Uint16(data[8:])&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0, nil
}

// addRouteRequest asks for a route as it is planned. One that is not exclusive
// goes behind others of its destination and metric.
func addRouteRequest(link int, r plan.Route) request {
	flags := create
	if !r.Exclusive {
		flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	}
	msg := routeMessage(r)
	msg.Type = unix.RTN_UNICAST
	req := routeRequest(unix.RTM_NEWROUTE, flags, msg, link, r)
	if r.Source.IsValid() {
		req.add(unix.RTA_PREFSRC, r.Source.AsSlice())
	}
	if r.MTU == 0 && r.AdvMSS == 0 {
		return req
	}
	var metrics request
	for kind, value := range map[int]int{unix.RTAX_MTU: r.MTU, unix.RTAX_ADVMSS: r.AdvMSS} {
		if value != 0 {
			metrics.addNumber(kind, value)
		}
	}
	req.add(unix.RTA_METRICS, metrics)
	return req
}

// removeRouteRequest names no more than what tells the route from others: the
// kernel may have stripped its source since.
func removeRouteRequest(link int, r plan.Route) request {
	return routeRequest(unix.RTM_DELROUTE, 0, routeMessage(r), link, r)
}

func routeMessage(r plan.Route) *nl.RtMsg {
	msg := nl.NewRtDelMsg()
	msg.Family = uint8(familyOf(r.Dst.Addr()))
	msg.Dst_len = uint8(r.Dst.Bits())
	msg.Protocol = plan.Protocol
	msg.Scope = unix.RT_SCOPE_LINK
	if r.Gateway.IsValid() {
		msg.Scope = unix.RT_SCOPE_UNIVERSE
		if r.OnLink {
			msg.Flags = unix.RTNH_F_ONLINK
		}
	}
	if r.Scope != nil {
		msg.Scope = uint8(*r.Scope)
	}
	return msg
}

func routeRequest(kind, flags int, msg *nl.RtMsg, link int, r plan.Route) request {
	req := newRequest(kind, flags, msg)
	req.add(unix.RTA_DST, r.Dst.Masked().Addr().AsSlice())
	req.addNumber(unix.RTA_OIF, link)
	req.addNumber(unix.RTA_TABLE, tableOf(r))
	if r.Gateway.IsValid() {
		req.add(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	}
	if r.Metric != 0 {
		req.addNumber(unix.RTA_PRIORITY, r.Metric)
	}
	return req
}

// lookUpRequest asks for the route that a packet to dst would take out of a
// link, or out of any for 0.
func lookUpRequest(link int, dst netip.Addr) request {
	msg := nl.NewRtDelMsg()
	msg.Family = uint8(familyOf(dst))
	msg.Dst_len = uint8(dst.BitLen())
	req := newRequest(unix.RTM_GETROUTE, 0, msg)
	req.add(unix.RTA_DST, dst.AsSlice())
	if link != 0 {
		req.addNumber(unix.RTA_OIF, link)
	}
	return req
}

// routeLink reads the type (RTN_UNICAST and others) and the link of a route in the answer to
// lookUpRequest.
func routeLink(data []byte) (kind, link int, err error) {
	if len(data) < unix.SizeofRtMsg {
		return 0, 0, unix.EBADMSG
	}
	for attribute, value := range attributes(data[unix.SizeofRtMsg:]) {
		if attribute == unix.RTA_OIF && len(value) == 4 {
			link = int(binary.NativeEndian.Uint32(value))
		}
	}
	return int(data[7]), link, nil
}

// routeAddress reads an address in the answer to lookUpRequest; the zero Addr
// means none.
func routeAddress(data []byte, attribute uint16) (addr netip.Addr, err error) {
	if len(data) < unix.SizeofRtMsg {
		return addr, unix.EBADMSG
	}
	for kind, value := range attributes(data[unix.SizeofRtMsg:]) {
		if kind == attribute {
			addr, _ = netip.AddrFromSlice(value)
		}
	}
	return addr, nil
}

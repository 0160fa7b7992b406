package kernel

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/plan"
)

// The messages of rtnetlink(7) that batches are made of.

const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL

// finishRequest sets a link's alias, flags and VRF, which is 0 for none.
func finishRequest(link int, l plan.Link, vrf int) *nl.NetlinkRequest {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link)
	if l.NoARP {
		msg.Flags, msg.Change = unix.IFF_NOARP, unix.IFF_NOARP
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, 0)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(l.Alias)))
	if vrf != 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(vrf))))
	}
	return req
}

func addressRequest(kind, flags int, link int, p netip.Prefix) *nl.NetlinkRequest {
	addr := p.Addr()
	msg := nl.NewIfAddrmsg(familyOf(addr))
	msg.Index = uint32(link)
	msg.Prefixlen = uint8(p.Bits())
	if addr.Is6() {
		msg.Flags = unix.IFA_F_NODAD
	}
	req := nl.NewNetlinkRequest(kind, flags)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, addr.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, addr.AsSlice()))
	if addr.Is4() && p.Bits() <= 30 {
		// Smaller networks have no broadcast address (RFC 3021).
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, plan.Broadcast(p).AsSlice()))
	}
	return req
}

func neighbourRequest(kind, flags int, link int, e plan.Neighbour) (*nl.NetlinkRequest, error) {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return nil, err
	}
	req := nl.NewNetlinkRequest(kind, flags)
	req.AddData(&netlink.Ndmsg{
		Family: uint8(familyOf(e.Addr)), Index: uint32(link),
		State: unix.NUD_PERMANENT, Type: unix.RTN_UNICAST,
	})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, e.Addr.AsSlice()))
	req.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, mac))
	return req, nil
}

// addRouteRequest asks for a route as it is planned. One that is not exclusive
// goes behind others of its destination and metric.
func addRouteRequest(link int, r plan.Route) *nl.NetlinkRequest {
	flags := create
	if !r.Exclusive {
		flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	}
	msg := routeMessage(r)
	msg.Type = unix.RTN_UNICAST
	req := routeRequest(unix.RTM_NEWROUTE, flags, msg, link, r)
	if r.Source.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_PREFSRC, r.Source.AsSlice()))
	}
	if r.MTU == 0 && r.AdvMSS == 0 {
		return req
	}
	metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
	for kind, value := range map[int]int{unix.RTAX_MTU: r.MTU, unix.RTAX_ADVMSS: r.AdvMSS} {
		if value != 0 {
			metrics.AddRtAttr(kind, nl.Uint32Attr(uint32(value)))
		}
	}
	req.AddData(metrics)
	return req
}

// removeRouteRequest names no more than what tells the route from others: the
// kernel may have stripped its source since.
func removeRouteRequest(link int, r plan.Route) *nl.NetlinkRequest {
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

func routeRequest(kind, flags int, msg *nl.RtMsg, link int, r plan.Route) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, r.Dst.Masked().Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(link))))
	req.AddData(nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(uint32(tableOf(r)))))
	if r.Gateway.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, r.Gateway.AsSlice()))
	}
	if r.Metric != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(r.Metric))))
	}
	return req
}

// lookUpRequest asks for the route that a packet to dst would take out of a
// link, or out of any for 0.
func lookUpRequest(link int, dst netip.Addr) *nl.NetlinkRequest {
	msg := nl.NewRtDelMsg()
	msg.Family = uint8(familyOf(dst))
	msg.Dst_len = uint8(dst.BitLen())
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, dst.AsSlice()))
	if link != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(link))))
	}
	return req
}

// routeAddress reads an address in the answer to lookUpRequest; the zero Addr
// means none.
func routeAddress(data []byte, attribute uint16) (addr netip.Addr, err error) {
	if len(data) < unix.SizeofRtMsg {
		return addr, unix.EBADMSG
	}
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofRtMsg:])
	for _, a := range attrs {
		if a.Attr.Type == attribute {
			addr, _ = netip.AddrFromSlice(a.Value)
		}
	}
	return addr, err
}

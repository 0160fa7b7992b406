package plan

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
)

// aliasMark begins the alias of every link that is ours, hostAlias that of a
// host's side, before the master's name.
const (
	aliasMark = "macvlan-vip"
	hostAlias = aliasMark + ": host side of "
)

// IsHostSide tells a host-side macvlan that is ours from every other link.
func IsHostSide(f LinkFacts) bool {
	return f.Kind == KindMacvlan && strings.HasPrefix(f.Alias, hostAlias)
}

// Attachment is what macvlan-vip needs to know to plan one.
type Attachment struct {
	Conf   *config.Macvlan
	Master LinkFacts
	// ContainerID and IfName are CNI_CONTAINERID and CNI_IFNAME.
	ContainerID string
	IfName      string
	// HostInterface is the host-side macvlan's name; empty for none.
	HostInterface string
}

func (a Attachment) masterSide() Side {
	if a.Conf.LinkInContainer {
		return Service
	}
	return Host
}

// ServiceSide plans the service's macvlan without its addresses.
func (a Attachment) ServiceSide() (Desired, error) {
	if a.Conf.MTU > a.Master.MTU {
		return Desired{}, cnierr.Config("mtu", a.Conf.MTU, fmt.Sprintf("larger than the %d of the master %q", a.Master.MTU, a.Master.Name),
			fmt.Sprintf("set mtu to %d or less, or raise the master's", a.Master.MTU))
	}
	if mac := a.Conf.MAC.String(); mac != "" && mac == a.Master.MAC && a.Conf.Mode != "passthru" {
		return Desired{}, cnierr.Config("mac", mac, fmt.Sprintf("the MAC of the master %q, which the kernel gives to no macvlan on it", a.Master.Name),
			"leave mac out, or give the service a MAC of its own")
	}
	return Desired{
		Links: []Link{
			{Side: Service, Kind: KindLoopback, Name: "lo"},
			{
				Side: Service, Kind: KindMacvlan, Name: a.IfName, Mode: a.Conf.Mode,
				Master: a.Master.Name, MasterSide: a.masterSide(),
				MTU: a.mtu(), MAC: a.mac(), BCQueueLen: a.Conf.BCQueueLen,
				Alias: ServiceAlias(a.Conf.Name, a.ContainerID),
			},
		},
		Sysctls: a.serviceSysctls(),
	}, nil
}

// Forwarding plans the entries that a bridge needs for the MACs of the macvlans on it.
// A bridge learns what its ports send, not what it sends itself; a macvlan makes it
// listen to everything, but without an entry it also copies each frame for the macvlan
// to all of its ports, virtual machines among them. The host-side macvlan needs none:
// it answers nobody, so nobody but the services on the same master sends to it. Nor does
// a link that has the bridge's own MAC.
func (a Attachment) Forwarding(links []Link) (all []Forwarding) {
	for _, l := range links {
		if a.Master.Bridge != "" && l.Kind == KindMacvlan && !l.Shared && !l.HasMastersMAC() {
			all = append(all, Forwarding{Side: l.MasterSide, Bridge: a.Master.Bridge, MAC: l.MAC})
		}
	}
	return all
}

// mac is the MAC of the service's link. In passthru mode the kernel gives it
// the master's, whatever it is told.
func (a Attachment) mac() string {
	switch {
	case a.Conf.Mode == "passthru":
		return a.Master.MAC
	case a.Conf.MAC != nil:
		return a.Conf.MAC.String()
	}
	return StableMAC(a.Master.MAC, a.Conf.Name, a.ContainerID, a.IfName).String()
}

// ServiceAlias is the alias of an attachment's link; the kernel takes at most
// 255 bytes (IFALIASZ).
func ServiceAlias(network, containerID string) string {
	alias := fmt.Sprintf("%s: %s %s", aliasMark, network, containerID)
	return alias[:min(len(alias), 255)]
}

// serviceSysctls are ours, then the user's, which override ours.
func (a Attachment) serviceSysctls() []Sysctl {
	v4, v6 := "net/ipv4/conf/"+a.IfName+"/", "net/ipv6/conf/"+a.IfName+"/"
	all := []Sysctl{
		{Side: Service, Key: v4 + "arp_notify", Value: "1"},
		// Of two attachments on one LAN each answers for its own VIPs alone.
		{Side: Service, Key: v4 + "arp_ignore", Value: "1"},
		{Side: Service, Key: v4 + "arp_announce", Value: "2"},
		// Without it the kernel takes the other addresses of a subnet away
		// with the first one.
		{Side: Service, Key: v4 + "promote_secondaries", Value: "1"},
		{Side: Service, Key: v6 + "ndisc_notify", Value: "1", Optional: true},
		{Side: Service, Key: v6 + "accept_ra", Value: "0", Optional: true},
		{Side: Service, Key: v6 + "autoconf", Value: "0", Optional: true},
		{Side: Service, Key: v6 + "use_tempaddr", Value: "0", Optional: true},
		{Side: Service, Key: v6 + "keep_addr_on_down", Value: "1", Optional: true},
	}
	for _, user := range a.Conf.Sysctl {
		s := Sysctl{Side: Service, Key: user.Key, Value: user.Value}
		if i := slices.IndexFunc(all, func(o Sysctl) bool { return o.Key == s.Key }); i >= 0 {
			all[i] = s
		} else {
			all = append(all, s)
		}
	}
	return all
}

// Addresses plans the VIPs and routes of an IPAM result.
func (a Attachment) Addresses(result *current.Result) (Desired, error) {
	vips, err := a.vips(result)
	if err != nil {
		return Desired{}, err
	}
	var d Desired
	if slices.ContainsFunc(vips, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		switch {
		case a.mtu() >= 1280:
		case a.Conf.MTU != 0:
			return Desired{}, cnierr.Config("mtu", a.Conf.MTU, "too small for IPv6", "use 1280 or more, or IPv4 addresses alone")
		default:
			return Desired{}, cnierr.Config("master", a.Master.Name, fmt.Sprintf("its MTU of %d is too small for IPv6", a.Master.MTU), "raise it to 1280 or more, or use IPv4 addresses alone")
		}
		for _, link := range []string{"lo", a.IfName} {
			d.Sysctls = append(d.Sysctls, Sysctl{Side: Service, Key: "net/ipv6/conf/" + link + "/disable_ipv6", Value: "0"})
		}
	}
	for _, vip := range vips {
		d.Addresses = append(d.Addresses, Address{Side: Service, Link: a.IfName, Prefix: vip})
	}
	d.Routes, err = a.routes(result, vips)
	return d, err
}

func (a Attachment) mtu() int {
	if a.Conf.MTU != 0 {
		return a.Conf.MTU
	}
	return a.Master.MTU
}

func (a Attachment) vips(result *current.Result) ([]netip.Prefix, error) {
	if len(result.IPs) == 0 {
		return nil, cnierr.Config("ipam", a.Conf.IPAM.Type, "gave no address", `give at least one VIP, such as "addresses": [{"address": "192.0.2.10/24"}] with static`)
	}
	vips := make([]netip.Prefix, 0, len(result.IPs))
	seen := make(map[netip.Addr]bool, len(result.IPs))
	for _, ip := range result.IPs {
		vip, ok := config.PrefixOf(ip.Address)
		if !ok {
			return nil, vipError(ip.Address.String(), "not an address with a prefix length", "use a form such as 192.0.2.10/24")
		}
		if err := checkVIP(vip); err != nil {
			return nil, err
		}
		if gw, ok := config.AddrOf(ip.Gateway); ok && gw == vip.Addr() {
			return nil, vipError(vip.String(), "also its own gateway", "give the router's address as gateway, and another one as VIP")
		}
		if seen[vip.Addr()] {
			return nil, vipError(vip.String(), "given twice", "give each VIP once")
		}
		seen[vip.Addr()] = true
		vips = append(vips, vip)
	}
	return vips, nil
}

func vipError(vip, problem, remedy string) error {
	return cnierr.Config("ipam address", vip, problem, remedy)
}

// checkVIP refuses what the kernel would take and no LAN peer could reach.
func checkVIP(vip netip.Prefix) error {
	addr := vip.Addr()
	const remedy = "use a host address of the LAN"
	switch {
	case vip.Bits() == 0:
		return vipError(vip.String(), "has a prefix length of 0, as if every address were on the LAN", "use the LAN's prefix length")
	case addr.Is4() && addr.As4()[0] == 0:
		return vipError(vip.String(), "of 0.0.0.0/8, which stands for this network", remedy)
	case addr.Is4() && addr.IsLinkLocalUnicast():
		return vipError(vip.String(), "a link-local address, of which 169.254.169.254 is where clouds serve their metadata", remedy)
	case addr.IsUnspecified():
		return vipError(vip.String(), "the unspecified address", remedy)
	case addr.IsMulticast():
		return vipError(vip.String(), "a multicast address", remedy)
	case addr.IsLoopback():
		return vipError(vip.String(), "a loopback address", remedy)
	case addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return vipError(vip.String(), "the broadcast address", remedy)
	case addr.Is6() && vip.Bits() < 127 && addr == vip.Masked().Addr():
		return vipError(vip.String(), "the network's anycast address for routers (RFC 4291)", remedy)
	case !addr.Is4() || vip.Bits() > 30:
		return nil
	case addr == vip.Masked().Addr():
		return vipError(vip.String(), "the network's own address", remedy)
	case addr == Broadcast(vip):
		return vipError(vip.String(), "the network's broadcast address", remedy)
	}
	return nil
}

// Broadcast is the last address of an IPv4 prefix.
func Broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	mask := net.CIDRMask(p.Bits(), 32)
	for i := range b {
		b[i] |= ^mask[i]
	}
	return netip.AddrFrom4(b)
}

// routes gives each route the gateway of its family where it names none, as
// upstream's plugins do, and lets a gateway outside every VIP's prefix be
// reached on the link.
func (a Attachment) routes(result *current.Result, vips []netip.Prefix) ([]Route, error) {
	gateways := map[bool]netip.Addr{}
	for _, ip := range result.IPs {
		if gw, ok := config.AddrOf(ip.Gateway); ok && !gateways[gw.Is4()].IsValid() {
			gateways[gw.Is4()] = gw
		}
	}
	var routes []Route
	for _, r := range result.Routes {
		dst, ok := config.PrefixOf(r.Dst)
		if !ok {
			return nil, cnierr.Config("ipam route", r.Dst.String(), "not a prefix", "use a form such as 0.0.0.0/0")
		}
		gw, ok := config.AddrOf(r.GW)
		switch {
		case !ok:
			gw = gateways[dst.Addr().Is4()]
		case gw.IsUnspecified(): // On the link: so dhcp has it from the server (RFC 3442).
			gw = netip.Addr{}
		}
		if gw.IsValid() && gw.Is4() != dst.Addr().Is4() {
			return nil, cnierr.Config("ipam route", dst.String(), "has a gateway of the other family, "+gw.String(), "use a gateway of the route's own family")
		}
		route := a.route(r, dst, gw, vips)
		if first := a.toGateway(gw); route.OnLink && gw.Is6() && !slices.Contains(routes, first) {
			routes = append(routes, first)
		}
		routes = append(routes, route)
	}
	return routes, nil
}

// toGateway is for an IPv6 gateway on the link: if the main table leads to it by another
// link, such as that of a second attachment on the same LAN, the kernel takes no route
// through it (ip6_route_check_nh_onlink in net/ipv6/route.c).
func (a Attachment) toGateway(gw netip.Addr) Route {
	return Route{Side: Service, Link: a.IfName, Dst: single(gw)}
}

func (a Attachment) route(r *types.Route, dst netip.Prefix, gw netip.Addr, vips []netip.Prefix) Route {
	route := Route{
		Side: Service, Link: a.IfName, Dst: dst.Masked(), Gateway: gw,
		Metric: r.Priority, Scope: r.Scope, MTU: r.MTU, AdvMSS: r.AdvMSS,
	}
	if r.Table != nil {
		route.Table = *r.Table
	}
	covers := func(p netip.Prefix) bool { return p.Masked().Contains(gw) }
	route.OnLink = gw.IsValid() && !gw.IsLinkLocalUnicast() && !slices.ContainsFunc(vips, covers)
	return route
}

// Result is what ADD prints: the host-side link, the service's, and every
// address on the latter (CNI specification, "ADD Success").
func (a Attachment) Result(host, service Desired, ipam *current.Result, sandbox string) *current.Result {
	result := &current.Result{CNIVersion: current.ImplementedSpecVersion, DNS: a.Conf.DNS}
	for _, l := range host.Links {
		result.Interfaces = append(result.Interfaces, &current.Interface{Name: l.Name, Mac: l.MAC})
	}
	for _, l := range service.Links {
		if l.Kind == KindMacvlan {
			result.Interfaces = append(result.Interfaces, &current.Interface{Name: l.Name, Mac: l.MAC, Mtu: l.MTU, Sandbox: sandbox})
		}
	}
	if ipam == nil {
		return result
	}
	last := len(result.Interfaces) - 1
	for _, ip := range ipam.IPs {
		ip.Interface = current.Int(last)
	}
	result.IPs, result.Routes = ipam.IPs, ipam.Routes
	if result.DNS.IsEmpty() {
		result.DNS = ipam.DNS
	}
	return result
}

// Chain puts the result of the plugins before this one first, since what a
// plugin is handed it must hand on (CNI specification, "ADD Success").
func Chain(prev, own *current.Result) *current.Result {
	if prev == nil {
		return own
	}
	for _, ip := range own.IPs {
		ip.Interface = current.Int(*ip.Interface + len(prev.Interfaces))
	}
	chained := *own
	chained.Interfaces = slices.Concat(prev.Interfaces, own.Interfaces)
	chained.IPs = slices.Concat(prev.IPs, own.IPs)
	chained.Routes = slices.Concat(prev.Routes, own.Routes)
	if chained.DNS.IsEmpty() {
		chained.DNS = prev.DNS
	}
	return &chained
}

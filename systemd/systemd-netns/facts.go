package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// routeProtocol marks hairpin-route's routes (rtm_protocol, rtnetlink(7)).
const routeProtocol = 118

// facts are what the kernel holds of an attachment.
type facts struct {
	// Link is the service's; MAC is empty where there is no such link.
	link, mac, master string
	vips              []netip.Prefix
	// Host is the host-side link's name, empty where there is none.
	host string
	// Ways are the host's ways to VIPs: the VIPs of each source address.
	ways []way
}

type way struct {
	source string
	vips   []netip.Addr
}

// look finds out what there is of an attachment with a result.
func (n *netns) look(result *current.Result) (facts, error) {
	f := facts{link: n.ifName}
	hosts, err := netlinksafe.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return f, err
	}
	defer hosts.Close()
	if err := n.lookInside(hosts, &f); err != nil {
		return f, err
	}
	link := hostLink(hosts, result)
	if link == nil {
		return f, nil
	}
	f.host = link.Attrs().Name
	f.ways, err = waysThrough(hosts, link, resultVIPs(result))
	return f, err
}

// lookInside looks at the service's link.
func (n *netns) lookInside(hosts netlinksafe.Handle, f *facts) error {
	at, err := vnetns.GetFromPath(n.path)
	if err != nil {
		// There is nothing inside of what is not there.
		return nil
	}
	defer func() { _ = at.Close() }()
	inside, err := netlinksafe.NewHandleAt(at, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("look into %s: %w", n.path, err)
	}
	defer inside.Close()
	link, err := inside.LinkByName(n.ifName)
	if err != nil {
		return nil
	}
	f.mac = link.Attrs().HardwareAddr.String()
	if below, err := hosts.LinkByIndex(link.Attrs().ParentIndex); err == nil {
		f.master = below.Attrs().Name
	}
	addrs, err := inside.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", n.ifName, err)
	}
	for _, a := range addrs {
		if a.Scope == unix.RT_SCOPE_UNIVERSE {
			f.vips = append(f.vips, prefixOf(*a.IPNet))
		}
	}
	return nil
}

// hostLink is the host's side of an attachment, which its result names.
func hostLink(hosts netlinksafe.Handle, result *current.Result) netlink.Link {
	for _, i := range result.Interfaces {
		if i.Sandbox != "" {
			continue
		}
		if link, err := hosts.LinkByName(i.Name); err == nil {
			return link
		}
	}
	return nil
}

// waysThrough finds the routes to VIPs through the host's link.
func waysThrough(hosts netlinksafe.Handle, link netlink.Link, vips []netip.Prefix) ([]way, error) {
	routes, err := hosts.RouteListFiltered(netlink.FAMILY_ALL,
		&netlink.Route{LinkIndex: link.Attrs().Index, Protocol: routeProtocol, Table: unix.RT_TABLE_UNSPEC},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("routes through %s: %w", link.Attrs().Name, err)
	}
	ours := map[netip.Addr]bool{}
	for _, vip := range vips {
		ours[vip.Addr()] = true
	}
	var ways []way
	for _, r := range routes {
		if r.Dst == nil || !ours[prefixOf(*r.Dst).Addr()] {
			continue
		}
		ways = addWay(ways, r.Src, prefixOf(*r.Dst).Addr())
	}
	return ways, nil
}

func addWay(ways []way, source net.IP, vip netip.Addr) []way {
	from := ""
	if source != nil {
		from = source.String()
	}
	for i := range ways {
		if ways[i].source == from && ways[i].vips[0].Is4() == vip.Is4() {
			ways[i].vips = append(ways[i].vips, vip)
			return ways
		}
	}
	return append(ways, way{source: from, vips: []netip.Addr{vip}})
}

func prefixOf(n net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

// resultVIPs are the addresses of a result.
func resultVIPs(result *current.Result) []netip.Prefix {
	var vips []netip.Prefix
	for _, ip := range result.IPs {
		vips = append(vips, prefixOf(ip.Address))
	}
	return vips
}

// listed is how many VIPs a line names.
const listed = 8

// list writes VIPs in one line, and says how many are left out.
func list[T fmt.Stringer](vips []T) string {
	shown := vips[:min(listed, len(vips))]
	words := make([]string, len(shown))
	for i, vip := range shown {
		words[i] = vip.String()
	}
	text := strings.Join(words, " ")
	if more := len(vips) - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func vipCount(n int) string {
	if n == 1 {
		return "1 VIP"
	}
	return fmt.Sprintf("%d VIPs", n)
}

// made are the lines that tell what there is after an ADD.
func (f facts) made(network string) []string {
	lines := []string{fmt.Sprintf("%s on %s, network %s", list(f.vips), f.link, network)}
	if len(f.vips) == 0 {
		lines[0] = fmt.Sprintf("no VIPs on %s, network %s", f.link, network)
	}
	if f.mac != "" {
		on := f.link
		if f.master != "" {
			on += " on " + f.master
		}
		lines = append(lines, fmt.Sprintf("%s, MAC %s", on, f.mac))
	}
	for _, w := range f.ways {
		line := fmt.Sprintf("host reaches %s through %s", list(w.vips), f.host)
		if w.source != "" {
			line += " from " + w.source
		}
		lines = append(lines, line)
	}
	return lines
}

// removed are the lines that tell what is there no longer.
func (f facts) removed(after facts, network string) []string {
	var lines []string
	gone := slices.DeleteFunc(slices.Clone(f.vips), func(p netip.Prefix) bool { return slices.Contains(after.vips, p) })
	if f.mac != "" && after.mac == "" {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("removed %s %s", f.link, list(gone)))+", network "+network)
	}
	for _, w := range f.ways {
		if len(after.ways) == 0 {
			lines = append(lines, fmt.Sprintf("removed the host's way to %s", list(w.vips)))
		}
	}
	if f.host != "" && after.host == "" {
		lines = append(lines, fmt.Sprintf("removed %s, which no other service needs", f.host))
	}
	return lines
}

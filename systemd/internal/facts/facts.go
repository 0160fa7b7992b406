// Package facts reads the kernel state of an attachment.
package facts

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

// Facts is the kernel state of an attachment.
type Facts struct {
	// Link is the service's; MAC is empty where there is no such link. VRF is the one that
	// Master is in, if any.
	Link, MAC, Master, VRF string
	// Carrier is the master's, or the link's if the master is not on the host.
	Carrier bool
	VIPs    []netip.Prefix
	// Host is the host-side link's name, empty where there is none.
	Host string
	// Ways are the host's routes to VIPs, grouped by source address.
	Ways []Way
}

// Way is a source address, "" if the kernel chooses one, with its VIPs.
type Way struct {
	Source string
	VIPs   []netip.Addr
}

// Look reads the state of an attachment: of the link in the namespace at a path,
// which the ADD with that result created.
func Look(path, ifName string, result *current.Result) (Facts, error) {
	f := Facts{Link: ifName}
	hosts, err := netlinksafe.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return f, err
	}
	defer hosts.Close()
	vips := resultVIPs(result)
	if err := lookInside(hosts, path, vips, &f); err != nil {
		return f, err
	}
	link := hostLink(hosts, result)
	if link == nil {
		return f, nil
	}
	f.Host = link.Attrs().Name
	f.Ways, err = waysThrough(hosts, link, vips)
	return f, err
}

// lookInside looks at the service's link. Of its link-local addresses those of vips are
// VIPs.
func lookInside(hosts netlinksafe.Handle, path string, vips []netip.Prefix, f *Facts) error {
	at, err := vnetns.GetFromPath(path)
	if err != nil {
		// A missing namespace has no link.
		return nil
	}
	defer func() { _ = at.Close() }()
	inside, err := netlinksafe.NewHandleAt(at, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("look into %s: %w", path, err)
	}
	defer inside.Close()
	link, err := inside.LinkByName(f.Link)
	if err != nil {
		return nil
	}
	f.MAC = link.Attrs().HardwareAddr.String()
	f.Carrier = link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
	if below, err := hosts.LinkByIndex(link.Attrs().ParentIndex); err == nil {
		f.Master, f.VRF = below.Attrs().Name, vrfOf(hosts, below)
		f.Carrier = below.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
	}
	addrs, err := inside.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", f.Link, err)
	}
	for _, a := range addrs {
		if vip := prefixOf(*a.IPNet); a.Scope == unix.RT_SCOPE_UNIVERSE || slices.Contains(vips, vip) {
			f.VIPs = append(f.VIPs, vip)
		}
	}
	return nil
}

func vrfOf(hosts netlinksafe.Handle, link netlink.Link) string {
	if upper, err := hosts.LinkByIndex(link.Attrs().MasterIndex); err == nil && upper.Type() == "vrf" {
		return upper.Attrs().Name
	}
	return ""
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
func waysThrough(hosts netlinksafe.Handle, link netlink.Link, vips []netip.Prefix) ([]Way, error) {
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
	var ways []Way
	for _, r := range routes {
		if r.Dst == nil || !ours[prefixOf(*r.Dst).Addr()] {
			continue
		}
		ways = addWay(ways, r.Src, prefixOf(*r.Dst).Addr())
	}
	return ways, nil
}

func addWay(ways []Way, source net.IP, vip netip.Addr) []Way {
	from := ""
	if source != nil {
		from = source.String()
	}
	for i := range ways {
		if ways[i].Source == from && ways[i].VIPs[0].Is4() == vip.Is4() {
			ways[i].VIPs = append(ways[i].VIPs, vip)
			return ways
		}
	}
	return append(ways, Way{Source: from, VIPs: []netip.Addr{vip}})
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

// List writes VIPs in one line, and says how many are left out.
func List[T fmt.Stringer](vips []T) string {
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

// Count formats a number of VIPs.
func Count(n int) string {
	if n == 1 {
		return "1 VIP"
	}
	return fmt.Sprintf("%d VIPs", n)
}

// Made formats the state after an ADD, as lines for the journal.
func (f Facts) Made(network string) []string {
	lines := []string{fmt.Sprintf("%s on %s, network %s", List(f.VIPs), f.Link, network)}
	if len(f.VIPs) == 0 {
		lines[0] = fmt.Sprintf("no VIPs on %s, network %s", f.Link, network)
	}
	if f.MAC != "" {
		on := f.Link
		if f.Master != "" {
			on += " on " + f.Master
		}
		lines = append(lines, fmt.Sprintf("%s, MAC %s", on, f.MAC))
	}
	for _, w := range f.Ways {
		line := fmt.Sprintf("host reaches %s through %s", List(w.VIPs), f.Host)
		if w.Source != "" {
			line += " from " + w.Source
		}
		lines = append(lines, line)
	}
	return lines
}

// Removed formats what is gone, as lines for the journal.
func (f Facts) Removed(after Facts, network string) []string {
	var lines []string
	gone := slices.DeleteFunc(slices.Clone(f.VIPs), func(p netip.Prefix) bool { return slices.Contains(after.VIPs, p) })
	if f.MAC != "" && after.MAC == "" {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("removed %s %s", f.Link, List(gone)))+", network "+network)
	}
	for _, w := range f.Ways {
		if len(after.Ways) == 0 {
			lines = append(lines, fmt.Sprintf("removed the host's routes to %s", List(w.VIPs)))
		}
	}
	if f.Host != "" && after.Host == "" {
		lines = append(lines, fmt.Sprintf("removed %s, which no other service needs", f.Host))
	}
	return lines
}

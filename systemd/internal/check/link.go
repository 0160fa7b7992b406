package check

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"macvlan-vip/systemd/internal/dropin"
	"macvlan-vip/systemd/internal/enter"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/uplink"
)

// checkMaster: the host's link below the VIPs is there, up and has carrier.
func checkMaster(_ context.Context, s *subject) *Finding {
	name := s.master()
	if name == "" {
		return nil
	}
	h, err := netlinksafe.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fail("", "%v", err)
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	var f *Finding
	switch {
	case err != nil:
		f = fail(s.otherMaster("LINK"), "%s: no such link", name)
	case link.Attrs().Flags&net.FlagUp == 0:
		f = fail("ip link set "+name+" up", "%s is down", name)
	case link.Attrs().RawFlags&unix.IFF_LOWER_UP == 0:
		f = fail("check the cable or the switch port of "+name, "%s has no carrier", name)
	default:
		f = s.onLAN(name)
	}
	return f
}

func (s *subject) otherMaster(name string) string {
	return s.byOwn("systemd-netns enable "+s.stem()+" --in "+s.namespace.Name+" --master "+name, "`master`")
}

// onLAN finds a master that is not on the VIPs' LAN: another link of the host has
// an address in their subnet, and nobody on the master answers for that address. A
// second card on the same LAN hears an answer.
func (s *subject) onLAN(master string) *Finding {
	all, err := uplink.All()
	if err != nil {
		return fail("", "%v", err)
	}
	ifi, err := net.InterfaceByName(master)
	if err != nil {
		return fail("", "%s: %v", master, err)
	}
	for _, l := range all {
		for _, p := range l.Prefixes {
			if l.Name == master || !s.inSubnet(p) || onLink(all, master, p) {
				continue
			}
			if mac, err := ask(ifi, p.Addr(), true); err == nil && mac == nil {
				return fail(s.otherMaster(l.Name), "%s is not on the LAN of the VIPs, as %s is, which has %s", master, l.Name, p)
			}
		}
	}
	return ok("%s is up", master)
}

// inSubnet tells whether a prefix of the host's holds a VIP.
func (s *subject) inSubnet(p netip.Prefix) bool {
	return slices.ContainsFunc(s.facts.VIPs, func(vip netip.Prefix) bool { return p.Contains(vip.Addr()) })
}

// onLink tells whether a link has an address in a subnet, too.
func onLink(all []uplink.Link, name string, subnet netip.Prefix) bool {
	return slices.ContainsFunc(all, func(l uplink.Link) bool {
		return l.Name == name && slices.ContainsFunc(l.Prefixes, subnet.Overlaps)
	})
}

// master is the link below the VIPs, or the one that is configured.
func (s *subject) master() string {
	if s.facts.Master != "" {
		return s.facts.Master
	}
	var text []byte
	if s.known != nil {
		text = s.known.Config
	} else if found, _, err := networks.Find(s.namespace.ConfDir, s.namespace.Network); err == nil && found != nil {
		text = found.Text
	}
	var conf struct {
		Master  string                    `json:"master"`
		Plugins []struct{ Master string } `json:"plugins"`
	}
	if json.Unmarshal(text, &conf) != nil {
		return ""
	}
	for _, p := range conf.Plugins {
		if p.Master != "" {
			return p.Master
		}
	}
	return conf.Master
}

// answerTime is how long an answer of the LAN is waited for.
const answerTime = 500 * time.Millisecond

// checkDuplicates: no other station answers for a VIP. The host asks on the
// master, from which its own macvlans do not hear it.
func checkDuplicates(_ context.Context, s *subject) *Finding {
	ifi, err := net.InterfaceByName(s.facts.Master)
	if err != nil {
		return nil
	}
	// Whether the port that the questions leave by forwards.
	doubt := record.Doubt(s.namespace.Name)
	var taken, unasked []string
	for _, vip := range s.facts.VIPs {
		mac, err := ask(ifi, vip.Addr(), true)
		switch {
		case err != nil:
			unasked = append(unasked, fmt.Sprintf("%s not asked for: %v", vip.Addr(), err))
		case mac != nil:
			taken = append(taken, fmt.Sprintf("%s is in use by %s", vip.Addr(), mac))
		}
	}
	// The keeper also knows stations that announced a VIP but do not answer a probe.
	for _, line := range record.Conflicts(s.namespace.Name) {
		if !slices.ContainsFunc(taken, func(t string) bool { return sameVIP(t, line) }) {
			taken = append(taken, line)
		}
	}
	f := ok("no other station answers for the VIPs")
	if len(unasked) > 0 {
		f = ok("no other station answers; %s", strings.Join(unasked, "; "))
	}
	if doubt != "" {
		f.Detail += "; " + doubt
	}
	if len(taken) > 0 {
		f = fail("find that station by its MAC in the switch's table, or use another VIP: "+s.otherVIP(), "%s", strings.Join(taken, "; "))
	}
	return f
}

func (s *subject) otherVIP() string {
	command := "systemd-netns set " + s.stem() + " --add-vip ADDR/LEN --remove-vip ADDR/LEN"
	if !strings.Contains(s.namespace.CapArgs, `"ips"`) {
		return s.byOwn(command, "`addresses` under `ipam`")
	}
	if !dropin.HasEnv(s.namespace.Name) {
		return fmt.Sprintf("correct CAP_ARGS in %s, then: %s", settings.EnvFile(s.namespace.Name), s.reload())
	}
	return command
}

// sameVIP tells whether a line of the keeper's, "VIP ADDR is used by MAC, too", is
// about the VIP that another one begins with.
func sameVIP(taken, line string) bool {
	addr, _, _ := strings.Cut(taken, " ")
	return strings.HasPrefix(line, "VIP "+addr+" ")
}

// checkGateway: the gateways of the service's default routes answer.
func checkGateway(_ context.Context, s *subject) *Finding {
	gateways, err := s.gateways()
	if err != nil {
		return fail(s.reload(), "%v", err)
	}
	if len(gateways) == 0 {
		return ok("no default route: clients of other subnets get no answer")
	}
	var silent, found []string
	err = enter.Do(s.namespace.Path, func() error {
		ifi, err := net.InterfaceByName(s.facts.Link)
		if err != nil {
			return err
		}
		for _, gw := range gateways {
			if mac, err := ask(ifi, gw, false); err != nil || mac == nil {
				silent = append(silent, gw.String())
			} else {
				found = append(found, gw.String())
			}
		}
		return nil
	})
	f := ok("%s answers", strings.Join(found, " "))
	if err != nil {
		f = fail(s.reload(), "%v", err)
	} else if len(silent) > 0 {
		f = fail("allow the MAC "+s.facts.MAC+" on the switch port or hypervisor (port security), or "+
			s.byOwn("correct the gateway: systemd-netns set "+s.stem()+" --gateway ADDR", "`routes` under `ipam`"),
			"%s does not answer on %s", strings.Join(silent, " "), s.facts.Link)
	}
	return f
}

// gateways are those of the default routes in the namespace.
func (s *subject) gateways() (all []netip.Addr, err error) {
	routes, err := s.routes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		if gw, ok := netip.AddrFromSlice(r.Gw); ok {
			all = append(all, gw.Unmap())
		}
	}
	return all, nil
}

// routes are those of the namespace's main table.
func (s *subject) routes() ([]netlink.Route, error) {
	at, err := vnetns.GetFromPath(s.namespace.Path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = at.Close() }()
	h, err := netlinksafe.NewHandleAt(at, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
}

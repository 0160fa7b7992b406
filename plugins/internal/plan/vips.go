package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"macvlan-vip/plugins/internal/cnierr"
)

// Surroundings are what decides which addresses may be VIPs on a host.
type Surroundings struct {
	// Networks are those of the master's addresses.
	Networks []netip.Prefix
	// Gateways are the host's routers.
	Gateways []netip.Addr
}

// CheckVIPs refuses a VIP that is a router's or a network's own, and one that
// the runtime has chosen where the administrator has not allowed it to.
func (a Attachment) CheckVIPs(vips []netip.Addr, s Surroundings) error {
	for _, vip := range vips {
		key, chosen := a.Conf.RuntimeVIPs[vip]
		if !chosen {
			key = "ipam address"
		}
		if slices.Contains(s.Gateways, vip) {
			return cnierr.Config(key, vip.String(), "the address of the host's router", "use a host address of the LAN")
		}
		if i := slices.IndexFunc(s.Networks, func(n netip.Prefix) bool { return isNetworks(vip, n) }); i >= 0 {
			return cnierr.Config(key, vip.String(), "the first or the last address of "+s.Networks[i].Masked().String(), "use a host address of the LAN")
		}
		contains := func(p netip.Prefix) bool { return p.Contains(vip) }
		if chosen && !slices.ContainsFunc(s.Networks, contains) && !slices.ContainsFunc(a.Conf.AllowedVIPs, contains) {
			return a.notAllowed(key, vip, s.Networks)
		}
	}
	return nil
}

// isNetworks tells whether an address stands for a network, or for all in it.
func isNetworks(vip netip.Addr, n netip.Prefix) bool {
	n = n.Masked()
	switch {
	case vip.Is4() != n.Addr().Is4(), n.Bits() > vip.BitLen()-2:
		return false
	case vip == n.Addr():
		return true
	}
	return vip.Is4() && vip == Broadcast(n)
}

func (a Attachment) notAllowed(key string, vip netip.Addr, networks []netip.Prefix) error {
	var own []string
	for _, n := range networks {
		if n.Addr().Is4() == vip.Is4() {
			own = append(own, n.Masked().String())
		}
	}
	remedy := fmt.Sprintf("choose an address of the master's networks, or add its prefix to allowedVIPs in the network's file (%s)", a.Conf.Name)
	if len(own) == 0 {
		return cnierr.Config(key, vip.String(), fmt.Sprintf("the master %q has no network of this family to choose from", a.Master.Name),
			cnierr.OrLater(remedy, "the master's address"))
	}
	return cnierr.Config(key, vip.String(), fmt.Sprintf("not in a network of the master %q (%s)", a.Master.Name, strings.Join(own, ", ")), remedy)
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"macvlan-vip/plugins/internal/cnierr"
)

// network is what this driver needs to know of a podman network; netavark's
// types.rs has all fields.
type network struct {
	Name string `json:"name"`
	// NetworkInterface is the host's link that the network is on.
	NetworkInterface string            `json:"network_interface"`
	Internal         bool              `json:"internal"`
	Subnets          []subnet          `json:"subnets"`
	Routes           []route           `json:"routes"`
	Options          map[string]string `json:"options"`
	IPAMOptions      map[string]string `json:"ipam_options"`
}

type subnet struct {
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`
}

type route struct {
	Destination netip.Prefix `json:"destination"`
	Gateway     netip.Addr   `json:"gateway"`
	Metric      *uint32      `json:"metric"`
	Type        string       `json:"route_type"`
}

// create completes the description of a network that podman is about to make,
// once the plugins have said that they can serve it. Fields that this driver does
// not know pass through.
func create(ctx context.Context, data []byte) (any, error) {
	var n network
	var all map[string]any
	for _, into := range []any{&n, &all} {
		if err := json.Unmarshal(data, into); err != nil {
			return nil, fmt.Errorf("create: read the network: %w", err)
		}
	}
	if err := refuseRootless(); err != nil {
		return nil, err
	}
	if err := n.checkIPAM(); err != nil {
		return nil, err
	}
	l, err := n.list(nil)
	if err != nil {
		return nil, err
	}
	if _, err := n.routes(); err != nil {
		return nil, err
	}
	if err := l.status(ctx); err != nil {
		return nil, err
	}
	// As podman's own macvlan driver has it.
	if master, _ := n.master(); master != "" {
		all["network_interface"] = master
	}
	delete(n.Options, parentOption)
	all["options"] = n.Options
	all["ipam_options"] = map[string]string{"driver": "host-local"}
	// Podman's name server listens on the host's side of its bridges.
	all["dns_enabled"] = false
	return all, nil
}

// checkIPAM makes sure that podman itself assigns the addresses.
func (n *network) checkIPAM() error {
	if driver := n.IPAMOptions["driver"]; driver != "" && driver != "host-local" {
		return cnierr.Config("ipam-driver", driver, "not supported", "leave it out, and give --subnet")
	}
	if len(n.Subnets) == 0 {
		return cnierr.Config("subnet", "", "missing", "give the LAN's by --subnet, and the part of it that podman may assign by --ip-range")
	}
	return nil
}

// ipam is the section for the plugin static: the addresses that podman has
// assigned, and the routes of the network.
func (n *network) ipam(assigned []netip.Addr) (section, error) {
	addresses, err := n.addresses(assigned)
	if err != nil {
		return nil, err
	}
	routes, err := n.routes()
	if err != nil {
		return nil, err
	}
	return section{"type": "static", "addresses": addresses, "routes": routes}, nil
}

// addresses gives each address the prefix length and the gateway of its subnet.
func (n *network) addresses(assigned []netip.Addr) (addresses []section, err error) {
	for _, addr := range assigned {
		s, found := n.subnetOf(addr.Unmap())
		if !found {
			return nil, cnierr.Config("ip", addr.String(), "in no subnet of the network", "use an address in "+n.subnets())
		}
		address := section{"address": netip.PrefixFrom(addr.Unmap(), s.Subnet.Bits())}
		if s.Gateway.IsValid() {
			address["gateway"] = s.Gateway
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

func (n *network) subnetOf(addr netip.Addr) (s subnet, found bool) {
	for _, s := range n.Subnets {
		if s.Subnet.Contains(addr) {
			return s, true
		}
	}
	return subnet{}, false
}

func (n *network) subnets() string {
	var all []string
	for _, s := range n.Subnets {
		all = append(all, s.Subnet.String())
	}
	return strings.Join(all, " or ")
}

func (n *network) routes() (routes []section, err error) {
	metric, none, err := n.defaultRoute()
	if err != nil {
		return nil, err
	}
	for _, s := range n.Subnets {
		if s.Gateway.IsValid() && !none {
			everywhere, err := s.Gateway.Prefix(0)
			if err != nil {
				return nil, err
			}
			routes = append(routes, section{"dst": everywhere, "gw": s.Gateway, "priority": metric})
		}
	}
	for _, r := range n.Routes {
		if r.Type != "" && r.Type != "unicast" {
			return nil, cnierr.Config("route "+r.Destination.String(), r.Type, "not supported", "use a route with a gateway")
		}
		to := section{"dst": r.Destination, "gw": r.Gateway}
		if r.Metric != nil {
			to["priority"] = *r.Metric
		}
		routes = append(routes, to)
	}
	return routes, nil
}

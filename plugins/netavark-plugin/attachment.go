package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/plugins/internal/cnierr"
)

// attachment is a container's link to a network, as setup and teardown get it;
// port mappings and aliases are for drivers that translate addresses and names.
type attachment struct {
	ContainerID string     `json:"container_id"`
	Network     network    `json:"network"`
	Options     perNetwork `json:"network_options"`
	netns       string
}

type perNetwork struct {
	InterfaceName string            `json:"interface_name"`
	StaticIPs     []netip.Addr      `json:"static_ips"`
	StaticMAC     string            `json:"static_mac"`
	Options       map[string]string `json:"options"`
}

// status is what podman is told of an attachment (types.rs, StatusBlock).
type status struct {
	Interfaces map[string]netInterface `json:"interfaces"`
}

type netInterface struct {
	MAC     string       `json:"mac_address"`
	Subnets []netAddress `json:"subnets"`
}

type netAddress struct {
	IPNet   string `json:"ipnet"`
	Gateway string `json:"gateway,omitempty"`
}

func (a *attachment) runtime() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: a.ContainerID, NetNS: a.netns, IfName: a.Options.InterfaceName}
}

// setup attaches a container.
func (a *attachment) setup(ctx context.Context) (*status, error) {
	for name := range a.Options.Options {
		return nil, cnierr.Config("network option", name, "unknown", "use ip, mac and interface_name")
	}
	ipam, err := a.Network.ipam(a.Options.StaticIPs)
	if err != nil {
		return nil, err
	}
	l, err := a.Network.list(ipam)
	if err != nil {
		return nil, err
	}
	if a.Options.StaticMAC != "" {
		l.plugins[0].set("mac", a.Options.StaticMAC)
	}
	result, err := l.add(ctx, a.runtime())
	if err != nil {
		return nil, err
	}
	return statusOf(result), nil
}

// statusOf says what a result's addresses and the container's link are.
func statusOf(result *current.Result) *status {
	s := &status{Interfaces: map[string]netInterface{}}
	for i, iface := range result.Interfaces {
		if iface.Sandbox == "" {
			continue
		}
		link := netInterface{MAC: iface.Mac, Subnets: []netAddress{}}
		for _, ip := range result.IPs {
			if ip.Interface == nil || *ip.Interface != i {
				continue
			}
			address := netAddress{IPNet: ip.Address.String()}
			if ip.Gateway != nil {
				address.Gateway = ip.Gateway.String()
			}
			link.Subnets = append(link.Subnets, address)
		}
		s.Interfaces[iface.Name] = link
	}
	return s
}

// teardown detaches a container. What there is to undo the plugins have recorded;
// the network's description, which may have been edited since, has no say in it.
func (a *attachment) teardown(ctx context.Context) error {
	l := newList(a.Network.Name)
	if err := l.del(ctx, a.runtime()); err != nil {
		return fmt.Errorf("detach container %s: %w", a.ContainerID, err)
	}
	return nil
}

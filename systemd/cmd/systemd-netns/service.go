package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"macvlan-vip/systemd/internal/dropin"
	"macvlan-vip/systemd/internal/members"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// serviceName takes a service's name with and without its suffix.
func serviceName(name string) (string, error) {
	stem := strings.TrimSuffix(name, ".service")
	if err := settings.CheckName(stem); err != nil {
		return "", err
	}
	if strings.HasSuffix(stem, "@") {
		return "", fmt.Errorf("%q: a template has no namespace, its instances have: name one, such as %s1", name, stem)
	}
	for _, kind := range []string{".socket", ".timer", ".target", ".mount", ".slice"} {
		if strings.HasSuffix(stem, kind) {
			return "", fmt.Errorf("%q: not a service; name the service, which includes its sockets", name)
		}
	}
	return stem + ".service", nil
}

// oneService wants the name of a service.
func oneService(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%d arguments; name one service", len(args))
	}
	_, err := serviceName(args[0])
	return err
}

// atMostOneService wants a service's name or nothing.
func atMostOneService(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return oneService(cmd, args)
}

// word is a flag that is a name of some kind.
type word struct {
	value *string
	kind  string
}

func (w word) Set(text string) error {
	if *w.value = text; text == "" {
		return errors.New("empty")
	}
	return nil
}
func (w word) Type() string   { return w.kind }
func (w word) String() string { return "" }

// vips is a flag of VIPs, which may be given more than once.
type vips []netip.Prefix

func (v *vips) Set(text string) error {
	vip, err := dropin.ParseVIP(text)
	if err == nil && slices.ContainsFunc(*v, func(p netip.Prefix) bool { return p.Addr() == vip.Addr() }) {
		return fmt.Errorf("%s twice; give each address once", vip.Addr())
	}
	*v = append(*v, vip)
	return err
}
func (v *vips) Type() string   { return "ADDR/LEN" }
func (v *vips) String() string { return "" }

// addresses is a flag of addresses without a prefix length.
type addresses []netip.Addr

func (a *addresses) Set(text string) error {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return errors.New("not an IP address; write it as 192.0.2.1")
	}
	*a = append(*a, addr)
	return nil
}
func (a *addresses) Type() string   { return "ADDR" }
func (a *addresses) String() string { return "" }

// gateways is a flag of gateways, of which each family has one.
type gateways []netip.Addr

func (g *gateways) Set(text string) error {
	var all addresses
	if err := all.Set(text); err != nil {
		return err
	}
	for _, other := range *g {
		if other.Is4() == all[0].Is4() {
			return fmt.Errorf("%s is given, too; give one for each family", other)
		}
	}
	*g = append(*g, all[0])
	return nil
}
func (g *gateways) Type() string   { return "ADDR" }
func (g *gateways) String() string { return "" }

// ports is a flag of TCP ports.
type ports []uint16

func (p *ports) Set(text string) error {
	var port uint16
	if _, err := fmt.Sscanf(text+"\n", "%d\n", &port); err != nil || port == 0 {
		return errors.New("not a TCP port; use 1 to 65535")
	}
	if !slices.Contains(*p, port) {
		*p = append(*p, port)
	}
	return nil
}
func (p *ports) Type() string   { return "PORT" }
func (p *ports) String() string { return "" }

// completeServices completes the names of installed services.
func completeServices(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	_ = withSystemd(cmd.Context(), func(sd *units.Systemd) (err error) {
		names, err = sd.Installed(cmd.Context(), "*.service")
		return err
	})
	return stems(names), cobra.ShellCompDirectiveNoFileComp
}

// completeMembers completes the names of services that are in a namespace.
func completeMembers(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	_ = withSystemd(cmd.Context(), func(sd *units.Systemd) error {
		all, err := members.All(cmd.Context(), sd)
		for _, m := range all {
			names = append(names, m.Unit.Name)
		}
		return err
	})
	return stems(names), cobra.ShellCompDirectiveNoFileComp
}

func stems(names []string) []string {
	for i, name := range names {
		names[i] = strings.TrimSuffix(name, ".service")
	}
	return names
}

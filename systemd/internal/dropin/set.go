package dropin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/members"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// Update is the input of `set`: all VIPs, or VIPs to add and to remove, and gateways,
// if any are given.
type Update struct {
	// Unit is a service's name, with its suffix.
	Unit              string
	VIPs, Add, Remove []netip.Prefix
	Gateways          []netip.Addr
}

// Set plans to change the VIPs of a service that is in a namespace. Its shim applies
// them without touching the service.
func Set(ctx context.Context, sd *units.Systemd, up Update) (*Change, error) {
	u, err := findService(ctx, sd, up.Unit)
	if err != nil {
		return nil, err
	}
	in := members.NamespaceOf(u)
	if in == "" {
		return nil, fmt.Errorf("%s is in no namespace; put it there with: systemd-netns enable %s", u.Name, strings.TrimSuffix(u.Name, ".service"))
	}
	n, err := settings.Load(in)
	if err != nil {
		return nil, err
	}
	have, err := configuredVIPs(n)
	if err != nil {
		return nil, err
	}
	vips, err := up.apply(have)
	if err != nil {
		return nil, err
	}
	c := &Change{Done: fmt.Sprintf("%s has %s", u.Name, join(vips))}
	w := Wish{Unit: u.Name, In: in, VIPs: vips, Gateways: up.Gateways}
	if _, err := w.network(c); err != nil {
		return nil, err
	}
	if err := c.update(ctx, sd, u, n, len(up.Gateways) > 0); err != nil {
		return nil, err
	}
	c.words = func() string { return lastWords(n.Shim()) }
	return c, nil
}

// update has the shim of a namespace take up what is written: addresses by a
// reload, routes by a start.
func (c *Change) update(ctx context.Context, sd *units.Systemd, u *units.Unit, n settings.Namespace, routes bool) error {
	shim, err := sd.Unit(ctx, n.Shim())
	if err != nil || !shim.Runs() {
		return err
	}
	edit := edited(n)
	switch {
	case routes && len(c.want) > 0:
		return errors.Join(c.runs(ctx, sd, u), c.renews(ctx, sd, n), c.followers(ctx, sd))
	case edit.What != "" && !edit.Live:
		// A reload would repair by what was attached, and succeed.
		return fmt.Errorf("%s has changed since the VIPs were attached, and a reload does not apply that: %s; then repeat this, or take that edit back",
			edit.What, edit.Renewal(n))
	case len(c.want) > 0 || edit.Live:
		c.reload, c.pending = n.Applier(shim.MainPID), func() string { return pending(n.Name) }
	}
	return nil
}

// pending names what of a namespace's settings is not in effect. Of those that cannot be
// read the reload tells.
func pending(name string) string {
	n, err := settings.Load(name)
	if err != nil {
		return ""
	}
	return edited(n).What
}

// edited is what a person has changed since a namespace was attached. Of a record that
// cannot be read the reload tells.
func edited(n settings.Namespace) networks.Edit {
	made, _ := cnitool.Latest(n)
	if made == nil {
		return networks.Edit{}
	}
	return networks.Edited(*made, n)
}

// apply computes the desired VIPs from the current ones.
func (up Update) apply(have []netip.Prefix) ([]netip.Prefix, error) {
	vips := slices.Clone(have)
	if len(up.VIPs) > 0 {
		vips = slices.Clone(up.VIPs)
	}
	for _, vip := range up.Remove {
		i := slices.IndexFunc(vips, func(v netip.Prefix) bool { return v == vip })
		if i < 0 {
			return nil, fmt.Errorf("--remove-vip: %s is not one of its VIPs; it has %s", vip, join(vips))
		}
		vips = slices.Delete(vips, i, i+1)
	}
	for _, vip := range up.Add {
		if slices.ContainsFunc(vips, func(v netip.Prefix) bool { return v.Addr() == vip.Addr() }) {
			continue
		}
		vips = append(vips, vip)
	}
	if len(vips) == 0 {
		return nil, errors.New("no VIP would be left; `systemd-netns disable` moves the service to the host's network")
	}
	return vips, nil
}

// configuredVIPs are those that a namespace's own network, or its environment
// file for a shared one, sets.
func configuredVIPs(n settings.Namespace) ([]netip.Prefix, error) {
	own, err := files.Read(networks.OwnFile(n.Name))
	if err != nil {
		return nil, err
	}
	if own.Found {
		o, err := networks.ParseOwn(n.Name, own.Content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", own.Path, err)
		}
		return o.VIPs(), nil
	}
	var caps struct {
		IPs []netip.Prefix `json:"ips"`
	}
	if text := n.CapArgs; text != "" {
		if err := json.Unmarshal([]byte(text), &caps); err != nil {
			return nil, badCapArgs(n.Name, err)
		}
	}
	if len(caps.IPs) == 0 {
		_, file, err := networks.Find(n.ConfDir, n.Network)
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("its VIPs are those of a network that an administrator wrote; edit %s, then: systemctl reload %s", file, n.Shim())
	}
	return caps.IPs, nil
}

func join(vips []netip.Prefix) string {
	words := make([]string, len(vips))
	for i, vip := range vips {
		words[i] = vip.String()
	}
	return strings.Join(words, " ")
}

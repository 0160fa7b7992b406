package networks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/settings"
)

// Own is a network that `systemd-netns enable` has written for one namespace.
type Own struct {
	// list is the whole file, with what an administrator has added.
	list map[string]any
}

// written begins the comment of a network that this project has written.
const written = "Written by `systemd-netns enable` for "

// ErrOther is the error for a network that was written for another namespace, whose name
// gives the same file.
var ErrOther = errors.New("the network of another namespace")

// OwnFile is the file of a namespace's own network, which has the default network
// name of the namespace.
func OwnFile(namespace string) string {
	return filepath.Join(settings.OwnNetworks, settings.NetworkName(namespace)+".conflist")
}

// NewOwn makes a network on a link of the host.
func NewOwn(namespace, master string) *Own {
	return &Own{map[string]any{
		"cniVersion": "1.1.0",
		"name":       settings.NetworkName(namespace),
		"comment":    written + namespace + "; `systemd-netns disable` removes it.",
		"plugins": []any{
			map[string]any{"type": "macvlan-vip", "master": master, "ipam": map[string]any{"type": "static"}},
			map[string]any{"type": "hairpin-route"},
		},
	}}
}

// ParseOwn reads the text of a namespace's own network, and refuses one that
// this project has not written for it.
func ParseOwn(namespace string, text []byte) (*Own, error) {
	o := &Own{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&o.list); err != nil {
		return nil, fmt.Errorf("%w; correct its JSON", err)
	}
	comment, _ := o.list["comment"].(string)
	if !strings.HasPrefix(comment, written) {
		return nil, errors.New("not written by this program, and left alone; move it away")
	}
	if whose, _, _ := strings.Cut(strings.TrimPrefix(comment, written), ";"); whose != namespace {
		return nil, fmt.Errorf("%w, %s; use another name with --in", ErrOther, whose)
	}
	if o.ipam() == nil {
		return nil, errors.New("no macvlan-vip with static addresses in it; remove the file, and enable the service again")
	}
	return o, nil
}

// Text is the network's file.
func (o *Own) Text() (string, error) {
	text, err := json.MarshalIndent(o.list, "", "  ")
	return string(text) + "\n", err
}

func (o *Own) plugin() map[string]any {
	plugins, _ := o.list["plugins"].([]any)
	for _, p := range plugins {
		if plugin, ok := p.(map[string]any); ok && plugin["type"] == "macvlan-vip" {
			return plugin
		}
	}
	return nil
}

func (o *Own) ipam() map[string]any {
	ipam, _ := o.plugin()["ipam"].(map[string]any)
	if ipam["type"] != "static" {
		return nil
	}
	return ipam
}

// Master is the link that the VIPs are on.
func (o *Own) Master() string {
	master, _ := o.plugin()["master"].(string)
	return master
}

// SetMaster sets it.
func (o *Own) SetMaster(link string) { o.plugin()["master"] = link }

// VIPs are the network's addresses.
func (o *Own) VIPs() (vips []netip.Prefix) {
	for _, entry := range o.addresses() {
		text, _ := entry["address"].(string)
		if vip, err := netip.ParsePrefix(text); err == nil {
			vips = append(vips, vip)
		}
	}
	return vips
}

func (o *Own) addresses() (entries []map[string]any) {
	all, _ := o.ipam()["addresses"].([]any)
	for _, a := range all {
		if entry, ok := a.(map[string]any); ok {
			entries = append(entries, entry)
		}
	}
	return entries
}

// SetVIPs replaces the addresses; one that stays keeps its other keys.
func (o *Own) SetVIPs(vips []netip.Prefix) {
	old := o.addresses()
	entries := make([]any, len(vips))
	for i, vip := range vips {
		j := slices.IndexFunc(old, func(e map[string]any) bool { return e["address"] == vip.String() })
		if j >= 0 {
			entries[i] = old[j]
		} else {
			entries[i] = map[string]any{"address": vip.String()}
		}
	}
	o.ipam()["addresses"] = entries
}

// SetGateway replaces the default routes of a gateway's family.
func (o *Own) SetGateway(gw netip.Addr) {
	routes := slices.DeleteFunc(slices.Clone(o.routes()), func(r any) bool { return isDefault(r, gw.Is4()) })
	dst := "0.0.0.0/0"
	if gw.Is6() {
		dst = "::/0"
	}
	o.ipam()["routes"] = append(routes, map[string]any{"dst": dst, "gw": gw.String()})
}

// HasGateway tells whether a family has a default route.
func (o *Own) HasGateway(is4 bool) bool {
	return slices.ContainsFunc(o.routes(), func(r any) bool { return isDefault(r, is4) })
}

func (o *Own) routes() []any {
	routes, _ := o.ipam()["routes"].([]any)
	return routes
}

func isDefault(route any, is4 bool) bool {
	r, _ := route.(map[string]any)
	text, _ := r["dst"].(string)
	dst, err := netip.ParsePrefix(text)
	return err == nil && dst.Bits() == 0 && dst.Addr().Is4() == is4
}

// SetDNS replaces the name servers.
func (o *Own) SetDNS(servers []netip.Addr) {
	list := make([]any, len(servers))
	for i, s := range servers {
		list[i] = s.String()
	}
	dns, ok := o.ipam()["dns"].(map[string]any)
	if !ok {
		dns = map[string]any{}
	}
	set(dns, "nameservers", list)
	if len(dns) == 0 {
		delete(o.ipam(), "dns")
		return
	}
	o.ipam()["dns"] = dns
}

func set(in map[string]any, key string, list []any) {
	if len(list) == 0 {
		delete(in, key)
		return
	}
	in[key] = list
}

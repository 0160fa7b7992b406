package watch

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"

	"macvlan-vip/systemd/internal/record"
)

// result is what is read of an ADD's result (CNI specification, "ADD Success"),
// from version 0.3.0 on.
type result struct {
	Interfaces []struct{ Name, Sandbox string }
	IPs        []struct{ Address netip.Prefix }
}

// What to do if another station uses a VIP
// (macvlan-vip's key addressConflict).
const (
	conflictIgnore = "ignore"
	conflictDefend = "defend"
)

// conflictPolicy is that of a network's macvlan-vip, if it has one.
func conflictPolicy(config []byte) string {
	type plugin struct{ Type, AddressConflict string }
	var list struct {
		plugin
		Plugins []plugin
	}
	if json.Unmarshal(config, &list) != nil {
		return ""
	}
	for _, p := range append(list.Plugins, list.plugin) {
		if p.Type == "macvlan-vip" {
			return p.AddressConflict
		}
	}
	return ""
}

// sounds tells whether the same is to be listened for.
func (a *attachment) sounds(like *attachment) bool {
	if a == nil || like == nil {
		return a == like
	}
	return a.inside.lower == like.inside.lower && a.conflict == like.conflict && maps.Equal(a.vips, like.vips)
}

// fromRecord gives what a record tells of an attachment, with the names of the
// links on the host's side.
func fromRecord(namespace string, r record.Attachment) (a *attachment, host []string, err error) {
	var made result
	if err := json.Unmarshal(r.Result, &made); err != nil {
		return nil, nil, fmt.Errorf("read the result of ADD: %w", err)
	}
	a = &attachment{namespace: namespace, unit: r.Unit, vips: map[netip.Addr]bool{}, conflict: conflictPolicy(r.Config)}
	for _, i := range made.Interfaces {
		if i.Sandbox == "" {
			host = append(host, i.Name)
		}
	}
	for _, ip := range made.IPs {
		a.vips[ip.Address.Addr()] = true
		a.prefixes = append(a.prefixes, ip.Address)
	}
	return a, host, nil
}

package networks

import (
	"encoding/json"
	"fmt"
	"strings"

	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/settings"
)

// Edit is what was changed in a network since an attachment was made.
type Edit struct {
	// What names it, "" if nothing was changed.
	What string
	// Live says that only addresses (IPAM's input) were changed, which a reload
	// applies.
	Live bool
}

// Edited compares an attachment with what is configured now. A file that is gone
// or cannot be read is a change, too.
func Edited(a record.Attachment, n settings.Namespace) Edit {
	switch {
	case n.Network != a.Network:
		return Edit{What: "NETWORK in " + settings.EnvFile(n.Name)}
	case n.IfName != a.IfName:
		return Edit{What: "CNI_IFNAME in " + settings.EnvFile(n.Name)}
	}
	found, file, err := Find(n.ConfDir, n.Network)
	switch {
	case err != nil:
		return Edit{What: fmt.Sprintf("the network's file (%v)", err)}
	case found == nil:
		return Edit{What: "the network's file, which is gone,"}
	}
	var e Edit
	switch {
	case !IsMadeFrom(a.Config, found.Text):
		e.What = file
	case !SameJSON([]byte(n.CapArgs), []byte(a.CapArgs)):
		e.What = "CAP_ARGS in " + settings.EnvFile(n.Name)
	case n.CNIArgs != a.CNIArgs:
		e.What = "CNI_ARGS in " + settings.EnvFile(n.Name)
	}
	e.Live = e.What != "" && SameJSON(withoutAddresses(a.Config), withoutAddresses(found.Text)) &&
		SameJSON(withoutIPs(a.CapArgs), withoutIPs(n.CapArgs)) && withoutIP(a.CNIArgs) == withoutIP(n.CNIArgs)
	return e
}

// withoutAddresses gives a configuration, as a list, without what macvlan-vip can
// change of an attachment that stands: its IPAM sections, and args.cni.ips.
func withoutAddresses(config []byte) []byte {
	var list map[string]any
	if json.Unmarshal(config, &list) != nil {
		return config
	}
	plugins, isList := list["plugins"].([]any)
	if !isList {
		plugins = []any{list}
		list = map[string]any{"name": list["name"], "cniVersion": list["cniVersion"], "plugins": plugins}
	}
	for _, p := range plugins {
		plugin, _ := p.(map[string]any)
		delete(plugin, "ipam")
		if args, ok := plugin["args"].(map[string]any); ok {
			if cni, ok := args["cni"].(map[string]any); ok {
				delete(cni, "ips")
			}
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return config
	}
	return text
}

// withoutIPs gives CAP_ARGS without the VIPs.
func withoutIPs(args string) []byte {
	var all map[string]any
	if args == "" || json.Unmarshal([]byte(args), &all) != nil {
		return []byte(args)
	}
	delete(all, "ips")
	if len(all) == 0 {
		return nil
	}
	text, err := json.Marshal(all)
	if err != nil {
		return []byte(args)
	}
	return text
}

// withoutIP gives CNI_ARGS without those that IPAM plugins read.
func withoutIP(args string) string {
	var rest []string
	for pair := range strings.SplitSeq(args, ";") {
		if key, _, _ := strings.Cut(pair, "="); key != "IP" && key != "GATEWAY" {
			rest = append(rest, pair)
		}
	}
	return strings.Join(rest, ";")
}

// Renewal is the command that applies an edit.
func (e Edit) Renewal(n settings.Namespace) string {
	if e.Live {
		return fmt.Sprintf("`systemctl reload %s` applies it", n.Shim())
	}
	return fmt.Sprintf("`systemctl restart %s` recreates it, and restarts every service in it", n.Shim())
}

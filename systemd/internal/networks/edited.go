package networks

import (
	"encoding/json"
	"fmt"

	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/settings"
)

// Edit is what has been changed of a network since an attachment was made.
type Edit struct {
	// What names it, "" if nothing was changed.
	What string
	// Live says that no more than addresses were changed, which a reload puts
	// into effect. Now is the network's configuration then.
	Live bool
	Now  []byte
}

// Edited compares an attachment with what is configured now. A file that is gone
// or cannot be read is a change, too.
func Edited(a record.Attachment, n settings.Namespace) Edit {
	switch {
	case n.Network != a.Network:
		return Edit{What: "NETWORK in " + settings.EnvFile(n.Name)}
	case n.IfName != a.IfName:
		return Edit{What: "CNI_IFNAME in " + settings.EnvFile(n.Name)}
	case n.CNIArgs != a.CNIArgs:
		return Edit{What: "CNI_ARGS in " + settings.EnvFile(n.Name)}
	}
	found, file, err := Find(n.ConfDir, n.Network)
	switch {
	case err != nil:
		return Edit{What: fmt.Sprintf("the network's file (%v)", err)}
	case found == nil:
		return Edit{What: "the network's file, which is gone,"}
	}
	e := Edit{Now: found.Text}
	if !SameJSON([]byte(n.CapArgs), []byte(a.CapArgs)) {
		e.What = "CAP_ARGS in " + settings.EnvFile(n.Name)
	}
	if !IsMadeFrom(a.Config, found.Text) {
		e.What = file
	}
	e.Live = e.What != "" && SameJSON(withoutAddresses(a.Config), withoutAddresses(found.Text)) &&
		SameJSON(withoutIPs(a.CapArgs), withoutIPs(n.CapArgs))
	return e
}

// withoutAddresses gives a configuration, as a list, without the addresses of its
// IPAM sections.
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
		if ipam, ok := plugin["ipam"].(map[string]any); ok {
			delete(ipam, "addresses")
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

// Renewal tells how to put into effect what was edited.
func Renewal(n settings.Namespace) string {
	return fmt.Sprintf("`systemctl restart %s` makes it anew, and restarts what is in it", n.Shim())
}

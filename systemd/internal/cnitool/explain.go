package cnitool

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/settings"
)

// TryAgain is in the text of every error of our plugins that may pass.
const TryAgain = "try again"

// StillToCome is in the text of those that pass when the host's own network is up.
const StillToCome = "still to come"

// NoCheck is what libcni says of a network whose cniVersion is from before CHECK.
const NoCheck = "does not support the CHECK command"

// ours are the plugins whose errors hold their remedy, after a semicolon.
var ours = []string{"macvlan-vip", "hairpin-route"}

// hints are the remedies for what other plugins and libcni say.
var hints = []struct{ text, remedy string }{
	{"failed to find plugin", "install that plugin, or correct its `type` or CNI_PATH"},
	{"dhcp.sock", "start the DHCP daemon, `dhcp daemon` in the folder of the IPAM plugins"},
	{"no IP addresses available", "widen the network's range, or stop a service that has an address of it"},
	{"duplicate allocation", "clear it with `systemctl stop systemd-netns@NAME`, then start the service again"},
	{"invalid CNI_ARGS pair", "write KEY=VALUE, parted by semicolons, in /etc/systemd-netns/NAME.env"},
	{"parsing configuration", "correct its JSON"},
	{"error loading config", "correct its JSON"},
	{NoCheck, "set the network's cniVersion to 1.0.0"},
	{"unmarshal", "correct its JSON"},
	{"invalid character", "correct the JSON of the network or of CAP_ARGS in /etc/systemd-netns/NAME.env"},
}

// Explain makes one error of what cnitool has said: the plugin, what is wrong,
// and the remedy.
func Explain(n settings.Namespace, problem, verb string) error {
	plugin, text := unwrap(problem)
	if plugin != "" {
		text = plugin + ": " + text
	}
	text = strings.ReplaceAll(text, "systemd-netns@NAME", "systemd-netns@"+n.Name)
	text = nameOwners(text, settings.NetnsDir)
	// libcni does not name the plugin of a CHECK; a remedy of ours names the shim.
	own := (slices.Contains(ours, plugin) || plugin == "" && strings.Contains(text, "systemd-netns@"+n.Name)) && strings.Contains(text, "; ")
	if own && !strings.Contains(text, "ipam: ") {
		return errors.New(text)
	}
	if hint := hint(n, problem); hint != "" {
		// Of what an IPAM plugin says, ours know no better remedy.
		return fmt.Errorf("%s; %s", strings.TrimSuffix(text, "; look at the keys under ipam"), hint)
	}
	if own {
		return errors.New(text)
	}
	return fmt.Errorf("%s; %s", text, byHand(n, verb))
}

func hint(n settings.Namespace, problem string) string {
	for _, h := range hints {
		if strings.Contains(problem, h.text) {
			return strings.ReplaceAll(h.remedy, "NAME", n.Name)
		}
	}
	return ""
}

func byHand(n settings.Namespace, verb string) string {
	return fmt.Sprintf("to see it by hand: CNI_PATH=%s NETCONFPATH=%s CNI_IFNAME=%s cnitool %s %s %s", n.CNIPath, n.ConfDir, n.IfName, verb, n.Network, n.Path)
}

// owner is what macvlan-vip calls an attachment of cnitool's that owns a VIP.
var owner = regexp.MustCompile(`attachment \S+:(cnitool-[0-9a-f]+):\S+`)

// nameOwners names such attachments by their namespaces, of whose paths their IDs are
// hashes.
func nameOwners(text, dir string) string {
	return owner.ReplaceAllStringFunc(text, func(attachment string) string {
		names, _ := os.ReadDir(dir)
		for _, name := range names {
			if ContainerID(settings.Named(name.Name())) == owner.FindStringSubmatch(attachment)[1] {
				return "namespace " + name.Name()
			}
		}
		return attachment
	})
}

// unwrap takes libcni's words off an error: `plugin type="x" failed (add): `.
func unwrap(problem string) (plugin, text string) {
	text = problem
	for strings.HasPrefix(text, `plugin type="`) {
		head, rest, found := strings.Cut(text, "): ")
		if !found || !strings.Contains(head, " failed (") {
			break
		}
		plugin, _, _ = strings.Cut(strings.TrimPrefix(head, `plugin type="`), `"`)
		text = rest
	}
	return plugin, text
}

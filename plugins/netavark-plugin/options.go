package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"macvlan-vip/plugins/internal/cnierr"
)

// The options that podman's own drivers have, too.
const (
	parentOption  = "parent"
	metricOption  = "metric"
	noRouteOption = "no_default_route"
)

// setting says which key of which plugin an option sets, and of what kind its
// value is. Whether the value is a good one is for the plugin to say.
type setting struct {
	plugin, key string
	kind        kind
}

// settings are the options that are called as the plugins' own keys. A key
// below another is written with a dot.
var settings = map[string]setting{
	"mtu":                 {vip, "mtu", number},
	"bcqueuelen":          {vip, "bcqueuelen", number},
	"hostInterface":       {vip, "hostInterface", text},
	"ipForward":           {vip, "ipForward", boolean},
	"addressConflict":     {vip, "addressConflict", text},
	"probe.count":         {vip, "probe.count", number},
	"probe.intervalMs":    {vip, "probe.intervalMs", number},
	"probe.waitMs":        {vip, "probe.waitMs", number},
	"announce.count":      {vip, "announce.count", number},
	"announce.intervalMs": {vip, "announce.intervalMs", number},
	"source":              {hairpin, "source", words},
	"hostNetworks":        {hairpin, "hostNetworks", words},
	"table":               {hairpin, "table", text},
}

func optionNames() []string {
	names := slices.Collect(maps.Keys(settings))
	return slices.Sorted(slices.Values(append(names, parentOption, metricOption, noRouteOption)))
}

// kind is what an option's value has to be: podman hands over strings alone.
type kind struct {
	parse           func(string) (any, error)
	problem, remedy string
}

var (
	text = kind{func(s string) (any, error) { return s, nil }, "", ""}
	// Podman has a comma between the values of a list, too.
	words  = kind{func(s string) (any, error) { return strings.Split(s, ","), nil }, "", ""}
	number = kind{
		func(s string) (any, error) { return strconv.ParseUint(s, 10, 31) },
		"not a whole number", "use one from 0 to 2147483647",
	}
	boolean = kind{
		func(s string) (any, error) { return strconv.ParseBool(s) },
		"neither true nor false", "use one of them",
	}
)

func (k kind) read(option, value string) (any, error) {
	v, err := k.parse(value)
	if err != nil {
		return nil, cnierr.Config("option "+option, value, k.problem, k.remedy)
	}
	return v, nil
}

// configure sets the keys that the network's options stand for in the sections
// of the plugins that they belong to.
func (n *network) configure(sections map[string]section) error {
	for _, name := range slices.Sorted(maps.Keys(n.Options)) {
		s, known := settings[name]
		if name == parentOption || name == metricOption || name == noRouteOption {
			continue
		}
		if !known {
			return cnierr.Config("option", name, "unknown", "use "+strings.Join(optionNames(), ", "))
		}
		value, err := s.kind.read(name, n.Options[name])
		if err != nil {
			return err
		}
		sections[s.plugin].set(s.key, value)
	}
	return nil
}

// master is the host's link that the network is on, by the option parent or by
// the interface that podman keeps for a network; empty where neither is given.
func (n *network) master() (string, error) {
	parent, given := n.Options[parentOption]
	switch {
	case !given:
		return n.NetworkInterface, nil
	case parent == "":
		return "", cnierr.Config("option parent", parent, "not a link", "name the host's uplink, such as eth0")
	case n.NetworkInterface != "" && n.NetworkInterface != parent:
		return "", cnierr.Config("option parent", parent, fmt.Sprintf("the network's interface is %q", n.NetworkInterface),
			"give either --interface-name or --opt parent=")
	}
	return parent, nil
}

// defaultMetric is what podman's own macvlan driver gives a default route: less
// than its bridges give theirs (containers/podman issue 23984).
const defaultMetric = 99

// defaultRoute is what the options say of the default route: its metric, or that
// there is none.
func (n *network) defaultRoute() (metric any, none bool, err error) {
	metric, none = defaultMetric, n.Internal
	if value, given := n.Options[metricOption]; given {
		if metric, err = number.read(metricOption, value); err != nil {
			return nil, false, err
		}
	}
	if value, given := n.Options[noRouteOption]; given {
		no, err := boolean.read(noRouteOption, value)
		if err != nil {
			return nil, false, err
		}
		none = none || no == true
	}
	return metric, none, nil
}

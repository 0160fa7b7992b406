package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
)

// Hairpin is hairpin-route's configuration, validated, with defaults filled in.
type Hairpin struct {
	NetConf

	// HostInterface is the host-side macvlan's name; empty for prevResult's.
	HostInterface string
	Table         int
	Metric        int
	// Source holds at most one address of each family; where a family has
	// none, the address that a LAN peer would see is found out.
	Source []netip.Addr
	// HostNetworks lie behind the host, and reach the VIPs without masquerading;
	// ConnectedNetworks adds those that the host has addresses in.
	HostNetworks      []netip.Prefix
	ConnectedNetworks bool
	// ReturnPath says whether the service's netns gets a way to the host.
	ReturnPath bool
}

type hairpinJSON struct {
	NetConf
	HostInterface string          `json:"hostInterface"`
	Table         json.RawMessage `json:"table"`
	// Wide enough on machines of 32 bits for the error to be one of range.
	Metric       *int64          `json:"metric"`
	Source       json.RawMessage `json:"source"`
	HostNetworks json.RawMessage `json:"hostNetworks"`
	ReturnPath   *bool           `json:"returnPath"`
}

// ParseHairpin reads hairpin-route's configuration.
func ParseHairpin(stdin []byte) (*Hairpin, error) {
	var raw hairpinJSON
	if err := decode(stdin, &raw); err != nil {
		return nil, err
	}
	conf := &Hairpin{NetConf: raw.NetConf, HostInterface: raw.HostInterface, Metric: 100, ReturnPath: true}
	if raw.HostInterface != "" {
		if err := checkInterfaceName("hostInterface", raw.HostInterface); err != nil {
			return nil, err
		}
	}
	if raw.Metric != nil {
		// IPv6 reads 0 as 1024, and two families with unlike metrics would surprise.
		if err := checkRange("metric", *raw.Metric, 1, 1<<31-1, "route metric"); err != nil {
			return nil, err
		}
		conf.Metric = int(*raw.Metric)
	}
	if raw.ReturnPath != nil {
		conf.ReturnPath = *raw.ReturnPath
	}
	var err error
	if conf.Table, err = parseTable(raw.Table); err != nil {
		return nil, err
	}
	if conf.Source, err = parseSource(raw.Source); err != nil {
		return nil, err
	}
	if err := conf.parseHostNetworks(raw.HostNetworks); err != nil {
		return nil, err
	}
	if !conf.ReturnPath && (conf.ConnectedNetworks || len(conf.HostNetworks) > 0) {
		return nil, cnierr.Config("hostNetworks", string(raw.HostNetworks), "needs the way back to the host, and returnPath is false", "leave out one of the two")
	}
	return conf, nil
}

// connected stands for the networks that the host has addresses in.
const connected = "connected"

// parseHostNetworks takes one network, or a list; one can be "connected".
func (h *Hairpin) parseHostNetworks(data json.RawMessage) error {
	texts, ok := oneOrMore(data)
	if !ok {
		return cnierr.Config("hostNetworks", string(data), "neither a network nor a list of networks", `use "connected" or ["172.17.0.0/16", "fd17::/64"]`)
	}
	for _, text := range texts {
		if text == connected {
			h.ConnectedNetworks = true
			continue
		}
		network, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			return cnierr.Config("hostNetworks", text, "not a network", `use a form such as 172.17.0.0/16, or "connected"`)
		case network != network.Masked():
			return cnierr.Config("hostNetworks", text, "an address in a network", "use the network: "+network.Masked().String())
		case network.Bits() == 0:
			return cnierr.Config("hostNetworks", text, "a default route", "give the VIPs one of the host's addresses as their gateway instead")
		case !network.Addr().IsGlobalUnicast() || network.Addr().Is4In6():
			return cnierr.Config("hostNetworks", text, "no network of hosts", "name a network that lies behind the host")
		}
		h.HostNetworks = append(h.HostNetworks, network)
	}
	return nil
}

// oneOrMore takes a string, or a list of strings, or nothing.
func oneOrMore(data json.RawMessage) (texts []string, ok bool) {
	if len(data) == 0 || string(data) == "null" {
		return nil, true
	}
	var one string
	if json.Unmarshal(data, &one) == nil {
		return []string{one}, true
	}
	return texts, json.Unmarshal(data, &texts) == nil
}

// parseTable takes a number, or one of the names that the kernel itself fixes.
func parseTable(data json.RawMessage) (int, error) {
	if len(data) == 0 || string(data) == "null" {
		return unix.RT_TABLE_LOCAL, nil
	}
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		return 0, cnierr.New(types.ErrDecodingFailure, "correct the JSON", "table: %v", err)
	}
	text := fmt.Sprint(value)
	if n, ok := value.(float64); ok {
		text = strconv.FormatFloat(n, 'f', -1, 64)
	}
	switch text {
	case "local":
		return unix.RT_TABLE_LOCAL, nil
	case "main":
		return unix.RT_TABLE_MAIN, nil
	case "default":
		return unix.RT_TABLE_DEFAULT, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n == 0 {
		return 0, cnierr.Config("table", text, "not a routing table", "use local, main, default or a number from 1 to 2147483647")
	}
	return int(n), nil
}

// parseSource takes one address, or a list with at most one of each family.
func parseSource(data json.RawMessage) ([]netip.Addr, error) {
	texts, ok := oneOrMore(data)
	if !ok {
		return nil, cnierr.Config("source", string(data), "neither an address nor a list of addresses", `use "192.0.2.1" or ["192.0.2.1", "2001:db8::1"]`)
	}
	var sources []netip.Addr
	seen := map[bool]bool{}
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
			return nil, cnierr.Config("source", text, "not a host address", "use an address of this host, without a prefix length")
		}
		addr = addr.Unmap()
		if seen[addr.Is4()] {
			return nil, cnierr.Config("source", text, "a second address of its family", "give at most one IPv4 and one IPv6 address")
		}
		seen[addr.Is4()] = true
		sources = append(sources, addr)
	}
	return sources, nil
}

package config

import (
	"encoding/json"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"macvlan-vip/plugins/internal/cnierr"
)

func (c *Macvlan) setAllowedVIPs(texts []string) error {
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() {
			return cnierr.Config("allowedVIPs", text, "not a prefix", "use a form such as 198.51.100.0/24, without host bits")
		}
		c.AllowedVIPs = append(c.AllowedVIPs, p)
	}
	return nil
}

// setRuntimeVIPs finds the addresses that come from whoever asks for the
// attachment rather than from whoever wrote the network: the ips capability,
// IP in CNI_ARGS, and args.cni.ips. One that the network lists itself is the
// administrator's all the same, and so is what host-local gives, which never
// leaves its ranges. What is no address is left to the IPAM plugin to refuse.
func (c *Macvlan) setRuntimeVIPs(stdin []byte, args string) error {
	var raw struct {
		RuntimeConfig struct {
			IPs any `json:"ips"`
		} `json:"runtimeConfig"`
		Args struct {
			CNI struct {
				IPs any `json:"ips"`
			} `json:"cni"`
		} `json:"args"`
		IPAM struct {
			Addresses json.RawMessage `json:"addresses"`
		} `json:"ipam"`
	}
	var env envArgs
	if c.IPAM.Type == "host-local" || json.Unmarshal(stdin, &raw) != nil || types.LoadArgs(args, &env) != nil {
		return nil
	}
	chosen := map[netip.Addr]string{}
	for _, source := range []struct {
		key    string
		values any
	}{
		{"args.cni.ips", raw.Args.CNI.IPs},
		{"CNI_ARGS IP", any(strings.Split(string(env.IP), ","))},
		{"runtimeConfig.ips", raw.RuntimeConfig.IPs},
	} {
		for _, addr := range addressesIn(source.values) {
			chosen[addr] = source.key
		}
	}
	if len(chosen) == 0 {
		return nil
	}
	var listed any
	_ = json.Unmarshal(raw.IPAM.Addresses, &listed)
	for _, addr := range addressesIn(listed) {
		delete(chosen, addr)
	}
	if len(chosen) > 0 {
		c.RuntimeVIPs = chosen
	}
	return nil
}

// addressesIn finds the addresses in a list of texts, or of objects with the
// key address. They may have a prefix length.
func addressesIn(values any) (addrs []netip.Addr) {
	var texts []string
	switch list := values.(type) {
	case []string:
		texts = list
	case []any:
		for _, v := range list {
			if object, ok := v.(map[string]any); ok {
				v = object["address"]
			}
			if text, ok := v.(string); ok {
				texts = append(texts, text)
			}
		}
	}
	for _, text := range texts {
		text, _, _ = strings.Cut(strings.TrimSpace(text), "/")
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr.Unmap().WithZone(""))
		}
	}
	return addrs
}

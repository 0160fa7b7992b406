// Package config turns what a runtime hands to a plugin (the network
// configuration on stdin and CNI_ARGS) into validated, typed values. It does
// no I/O, so that every verb can share it.
package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/utils"

	"macvlan-vip/plugins/internal/cnierr"
)

// DefaultHostInterface is the host-side macvlan's name where none is given.
const DefaultHostInterface = "mv-int"

// maxMillis bounds every time that a configuration can ask for: a minute, so
// that a slip of the pen does not hang a service's start.
const maxMillis = 60_000

// ParseNet reads what DEL and GC need to know, which is as little as can be: a
// configuration that was edited after ADD must not keep them from cleaning up,
// whatever its other keys hold. An ipam section that is none counts as none.
func ParseNet(stdin []byte) (*types.NetConf, error) {
	var raw struct {
		CNIVersion string          `json:"cniVersion"`
		Name       string          `json:"name"`
		Type       string          `json:"type"`
		IPAM       json.RawMessage `json:"ipam"`
	}
	err := decode(stdin, &raw)
	conf := &types.NetConf{CNIVersion: raw.CNIVersion, Name: raw.Name, Type: raw.Type}
	var ipam types.IPAM
	if json.Unmarshal(raw.IPAM, &ipam) == nil {
		conf.IPAM = ipam
	}
	return conf, err
}

// Bare is a configuration with no more than every plugin must have, and the
// ipam section.
func Bare(stdin []byte) ([]byte, error) {
	var bare struct {
		CNIVersion string          `json:"cniVersion,omitempty"`
		Name       string          `json:"name"`
		Type       string          `json:"type"`
		IPAM       json.RawMessage `json:"ipam,omitempty"`
	}
	if err := decode(stdin, &bare); err != nil {
		return nil, err
	}
	return json.Marshal(bare)
}

func checkInterfaceName(key, name string) error {
	if problem := nameProblem(name); problem != "" {
		return cnierr.Config(key, name, problem, "use a link name of 1 to 15 characters without '/', ':', '%' or spaces")
	}
	return nil
}

// checkIfName checks what the library has not checked of CNI_IFNAME.
func checkIfName(name string) error {
	if problem := nameProblem(name); problem != "" {
		return cnierr.New(types.ErrInvalidEnvironmentVariables, "use a link name of 1 to 15 characters without '/', ':', '%' or spaces", "CNI_IFNAME: %q: %s", name, problem)
	}
	return nil
}

// nameProblem says why no link can have a name; "" where one can.
func nameProblem(name string) string {
	if err := utils.ValidateInterfaceName(name); err != nil {
		return err.Msg + " (" + err.Details + ")"
	}
	switch {
	case strings.Contains(name, "%"):
		// Of mv%d the kernel would make mv0.
		return "the kernel replaces '%' by a number of its own choice"
	case strings.ContainsFunc(name, isBlank):
		return "it holds a character that cannot be seen"
	case name == "all", name == "default":
		return "what the kernel calls the sysctls of every link, or of links to come"
	}
	return ""
}

func checkRange[T int | int64](key string, value, low, high T, unit string) error {
	if value < low || value > high {
		return cnierr.Config(key, value, fmt.Sprintf("out of range (%s)", unit), fmt.Sprintf("use a value from %d to %d", low, high))
	}
	return nil
}

// prevRemedy is what to do about a prevResult that is none.
const prevRemedy = "chain this plugin behind one that prints a valid result"

// NetConf is what every plugin's configuration has. The previous result stays as
// it came until somebody wants to look into it: with a thousand VIPs decoding it
// is a good part of what a verb costs.
type NetConf struct {
	types.NetConf
	Prev json.RawMessage `json:"prevResult,omitempty"`
}

// ParsePrevResult gives the result of the plugin before this one as the
// current type, or nil where there is none.
func ParsePrevResult(conf *NetConf) (*current.Result, error) {
	if len(conf.Prev) == 0 || string(conf.Prev) == "null" {
		return nil, nil
	}
	raw, err := ReadResult(conf.Prev, conf.CNIVersion)
	if err != nil {
		return nil, cnierr.New(types.ErrDecodingFailure, prevRemedy, "prevResult: %v", err)
	}
	conf.PrevResult = raw
	result, err := CurrentResult(raw)
	if err == nil {
		err = checkIndices(result)
	}
	if err != nil {
		return nil, cnierr.New(types.ErrDecodingFailure, prevRemedy, "prevResult: %v", err)
	}
	return result, nil
}

// ReadResult decodes a result of the version that it names, or, as results
// before 1.0.0 need not, of the configuration's (CNI issue 895).
func ReadResult(data []byte, confVersion string) (types.Result, error) {
	version, err := resultVersion(data)
	if err != nil {
		return nil, err
	}
	if version != "" {
		return create.Create(version, data)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, err
	}
	if members == nil {
		members = map[string]json.RawMessage{}
	}
	if members["cniVersion"], err = json.Marshal(confVersion); err != nil {
		return nil, err
	}
	if data, err = json.Marshal(members); err != nil {
		return nil, err
	}
	return create.Create(confVersion, data)
}

// Unchanged is the previous result as it came, where that is in the
// configuration's version of the specification.
func (c *NetConf) Unchanged() (json.RawMessage, bool) {
	version, err := resultVersion(c.Prev)
	return c.Prev, err == nil && version == c.CNIVersion
}

func resultVersion(data []byte) (string, error) {
	var result struct {
		Version string `json:"cniVersion"`
	}
	err := json.Unmarshal(data, &result)
	return result.Version, err
}

// checkIndices is not for results of IPAM plugins, of which the specification
// wants no interfaces: what they say about them is ignored.
func checkIndices(r *current.Result) error {
	for i, ip := range r.IPs {
		if n := ip.Interface; n != nil && (*n < 0 || *n >= len(r.Interfaces)) {
			return fmt.Errorf("ips[%d].interface: %d: no such interface in the result", i, *n)
		}
	}
	return nil
}

// CurrentResult converts a foreign plugin's result to the current type, and
// refuses what its JSON can hold and no code behind this should have to
// expect. The error names the key and the value.
func CurrentResult(raw types.Result) (*current.Result, error) {
	if _, is := raw.(*current.Result); !is {
		if err := checkNulls(raw); err != nil {
			return nil, err
		}
	}
	result, err := current.NewResultFromResult(raw)
	if err != nil {
		return nil, err
	}
	return result, checkResult(result)
}

// MarshalResult gives a result as JSON, as its own MarshalJSON does, which with a thousand
// VIPs takes ten times the memory: it decodes what it has encoded, and encodes it again.
func MarshalResult(r *current.Result) ([]byte, error) {
	type ip struct {
		Interface *int         `json:"interface,omitempty"`
		Address   netip.Prefix `json:"address"`
		Gateway   net.IP       `json:"gateway,omitempty"`
	}
	flat := struct {
		CNIVersion string               `json:"cniVersion,omitempty"`
		Interfaces []*current.Interface `json:"interfaces,omitempty"`
		IPs        []ip                 `json:"ips,omitempty"`
		Routes     []*types.Route       `json:"routes,omitempty"`
		DNS        *types.DNS           `json:"dns,omitempty"`
	}{CNIVersion: r.CNIVersion, Interfaces: r.Interfaces, IPs: make([]ip, len(r.IPs)), Routes: r.Routes}
	for i, c := range r.IPs {
		flat.IPs[i] = ip{Interface: c.Interface, Gateway: c.Gateway}
		flat.IPs[i].Address, _ = PrefixOf(c.Address)
	}
	if !r.DNS.IsEmpty() {
		flat.DNS = &r.DNS
	}
	return json.Marshal(flat)
}

// checkNulls looks at a result of an older version: the library takes every
// entry of its lists for one when it converts them.
func checkNulls(raw types.Result) error {
	var text bytes.Buffer
	if err := raw.PrintTo(&text); err != nil {
		return err
	}
	var lists struct {
		Interfaces []any `json:"interfaces"`
		IPs        []any `json:"ips"`
		Routes     []any `json:"routes"`
	}
	if err := json.Unmarshal(text.Bytes(), &lists); err != nil {
		return err
	}
	for _, list := range []struct {
		key     string
		entries []any
	}{{"interfaces", lists.Interfaces}, {"ips", lists.IPs}, {"routes", lists.Routes}} {
		if i := slices.IndexFunc(list.entries, func(e any) bool { return e == nil }); i >= 0 {
			return fmt.Errorf("%s[%d]: null", list.key, i)
		}
	}
	return nil
}

func checkResult(r *current.Result) error {
	for i, iface := range r.Interfaces {
		if iface == nil {
			return fmt.Errorf("interfaces[%d]: null: not an interface", i)
		}
	}
	for i, ip := range r.IPs {
		if ip == nil {
			return fmt.Errorf("ips[%d]: null: not an address", i)
		}
		if _, ok := PrefixOf(ip.Address); !ok {
			return fmt.Errorf("ips[%d].address: %s: not an address with a prefix length", i, ip.Address.String())
		}
	}
	for i, route := range r.Routes {
		if route == nil {
			return fmt.Errorf("routes[%d]: null: not a route", i)
		}
		if _, ok := PrefixOf(route.Dst); !ok {
			return fmt.Errorf("routes[%d].dst: %s: not a prefix", i, route.Dst.String())
		}
	}
	return nil
}

package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"

	"macvlan-vip/plugins/internal/cnierr"
)

// What to do when somebody else holds a VIP. "defend" is "fail" to the plugin: it
// says how the keeper is to answer who takes a VIP later.
const (
	ConflictFail   = "fail"
	ConflictDefend = "defend"
	ConflictWarn   = "warn"
	ConflictIgnore = "ignore"
)

// Modes are the macvlan modes that upstream's plugin takes.
var Modes = []string{"bridge", "private", "vepa", "passthru"}

// Macvlan is macvlan-vip's configuration, validated, with defaults filled in.
type Macvlan struct {
	NetConf

	// Master is the lower link's name; empty for the default route's link.
	Master          string
	Mode            string
	MTU             int
	MAC             net.HardwareAddr
	LinkInContainer bool
	BCQueueLen      uint32

	// HostInterface is the host-side macvlan's name; empty for none. It is no
	// more than the first choice where HostInterfaceChosen is false.
	HostInterface string
	// HostInterfaceChosen says that the configuration gives the name.
	HostInterfaceChosen bool
	// Sysctl is the user's, as keys below /proc/sys with slashes, sorted.
	Sysctl    []Setting
	IPForward bool

	// AllowedVIPs are prefixes besides the master's own networks from which a
	// runtime may choose VIPs.
	AllowedVIPs []netip.Prefix
	// RuntimeVIPs are the addresses that the runtime has chosen, and the key by
	// which it did.
	RuntimeVIPs map[netip.Addr]string

	AddressConflict string
	Probe           ProbeConfig
	Announce        AnnounceConfig
}

// Setting is one sysctl of the user's.
type Setting struct{ Key, Value string }

// ProbeConfig says how VIPs are probed for before they are claimed (RFC 5227
// section 2.1.1; RFC 4862 section 5.4 for IPv6): Count probes, Interval apart,
// and Wait for an answer to the last.
type ProbeConfig struct {
	Count    int
	Interval time.Duration
	Wait     time.Duration
}

// AnnounceConfig says how often VIPs are announced.
type AnnounceConfig struct {
	Count    int
	Interval time.Duration
}

type macvlanJSON struct {
	NetConf
	Master          string `json:"master"`
	Mode            string `json:"mode"`
	MTU             int    `json:"mtu"`
	MAC             string `json:"mac"`
	LinkInContainer bool   `json:"linkInContainer"`
	BCQueueLen      uint32 `json:"bcqueuelen"`

	HostInterface   string            `json:"hostInterface"`
	Sysctl          map[string]string `json:"sysctl"`
	IPForward       bool              `json:"ipForward"`
	AllowedVIPs     []string          `json:"allowedVIPs"`
	AddressConflict string            `json:"addressConflict"`
	Probe           json.RawMessage   `json:"probe"`
	Announce        json.RawMessage   `json:"announce"`

	RuntimeConfig struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`
}

// envArgs are the CNI_ARGS of this plugin and of the IPAM plugins, which are
// handed the same string.
type envArgs struct {
	types.CommonArgs
	MAC     types.UnmarshallableString
	IP      types.UnmarshallableString
	GATEWAY types.UnmarshallableString
}

// ParseMacvlan reads macvlan-vip's configuration. ifName is CNI_IFNAME, which
// stands for IFNAME in sysctl keys.
func ParseMacvlan(stdin []byte, args, ifName string) (*Macvlan, error) {
	var raw macvlanJSON
	if err := decode(stdin, &raw); err != nil {
		return nil, err
	}
	if err := defaultIPAM(stdin, &raw.IPAM); err != nil {
		return nil, err
	}
	conf := &Macvlan{
		NetConf:         raw.NetConf,
		Master:          raw.Master,
		Mode:            raw.Mode,
		MTU:             raw.MTU,
		LinkInContainer: raw.LinkInContainer,
		BCQueueLen:      raw.BCQueueLen,
		IPForward:       raw.IPForward,
		AddressConflict: raw.AddressConflict,
	}
	for _, step := range []func() error{
		func() error { return checkIfName(ifName) },
		func() error { return conf.setLink() },
		func() error { return conf.setMAC(&raw, args) },
		func() error { return conf.setHostInterface(raw.HostInterface) },
		func() error { return conf.setSysctl(raw.Sysctl, ifName) },
		func() error { return conf.setAllowedVIPs(raw.AllowedVIPs) },
		func() error { return conf.setRuntimeVIPs(stdin, args) },
		func() error { return conf.setClaim() },
		func() error { return conf.setProbe(raw.Probe) },
		func() error { return conf.setAnnounce(raw.Announce) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return conf, nil
}

// defaultIPAM takes an ipam section without a type for static's. None at all
// means a link without addresses, as it does to upstream's plugins.
func defaultIPAM(stdin []byte, ipam *types.IPAM) error {
	if ipam.Type != "" {
		return nil
	}
	var section struct {
		IPAM map[string]json.RawMessage `json:"ipam"`
	}
	if err := decode(stdin, &section); err != nil {
		return err
	}
	if len(section.IPAM) > 0 {
		ipam.Type = "static"
	}
	return nil
}

func (c *Macvlan) setLink() error {
	if c.Master != "" {
		if err := checkInterfaceName("master", c.Master); err != nil {
			return err
		}
	}
	if c.Mode == "" {
		c.Mode = Modes[0]
	}
	if !slices.Contains(Modes, c.Mode) {
		return cnierr.Config("mode", c.Mode, "no such macvlan mode", "use one of "+strings.Join(Modes, ", "))
	}
	// The upper bound is the master's MTU, which only the kernel knows.
	if c.MTU != 0 {
		return checkRange("mtu", c.MTU, 68, 65535, "bytes; 0 takes the master's")
	}
	return nil
}

func (c *Macvlan) setMAC(raw *macvlanJSON, args string) error {
	var env envArgs
	if err := types.LoadArgs(args, &env); err != nil {
		return cnierr.New(types.ErrInvalidEnvironmentVariables, "pass CNI_ARGS as K=V;K=V, with IgnoreUnknown=1 for keys of other plugins", "CNI_ARGS: %q: %v", args, err)
	}
	key, mac := "mac", raw.MAC
	if env.MAC != "" {
		key, mac = "CNI_ARGS MAC", string(env.MAC)
	}
	if raw.RuntimeConfig.MAC != "" {
		key, mac = "runtimeConfig.mac", raw.RuntimeConfig.MAC
	}
	if mac == "" {
		return nil
	}
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return cnierr.Config(key, mac, "not a 48-bit MAC address", `use six hexadecimal bytes, such as "02:00:5e:10:00:01"`)
	}
	if hw[0]&1 != 0 {
		return cnierr.Config(key, mac, "a multicast address", "use a unicast MAC: the first byte must be even")
	}
	if slices.Equal(hw, make(net.HardwareAddr, 6)) {
		return cnierr.Config(key, mac, "the all-zero address", "use a unicast MAC, or leave the key out for a stable one")
	}
	c.MAC = hw
	return nil
}

// setHostInterface leaves out the host-side macvlan in the modes in which it
// could not talk to the service's.
func (c *Macvlan) setHostInterface(name string) error {
	noPath := ""
	switch {
	case c.LinkInContainer:
		noPath = "linkInContainer is true, so the master has no side on the host"
	case c.Mode == "private" || c.Mode == "passthru":
		noPath = fmt.Sprintf("mode %q cuts a macvlan off from every other on the same master", c.Mode)
	}
	if noPath != "" {
		if name != "" {
			return cnierr.Config("hostInterface", name, noPath, "leave hostInterface out")
		}
		return nil
	}
	c.HostInterface = DefaultHostInterface
	if name != "" {
		c.HostInterface, c.HostInterfaceChosen = name, true
	}
	if err := checkInterfaceName("hostInterface", c.HostInterface); err != nil {
		return err
	}
	if c.HostInterface == c.Master {
		return cnierr.Config("hostInterface", c.HostInterface, "also the name of the master", "give the host-side macvlan a name of its own")
	}
	return nil
}

func (c *Macvlan) setSysctl(user map[string]string, ifName string) error {
	for _, key := range slices.Sorted(maps.Keys(user)) {
		path, err := sysctlPath(key, ifName)
		if err != nil {
			return err
		}
		c.Sysctl = append(c.Sysctl, Setting{Key: path, Value: user[key]})
	}
	return nil
}

// sysctlPath turns a key with dots or slashes into a path below /proc/sys.
// IFNAME is replaced last, since a link's name may hold dots itself.
func sysctlPath(key, ifName string) (string, error) {
	path := key
	if !strings.Contains(key, "/") {
		path = strings.ReplaceAll(key, ".", "/")
	}
	parts := strings.Split(path, "/")
	if len(parts) < 2 || parts[0] != "net" {
		return "", cnierr.Config("sysctl", key, "not a key under net.", "set only keys of the network namespace, such as net.ipv4.conf.IFNAME.forwarding")
	}
	for i, part := range parts {
		if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, isBlank) {
			return "", cnierr.Config("sysctl", key, "not a sysctl key", "write it as sysctl(8) does, such as net.ipv4.conf.IFNAME.forwarding")
		}
		if part == "IFNAME" {
			parts[i] = ifName
		}
	}
	return strings.Join(parts, "/"), nil
}

// isBlank tells what stands in no sysctl's name, and could hide in an error's text.
func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

func (c *Macvlan) setClaim() error {
	if c.AddressConflict == "" {
		c.AddressConflict = ConflictFail
	}
	if !slices.Contains([]string{ConflictFail, ConflictDefend, ConflictWarn, ConflictIgnore}, c.AddressConflict) {
		return cnierr.Config("addressConflict", c.AddressConflict, "no such policy", "use fail, defend, warn or ignore")
	}
	if c.AddressConflict == ConflictDefend {
		c.AddressConflict = ConflictFail
	}
	return nil
}

func (c *Macvlan) setProbe(data json.RawMessage) error {
	// 200 ms in all: on a LAN a holder answers within a millisecond, and a
	// service's start should not wait for the seconds that the RFC asks for.
	raw := struct {
		Count      int `json:"count"`
		IntervalMs int `json:"intervalMs"`
		WaitMs     int `json:"waitMs"`
	}{3, 50, 100}
	if err := decodeStrict("probe", data, &raw); err != nil {
		return err
	}
	if err := checkRange("probe.count", raw.Count, 1, 10, "probes an address"); err != nil {
		return err
	}
	if err := checkRange("probe.intervalMs", raw.IntervalMs, 0, maxMillis, "milliseconds"); err != nil {
		return err
	}
	if err := checkRange("probe.waitMs", raw.WaitMs, 1, maxMillis, "milliseconds"); err != nil {
		return err
	}
	c.Probe = ProbeConfig{Count: raw.Count, Interval: millis(raw.IntervalMs), Wait: millis(raw.WaitMs)}
	return nil
}

func (c *Macvlan) setAnnounce(data json.RawMessage) error {
	// Three rounds outlive the loss of one, and a second between them a
	// switch that is still learning.
	raw := struct {
		Count      int `json:"count"`
		IntervalMs int `json:"intervalMs"`
	}{3, 1000}
	if err := decodeStrict("announce", data, &raw); err != nil {
		return err
	}
	if err := checkRange("announce.count", raw.Count, 0, 100, "rounds"); err != nil {
		return err
	}
	if err := checkRange("announce.intervalMs", raw.IntervalMs, 1, maxMillis, "milliseconds"); err != nil {
		return err
	}
	c.Announce = AnnounceConfig{Count: raw.Count, Interval: millis(raw.IntervalMs)}
	return nil
}

func millis(n int) time.Duration { return time.Duration(n) * time.Millisecond }

package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"macvlan-vip/plugins/internal/cnierr"
)

// conf makes a configuration of the given keys.
func conf(keys string) []byte {
	base := `"cniVersion": "1.1.0", "name": "lan", "type": "any"`
	if keys != "" {
		base += ", " + keys
	}
	return []byte("{" + base + "}")
}

func TestMacvlanDefaults(t *testing.T) {
	got, err := ParseMacvlan(conf(""), "", "mv0")
	if err != nil {
		t.Fatal(err)
	}
	want := &Macvlan{
		Mode: "bridge", HostInterface: "mv-int", AddressConflict: "fail",
		Probe:    ProbeConfig{Count: 3, Interval: 50 * time.Millisecond, Wait: 100 * time.Millisecond},
		Announce: AnnounceConfig{Count: 3, Interval: time.Second},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Macvlan{}, "NetConf")); diff != "" {
		t.Error(diff)
	}
}

func TestMacvlanKeys(t *testing.T) {
	tests := []struct {
		name, keys, args string
		get              func(*Macvlan) any
		want             any
	}{
		{"mac", `"mac": "02:00:00:00:00:01"`, "", func(c *Macvlan) any { return c.MAC.String() }, "02:00:00:00:00:01"},
		{"mac of CNI_ARGS wins over the file's", `"mac": "02:00:00:00:00:01"`, "MAC=02:00:00:00:00:02", func(c *Macvlan) any { return c.MAC.String() }, "02:00:00:00:00:02"},
		{"mac of runtimeConfig wins over all", `"mac": "02:00:00:00:00:01", "runtimeConfig": {"mac": "02:00:00:00:00:03"}`, "MAC=02:00:00:00:00:02", func(c *Macvlan) any { return c.MAC.String() }, "02:00:00:00:00:03"},
		{"arguments of the IPAM plugin", ``, "IP=192.0.2.1/24;GATEWAY=192.0.2.254", func(c *Macvlan) any { return len(c.MAC) }, 0},
		{"foreign arguments that are to be ignored", ``, "IgnoreUnknown=1;K8S_POD_NAME=a", func(c *Macvlan) any { return len(c.MAC) }, 0},
		{"sysctl with dots", `"sysctl": {"net.ipv4.conf.IFNAME.forwarding": "1"}`, "", func(c *Macvlan) any { return c.Sysctl }, []Setting{{"net/ipv4/conf/mv0.7/forwarding", "1"}}},
		{"sysctl with slashes", `"sysctl": {"net/ipv4/conf/eth0.1/forwarding": "1"}`, "", func(c *Macvlan) any { return c.Sysctl }, []Setting{{"net/ipv4/conf/eth0.1/forwarding", "1"}}},
		{"sysctls in order", `"sysctl": {"net.b": "1", "net.a": "2"}`, "", func(c *Macvlan) any { return c.Sysctl }, []Setting{{"net/a", "2"}, {"net/b", "1"}}},
		{"ipam without a type", `"ipam": {"addresses": []}`, "", func(c *Macvlan) any { return c.IPAM.Type }, "static"},
		{"ipam of a type", `"ipam": {"type": "host-local"}`, "", func(c *Macvlan) any { return c.IPAM.Type }, "host-local"},
		{"an empty ipam", `"ipam": {}`, "", func(c *Macvlan) any { return c.IPAM.Type }, ""},
		{"no ipam", ``, "", func(c *Macvlan) any { return c.IPAM.Type }, ""},
		{"no host side in private mode", `"mode": "private"`, "", func(c *Macvlan) any { return c.HostInterface }, ""},
		{"no host side in passthru mode", `"mode": "passthru"`, "", func(c *Macvlan) any { return c.HostInterface }, ""},
		{"no host side for a master in the container", `"linkInContainer": true`, "", func(c *Macvlan) any { return c.HostInterface }, ""},
		{"host side in vepa mode", `"mode": "vepa"`, "", func(c *Macvlan) any { return c.HostInterface }, "mv-int"},
		{"one key of probe", `"probe": {"waitMs": 2000}`, "", func(c *Macvlan) any { return c.Probe }, ProbeConfig{3, 50 * time.Millisecond, 2 * time.Second}},
		{"announce", `"announce": {"count": 0, "intervalMs": 5}`, "", func(c *Macvlan) any { return c.Announce }, AnnounceConfig{0, 5 * time.Millisecond}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseMacvlan(conf(tt.keys), tt.args, "mv0.7")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tt.get(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestErrors says of every value that is refused: which code, and that the
// message names key and value.
func TestErrors(t *testing.T) {
	const decode, config, env = types.ErrDecodingFailure, types.ErrInvalidNetworkConfig, types.ErrInvalidEnvironmentVariables
	macvlan := func(data []byte, args string) error { _, err := ParseMacvlan(data, args, "mv0"); return err }
	hairpin := func(data []byte, _ string) error { _, err := ParseHairpin(data); return err }
	tests := []struct {
		keys, args string
		parse      func([]byte, string) error
		code       uint
		names      []string
	}{
		{`"master": 7`, "", macvlan, decode, []string{"master", "number"}},
		{`"master": "a/b"`, "", macvlan, config, []string{"master", `"a/b"`}},
		{`"mode": "brigde"`, "", macvlan, config, []string{"mode", `"brigde"`}},
		{`"mtu": "1500"`, "", macvlan, decode, []string{"mtu", "string"}},
		{`"mtu": 67`, "", macvlan, config, []string{"mtu", "67"}},
		{`"mtu": -1`, "", macvlan, config, []string{"mtu", "-1"}},
		{`"mac": "02:00"`, "", macvlan, config, []string{"mac", `"02:00"`}},
		{`"mac": "03:00:00:00:00:01"`, "", macvlan, config, []string{"mac", "multicast"}},
		{`"mac": "00:00:00:00:00:00"`, "", macvlan, config, []string{"mac", "zero"}},
		{`"mac": "02:00:00:00:00:00:00:01"`, "", macvlan, config, []string{"mac", "48-bit"}},
		{``, "MAC=zz", macvlan, config, []string{"CNI_ARGS MAC", `"zz"`}},
		{``, "MAC", macvlan, env, []string{"CNI_ARGS", `"MAC"`}},
		{``, "K8S_POD_NAME=a", macvlan, env, []string{"CNI_ARGS", "K8S_POD_NAME"}},
		{`"bcqueuelen": -1`, "", macvlan, decode, []string{"bcqueuelen"}},
		{`"hostInterface": "a-name-of-16-chr"`, "", macvlan, config, []string{"hostInterface", "a-name-of-16-chr"}},
		{`"hostInterface": "eth0", "master": "eth0"`, "", macvlan, config, []string{"hostInterface", "eth0"}},
		{`"hostInterface": "x", "mode": "private"`, "", macvlan, config, []string{"hostInterface", "private"}},
		{`"hostInterface": "x", "linkInContainer": true`, "", macvlan, config, []string{"hostInterface", "linkInContainer"}},
		{`"sysctl": {"kernel.hostname": "x"}`, "", macvlan, config, []string{"sysctl", "kernel.hostname"}},
		{`"sysctl": {"net.ipv4": 1}`, "", macvlan, decode, []string{"sysctl"}},
		{`"sysctl": {"net/../kernel/hostname": "x"}`, "", macvlan, config, []string{"sysctl", "net/../kernel/hostname"}},
		{`"sysctl": {"net..ip": "x"}`, "", macvlan, config, []string{"sysctl", "net..ip"}},
		{`"sysctl": {"net.ipv4/../../kernel.hostname": "x"}`, "", macvlan, config, []string{"sysctl", "net.ipv4/../../kernel.hostname"}},
		{`"sysctl": {"net/ipv4/../../kernel/hostname": "x"}`, "", macvlan, config, []string{"sysctl", "net/ipv4/../../kernel/hostname"}},
		{`"sysctl": {"../net/ipv4/ip_forward": "x"}`, "", macvlan, config, []string{"sysctl", "../net"}},
		{`"sysctl": {"/net/ipv4/ip_forward": "x"}`, "", macvlan, config, []string{"sysctl", "/net"}},
		{`"sysctl": {"net/./ipv4": "x"}`, "", macvlan, config, []string{"sysctl", "net/./ipv4"}},
		{`"sysctl": {"net/ipv4/": "x"}`, "", macvlan, config, []string{"sysctl", "net/ipv4/"}},
		{`"sysctl": {"net//ipv4": "x"}`, "", macvlan, config, []string{"sysctl", "net//ipv4"}},
		{`"sysctl": {"net.": "x"}`, "", macvlan, config, []string{"sysctl", "net."}},
		{`"sysctl": {"": "x"}`, "", macvlan, config, []string{"sysctl"}},
		{`"sysctl": {"net.ipv4.ip_forward\u0000": "x"}`, "", macvlan, config, []string{"sysctl", `\x00`}},
		{`"sysctl": {"net.ipv4.ip_forward\n": "x"}`, "", macvlan, config, []string{"sysctl", `\n`}},
		{`"sysctl": {"network.x": "x"}`, "", macvlan, config, []string{"sysctl", "network.x"}},
		{`"master": ".."`, "", macvlan, config, []string{"master", ".."}},
		{`"master": "../eth0"`, "", macvlan, config, []string{"master", "../eth0"}},
		{`"hostInterface": "../eth0"`, "", macvlan, config, []string{"hostInterface", "../eth0"}},
		{`"hostInterface": "."`, "", macvlan, config, []string{"hostInterface", `"."`}},
		{`"hostInterface": "mv%d"`, "", macvlan, config, []string{"hostInterface", "mv%d"}},
		{`"hostInterface": "all"`, "", macvlan, config, []string{"hostInterface", "all"}},
		{`"hostInterface": "default"`, "", hairpin, config, []string{"hostInterface", "default"}},
		{`"hostInterface": "mv\u0000int"`, "", macvlan, config, []string{"hostInterface", `\x00`}},
		{`"sysctl": {"net": "x"}`, "", macvlan, config, []string{"sysctl", `"net"`}},
		{`"addressConflict": "panic"`, "", macvlan, config, []string{"addressConflict", `"panic"`}},
		{`"probe": {"counts": 3}`, "", macvlan, decode, []string{"probe", "counts"}},
		{`"probe": {"count": 0}`, "", macvlan, config, []string{"probe.count", "0"}},
		{`"probe": {"intervalMs": 60001}`, "", macvlan, config, []string{"probe.intervalMs", "60001"}},
		{`"probe": {"waitMs": 0}`, "", macvlan, config, []string{"probe.waitMs", "0"}},
		{`"announce": {"count": 101}`, "", macvlan, config, []string{"announce.count", "101"}},
		{`"announce": {"intervalMs": 0}`, "", macvlan, config, []string{"announce.intervalMs", "0"}},
		{`"hostInterface": ".."`, "", hairpin, config, []string{"hostInterface", ".."}},
		{`"metric": 0`, "", hairpin, config, []string{"metric", "0"}},
		{`"metric": 2147483648`, "", hairpin, config, []string{"metric", "2147483648"}},
		{`"table": "mian"`, "", hairpin, config, []string{"table", "mian"}},
		{`"table": 0`, "", hairpin, config, []string{"table", "0"}},
		{`"table": 1.5`, "", hairpin, config, []string{"table", "1.5"}},
		{`"source": "192.0.2.1/24"`, "", hairpin, config, []string{"source", "192.0.2.1/24"}},
		{`"source": 5`, "", hairpin, config, []string{"source", "5"}},
		{`"source": ["192.0.2.1", "192.0.2.2"]`, "", hairpin, config, []string{"source", "192.0.2.2"}},
		{`"hostNetworks": 5`, "", hairpin, config, []string{"hostNetworks", "5"}},
		{`"hostNetworks": "docker0"`, "", hairpin, config, []string{"hostNetworks", "docker0"}},
		{`"hostNetworks": ["172.17.0.1/16"]`, "", hairpin, config, []string{"hostNetworks", "172.17.0.1/16"}},
		{`"hostNetworks": "0.0.0.0/0"`, "", hairpin, config, []string{"hostNetworks", "0.0.0.0/0"}},
		{`"hostNetworks": "fe80::/64"`, "", hairpin, config, []string{"hostNetworks", "fe80::/64"}},
		{`"hostNetworks": "connected", "returnPath": false`, "", hairpin, config, []string{"hostNetworks", "returnPath"}},
		{`"source": "0.0.0.0"`, "", hairpin, config, []string{"source", "0.0.0.0"}},
		{`"source": "127.0.0.1"`, "", hairpin, config, []string{"source", "127.0.0.1"}},
		{`"source": "::1"`, "", hairpin, config, []string{"source", "::1"}},
		{`"returnPath": "yes"`, "", hairpin, decode, []string{"returnPath"}},
	}
	for _, tt := range tests {
		t.Run(tt.keys+tt.args, func(t *testing.T) {
			err := tt.parse(conf(tt.keys), tt.args)
			got := cnierr.ToCNI(err)
			if got == nil {
				t.Fatal("accepted")
			}
			if got.Code != tt.code {
				t.Errorf("code %d, want %d: %v", got.Code, tt.code, got)
			}
			for _, name := range tt.names {
				if !strings.Contains(got.Msg, name) {
					t.Errorf("message does not name %s: %s", name, got.Msg)
				}
			}
			if got.Details == "" {
				t.Errorf("no remedy: %s", got.Msg)
			}
		})
	}
}

// TestWrongTypes: the key is the one that the user wrote, and the types have JSON's
// names.
func TestWrongTypes(t *testing.T) {
	macvlan := func(data []byte) error { _, err := ParseMacvlan(data, "", "mv0"); return err }
	hairpin := func(data []byte) error { _, err := ParseHairpin(data); return err }
	gc := func(data []byte) error { _, _, err := ValidAttachments(data); return err }
	for _, tt := range []struct {
		conf         string
		parse        func([]byte) error
		text, remedy string
	}{
		{`{"ipam": []}`, macvlan, "ipam: a list where an object belongs", `under "ipam", use an object instead of a list`},
		{`{"ipam": {"type": 5}}`, macvlan, "ipam.type: the number 5 where a string belongs", `under "ipam.type", use a string instead of the number 5`},
		{`{"name": {}}`, macvlan, "name: an object where a string belongs", `under "name", use a string instead of an object`},
		{`{"capabilities": {"ips": 1}}`, hairpin, "capabilities.ips: the number 1 where true or false belongs", `under "capabilities.ips", use true or false instead of the number 1`},
		{`{"dns": {"nameservers": "x"}}`, hairpin, `dns.nameservers: the string "x" where a list belongs`, `under "dns.nameservers", use a list instead of the string "x"`},
		{`{"sysctl": "x"}`, macvlan, `sysctl: the string "x" where an object belongs`, `under "sysctl", use an object instead of the string "x"`},
		{` {"sysctl": {"net.a": "1", "net.ipv4": 1}}`, macvlan, "sysctl.net.ipv4: the number 1 where a string belongs", `under "sysctl.net.ipv4", use a string instead of the number 1`},
		{`{"allowedVIPs": "x"}`, macvlan, `allowedVIPs: the string "x" where a list belongs`, `under "allowedVIPs", use a list instead of the string "x"`},
		{`{"allowedVIPs": ["x", true]}`, macvlan, "allowedVIPs[1]: true where a string belongs", `under "allowedVIPs[1]", use a string instead of true`},
		{`{"runtimeConfig": {"mac": 5}}`, macvlan, "runtimeConfig.mac: the number 5 where a string belongs", `under "runtimeConfig.mac", use a string instead of the number 5`},
		{`{"mtu": 1.5}`, macvlan, "mtu: the number 1.5 where a whole number that is not negative belongs", `under "mtu", use a whole number that is not negative instead of the number 1.5`},
		{`{"bcqueuelen": -1}`, macvlan, "bcqueuelen: the number -1 where a whole number that is not negative belongs", `under "bcqueuelen", use a whole number that is not negative instead of the number -1`},
		{`{"probe": []}`, macvlan, "probe: a list where an object belongs", `under "probe", use an object instead of a list`},
		{`{"announce": {"count": "x"}}`, macvlan, `announce.count: the string "x" where a whole number that is not negative belongs`, `under "announce.count", use a whole number that is not negative instead of the string "x"`},
		{`{"returnPath": "yes"}`, hairpin, `returnPath: the string "yes" where true or false belongs`, `under "returnPath", use true or false instead of the string "yes"`},
		{`{"cni.dev/valid-attachments": {}}`, gc, "cni.dev/valid-attachments: an object where a list belongs", `under "cni.dev/valid-attachments", use a list instead of an object`},
		{`{"cni.dev/attachments": [7]}`, gc, "cni.dev/attachments[0]: the number 7 where an object belongs", `under "cni.dev/attachments[0]", use an object instead of the number 7`},
		{`{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "mv0"}, {"containerID": 7}]}`, gc, "cni.dev/valid-attachments[1].containerID: the number 7 where a string belongs", `under "cni.dev/valid-attachments[1].containerID", use a string instead of the number 7`},
		{`[]`, macvlan, "network configuration: a list where an object belongs", `under "network configuration", use an object instead of a list`},
	} {
		t.Run(tt.conf, func(t *testing.T) {
			got := cnierr.ToCNI(tt.parse([]byte(tt.conf)))
			if want := types.NewError(types.ErrDecodingFailure, tt.text, tt.remedy); cmp.Diff(want, got) != "" {
				t.Error(cmp.Diff(want, got))
			}
		})
	}
}

// TestIfName: the library checks CNI_IFNAME for path tricks, but not for what
// the kernel takes for something else than a name.
func TestIfName(t *testing.T) {
	for _, name := range []string{"mv%d", "all", "default", "..", "a/b", "", "sixteen-letters-", "a\x00b"} {
		_, err := ParseMacvlan(conf(""), "", name)
		if got := cnierr.ToCNI(err); got == nil || got.Code != types.ErrInvalidEnvironmentVariables || !strings.Contains(got.Msg, "CNI_IFNAME") || got.Details == "" {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestHairpinKeys(t *testing.T) {
	addr := netip.MustParseAddr
	tests := []struct {
		keys string
		want Hairpin
	}{
		{``, Hairpin{Table: 255, Metric: 100, ReturnPath: true}},
		{`"table": "main", "metric": 5, "returnPath": false, "hostInterface": "mv1"`, Hairpin{Table: 254, Metric: 5, HostInterface: "mv1"}},
		{`"table": 100000`, Hairpin{Table: 100000, Metric: 100, ReturnPath: true}},
		{`"table": "77"`, Hairpin{Table: 77, Metric: 100, ReturnPath: true}},
		{`"source": "192.0.2.1"`, Hairpin{Table: 255, Metric: 100, ReturnPath: true, Source: []netip.Addr{addr("192.0.2.1")}}},
		{`"hostNetworks": "connected"`, Hairpin{Table: 255, Metric: 100, ReturnPath: true, ConnectedNetworks: true}},
		{`"hostNetworks": ["fd17::/64", "connected"]`, Hairpin{Table: 255, Metric: 100, ReturnPath: true, ConnectedNetworks: true, HostNetworks: []netip.Prefix{netip.MustParsePrefix("fd17::/64")}}},
		{`"source": ["2001:db8::1", "192.0.2.1"]`, Hairpin{Table: 255, Metric: 100, ReturnPath: true, Source: []netip.Addr{addr("2001:db8::1"), addr("192.0.2.1")}}},
	}
	for _, tt := range tests {
		t.Run(tt.keys, func(t *testing.T) {
			got, err := ParseHairpin(conf(tt.keys))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, got, cmpopts.IgnoreFields(Hairpin{}, "NetConf"), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPrevResultThatIsNone(t *testing.T) {
	for _, prev := range []string{
		`{"cniVersion": "1.1.0", "interfaces": [null]}`,
		`{"cniVersion": "1.1.0", "ips": [null]}`,
		`{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.1/24", "interface": 0}]}`,
		`{"cniVersion": "1.1.0", "interfaces": [{"name": "a"}], "ips": [{"address": "192.0.2.1/24", "interface": -1}]}`,
		`{"cniVersion": "1.1.0", "ips": "192.0.2.1"}`,
		`{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.1"}]}`,
		`{"cniVersion": "9.9.9"}`,
		`7`,
	} {
		t.Run(prev, func(t *testing.T) {
			c, err := ParseHairpin(conf(`"prevResult": ` + prev))
			if err == nil {
				_, err = ParsePrevResult(&c.NetConf)
			}
			var cni *cnierr.Error
			if !errors.As(err, &cni) {
				t.Errorf("want a CNI error, got %v", err)
			}
		})
	}
}

func TestReadResult(t *testing.T) {
	for _, tt := range []struct{ data, conf, version string }{
		{`{"cniVersion": "0.4.0", "ips": []}`, "1.0.0", "0.4.0"},
		{`{"ips": []}`, "1.0.0", "1.0.0"},
		{`{"CNIVersion": "", "ip4": {"ip": "192.0.2.1/24"}}`, "0.2.0", "0.2.0"},
		{`null`, "1.0.0", "1.0.0"},
		{``, "1.0.0", ""},
		{`7`, "1.0.0", ""},
		{`{"cniVersion": "9.9.9"}`, "1.0.0", ""},
	} {
		t.Run(tt.data, func(t *testing.T) {
			result, err := ReadResult([]byte(tt.data), tt.conf)
			if (err != nil) != (tt.version == "") {
				t.Fatalf("error %v", err)
			}
			if err == nil && result.Version() != tt.version {
				t.Errorf("version %s, want %s", result.Version(), tt.version)
			}
		})
	}
}

func TestValidAttachments(t *testing.T) {
	tests := []struct {
		keys  string
		known bool
		want  []types.GCAttachment
	}{
		{``, false, nil},
		// libcni's, where the runtime's empty list is nil.
		{`"cni.dev/valid-attachments": null`, true, nil},
		{`"cni.dev/valid-attachments": null, "cni.dev/attachments": null`, true, nil},
		{`"cni.dev/attachments": null`, true, nil},
		{`"cni.dev/valid-attachments": []`, true, []types.GCAttachment{}},
		{`"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "b"}]`, true, []types.GCAttachment{{ContainerID: "a", IfName: "b"}}},
		{`"cni.dev/attachments": [{"containerID": "a", "ifname": "b"}]`, true, []types.GCAttachment{{ContainerID: "a", IfName: "b"}}},
	}
	for _, tt := range tests {
		t.Run(tt.keys, func(t *testing.T) {
			got, known, err := ValidAttachments(conf(tt.keys))
			if err != nil || known != tt.known {
				t.Fatalf("known %v, err %v", known, err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, wrong := range []string{`7`, `[null]`, `[{}]`, `[{"containerID": "a"}]`, `[{"containerID": "a", "ifname": "b"}, {"ifname": "b"}]`} {
		if got, known, err := ValidAttachments(conf(`"cni.dev/valid-attachments": ` + wrong)); err == nil {
			t.Errorf("%s was taken for a list of attachments: %v, %v", wrong, got, known)
		}
	}
}

// isRejection tells whether an error is one that a runtime can act on.
func isRejection(err error) bool {
	var own *cnierr.Error
	return errors.As(err, &own) && own.Remedy != ""
}

func FuzzParseMacvlan(f *testing.F) {
	f.Add(conf(`"master": "eth0", "mode": "bridge", "sysctl": {"net.ipv4.conf.IFNAME.forwarding": "1"}`), "MAC=02:00:00:00:00:01", "mv0")
	f.Add(conf(`"probe": {"count": 3}, "announce": {}, "runtimeConfig": {"mac": ""}`), "", "a.b")
	f.Add([]byte(`{"ipam": {"type": "static"}, "prevResult": {}}`), "K=V;K=V", "IFNAME")
	f.Fuzz(func(t *testing.T, data []byte, args, ifName string) {
		c, err := ParseMacvlan(data, args, ifName)
		if err != nil {
			if !isRejection(err) {
				t.Errorf("not a CNI error with a remedy: %#v", err)
			}
			return
		}
		for _, s := range c.Sysctl {
			if !strings.HasPrefix(s.Key, "net/") || strings.Contains("/"+s.Key+"/", "/../") {
				t.Errorf("sysctl %q leads out of net/", s.Key)
			}
		}
	})
}

func FuzzParseHairpin(f *testing.F) {
	f.Add(conf(`"table": "local", "metric": 100, "source": ["192.0.2.1"], "hostNetworks": ["172.17.0.0/16", "connected"], "returnPath": true`))
	f.Add(conf(`"prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "mv-int"}, {"name": "mv0", "sandbox": "/run/netns/x"}], "ips": [{"address": "192.0.2.1/24", "interface": 1}]}`))
	f.Add(conf(`"cniVersion": "0.2.0", "prevResult": {"ip4": {"ip": "192.0.2.1/24"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseHairpin(data)
		if err == nil {
			_, err = ParsePrevResult(&c.NetConf)
		}
		if err != nil && !isRejection(err) {
			t.Errorf("not a CNI error with a remedy: %#v", err)
		}
	})
}

func ExampleParseMacvlan() {
	_, err := ParseMacvlan([]byte(`{"name": "lan", "mode": "brigde"}`), "", "mv0")
	printed, _ := json.Marshal(cnierr.ToCNI(err))
	fmt.Println(string(printed))
	// Output: {"code":7,"msg":"mode: \"brigde\": no such macvlan mode","details":"use one of bridge, private, vepa, passthru"}
}

// TestMarshalResult: the same as the library's own.
func TestMarshalResult(t *testing.T) {
	mtu, link, table, scope := 1400, 1, 7, 0
	cidr := func(text string) net.IPNet {
		n, err := types.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		return *n
	}
	for name, result := range map[string]*current.Result{
		"empty": {CNIVersion: "1.1.0"},
		"all": {
			CNIVersion: "1.1.0",
			Interfaces: []*current.Interface{{Name: "mv-int", Mac: "02:00:00:00:00:01"}, {Name: "mv0", Mac: "02:00:00:00:00:02", Mtu: mtu, Sandbox: "/run/netns/web"}},
			IPs: []*current.IPConfig{
				{Interface: &link, Address: cidr("192.0.2.10/24"), Gateway: net.ParseIP("192.0.2.1")},
				{Address: cidr("2001:db8::10/64"), Gateway: net.ParseIP("2001:db8::1")},
				{Interface: &link, Address: cidr("192.0.2.11/32")},
			},
			Routes: []*types.Route{{Dst: cidr("0.0.0.0/0")}, {Dst: cidr("::/0"), GW: net.ParseIP("fe80::1"), MTU: mtu, Table: &table, Scope: &scope}},
			DNS:    types.DNS{Nameservers: []string{"192.0.2.53"}, Search: []string{"example.org"}},
		},
	} {
		want, err := json.Marshal(result)
		if err != nil {
			t.Fatal(err)
		}
		got, err := MarshalResult(result)
		if err != nil {
			t.Fatal(err)
		}
		var wanted, gotten any
		if err := errors.Join(json.Unmarshal(want, &wanted), json.Unmarshal(got, &gotten)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wanted, gotten); diff != "" {
			t.Errorf("%s (-library +ours):\n%s", name, diff)
		}
	}
}

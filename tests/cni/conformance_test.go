package cni

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/google/go-cmp/cmp"

	"macvlan-vip/tests/testnet"
)

// The tests of this file walk through the CNI specification 1.1.0 (SPEC.md);
// their names are its sections'.

var plugins = []string{"macvlan-vip", "hairpin-route"}

// refused is an error as the specification wants it: not on the standard
// error alone, with an exit status, and with the right code.
func refused(t *testing.T, o outcome, code uint) {
	t.Helper()
	if o.ok() || o.err().Code != code || o.err().Msg == "" {
		t.Errorf("want an error of code %d: %s", code, o)
	}
}

// with puts a key into a configuration.
func with(t testing.TB, conf, key string, value any) string { return testnet.With(t, conf, key, value) }

// pair is an attachment that both plugins have been added to.
type pair struct {
	*attachment
	// link and hairpin are their configurations, with the results before.
	link, hairpin string
	result        *current.Result
}

// verb runs a verb of either plugin.
func (p *pair) verb(plugin, verb string) outcome {
	if plugin == "macvlan-vip" {
		return p.run(plugin, verb, p.link)
	}
	return p.run(plugin, verb, p.hairpin)
}

// up adds an attachment to both plugins, as a runtime does with a list of the
// two, and prepares what CHECK and DEL are given.
func (l *lab) up(t testing.TB, id, cniVersion, keys string) *pair {
	t.Helper()
	p := &pair{attachment: l.attachment(id)}
	p.link = conf(cniVersion, "macvlan-vip", "lan", keys)
	p.hairpin = conf(cniVersion, "hairpin-route", "lan", "")
	added := p.run("macvlan-vip", "ADD", p.link)
	if !added.ok() {
		t.Fatalf("ADD: %s", added)
	}
	prev := json.RawMessage(added.stdout)
	p.link, p.hairpin = with(t, p.link, "prevResult", prev), with(t, p.hairpin, "prevResult", prev)
	if o := p.run("hairpin-route", "ADD", p.hairpin); !o.ok() {
		t.Fatalf("ADD: %s", o)
	}
	p.result = decode(t, cniVersion, added.stdout)
	return p
}

// down deletes in the other order.
func (p *pair) down() {
	p.t.Helper()
	p.must("hairpin-route", "DEL", p.hairpin)
	p.must("macvlan-vip", "DEL", p.link)
}

// decode reads a result of a version of the specification.
func decode(t testing.TB, cniVersion, printed string) *current.Result {
	t.Helper()
	raw, err := version.NewResult(cniVersion, []byte(printed))
	if err != nil {
		t.Fatalf("%v: %s", err, printed)
	}
	result, err := current.NewResultFromResult(raw)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

const (
	staticV4 = `"master": "eth0", "ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}]}`
	staticV6 = `"master": "eth0", "ipam": {"type": "static", "addresses": [{"address": "2001:db8::10/64"}]}`
)

// TestParameters: the variables that each verb requires, and the form of each.
func TestParameters(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	a := l.attachment("c1")
	required := map[string][]string{
		"ADD":   {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
		"CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
		"DEL":   {"CNI_CONTAINERID", "CNI_IFNAME"},
		"GC":    {"CNI_PATH"},
	}
	invalid := map[string][]string{
		"CNI_CONTAINERID": {"-c1", "c/1", "c 1", "c:1", "../c1", ".."},
		"CNI_IFNAME":      {"mv/0", "mv 0", "mv:0", "..", ".", "sixteen-letters-"},
	}
	for _, plugin := range plugins {
		call := func(verb, key, value string) outcome {
			env := slices.DeleteFunc(a.env(verb), func(kv string) bool { return strings.HasPrefix(kv, key+"=") })
			if value != "" {
				env = append(env, key+"="+value)
			}
			return a.exec(env, conf("1.1.0", plugin, "lan", staticV4), plugin)
		}
		for verb, keys := range required {
			for _, key := range keys {
				t.Run(plugin+" "+verb+" without "+key, func(t *testing.T) {
					o := call(verb, key, "")
					refused(t, o, types.ErrInvalidEnvironmentVariables)
					if !strings.Contains(o.err().Msg, key) {
						t.Errorf("no %s in: %s", key, o.stdout)
					}
				})
				for _, value := range invalid[key] {
					t.Run(plugin+" "+verb+" with "+key+"="+value, func(t *testing.T) {
						refused(t, call(verb, key, value), types.ErrInvalidEnvironmentVariables)
					})
				}
			}
		}
		t.Run(plugin+" unknown CNI_COMMAND", func(t *testing.T) {
			refused(t, a.run(plugin, "FROBNICATE", conf("1.1.0", plugin, "lan", "")), types.ErrInvalidEnvironmentVariables)
		})
		t.Run(plugin+" no CNI_COMMAND", func(t *testing.T) {
			if o := a.exec(nil, "", plugin); o.stdout != "" || !strings.Contains(o.stderr, "1.1.0") {
				t.Errorf("nothing about it on the standard error: %s", o)
			}
		})
		t.Run(plugin+" CNI_ARGS that are none", func(t *testing.T) {
			bad := *a
			bad.args = "MAC"
			if plugin == "macvlan-vip" {
				refused(t, bad.run(plugin, "ADD", conf("1.1.0", plugin, "lan", staticV4)), types.ErrInvalidEnvironmentVariables)
			}
		})
		for _, netns := range []string{"/run/netns/nonesuch", "/etc/hostname", l.host.Path()} {
			t.Run(plugin+" CNI_NETNS="+netns, func(t *testing.T) {
				for _, verb := range []string{"ADD", "CHECK"} {
					env := append(a.env(verb), "CNI_NETNS="+netns)
					c := with(t, conf("1.1.0", plugin, "lan", staticV4), "prevResult", json.RawMessage(`{"cniVersion": "1.1.0"}`))
					refused(t, a.exec(env, c, plugin), types.ErrInvalidNetNS)
				}
			})
		}
	}
}

// TestErrors: one structure on the standard output, nothing else there, and
// an exit status; logs go to the standard error.
func TestErrors(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	a := l.attachment("c1")
	for _, plugin := range plugins {
		for _, verb := range []string{"ADD", "CHECK", "DEL", "GC", "STATUS"} {
			for name, tt := range map[string]struct {
				stdin string
				code  uint
			}{
				"no JSON":                {`{"cniVersion": "1.1.0", `, types.ErrDecodingFailure},
				"nothing":                {``, types.ErrDecodingFailure},
				"a list":                 {`[]`, types.ErrDecodingFailure},
				"a version that is none": {`{"cniVersion": 1, "name": "lan", "type": "x"}`, types.ErrDecodingFailure},
				"no name":                {`{"cniVersion": "1.1.0", "type": "x"}`, types.ErrInvalidNetworkConfig},
				"a name that is none":    {`{"cniVersion": "1.1.0", "name": "../lan", "type": "x"}`, types.ErrInvalidNetworkConfig},
				"a version to come":      {`{"cniVersion": "9.9.9", "name": "lan", "type": "x"}`, types.ErrIncompatibleCNIVersion},
			} {
				t.Run(fmt.Sprintf("%s %s %s", plugin, verb, name), func(t *testing.T) {
					o := a.run(plugin, verb, tt.stdin)
					refused(t, o, tt.code)
					var keys map[string]any
					if err := json.Unmarshal([]byte(o.stdout), &keys); err != nil {
						t.Fatal(err)
					}
					if v, _ := keys["cniVersion"].(string); !slices.Contains(version.All.SupportedVersions(), v) {
						t.Errorf("cniVersion is %q", v)
					}
				})
			}
		}
	}
	for key, value := range map[string]any{
		"mtu": "large", "master": 1, "mode": true, "sysctl": []string{"x"}, "ipam": "static", "linkInContainer": "yes", "probe": 3,
		"announce": map[string]int{"rounds": 3}, "bcqueuelen": -1, "hostInterface": 1, "prevResult": "x",
	} {
		t.Run("macvlan-vip "+key, func(t *testing.T) {
			o := a.run("macvlan-vip", "ADD", with(t, conf("1.1.0", "macvlan-vip", "lan", staticV4), key, value))
			refused(t, o, types.ErrDecodingFailure)
			if !strings.Contains(o.err().Msg, key) {
				t.Errorf("does not name the key: %s", o.stdout)
			}
		})
	}
	for key, value := range map[string]any{"metric": "high", "table": "nonesuch", "source": 1, "returnPath": "yes", "hostInterface": 1, "prevResult": "x"} {
		t.Run("hairpin-route "+key, func(t *testing.T) {
			o := a.run("hairpin-route", "ADD", with(t, conf("1.1.0", "hairpin-route", "lan", ""), key, value))
			if code := o.err().Code; code != types.ErrDecodingFailure && code != types.ErrInvalidNetworkConfig {
				t.Errorf("code %d: %s", code, o)
			}
			if !strings.Contains(o.err().Msg, key) {
				t.Errorf("does not name the key: %s", o.stdout)
			}
		})
	}
}

// TestADD over every version: the result is of the configuration's version and
// has all the fields, and prevResult is passed through.
func TestADD(t *testing.T) {
	for _, v := range version.All.SupportedVersions() {
		t.Run(v, func(t *testing.T) {
			l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
			p := l.up(t, "c1", v, `"master": "eth0", "mac": "02:00:5e:00:53:01", "mtu": 1400, "dns": {"nameservers": ["192.0.2.53"]}, "ipam": {"type": "static",
				"addresses": [{"address": "192.0.2.10/24", "gateway": "192.0.2.254"}, {"address": "2001:db8::10/64"}],
				"routes": [{"dst": "0.0.0.0/0"}, {"dst": "198.51.100.0/24", "gw": "192.0.2.253"}]}`)
			defer p.down()
			if got := len(p.result.IPs); got != 2 {
				t.Errorf("%d addresses: %v", got, p.result)
			}
			if got := p.result.IPs[0].Gateway.String(); got != "192.0.2.254" {
				t.Errorf("gateway %s", got)
			}
			if got := len(p.result.Routes); got != 2 && testutils.SpecVersionHasChaining(v) {
				t.Errorf("routes: %v", p.result.Routes)
			}
			if got := p.result.DNS.Nameservers; !slices.Equal(got, []string{"192.0.2.53"}) {
				t.Errorf("DNS: %v", got)
			}
			if testutils.SpecVersionHasChaining(v) {
				p.checkInterfaces(t, v)
			}
			again := p.verb("hairpin-route", "ADD")
			if diff := cmp.Diff(p.result, decode(t, v, again.stdout)); diff != "" {
				t.Errorf("hairpin-route changed prevResult: %s", diff)
			}
		})
	}
}

func (p *pair) checkInterfaces(t *testing.T, v string) {
	t.Helper()
	if len(p.result.Interfaces) != 2 {
		t.Fatalf("interfaces: %v", p.result.Interfaces)
	}
	onHost, own := p.result.Interfaces[0], p.result.Interfaces[1]
	if onHost.Sandbox != "" || !strings.Contains(p.host.IP("link show "+onHost.Name), onHost.Mac) {
		t.Errorf("host side: %v", onHost)
	}
	if own.Name != "mv0" || own.Sandbox != p.service.Path() || own.Mac != "02:00:5e:00:53:01" {
		t.Errorf("service side: %v", own)
	}
	if v == "1.1.0" && own.Mtu != 1400 {
		t.Errorf("MTU: %v", own)
	}
	for _, ip := range p.result.IPs {
		if ip.Interface == nil || *ip.Interface != 1 {
			t.Errorf("%v is not on the service's interface", ip)
		}
	}
}

// TestVERSION: the supported versions are those of the library.
func TestVERSION(t *testing.T) {
	l := newLab(t)
	for _, plugin := range plugins {
		for _, stdin := range []string{``, `{"cniVersion": "0.3.1"}`, `{"cniVersion": "1.1.0"}`} {
			o := l.exec([]string{"CNI_COMMAND=VERSION"}, stdin, plugin)
			info, err := (&version.PluginDecoder{}).Decode([]byte(o.stdout))
			if err != nil || !o.ok() {
				t.Fatalf("%s: %v: %s", plugin, err, o)
			}
			if diff := cmp.Diff(version.All.SupportedVersions(), info.SupportedVersions()); diff != "" {
				t.Errorf("%s: %s", plugin, diff)
			}
		}
	}
}

// TestVerbsOfLaterVersions: CHECK came with 0.4.0, GC and STATUS with 1.1.0.
func TestVerbsOfLaterVersions(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	for _, v := range version.All.SupportedVersions() {
		p := l.up(t, "c1", v, staticV4)
		for _, plugin := range plugins {
			for verb, has := range map[string]bool{
				"CHECK": testutils.SpecVersionHasCHECK(v), "GC": testutils.SpecVersionHasSTATUS(v), "STATUS": testutils.SpecVersionHasSTATUS(v),
			} {
				switch o := p.verb(plugin, verb); {
				case has && !o.ok():
					t.Errorf("%s %s %s: %s", v, plugin, verb, o)
				case !has:
					refused(t, o, types.ErrIncompatibleCNIVersion)
				}
			}
		}
		p.down()
	}
}

package main

import (
	"errors"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/testutils"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/verb"
)

// FuzzPrevResult goes the ways of ADD and CHECK as far as they need no kernel:
// whatever stands in prevResult, which here serves as the IPAM plugin's result
// as well, there is a plan, or an error that a runtime can act on.
func FuzzPrevResult(f *testing.F) {
	const before = `"interfaces": [{"name": "mv-int", "mac": "02:00:00:00:00:01"}, {"name": "mv0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/x"}]`
	for _, v := range version.All.SupportedVersions() {
		prev := `{"cniVersion": "` + v + `", ` + before + `, "ips": [{"version": "4", "address": "192.0.2.10/24", "gateway": "192.0.2.254", "interface": 1}], "routes": [{"dst": "0.0.0.0/0"}]}`
		if !testutils.SpecVersionHasChaining(v) {
			prev = `{"cniVersion": "` + v + `", "ip4": {"ip": "192.0.2.10/24", "routes": [{"dst": "0.0.0.0/0"}]}, "ip6": {"ip": "2001:db8::10/64"}}`
		}
		f.Add([]byte(network(v, `"prevResult": `+prev, "192.0.2.10/24")))
	}
	for _, prev := range []string{
		`null`, `{}`, `{"ips": [null]}`, `{"interfaces": [null]}`, `{` + before + `, "ips": [{"address": "192.0.2.1/24", "interface": -1}]}`,
		`{` + before + `, "ips": [{"address": "192.0.2.1/24", "interface": 2}]}`, `{` + before + `, "routes": [null]}`,
		`{` + before + `, "ips": [{"address": "192.0.2.1/24"}], "routes": [{"dst": "::/0", "gw": "192.0.2.254"}]}`,
		`{` + before + `, "ips": [{"address": "::ffff:192.0.2.1/120", "gateway": "fe80::1", "interface": 1}], "routes": [{"dst": "0.0.0.0/0"}]}`,
	} {
		f.Add([]byte(network("1.1.0", `"prevResult": `+prev, "192.0.2.10/24")))
	}
	f.Fuzz(func(t *testing.T, stdin []byte) {
		c, err := config.ParseMacvlan(stdin, "", "mv0")
		if err != nil {
			actionable(t, err)
			return
		}
		prev, err := config.ParsePrevResult(&c.NetConf)
		if prev == nil {
			actionable(t, err)
			return
		}
		a := &attachment{Attachment: &verb.Attachment{Args: &skel.CmdArgs{ContainerID: "fuzz", IfName: "mv0", Netns: "/run/netns/x"}, Prev: prev}, conf: c}
		a.plan = plan.Attachment{Conf: c, ContainerID: "fuzz", IfName: "mv0", Master: plan.LinkFacts{Name: "eth0", MAC: "02:00:00:00:00:03", MTU: 65535}}
		if a.service, err = a.plan.ServiceSide(); err != nil {
			actionable(t, err)
			return
		}
		// Results are changed on the way.
		again, _ := config.ParseMacvlan(stdin, "", "mv0")
		ipam, _ := config.ParsePrevResult(&again.NetConf)
		a.adds(t, ipam)
		a.checks(t)
	})
}

// adds makes what ADD prints out of an IPAM result, behind another plugin's.
func (a *attachment) adds(t *testing.T, ipam *current.Result) {
	host := a.plan.HostSide(nil)
	if _, err := a.plan.Addresses(ipam); err != nil {
		actionable(t, err)
		return
	}
	own := a.plan.Result(host, a.service, ipam, a.Args.Netns)
	result := plan.Chain(a.Prev, own)
	for i, ip := range own.IPs {
		if at := result.Interfaces[*ip.Interface]; at.Name != "mv0" || at.Sandbox != a.Args.Netns {
			t.Errorf("address %d is on %v", i, at)
		}
	}
	for _, v := range version.All.SupportedVersions() {
		_, _ = result.GetAsVersion(v)
	}
}

// checks plans what CHECK compares the kernel with.
func (a *attachment) checks(t *testing.T) {
	host := a.plan.HostSide(nil)
	keepMACs(host.Links, a.Prev)
	// The host's side needs a look at the kernel.
	conf := *a.conf
	conf.HostInterface = ""
	a.plan.Conf = &conf
	var err error
	if a.conf = &conf; a.Store == nil {
		if a.Store, err = journal.Open(name, "fuzz"); err != nil {
			t.Fatal(err)
		}
	}
	want, err := a.expected()
	actionable(t, err)
	if err == nil && conf.IPAM.Type != "" && len(want.Addresses) == 0 {
		t.Error("no address is looked for")
	}
}

// actionable wants a CNI error with a remedy, if any.
func actionable(t *testing.T, err error) {
	t.Helper()
	var own *cnierr.Error
	if err != nil && (!errors.As(err, &own) || own.Remedy == "") {
		t.Errorf("not a CNI error with a remedy: %#v", err)
	}
}

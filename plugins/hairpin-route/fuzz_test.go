package main

import (
	"errors"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/verb"
)

// FuzzPrevResult goes the way of ADD and CHECK as far as it needs no kernel:
// whatever stands in prevResult, there is a plan for addresses that it lists,
// or an error that a runtime can act on.
func FuzzPrevResult(f *testing.F) {
	for _, v := range version.All.SupportedVersions() {
		f.Add([]byte(conf(v, "", prevResult(v))), "mv0")
	}
	for _, prev := range []string{
		`null`, `{}`, `{"ips": [null]}`, `{"interfaces": [null], "ips": [{"address": "192.0.2.1/24", "interface": 0}]}`,
		`{"ips": [{"address": "192.0.2.1/24", "interface": -1}]}`, `{"interfaces": [{"name": "mv0", "sandbox": "x"}], "ips": [{"address": "192.0.2.1/24", "interface": 1}]}`,
		`{"ips": [{}], "routes": [null]}`, `{"interfaces": [{"name": "mv0", "sandbox": "x"}], "ips": [{"address": "::ffff:192.0.2.1/120", "interface": 0}]}`,
	} {
		f.Add([]byte(conf("1.1.0", `"source": ["192.0.2.9", "2001:db8::9"]`, prev)), "mv0")
	}
	f.Fuzz(func(t *testing.T, stdin []byte, ifName string) {
		c, err := config.ParseHairpin(stdin)
		if err != nil {
			actionable(t, err)
			return
		}
		prev, err := config.ParsePrevResult(&c.NetConf)
		if prev == nil {
			actionable(t, err)
			return
		}
		a := &attachment{Attachment: &verb.Attachment{Args: &skel.CmdArgs{IfName: ifName}, Prev: prev}, conf: c}
		a.facts = plan.Hairpin{
			Conf:        c,
			HostLink:    plan.LinkFacts{Name: "mv-int", MAC: "02:00:00:00:00:01"},
			ServiceLink: plan.LinkFacts{Name: ifName, MAC: "02:00:00:00:00:02"},
		}
		for _, name := range onHost(prev) {
			if !slices.ContainsFunc(prev.Interfaces, func(i *current.Interface) bool { return i.Name == name && i.Sandbox == "" }) {
				t.Errorf("%q is no interface on the host", name)
			}
		}
		if err := a.findVIPs(); err != nil {
			actionable(t, err)
			return
		}
		checkPlan(t, a)
		if _, err := c.PrevResult.GetAsVersion(c.CNIVersion); err != nil {
			t.Errorf("prevResult cannot be passed through: %v", err)
		}
	})
}

// checkPlan wants a route to every VIP and no other.
func checkPlan(t *testing.T, a *attachment) {
	want := a.facts.Plan()
	if len(want.Routes) != len(a.facts.VIPs) {
		t.Errorf("%d routes to %d VIPs", len(want.Routes), len(a.facts.VIPs))
	}
	for _, r := range want.Routes {
		listed := slices.ContainsFunc(a.Prev.IPs, func(ip *current.IPConfig) bool {
			p, ok := config.PrefixOf(ip.Address)
			return ok && p.Addr() == r.Dst.Addr()
		})
		if !r.Dst.IsSingleIP() || !listed {
			t.Errorf("a route to %s, which prevResult does not list", r.Dst)
		}
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

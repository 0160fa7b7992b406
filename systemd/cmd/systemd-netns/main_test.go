package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestServiceName(t *testing.T) {
	for name, want := range map[string]string{
		"haproxy": "haproxy.service", "haproxy.service": "haproxy.service", "app@1": "app@1.service",
		"app@": "", "web.socket": "", "../x": "", "/etc/x.service": "", ".service": "", "": "",
	} {
		got, err := serviceName(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}

// TestUsageErrors end with status 2, before anything is done.
func TestUsageErrors(t *testing.T) {
	for _, args := range []string{
		"", "nonsense", "add web", "remove web", "clear web", "enable", "enable web other", "enable ../web", "enable app@",
		"enable web --vip 192.0.2.20", "enable web --vip", "enable web --nonsense", "enable web --in ../x", "enable web --network ../x",
		"enable web --gateway 192.0.2.1/24", "enable web --dns x", "enable web --forward 0", "enable web --forward 65536", "enable web --forward 80x",
		"enable web --vip 192.0.2.1/24 --vip 192.0.2.1/25",
		"set", "set web", "set web --vip 192.0.2.1/24 --add-vip 192.0.2.2/24", "set web --add-vip 192.0.2.2",
		"enable web --gateway 192.0.2.1 --gateway 2001:db8::1 --gateway 192.0.2.2", "set web --gateway 192.0.2.1 --gateway 192.0.2.1",
		"disable", "disable a b", "list web", "list -o xml", "status a b", "check a b", "exec", "exec web", "exec web --", "completion", "completion tcsh",
	} {
		if got := run(t.Context(), strings.Fields(args)); got != exitUsage {
			t.Errorf("systemd-netns %s: status %d, want %d", args, got, exitUsage)
		}
	}
}

func TestFlags(t *testing.T) {
	var v vips
	var a addresses
	var p ports
	cmd := &cobra.Command{Run: func(*cobra.Command, []string) {}}
	cmd.Flags().Var(&v, "vip", "")
	cmd.Flags().Var(&a, "dns", "")
	cmd.Flags().Var(&p, "forward", "")
	cmd.SetArgs(strings.Fields("--vip 192.0.2.20/24 --dns=192.0.2.53 --vip=2001:db8::20/64 --forward 8080 --forward 8081 --forward 8080"))
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(v, vips{netip.MustParsePrefix("192.0.2.20/24"), netip.MustParsePrefix("2001:db8::20/64")}) ||
		!slices.Equal(a, addresses{netip.MustParseAddr("192.0.2.53")}) || !slices.Equal(p, ports{8080, 8081}) {
		t.Errorf("%v, %v, %v", v, a, p)
	}
}

// TestExecKeepsOptions: what follows the service is the command's, with and
// without a dash.
func TestExecKeepsOptions(t *testing.T) {
	for _, args := range []string{"web -- ip -br address", "web ip -br address"} {
		cmd := newExec()
		var got []string
		cmd.RunE = func(_ *cobra.Command, args []string) error { got = args; return nil }
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := strings.Fields(args); !slices.Equal(got, want) {
			t.Errorf("%q: %q", args, got)
		}
	}
}

package settings

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckName(t *testing.T) {
	for name, want := range map[string]bool{
		"haproxy": true, "app@1": true, `foo\x2dbar@a:b_c.d`: true,
		"": false, ".": false, "..": false, "a/b": false, "../x": false, "-x": false, "a b": false, "a\nb": false, "ä": false,
		strings.Repeat("a", 256): false,
	} {
		if err := CheckName(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNetworkName(t *testing.T) {
	for name, want := range map[string]string{"haproxy": "haproxy", "app@1": "app-1", `a\x2db:c`: "a-x2db-c"} {
		if got := NetworkName(name); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}

// TestParseEnv: the format of systemd.exec(5), EnvironmentFile=.
func TestParseEnv(t *testing.T) {
	got := ParseEnv("# a comment\n; another\n\nNETWORK=lan\n  CNI_IFNAME = \"vip 0\" \n" +
		`CAP_ARGS={"ips":["192.0.2.20/24"]}` + "\n" + `Q='{"ips":["192.0.2.20/24"]}'` + "\n" +
		`D="a\"b\\c\d"` + "\nLONG=a\\\nb\nEMPTY=\nno assignment\n" + `MIX=a'b c'd\ e` + "\n")
	want := map[string]string{
		"NETWORK": "lan", "CNI_IFNAME": "vip 0",
		"CAP_ARGS": `{"ips":["192.0.2.20/24"]}`, "Q": `{"ips":["192.0.2.20/24"]}`,
		"D": `a"b\c\d`, "LONG": "ab", "EMPTY": "", "MIX": "a'b c'd e",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

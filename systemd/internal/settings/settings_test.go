package settings

import (
	"strings"
	"testing"
	"time"

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

// TestRetries: a machine that boots waits longer for its network, unless it is told.
func TestRetries(t *testing.T) {
	for _, c := range []struct {
		text           string
		up             time.Duration
		retry, network time.Duration
	}{
		{"", 15 * time.Second, 10 * time.Second, 105 * time.Second},
		{"", time.Hour, 10 * time.Second, 2*time.Minute - time.Hour},
		{"0", 15 * time.Second, 0, 0},
		{"300", 15 * time.Second, 5 * time.Minute, 0},
	} {
		retry, network, err := retries(c.text, c.up)
		if err != nil || retry != c.retry || network != c.network {
			t.Errorf("%q after %s: %s, %s, %v", c.text, c.up, retry, network, err)
		}
	}
	for _, text := range []string{"soon", "-1", "1.5", "86401"} {
		if _, _, err := retries(text, 0); err == nil || !strings.Contains(err.Error(), "RETRY_SEC: \""+text+"\"") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if up := uptime(); up < time.Second {
		t.Errorf("up for %s", up)
	}
}

// TestParseEnv: the format of systemd.exec(5), EnvironmentFile=.
func TestParseEnv(t *testing.T) {
	got := ParseEnv("# a comment\n; another\n\nNETWORK=lan\n  CNI_IFNAME = \"vip 0\" \n" +
		`CAP_ARGS={"ips":["192.0.2.20/24"]}` + "\n" + `Q='{"ips":["192.0.2.20/24"]}'` + "\n" +
		`D="a\"b\\c\d"` + "\nLONG=a\\\nb\nEMPTY=\nno assignment\n" + `MIX=a'b c'd\ e` + "\nDOS=a\\\r\nb\r\n")
	want := map[string]string{
		"NETWORK": "lan", "CNI_IFNAME": "vip 0",
		"CAP_ARGS": `{"ips":["192.0.2.20/24"]}`, "Q": `{"ips":["192.0.2.20/24"]}`,
		"D": `a"b\c\d`, "LONG": "ab", "EMPTY": "", "MIX": "a'b c'd e", "DOS": "a",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestCheckEnv: what systemd would ignore, and tell of in the journal alone, is an error.
func TestCheckEnv(t *testing.T) {
	for text, want := range map[string]string{
		"NETWORK=lan\n_x1=\n":              "",
		"\ufeffNETWORK=lan\nRETRY_SEC=1\n": `"\ufeffNETWORK"`,
		"export NETWORK=lan\n":             `"export NETWORK"`,
		"1A=x\n":                           `"1A"`,
		"=x\n":                             `""`,
	} {
		err := checkEnv(ParseEnv(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestSetEnv: one variable is set as ParseEnv reads it, and all else stays.
func TestSetEnv(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "A=x\n",
		"# A=0\n\n B = \"1\" \n":               "# A=0\n\n B = \"1\" \nA=x\n",
		"A=0\n# why\nB=1":                      "A=x\n# why\nB=1",
		"A=0\nB=1\n A = '2'\nC=3\n":            "A=0\nB=1\nA=x\nC=3\n",
		"A=0\\\n1\nB=1\\\nA=2\n":               "A=x\nB=1\\\nA=2\n",
		"AA=0\nB=1":                            "AA=0\nB=1\nA=x\n",
		"B=1\\\n":                              "B=1\\\n\nA=x\n",
		"# written here\\\nA=0\n; A=1\nno A\n": "# written here\\\nA=0\n; A=1\nno A\nA=x\n",
	} {
		got := SetEnv(text, "A", "x")
		if got != want || ParseEnv(got)["A"] != "x" {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	const value = `{"ips":["192.0.2.20/24"],"note":"a \"b\" \\ c"}`
	if got := ParseEnv(SetEnv("", "CAP_ARGS", value))["CAP_ARGS"]; got != value {
		t.Errorf("%s, want %s", got, value)
	}
}

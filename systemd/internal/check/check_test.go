package check

import (
	"context"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"macvlan-vip/systemd/internal/facts"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// TestAnswer takes packets as lo carries them.
func TestAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		packet, want string
	}{
		"a refused connection":     {"45000028000040004006 3cce 7f000001 7f000001 1f90c350 00000000 12345678 50140000 00000000", "tcp 127.0.0.1:8080"},
		"an established one reset": {"45000028000040004006 3cce 7f000001 7f000001 1f90c350 00000009 12345678 50140000 00000000", ""},
		"an accepted connection":   {"4500003c000040004006 3cba 7f000001 7f000001 1f90c350 00000009 12345678 50120000 00000000", "+tcp 127.0.0.1:8080"},
		"a first packet":           {"4500003c000040004006 3cba 7f000001 7f000001 c3501f90 12345678 00000000 50020000 00000000", ""},
		"a VIP":                    {"45000028000040004006 3cce c0000201 7f000001 1f90c350 00000000 12345678 50140000 00000000", ""},
		"a refused IPv6 one":       {"60000000 00140640 00000000000000000000000000000001 00000000000000000000000000000001 1f90c350 00000000 12345678 50140000 00000000", "tcp [::1]:8080"},
		"a datagram to no port":    {"4500003800000000400100007f0000017f000001 0303000000000000 4500001c000040004011 3cce 7f000001 7f000035 c3500035 00080000", "udp 127.0.0.53:53"},
		"too short":                {"4500", ""},
		"a header beyond its end":  {"4f00002800004000400600007f0000017f000001", ""},
	} {
		packet, err := hex.DecodeString(strings.ReplaceAll(c.packet, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		p, is := answer(packet)
		if got := map[int]string{refusal: p.String(), acceptance: "+" + p.String()}[is]; got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestForward: each port is forwarded once, and what no forward leads to the host is named.
func TestForward(t *testing.T) {
	s := &subject{unit: &units.Unit{Name: "web.service"}, namespace: settings.Named("front"), facts: facts.Facts{Ways: []facts.Way{{Source: "192.0.2.2"}}}}
	for refused, want := range map[string]string{
		"tcp [::1]:9000 tcp 127.0.0.1:9000 tcp 127.0.0.1:9001": "systemd-netns enable web --in front --forward 9000 --forward 9001",
		"udp 127.0.0.1:53":                    "have the service ask 192.0.2.2 instead of udp 127.0.0.1:53",
		"tcp 127.0.0.53:53 udp 127.0.0.53:53": "have the service ask 192.0.2.2 instead of tcp 127.0.0.53:53 udp 127.0.0.53:53",
		"udp [::1]:53 tcp 127.0.0.1:9000":     "systemd-netns enable web --in front --forward 9000; have the service ask 192.0.2.2 instead of udp [::1]:53",
	} {
		var ports []port
		words := strings.Fields(refused)
		for i := 0; i < len(words); i += 2 {
			ports = append(ports, port{words[i], netip.MustParseAddrPort(words[i+1])})
		}
		if got := s.forward(ports); got != want {
			t.Errorf("%s: %q", refused, got)
		}
	}
}

func TestFirstListener(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue\n"
	for name, c := range map[string]struct {
		table string
		want  uint16
	}{
		"on a VIP":         {head + "   0: 0A0200C0:0050 00000000:0000 0A 00000000\n", 80},
		"on loopback only": {head + "   0: 0100007F:1F90 00000000:0000 0A 00000000\n", 0},
		"connected only":   {head + "   0: 0A0200C0:0050 090200C0:C350 01 00000000\n", 0},
		"on all, IPv6":     {head + "   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0\n", 443},
	} {
		if got := firstListener(c.table); got != c.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}

func TestDroppingChain(t *testing.T) {
	for name, c := range map[string]struct{ ruleset, want string }{
		"a policy":        {"table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t\tiifname \"eth0\" accept\n\t}\n}\n", "inet filter input"},
		"a rule":          {"table ip raw {\n\tchain pre {\n\t\ttype filter hook prerouting priority raw; policy accept;\n\t\tiifname \"mv-int\" drop\n\t}\n}\n", "ip raw pre"},
		"forwarding only": {"table ip f {\n\tchain fwd {\n\t\ttype filter hook forward priority 0; policy drop;\n\t}\n\tchain in {\n\t\ttype filter hook input priority 0; policy accept;\n\t}\n}\n", ""},
		"none":            {"", ""},
	} {
		if got := droppingChain(c.ruleset); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestAcceptFrom: each firewall has its own command.
func TestAcceptFrom(t *testing.T) {
	for chain, want := range map[string]string{
		"":                            "iptables -I INPUT -i mv-int -j ACCEPT",
		"inet filter input":           "nft insert rule inet filter input iifname mv-int accept",
		"inet firewalld filter_INPUT": "firewall-cmd --zone=trusted --change-interface=mv-int, and the same with --permanent",
	} {
		if got := acceptFrom("mv-int", chain); got != want {
			t.Errorf("%q: %q", chain, got)
		}
	}
}

func TestServers(t *testing.T) {
	got := servers("# x\nnameserver 192.0.2.53\nsearch a\nnameserver fe80::1%mv0\nnameserver x\n")
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("fe80::1%mv0")}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// TestManyAtOnce: of many services few are checked at a time, so that each reads its answers in
// time. What only listens does not wait.
func TestManyAtOnce(t *testing.T) {
	before := checks
	defer func() { checks = before }()
	const services = 10 * atOnce
	var asking, most atomic.Int32
	listening := make(chan bool, services)
	checks = []kind{
		{"asks", false, func(context.Context, *subject) *Finding {
			defer asking.Add(-1)
			if n := asking.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Millisecond)
			return ok("")
		}, false},
		{"listens", false, func(context.Context, *subject) *Finding {
			for listening <- true; len(listening) < services; time.Sleep(time.Millisecond) {
			}
			return ok("")
		}, true},
	}
	var wait sync.WaitGroup
	for range services {
		wait.Go(func() {
			if all := (&subject{unit: &units.Unit{}}).run(t.Context(), nil); len(all) != len(checks) {
				t.Errorf("%v", all)
			}
		})
	}
	wait.Wait()
	if most.Load() > atOnce {
		t.Errorf("%d ask at once", most.Load())
	}
}

// TestText: a finding is a line, and its remedy another.
func TestText(t *testing.T) {
	for _, c := range []struct {
		finding Finding
		want    string
	}{
		{Finding{Service: "a.service", Check: "host", OK: true, Detail: "it is"}, "a.service: ok host: it is"},
		{Finding{Service: "a.service", Check: "host", Detail: "it is not", Remedy: "do it"}, "a.service: FAIL host: it is not\n    do it"},
	} {
		mark := "FAIL"
		if c.finding.OK {
			mark = "ok"
		}
		if got := c.finding.Text(mark); got != c.want {
			t.Errorf("%q", got)
		}
	}
}

package watch

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"macvlan-vip/tests/testnet"
)

// TestNotForwarding: the switch's port has a carrier, and passes nothing, as with a
// spanning tree. That nobody answers then says nothing, and is told. The other holder
// is found when the port forwards.
func TestNotForwarding(t *testing.T) {
	l := newLab(t, "one")
	// The port becomes one of a switch with a spanning tree, behind which is the
	// holder.
	holder := testnet.New(t)
	l.lan.IP("link add far type veth peer name holder netns " + filepath.Base(holder.Path()))
	holder.IP("link set lo up")
	holder.IP("address add " + vip(0).String() + "/24 dev holder")
	l.lan.IP("address flush dev port")
	l.lan.IP("link add switch type bridge stp_state 1 forward_delay 300 hello_time 100")
	for _, link := range []string{"far", "switch"} {
		l.lan.IP("link set " + link + " up")
	}
	holder.IP("link set holder up")
	l.lan.IP("link set far master switch")
	time.Sleep(7 * time.Second)
	l.lan.IP("link set port down")
	l.lan.Sysctl("net/ipv6/conf/port/disable_ipv6", "1")
	l.lan.IP("link set port master switch")
	time.Sleep(1200 * time.Millisecond)

	from := len(l.said(0))
	lan := holder.Capture("holder")
	l.lan.IP("link set port up")
	l.await("a carrier", from, "reload one broken=true")
	l.await("a silent port", from, `doubt of one: "eth0 has received no frame of the LAN yet`)
	l.await("a silent port", from, "reload one broken=false")
	l.await("a silent port", from, "; eth0 has received no frame of the LAN yet")
	if out := l.lan.IP("-d link show port"); strings.Contains(out, "state forwarding") {
		t.Fatalf("the port forwards already: %s", out)
	}
	// The host talks to its own service, through no port.
	talk := must(hex.DecodeString(strings.ReplaceAll(mac(l.services["one"], "mv0")+mac(l.host, "mv-int"), ":", "") + "88b5" + strings.Repeat("00", 46)))
	l.host.Do(func() error { return sendOn("mv-int", talk) })
	time.Sleep(300 * time.Millisecond)
	for _, line := range l.said(from) {
		if strings.Contains(line, "is used by") || strings.Contains(line, `doubt of one: ""`) {
			t.Errorf("before anybody could be heard: %s", line)
		}
	}
	testnet.Eventually(t, "the port forwards", func() error {
		if out := l.lan.IP("-d link show port"); !strings.Contains(out, "state forwarding") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	// What a station sends by and by.
	holder.Do(func() error { return sendOn("holder", must(question(netip.MustParseAddr("192.0.2.250"), stranger))) })
	l.await("a frame", from, "one: VIP 192.0.2.20 is used by "+mac(holder, "holder")+", too")
	l.await("a frame", from, `doubt of one: ""`)
	testnet.Eventually(t, "the VIP is announced", func() error {
		for _, f := range lan.Frames() {
			p, _ := f.Layer(layers.LayerTypeARP).(*layers.ARP)
			if p != nil && fmt.Sprintf("%x", p.SourceHwAddress) == strings.ReplaceAll(mac(l.services["one"], "mv0"), ":", "") {
				return nil
			}
		}
		return fmt.Errorf("%d frames", len(lan.Frames()))
	})
}

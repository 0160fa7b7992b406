package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"macvlan-vip/tests/testnet"
)

func TestMain(m *testing.M) {
	os.Exit(testnet.Plugins(m,
		"macvlan-vip/plugins/macvlan-vip", "macvlan-vip/plugins/hairpin-route",
		"github.com/containernetworking/plugins/plugins/ipam/static",
	))
}

// driver runs verbs as netavark does, on a host of a test's own.
type driver struct {
	t    *testing.T
	host *testnet.Namespace
}

func newDriver(t *testing.T) (driver, *testnet.Namespace) {
	t.Helper()
	t.Setenv("CNI_PATH", os.Getenv("PATH"))
	host, lan := testnet.NewHost(t, "192.0.2.2/24", "2001:db8::2/64")
	for _, address := range []string{"192.0.2.1/24", "192.0.2.3/24", "2001:db8::1/64", "2001:db8::3/64"} {
		lan.AddAddress("port", address)
	}
	return driver{t, host}, lan
}

// run gives what a verb prints, as JSON, or the text of its error.
func (d driver) run(in string, args ...string) (out, failed string) {
	d.t.Helper()
	d.host.Do(func() error {
		answer, err := run(context.Background(), args, strings.NewReader(in))
		if err != nil {
			failed = message(err)
			return nil
		}
		data, err := json.Marshal(answer)
		out = string(data)
		return err
	})
	return out, failed
}

func (d driver) must(in string, args ...string) string {
	d.t.Helper()
	out, failed := d.run(in, args...)
	if failed != "" {
		d.t.Fatalf("%q: %s", args, failed)
	}
	return out
}

// newNetwork is a network as podman hands it to create.
const newNetwork = `{
	"name": "vips", "id": "2f25", "driver": "macvlan-vip", "ipv6_enabled": true, "internal": false, "dns_enabled": true,
	"subnets": [{"subnet": "192.0.2.0/24", "gateway": "192.0.2.1"}, {"subnet": "2001:db8::/64"}],
	"options": {"parent": "eth0", "mtu": "1400"}, "ipam_options": {}, "later": {"key": ["of podman's"]}
}`

func TestCreate(t *testing.T) {
	d, _ := newDriver(t)
	compareJSON(t, d.must(newNetwork, "create"), `{
		"name": "vips", "id": "2f25", "driver": "macvlan-vip", "ipv6_enabled": true, "internal": false, "dns_enabled": false,
		"network_interface": "eth0", "subnets": [{"subnet": "192.0.2.0/24", "gateway": "192.0.2.1"}, {"subnet": "2001:db8::/64"}],
		"options": {"mtu": "1400"}, "ipam_options": {"driver": "host-local"}, "later": {"key": ["of podman's"]}
	}`)
	for _, c := range []struct{ from, to, want string }{
		{`"parent": "eth0"`, `"parent": "eth9"`, `master: "eth9": no such link; set master to one of eth0`},
		{`"mtu": "1400"`, `"addressConflict": "no"`, `addressConflict: "no": `},
		{`"mtu": "1400"`, `"probe.count": "99"`, `probe.count: 99: out of range`},
		{`"mtu": "1400"`, `"table": "fast"`, `table: "fast": not a routing table`},
		{`"mtu": "1400"`, `"metric": "fast"`, `option metric: "fast": not a whole number`},
		{`"options"`, `"routes": [{"destination": "198.51.100.0/24", "route_type": "blackhole"}], "options"`, `route 198.51.100.0/24: "blackhole": not supported`},
	} {
		_, failed := d.run(strings.Replace(newNetwork, c.from, c.to, 1), "create")
		if !strings.Contains(failed, c.want) {
			t.Errorf("%s: got %q, want %q", c.to, failed, c.want)
		}
	}
	t.Setenv("_CONTAINERS_ROOTLESS_UID", "1000")
	if _, failed := d.run(newNetwork, "create"); !strings.Contains(failed, "run podman as root") {
		t.Errorf("a rootless podman is told %q", failed)
	}
}

// container is what setup and teardown get of one.
func container(id, network string, ips ...string) string {
	list, _ := json.Marshal(ips)
	return fmt.Sprintf(`{
		"container_id": %q, "container_name": "web", "port_mappings": null, "network": %s,
		"network_options": {"aliases": [%q], "interface_name": "eth0", "static_ips": %s, "static_mac": null, "options": null}
	}`, id, network, id, list)
}

// TestSetup attaches a container, reaches it from host and LAN, has others
// refused, and takes it away by a network that was broken meanwhile.
func TestSetup(t *testing.T) {
	d, lan := newDriver(t)
	network := d.must(newNetwork, "create")
	web, other := testnet.New(t), testnet.New(t)
	before := d.host.Snapshot()
	var got status
	if err := json.Unmarshal([]byte(d.must(container("c1", network, "192.0.2.10", "2001:db8::10"), "setup", web.Path())), &got); err != nil {
		t.Fatal(err)
	}
	link := got.Interfaces["eth0"]
	if want := []netAddress{{"192.0.2.10/24", "192.0.2.1"}, {"2001:db8::10/64", ""}}; len(link.Subnets) != 2 || link.Subnets[0] != want[0] || link.Subnets[1] != want[1] {
		t.Errorf("podman is told of %v, want %v", link.Subnets, want)
	}
	if shown := web.IP("link show eth0"); !strings.Contains(shown, link.MAC) || !strings.Contains(shown, "mtu 1400") {
		t.Errorf("podman is told of the MAC %s; the link is %s", link.MAC, shown)
	}
	if routes := web.IP("route show default"); !strings.HasPrefix(routes, "default via 192.0.2.1 dev eth0") || !strings.Contains(routes, "metric 99") {
		t.Errorf("default route: %q", routes)
	}
	for _, from := range []*testnet.Namespace{d.host, lan} {
		for _, vip := range []string{"192.0.2.10", "2001:db8::10"} {
			if err := from.Ping(netip.MustParseAddr(vip)); err != nil {
				t.Errorf("%s: %v", vip, err)
			}
		}
	}
	with := d.host.Snapshot()
	for vip, want := range map[string]string{
		"192.0.2.10": "VIP 192.0.2.10: attachment podman-vips:c1:eth0",
		"192.0.2.3":  "VIP 192.0.2.3 is in use by",
	} {
		if _, failed := d.run(container("c2", network, vip, "2001:db8::20"), "setup", other.Path()); !strings.Contains(failed, want) {
			t.Errorf("%s: got %q, want %q", vip, failed, want)
		}
	}
	if after := d.host.Snapshot(); after != with {
		t.Errorf("a refused container leaves something:\n%s\nbefore:\n%s", after, with)
	}
	for range 2 { // the second teardown finds nothing
		d.must(container("c1", `{"name": "vips", "options": {"mtu": "edited"}, "subnets": null}`), "teardown", web.Path())
	}
	if after := d.host.Snapshot(); after != before {
		t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, before)
	}
	if left, _ := filepath.Glob(cacheDir + "/*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestSetupRollsBack: what a later plugin of the chain refuses is not left half
// made.
func TestSetupRollsBack(t *testing.T) {
	d, _ := newDriver(t)
	network := d.must(newNetwork, "create")
	d.host.IP("route add 192.0.2.10/32 dev eth0 table local metric 100")
	before := d.host.Snapshot()
	web := testnet.New(t)
	_, failed := d.run(container("c1", network, "192.0.2.10", "2001:db8::10"), "setup", web.Path())
	if !strings.Contains(failed, "192.0.2.10") {
		t.Errorf("a foreign route in the way: %q", failed)
	}
	if after := d.host.Snapshot(); after != before {
		t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, before)
	}
	if links := web.IP("-brief link show"); strings.Contains(links, "eth0") {
		t.Errorf("the container keeps %s", links)
	}
}

// TestAtOnce: containers come while the teardown of others ends, which removes the folders
// that are empty by then. The plugins are scripts that do nothing.
func TestAtOnce(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CNI_PATH", dir)
	const script = "#!/bin/sh\n[ $CNI_COMMAND != ADD ] || echo '{\"cniVersion\": \"1.1.0\"}'\n"
	for _, plugin := range []string{vip, hairpin} {
		if err := os.WriteFile(filepath.Join(dir, plugin), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var comers, goers sync.WaitGroup
	ctx, end := context.WithCancel(t.Context())
	for n := range 2 {
		goers.Go(func() {
			for ctx.Err() == nil {
				newList("vips").removeCache(&libcni.RuntimeConf{ContainerID: fmt.Sprintf("goes%d", n), IfName: "eth0"})
			}
		})
	}
	for n := range 2 {
		comers.Go(func() {
			for range testnet.Soak(50, 1000) {
				for _, verb := range []string{"setup", "teardown"} {
					in := container(fmt.Sprintf("comes%d", n), `{"name": "vips"}`)
					if _, err := run(ctx, []string{verb, "/run/netns/none"}, strings.NewReader(in)); err != nil {
						t.Errorf("%s: %v", verb, err)
					}
				}
			}
		})
	}
	comers.Wait()
	end()
	goers.Wait()
	if _, err := os.Stat(cacheDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left behind: %v", cacheDir, err)
	}
}

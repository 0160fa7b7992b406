package kernel

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/tests/testnet"
)

// TestCreateRenamed is what kernels before 6.14 take where the host has a link
// of the new one's name: that is in nobody's way here, and so not gone through
// by other tests.
func TestCreateRenamed(t *testing.T) {
	host, _ := testnet.NewHost(t)
	host.IP("link add mv0 type veth peer name mv1")
	service := testnet.New(t)
	k := &Kernel{}
	host.Do(func() (err error) {
		k.Host, err = OpenHost()
		return err
	})
	t.Cleanup(k.Close)
	var err error
	if k.Service, err = OpenService(service.Path()); err != nil {
		t.Fatal(err)
	}
	before := host.Snapshot()
	l := plan.Link{
		Side: plan.Service, Kind: plan.KindMacvlan, Name: "mv0", Mode: "bridge", Master: "eth0", MasterSide: plan.Host,
		MTU: 1400, MAC: "02:00:5e:00:53:10", Alias: "test",
	}
	if err := k.createRenamed(k.Service, l); err != nil {
		t.Fatal(err)
	}
	if err := k.finish(k.Service, l); err != nil {
		t.Fatal(err)
	}
	links := service.IP("-o -d link show type macvlan")
	for _, want := range []string{": mv0@", "mtu 1400", "02:00:5e:00:53:10", "macvlan mode bridge", "alias test"} {
		if !strings.Contains(links, want) {
			t.Errorf("no %q in: %s", want, links)
		}
	}
	// The name is taken now, so the second is not left under another.
	if err := k.createRenamed(k.Service, l); err == nil {
		t.Error("two links of a name")
	}
	if again := service.IP("-o -d link show type macvlan"); again != links {
		t.Errorf("links before:\n%safter:\n%s", links, again)
	}
	if after := host.Snapshot(); after != before {
		t.Errorf("host before:\n%safter:\n%s", before, after)
	}
}

// TestNoModule: what a kernel says to a type of link that it has no module for, as one without
// macvlan does, is told with its remedy.
func TestNoModule(t *testing.T) {
	host, _ := testnet.NewHost(t)
	var err error
	host.Do(func() error {
		err = netlink.LinkAdd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "mv0"}, LinkType: "nosuch"})
		return nil
	})
	if told := cnierr.ToCNI(createError(plan.Link{Name: "mv0"}, err)); !strings.Contains(told.Details, "modprobe macvlan") {
		t.Errorf("%v: %+v", err, told)
	}
}

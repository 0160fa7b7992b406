package kernel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/plan"
)

// A MAC is busy while the link that had it is being taken down, which takes
// the kernel some tens of milliseconds.
const (
	busyRetry   = 20 * time.Millisecond
	busyTimeout = time.Second
)

var modes = map[string]netlink.MacvlanMode{
	"bridge":   netlink.MACVLAN_MODE_BRIDGE,
	"private":  netlink.MACVLAN_MODE_PRIVATE,
	"vepa":     netlink.MACVLAN_MODE_VEPA,
	"passthru": netlink.MACVLAN_MODE_PASSTHRU,
}

func modeName(mode netlink.MacvlanMode) string {
	for name, m := range modes {
		if m == mode {
			return name
		}
	}
	return fmt.Sprintf("mode %d", mode)
}

// CreateLink makes a link that is not there, down. made is false where the
// link is there already and is the one that is wanted; another link of that
// name is an error.
func (k *Kernel) CreateLink(l plan.Link) (made bool, err error) {
	n, err := k.On(l.Side)
	if err != nil {
		return false, err
	}
	if l.Kind == plan.KindLoopback {
		return false, nil
	}
	if l.Shared {
		// Nearly always there already, so looking is cheaper than trying.
		if found, err := k.adopt(n, l); found || err != nil {
			return false, err
		}
	}
	err = k.createMacvlan(n, l)
	// Kernels before 6.14 see that there is no room beside a link in passthru mode (EINVAL)
	// before they see its name.
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EINVAL) {
		if found, err := k.adopt(n, l); found || err != nil {
			return false, err
		}
	}
	if errors.Is(err, unix.EEXIST) {
		err = k.createRenamed(n, l)
	}
	if err != nil {
		return false, createError(l, err)
	}
	if err := k.finish(n, l); err != nil || !l.Shared {
		return true, err
	}
	// One that is down is in nobody's way, and would stay.
	return true, n.removeRenamed(l)
}

// finish sets what the create call does not take.
func (k *Kernel) finish(n *Namespace, l plan.Link) error {
	delete(n.links, l.Name)
	made, err := n.link(l.Name)
	if err != nil {
		return fmt.Errorf("look at the new %s: %w", l, err)
	}
	if err := checkQueue(made, l); err != nil {
		return err
	}
	vrf, err := n.vrf(l)
	if err != nil {
		return err
	}
	if err := n.ask([]request{finishRequest(made.Attrs().Index, l, vrf)})[0].err; err != nil {
		return fmt.Errorf("set the alias of %s: %w", l, err)
	}
	made.Attrs().MasterIndex = vrf
	made.Attrs().Alias = l.Alias
	if l.NoARP {
		made.Attrs().RawFlags |= unix.IFF_NOARP
	}
	return nil
}

// checkQueue refuses a length that the kernel has passed over in silence.
func checkQueue(made netlink.Link, l plan.Link) error {
	if m, ok := made.(*netlink.Macvlan); ok && l.BCQueueLen > 0 && m.BCQueueLen == 0 {
		return cnierr.Config("bcqueuelen", l.BCQueueLen, "this kernel's queue has a fixed length; Linux 5.11 and later take one", "leave the key out")
	}
	return nil
}

// vrf is the index of the VRF that a link is to be in; 0 for none.
func (n *Namespace) vrf(l plan.Link) (int, error) {
	if l.VRF == "" {
		return 0, nil
	}
	vrf, err := n.link(l.VRF)
	if err != nil {
		return 0, fmt.Errorf("VRF of %s: %w", l, err)
	}
	return vrf.Attrs().Index, nil
}

// createMacvlan makes the link in its own namespace at once: moving it there
// afterwards waits for an RCU grace period, and could clash with a link of the
// same name on the host.
func (k *Kernel) createMacvlan(n *Namespace, l plan.Link) error {
	at, err := k.On(l.MasterSide)
	if err != nil {
		return err
	}
	master, err := at.link(l.Master)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.Name
	attrs.ParentIndex = master.Attrs().Index
	attrs.MTU = l.MTU
	if attrs.HardwareAddr, err = net.ParseMAC(l.MAC); err != nil {
		return fmt.Errorf("MAC of %s: %w", l, err)
	}
	if l.Side != l.MasterSide {
		attrs.Namespace = netlink.NsFd(int(n.netns.Fd()))
	}
	return at.handle.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: modes[l.Mode], BCQueueLen: l.BCQueueLen})
}

// createRenamed gets round kernels before 6.14, which look for a link of the
// new one's name in the master's namespace instead of the new link's.
func (k *Kernel) createRenamed(n *Namespace, l plan.Link) error {
	name := fmt.Sprintf("mv%08x", rand.Uint32())
	passing := l
	passing.Name = name
	if err := k.createMacvlan(n, passing); err != nil {
		return err
	}
	made, err := n.link(name)
	if err != nil {
		return err
	}
	delete(n.links, name)
	if err := n.handle.LinkSetName(made, l.Name); err != nil {
		return errors.Join(err, n.handle.LinkDel(made))
	}
	return nil
}

func createError(l plan.Link, err error) error {
	e := &cnierr.Error{Code: types.ErrInternal, Text: "create " + l.String(), Cause: err}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		e.Remedy = "load the kernel's module macvlan (`modprobe macvlan` says why it cannot be); some distributions have it in a package of its own"
	case errors.Is(err, unix.EBUSY):
		e.Code = types.ErrInvalidNetworkConfig
		e.Remedy = fmt.Sprintf("%s is a port of a bridge or a bond, or carries an ipvlan: set master to another link", l.Master)
	case errors.Is(err, unix.EINVAL) && l.Mode == "passthru":
		e.Code = types.ErrInvalidNetworkConfig
		e.Remedy = fmt.Sprintf("%s carries another macvlan already, beside which there is no room for one in passthru mode", l.Master)
	case errors.Is(err, unix.EINVAL):
		e.Code = types.ErrInvalidNetworkConfig
		e.Remedy = fmt.Sprintf("if %s carries a macvlan in passthru mode, in whichever netns, it takes no other: set master to another link", l.Master)
	case isNotFound(err):
		return cnierr.Transient("find out what removed it", "create %s: %v", l, err)
	}
	return e
}

// adopt tells whether a link of the name is there, and whether it is the one
// that is wanted.
func (k *Kernel) adopt(n *Namespace, l plan.Link) (found bool, err error) {
	f, found, err := n.Link(l.Name)
	if !found || err != nil {
		return false, err
	}
	if l.Shared {
		return true, k.checkShared(f, l)
	}
	if !isOurs(f, l) {
		return true, cnierr.New(types.ErrInvalidEnvironmentVariables, "pass another name as CNI_IFNAME, or remove that link",
			"CNI_IFNAME: %q: a link of that name and of type %s is in the netns already", l.Name, f.Kind)
	}
	return true, nil
}

// isOurs goes by the alias, or by the MAC where the process was killed before
// it could set the alias. That of a shared link names its master as the one that made
// the link knew it, and the master may have been renamed since.
func isOurs(f plan.LinkFacts, l plan.Link) bool {
	if f.Alias == "" {
		return f.Kind == plan.KindMacvlan && f.MAC == l.MAC
	}
	return l.Shared && plan.IsHostSide(f) || f.Kind == plan.KindMacvlan && f.Alias == l.Alias
}

// checkShared refuses a host-side link that could not reach the service's.
func (k *Kernel) checkShared(f plan.LinkFacts, l plan.Link) error {
	if f.Kind != plan.KindMacvlan {
		return cnierr.Config("hostInterface", l.Name, "a link of type "+f.Kind+" has that name", "choose another name, or remove that link")
	}
	master, found, err := k.Host.Link(l.Master)
	if err != nil || !found {
		return errors.Join(err, cnierr.Config("master", l.Master, "no such link", "set master to the uplink's name"))
	}
	if f.Lower != master.Base() {
		lower, _ := k.Host.LinkByIndex(f.Lower)
		return cnierr.Config("hostInterface", l.Name, fmt.Sprintf("a macvlan on %q, not on the master %q", lower.Name, l.Master), "leave hostInterface out, or give each master one of its own")
	}
	if f.Mode != l.Mode {
		return cnierr.Config("hostInterface", l.Name, fmt.Sprintf("a macvlan in mode %s, not %s", f.Mode, l.Mode), "use one mode for all services on a master, or another hostInterface")
	}
	return nil
}

// RaiseLink brings a link up; raised is false where it was.
func (k *Kernel) RaiseLink(l plan.Link) (raised bool, err error) {
	n, err := k.On(l.Side)
	if err != nil {
		return false, err
	}
	link, err := n.link(l.Name)
	if err != nil {
		return false, err
	}
	if link.Attrs().RawFlags&unix.IFF_UP != 0 {
		return false, nil
	}
	if err = n.handle.LinkSetUp(link); isBusy(err) {
		if err := n.removeRenamed(l); err != nil {
			return false, err
		}
	}
	for deadline := time.Now().Add(busyTimeout); isBusy(err) && time.Now().Before(deadline); time.Sleep(busyRetry) {
		err = n.handle.LinkSetUp(link)
	}
	if isBusy(err) {
		return false, cnierr.Transient("make sure that no other macvlan on "+l.Master+" has that MAC",
			"bring up %s: MAC %s is in use by another macvlan on the same master", l, l.MAC)
	}
	if err != nil {
		return false, fmt.Errorf("bring up %s: %w", l, err)
	}
	link.Attrs().RawFlags |= unix.IFF_UP
	return true, nil
}

// removeRenamed removes a link of ours that somebody has given another name. While
// it is up, the MAC is in use that the link in its place is to have.
func (n *Namespace) removeRenamed(l plan.Link) error {
	all, err := n.handle.LinkList()
	if err != nil {
		return fmt.Errorf("look for another link with the MAC of %s: %w", l, err)
	}
	for _, other := range all {
		a := other.Attrs()
		if a.Name == l.Name || l.Alias == "" || a.Alias != l.Alias || a.HardwareAddr.String() != l.MAC || other.Type() != plan.KindMacvlan {
			continue
		}
		if err := n.handle.LinkDel(other); err != nil && !isAbsent(err) {
			return fmt.Errorf("remove %s, which was %s: %w", a.Name, l, err)
		}
	}
	return nil
}

// setMode gives a link of a service's the mode that it was made with; that of a shared one
// is its other users', too.
func (n *Namespace) setMode(link netlink.Link, l plan.Link) error {
	mv, ok := link.(*netlink.Macvlan)
	if !ok || l.Shared || modeName(mv.Mode) == l.Mode {
		return nil
	}
	if err := n.ask([]request{modeRequest(mv.Index, l.Mode)})[0].err; err != nil {
		return fmt.Errorf("set the mode of %s to %s: %w", l, l.Mode, err)
	}
	mv.Mode = modes[l.Mode]
	return nil
}

// Fit gives a link that was there the MTU and the MAC that it should have: the
// kernel lowers a macvlan's MTU with its master's, and leaves it there when the
// master's is raised again. The alias is missing where the process was killed before
// it could set it.
func (k *Kernel) Fit(l plan.Link) error {
	n, err := k.On(l.Side)
	if err != nil || l.Kind != plan.KindMacvlan {
		return err
	}
	link, err := n.link(l.Name)
	if err != nil {
		return err
	}
	if err := n.setMode(link, l); err != nil {
		return err
	}
	if l.MTU != 0 && link.Attrs().MTU != l.MTU {
		if err := n.handle.LinkSetMTU(link, l.MTU); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", l, l.MTU, err)
		}
		link.Attrs().MTU = l.MTU
	}
	if err := n.moveToVRF(link, l); err != nil {
		return err
	}
	if !l.Shared && link.Attrs().Alias != l.Alias {
		if err := n.handle.LinkSetAlias(link, l.Alias); err != nil {
			return fmt.Errorf("set the alias of %s: %w", l, err)
		}
		link.Attrs().Alias = l.Alias
	}
	if l.NoARP && link.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		if err := n.stopARP(link); err != nil {
			return fmt.Errorf("turn ARP off on %s: %w", l, err)
		}
	}
	if link.Attrs().HardwareAddr.String() == l.MAC || l.HasMastersMAC() {
		return nil
	}
	mac, err := net.ParseMAC(l.MAC)
	if err == nil {
		err = n.handle.LinkSetHardwareAddr(link, mac)
	}
	if err != nil {
		return fmt.Errorf("set the MAC of %s to %s: %w", l, l.MAC, err)
	}
	link.Attrs().HardwareAddr = mac
	return nil
}

// moveToVRF puts a shared link into the VRF that its master is in, or takes it
// out of the one that its master is in no more.
func (n *Namespace) moveToVRF(link netlink.Link, l plan.Link) error {
	f := factsOf(link)
	n.findVRF(&f)
	if !l.Shared || f.VRF == l.VRF {
		return nil
	}
	vrf, err := n.vrf(l)
	if err == nil {
		err = n.handle.LinkSetMasterByIndex(link, vrf)
	}
	if err != nil {
		return fmt.Errorf("move %s to VRF %s: %w", l, orNo(l.VRF), err)
	}
	link.Attrs().MasterIndex = vrf
	return nil
}

// stopARP turns ARP off on a link that is in use. The kernel then forgets all of
// its neighbours, the permanent ones, too, so these are put back.
func (n *Namespace) stopARP(link netlink.Link) error {
	list, err := n.handle.NeighList(link.Attrs().Index, unix.AF_UNSPEC)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	if err := n.handle.LinkSetARPOff(link); err != nil {
		return err
	}
	link.Attrs().RawFlags |= unix.IFF_NOARP
	for _, e := range list {
		if e.State&netlink.NUD_PERMANENT != 0 && e.HardwareAddr != nil {
			err = errors.Join(err, n.handle.NeighSet(&e))
		}
	}
	return err
}

func isBusy(err error) bool {
	return errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EBUSY)
}

// LowerLink takes a link down again.
func (k *Kernel) LowerLink(l plan.Link) error {
	n, err := k.On(l.Side)
	if err != nil {
		return err
	}
	link, err := n.link(l.Name)
	if err == nil {
		err = n.handle.LinkSetDown(link)
	}
	if err != nil && !isAbsent(err) {
		return fmt.Errorf("take down %s: %w", l, err)
	}
	return nil
}

// RemoveLink removes a link that is ours. One that is not there, or that is
// somebody else's, is left alone without an error.
func (k *Kernel) RemoveLink(l plan.Link) error {
	n, err := k.On(l.Side)
	if errors.Is(err, errGone) || l.Kind == plan.KindLoopback {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", l, err)
	}
	delete(n.links, l.Name)
	f, found, err := n.Link(l.Name)
	if err != nil || !found || !isOurs(f, l) {
		return err
	}
	defer delete(n.links, l.Name)
	if err := n.handle.LinkDel(n.links[l.Name]); err != nil && !isAbsent(err) {
		return fmt.Errorf("remove %s: %w", l, err)
	}
	return nil
}

// CheckLink says how a link differs from what it should be.
func (k *Kernel) CheckLink(l plan.Link) (drift []string, err error) {
	n, err := k.On(l.Side)
	if err != nil {
		return nil, err
	}
	f, found, err := n.Link(l.Name)
	if err != nil {
		return nil, err
	}
	if !found {
		return []string{l.String() + ": missing"}, nil
	}
	differs := func(what string, have, want any) {
		drift = append(drift, fmt.Sprintf("%s: link %s: %s is %v, not %v", l.Side, l.Name, what, have, want))
	}
	if f.Kind != l.Kind && l.Kind != plan.KindLoopback {
		differs("type", f.Kind, l.Kind)
		return drift, nil
	}
	if !f.Up {
		differs("state", "down", "up")
	}
	if l.Kind == plan.KindLoopback {
		return drift, nil
	}
	if f.Mode != l.Mode {
		differs("mode", f.Mode, l.Mode)
	}
	if l.MAC != "" && f.MAC != l.MAC {
		differs("MAC", f.MAC, l.MAC)
	}
	if l.MTU != 0 && f.MTU != l.MTU {
		differs("MTU", f.MTU, l.MTU)
	}
	if l.NoARP && !f.NoARP {
		differs("ARP", "on", "off")
	}
	if n.findVRF(&f); l.Shared && f.VRF != l.VRF {
		differs("VRF", orNo(f.VRF), orNo(l.VRF))
	}
	return append(drift, k.checkLower(f, l)...), nil
}

func orNo(vrf string) string {
	if vrf == "" {
		return "none"
	}
	return vrf
}

func (k *Kernel) checkLower(f plan.LinkFacts, l plan.Link) []string {
	at, err := k.On(l.MasterSide)
	if err != nil {
		return nil
	}
	master, found, err := at.Link(l.Master)
	if err != nil || !found {
		return []string{fmt.Sprintf("%s: link %s, the master of %s: missing", l.MasterSide, l.Master, l.Name)}
	}
	var drift []string
	if f.Lower != master.Base() {
		drift = append(drift, fmt.Sprintf("%s: link %s: lies on another link than %s", l.Side, l.Name, l.Master))
	}
	if !master.Up {
		drift = append(drift, fmt.Sprintf("%s: link %s, the master of %s: state is down, not up", l.MasterSide, l.Master, l.Name))
	}
	return drift
}

package dropin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/members"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// Wish is what `enable` was asked for.
type Wish struct {
	// Unit is a service's name, with its suffix.
	Unit string
	// In is a namespace, "" for the one that the service is in or else that of
	// its name.
	In string
	// Network is the name of a network that namespaces share, "" for none.
	Network string
	// Master, VIPs, Gateways and DNS are those of the namespace.
	Master   string
	VIPs     []netip.Prefix
	Gateways []netip.Addr
	DNS      []netip.Addr
	// Forwards are ports on localhost that lead to the host's.
	Forwards []uint16
	// Hardened adds the drop-in that takes away what a service could do to its
	// host.
	Hardened bool
}

// Enable plans to put a service into a namespace, or to change what is wished of
// one that is in it.
func Enable(ctx context.Context, sd *units.Systemd, w Wish) (*Change, error) {
	u, err := findService(ctx, sd, w.Unit)
	if err != nil {
		return nil, err
	}
	was := members.NamespaceOf(u)
	if err := misfit(u, was); err != nil {
		return nil, err
	}
	w.Unit, w.In = u.Name, cmp.Or(w.In, was, strings.TrimSuffix(u.Name, ".service"))
	n := settings.Named(w.In)
	if err := errors.Join(settings.CheckName(w.In), somebodys(ctx, sd, u, n)); err != nil {
		return nil, err
	}
	c := &Change{Done: fmt.Sprintf("%s is in namespace %s", u.Name, w.In)}
	changed, err := w.network(c)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(w.dropIns(ctx, sd, c, u), c.runs(ctx, sd, u)); err != nil {
		return nil, err
	}
	if u.Active == "failed" && len(c.want) > 0 {
		// Such as one that found no address of its own to listen on.
		c.start = append(c.start, u.Name)
	}
	if changed {
		if err := c.renews(ctx, sd, n); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.forwards(ctx, sd, c, n), c.followers(ctx, sd)); err != nil {
		return nil, err
	}
	if was != "" && was != w.In {
		if err := c.forget(ctx, sd, was, u.Name); err != nil {
			return nil, err
		}
	}
	c.release = append(c.release, n.Shim())
	c.inEffect = func(ctx context.Context, sd *units.Systemd) error { return isIn(ctx, sd, u.Name, w.In) }
	c.arrived = func(ctx context.Context, sd *units.Systemd) error { return arrives(ctx, sd, u.Name, w.In) }
	c.words = func() string { return lastWords(n.Shim()) }
	return c, nil
}

// somebodys is an error for a shim that is not this program's or that a service joins, and for
// a namespace that somebody else has made under this name. Its shim would make it anew.
func somebodys(ctx context.Context, sd *units.Systemd, u *units.Unit, n settings.Namespace) error {
	shim, err := sd.Unit(ctx, n.Shim())
	if err != nil {
		return err
	}
	if members.Hidden(shim) {
		return fmt.Errorf("%s: it hides this program's unit of the same name; `systemctl stop %s`, move that file away, and `systemctl daemon-reload`", shim.File, shim.Name)
	}
	if members.JoinsInVain(u, shim) {
		return fmt.Errorf("%s: it joins the namespaces of %s, which shares none, by %s; remove JoinsNamespaceOf= and PrivateNetwork= there, and `systemctl daemon-reload`", u.Name, shim.Name, strings.Join(naming(u), " or "))
	}
	if shim.Active != "inactive" {
		return nil
	}
	if _, err := os.Lstat(n.Path); err != nil {
		return nil
	}
	if known, _ := cnitool.Known(n); len(known) > 0 {
		// Left behind by a stop that could not undo everything.
		return nil
	}
	return fmt.Errorf("%s: somebody else has made %s, and only a namespace that this program makes can be used; choose another with --in, or, if nothing uses it, `ip netns delete %s` first", n.Name, n.Path, n.Name)
}

// dropIns plans the drop-ins of the service and of the sockets that trigger it.
func (w Wish) dropIns(ctx context.Context, sd *units.Systemd, c *Change, u *units.Unit) error {
	all := []dropIn{newDropIn(u.Name, w.In)}
	sockets, err := sd.AllSockets(ctx, u)
	if err != nil {
		return err
	}
	for _, socket := range sockets {
		all = append(all, newDropIn(socket, w.In))
	}
	if w.Hardened {
		all = append(all, hardening(u.Name))
	}
	for _, d := range all {
		is, err := files.Read(d.file)
		if err != nil {
			return err
		}
		if is.Found && !ours(is) {
			return foreign(d.file, "move it away, or keep it instead")
		}
		want, err := d.want()
		if err != nil {
			return err
		}
		if err := c.add(want); err != nil {
			return err
		}
	}
	return nil
}

// runs notes what of a service runs, and so is restarted if a file of its changes.
func (c *Change) runs(ctx context.Context, sd *units.Systemd, u *units.Unit) (err error) {
	if len(c.want) > 0 {
		c.restart, err = sd.Running(ctx, append([]string{u.Name}, u.Sockets()...))
	}
	return err
}

// renews plans a restart of a namespace's shim, if it runs, and of everything that is
// bound to it.
func (c *Change) renews(ctx context.Context, sd *units.Systemd, n settings.Namespace) error {
	shim, err := sd.Unit(ctx, n.Shim())
	if err != nil || !shim.Runs() {
		return err
	}
	running, err := sd.Running(ctx, shim.BoundBy)
	if err != nil {
		return err
	}
	c.stop = append(c.stop, shim.Name)
	for _, name := range running {
		if !slices.Contains(c.restart, name) {
			c.restart, c.Others = append(c.restart, name), append(c.Others, name)
		}
	}
	return nil
}

// isIn checks that systemd has a service in a namespace.
func isIn(ctx context.Context, sd *units.Systemd, unit, namespace string) error {
	u, err := sd.Unit(ctx, unit)
	if err != nil {
		return err
	}
	if in := members.NamespaceOf(u); in != namespace {
		return fmt.Errorf("%s: systemd has it in %s, not in %s, by %s; remove that setting", unit, where(cmp.Or(in, u.NetnsPath)), namespace, strings.Join(naming(u), " or "))
	}
	return nil
}

// joinTime is how long a process that systemd has started may take to join its namespace: one of
// Type=idle waits for 5 s at first.
const joinTime = 10 * time.Second

// arrives makes sure that a service which was started is in its namespace.
func arrives(ctx context.Context, sd *units.Systemd, unit, namespace string) error {
	for deadline := time.Now().Add(joinTime); ; time.Sleep(grace / 10) {
		u, err := sd.Unit(ctx, unit)
		if err != nil {
			return err
		}
		astray := members.Astray(u)
		if astray == "" {
			return nil
		}
		if time.Now().Before(deadline) {
			continue
		}
		if joined := members.Joined(u); len(joined) > 0 {
			return fmt.Errorf("%s: systemd runs it %s, not in %s, since it has the namespaces of %s (JoinsNamespaceOf=): remove that setting, or stop all of them and put them into one namespace with --in", unit, astray, namespace, strings.Join(joined, " "))
		}
		return fmt.Errorf("%s: it runs %s, not in %s; see `systemctl cat %s`", unit, astray, namespace, unit)
	}
}

func where(namespace string) string {
	if namespace == "" {
		return "no namespace"
	}
	return "namespace " + namespace
}

// naming are the files of a unit which set its network namespace, but for the
// drop-in that is written here; all its files, if none does.
func naming(u *units.Unit) []string {
	var found []string
	all := append([]string{u.File}, u.DropIns...)
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil || path == newDropIn(u.Name, "").file {
			continue
		}
		if strings.Contains(string(text), "NetworkNamespacePath") || strings.Contains(string(text), "JoinsNamespaceOf") {
			found = append(found, path)
		}
	}
	if len(found) > 0 {
		return found
	}
	return all
}

// findService finds a service that can be put into a namespace.
func findService(ctx context.Context, sd *units.Systemd, name string) (*units.Unit, error) {
	u, err := sd.Unit(ctx, name)
	if err != nil {
		return nil, err
	}
	stem := strings.TrimSuffix(u.Name, ".service")
	switch {
	case u.Load == "not-found":
		return nil, fmt.Errorf("%s: %w; install the package that provides it, or see `systemctl list-unit-files --type=service`", u.Name, ErrNoUnit)
	case u.Load == "masked":
		return nil, fmt.Errorf("%s: masked, so that it cannot run; `systemctl unmask %s` first", u.Name, u.Name)
	case u.Load != "loaded":
		return nil, fmt.Errorf("%s: systemd cannot load it (%s); see `systemctl status %s`", u.Name, u.Load, u.Name)
	case strings.HasPrefix(u.Name, "systemd-netns"):
		return nil, fmt.Errorf("%s: it makes namespaces for services; name a service", u.Name)
	case isQuadlet(u):
		return nil, fmt.Errorf(quadlet, u.Name, u.Source, stem)
	case strings.HasPrefix(u.File, "/run/systemd/transient/"):
		return nil, fmt.Errorf("%s: a transient unit, which is gone when it stops; write a unit file for it", u.Name)
	}
	return u, nil
}

// misfit is an error for a service that a namespace does not suit; was is the one that it is in.
func misfit(u *units.Unit, was string) error {
	if target := tooEarly(u); target != "" {
		return fmt.Errorf("%s: it is ordered before %s, which its namespace comes after; take that from its Before= (systemctl edit --full %s)", u.Name, target, u.Name)
	}
	if group := u.Group(); len(group) > 0 {
		return fmt.Errorf("%s: it does nothing by itself but start and stop %s; name these, each by itself: systemd-netns enable %s", u.Name, strings.Join(group, " "), strings.TrimSuffix(group[0], ".service"))
	}
	if was == "" && u.NetnsPath != "" {
		return fmt.Errorf("%s: it is in the network namespace %s, which this program does not make, by %s; remove that setting first", u.Name, u.NetnsPath, strings.Join(naming(u), " or "))
	}
	return nil
}

// tooEarly is a target that a service is ordered before, and its shim after, so that systemd
// would leave out one of them at boot; "" if there is none.
func tooEarly(u *units.Unit) string {
	for _, target := range []string{"sysinit.target", "basic.target", "network-pre.target", "network.target", "network-online.target"} {
		if slices.Contains(u.Before, target) {
			return target
		}
	}
	return ""
}

// ErrNoUnit is the error of a unit that is not installed.
var ErrNoUnit = errors.New("no such unit")

// quadlet tells what to write into a container's file, podman-systemd.unit(5):
// a drop-in would put podman into the namespace, not the container.
const quadlet = `%s: podman makes it from %s, so a drop-in would move podman, not its container; write into that file instead:
    [Unit]
    BindsTo=systemd-netns@%[3]s.service
    After=systemd-netns@%[3]s.service
    Wants=systemd-netns-settle@%[3]s.service
    Before=systemd-netns-settle@%[3]s.service
    [Container]
    Network=ns:/run/netns/%[3]s`

// isQuadlet tells whether podman's generator has made a unit.
func isQuadlet(u *units.Unit) bool {
	kinds := []string{".container", ".pod", ".kube", ".volume", ".network", ".image", ".build"}
	return strings.HasPrefix(u.File, "/run/systemd/generator") && slices.Contains(kinds, filepath.Ext(u.Source))
}

package dropin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/members"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// Disable plans to move a service, such as "web.service", back to the host's
// network, and to remove every file that was written for it.
func Disable(ctx context.Context, sd *units.Systemd, name string) (*Change, error) {
	u, err := sd.Unit(ctx, name)
	if err != nil {
		return nil, err
	}
	in := members.NamespaceOf(u)
	if in == "" {
		// systemd tells nothing of a service whose package is gone.
		if in, err = namespaceWritten(u.Name); err != nil {
			return nil, err
		}
	}
	c := &Change{Done: u.Name + " is on the host's network"}
	if err := c.takeOut(ctx, sd, u); err != nil {
		return nil, err
	}
	if in == "" && u.NetnsPath == "" && len(c.want) == 0 {
		if u.Load == "not-found" {
			return nil, fmt.Errorf("%s: %w; see `systemd-netns list`", u.Name, ErrNoUnit)
		}
		c.Done = u.Name + " is in no namespace"
		return c, nil
	}
	if len(c.want) == 0 {
		return nil, notOurs(u, cmp.Or(in, u.NetnsPath))
	}
	if err := errors.Join(c.runs(ctx, sd, u), c.followers(ctx, sd)); err != nil {
		return nil, err
	}
	if in != "" {
		if err := errors.Join(c.forget(ctx, sd, in, u.Name), c.takeOutLost(ctx, sd, u, in)); err != nil {
			return nil, err
		}
	}
	c.inEffect = func(ctx context.Context, sd *units.Systemd) error {
		after, err := sd.Unit(ctx, u.Name)
		if err == nil && members.NamespaceOf(after) != "" {
			err = notOurs(after, members.NamespaceOf(after))
		}
		return err
	}
	c.words = func() string {
		return fmt.Sprintf("%s\nit may listen on its VIPs alone, which the host has not: change that, or stop it first (systemctl stop %s)", lastWords(u.Name), u.Name)
	}
	return c, nil
}

// namespaceWritten is the namespace of the drop-in that was written for a service or a socket,
// "" if there is none.
func namespaceWritten(unit string) (string, error) {
	f, err := files.Read(newDropIn(unit, "").file)
	if err != nil || !f.Found || !ours(f) {
		return "", err
	}
	if f.Target != "" {
		return strings.TrimSuffix(unit, filepath.Ext(unit)), nil
	}
	_, rest, _ := strings.Cut(string(f.Content), "\nNetworkNamespacePath="+settings.NetnsDir+"/")
	in, _, _ := strings.Cut(rest, "\n")
	return in, nil
}

// notOurs is the error for a service that another file has in a namespace.
func notOurs(u *units.Unit, in string) error {
	return fmt.Errorf("%s is in namespace %s by %s, which this program has not written; remove that file or its setting, then `systemctl daemon-reload` and restart %s",
		u.Name, in, strings.Join(naming(u), " or "), u.Name)
}

// takeOut plans to remove the drop-ins of a service and its sockets.
func (c *Change) takeOut(ctx context.Context, sd *units.Systemd, u *units.Unit) error {
	paths := []string{newDropIn(u.Name, "").file, hardening(u.Name).file}
	sockets, err := sd.AllSockets(ctx, u)
	if err != nil {
		return err
	}
	lost, err := isLost(ctx, sd, u.Socket())
	if err != nil {
		return err
	}
	if lost && !slices.Contains(sockets, u.Socket()) {
		sockets = append(sockets, u.Socket())
	}
	for _, socket := range sockets {
		paths = append(paths, newDropIn(socket, "").file)
	}
	for i, path := range paths {
		f, err := files.Read(path)
		if err != nil {
			return err
		}
		if !f.Found {
			continue
		}
		if ours(f) {
			err = c.add(files.None(path))
		} else if i == 0 {
			err = foreign(path, "remove it by hand")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isLost tells whether a socket does not say which service it triggers, since it is masked, or
// gone with its package.
func isLost(ctx context.Context, sd *units.Systemd, socket string) (bool, error) {
	u, err := sd.Unit(ctx, socket)
	return err == nil && u.Load != "loaded", err
}

// takeOutLost plans to remove the drop-ins of other lost sockets in a namespace that its last
// service leaves: they cannot start without its network when their package is back.
func (c *Change) takeOutLost(ctx context.Context, sd *units.Systemd, leaving *units.Unit, namespace string) error {
	if len(c.leave) == 0 {
		return nil
	}
	paths, err := filepath.Glob(filepath.Join(unitDir, "*.socket.d", "netns.conf"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		socket := strings.TrimSuffix(filepath.Base(filepath.Dir(path)), ".d")
		in, err := namespaceWritten(socket)
		if err != nil {
			return err
		}
		if in != namespace || socket == leaving.Socket() {
			continue
		}
		lost, err := isLost(ctx, sd, socket)
		if err == nil && lost {
			err = c.add(files.None(path))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// forget plans to remove what was written for a namespace, if only one service
// was in it, which leaves.
func (c *Change) forget(ctx context.Context, sd *units.Systemd, namespace, leaving string) error {
	all, err := members.All(ctx, sd)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(members.In(all, namespace), func(m members.Member) bool { return m.Unit.Name != leaving }) {
		return nil
	}
	c.leave = append(c.leave, settings.Named(namespace).Shim())
	env, err := files.Read(settings.EnvFile(namespace))
	if err != nil {
		return err
	}
	if ours(env) {
		if err := c.add(files.None(env.Path)); err != nil {
			return err
		}
	}
	forwards, err := forwardFiles(namespace)
	if err != nil {
		return err
	}
	for _, path := range forwards {
		f, err := files.Read(path)
		if err != nil {
			return err
		}
		if !ours(f) {
			continue
		}
		if err := c.add(files.None(path)); err != nil {
			return err
		}
		if name := filepath.Base(path); filepath.Ext(name) == ".socket" {
			running, err := sd.Running(ctx, []string{name})
			if err != nil {
				return err
			}
			c.end = append(c.end, running...)
		}
	}
	return c.removeOwn(namespace)
}

// lastWords are the latest log lines of a unit.
func lastWords(unit string) string {
	args := []string{"--quiet", "--no-pager", "--output=cat", "--lines=3", "--unit=" + unit}
	if _, shim := settings.OfShim(unit); shim {
		// Not what systemd says of it.
		args = append(args, "--identifier=systemd-netns")
	}
	// On a busy host they take their time.
	_ = exec.Command("journalctl", "--sync").Run()
	out, err := exec.Command("journalctl", args...).Output()
	text := strings.TrimSpace(string(out))
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || text == "" {
		return "see `journalctl -u " + unit + "`"
	}
	return text
}

// forwardFiles are the files of a namespace's forwarded ports.
func forwardFiles(namespace string) (all []string, err error) {
	for _, pattern := range []string{
		forwardUnit(namespace, "*", "socket") + ".d/netns.conf", forwardUnit(namespace, "*", "service") + ".d/netns.conf",
		"systemd-netns@" + namespace + ".service.wants/" + forwardUnit(namespace, "*", "socket"),
	} {
		pattern = filepath.Join(unitDir, pattern)
		found, err := filepath.Glob(strings.ReplaceAll(pattern, `\`, `\\`))
		if err != nil {
			return nil, err
		}
		before, after, _ := strings.Cut(pattern, "*")
		for _, path := range found {
			port := strings.TrimSuffix(strings.TrimPrefix(path, before), after)
			// What is no port belongs to a namespace with a longer name.
			if _, err := strconv.ParseUint(port, 10, 16); err == nil {
				all = append(all, path)
			}
		}
	}
	return all, nil
}

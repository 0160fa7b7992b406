package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/members"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/units"
)

// joinTime is how long a process may take to join its namespace, less than check watches loopback.
const joinTime = 2 * time.Second

// checkDropIn: systemd has read the files, and the service runs where they say.
func checkDropIn(ctx context.Context, s *subject) *Finding {
	shim, err := s.sd.Unit(ctx, s.namespace.Shim())
	if err != nil {
		return fail(s.restart(), "%v", err)
	}
	if members.Hidden(shim) {
		return fail("systemctl stop "+shim.Name+", move that file away, and then: systemctl daemon-reload", "%s hides the unit that makes the namespace", shim.File)
	}
	astray, joined := members.Astray(s.unit), members.Joined(s.unit)
	// A process that systemd has just started is still on its way.
	for deadline := time.Now().Add(joinTime); astray != "" && time.Now().Before(deadline); astray = members.Astray(s.unit) {
		time.Sleep(joinTime / 20)
	}
	switch {
	case s.unit.Stale:
		return fail("systemctl daemon-reload", "files of %s were changed since systemd read them", s.unit.Name)
	case astray != "" && len(joined) > 0:
		return fail("remove that setting, or stop all of them and put them into one namespace with --in", "it runs %s, since it has the namespaces of %s (JoinsNamespaceOf=)", astray, strings.Join(joined, " "))
	case astray != "" && members.JoinsInVain(s.unit, shim):
		return fail("remove JoinsNamespaceOf= and PrivateNetwork=, systemctl daemon-reload, and then: systemd-netns enable "+s.stem(), "it runs %s, since it joins the namespaces of %s, which shares none", astray, shim.Name)
	case astray != "":
		return fail("systemctl restart "+s.unit.Name, "it runs %s, since it was started before its drop-in was read", astray)
	default:
		return ok("namespace %s", s.namespace.Name)
	}
}

// checkService: it runs, or another unit starts it when it is time, or else why not.
func checkService(ctx context.Context, s *subject) *Finding {
	f := ok("%s", s.unit.Active)
	if left := s.elsewhere(ctx); len(left) > 0 {
		return fail(fmt.Sprintf("systemd-netns disable %s; systemd-netns enable %s --vip ADDR/LEN", s.stem(), strings.TrimSuffix(left[0], ".service")),
			"it does nothing by itself but start and stop %s, not in this namespace", strings.Join(left, " "))
	}
	if s.unit.Runs() {
		return f
	}
	shim, err := s.sd.Unit(ctx, s.namespace.Shim())
	start, starters := "systemctl start "+s.unit.Name, s.starters(ctx)
	switch {
	case err == nil && shim.Active == "failed":
		f = fail("journalctl -n 20 -u "+shim.Name+", remove the cause, and then: "+start, "%s, since %s failed", s.unit.Active, shim.Name)
	case s.unit.Active == "failed":
		f = fail("journalctl -n 20 -u "+s.unit.Name, "failed")
	case s.unit.Skipped:
		f = fail("systemctl status "+s.unit.Name+" names the condition; then: "+start, "%s: its start was skipped because of a condition; its VIPs are silent", s.unit.Active)
	case len(starters) > 0:
		f = ok("%s; %s starts it", s.unit.Active, strings.Join(starters, " or "))
	default:
		f = fail(start, "%s; its VIPs are silent", s.unit.Active)
	}
	return f
}

// starters are the sockets, timers and paths that start a service which does not run.
func (s *subject) starters(ctx context.Context) []string {
	others := slices.DeleteFunc(slices.Clone(s.unit.TriggeredBy), func(name string) bool { return strings.HasSuffix(name, ".socket") })
	running, err := s.sd.Running(ctx, others)
	if err != nil {
		return s.waiting
	}
	return slices.Concat(s.waiting, running)
}

// elsewhere are the services of a group that are not in the namespace of what stands for them.
func (s *subject) elsewhere(ctx context.Context) (left []string) {
	for _, name := range s.unit.Group() {
		u, err := s.sd.Unit(ctx, name)
		if err == nil && members.NamespaceOf(u) != s.namespace.Name {
			left = append(left, name)
		}
	}
	return left
}

// Waiting are the sockets that listen in the namespace of a service that does not run, and
// start it when somebody connects.
func Waiting(ctx context.Context, sd *units.Systemd, u *units.Unit) (names []string) {
	if u.Runs() {
		return nil
	}
	for _, name := range u.Sockets() {
		socket, err := sd.Unit(ctx, name)
		if err == nil && socket.Runs() && members.NamespaceOf(socket) == members.NamespaceOf(u) {
			names = append(names, name)
		}
	}
	return names
}

// checkSockets: a socket of the service listens where the service is.
func checkSockets(ctx context.Context, s *subject) *Finding {
	var left []string
	for _, name := range s.unit.Sockets() {
		socket, err := s.sd.Unit(ctx, name)
		if err != nil || socket.NetnsPath != s.namespace.Path {
			left = append(left, name)
		}
	}
	if len(s.unit.Sockets()) == 0 {
		return nil
	}
	f := ok("%s in the namespace", strings.Join(s.unit.Sockets(), " "))
	if len(left) > 0 {
		f = fail("systemd-netns enable "+s.stem()+" --in "+s.namespace.Name, "on the host's network: %s", strings.Join(left, " "))
	}
	return f
}

// checkAttachment: the kernel state is complete.
func checkAttachment(_ context.Context, s *subject) *Finding {
	var f *Finding
	switch {
	case s.known == nil && (s.unit.Runs() || len(s.waiting) > 0):
		f = fail(s.restart(), "not added to a network")
	case s.known == nil:
		return nil
	default:
		f = ok("%s", strings.Join(s.facts.Made(s.known.Network), "; "))
		if err := cnitool.Check(s.namespace, *s.known); err != nil {
			f = fail(s.reload(), "%v", err)
			if strings.Contains(err.Error(), cnitool.NoCheck) {
				f.Remedy = s.byOwn(s.restart(), "cniVersion")
			}
		}
	}
	return f
}

// checkEdited: what is configured is in effect.
func checkEdited(_ context.Context, s *subject) *Finding {
	if s.known == nil {
		found, file, err := networks.Find(s.namespace.ConfDir, s.namespace.Network)
		if err == nil && found == nil {
			err = networks.Missing(s.namespace)
		}
		if err != nil {
			f := fail("correct "+file, "%v", err)
			if errors.Is(err, networks.ErrNone) {
				f.Remedy = "systemd-netns enable " + s.stem() + " --vip ADDR/LEN"
			}
			return f
		}
		return nil
	}
	f := ok("network %s as configured", s.known.Network)
	switch e := networks.Edited(*s.known, s.namespace); {
	case e.Live:
		f = fail(s.reload(), "%s has changed since and is not in effect", e.What)
	case e.What != "":
		f = fail(s.restart(), "%s has changed since and is not in effect", e.What)
	}
	return f
}

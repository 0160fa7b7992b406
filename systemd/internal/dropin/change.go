package dropin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// Change is a transaction over files and units. Planning changes nothing; if applying it
// fails, everything is rolled back.
type Change struct {
	// Done is the message after a successful change, one line.
	Done string
	// Others are running services that stop for a while, besides the one that the
	// change is for.
	Others []string
	// Left are files that stay, of those that are to be removed, with the reasons.
	Left []error

	want, before []files.File
	// stop are units that are stopped before any is restarted.
	stop []string
	// restart are the running units that need a restart, follow those that systemd stops with
	// them and does not start again.
	restart, follow []string
	// start are units to start; they are stopped if the change is rolled back.
	start []string
	// end are units to stop; they are started again if the change is rolled back.
	end []string
	// reload is the unit whose reload applies the change, pending what of the change is
	// not in effect.
	reload  string
	pending func() string
	// leave are shims that nothing needs after the change, release such that nothing may
	// need: they are stopped at the end if nothing is bound to them.
	leave, release []string
	// inEffect checks what systemd has read, before any unit is touched.
	inEffect func(context.Context, *units.Systemd) error
	// arrived checks where the units run after they were restarted.
	arrived func(context.Context, *units.Systemd) error
	// words tells what units have to say about a failure.
	words func() string
}

// Empty tells whether there is nothing to do.
func (c *Change) Empty() bool {
	return len(c.want) == 0 && len(c.start) == 0 && c.reload == ""
}

// add plans a file, unless it has that content already.
func (c *Change) add(want files.File) error {
	is, err := files.Read(want.Path)
	if err != nil || is.Same(want) {
		return err
	}
	if is.Found && want.Found && is.Target == "" && want.Target == "" {
		want.Mode, want.UID, want.GID = is.Mode, is.UID, is.GID
	}
	c.before, c.want = append(c.before, is), append(c.want, want)
	return nil
}

// Lines tell what the change does, one step a line, with texts of files indented.
func (c *Change) Lines() []string {
	var lines []string
	for _, f := range c.want {
		switch {
		case !f.Found:
			lines = append(lines, "remove "+f.Path)
		case f.Target != "":
			lines = append(lines, "link "+f.Path+" -> "+f.Target)
		default:
			text := strings.TrimRight(string(f.Content), "\n")
			lines = append(lines, "write "+f.Path+":\n    "+strings.ReplaceAll(text, "\n", "\n    "))
		}
	}
	if len(c.want) > 0 {
		lines = append(lines, "systemctl daemon-reload")
	}
	for _, step := range []struct {
		verb  string
		names []string
	}{{"stop", append(slices.Clone(c.end), c.stop...)}, {"restart", c.restart}, {"start", append(slices.Clone(c.follow), c.start...)}, {"reload", nonEmpty(c.reload)}, {"stop", c.leave}} {
		if len(step.names) > 0 {
			lines = append(lines, "systemctl "+step.verb+" "+strings.Join(step.names, " "))
		}
	}
	return lines
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// Apply applies the change; if it fails, everything is rolled back.
func (c *Change) Apply(ctx context.Context, sd *units.Systemd) error {
	if err := c.write(); err != nil {
		return err
	}
	err := sd.ReadFiles(ctx)
	touched := false
	if err == nil && c.inEffect != nil {
		err = c.inEffect(ctx, sd)
	}
	if err == nil {
		touched = true
		err = c.takeEffect(ctx, sd)
	}
	if err == nil && c.arrived != nil {
		err = c.arrived(ctx, sd)
	}
	if err == nil {
		return c.letGo(ctx, sd)
	}
	said := ""
	if touched && c.words != nil {
		said = "\n" + c.words()
	}
	if len(c.want) == 0 {
		// A reload of what a person has written, which keeps what was if it fails.
		return fmt.Errorf("%w%s", err, said)
	}
	// Also for somebody who presses Ctrl-C.
	if back := c.takeBack(context.WithoutCancel(ctx), sd, touched); back != nil {
		return fmt.Errorf("%w%s\nand it cannot be rolled back: %w", err, said, back)
	}
	return fmt.Errorf("%w%s\neverything was rolled back", err, said)
}

// write writes all files, or none.
func (c *Change) write() error {
	for i, f := range c.want {
		if err := f.Put(); err != nil {
			return errors.Join(fmt.Errorf("write %s: %w", f.Path, err), restore(c.before[:i+1]))
		}
	}
	tidy()
	return nil
}

// tidy removes the folder of namespaces' settings when it is empty.
func tidy() {
	_ = os.Remove(settings.OwnNetworks)
	_ = os.Remove(settings.EnvDir)
}

func restore(before []files.File) error {
	var errs []error
	for _, f := range slices.Backward(before) {
		errs = append(errs, f.Put())
	}
	tidy()
	return errors.Join(errs...)
}

// takeBack restores the files and restarts the units by them. A start limit that was
// reached meanwhile must not keep a service from running as before, and what was not touched
// may have been stopped by systemd as soon as it had read the files: a service that is bound
// to a shim which does not run, or a shim that nothing needs.
func (c *Change) takeBack(ctx context.Context, sd *units.Systemd, touched bool) error {
	var err error
	if touched && len(c.start) > 0 {
		err = sd.Stop(ctx, c.start...)
	}
	if err = errors.Join(err, restore(c.before), sd.ReadFiles(ctx)); !touched {
		// systemd starts no socket whose service runs.
		sockets, others := apart(c.restart)
		return errors.Join(err, sd.Start(ctx, slices.Concat(sockets, others, c.follow)...))
	}
	// Units that were never loaded have nothing to forget.
	_ = sd.ResetFailed(ctx, slices.Concat(c.restart, c.follow, c.start)...)
	back := *c
	back.start, back.end = c.end, nil
	return errors.Join(err, back.takeEffect(ctx, sd), c.letGo(ctx, sd))
}

// takeEffect restarts, reloads and stops units according to the new files.
func (c *Change) takeEffect(ctx context.Context, sd *units.Systemd) error {
	if c.reload != "" {
		return c.reloadShim(ctx, sd)
	}
	if stop := append(slices.Clone(c.end), c.stop...); len(stop) > 0 {
		// What is bound to them stops with them.
		if err := sd.Stop(ctx, stop...); err != nil {
			return err
		}
	}
	if err := c.restartUnits(ctx, sd); err != nil {
		return err
	}
	if len(c.start) == 0 {
		return nil
	}
	// One that failed may have used up its starts.
	_ = sd.ResetFailed(ctx, c.start...)
	if err := sd.Start(ctx, c.start...); err != nil {
		return err
	}
	return stay(ctx, sd, c.start)
}

// reloadShim has the change applied, and once more if that was not for the change: a reload that
// the keeper or the timer has asked for meanwhile takes this one's place, and only repairs.
func (c *Change) reloadShim(ctx context.Context, sd *units.Systemd) error {
	what := ""
	for range 2 {
		if err := sd.Reload(ctx, c.reload); err != nil {
			return err
		}
		if what = c.pending(); what == "" {
			return nil
		}
	}
	return fmt.Errorf("systemctl reload %s: %s has changed, and is not in effect, since the shim was only repaired; find out with `journalctl -t systemd-netns` what breaks it, then repeat this", c.reload, what)
}

func (c *Change) restartUnits(ctx context.Context, sd *units.Systemd) error {
	if len(c.restart) == 0 {
		return nil
	}
	sockets, others := apart(c.restart)
	if len(sockets) > 0 {
		// systemd starts no socket whose service runs, and 247 not even when it
		// is told to restart both.
		if err := sd.Stop(ctx, c.restart...); err != nil {
			return err
		}
	}
	if err := sd.Restart(ctx, append(sockets, others...)...); err != nil {
		return err
	}
	if err := sd.Start(ctx, c.follow...); err != nil {
		return err
	}
	return stay(ctx, sd, others)
}

// followers notes what systemd stops with the units to restart, such as what requires one. A
// restart would bring it back, but the units are stopped before: by systemd itself, when it
// reads that they are bound to a shim which does not run.
func (c *Change) followers(ctx context.Context, sd *units.Systemd) error {
	for todo := slices.Clone(c.restart); len(todo) > 0; todo = todo[1:] {
		u, err := sd.Unit(ctx, todo[0])
		if err != nil {
			return err
		}
		if err := c.comesBack(u); err != nil {
			return err
		}
		running, err := sd.Running(ctx, u.StopWith)
		if err != nil {
			return err
		}
		for _, name := range running {
			if slices.Contains(c.restart, name) || slices.Contains(c.follow, name) {
				continue
			}
			c.follow, todo = append(c.follow, name), append(todo, name)
			if strings.HasSuffix(name, ".service") {
				c.Others = append(c.Others, name)
			}
		}
	}
	return nil
}

// comesBack is an error for a running unit that systemd would not restart, or start again.
func (c *Change) comesBack(u *units.Unit) error {
	switch {
	case u.Masked:
		return fmt.Errorf("%s: masked, so that it would not start again: `systemctl unmask %s`, or stop it, first", u.Name, u.Name)
	case u.RefusesStart || u.RefusesStop && slices.Contains(c.restart, u.Name):
		return fmt.Errorf("%s: only other units may start or stop it, so it cannot be restarted: set RefuseManualStart=no and RefuseManualStop=no (systemctl edit %s) first", u.Name, u.Name)
	}
	return nil
}

func apart(names []string) (sockets, others []string) {
	for _, name := range names {
		if strings.HasSuffix(name, ".socket") {
			sockets = append(sockets, name)
		} else {
			others = append(others, name)
		}
	}
	return sockets, others
}

// grace is how long a service that cannot tell when it is ready is watched:
// most that fail, as those that find no address to listen on, do so at once.
const grace = time.Second

// stay makes sure that services which systemd takes for running as soon as they
// are started (Type=simple and the like) do not end at once.
func stay(ctx context.Context, sd *units.Systemd, names []string) error {
	var watched []string
	for _, name := range names {
		u, err := sd.Unit(ctx, name)
		if err != nil {
			return err
		}
		if slices.Contains([]string{"simple", "exec", "idle"}, u.Type) {
			watched = append(watched, name)
		}
	}
	for deadline := time.Now().Add(grace); len(watched) > 0 && time.Now().Before(deadline); time.Sleep(grace / 10) {
		for _, name := range watched {
			u, err := sd.Unit(ctx, name)
			if err != nil {
				return err
			}
			if u.Active == "failed" || u.Sub == "auto-restart" {
				return fmt.Errorf("start %s: it ended at once; see `systemctl status %s`", name, name)
			}
		}
	}
	return nil
}

// letGo stops shims that nothing needs any more: systemd does not check that when a
// drop-in is removed.
func (c *Change) letGo(ctx context.Context, sd *units.Systemd) error {
	for _, shim := range append(slices.Clone(c.leave), c.release...) {
		u, err := sd.Unit(ctx, shim)
		if err != nil {
			return err
		}
		if len(u.BoundBy) > 0 || u.Active == "inactive" {
			continue
		}
		if err := sd.Stop(ctx, shim); err != nil {
			return err
		}
		if leftNothing(shim) {
			_ = sd.ResetFailed(ctx, shim)
		}
	}
	return nil
}

// leftNothing tells whether nothing is there of a shim's namespace. Then nobody needs to
// know that it failed, as it does if a VIP is in use; what could not be undone is to stay
// a failed unit.
func leftNothing(shim string) bool {
	name, _ := settings.OfShim(shim)
	left, err := record.Load(name)
	_, missing := os.Lstat(settings.Named(name).Path)
	return err == nil && len(left) == 0 && errors.Is(missing, fs.ErrNotExist)
}

// Package units asks systemd about units, and has it start and stop them, over
// D-Bus (org.freedesktop.systemd1(5)).
package units

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Systemd is a connection to the system's systemd.
type Systemd struct{ conn *dbus.Conn }

// Connect connects to systemd: root over its own socket, which is there without
// a D-Bus daemon, everyone else over the system bus. Close it when done.
func Connect(ctx context.Context) (*Systemd, error) {
	connect := dbus.NewSystemConnectionContext
	if os.Geteuid() == 0 {
		connect = dbus.NewSystemdConnectionContext
	}
	conn, err := connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w; is systemd running here? See `systemctl is-system-running`", err)
	}
	return &Systemd{conn}, nil
}

// doTimeout bounds what a unit's program asks of systemd, as systemctl does.
const doTimeout = 90 * time.Second

// Do runs a function with a connection to systemd.
func Do(f func(context.Context, *Systemd) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), doTimeout)
	defer cancel()
	sd, err := Connect(ctx)
	if err != nil {
		return err
	}
	defer sd.Close()
	return f(ctx, sd)
}

// Close ends the connection.
func (s *Systemd) Close() { s.conn.Close() }

// Unit is what systemd says of a unit.
type Unit struct {
	// Name is the unit's own name, of which an alias is another.
	Name string
	// Load and Active are its states, such as "loaded" and "active".
	Load, Active, Sub string
	// Type is a service's, such as "notify".
	Type string
	// File is where it is defined, and Source what a generator made that from.
	File, Source string
	// DropIns are the files that add to it.
	DropIns []string
	// Triggers, TriggeredBy, BoundBy, Before are other units' names.
	Triggers, TriggeredBy, BoundBy, Before []string
	// ConsistsOf are the units that are part of this one (PartOf=).
	ConsistsOf []string
	// Needs are the units that this one requires or is bound to.
	Needs []string
	// StopWith are the units that systemd stops with this one.
	StopWith []string
	// MainPID is 0 for a unit that does not run.
	MainPID uint32
	// NetnsPath is NetworkNamespacePath=.
	NetnsPath string
	// JoinsNamespaceOf are other units' names.
	JoinsNamespaceOf []string
	// RefusesStart and RefusesStop say that only other units may start or stop it, Masked that
	// nobody may start it.
	RefusesStart, RefusesStop, Masked bool
	// Skipped says that the last start was skipped by a Condition…= of the unit.
	Skipped bool
	// Stale says that files were changed which systemd has not read.
	Stale bool
}

// Unit asks for a unit by its name or an alias. One that is not installed has
// the state "not-found", which is no error.
func (s *Systemd) Unit(ctx context.Context, name string) (*Unit, error) {
	p, err := s.conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("ask systemd about %s: %w", name, err)
	}
	u := &Unit{
		Name: property[string](p, "Id"), Load: property[string](p, "LoadState"),
		Active: property[string](p, "ActiveState"), Sub: property[string](p, "SubState"), Type: property[string](p, "Type"),
		File: property[string](p, "FragmentPath"), Source: property[string](p, "SourcePath"), DropIns: property[[]string](p, "DropInPaths"),
		Triggers: property[[]string](p, "Triggers"), TriggeredBy: property[[]string](p, "TriggeredBy"),
		BoundBy: property[[]string](p, "BoundBy"), Before: property[[]string](p, "Before"),
		ConsistsOf: property[[]string](p, "ConsistsOf"),
		MainPID:    property[uint32](p, "MainPID"), NetnsPath: property[string](p, "NetworkNamespacePath"),
		JoinsNamespaceOf: property[[]string](p, "JoinsNamespaceOf"), Stale: property[bool](p, "NeedDaemonReload"),
		RefusesStart: property[bool](p, "RefuseManualStart"), RefusesStop: property[bool](p, "RefuseManualStop"),
		Masked: strings.HasPrefix(property[string](p, "UnitFileState"), "masked"),
	}
	for _, kind := range []string{"RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"} {
		u.StopWith = append(u.StopWith, property[[]string](p, kind)...)
	}
	u.Needs = append(property[[]string](p, "BindsTo"), property[[]string](p, "Requires")...)
	asked := property[uint64](p, "ConditionTimestampMonotonic") != 0
	u.Skipped = asked && !property[bool](p, "ConditionResult")
	if u.Load == "not-found" || u.Name == "" {
		u.Name = name
	}
	return u, nil
}

// property gives the zero value for one that this systemd does not have.
func property[T any](properties map[string]any, name string) T {
	value, _ := properties[name].(T)
	return value
}

// Runs tells whether a unit is up, or about to be.
func (u *Unit) Runs() bool {
	return slices.Contains([]string{"active", "activating", "reloading", "refreshing"}, u.Active)
}

// Sockets are the socket units in memory that trigger the service, all that run among them.
func (u *Unit) Sockets() []string {
	return slices.DeleteFunc(slices.Clone(u.TriggeredBy), func(t string) bool { return !strings.HasSuffix(t, ".socket") })
}

// Socket is the name of the socket unit that triggers a service where nothing else says so
// (systemd.socket(5)).
func (u *Unit) Socket() string { return strings.TrimSuffix(u.Name, ".service") + ".socket" }

// Group are the instances for which a service stands that does nothing by itself, as Debian's
// postgresql for postgresql@15-main.
func (u *Unit) Group() []string {
	if u.Type != "oneshot" {
		return nil
	}
	of := strings.TrimSuffix(u.Name, ".service") + "@"
	return slices.DeleteFunc(slices.Clone(u.ConsistsOf), func(part string) bool { return !strings.HasPrefix(part, of) || !strings.HasSuffix(part, ".service") })
}

// AllSockets are the socket units that trigger a service, in memory or not: systemd loads a
// socket that is neither enabled nor started when somebody asks for it, and forgets it again.
func (s *Systemd) AllSockets(ctx context.Context, service *Unit) ([]string, error) {
	installed, err := s.Installed(ctx, "*.socket")
	if err != nil {
		return nil, err
	}
	found := service.Sockets()
	// That of its name may be a template's instance, which is no file.
	for _, name := range append(installed, service.Socket()) {
		socket, err := s.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(socket.Triggers, service.Name) {
			found = append(found, socket.Name)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// Running are those of the units that run.
func (s *Systemd) Running(ctx context.Context, names []string) (running []string, err error) {
	for _, name := range names {
		u, err := s.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		if u.Runs() {
			running = append(running, u.Name)
		}
	}
	return running, nil
}

// Loaded lists the units in memory whose names match a pattern (glob(7)).
func (s *Systemd) Loaded(ctx context.Context, pattern string) (names []string, err error) {
	all, err := s.conn.ListUnitsByPatternsContext(ctx, nil, []string{pattern})
	if err != nil {
		return nil, fmt.Errorf("list units %s: %w", pattern, err)
	}
	for _, u := range all {
		if u.LoadState != "not-found" {
			names = append(names, u.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Installed lists the unit files whose names match a pattern, but templates.
func (s *Systemd) Installed(ctx context.Context, pattern string) (names []string, err error) {
	all, err := s.conn.ListUnitFilesByPatternsContext(ctx, nil, []string{pattern})
	if err != nil {
		return nil, fmt.Errorf("list unit files %s: %w", pattern, err)
	}
	for _, f := range all {
		if name := filepath.Base(f.Path); !strings.Contains(name, "@.") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// ReadFiles has systemd read unit files again, as `systemctl daemon-reload` does.
func (s *Systemd) ReadFiles(ctx context.Context) error {
	if err := s.conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("systemctl daemon-reload: %w", err)
	}
	return nil
}

// job is a method of systemd's that makes a job.
type job func(ctx context.Context, name, mode string, result chan<- string) (int, error)

// Start starts units, and waits until all are up.
func (s *Systemd) Start(ctx context.Context, names ...string) error {
	return run(ctx, "start", "replace", s.conn.StartUnitContext, names)
}

// Stop stops units.
func (s *Systemd) Stop(ctx context.Context, names ...string) error {
	return run(ctx, "stop", "replace", s.conn.StopUnitContext, names)
}

// Restart restarts units, and waits until all are up.
func (s *Systemd) Restart(ctx context.Context, names ...string) error {
	return run(ctx, "restart", "replace", s.conn.RestartUnitContext, names)
}

// Reload has a unit reload what it is configured by. It fails where somebody stops
// the unit meanwhile, whose stop it would take the place of.
func (s *Systemd) Reload(ctx context.Context, name string) error {
	return run(ctx, "reload", "fail", s.conn.ReloadUnitContext, []string{name})
}

// ResetFailed forgets the units' failures and how often they were started.
func (s *Systemd) ResetFailed(ctx context.Context, names ...string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, s.conn.ResetFailedUnitContext(ctx, name))
	}
	return errors.Join(errs...)
}

// run makes all jobs before it waits for any, so that systemd can order them. mode
// is systemctl's --job-mode=.
func run(ctx context.Context, what, mode string, method job, names []string) error {
	results := make([]chan string, len(names))
	for i, name := range names {
		results[i] = make(chan string, 1)
		if _, err := method(ctx, name, mode, results[i]); err != nil {
			return fmt.Errorf("systemctl %s %s: %w", what, name, err)
		}
	}
	var errs []error
	for i, name := range names {
		select {
		case result := <-results[i]:
			errs = append(errs, jobError(what, name, result))
		case <-ctx.Done():
			return fmt.Errorf("systemctl %s %s: %w", what, name, context.Cause(ctx))
		}
	}
	return errors.Join(errs...)
}

// jobError puts a job's result into words.
func jobError(what, name, result string) error {
	switch result {
	case "done", "skipped":
		return nil
	case "dependency":
		return fmt.Errorf("%s %s: a unit that it needs failed", what, name)
	default:
		return fmt.Errorf("%s %s: %s; see `systemctl status %s`", what, name, result, name)
	}
}

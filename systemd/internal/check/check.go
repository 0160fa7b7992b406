// Package check finds out what is wrong with a service in a network namespace, as
// far as its host can tell, and changes nothing.
package check

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/facts"
	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/members"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// Finding is the outcome of one check of one service. Its JSON is of version 1:
// keys may be added, never changed or removed.
type Finding struct {
	// Service is the unit's full name, Check the check's name.
	Service string `json:"service"`
	Check   string `json:"check"`
	OK      bool   `json:"ok"`
	// Detail is what was found, Remedy a command or, where none can do it, what to
	// do; "" where there is nothing to do.
	Detail string `json:"detail"`
	Remedy string `json:"remedy"`
}

// subject is the service to check, with its known state.
type subject struct {
	unit *units.Unit
	sd   *units.Systemd
	// waiting are the sockets that will start it.
	waiting []string
	// namespace is the one that it is in; network says what is configured.
	namespace settings.Namespace
	// known is its attachment, nil if there is none.
	known *record.Attachment
	facts facts.Facts
	// unreached is what ask found, which two checks want to know.
	unreached func() (lost []netip.Addr, mute uint16)
}

// attached tells whether the service has its link.
func (s *subject) attached() bool { return s.known != nil && s.facts.MAC != "" }

func (s *subject) stem() string { return strings.TrimSuffix(s.unit.Name, ".service") }

func ok(format string, args ...any) *Finding {
	return &Finding{OK: true, Detail: fmt.Sprintf(format, args...)}
}

func fail(remedy, format string, args ...any) *Finding {
	return &Finding{Detail: fmt.Sprintf(format, args...), Remedy: remedy}
}

func (s *subject) reload() string  { return "systemctl reload " + s.namespace.Shim() }
func (s *subject) restart() string { return "systemctl restart " + s.namespace.Shim() }

// byOwn is a command that changes the network which `systemd-netns enable` has written for
// the namespace. It refuses to change an administrator's, so there it is the key to correct,
// and its file.
func (s *subject) byOwn(command, key string) string {
	if s.hasOwn() {
		return command
	}
	_, file, err := networks.Find(s.namespace.ConfDir, s.namespace.Network)
	if err != nil || file == "" {
		file = "the file of network " + s.namespace.Network
	}
	apply := s.restart()
	if !s.unit.Runs() {
		apply = "systemctl start " + s.unit.Name
	}
	return fmt.Sprintf("correct %s in %s, then: %s", key, file, apply)
}

// hasOwn tells whether the namespace's network is one that `systemd-netns enable` has
// written for it.
func (s *subject) hasOwn() bool {
	own, err := files.Read(networks.OwnFile(s.namespace.Name))
	if err != nil || !own.Found {
		return false
	}
	_, err = networks.ParseOwn(s.namespace.Name, own.Content)
	return err == nil
}

// kind is one of the checks. It has something to say where it applies.
type kind struct {
	name string
	// link says that it takes the service's link.
	link bool
	do   func(context.Context, *subject) *Finding
	// listens says that it does nothing else, for as long as it takes.
	listens bool
}

// checks are those of a service, in the order of their causes.
var checks = []kind{
	{"drop-in", false, checkDropIn, false},
	{"service", false, checkService, false},
	{"sockets", false, checkSockets, false},
	{"master", false, checkMaster, false},
	{"attachment", false, checkAttachment, false},
	{"edited", false, checkEdited, false},
	{"duplicate-address", true, checkDuplicates, false},
	{"gateway", true, checkGateway, false},
	{"host", true, checkHost, false},
	{"way-back", true, checkWayBack, false},
	{"firewall", true, checkFirewall, false},
	{"dns", true, checkDNS, false},
	{"loopback", true, checkLoopback, true},
}

// Works are the checks that show whether a change works.
var Works = []string{"master", "attachment", "gateway", "host"}

// Service checks a service, such as "web.service", by the checks of these names,
// or all. Of a unit that is not installed it gives the state "not-found".
func Service(ctx context.Context, sd *units.Systemd, u *units.Unit, names ...string) []Finding {
	in := members.NamespaceOf(u)
	if in == "" {
		return []Finding{{
			Service: u.Name, Check: "drop-in", Detail: "it is in no namespace",
			Remedy: "systemd-netns enable " + strings.TrimSuffix(u.Name, ".service"),
		}}
	}
	s := &subject{unit: u, sd: sd, waiting: Waiting(ctx, sd, u)}
	s.unreached = sync.OnceValues(s.ask)
	if err := s.look(in); err != nil {
		return []Finding{{Service: u.Name, Check: "attachment", Detail: err.Error(), Remedy: s.reload()}}
	}
	return s.run(ctx, names)
}

func (s *subject) look(in string) (err error) {
	if s.namespace, err = settings.Load(in); err != nil {
		s.namespace = settings.Named(in)
		return err
	}
	if s.known, err = cnitool.Latest(s.namespace); s.known == nil {
		return err
	}
	s.facts, err = facts.Look(s.namespace.Path, s.known.IfName, cnitool.Result(*s.known))
	return err
}

// atOnce is how many checks run at the same time. Those of a hundred services would compete
// for the CPUs, with each other and with the processes that they run, and read many an answer
// too late.
const atOnce = 16

var turns = make(chan struct{}, atOnce)

// inTurn does a check when it is its turn, or at once if it only listens.
func (k kind) inTurn(ctx context.Context, s *subject) *Finding {
	if !k.listens {
		turns <- struct{}{}
		defer func() { <-turns }()
	}
	return k.do(ctx, s)
}

// run runs the checks concurrently, since some wait for answers.
func (s *subject) run(ctx context.Context, names []string) (all []Finding) {
	results := make([]chan *Finding, len(checks))
	for i, c := range checks {
		results[i] = make(chan *Finding, 1)
		if len(names) > 0 && !slices.Contains(names, c.name) || c.link && !s.attached() {
			results[i] <- nil
			continue
		}
		go func() { results[i] <- c.inTurn(ctx, s) }()
	}
	for i, c := range checks {
		if f := <-results[i]; f != nil {
			f.Service, f.Check = s.unit.Name, c.name
			all = append(all, *f)
		}
	}
	return all
}

// Text is a finding as one line, with its remedy on a second where it failed.
func (f Finding) Text(mark string) string {
	text := fmt.Sprintf("%s: %s %s: %s", f.Service, mark, f.Check, strings.ReplaceAll(f.Detail, "\n", "\n    "))
	if !f.OK && f.Remedy != "" {
		text += "\n    " + f.Remedy
	}
	return text
}

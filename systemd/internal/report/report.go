// Package report collects which services are in network namespaces, and their kernel
// state, as values that are printed as text or as JSON.
package report

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/facts"
	"macvlan-vip/systemd/internal/members"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// Version is that of the JSON that this package prints: keys are added within
// one, never changed or removed.
const Version = "1"

// Service is a service in a namespace. What is not there, or can't be seen, is "".
type Service struct {
	// Service is the unit's full name, State its ActiveState.
	Service   string `json:"service"`
	State     string `json:"state"`
	Namespace string `json:"namespace"`
	Network   string `json:"network"`
	// VIPs are the addresses on the link, with their prefix lengths.
	VIPs []netip.Prefix `json:"vips"`
	// Link is the service's interface, with its MAC and the host's link below it.
	Link   string `json:"link"`
	MAC    string `json:"mac"`
	Master string `json:"master"`
}

// Status is a service with what is wrong or out of date.
type Status struct {
	Service
	// Drift lists differences between the kernel's state and what was created.
	Drift []string `json:"drift"`
	// Edited says that an edit of the configuration is not in effect.
	Edited bool `json:"edited"`

	lines []string
}

// errUnseen says what only root can see.
var errUnseen = errors.New("VIPs, links, drift and edits are visible to root only: run this with sudo")

// List gives the services in namespaces, and what kept it from seeing some of
// it; one service's trouble does not hide the others.
func List(ctx context.Context, sd *units.Systemd) ([]Service, []error, error) {
	all, err := members.All(ctx, sd)
	if err != nil {
		return nil, nil, err
	}
	list, problems := []Service{}, unseen()
	for _, m := range all {
		s, _, err := look(m)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", s.Service, err))
		}
		list = append(list, s)
	}
	return list, problems, nil
}

func unseen() []error {
	if os.Geteuid() != 0 {
		return []error{errUnseen}
	}
	return nil
}

// look gives a member with what there is of its attachment.
func look(m members.Member) (Service, *attachment, error) {
	s := Service{Service: m.Unit.Name, State: m.Unit.Active, Namespace: m.Namespace, VIPs: []netip.Prefix{}}
	n, err := settings.Load(m.Namespace)
	s.Network = n.Network
	if err != nil || os.Geteuid() != 0 {
		return s, nil, err
	}
	made, err := cnitool.Latest(n)
	if made == nil {
		return s, nil, err
	}
	a := &attachment{Attachment: *made, namespace: n}
	if a.facts, err = facts.Look(n.Path, a.IfName, cnitool.Result(a.Attachment)); err != nil {
		return s, a, err
	}
	s.Network, s.MAC, s.Master = a.Network, a.facts.MAC, a.facts.Master
	if s.VIPs = append(s.VIPs, a.facts.VIPs...); s.MAC != "" {
		s.Link = a.IfName
	}
	return s, a, nil
}

type attachment struct {
	record.Attachment
	namespace settings.Namespace
	facts     facts.Facts
}

// Of gives the status of a service, such as "web.service".
func Of(ctx context.Context, sd *units.Systemd, name string) (*Status, []error, error) {
	u, err := sd.Unit(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	in := members.NamespaceOf(u)
	if in == "" {
		return nil, nil, fmt.Errorf("%s is in no namespace; put it there with: systemd-netns enable %s", u.Name, strings.TrimSuffix(u.Name, ".service"))
	}
	problems := unseen()
	s, a, err := look(members.Member{Unit: u, Namespace: in})
	if err != nil {
		problems = append(problems, err)
	}
	status := &Status{Service: s, Drift: []string{}}
	if a == nil {
		return status, problems, nil
	}
	status.lines = a.facts.Made(a.Network)
	status.lines = append(status.lines, record.Conflicts(in)...)
	if doubt := record.Doubt(in); doubt != "" {
		status.lines = append(status.lines, doubt)
	}
	if err := cnitool.Check(a.namespace, a.Attachment); err != nil {
		status.Drift = strings.Split(err.Error(), "\n")
	}
	if e := networks.Edited(a.Attachment, a.namespace); e.What != "" {
		status.Edited = true
		status.lines = append(status.lines, fmt.Sprintf("%s has changed since: %s", e.What, e.Renewal(a.namespace)))
	}
	return status, problems, nil
}

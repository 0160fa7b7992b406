// Package report tells which services are in a namespace, and what is there.
package report

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"macvlan-vip/systemd/internal/cnitool"
	"macvlan-vip/systemd/internal/dropin"
	"macvlan-vip/systemd/internal/facts"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// member is a service in a namespace.
type member struct{ dropin.Member }

// List prints which services have a namespace, with what is in it.
func List(out io.Writer) error {
	all, err := dropin.Members()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(out, "no service is in a namespace; see systemd-netns --help, `enable`")
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tSTATE\tNAMESPACE\tNETWORK\tVIPS")
	for _, m := range all {
		if err := (member{m}).row(table); err != nil {
			return err
		}
	}
	return table.Flush()
}

func (m member) row(out io.Writer) error {
	state, err := units.Show("ActiveState", m.Unit)
	if err != nil {
		return err
	}
	network, vips := "-", "-"
	known, found, err := m.attachments()
	if err != nil {
		return err
	}
	if len(known) > 0 {
		network, vips = known[0].Network, cmp.Or(facts.List(found[0].VIPs), "-")
	}
	_, err = fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", m.Unit, state, m.Namespace, network, vips)
	return err
}

// attachments are those of the service's namespace, with the facts of each.
func (m member) attachments() ([]record.Attachment, []facts.Facts, error) {
	n := settings.Named(m.Namespace)
	known, err := cnitool.Known(n)
	if err != nil {
		// Of the others there is something to tell.
		sdlog.New(m.Namespace).Say(sdlog.LevelWarning, "%v", err)
	}
	found := make([]facts.Facts, len(known))
	for i, a := range known {
		if found[i], err = facts.Look(n.Path, a.IfName, cnitool.Result(a)); err != nil {
			return nil, nil, err
		}
	}
	return known, found, nil
}

// Status prints what the namespace of one service, such as "web.service", holds.
func Status(name string) error {
	in, err := dropin.NamespaceOf(name)
	if err != nil {
		return err
	}
	if in == "" {
		return fmt.Errorf("%s is in no namespace; put it there with: systemd-netns enable %s", name, strings.TrimSuffix(name, ".service"))
	}
	state, err := units.Show("ActiveState", name)
	if err != nil {
		return err
	}
	fmt.Printf("%s is %s, namespace %s\n", name, state, in)
	m := member{dropin.Member{Unit: name, Namespace: in}}
	known, found, err := m.attachments()
	if err != nil {
		return err
	}
	for j, a := range known {
		fmt.Println("  " + strings.Join(found[j].Made(a.Network), "\n  "))
	}
	for _, conflict := range record.Conflicts(in) {
		fmt.Println("  " + conflict)
	}
	if err := m.tellEdited(known); err != nil {
		return err
	}
	if len(known) == 0 {
		fmt.Println("  not added to a network")
	}
	return nil
}

// tellEdited says what of an attachment is out of date.
func (m member) tellEdited(known []record.Attachment) error {
	n, err := settings.Load(m.Namespace)
	if err != nil || len(known) == 0 {
		return err
	}
	if e := networks.Edited(known[0], n); e.What != "" {
		fmt.Printf("  %s has changed since: %s\n", e.What, e.Renewal(n))
	}
	return nil
}

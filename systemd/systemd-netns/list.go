package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// listAll prints which services have a namespace, with what is in it.
func listAll(out io.Writer) error {
	all, err := members()
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
		if err := m.row(table); err != nil {
			return err
		}
	}
	return table.Flush()
}

func (m member) row(out io.Writer) error {
	state, err := show("ActiveState", m.unit)
	if err != nil {
		return err
	}
	network, vips := "-", "-"
	known, found, err := m.attachments()
	if err != nil {
		return err
	}
	if len(known) > 0 {
		network, vips = known[0].NetworkName, cmp.Or(list(found[0].vips), "-")
	}
	_, err = fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", m.unit, state, m.namespace, network, vips)
	return err
}

// attachments are those of the service's namespace, with the facts of each.
func (m member) attachments() ([]attachment, []facts, error) {
	n := &netns{voice: newVoice(m.namespace), name: m.namespace, path: netnsDir + "/" + m.namespace}
	known, err := n.remembered()
	if err != nil {
		return nil, nil, err
	}
	found := make([]facts, len(known))
	for i, a := range known {
		n.ifName = a.IfName
		if found[i], err = n.look(a.result()); err != nil {
			return nil, nil, err
		}
	}
	return known, found, nil
}

// status prints what one service's namespace holds.
func status(args []string) error {
	if len(args) == 0 {
		return listAll(os.Stdout)
	}
	name, err := serviceName(args[0])
	if err != nil {
		return err
	}
	in, err := namespaceOfUnit(name)
	if err != nil {
		return err
	}
	if in == "" {
		return fmt.Errorf("%s is in no namespace; put it there with: systemd-netns enable %s", name, strings.TrimSuffix(name, ".service"))
	}
	state, err := show("ActiveState", name)
	if err != nil {
		return err
	}
	fmt.Printf("%s is %s, namespace %s\n", name, state, in)
	m := member{name, in}
	known, found, err := m.attachments()
	if err != nil {
		return err
	}
	for j, a := range known {
		fmt.Println("  " + strings.Join(found[j].made(a.NetworkName), "\n  "))
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
func (m member) tellEdited(known []attachment) error {
	n, err := open(m.namespace)
	if err != nil || len(known) == 0 {
		return err
	}
	what, err := n.edited(known[0])
	if err == nil && what != "" {
		fmt.Printf("  %s has changed since: %s\n", what, n.renewal())
	}
	return err
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containernetworking/cni/pkg/skel"

	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/verb"
)

// change is an attachment that a repeated ADD would change, as JSON. Changes
// has a line an item, as CHECK's are.
type change struct {
	journal.Key
	Netns   string   `json:"netns"`
	Changes []string `json:"changes"`
}

// changed prints one JSON object a line for each attachment whose routes no longer
// fit the host's addresses or its host-side link. It serves the process that
// watches the host's events: it reads the host's addresses once, compares the rest
// with the records, and opens no service's namespace. What was flushed is for CHECK
// to find.
func changed(out io.Writer) error {
	store, err := verb.OpenJournal(name)
	if err != nil {
		return err
	}
	host, err := kernel.OpenHost()
	if err != nil {
		return err
	}
	defer host.Close()
	addrs, err := host.Addresses()
	if err != nil {
		return err
	}
	keys, err := store.All()
	errs := []error{err}
	for _, key := range keys {
		rec, err := store.Load(key)
		if err != nil || rec == nil {
			errs = append(errs, err)
			continue
		}
		if lines := differences(host, addrs, rec); len(lines) > 0 {
			errs = append(errs, json.NewEncoder(out).Encode(change{rec.Key, rec.Netns, lines}))
		}
	}
	return errors.Join(errs...)
}

// differences compares the way that a record holds with the one that its
// configuration comes to now.
func differences(host *kernel.Namespace, addrs []plan.AddrFacts, rec *journal.Record) (lines []string) {
	link, found, err := host.HostSide(rec.HostInterface)
	switch {
	case err != nil:
		return []string{err.Error()}
	case !found:
		return []string{fmt.Sprintf("host: link %s: missing", rec.HostInterface)}
	case !link.Up:
		return []string{fmt.Sprintf("host: link %s: state is down, not up", link.Name)}
	}
	want, err := planAgain(host, addrs, rec, link)
	if err != nil {
		return []string{err.Error()}
	}
	now, before := texts(want), texts(way(rec.Desired))
	for _, line := range now.lines {
		if !before.has[line] {
			lines = append(lines, line+": missing")
		}
	}
	for _, line := range before.lines {
		if !now.has[line] {
			lines = append(lines, line+": left over")
		}
	}
	return lines
}

// planAgain plans an attachment's way by its record and the host as it is now.
func planAgain(host *kernel.Namespace, addrs []plan.AddrFacts, rec *journal.Record, link plan.LinkFacts) (plan.Desired, error) {
	conf, err := config.ParseHairpin(rec.Input)
	if err != nil {
		return plan.Desired{}, err
	}
	prev, err := config.ParsePrevResult(&conf.NetConf)
	if err != nil {
		return plan.Desired{}, err
	}
	a := &attachment{Attachment: &verb.Attachment{Args: &skel.CmdArgs{IfName: rec.IfName}, Prev: prev, K: &kernel.Kernel{Host: host}}, conf: conf}
	a.facts = plan.Hairpin{Conf: conf, ServiceLink: plan.LinkFacts{Name: rec.IfName, MAC: serviceMAC(rec.Desired)}}
	a.useHostLink(link)
	if err := a.findVIPs(); err != nil {
		return plan.Desired{}, err
	}
	err = a.useHostAddresses(addrs)
	return a.facts.Plan(), err
}

// serviceMAC is the MAC to which the host's entries lead.
func serviceMAC(d plan.Desired) string {
	for _, n := range d.Neighbours {
		if n.Side == plan.Host {
			return n.MAC
		}
	}
	return ""
}

// lineSet is the routes and neighbours of a plan, as lines.
type lineSet struct {
	lines []string
	has   map[string]bool
}

func texts(d plan.Desired) lineSet {
	s := lineSet{has: map[string]bool{}}
	for _, r := range d.Routes {
		s.lines = append(s.lines, r.String())
	}
	for _, n := range d.Neighbours {
		s.lines = append(s.lines, n.String())
	}
	for _, line := range s.lines {
		s.has[line] = true
	}
	return s
}

package plan

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"macvlan-vip/plugins/internal/config"
)

// HostInterfaces are the names that the host-side macvlan on a master may
// have, the preferred one first. before is the one that the attachment has
// used so far, if any.
func (a Attachment) HostInterfaces(before string) []string {
	if a.Conf.HostInterface == "" || a.Conf.HostInterfaceChosen {
		return []string{a.Conf.HostInterface}
	}
	names := []string{config.DefaultHostInterface, HostInterfaceOf(a.Master.Name)}
	if before == "" {
		return names
	}
	return append([]string{before}, slices.DeleteFunc(names, func(n string) bool { return n == before })...)
}

// HostInterfaceOf derives a name for the host-side macvlan of a master from
// the master's: mv-int-eth1, or, where that has more than the 15 characters
// that a link's name may have (IFNAMSIZ), mv-int-3fa-0np1 for enp129s0f0np1,
// with a part of the name's digest, and its end, in which such names differ.
func HostInterfaceOf(master string) string {
	const room = 15 - len(config.DefaultHostInterface+"-")
	if len(master) > room {
		sum := sha256.Sum256([]byte(master))
		master = fmt.Sprintf("%x", sum)[:3] + "-" + master[len(master)-room+4:]
	}
	return config.DefaultHostInterface + "-" + master
}

// ChooseHostInterface picks the first of several names under which there is a
// macvlan on the master, or else the first that no link has, or else the last.
// look finds a link by name; nil where there is none.
func (a Attachment) ChooseHostInterface(names []string, look func(name string) (*LinkFacts, error)) (name string, existing *LinkFacts, err error) {
	free := ""
	for _, name = range names {
		existing, err = look(name)
		switch {
		case err != nil:
			return "", nil, err
		case existing == nil && free == "":
			free = name
		case existing != nil && existing.Kind == KindMacvlan && existing.Lower == a.Master.Base():
			return name, existing, nil
		}
	}
	if free != "" {
		return free, nil, nil
	}
	return name, existing, nil
}

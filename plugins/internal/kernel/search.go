package kernel

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// places are where network namespaces can be found, and below what: those with a name,
// and those of threads. The dhcp plugin's daemon has one in each namespace that it keeps
// a lease for, while the process itself is elsewhere.
var places = [][2]string{{"/run/netns/*", ""}, {"/proc/[0-9]*/task/[0-9]*", "/ns/net"}}

// FindService looks for the service's namespace where no path leads to it (any
// more): the one that has a link of a name and an alias, on a link of this host's,
// and is of an identity (Namespace.Identity), if that is known. It stays unknown
// where there is none.
func (k *Kernel) FindService(name, alias, identity string) {
	seen := map[uint64]bool{inode(int(k.Host.netns.Fd())): true}
	for _, place := range places {
		paths, _ := filepath.Glob(place[0])
		for _, path := range paths {
			n := openUnseen(path+place[1], seen)
			if n != nil && k.isOnHost(n, name, alias) && n.is(identity) {
				k.Service = n
				return
			}
			n.Close()
		}
	}
}

// isOnHost tells whether a namespace has the link. Another host on this machine,
// a container with systemd, can have one of the same name and alias.
func (k *Kernel) isOnHost(n *Namespace, name, alias string) bool {
	l, err := n.link(name)
	if err != nil || l.Attrs().Alias != alias || l.Attrs().NetNsID < 0 {
		return false
	}
	id, err := n.handle.GetNetNsIdByFd(int(k.Host.netns.Fd()))
	return err == nil && id == l.Attrs().NetNsID
}

// is tells whether a namespace has an identity; the empty one is any's.
func (n *Namespace) is(identity string) bool {
	if identity == "" {
		return true
	}
	own, err := n.Identity()
	return err == nil && own == identity
}

// openUnseen opens the namespace at a path; nil where it was seen before, or
// cannot be opened.
func openUnseen(path string, seen map[uint64]bool) *Namespace {
	var stat unix.Stat_t
	if unix.Stat(path, &stat) != nil || seen[stat.Ino] {
		return nil
	}
	seen[stat.Ino] = true
	n, err := OpenService(path)
	if err != nil {
		return nil
	}
	return n
}

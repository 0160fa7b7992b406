// Package watch keeps the namespaces of a host in the state in which they were
// created. It receives the kernel's events (rtnetlink(7)) from the host's network
// namespace and from the services', and reloads the units concerned, which check
// and repair.
//
// It holds no namespace: one netlink socket in the host's namespace receives the
// events of all that have a number there (NETLINK_LISTEN_ALL_NSID, netlink(7)),
// and a number keeps nothing alive.
package watch

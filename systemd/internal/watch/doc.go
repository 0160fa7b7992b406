// Package watch keeps the namespaces of a host as they were made. The kernel
// tells it what changes (rtnetlink(7)), in the host's network namespace and in
// the services', and it has the units concerned reloaded, which checks and
// repairs.
//
// It holds no namespace: one netlink socket in the host's namespace receives the
// events of all that have a number there (NETLINK_LISTEN_ALL_NSID, netlink(7)),
// and a number keeps nothing alive.
package watch

package main

const help = `Podman's network driver macvlan-vip. Podman and netavark run it with one of the
verbs create, setup NETNS, teardown NETNS and info, and JSON on standard input.

It puts containers on the LAN at addresses of their own, reachable from the LAN and
from the host, by the CNI plugins macvlan-vip and hairpin-route.

  podman network create --driver macvlan-vip --opt parent=eth0 \
    --subnet 192.0.2.0/24 --gateway 192.0.2.1 --ip-range 192.0.2.128/28 vips
  podman run --network vips --ip 192.0.2.10 IMAGE

Options of a network (--opt), with defaults in brackets:
  parent               the host's uplink [the default route's]
  metric               of the default route [99]
  no_default_route     make none [false]
  mtu                  bytes [the parent's]
  bcqueuelen           broadcast queue length [the kernel's]
  hostInterface        host-side macvlan [mv-int; of further parents mv-int-PARENT]
  ipForward            set net.ipv4.ip_forward=1 on the host [false]
  addressConflict      fail, warn or ignore when an address is in use [fail]
  probe.count          probes of each address [3]
  probe.intervalMs     milliseconds between them [50]
  probe.waitMs         milliseconds to wait for an answer [100]
  announce.count       rounds of announcements [3]
  announce.intervalMs  milliseconds between them [1000]
  source               the host's address towards the containers [the LAN's]
  hostNetworks         networks behind the host that reach them, or connected [none]
  table                routing table of the host's routes [local]

See macvlan-vip(8) and hairpin-route(8).
`

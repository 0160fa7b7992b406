package main

const help = `A CNI plugin (https://www.cni.dev): a runtime runs it with CNI_COMMAND and the
other CNI_* variables set and a network configuration on standard input.

It makes a macvlan on the master in the service's network namespace, gives it
the addresses that the IPAM plugin names, and makes a second macvlan on the
host, shared by all services on that master, through which hairpin-route routes
the host's own packets.

Keys beside "type" and "ipam", with defaults in brackets:
  master           lower link [the default route's]
  mode             bridge, private, vepa or passthru [bridge]
  mtu              bytes [the master's]
  mac              of the service's link [derived, the same after every restart]
  bcqueuelen       broadcast queue length [the kernel's]
  linkInContainer  the master is in the service's netns [false]
  hostInterface    host-side macvlan [mv-int; of further masters mv-int-MASTER]
  sysctl           keys under net., set in the netns; IFNAME is the interface
  ipForward        set net.ipv4.ip_forward=1 on the host [false]
  allowedVIPs      prefixes besides the master's for VIPs that a runtime chooses
  addressConflict  fail, defend, warn or ignore when a VIP is in use [fail]
  probe            {"count": 3, "intervalMs": 50, "waitMs": 100}
  announce         {"count": 3, "intervalMs": 1000}

Example, a file in /etc/cni/net.d:
  {"cniVersion": "1.1.0", "name": "haproxy", "plugins": [
    {"type": "macvlan-vip", "master": "eth0",
     "ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}]}},
    {"type": "hairpin-route"}]}
`

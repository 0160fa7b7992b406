package main

const help = `A chained CNI plugin (https://www.cni.dev): a runtime runs it after macvlan-vip
or macvlan, with CNI_COMMAND and the other CNI_* variables set and a network
configuration with prevResult on standard input.

A macvlan cannot talk to the link below it, so a host cannot reach a virtual IP
that it serves itself. This plugin routes the host's packets through the
host-side macvlan, and the answers back.

Keys beside "type", with defaults in brackets:
  hostInterface  host-side macvlan [prevResult's interface on the host]
  table          routing table of the host's routes: a name or a number [local]
  metric         of these routes [100]
  source         the host's source address: one, or a list with one of each
                 family [the host's LAN address]
  hostNetworks   networks behind the host that reach the VIPs unmasqueraded: one
                 or a list, or "connected" for all that it has addresses in [none]
  returnPath     give the netns a way back to the host's addresses [true]

hairpin-route changed: prints the attachments on this host whose routes no longer
fit the host's addresses, as one JSON object per line. They need a repeated ADD.

Example, a file in /etc/cni/net.d:
  {"cniVersion": "1.1.0", "name": "haproxy", "plugins": [
    {"type": "macvlan-vip", "master": "eth0",
     "ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}]}},
    {"type": "hairpin-route"}]}
`

#!/bin/sh
# article.sh add|del NETNS MASTER VIP/BITS...: the article's way, in which each
# step is a process. What its two units and its start-up script do is in add, but
# for the namespace itself. del has its two routes, and the link alone where the
# article removes the namespace. LAST=1 also removes mv-int, which the article
# leaves; HOSTLINK is another name for it. EARLY=1 gives mv0 its addresses before
# it comes up, without which arp_notify tells nobody anything.
verb=$1 netns=$2 master=$3 host=${HOSTLINK:-mv-int}
shift 3

addresses() {
	for vip; do
		ip netns exec "$netns" ip address add "$vip" dev mv0
	done
}

add() {
	ip netns exec "$netns" ip link set lo up
	ip link add "$host" link "$master" type macvlan mode bridge 2>/dev/null
	ip link set "$host" up
	sysctl -qw net.ipv4.ip_forward=1
	ip link add mv0 link "$host" type macvlan mode bridge
	ip link set mv0 netns "$netns" name mv0
	if [ -z "${EARLY:-}" ]; then
		ip netns exec "$netns" ip link set lo up
		ip netns exec "$netns" ip link set dev mv0 up
	fi
	ip netns exec "$netns" sysctl -qw net.ipv4.conf.mv0.forwarding=1
	ip netns exec "$netns" sysctl -qw net.ipv4.conf.mv0.arp_notify=1
	ip netns exec "$netns" sysctl -qw net.ipv4.conf.mv0.arp_announce=2
	ip netns exec "$netns" sysctl -qw net.ipv6.conf.mv0.use_tempaddr=0
	addresses "$@"
	[ -z "${EARLY:-}" ] || ip netns exec "$netns" ip link set dev mv0 up
	for vip; do
		ip route add "${vip%/*}/32" dev "$host" metric 100 table local
	done
}

del() {
	for vip; do
		ip route del "${vip%/*}/32" dev "$host" metric 100 table local
	done
	ip netns exec "$netns" ip link delete mv0
	[ -z "${LAST:-}" ] || ip link delete "$host"
}

"$verb" "$@"

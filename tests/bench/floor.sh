#!/bin/sh
# floor.sh add|del NETNS DIR: the kernel operations of an attachment, without
# looking, deciding, recording or undoing anything. The batches and sysctls in
# DIR are the bench's.
verb=$1 netns=$2 dir=$3

case $verb in
add)
	ip -batch "$dir/links"
	# shellcheck disable=SC1091 # written by the bench
	[ ! -e "$dir/sysctls.host" ] || . "$dir/sysctls.host"
	# shellcheck disable=SC2016 # for the other shell
	nsenter --net="/run/netns/$netns" sh -c '. "$0/sysctls.service"; ip -batch "$0/service"' "$dir"
	ip -batch "$dir/host"
	;;
del)
	ip -batch "$dir/host.del"
	ip -n "$netns" link delete mv0
	[ ! -e "$dir/sysctls.host" ] || ip link delete mv-int
	;;
esac

package main

import (
	"os"

	"macvlan-vip/plugins/internal/cnierr"
)

// refuseRootless says at once what a rootless podman's user would find out when
// a container starts: its containers are behind a network namespace of the
// user's own, in which the host's links are not.
func refuseRootless() error {
	// Set by podman in the user namespace that it makes for a user
	// (containers/podman, pkg/rootless).
	uid := os.Getenv("_CONTAINERS_ROOTLESS_UID")
	if os.Geteuid() == 0 && (uid == "" || uid == "0") {
		return nil
	}
	return cnierr.New(0, "run podman as root (sudo podman network create ...)",
		"rootless podman has no access to the host's links, so its containers cannot be on the LAN")
}

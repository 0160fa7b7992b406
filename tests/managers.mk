# Hosts whose network a manager manages, which takes several boots each.

MANAGERS_DEBS := cpio dnsmasq-base e2fsprogs qemu-system-x86 qemu-utils xz-utils
.PHONY: managers-deps test-managers
managers-deps: DEBS += $(MANAGERS_DEBS)
managers-deps: test-deps

test-managers: managers-deps build ## Run the tests with networkd, NetworkManager and ifupdown, on SUITE [bookworm]
	MANAGERS=1 MACHINE=qemu DEBIAN_SUITE='$(or $(SUITE),bookworm)' $(GOTEST) -timeout 90m -v ./tests/managers

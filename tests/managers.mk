# Hosts whose network a manager manages, which takes several boots each.

.PHONY: test-managers
test-managers: test-deps build ## Run services on virtual machines whose network a manager manages, of Debian SUITE [bookworm]
	MANAGERS=1 MACHINE=qemu DEBIAN_SUITE=$(SUITE) $(GOTEST) -timeout 90m -v ./tests/managers

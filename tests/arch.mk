# Other architectures than this machine's.

.PHONY: cross-deps test-cross release-check arch-deps test-arch
# Packages that need no kernel, by byte order and word size: s390x has the most
# significant byte first, armv7 has 32 bits.
PURE := config plan cnierr journal
CROSS_DEBS := qemu-user-static
cross-deps: DEBS += $(CROSS_DEBS)
cross-deps: test-deps

test-cross: cross-deps ## Run the tests that need no kernel for arm64, armv7 and s390x, under an emulator
	set -e; for arch in arm64:aarch64 arm:arm s390x:s390x; do \
		cross() { GOARCH=$${arch%:*} GOARM=7 CGO_ENABLED=0 $(GO) test -count=1 -exec qemu-$${arch#*:}-static "$$@"; }; \
		cross $(addprefix ./plugins/internal/,$(PURE)); \
		cross -run '^Test(.*Message|KernelError)$$' ./plugins/internal/kernel; \
		cross -run '^Test(Parse|Packets|Filters)' ./plugins/internal/announce; done

release-check: test-deps ## Make a release for all architectures, twice, and look into it
	RELEASE_ARCHES='$(ARCHES)' $(GO) test -count=1 -timeout 60m -v -run '^TestRelease$$' ./tests/packages

# The machine of ARCH is emulated from its kernel on.
ARCH_DEBS := kmod qemu-system-arm qemu-system-misc
arch-deps: DEBS += $(ARCH_DEBS)
arch-deps: test-deps

test-arch: arch-deps ## Run the main job on a machine of another architecture: ARCH=arm64 or ARCH=s390x
	ARCH='$(ARCH)' $(GOTEST) -v ./tests/arch

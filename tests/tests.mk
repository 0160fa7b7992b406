# Testing, and what it needs on a fresh Debian machine beside Go.

DEBS := ca-certificates containerd curl dnsmasq-base git iproute2 iputils-ping make mmdebstrap nftables podman procps runc shellcheck strace systemd-container tcpdump util-linux

missing = $(shell for p in $(DEBS); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q '^install ok' || echo $$p; done)

# In a mount namespace of its own: whatever ends a run, an interrupt too, the
# network namespaces and the machines' roots that it made go with it.
ALONE := unshare --mount sh -ec 'mkdir -p /run/netns; mount -t tmpfs netns /run/netns; exec "$$@"' sh

GOTEST := $(ALONE) $(GO) test -count=1 -p 1 -timeout 15m

.PHONY: test-deps test test-systemd fuzz demo lint lint-deps
test-deps:
	@set -e; missing="$(missing)"; [ -z "$$missing" ] || { \
		echo "installing: $$missing"; apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; }

test: test-deps build ## Run every test, as root; installs what it needs
	$(GO) vet ./...
	$(GOTEST) ./...

test-systemd: test-deps build ## Run the tests on a booted systemd alone
	$(GOTEST) -v ./tests/systemd

FUZZTIME ?= 30s
fuzz: ## Fuzz every target for FUZZTIME [30s]
	set -e; for pkg in ./plugins/internal/config ./plugins/internal/announce; do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			$(GO) test $$pkg -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME); done; done

demo: test-deps build ## Show the main job on a throwaway machine: haproxy on two VIPs
	@$(ALONE) $(GO) run ./tests/demo

LINT_DEBS := mandoc shfmt
lint-deps: DEBS += $(LINT_DEBS)
lint-deps: test-deps

SCRIPTS  := .ci/run $(wildcard packaging/scripts/*)
LINTROOT := build/lint

lint: lint-deps build ## Run the linters of code, scripts, manual pages and units
	$(GO) tool -modfile=tests/tools/go.mod golangci-lint run ./...
	shellcheck -s sh $(SCRIPTS)
	shfmt -d $(SCRIPTS)
	mandoc -T lint -W warning $(MAN)
	rm -rf $(LINTROOT) && $(MAKE) -s install DESTDIR=$(LINTROOT) >/dev/null
	for unit in $(notdir $(wildcard systemd/*@.service systemd/*@.timer)); do \
		systemd-analyze verify --root=$(abspath $(LINTROOT)) --man=no --recursive-errors=no $${unit%@*}@name.$${unit##*.} || exit 1; done

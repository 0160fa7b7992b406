# Testing, and what it needs on a fresh Debian machine beside Go.

DEBS := bash-completion ca-certificates containerd cpio curl dnsmasq-base e2fsprogs fish git iproute2 iputils-ping lintian make mmdebstrap nftables podman procps qemu-system-x86 qemu-utils runc shellcheck systemd-container tcpdump util-linux xz-utils zsh

missing = $(shell for p in $(DEBS); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q '^install ok' || echo $$p; done)

# In a mount namespace of its own: whatever ends a run, an interrupt too, the
# network namespaces and the machines' roots that it made go with it.
ALONE := unshare --mount sh -ec 'mkdir -p /run/netns /run/cni; mount -t tmpfs netns /run/netns; mount -t tmpfs -o mode=755 cni /run/cni; exec "$$@"' sh

GOTEST := $(ALONE) $(GO) test -count=1 -p 1 -timeout 40m

.PHONY: test-deps test test-systemd test-main-job test-vm test-kernel race soak chaos cover fuzz demo lint lint-deps
test-deps:
	@set -e; missing="$(missing)"; [ -z "$$missing" ] || { \
		echo "installing: $$missing"; apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; }

# Those that have targets of their own, since their machines take long to make.
LATER := /tests/(arch|cluster|runtimes|managers)$$
# So do the release, and bench's look at booted machines.
LONG := ^(TestRelease|TestStart|TestFull)$$
# Booted machines mostly wait, so their tests run beside the others.
BOOTED := /tests/(machine|systemd|docs|packages)$$
test: test-deps build ## Run the tests, as root, but for those with targets of their own; installs what it needs
	$(GO) vet ./...
	$(GO) run ./tests/roots & \
	$(GOTEST) -skip '$(LONG)' $$($(GO) list ./... | grep -vE '$(LATER)|$(BOOTED)') & others=$$!; \
	$(GOTEST) -skip '$(LONG)' $$($(GO) list ./... | grep -E '$(BOOTED)') && $(MAIN_JOB); booted=$$?; \
	wait $$others && exit $$booted

# On Debian 11 the units' own alone: the others ask for newer tools than it has.
MACHINES = ./tests/systemd $(if $(filter bullseye,$(DEBIAN_SUITE)),,./tests/docs ./tests/packages ./tests/cluster ./tests/bench)
test-systemd: test-deps build ## Run the tests on booted machines alone, of Debian DEBIAN_SUITE [bookworm]
	$(GOTEST) $(MACHINES)

SUITE ?= bookworm
MAIN_JOB = MACHINE=qemu DEBIAN_SUITE=$(SUITE) $(GOTEST) -run '^(TestBothFamilies|TestNetworkComesLate)$$' ./tests/systemd
test-main-job: test-deps build ## Run the main job on a virtual machine of Debian SUITE [bookworm], with its own kernel
	$(MAIN_JOB)

test-vm: DEBIAN_SUITE = $(SUITE)
test-vm: test-deps build ## Run all tests on booted machines on virtual ones of Debian SUITE [bookworm]
	MACHINE=qemu DEBIAN_SUITE=$(SUITE) $(GOTEST) -timeout 120m ./tests/machine $(MACHINES)

RUN      ?= .
PACKAGES ?= ./plugins/... ./systemd/internal/watch ./tests/cni ./tests/lan
test-kernel: test-deps ## Run the suites of plugins and keeper on the kernel of Debian SUITE [bookworm]; of PACKAGES [all] what matches RUN [all]
	DEBIAN_SUITE=$(SUITE) $(ALONE) $(GO) run ./tests/kernel -run '$(RUN)' $(PACKAGES)

race: test-deps ## Run the plugins' own tests under the race detector, which needs a C compiler
	CGO_ENABLED=1 $(GOTEST) -race ./plugins/...

# Tests that repeat themselves, far more often than `make test` has time for.
SOAKS := TestManyServices|TestManyStarts|TestThousandVIPs|TestManyAtOnce|TestAddAndDeleteAtOnce|TestFastRestarts|TestMoreVIPsThanNeighbours|TestKilled|TestFailedChange|TestSplitBrain
soak: test-deps build ## Run the longer soaks: 500 services, also started at once, 1,000 VIPs, many at once, restarts, every change killed and failing, split brain
	SOAK=1 $(GOTEST) -timeout 90m -v -run '^($(SOAKS))$$' ./tests/cni ./tests/lan ./tests/systemd ./tests/cluster

# What the tests run of the plugins: as binaries that they call, and in their
# own processes. A process that is killed says nothing, so TestKilled is left out.
COVER := $(CURDIR)/build/cover
cover: test-deps ## Measure what the tests run of the plugins, binaries included, into build/cover
	rm -rf $(COVER)
	mkdir -p $(COVER)/binaries $(COVER)/packages
	GOCOVERDIR=$(COVER)/binaries $(GOTEST) -timeout 60m -skip '^TestKilled$$' ./tests/cni ./tests/lan
	GOCOVERDIR=$(COVER)/binaries $(GOTEST) -timeout 60m -cover -coverpkg ./plugins/... ./plugins/... -args -test.gocoverdir=$(COVER)/packages
	$(GO) tool covdata textfmt -i $(COVER)/binaries,$(COVER)/packages -o $(COVER)/profile
	$(GO) tool cover -html $(COVER)/profile -o $(COVER)/index.html
	$(GO) tool covdata percent -i $(COVER)/binaries,$(COVER)/packages
	$(GO) tool cover -func $(COVER)/profile | awk '$$NF != "100.0%"'

# Random histories of a host and its services: SEED begins a run, that many
# HISTORIES are drawn, each of about STEPS events. A failure is shrunk and
# printed with what repeats it.
SEED      ?= 0
HISTORIES ?= 100
STEPS     ?= 30
BOOTED    ?= 10
CHAOS = -v -run '^TestHistories$$' -rapid.seed $(SEED) -rapid.steps $(STEPS) -rapid.nofailfile
chaos: test-deps build ## Draw random histories: SEED= [random] HISTORIES= [100] on namespaces, BOOTED= [10] on a machine, of STEPS= [30] on average
	[ $(HISTORIES) = 0 ] || $(GOTEST) -timeout 12h ./tests/cni $(CHAOS) -rapid.checks $(HISTORIES)
	[ $(BOOTED) = 0 ] || $(GOTEST) -timeout 12h ./tests/systemd $(CHAOS) -rapid.checks $(BOOTED) -rapid.shrinktime 1ms

FUZZTIME ?= 30s
fuzz: ## Fuzz every target for FUZZTIME [30s]
	set -e; for pkg in $$(grep -l '^func Fuzz' -r plugins --include '*_test.go' | xargs -n1 dirname | sort -u); do \
		for f in $$($(GO) test -list '^Fuzz' ./$$pkg | grep '^Fuzz'); do \
			$(GO) test ./$$pkg -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x; done; done

demo: test-deps build ## Show the main job on a throwaway machine: haproxy on two VIPs
	@$(ALONE) $(GO) run ./tests/demo

LINT_DEBS := mandoc shfmt
lint-deps: DEBS += $(LINT_DEBS)
lint-deps: test-deps

SCRIPTS  := .ci/run $(wildcard packaging/scripts/* tests/bench/*.sh)
LINTROOT := build/lint

lint: lint-deps build ## Run the linters of code, scripts, manual pages and units
	$(GO) tool -modfile=tests/tools/go.mod golangci-lint run ./...
	shellcheck -s sh $(SCRIPTS)
	shfmt -d $(SCRIPTS)
	mandoc -T lint -W warning $(MAN)
	rm -rf $(LINTROOT) && $(MAKE) -s install DESTDIR=$(LINTROOT) >/dev/null
	install -D "$$(command -v systemctl)" $(LINTROOT)/usr/bin/systemctl
	install -D /lib/systemd/systemd-socket-proxyd $(LINTROOT)/lib/systemd/systemd-socket-proxyd
	mkdir $(LINTROOT)$(UNITDIR)/systemd-netns-forward@.socket.d
	printf '[Socket]\nListenStream=80\n' >$(LINTROOT)$(UNITDIR)/systemd-netns-forward@.socket.d/as-enable-does.conf
	for unit in $(subst @.,@name.,$(notdir $(wildcard systemd/*.service systemd/*.socket systemd/*.timer))); do \
		systemd-analyze verify --root=$(abspath $(LINTROOT)) --man=no --recursive-errors=no $$unit || exit 1; done

# Runtimes that Debian has not, from the module proxy: each folder below
# tests/runtimes is a module with their versions.
build/nerdctl: tests/runtimes/nerdctl/go.mod
	cd $(<D) && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(CURDIR)/$@ github.com/containerd/nerdctl/v2/cmd/nerdctl

# It needs a C compiler, to enter its tasks' namespaces.
build/nomad: tests/runtimes/nomad/go.mod
	cd $(<D) && CGO_ENABLED=1 $(GO) build -trimpath -tags 'netgo osusergo' -ldflags '-s -w' -o $(CURDIR)/$@ github.com/hashicorp/nomad

CRIO_TAGS := containers_image_openpgp containers_image_ostree_stub exclude_graphdriver_btrfs btrfs_noversion
build/cri-o/crio: tests/runtimes/cri-o/go.mod
	cd $(<D) && $(GO) build -trimpath -tags '$(CRIO_TAGS)' -ldflags '-s -w' -o $(CURDIR)/$@ github.com/cri-o/cri-o/cmd/crio

build/cri-o/pinns: tests/runtimes/cri-o/go.mod | build/cri-o/crio # which downloads the source
	mkdir -p $(@D)
	gcc -std=c99 -Os -static -o $@ "$$(cd $(<D) && $(GO) list -m -f '{{.Dir}}' github.com/cri-o/cri-o)"/pinns/src/*.c

KUBERNETES := $(addprefix build/kubernetes/,kube-apiserver kube-controller-manager kube-scheduler kubectl kubelet multus whereabouts)
build/kubernetes/%: PACKAGE = k8s.io/kubernetes/cmd/$*
build/kubernetes/multus: PACKAGE = gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus
build/kubernetes/whereabouts: PACKAGE = github.com/k8snetworkplumbingwg/whereabouts/cmd
build/kubernetes/%: tests/runtimes/kubernetes/go.mod
	cd $(<D) && CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$($(GO) list -m -f '{{.Version}}' k8s.io/kubernetes)" -o $(CURDIR)/$@ $(PACKAGE)

compiler-deps: DEBS += gcc libc6-dev
compiler-deps: test-deps

.PHONY: test-runtimes compiler-deps test-nomad test-cri-o test-kubernetes
test-runtimes: test-deps build build/nerdctl ## Run container runtimes, nerdctl too, which takes minutes to build
	NERDCTL=$(CURDIR)/build/nerdctl $(GOTEST) -v ./tests/runtimes

test-nomad: compiler-deps build build/nomad ## Run Nomad, which it builds: a server, two clients, a job that moves
	NOMAD=$(CURDIR)/build/nomad $(GOTEST) -v -run '^TestNomad$$' ./tests/runtimes

test-cri-o: compiler-deps build build/cri-o/crio build/cri-o/pinns ## Run CRI-O, which it builds
	CRIO=$(CURDIR)/build/cri-o $(GOTEST) -v -run '^TestCRIO$$' ./tests/runtimes

test-kubernetes: test-deps build $(KUBERNETES) ## Run Kubernetes with Multus and whereabouts, which it builds: two nodes
	KUBERNETES=$(CURDIR)/build/kubernetes $(GOTEST) -v -run '^TestKubernetes$$' ./tests/runtimes

# The only entry for people and for CI. `make help` lists the targets.

PREFIX  ?= /usr/local
DESTDIR ?=
CNI_BIN := /opt/cni/bin
UNITDIR := $(PREFIX)/lib/systemd/system
SHARE   := $(PREFIX)/share/macvlan-vip

# sudo may have a PATH of its own, without Go.
GO      ?= $(or $(shell command -v go),/usr/local/go/bin/go)
# The version is stamped below; under sudo git may not be asked for it.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

OURS     := macvlan-vip hairpin-route
COMMANDS := systemd-netns systemd-netns-helper systemd-netns-watch
# Podman's network driver: netavark finds it by this name in a folder of its own.
DRIVER   := netavark/macvlan-vip
IPAM     := static host-local dhcp
TOOLS    := cnitool $(IPAM)
BINARIES := $(addprefix bin/,$(OURS) $(COMMANDS) $(DRIVER) $(TOOLS))

BUILDVERSION := github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion
UPSTREAM      = $(shell $(GO) list -m -f '{{.Version}}' github.com/containernetworking/plugins)
# What to build for: amd64, arm64, armv7, ppc64le, riscv64 or s390x. What this
# machine runs itself, such as `go run`, is built for it alone.
ARCH   ?= $(patsubst arm,armv7,$(shell $(GO) env GOARCH))
unexport GOARCH GOARM GOOS
TARGET  = GOOS=linux GOARCH=$(patsubst armv7,arm,$(ARCH)) GOARM=7
GOBUILD = $(TARGET) CGO_ENABLED=0 $(GO) build -trimpath

GOSOURCES := $(shell find plugins systemd -name '*.go' -not -name '*_test.go') go.mod go.sum

# A file that a failed command has begun is no file that is made.
.DELETE_ON_ERROR:

.PHONY: help build
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: $(BINARIES) ## Build the plugins, the shim, cnitool and the IPAM plugins into bin/

$(addprefix bin/,$(OURS)): bin/%: $(GOSOURCES)
	$(GOBUILD) -ldflags '-s -w -X $(BUILDVERSION)=$(VERSION)' -o $@ ./plugins/$*

bin/$(DRIVER): $(GOSOURCES)
	$(GOBUILD) -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./plugins/netavark-plugin

$(addprefix bin/,$(COMMANDS)): bin/%: $(GOSOURCES)
	$(GOBUILD) -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./systemd/cmd/$*

$(addprefix bin/,$(IPAM)): bin/%: go.mod go.sum
	$(GOBUILD) -ldflags '-s -w -X $(BUILDVERSION)=$(UPSTREAM)' -o $@ github.com/containernetworking/plugins/plugins/ipam/$*

bin/cnitool: go.mod go.sum
	$(GOBUILD) -ldflags '-s -w' -o $@ github.com/containernetworking/cni/cnitool

include $(wildcard systemd/*.mk packaging/*.mk tests/*.mk)

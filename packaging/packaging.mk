# Manual pages, and packages for distributions.

TOOL := $(GO) tool -modfile=tests/tools/go.mod

# Of all that is made: the commit's time, so that it can be made again.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH

MANPAGES := macvlan-vip.8 hairpin-route.8 podman-macvlan-vip.8 systemd-netns.8 systemd-netns-helper.8 systemd-netns-watch.8 systemd-netns@.service.8 netns.conf.5
MAN      := $(addprefix bin/man/,$(MANPAGES))
MANDATE   = $(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%d)

.PHONY: man install-man uninstall-man
build: man
man: $(MAN) ## Make the manual pages out of the READMEs, in bin/man/

bin/man/%: $(wildcard packaging/man/*.go plugins/*/README.md systemd/*.md systemd/cmd/*/README.md)
	@mkdir -p bin/man
	$(GO) run ./packaging/man $* $(MANDATE) $(VERSION) > $@.md
	$(TOOL) go-md2man -in $@.md -out $@
	@rm $@.md

# Their paths are those of the default prefix, as in all files of the project.
install: install-man
install-man: man
	install -d $(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man8
	set -e; for page in $(MANPAGES); do to="$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$page"; \
		$(call fill,"bin/man/$$page","$$to"); chmod 644 "$$to"; done

uninstall: uninstall-man
uninstall-man:
	rm -f $(foreach page,$(MANPAGES),$(DESTDIR)$(PREFIX)/share/man/man$(lastword $(subst ., ,$(page)))/$(page))

DIST       ?= dist
PKGVERSION ?= $(shell $(GO) run ./packaging/version)
PACKAGER   ?= macvlan-vip maintainers <maintainers@macvlan-vip.invalid>

.PHONY: deb rpm package-root pkgversion
pkgversion:
	@echo $(PKGVERSION)

# What goes into packages: what `make install` installs, built in a copy, so that
# bin/ stays as it is. The IPAM plugins go to a folder of their own, since the
# packages kubernetes-cni and containernetworking-plugins have them, too.
SOURCES := Makefile go.mod go.sum LICENSE README.md conf packaging plugins systemd tests
STAGE   := $(abspath $(DIST))/root
package-root:
	@test -n '$(PKGVERSION)'
	rm -rf $(STAGE) $(DIST)/src
	mkdir -p $(DIST)/src
	cp -r $(SOURCES) $(DIST)/src
	umask 022 && $(MAKE) -C $(DIST)/src install VERSION='$(PKGVERSION)' PREFIX=/usr DESTDIR=$(STAGE)
	install -d $(STAGE)/usr/lib/macvlan-vip
	mv $(addprefix $(STAGE)$(CNI_BIN)/,$(IPAM)) $(STAGE)/usr/lib/macvlan-vip
	rm $(STAGE)/usr/share/macvlan-vip/$(notdir $(SUMS))
	mv $(STAGE)/usr/share/doc/macvlan-vip/LICENSE $(STAGE)
	install -m 644 packaging/copyright $(STAGE)/usr/share/doc/macvlan-vip
	install -m 644 packaging/lintian-overrides $(STAGE)
	gzip -9n $(STAGE)/usr/share/man/man*/*
	find $(STAGE) -exec touch -d @$(SOURCE_DATE_EPOCH) {} +
	printf -- '- semver: "%s"\n  date: %s\n  packager: %s\n  deb: {urgency: medium, distributions: [unstable]}\n  changes:\n    - note: %s\n' \
		'$(PKGVERSION)' "$$(date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ)" '$(PACKAGER)' \
		'Version $(PKGVERSION); git has its history.' > $(DIST)/changelog.yaml

deb: package-root ## Make a package for Debian in dist/
rpm: package-root ## Make a package for Fedora, RHEL and their relatives in dist/
deb rpm:
	nfpm=$$($(TOOL) -n nfpm) && cd $(DIST) && \
		ARCH='$(patsubst armv7,arm7,$(ARCH))' PKGVERSION='$(PKGVERSION)' PACKAGER='$(PACKAGER)' \
		$$nfpm package --config src/packaging/nfpm.yaml --packager $@ --target .

# The same programs for machines without dpkg and rpm: `tar -C / --strip-components=1 -xzf`
# is `make install`.
FULLNAME = macvlan-vip-$(PKGVERSION)-linux-$(ARCH)
TARRED   = $(abspath $(DIST))/tarball/$(FULLNAME)
TAR      = tar --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$(SOURCE_DATE_EPOCH)

.PHONY: tarball sbom release
tarball: package-root ## Make a tarball of what `make install` installs, in dist/
	rm -rf $(DIST)/tarball
	umask 022 && $(MAKE) -C $(DIST)/src install VERSION='$(PKGVERSION)' DESTDIR=$(TARRED)
	$(TAR) -C $(DIST)/tarball -c $(FULLNAME) | gzip -9n > $(DIST)/$(FULLNAME).tar.gz

sbom: tarball ## Make a bill of materials of the programs, in dist/
	cd $(TARRED) && programs=$$(find . -type f -perm -100 -printf '%P\n' | LC_ALL=C sort) && \
		$(GO) run -C $(CURDIR)/tests/tools ./sbom macvlan-vip '$(PKGVERSION)' $(ARCH) $(CURDIR)/packaging/copyright $(TARRED) $$programs > $(abspath $(DIST))/$(FULLNAME).cdx.json

# As upstream's plugins, but for mips64le.
ARCHES  ?= amd64 arm64 armv7 ppc64le riscv64 s390x
RELEASE := $(DIST)/release

release: ## Make tarballs, packages and bills of materials for ARCHES, with checksums, in dist/release/
	@test -n '$(PKGVERSION)'
	rm -rf $(RELEASE)
	mkdir -p $(RELEASE)
	set -e; version='$(PKGVERSION)'; for arch in $(ARCHES); do dist=$(DIST)/$$arch; \
		$(MAKE) deb rpm tarball sbom ARCH=$$arch DIST=$$dist PKGVERSION="$$version"; \
		mv $$dist/*.deb $$dist/*.rpm $$dist/*.tar.gz $$dist/*.cdx.json $(RELEASE); rm -r $$dist; done
	cd $(RELEASE) && LC_ALL=C sha256sum * > SHA256SUMS

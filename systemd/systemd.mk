# Installing and removing what `make build` and this folder hold.

UNITS  := $(wildcard systemd/*.service systemd/*.socket systemd/*.timer systemd/*.conf)
CONFS  := $(wildcard conf/*.conflist conf/*.md)
DOCS   := LICENSE
DOC    := $(PREFIX)/share/doc/macvlan-vip
# Where shells look for completions.
SHELLS     := $(PREFIX)/share
COMPLETION := bash-completion/completions/systemd-netns zsh/site-functions/_systemd-netns fish/vendor_completions.d/systemd-netns.fish
# What units run, as opposed to people.
LIBEXEC := $(PREFIX)/libexec/macvlan-vip
# One of the folders in which netavark looks for drivers (containers.conf(5)).
NETAVARK := $(PREFIX)/libexec/netavark
# What keeps the host's network managers away from mv-int.
NETWORKD := $(PREFIX)/lib/systemd/network
NMCONF   := $(PREFIX)/lib/NetworkManager/conf.d

# Others install upstream's programs under the same names, on a Kubernetes node for one. A
# file that is not as `make install` put it there is theirs, and stays. SUMS has all that
# it put there, as sha256sum(1) writes it.
UPSTREAMS := $(addprefix $(CNI_BIN)/,$(IPAM)) $(PREFIX)/bin/cnitool
SUMS      := $(SHARE)/upstream.sha256
sum        = $$(sha256sum <"$(DESTDIR)$$file" | cut -d' ' -f1)  $$file
is_ours    = grep -qsxF "$(sum)" "$(DESTDIR)$(SUMS)"

# Files of this folder work as they are, under the default prefix.
fill = sed 's,/usr/local,$(PREFIX),g' $(1) > $(2)

build: $(addprefix bin/completion/,$(COMPLETION))
bin/completion/%: $(GOSOURCES)
	@mkdir -p $(dir $@)
	GOOS= GOARCH= $(GO) run ./systemd/cmd/systemd-netns completion $(word 1,$(subst -, ,$(word 1,$(subst /, ,$*)))) > $@

.PHONY: install uninstall
install: build ## Install the plugins, cnitool, the shim with its units, and the examples
	install -d $(DESTDIR)$(CNI_BIN) $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(LIBEXEC) $(DESTDIR)$(UNITDIR) \
		$(DESTDIR)$(SHARE)/conf $(DESTDIR)$(SHARE)/haproxy.service.d $(DESTDIR)$(DOC) $(DESTDIR)$(NETWORKD) $(DESTDIR)$(NMCONF) $(DESTDIR)$(NETAVARK)
	install -m 755 $(addprefix bin/,$(OURS)) $(DESTDIR)$(CNI_BIN)
	install -m 755 bin/systemd-netns $(DESTDIR)$(PREFIX)/bin
	set -e; for file in $(UPSTREAMS); do \
		if [ -e "$(DESTDIR)$$file" ] && ! $(is_ours); then echo "$(DESTDIR)$$file is not from here, and stays"; continue; fi; \
		install -m 755 "bin/$${file##*/}" "$(DESTDIR)$$file"; \
		$(is_ours) || echo "$(sum)" >>"$(DESTDIR)$(SUMS)"; done
	install -m 755 bin/systemd-netns-helper bin/systemd-netns-watch $(DESTDIR)$(LIBEXEC)
	install -m 755 bin/$(DRIVER) $(DESTDIR)$(NETAVARK)
	set -e; for unit in $(UNITS); do to="$(DESTDIR)$(UNITDIR)/$${unit##*/}"; $(call fill,"$$unit","$$to"); chmod 644 "$$to"; done
	install -m 644 systemd/network/50-mv-int.network $(DESTDIR)$(NETWORKD)
	install -m 644 systemd/network/50-mv-int.conf $(DESTDIR)$(NMCONF)
	install -m 644 $(CONFS) $(DESTDIR)$(SHARE)/conf
	install -m 644 systemd/examples/haproxy.service.d/haproxy.conf $(DESTDIR)$(SHARE)/haproxy.service.d
	set -e; for file in $(COMPLETION); do install -D -m 644 bin/completion/$$file "$(DESTDIR)$(SHELLS)/$$file"; done
	install -m 644 $(DOCS) $(DESTDIR)$(DOC)

uninstall: ## Remove what `make install` installed
	for file in $(UPSTREAMS); do [ ! -e "$(DESTDIR)$$file" ] || ! $(is_ours) || rm -f "$(DESTDIR)$$file"; done
	rm -f $(addprefix $(DESTDIR)$(CNI_BIN)/,$(OURS)) $(DESTDIR)$(PREFIX)/bin/systemd-netns \
		$(addprefix $(DESTDIR)$(UNITDIR)/,$(notdir $(UNITS))) \
		$(addprefix $(DESTDIR)$(SHELLS)/,$(COMPLETION)) \
		$(DESTDIR)$(NETWORKD)/50-mv-int.network $(DESTDIR)$(NMCONF)/50-mv-int.conf $(DESTDIR)$(NETAVARK)/$(notdir $(DRIVER))
	rm -rf $(DESTDIR)$(LIBEXEC) $(DESTDIR)$(SHARE) $(DESTDIR)$(DOC)
	-rmdir $(DESTDIR)$(NETAVARK) $(DESTDIR)$(PREFIX)/libexec $(DESTDIR)$(CNI_BIN) $(DESTDIR)$(dir $(CNI_BIN)) 2>/dev/null

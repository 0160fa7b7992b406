# Installing and removing what `make build` and this folder hold.

UNITS  := $(wildcard systemd/*.service systemd/*.timer systemd/*.conf)
CONFS  := $(wildcard conf/*.conflist conf/*.md)
DOCS   := README.md LICENSE
DOC    := $(PREFIX)/share/doc/macvlan-vip

# Files of this folder work as they are, under the default prefix.
fill = sed 's,/usr/local,$(PREFIX),g' $(1) > $(2)

.PHONY: install uninstall
install: build ## Install the plugins, cnitool, the units and the examples
	install -d $(DESTDIR)$(CNI_BIN) $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec $(DESTDIR)$(UNITDIR) \
		$(DESTDIR)$(SHARE)/conf $(DESTDIR)$(SHARE)/haproxy.service.d $(DESTDIR)$(DOC)
	install -m 755 $(addprefix bin/,$(OURS) $(IPAM)) $(DESTDIR)$(CNI_BIN)
	install -m 755 bin/cnitool $(DESTDIR)$(PREFIX)/bin
	$(call fill,systemd/systemd-netns,$(DESTDIR)$(PREFIX)/libexec/systemd-netns)
	chmod 755 $(DESTDIR)$(PREFIX)/libexec/systemd-netns
	set -e; for unit in $(UNITS); do to="$(DESTDIR)$(UNITDIR)/$${unit##*/}"; $(call fill,"$$unit","$$to"); chmod 644 "$$to"; done
	install -m 644 $(CONFS) $(DESTDIR)$(SHARE)/conf
	install -m 644 systemd/examples/haproxy.service.d/haproxy.conf $(DESTDIR)$(SHARE)/haproxy.service.d
	install -m 644 $(DOCS) $(DESTDIR)$(DOC)

uninstall: ## Remove what `make install` installed
	rm -f $(addprefix $(DESTDIR)$(CNI_BIN)/,$(OURS) $(IPAM)) $(DESTDIR)$(PREFIX)/bin/cnitool \
		$(DESTDIR)$(PREFIX)/libexec/systemd-netns $(addprefix $(DESTDIR)$(UNITDIR)/,$(notdir $(UNITS)))
	rm -rf $(DESTDIR)$(SHARE) $(DESTDIR)$(DOC)
	-rmdir --ignore-fail-on-non-empty -p $(DESTDIR)$(CNI_BIN) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(PREFIX)/libexec 2>/dev/null

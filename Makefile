# SPDX-License-Identifier: GPL-2.0-or-later
# make demo        NFSv3 locks survive a planned move and a power cut, between real kernels
# make demo-naive  the same with the steps that people script by hand: the locks are lost
# make test        what is quick, and a sample of what takes long: 20 to 25 minutes; NLMFO_TESTS=stories or all: more
# make torture     rounds of trouble while clients count under locks; ROUNDS=200 for as long, SEED=... to replay
# make bench       what can be measured, a line each
# make docs        the documentation as HTML and man pages, in docs/build; make man: the man pages only
# make deb         a Debian package of this checkout, in dist/deb
# Each of these installs what it needs (Debian packages, a virtual environment in .venv) and says so.

# The lab makes namespaces and mounts, which needs root.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=NLMFO_TESTS,NLMFO_SEED)
RUN = $(ROOT) .venv/bin/python

demo: setup
	@$(RUN) -m tests.demo.failover

demo-naive: setup
	@$(RUN) -m tests.demo.naive

test: setup-packaging
	@NLMFO_TESTS=$${NLMFO_TESTS:-$(if $(PYTEST),stories,sample)} $(RUN) -m pytest -n 2 --dist worksteal $(PYTEST)

unit: setup
	@$(RUN) -m pytest -n 2 --dist worksteal tests/unit tests/test_linters.py $(PYTEST)

torture: setup
	@$(RUN) -m tests.torture $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(TORTURE)

bench: setup
	@$(RUN) -m tests.bench

docs: html man

# With another Sphinx than that of .venv (make man SPHINX=sphinx-build), nothing is installed.
SPHINX = .venv/bin/python -m sphinx
DOCS = docs/build
html man: $(if $(filter file,$(origin SPHINX)),setup)
	@$(SPHINX) -q -W --keep-going -b $@ -d $(DOCS)/doctrees-$@ docs $(DOCS)/$@

deb: setup-packaging
	@contrib/debian/build dist/deb && ls dist/deb/nlmfo_*.deb

# make install     what goes with the Python package, which comes first: for packages, and after 'pip install .'
# The callout and the resource agent have one place, where they are looked for.
prefix ?= /usr/local
libexecdir ?= /usr/libexec
ocfdir ?= /usr/lib/ocf/resource.d
unitdir ?= $(prefix)/lib/systemd/system
bashdir ?= $(prefix)/share/bash-completion/completions
zshdir ?= $(prefix)/share/zsh/site-functions
fishdir ?= $(prefix)/share/fish/vendor_completions.d
mandir ?= $(prefix)/share/man
NLMFO ?= nlmfo
PAGES = $(wildcard docs/build/man/*.[1-8])

install:
	$(MAKE) -C callouts install libexecdir=$(libexecdir)
	install -D -m 755 contrib/served-here $(DESTDIR)$(libexecdir)/nlmfo/served-here
	install -D -m 755 contrib/ocf/nlmfo $(DESTDIR)$(ocfdir)/nlmfo/nlmfo
	install -d $(addprefix $(DESTDIR),$(unitdir) $(bashdir) $(zshdir) $(fishdir))
	install -m 644 systemd/*.service contrib/prometheus/*.service contrib/prometheus/*.timer $(DESTDIR)$(unitdir)
	install -D -m 644 systemd/nlmfo.tmpfiles $(DESTDIR)$(prefix)/lib/tmpfiles.d/nlmfo.conf
	$(foreach catalog,$(wildcard systemd/*.catalog),install -D -m 644 -t $(DESTDIR)$(prefix)/lib/systemd/catalog $(catalog);)
	$(foreach page,$(PAGES),install -D -m 644 -t $(DESTDIR)$(mandir)/man$(subst .,,$(suffix $(page))) $(page);)
	$(NLMFO) completion bash > $(DESTDIR)$(bashdir)/nlmfo
	$(NLMFO) completion zsh > $(DESTDIR)$(zshdir)/_nlmfo
	$(NLMFO) completion fish > $(DESTDIR)$(fishdir)/nlmfo.fish

setup:
	@tests/setup.sh

setup-packaging:
	@tests/setup.sh --packaging

clean:
	$(ROOT) rm -rf .venv .lab dist callouts/build docs/build .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: demo demo-naive test torture unit bench docs html man deb install setup setup-packaging clean

# SPDX-License-Identifier: GPL-2.0-or-later
# make demo        NFSv3 locks survive a planned move and a power cut, between real kernels
# make demo-naive  the same with the steps that people script by hand: the locks are lost
# make test        everything that can be checked
# make bench       what can be measured, a line each
# Each installs what it needs (Debian packages, a virtual environment in .venv) and says so.

# The lab makes namespaces and mounts, which needs root.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
RUN = $(ROOT) .venv/bin/python

demo: setup
	@$(RUN) -m tests.demo.failover

demo-naive: setup
	@$(RUN) -m tests.demo.naive

test: setup
	@$(RUN) -m pytest -n 2 --dist worksteal $(PYTEST)

unit: setup
	@$(RUN) -m pytest -n 2 --dist worksteal tests/unit tests/test_linters.py $(PYTEST)

bench: setup
	@$(RUN) -m tests.bench

setup:
	@tests/setup.sh

clean:
	$(ROOT) rm -rf .venv .lab callouts/build .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: demo demo-naive test unit bench setup clean

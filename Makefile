# Targets, each complete in itself: it makes the environment that it needs. `make help` lists them.
#
# Two environments: .venv has the runtime set only and PSPF as a user gets it (a wheel); .venv-dev has the
# tools as well, and PSPF installed from this checkout (editable), so that tests see every edit.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first Python of the path that is new enough; `make test PYTHON=python3.12` takes another one.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
SOAK_MINUTES ?= 60
JOBS ?= 2

FAST := -m "not faults and not soak and not slow"
BIN := .venv-dev/bin
# What the wheel is made of.
SOURCES := $(shell find pspf cmds scripts man shell-completions -type f -not -path '*/__pycache__/*' 2>/dev/null)
PIP_QUIET := --quiet --disable-pip-version-check

.PHONY: help demo test faults soak ci-tools lint types generate fresh all-pythons lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

demo: .venv/.pspf ## install PSPF alone, then show it on a day of real flights (one minute)
	PATH="$(CURDIR)/.venv/bin:$$PATH" bash examples/flights/demo.sh

test: .venv-dev/.pspf ## the fast suite, under five minutes
	@scripts/compile $(BIN)/python
	$(BIN)/python -m pytest -n $(JOBS) $(FAST)

faults: .venv-dev/.pspf ## crashes, kills and injected errors, with the figures
	@scripts/compile $(BIN)/python
	$(BIN)/python -m pytest -n $(JOBS) -m faults -rP --timeout=1200

soak: .venv-dev/.pspf ## the same with the large figures, for SOAK_MINUTES=60 and on from there the next time
	@scripts/compile $(BIN)/python
	SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python -m tests.soak --jobs $(JOBS)

ci-tools: ## the Debian packages that tests use
	@scripts/ci-tools

lint: .venv-dev/.pspf ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv-dev/.pspf ## mypy, strict
	$(BIN)/mypy

generate: .venv-dev/.pspf ## option table, man pages and completions from the commands
	$(BIN)/python -m pspf.cli.generate

fresh: .venv-dev/.pspf ## fail when something generated is not what `make generate` would write
	$(BIN)/python -m pspf.cli.generate --check

all-pythons: ## the fast suite on every other Python at hand
	@JOBS=$(JOBS) scripts/all-pythons

lock: ## pin the dependencies of pyproject.toml anew
	@PYTHON=$(PYTHON) scripts/lock

clean: ## remove environments, bytecode and what tests left
	rm -rf .venv .venv-dev .venvs .test-data .soak .hypothesis .mypy_cache .ruff_cache .pytest_cache build dist
	find pspf cmds tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than what it was made from, so that nothing is installed twice. Each environment is made
# from nothing: a half-made one has no stamp, and the next run begins again.

.venv/.deps: requirements.txt requirements-build.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found; say PYTHON=..." >&2; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install $(PIP_QUIET) --require-hashes -r requirements.txt -r requirements-build.txt
	touch $@

.venv/.pspf: .venv/.deps pyproject.toml README.md LICENSE $(SOURCES)
	.venv/bin/python -m pip install $(PIP_QUIET) --force-reinstall --no-deps --no-build-isolation --no-index .
	scripts/compile .venv/bin/python --installed
	touch $@

.venv-dev/.deps: requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found; say PYTHON=..." >&2; exit 1; }
	rm -rf .venv-dev
	$(PYTHON) -m venv .venv-dev
	$(BIN)/python -m pip install $(PIP_QUIET) --require-hashes -r requirements-dev.txt
	touch $@

# Editable: only what decides about the installed files brings it here again.
.venv-dev/.pspf: .venv-dev/.deps pyproject.toml scripts/pspf
	$(BIN)/python -m pip install $(PIP_QUIET) --no-deps --no-build-isolation --no-index -e .
	scripts/compile $(BIN)/python
	touch $@

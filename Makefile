# The only front door: `make` prints what it can do.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
RUN := $(BIN)/python
READY := .venv/.ready
SOURCES := slipway flows tasks blocks tests benchmarks

.PHONY: help demo down test test-unit test-browser soak check lock bench clean setup

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(READY) ## install everything into .venv (the other targets do it by themselves)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Slipway needs Python 3.11, 3.12 or 3.13; {sys.executable} is {v.major}.{v.minor}. Set PYTHON=/path/to/python3.11")'
	@test -x $(UV) || { echo "installing uv into .uv"; $(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv; }
	@test -x $(RUN) || $(UV) venv --quiet --python $(PYTHON) .venv
	@echo "installing the locked packages into .venv"
	@$(UV) pip sync --quiet --require-hashes --compile-bytecode --python $(RUN) requirements.lock || { \
		echo "the packages were not installed; if they could not be fetched, check the network and the"; \
		echo "package index, then run make again: it goes on where it was. If a proxy brings certificates"; \
		echo "of its own (\"invalid peer certificate\"): export UV_SYSTEM_CERTS=1"; exit 1; }
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(RUN) --editable .
	@touch $(READY)

demo: $(READY) ## sandbox up, three releases of a real model and one under load, a closing table
	@$(RUN) -m slipway.cli demo

down: $(READY) ## stop the sandbox; its data stay
	@$(RUN) -m slipway.cli sandbox down

test: $(READY) ## every test, the end-to-end ones on a sandbox of their own
	@# Side by side, one output after the other: most of it waits more than it computes.
	@mkdir -p build; \
	$(RUN) -m pytest -q tests/contract tests/flow > build/test-contract-flow.log 2>&1 & other=$$!; \
	trap 'kill $$other 2>/dev/null' INT TERM; \
	$(RUN) -m pytest -q tests/unit tests/property || { kill $$other; wait $$other; exit 1; }; \
	$(RUN) -m tests.e2e.lanes; e2e=$$?; \
	wait $$other; rest=$$?; \
	echo "tests/contract and tests/flow:"; cat build/test-contract-flow.log; \
	exit $$((e2e > rest ? e2e : rest))

test-unit: $(READY) ## only the tests that need no process
	@SLIPWAY_SCHEDULES=200 $(RUN) -m pytest -q tests/unit tests/property

test-browser: $(READY) ## a release from Prefect's UI in a real browser (Debian's chromium must be installed)
	@$(UV) pip install --quiet --require-hashes --python $(RUN) --requirement requirements-browser.lock
	@$(RUN) -m pytest -q -p no:randomly tests/browser

soak: $(READY) ## the full matrix; long
	@SLIPWAY_SOAK=1 $(RUN) -m pytest -q tests/unit tests/property tests/contract tests/flow
	@SLIPWAY_SOAK=1 $(RUN) -m tests.e2e.lanes
	@$(RUN) -m tests.kill_matrix
	@$(RUN) -m tests.simulation --soak
	@$(RUN) -m tests.simulation.mutants --further
	@$(RUN) -m tests.mutations

check: $(READY) ## format, lint, types, layers, dependencies, spelling, coverage of the core
	@$(BIN)/ruff format --check --quiet $(SOURCES) || { echo "run: .venv/bin/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/deptry .
	@$(BIN)/codespell $(SOURCES) docs README.md CONTRIBUTING.md CHANGELOG.md
	@SLIPWAY_SCHEDULES=200 $(RUN) -m coverage run --source=slipway/core,slipway/manifests -m pytest -q -p no:randomly tests/unit tests/property
	@$(RUN) -m coverage report --fail-under=100

lock: $(READY) ## write requirements.lock anew
	@$(UV) pip compile --quiet --universal --extra sandbox --extra dev --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml -o requirements.lock
	@$(UV) pip compile --quiet --universal --extra browser --constraint requirements.lock --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml -o requirements-browser.lock
	@$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml -o requirements-production.lock

bench: $(READY) ## measure Slipway against its peers
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(RUN) $$script || exit 1; done

clean: ## remove what the targets above made in this folder
	rm -rf build .venv .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage

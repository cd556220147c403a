# Every target sets up what it needs in .venv; a second call installs nothing.
PYTHON ?= python3
BIN := .venv/bin

# A target that failed half-way would count as made.
.DELETE_ON_ERROR:

# Tests start hundreds of programs, which read the package compiled, also where the environment forbids to keep it so.
test test-all: export PYTHONDONTWRITEBYTECODE =

.PHONY: train test test-all check dist docs
train: .venv/installed
	$(BIN)/onespike train --recipe digits

# Lint, types, import contracts, and every test that is not marked slow.
test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not slow"

# The same, and the slow tests. A fifth of the time these wait for what they started, so two cores take three processes.
test-all: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal

# The site, in site/: a warning, or a link that leads nowhere, is an error.
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The wheel and the source distribution, in dist/, as an index takes them.
dist: .venv/installed-dev
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/twine check --strict dist/*

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onespike needs Python 3.11 or newer; say which with: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ .venv/installed

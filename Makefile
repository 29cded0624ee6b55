# `make test` and `make demo` each set up .venv by themselves.
#   make test                     lint, types, tests
#   make test PYTHON=python3.12   with another interpreter (3.11 or newer)
#   make demo                     watermark the shipped decoder, attack its images, detect them
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEV_STAMP := $(VENV)/.installed-dev
DEMO_STAMP := $(VENV)/.installed-train

.PHONY: test lint types unit slow demo clean
.DELETE_ON_ERROR:

test: lint types unit

lint: $(DEV_STAMP)
	$(BIN)/ruff check .

types: $(DEV_STAMP)
	$(BIN)/mypy

unit: $(DEV_STAMP)
	$(BIN)/python -m pytest

slow: $(DEV_STAMP)
	$(BIN)/python -m pytest -m slow

# demo-out holds nothing but what this target wrote before.
demo: $(DEMO_STAMP)
	rm -rf demo-out
	$(BIN)/stablesig demo --out demo-out

# The environment is made anew when its interpreter is gone, and installed into again when a requirement changes.
# pip 25.1 is the first that reads dependency groups.
define make-venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'stablesig needs Python 3.11 or newer; say which: make PYTHON=python3.12' >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) --upgrade 'pip>=25.1'
endef

$(DEV_STAMP): pyproject.toml constraints.txt
	$(make-venv)
	$(PIP) --group dev --editable '.[train,hub,sign,heif,c2pa,scan,scan-ray]'
	@touch $@

$(DEMO_STAMP): pyproject.toml constraints.txt
	$(make-venv)
	$(PIP) --editable '.[train]'
	@touch $@

clean:
	rm -rf $(VENV) demo-out build dist .mypy_cache .pytest_cache .ruff_cache

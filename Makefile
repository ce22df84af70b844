# Everything is made in .venv: real ROS 2 from PyPI, no ROS installation needed (x86-64 Linux).
# On a robot with a ROS distribution use colcon instead; see README.md.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
LOG := $(VENV)/setup.log
EXTRAS := ros-wheels,test
# Alone: it asks for torchvision, which does not fit the CPU's torch, and needs nothing of it here.
PEER := depth-estimation==0.1.3

# The guard of ros-wheels-bootstrapper: inherited from another environment's Python it would keep
# ours from finding its libraries.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
# A sourced ROS distribution must not mix with the wheels.
ifdef AMENT_PREFIX_PATH
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH
unexport RMW_IMPLEMENTATION ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION
endif

# `make PYTHON=/path/to/python3.12 setup` chooses one; otherwise the first that fits.
PYTHON ?=
PYTHONS := python3 python3.13 python3.12 python3.11 python3.10
FITS := import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))

# Runs a pip command quietly: $(1) what is being done, $(2) pip arguments.
define pip
	@echo "$(1)"
	@$(BIN)/python -m pip --disable-pip-version-check install $(2) >>$(LOG) 2>&1 || \
		{ tail -n 25 $(LOG); echo "make: failed at: $(1) (whole log: $(LOG))" >&2; exit 1; }
endef

INSTALLED := setup.py pyproject.toml MANIFEST.in CMakeLists.txt package.xml vggt_ros/__init__.py \
	$(shell find cmake msg srv scripts launch config third_party -type f 2>/dev/null)

# colcon gets an environment with everything but vggt_ros, so that its own build is what is tested.
COLCON_VENV := .venv-colcon

.PHONY: help setup demo test test-slow lint type format bench soak docs colcon clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | \
		expand -t 20

setup: $(VENV)/.installed  ## create .venv with everything in it

demo: $(VENV)/.installed  ## replay four cameras through real nodes; results in demo_out/
	@$(BIN)/vggt-ros demo --out demo_out

test: $(VENV)/.installed  ## quick tests
	@$(BIN)/python -m pytest

test-slow: $(VENV)/.installed  ## slow tests
	@$(BIN)/python -m pytest -m slow

lint: $(VENV)/.linters  ## ruff: rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.linters  ## ruff: mend what it can, format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

type: $(VENV)/.linters $(VENV)/.installed  ## mypy
	@$(BIN)/mypy

bench: $(VENV)/.installed  ## measure again what bench/ states
	@$(BIN)/python -m bench

MINUTES ?= 10
soak: $(VENV)/.installed  ## the mapper for MINUTES (10): memory, latency, lifecycle; out/soak.json
	@$(BIN)/python -m bench.soak --minutes $(MINUTES)

docs: $(VENV)/.installed  ## write config/default.yaml, docs/parameters.md and diagnostics.md anew
	@$(BIN)/python -m vggt_ros.cli.generate

colcon: $(COLCON_VENV)/.colcon  ## colcon build and colcon test against the wheels
	@bash cmake/colcon_with_wheels.sh $(COLCON_VENV)

clean:  ## remove everything that make has made
	rm -rf $(VENV) $(COLCON_VENV) build install log dist demo_out vggt_ros.egg-info
	rm -rf vggt_ros/msg vggt_ros/srv vggt_ros/vggt_ros_s__*.so
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@python=; for p in $(or $(PYTHON),$(PYTHONS)); do \
		if command -v $$p >/dev/null && $$p -c '$(FITS)' 2>/dev/null; then python=$$p; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "make: Python 3.10 to 3.13 is needed; found $$($(or $(PYTHON),python3) --version 2>/dev/null || echo none)." \
			"Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "make: $$python has no venv module: sudo apt install python3-venv" >&2; exit 1; fi; \
	echo "creating $(VENV) with $$($$python --version)"; \
	rm -rf $(VENV); $$python -m venv $(VENV)
	@touch $@

$(VENV)/.linters: pyproject.toml | $(VENV)/.made
	@$(BIN)/python cmake/requirements.py lint >$(VENV)/lint.txt
	$(call pip,installing the linters,-r $(VENV)/lint.txt)
	@touch $@

# The build requirements go into .venv and the package is built there without isolation: pip's own
# temporary build environment would install all of them again at every change.
$(VENV)/.ros: pyproject.toml | $(VENV)/.made
	@command -v $${CXX:-c++} >/dev/null || { \
		echo "make: no C++ compiler: sudo apt install build-essential" >&2; exit 1; }
	@$(BIN)/python cmake/requirements.py build >$(VENV)/build.txt
	$(call pip,installing the ROS 2 wheels,-r $(VENV)/build.txt)
	@touch $@

$(VENV)/.installed: $(VENV)/.ros $(INSTALLED)
	$(call pip,building the interfaces and installing vggt_ros (about a minute the first time),--no-build-isolation -e '.[$(EXTRAS)]')
	$(call pip,installing the VGGT that ours is compared with,--no-deps $(PEER))
	@touch $@

$(COLCON_VENV)/.colcon: pyproject.toml
	@$(MAKE) --no-print-directory VENV=$(COLCON_VENV) $(COLCON_VENV)/.ros
	@$(COLCON_VENV)/bin/python cmake/requirements.py run ros-wheels test colcon >$(COLCON_VENV)/all.txt
	@echo "installing colcon and what vggt_ros depends on"
	@$(COLCON_VENV)/bin/python -m pip --disable-pip-version-check install \
		-r $(COLCON_VENV)/all.txt >>$(COLCON_VENV)/setup.log 2>&1 || { tail -n 25 $(COLCON_VENV)/setup.log; exit 1; }
	@touch $@

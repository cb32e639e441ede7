# Everything a developer needs. On a fresh machine `make demo` and `make test` do all set-up by themselves.
#
#   make demo                      a real training is killed, resumed and finished, on this machine, in a few minutes
#   make demo PYTHON=/env/bin/python   the same with your own environment that has ultralytics
#   make test                      the tests (a few minutes)
#   make test-all                  also the slow ones
#   make lint                      ruff, mypy
#   make bench                     the figures of the README
#   make tools                     rsync, ssh, sshd and rclone for backups and their tests, where they can be installed

HOST_PYTHON ?= python3
VENV        := .venv
TRAIN_VENV  := .venv-train
TORCH       := torch==2.13.0
ULTRALYTICS := ultralytics-opencv-headless==8.4.190
OTHER       := 8.3.253
JOBS        ?= 2

# An environment of one's own saves the set-up of the trainings' environment.
ifdef PYTHON
TRAIN_PYTHON := $(PYTHON)
TRAIN_READY  :=
else
TRAIN_PYTHON := $(CURDIR)/$(TRAIN_VENV)/bin/python
TRAIN_READY  := $(TRAIN_VENV)/.ready
endif
export YOLO_SUPERVISOR_TRAIN_PYTHON := $(TRAIN_PYTHON)
ifndef PYTHON
# A second version for the tests, on the same torch; its package alone.
export YOLO_SUPERVISOR_OTHER_ULTRALYTICS := $(CURDIR)/$(TRAIN_VENV)/ultralytics-$(OTHER)
endif

.PHONY: demo test test-all lint bench clean setup tools
.DEFAULT_GOAL := test

setup: tools $(VENV)/.ready $(TRAIN_READY)

# Programs, not packages of Python. Asked each time, for they may be removed; it says what is missing and never fails.
tools:
	@tests/tools.sh

$(VENV)/.ready: pyproject.toml
	@echo "== setting up $(VENV): the daemon and the developer's tools"
	test -x $(VENV)/bin/python || $(HOST_PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# The trainings' own environment. Without a GPU: CPU torch, and a small stand-in for torchvision, of which no CPU build
# is published; it is for tests and the demo only.
$(TRAIN_VENV)/.ready: Makefile $(wildcard tests/torchvision_standin/*.toml tests/torchvision_standin/*/*.py)
	@echo "== setting up $(TRAIN_VENV): torch and ultralytics for the trainings (about 1.4 GB, a minute or two)"
	test -x $(TRAIN_VENV)/bin/python || $(HOST_PYTHON) -m venv $(TRAIN_VENV)
	if [ -e /dev/nvidiactl ]; then \
	  $(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch torchvision ultralytics; \
	else \
	  $(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) && \
	  $(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps ./tests/torchvision_standin && \
	  $(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(ULTRALYTICS); \
	fi
	$(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps tensorboard protobuf absl-py
	$(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(TRAIN_VENV)/ultralytics-$(OTHER) ultralytics==$(OTHER)
	touch $@

demo: setup
	$(VENV)/bin/python tests/demo.py --python $(TRAIN_PYTHON)

test: setup lint
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

test-all: setup lint
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: setup
	$(VENV)/bin/python -m benchmarks.daemon

clean:
	rm -rf $(VENV) $(TRAIN_VENV) .mypy_cache .ruff_cache .hypothesis demo-out build dist *.egg-info

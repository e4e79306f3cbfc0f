# `make repro` runs the pipeline, `make test` the tests; both make the environment first.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
UV_VERSION := 0.13.8
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Python keeps its compiled files, whatever the shell's setting: compiling torch and mlflow costs 10 s a
# process
unexport PYTHONDONTWRITEBYTECODE
# nothing leaves the machine
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = true
export DVC_NO_ANALYTICS = 1

.PHONY: help env repro test test-fast soak lint docs lock bench ui clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

env: .venv/installed  ## the environment in .venv, from requirements.lock

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cdkd needs Python 3.11 or newer; this is " \
		+ sys.version.split()[0] + " (make PYTHON=... names another)")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --system-certs --compile-bytecode --python $(BIN)/python \
		--require-hashes --requirement requirements.lock
	$(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python --no-deps --editable .
	@touch $@

repro: env  ## run the pipeline on the active experiment, and print its tables
	@git rev-parse --git-dir >/dev/null 2>&1 || dvc config --local core.no_scm true
	dvc repro
	@cdkd show

test: env  ## run the tests
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: env  ## run the quick tests: a verdict in about two minutes on two cores
	python -m pytest -n 2 -m "not slow"

soak: env  ## kill and resume runs, compare, and read damaged files for MINUTES (5), from SEED (0)
	python -m tests.soak --minutes $(or $(MINUTES),5) --seed $(or $(SEED),0)

lint: env  ## formatting, lint and types
	ruff format --check .
	ruff check .
	mypy
	hadolint Dockerfile

docs: export NO_MKDOCS_2_WARNING = 1
docs: env  ## the documentation site, in site/
	mkdocs build --quiet --strict

lock: env  ## resolve requirements.lock anew
	uv pip compile --quiet --system-certs --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-header pyproject.toml --output-file requirements.lock

bench: env  ## measure training against the usual loop, and what the pipeline costs around it
	python -m benchmarks.run
	python -m benchmarks.ours --students 8 --parts
	python -m benchmarks.overhead
	python -m benchmarks.picture

ui: env  ## open MLflow on 127.0.0.1
	cdkd ui

clean:  ## remove the environment, the store and everything generated but the reports
	rm -rf .venv .cdkd code data runs site build dist .dvc/cache .dvc/tmp

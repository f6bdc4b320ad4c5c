# One command per task; `make` alone prints this list.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BACKEND ?= tensorflow
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml gnsmall_keras/__init__.py

.PHONY: help quickstart test browser mcu lint types results notebooks bench clean

help: ## print this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Each stamp is one set of extras in the one environment.
$(BIN)/python:
	@echo "== making $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gnsmall_keras needs Python 3.11 to 3.13; set PYTHON=python3.x")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/export.stamp: $(SOURCES) | $(BIN)/python
	@echo "== installing the package with TensorFlow and the runtimes (about 700 MB, minutes)"
	@$(PIP) install --quiet --editable '.[export]'
	@touch $@

$(VENV)/test.stamp: $(SOURCES) | $(BIN)/python
	@echo "== installing the package with the test and lint tools (about 900 MB, minutes)"
	@$(PIP) install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/browser.stamp: $(SOURCES) | $(BIN)/python
	@echo "== installing the package with JupyterLab and Playwright (about 1 GB, minutes)"
	@$(PIP) install --quiet --editable '.[browser]'
	@touch $@

$(VENV)/mcu.stamp: $(SOURCES) | $(BIN)/python
	@echo "== installing the package with the runtimes and CMSIS-NN's sources (about 700 MB, minutes)"
	@$(PIP) install --quiet --editable '.[mcu]'
	@touch $@

quickstart: $(VENV)/export.stamp ## train, fuse, quantise and check a network
	@echo "== gnsmall quickstart"
	@$(BIN)/gnsmall quickstart

test: $(VENV)/test.stamp ## run all tests, on every installed backend
	@$(BIN)/python tests/run.py

tflite/web/node_modules: tflite/web/package.json
	@echo "== installing LiteRT.js (50 MB)"
	@npm install --silent --no-audit --no-fund --prefix tflite/web
	@touch $@

# Needs Chromium and npm: on Debian, apt-get install chromium npm.
browser: $(VENV)/browser.stamp tflite/web/node_modules ## test notebooks in JupyterLab, the report's page and tflite/web
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python -m pytest -m browser tests/browser
	@echo "== screenshots are in tests/browser/screenshots"

# On Debian: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm.
mcu: $(VENV)/mcu.stamp ## run the published files on an emulated Cortex-M4
	@$(BIN)/python benchmarks/cortex_m4.py

lint: $(VENV)/test.stamp types ## check style, notebooks' pairing and types
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== notebooks and their .py files agree"
	@$(BIN)/python -m pytest -q tests/notebooks -k agrees

types: $(VENV)/test.stamp ## check types
	@echo "== pyright"
	@$(BIN)/pyright

STUDIES := $(addprefix papermill_runs/sweeps/,study_cpu_selection.toml study_cpu.toml study_cpu_paper.toml study_gpu_widths.toml)
results: $(VENV)/test.stamp ## write README's and the study's results from the records
	@$(BIN)/gnsmall report --readme README.md
	@$(BIN)/gnsmall report --study $(STUDIES) --readme docs/study.md

notebooks: $(VENV)/test.stamp ## bring notebooks and their .py files together
	@$(BIN)/jupytext --sync notebooks/*.py

# BACKEND: tensorflow, torch or jax (minutes of compiling).
bench: $(VENV)/test.stamp ## print speed and memory as ratios, on BACKEND
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python benchmarks/train_step.py
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python benchmarks/train_step.py memory
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python benchmarks/input_pipeline.py

clean: ## remove the environment and all caches
	rm -rf $(VENV) .pytest_cache .ruff_cache

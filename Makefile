# One command per task; `make` alone prints this list.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BACKEND ?= tensorflow
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml gnsmall_keras/version.py
LOCKS := export dev
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
  --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
  --custom-compile-command 'make lock' --upgrade pyproject.toml

.PHONY: help quickstart test test-all mutants fuzz kills native-check browser mcu lint types lock outdated results notebooks gallery docs bench clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Each stamp is one set of extras in the one environment.
$(BIN)/python:
	@echo "== making $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gnsmall_keras needs Python 3.11 to 3.13; set PYTHON=python3.x")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/export.stamp: $(SOURCES) requirements/export.txt | $(BIN)/python
	@echo "== installing the package with TensorFlow and the runtimes (about 700 MB, minutes)"
	@requirements/install.sh $(BIN)/python export
	@touch $@

$(VENV)/test.stamp: $(SOURCES) requirements/dev.txt | $(BIN)/python
	@echo "== installing the package with the test and lint tools (about 900 MB, minutes)"
	@requirements/install.sh $(BIN)/python dev
	@touch $@

$(VENV)/browser.stamp: $(SOURCES) | $(BIN)/python
	@echo "== installing the package with JupyterLab and Playwright (about 1 GB, minutes)"
	@$(PIP) install --quiet --editable '.[browser]'
	@touch $@

$(VENV)/docs.stamp: $(SOURCES) | $(BIN)/python
	@echo "== installing the package with Sphinx (about 700 MB, minutes)"
	@$(PIP) install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/mcu.stamp: $(SOURCES) | $(BIN)/python
	@echo "== installing the package with the runtimes and CMSIS-NN's sources (about 700 MB, minutes)"
	@$(PIP) install --quiet --editable '.[mcu]'
	@touch $@

quickstart: $(VENV)/export.stamp ## train, fuse, quantise and check a network
	@echo "== gnsmall quickstart"
	@$(BIN)/gnsmall quickstart

test: $(VENV)/test.stamp ## run the tests, on every installed backend (minutes)
	@$(BIN)/python tests/run.py

test-all: $(VENV)/test.stamp ## run all tests, slow ones too, on all backends
	@$(BIN)/python tests/run.py --all

mutants: $(VENV)/test.stamp ## show that the tests notice seeded faults
	@$(BIN)/python tests/mutants/run.py

COUNT ?= 50
SEED ?= 0
fuzz: $(VENV)/test.stamp ## read COUNT damaged files of each kind, from SEED on
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python tests/fuzz/run.py $(COUNT) $(SEED)

kills: $(VENV)/test.stamp ## kill trainings, sweeps and exports COUNT times each, and run them again
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python tests/kills/run.py $(COUNT) $(SEED)

# Compiled anew each time, a minute or two on one core.
CXX ?= c++
NATIVE := gnsmall_keras/native/src
native-check: ## run the native kernels' cases under the sanitizers
	@folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && \
	$(CXX) -std=c++17 -O1 -g -march=native -pthread \
	  -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	  -I$(NATIVE) $(NATIVE)/*.cc $(NATIVE)/*/*.cc tests/native/runner.cc -o "$$folder/runner" && \
	"$$folder/runner" tests/native/cases.txt

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

lock: $(VENV)/test.stamp ## write requirements/*.txt anew, with the newest versions
	@for extra in $(LOCKS); do $(COMPILE) --extra $$extra -o requirements/$$extra.txt; done

outdated: $(VENV)/test.stamp ## name locked versions (<) that have newer ones (>)
	@folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && \
	$(COMPILE) --extra dev -o "$$folder/dev.txt" >/dev/null && \
	diff <(grep == requirements/dev.txt) <(grep == "$$folder/dev.txt") | grep '^[<>]' || echo "All locked versions are the newest."

STUDIES := $(addprefix papermill_runs/sweeps/,study_cpu_selection.toml study_cpu.toml study_cpu_paper.toml study_gpu_widths.toml)
LONG := papermill_runs/sweeps/study_long.toml papermill_runs/sweeps/study_long_selection.toml
results: $(VENV)/test.stamp ## write README's table, the docs' results and the cards from the records
	@$(BIN)/gnsmall report --networks README.md
	@$(BIN)/gnsmall benchmark --board --out docs/board.md > /dev/null
	@$(BIN)/python tflite/write_cards.py > /dev/null
	@$(BIN)/gnsmall report --readme docs/results.md
	@$(BIN)/gnsmall report --study $(STUDIES) --readme docs/study-pilot.md
	@$(BIN)/gnsmall report --study $(LONG) --readme docs/study.md

# Fetches nothing; a warning is an error.
docs: $(VENV)/docs.stamp ## build the documentation site, build/docs/index.html
	@$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs . build/docs
	@echo "== open build/docs/index.html"

notebooks: $(VENV)/test.stamp ## bring notebooks and their .py files together
	@$(BIN)/jupytext --sync notebooks/*.py

gallery: $(VENV)/test.stamp ## execute the notebooks into papermill_runs/gallery
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python papermill_runs/make_gallery.py

# BACKEND: tensorflow, torch or jax (minutes of compiling).
bench: $(VENV)/test.stamp ## print speed and memory as ratios, on BACKEND
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python benchmarks/train_step.py
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python benchmarks/train_step.py memory
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python benchmarks/native.py
	@KERAS_BACKEND=$(BACKEND) $(BIN)/python benchmarks/input_pipeline.py

clean: ## remove the environment and all caches
	rm -rf $(VENV) .pytest_cache .ruff_cache

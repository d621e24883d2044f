# What people do with a checkout; scripts/ has what takes more than a line.

PYTHON ?= python3
VENV ?= .venv
SCALE ?= full
RESULTS ?= .cache/bench/$(SCALE)-results
DOCS ?= $(RESULTS)
TREES ?= 20000
STOPS ?= 1000
FAULTS ?= every
CUTS ?= 300
ROUNDS ?= 20
PULLS ?= 100
INPUTS ?= 1000000
SEED ?= $(shell date +%s)
BIN := $(VENV)/bin
STAMP := $(VENV)/.built
SOURCES := $(wildcard csrc/*.[ch] csrc/*.py csrc/*/*.h) pyproject.toml setup.py

.DEFAULT_GOAL := help
.PHONY: help build demo check kernel torture fuzz lint test bench format clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(STAMP) ## virtual environment with the package and its tools

$(STAMP): $(SOURCES)
	@scripts/venv.sh "$(PYTHON)" "$(VENV)"
	@touch $@

demo: build ## a sample image: import, listing, digest
	@scripts/demo.sh "$(BIN)"

check: ## all that CI checks: format, lint, types, layers, tests, C, packages, kernels
	@scripts/install-tools.sh
	@$(MAKE) --no-print-directory build
	@scripts/check.sh "$(BIN)"

kernel: ## the tests that need fs-verity and mounts, on three Debian kernels under emulation
	@scripts/install-tools.sh
	@$(MAKE) --no-print-directory build
	@$(BIN)/python -m tests.kernel.lab test

torture: ## stops, faults, power cuts, races, pulls, hostile inputs (hours); STOPS=1000 FAULTS=every CUTS=300 ROUNDS=20 PULLS=100 INPUTS=1000000
	@scripts/install-tools.sh
	@$(MAKE) --no-print-directory build
	@scripts/torture.sh "$(BIN)" "$(STOPS)" "$(FAULTS)" "$(CUTS)" "$(ROUNDS)" "$(PULLS)" "$(INPUTS)" "$(SEED)"

fuzz: build ## hostile inputs for every parser, and random file systems; INPUTS=1000000 TREES=20000
	@scripts/fuzz-tools.sh "$(BIN)"
	$(BIN)/python -m tests.fuzz --count $(INPUTS) --seed $(SEED)
	@scripts/fuzz-trees.sh "$(BIN)" $(TREES)

lint: build ## format, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: build ## the tests in Python
	$(BIN)/python -m pytest

bench: build ## compare with cfsctl, tables and plots; SCALE=full, medium or small (minutes); RESULTS=DIR DOCS=DIR
	$(BIN)/python bench/micro/hashes.py --out $(RESULTS)/kernels.json
	$(BIN)/python bench/macro.py --scale $(SCALE) --runs 5 3 --out $(RESULTS)/macro.json
	$(BIN)/python bench/scaling.py --scale $(SCALE) --out $(RESULTS)/scaling.json
	$(BIN)/python bench/slow.py --scale $(if $(filter full,$(SCALE)),medium,small) --out $(RESULTS)/slow.json
	$(BIN)/python bench/pull.py --scale $(SCALE) --out $(RESULTS)/pull.json
	$(BIN)/python bench/kernel.py --out $(RESULTS)/kernel.json
	$(BIN)/python bench/document.py $(RESULTS) $(DOCS)

format: build ## put the code into its form
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## remove what was built
	rm -rf build dist $(VENV) composefs/_cfs*.so composefs.egg-info

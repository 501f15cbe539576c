# Everything runs in .venv, which `make setup` builds; nothing is installed elsewhere except, as root on
# Debian, PETSc and the libraries for off-screen drawing. tools/environment.py says which variables it heeds.

# An environment once built keeps its python.
PYTHON ?= $(or $(wildcard .venv/bin/python3),python3)
BIN := .venv/bin
RUNS ?= runs

.PHONY: help setup cloak cloak-full-scale cloak-small test test-all test-wheel test-oldest torture lint docs format doctor clean

help:
	@echo "make setup        build .venv (minutes the first time, nothing the second)"
	@echo "make cloak        set up, then run the flagship case into $(RUNS)/cloak"
	@echo "make cloak-full-scale  the same, corrected by its full-scale solution at 16 voxels a cell's edge: long"
	@echo "make cloak-small  the same on a coarse grid, in under a minute"
	@echo "make test         set up, then run the tests; test-all adds the slow ones"
	@echo "make test-wheel   build the wheel and use it in an empty environment"
	@echo "make test-oldest  the tests with the oldest releases that pyproject.toml allows"
	@echo "make torture      kills, damaged files, full disks, wrong input: a table of what survived"
	@echo "make lint         set up, then check style, types and the import contract"
	@echo "make docs         set up, then build the web pages into build/docs, running every example"
	@echo "make doctor       versions, and what is missing with the command that mends it"
	@echo "make clean        remove caches of tools; never results, never .venv"

setup:
	@$(PYTHON) tools/environment.py

cloak: setup
	$(BIN)/multiscale run cases/cloak.toml --out $(RUNS)/cloak

# Long: three solves of 66 million voxels, two more for the rounds.
cloak-full-scale: setup
	$(BIN)/multiscale run cases/cloak.toml --out $(RUNS)/cloak_full_scale --voxels-per-cell 16 --rounds 2

cloak-small: setup
	$(BIN)/multiscale run cases/cloak_small.toml --out $(RUNS)/cloak_small

# Files of tests are shared out over the cores (tests/conftest.py: one thread each).
test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-all: setup
	$(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

test-wheel: setup
	$(BIN)/python tools/installed.py wheel

test-oldest: setup
	$(BIN)/python tools/installed.py oldest $(ARGS)

torture: setup
	$(BIN)/python tests/torture.py $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A warning is an error; all of them are shown first.
docs: setup
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

doctor: setup
	$(BIN)/multiscale doctor

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	rm -rf docs/auto_examples docs/case-reference.md docs/sg_execution_times.rst
	find docs micro multiscale tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

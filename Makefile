# make demo: the whole workflow on simulated cells.   make test: all checks.   make check: the quick part of them.
# make docs: the documentation site, in site/.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   ?= demo-out
CODE   := src benchmarks research tests docs

.PHONY: setup demo docs check test format clean

setup: $(VENV)/.installed
	@echo "cytoloc is installed in $(VENV). Next: 'make demo' shows what it does; '$(BIN)/cytoloc --help' lists all commands."

# Installed once, and again when what is installed changes.
$(VENV)/.installed: Makefile pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[nets,tune,engines,export,cells,embed,cloud,ray,formats,duplicates,fetch,mlflow,serve,napari,docs,dev]'
	@touch $@ $(VENV)/.docs

demo: $(VENV)/.installed
	$(BIN)/cytoloc demo --out $(DEMO)

# The site needs neither PyTorch nor the tools for tests. No --quiet here: it hides the warnings that --strict counts.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "The site is in site/. To look at it: $(BIN)/python -m http.server --directory site"

$(VENV)/.docs: Makefile pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

# Two workers on two cores, so a thread each: more only get in each other's way. Each begins with a half of the tests, in
# order, so that the fixtures of a module or folder are mostly made once.
check: $(VENV)/.installed
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy src benchmarks tests docs/hooks
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n 2 --dist worksteal

test: $(VENV)/.installed
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy src benchmarks tests docs/hooks
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

format: $(VENV)/.installed
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache

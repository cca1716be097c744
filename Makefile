# One verb for each thing that a person does here. Everything happens in .venv; PYTHON picks the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*)
MODEL ?= stories

.PHONY: run test check check-native check-arm64 format features api bench wheel clean

run: $(VENV)/.installed  ## stream a story from the bundled model; chat on a terminal
	@$(BIN)/headrace run $(MODEL)

test: $(VENV)/.test $(VENV)/.clients  ## everything that proves the code, in parallel
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov=headrace --cov-fail-under=90 --cov-report=

check: $(VENV)/.check  ## formatter, linter, types, layers, stub of the compiled module
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/stubtest headrace._core --ignore-disjoint-bases --allowlist csrc/stubtest.txt

check-native: $(VENV)/.test  ## tests of operations under the address and undefined-behaviour sanitizers; 5 minutes
	tests/native/sanitized.sh $(BIN)/python

check-arm64:  ## the arm64 kernels under emulation, bit for bit beside AVX2's
	tests/native/arm64.sh

format: $(VENV)/.check  ## what `check` wants, done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

features: $(VENV)/.test  ## docs/features.md, after every parameter in it has been called
	PYTHONPATH=tests $(BIN)/python -m features.table

api: $(VENV)/.test  ## docs/api.md, from the server's routes
	PYTHONPATH=tests $(BIN)/python -m api_document

bench: $(VENV)/.installed  ## speed beside the machine's own limits
	@$(BIN)/headrace bench $(MODEL)

wheel: $(VENV)/.venv
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

# The package is installed from this checkout; Python files are read in place, kernels are rebuilt when csrc changes.
$(VENV)/.installed: $(VENV)/.venv $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

# Clients that do not go into the environment itself: npm's, where there is npm, and those of Python that do not go together.
CLIENTS := tests/server/clients
$(VENV)/.clients: $(VENV)/.test $(wildcard $(CLIENTS)/apart/*) $(CLIENTS)/package.json
	rm -rf $(VENV)/clients
	for one in $(patsubst %.txt,%,$(notdir $(wildcard $(CLIENTS)/apart/*))); do \
	  $(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/clients/$$one --requirement $(CLIENTS)/apart/$$one.txt \
	    || exit 1; \
	done
	cp $(CLIENTS)/package.json $(VENV)/clients
	npm --prefix $(VENV)/clients install --silent --ignore-scripts --no-audit --no-fund --omit=optional \
	  || echo "npm's clients could not be installed: their tests will be skipped"
	@touch $@

$(VENV)/.check: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[check]'
	@touch $@

clean:
	rm -rf $(VENV) build dist

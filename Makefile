# make quickstart   a virtual environment, the package with its compiled core, the demo
# make test         what the tests need, and all of them
# make lint | wheel | native-test | cuda-check
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_BUILD_CONSTRAINT=$(CURDIR)/constraints.txt \
          PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet

SOURCES = $(shell find csrc cmake python plugins build_backend -type f -not -name '*.pyc') CMakeLists.txt pyproject.toml

.PHONY: quickstart test lint wheel native-test cuda-check clean

quickstart: $(VENV)/.demo
	$(BIN)/recengine quickstart

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check python plugins tests bench
	$(BIN)/ruff format --check python plugins tests bench
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

wheel: $(VENV)/.test
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

native-test:
	tests/native/run.sh asan
	tests/native/run.sh tsan

cuda-check: $(VENV)/.test
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/native/cuda_check.sh $(BIN)/python

clean:
	rm -rf $(VENV) build dist

# torch first and alone: the build then finds it here and fetches no second one.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("recengine needs Python 3.11 or newer, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing torch (the largest part) ..."
	$(PIP) torch numpy
	touch $@

$(VENV)/.demo: $(VENV)/.torch $(SOURCES)
	@echo "Building the core and installing recengine ..."
	$(PIP) '.[demo]'
	touch $@

$(VENV)/.test: $(VENV)/.torch $(SOURCES)
	@echo "Building the core and installing recengine with what its tests need ..."
	$(PIP) '.[demo,test]'
	touch $@

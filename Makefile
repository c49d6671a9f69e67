# `make demo` and `make test` set up everything they need in .venv, on a machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow lint format install peers clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m qat demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# The package as it is installed, in links: trainers/, exporters/ and configs/ lie below qat in the wheel alone, and mypy and
# import-linter read files, not installations.
TREE := build/tree

lint: $(STAMP)
	rm -rf $(TREE) && mkdir -p $(TREE)/qat
	ln -s $(CURDIR)/qat/* $(CURDIR)/trainers $(CURDIR)/exporters $(CURDIR)/configs $(TREE)/qat
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd $(TREE) && $(CURDIR)/$(BIN)/lint-imports --no-cache $(CURDIR)/pyproject.toml

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# For benchmarks/step_cost.py: other toolkits, in an environment of their own (.venv-peers).
peers:
	test -x $(VENV)-peers/bin/python || $(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --no-deps --requirement benchmarks/peers.txt --editable .

clean:
	rm -rf $(VENV) $(VENV)-peers build dist *.egg-info

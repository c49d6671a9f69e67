# `make demo` and `make test` set up everything they need in .venv, on a machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo screenshot test test-slow test-slow-ci lint format docs tree install peers cost cost-tables gpu-check clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m qat demo

# README's pictures of the terminal and of the report, from real runs; the second takes chromium.
screenshot: $(STAMP)
	$(BIN)/python docs/screenshot.py docs/terminal.svg
	$(BIN)/python docs/report_picture.py docs/report.png

# Two processes, each with its own frameworks and one thread; a file's tests share what they prepare.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test: $(STAMP)
	$(PYTEST)

test-slow: $(STAMP)
	$(PYTEST) -m slow

# The part of the slow tests that continuous integration has time for.
test-slow-ci: $(STAMP)
	$(PYTEST) -m 'slow and ci'

# The package as it is installed, in links: trainers/, exporters/ and configs/ lie below qat in the wheel alone, and mypy,
# import-linter and mkdocstrings read files, not installations.
TREE := build/tree

tree:
	rm -rf $(TREE) && mkdir -p $(TREE)/qat
	ln -s $(CURDIR)/qat/* $(CURDIR)/trainers $(CURDIR)/exporters $(CURDIR)/configs $(TREE)/qat

lint: $(STAMP) tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd $(TREE) && $(CURDIR)/$(BIN)/lint-imports --no-cache $(CURDIR)/pyproject.toml

# The documentation site, into build/site.
docs: $(STAMP) tree
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# For benchmarks/step_cost.py: other toolkits, in an environment of their own (.venv-peers).
peers:
	test -x $(VENV)-peers/bin/python || $(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --no-deps --requirement benchmarks/peers.txt --editable .

# All figures of cost in docs/benchmarks.md and README.md, measured anew: an hour on a quiet machine of two cores. Peers' steps
# stay as they are; torchao's prepare and convert are measured where `make peers` has made their environment.
cost: $(STAMP)
	$(BIN)/python benchmarks/step_cost.py --kinds $(COST_KINDS) --json docs/step_cost.json
	$(BIN)/python benchmarks/step_cost.py --keras --json docs/step_cost.json
	$(BIN)/python benchmarks/growth.py --json docs/growth.json --plot docs/growth.png
	$(BIN)/python benchmarks/step_profile.py mobilenet_v2 resnet18 mobilenet_v3 efficientnet_b0 vit --json docs/step_profile.json
	$(BIN)/python benchmarks/evaluation_cost.py --json docs/evaluation_cost.json
	$(BIN)/python benchmarks/two_processes.py --json docs/two_processes.json
	$(BIN)/python benchmarks/judging_cost.py --json docs/judging_cost.json
	test ! -x $(VENV)-peers/bin/python || $(BIN)/python benchmarks/prepare_cost.py --json docs/prepare_cost.json
	$(MAKE) cost-tables

# The same tables from the kept figures, without measuring.
cost-tables: $(STAMP)
	$(BIN)/python benchmarks/step_cost.py --json docs/step_cost.json --render docs/benchmarks.md README.md
	for what in step_profile evaluation_cost two_processes judging_cost prepare_cost; do test ! -f docs/$$what.json || \
	  $(BIN)/python benchmarks/$$what.py --json docs/$$what.json --render docs/benchmarks.md || exit 1; done
	$(BIN)/python benchmarks/growth.py --json docs/growth.json --plot docs/growth.png --render

COST_KINDS := float float_bf16 folded qat qat_auto float_last float_last_bf16 folded_last qat_last

# What a GPU makes of this toolkit, as JSON; without one it says so.
gpu-check: $(STAMP)
	$(BIN)/python benchmarks/gpu_check.py

clean:
	rm -rf $(VENV) $(VENV)-peers build dist *.egg-info

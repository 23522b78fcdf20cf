# Everything the project needs beyond python3 and make goes into .venv, which each target below prepares for itself.

PYTHON ?= python3
PY := .venv/bin/python
JOBS ?= 2

# Nothing that is active outside may reach in.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo gallery test test-slow benchmarks lint format clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.venv/.installed: requirements.txt requirements-data.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("pyrolvm needs Python 3.11 or later, and $(PYTHON) is %d.%d: try make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Installing into .venv: a minute or two, once."
	@rm -f $@
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --disable-pip-version-check --no-deps -r requirements-data.txt
	$(PY) -m pip install --disable-pip-version-check --no-deps -e .
	@touch $@

demo: .venv/.installed ## compare variational families on real data; writes report.html
	$(PY) examples/demo.py

gallery: export OMP_NUM_THREADS = 1

gallery: .venv/.installed ## run docs/gallery.md, every model and guide next to a truth; writes gallery.html
	$(PY) docs/gallery.py

# One thread in each of the JOBS processes: more would only fight for the cores.
test test-slow: export OMP_NUM_THREADS = 1
test test-slow: export MKL_NUM_THREADS = 1

test: .venv/.installed ## run the tests and the examples in the docstrings (ARGS="..." goes to pytest)
	$(PY) -m pytest -n $(JOBS) $(ARGS)

test-slow: .venv/.installed ## run the tests that take minutes
	$(PY) -m pytest -n $(JOBS) -m slow $(ARGS)

benchmarks: .venv/.installed ## measure speed beside the peers, which it installs; half an hour (ARGS="--quick": minutes)
	$(PY) -m benchmarks $(ARGS)

lint: .venv/.installed ## check style, types and which module imports which
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo

format: .venv/.installed ## put the code into the project's format
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

clean: ## remove what the other targets wrote (.venv stays)
	rm -rf build dist report.html gallery.html .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find pyrolvm tests benchmarks docs tutorials -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

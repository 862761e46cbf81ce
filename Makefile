# Two commands do all the set-up: `make demo` runs the digits study to its tables, `make test` runs the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow bench lint clean

demo: .venv/installed
	$(BIN)/tune-interpreg run digits

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

test-slow: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# What steps, attacks and maps cost, beside floors and rivals: ten minutes on two cores. torchattacks lies apart, for it
# pins an old requests; where it cannot be had, its rows say so.
bench: .venv/installed
	@test -d .venv/torchattacks || $(BIN)/python -m pip install --quiet --no-deps --target .venv/torchattacks torchattacks || true
	$(BIN)/python tests/benchmarks/bench_steps.py --torchattacks .venv/torchattacks > tests/benchmarks/steps.md

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	@echo "installing into .venv: some gigabytes, most of them PyTorch's; takes minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

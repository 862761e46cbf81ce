# Two commands do all the set-up: `make demo` runs the digits study to its tables, `make test` runs the tests.
PYTHON ?= python3
BIN := .venv/bin
# Tests run in this many processes, each with one thread. Some tests wait, so three keep two cores busy.
WORKERS ?= 3
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# The files that have a mark: to import all files takes ten seconds more.
marked = $$(grep -rl --include='*.py' $(1) tests)

# Tests start hundreds of processes: none compiles the same modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo check lint test test-slow test-long test-oldest bench clean

demo: .venv/installed
	$(BIN)/tune-interpreg run digits

# Before each commit: style, types and the quick tests, which do not start Ray.
check: lint
	$(PYTEST) -n $(WORKERS) -q -m "not slow and not ray and not thorough"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python tests/plain_english.py

test: .venv/installed
	$(PYTEST) -n $(WORKERS) -m "not slow"

# Whole studies, kills, clusters, the guides.
test-slow: .venv/moto
	$(PYTEST) -n $(WORKERS) --dist loadgroup -m "slow and not alone and not long" $(call marked,mark.slow)
	$(PYTEST) -m alone $(call marked,mark.alone)

# Before a release: more kills, also beside a mirror, more numbers of workers, large ledgers.
test-long: .venv/moto
	$(PYTEST) -m long $(call marked,mark.long)

# The fast tests with the oldest versions that are supported, in .venv-oldest.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --editable ".[dev]" "torch==2.11.*" "ray[tune]==2.60.*" "optuna==5.0.*"
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n $(WORKERS) -m "not slow"

# Time of steps, attacks and maps next to their floors and to other libraries: ten minutes on two cores. torchattacks
# pins an old version of requests, so it gets a folder of its own; where it cannot be installed, its rows say so.
bench: .venv/installed
	@test -d .venv/torchattacks || $(BIN)/python -m pip install --quiet --no-deps --target .venv/torchattacks torchattacks || true
	$(BIN)/python tests/benchmarks/bench_steps.py --torchattacks .venv/torchattacks > tests/benchmarks/steps.md

# An S3 server for tests, which needs an old version of dateutil, in a folder of its own. Without it, they are skipped.
.venv/moto: | .venv/installed
	@$(BIN)/python -m pip install --quiet --target $@ "moto[s3]>=5.1" flask flask-cors || true

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	@echo "installing into .venv: some gigabytes, most of them PyTorch; this takes minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

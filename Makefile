# Everything happens in .venv and against the installed package, so that what is tested is what is shipped.
# PYTHONSAFEPATH keeps the uncompiled ./klerk off the import path.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check
PYTHON ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=
KILLS ?= 500
JOB_KILLS ?= 10000
BENCH_ARGS ?=

export PYTHONSAFEPATH := 1

# A folder is newer than the stamp when a file in it came or went.
SOURCES := $(shell find klerk \( -name __pycache__ -prune \) -o -type d -print -o -type f \
	\( -name '*.py' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.typed' -o -name '*.gz' \) -print)

STUBBED := $(patsubst klerk/%.pyi,klerk.%,$(wildcard klerk/*.pyi))

.PHONY: help demo test torture bench lint format wheel dist clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo "make demo    replay a month of flights           DEMO_ARGS=\"--days 1\" for less"
	@echo "make test    run all tests                       PYTEST_ARGS=\"-k name\" for some"
	@echo "make torture kill busy processes for hours       KILLS=100 JOB_KILLS=1000 for less"
	@echo "make lint    style, types, stubs, layers"
	@echo "make format  let ruff mend what it can"
	@echo "make bench   measure; writes build/bench.json    BENCH_ARGS=..."
	@echo "make dist    sdist and wheel in dist/            make wheel for the wheel alone"
	@echo "make clean   forget everything built"
	@echo "PYTHON=python3.13 in front chooses the Python of a new .venv."

demo: $(VENV)/stamp-package
	@$(PY) -m klerk demo $(DEMO_ARGS)

test: $(VENV)/stamp-package $(VENV)/stamp-test
	@$(PY) -m pytest $(PYTEST_ARGS)

torture: $(VENV)/stamp-package $(VENV)/stamp-test
	@KLERK_TORTURE_KILLS=$(KILLS) KLERK_LEDGER_KILLS=$(JOB_KILLS) \
		$(PY) -m pytest tests/test_torture.py tests/test_job_ledger.py $(PYTEST_ARGS)

bench: $(VENV)/stamp-package $(VENV)/stamp-bench
	@mkdir -p build
	@$(PY) -m benches $(BENCH_ARGS)

lint: $(VENV)/stamp-package $(VENV)/stamp-lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint klerk
	$(PY) -m mypy klerk pytest_klerk.py
	$(PY) -m mypy examples tests/typing
	$(PY) -m pyright
	$(PY) -m mypy.stubtest --ignore-disjoint-bases --ignore-unused-allowlist \
		--allowlist tests/stubtest_allowlist.txt $(STUBBED)
	$(PY) -m pytest --quiet tests/test_layers.py

format: $(VENV)/stamp-lint
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

wheel: $(VENV)/stamp-venv
	@$(PIP) wheel --no-deps --wheel-dir dist .
	@ls dist/*.whl

dist: $(VENV)/stamp-venv
	@$(PIP) install --group build
	@rm -rf dist klerk.egg-info
	@$(PY) -m build
	@ls dist

clean:
	rm -rf $(VENV) build dist klerk.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/stamp-venv:
	@python=$$(sh tools/find_python.sh $(PYTHON)) && \
	echo "Making .venv with $$($$python --version)." && \
	$$python -m venv --clear $(VENV)
	@$(PIP) install --upgrade "pip>=25.1"
	@touch $@

# Other compiler options mean that nothing compiled before is of use.
$(VENV)/stamp-options: $(VENV)/stamp-venv setup.py pyproject.toml
	@rm -rf build/lib.* build/temp.* klerk.egg-info
	@touch $@

# setuptools would ship what an earlier build left behind; only the compiled core is kept.
$(VENV)/stamp-package: $(VENV)/stamp-options $(wildcard README.md) LICENSE pytest_klerk.py $(SOURCES)
	@echo "Building and installing klerk: half a minute when the core is compiled."
	@find build -path 'build/lib.*' -type f ! -name '*.so' -delete 2>/dev/null || true
	@$(PIP) install ".[demo]"
	@touch $@

$(VENV)/stamp-test $(VENV)/stamp-lint: $(VENV)/stamp-%: $(VENV)/stamp-venv pyproject.toml
	@echo "Installing what make $* needs."
	@$(PIP) install --group $*
	@touch $@

# The path file comes last on the import path: it finds ./benches, while klerk stays the installed one.
$(VENV)/stamp-bench: $(VENV)/stamp-venv pyproject.toml
	@echo "Installing what make bench needs."
	@$(PIP) install --group bench
	@$(PY) -c "import sysconfig, pathlib; \
	pathlib.Path(sysconfig.get_path('purelib'), 'klerk-benches.pth').write_text(str(pathlib.Path.cwd()) + '\n')"
	@touch $@

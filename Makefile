# Everything a developer runs. `make demo` and `make test` set up .venv on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install demo figures test bench lint format clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt setup.py CMakeLists.txt $(shell find csrc -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -q -c constraints.txt torch numpy "setuptools>=77" wheel cmake ninja pybind11
	$(PIP) install -q -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $@

demo: install
	$(BIN)/ttune demo

figures: install
	$(BIN)/python -m benchmarks figures

test: install
	$(BIN)/python -m pytest

bench: install
	$(BIN)/python -m benchmarks kernels

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	find csrc benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu' | xargs $(BIN)/clang-format -i

clean:
	rm -rf build dist *.egg-info .venv/installed

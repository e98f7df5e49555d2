# make run · make test · make lab — each sets up .venv by itself when it is missing.
PROFILE ?= demo
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lab lint clean
run: .venv/ready
	$(BIN)/python -m iqa_lib run --profile $(PROFILE)

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

lab: .venv/ready
	$(BIN)/jupyter lab --ip=127.0.0.1 notebooks

lint: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This project needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info

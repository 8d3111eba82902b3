# Two commands matter: `make test` and `make demo`. Each sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FOR ?=

.PHONY: test demo lint types unit wheels clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --disable-pip-version-check --upgrade pip
	$(BIN)/pip install -qq --disable-pip-version-check -e '.[dev,demo]'
	touch $@

test: lint types unit

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

unit: $(VENV)/.installed
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

demo: $(VENV)/.installed
	$(BIN)/checkpointd demo $(if $(FOR),--for $(FOR))

wheels: $(VENV)/.installed
	$(BIN)/python benchmarks/wheels.py

clean:
	rm -rf $(VENV)

# Each target makes its own .venv and installs what it needs. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: quickstart test test-full lint clean

quickstart: $(VENV)/.installed
	$(BIN)/python train.py --config=configs/quickstart.py --workdir=$(WORKDIR)
	$(BIN)/python eval.py --workdir=$(WORKDIR)

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-full: $(VENV)/.installed-full
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m full

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --output-format concise .

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@

# PyTorch is only the reference that tests compare with; its CPU build is the small one.
$(VENV)/.installed-full: $(VENV)/.installed-test
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[full]'
	touch $@

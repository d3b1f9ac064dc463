# Every command sets up .venv by itself on a fresh machine (Linux, Python 3.11 or later, git, make).
PROFILE ?= digits
SEEDS ?=
STAGES ?=
ROOT ?=
CHAPTERS ?=
MINUTES ?=
CORES ?= all
ARGS ?=
ARCHIVE ?=
MODEL ?=
DATASET ?=
A ?=
B ?=
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUTF8 := 1
.DEFAULT_GOAL := help
.PHONY: help study chapters test test-long figures compare evaluate pack unpack notebooks lint clean setup bench nncodec

help: ## this list
	@echo "make COMMAND [PROFILE=digits] [SEEDS='0 1 2'] [STAGES='distill prune svd int8'] [ROOT=moo] [MINUTES=60] [CORES=all] [ARGS=-n]"
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' Makefile | expand -t 14
	@echo "profiles: $$(ls papermill_params | sed -n 's/\.yaml$$//p' | grep -vx chapters | tr '\n' ' ')"

study: $(READY) ## train and compress every combination of PROFILE, print the table (ARGS=-n: only say what would run)
	@$(PY) engine/run/study.py --profile "$(PROFILE)" --seeds "$(SEEDS)" --stages "$(STAGES)" --root "$(ROOT)" --minutes "$(MINUTES)" --cores "$(CORES)" -- $(ARGS)

chapters: $(READY) ## only the chapters of PROFILE and what they need (CHAPTERS="03 6": only those)
	@$(PY) engine/run/study.py --profile "$(PROFILE)" --seeds "$(SEEDS)" --stages "$(STAGES)" --minutes "$(MINUTES)" --cores "$(CORES)" --chapters "$(CHAPTERS)" -- $(ARGS)

test: $(READY) ## unit tests, the smoke profile, the notebooks
	@$(PY) engine/tools/test.py

test-long: $(READY) ## what takes minutes: every chapter run three ways, runs killed in each way
	@$(PY) engine/tools/test.py --long

figures: $(READY) ## publish the run of PROFILE, or draw what is published of it anew: figures/ and README.md; trains nothing
	@$(PY) engine/publish/figures.py "$(PROFILE)" $(ARGS)

compare: $(READY) ## two runs side by side: A=digits B=smoke (profiles, or paths of a sweep.csv)
	@$(PY) engine/tools/compare.py "$(A)" "$(B)"

evaluate: $(READY) ## bytes and test accuracy of a coded file, beside what was published of it (MODEL=figures/models/….slnc)
	@$(PY) engine/tools/evaluate.py "$(MODEL)" --dataset "$(DATASET)"

pack: $(READY) ## the run of PROFILE as one file, to go on elsewhere: unfinished trainings, too (ARCHIVE=PROFILE.tar)
	@$(PY) engine/tools/pack.py pack "$(PROFILE)" "$(ARCHIVE)"

unpack: $(READY) ## put the run in ARCHIVE below runs/; make study goes on with it
	@$(PY) engine/tools/pack.py unpack "$(ARCHIVE)"

notebooks: $(READY) ## run each notebook as it stands and keep its outputs in it (needs the smoke run)
	@$(PY) engine/tools/store_outputs.py $(ARGS)

bench: $(READY) ## paired timings; nothing else should be running (ARGS=augment: only that one)
	@OMP_WAIT_POLICY=passive $(PY) tests/benchmarks/run.py $(ARGS)

nncodec: $(READY) .venv-nncodec/.ready ## bytes of the int8 nodes of PROFILE by the reference coder of ISO/IEC 15938-17 (6 GB more, once)
	@$(PY) engine/tools/nncodec.py "$(PROFILE)"

lint: $(READY) ## ruff over code and notebooks
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

clean: ## remove the run of PROFILE and say what that frees (PROFILE=all: every run and environment)
	@$(PYTHON) engine/tools/clean.py "$(PROFILE)"

setup: $(READY) ## only make .venv

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or later is needed, {sys.executable} is {sys.version.split()[0]}; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

.venv-nncodec/.ready:
	$(PYTHON) -m venv .venv-nncodec
	.venv-nncodec/bin/python -m pip install --quiet --disable-pip-version-check nncodec==2.1.3
	@touch $@

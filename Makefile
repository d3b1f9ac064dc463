# Every command sets up .venv by itself on a fresh machine (Linux, Python 3.11 or later, git, make).
PROFILE ?= digits
VARIANT ?=
SEEDS ?=
STAGES ?=
CHAPTERS ?=
MINUTES ?=
CORES ?= all
WORKERS ?= 2
ARGS ?=
ARCHIVE ?=
MODEL ?=
FIGURE ?=
TABLE ?=
DATASET ?=
A ?=
B ?=
MODELS ?=
NETWORK ?=
WEIGHTS ?=
IMAGES ?=
FORMS ?= float32 int8 pruned pruned-int8
SPARSITY ?= 0.5
MEAN ?=
STD ?=
OUT ?=
PROMPT ?=
SEED ?= 0
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
RUN = $(PROFILE)$(if $(VARIANT),-$(VARIANT))
STUDY = $(PY) engine/run/study.py --profile "$(PROFILE)" --variant "$(VARIANT)" --seeds "$(SEEDS)" --stages "$(STAGES)" --minutes "$(MINUTES)" --cores "$(CORES)"
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive PYTHONHASHSEED=0 $(PY) -m pytest -q
# what chapter 13 needs beside the lock, where it is named and run: half a gigabyte, and an older protobuf
comma := ,
EXTRA = $(if $(filter -n --dry-run --dryrun,$(ARGS)),,$(if $(filter 13 13_federated federated,$(subst $(comma), ,$(CHAPTERS)) $(VARIANT)),$(VENV)/.federated))
NBVAL := --nbval-lax --nbval-cell-timeout=300 --nbval-kernel-name=python3
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUTF8 := 1
.DEFAULT_GOAL := help
.PHONY: help study chapters compare pack unpack clean compress figures explorer evaluate sample zoo nncodec notebooks book cite test test-long lint bench setup
ifeq ($(origin ROOT),command line)
$(error ROOT=$(ROOT): it is called VARIANT now, as in make study VARIANT=two_objectives)
endif
NAMES := $(sort PYTHON $(shell sed -n 's/^\([A-Z]*\) ?=.*/\1/p' Makefile))
$(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(if $(filter $(name),$(NAMES)),,$(error $(name)=$($(name)): no such name; expected one of $(NAMES)))))

help: # this list
	@echo "make COMMAND [NAME=value ...]   profiles: $$(ls papermill_params | sed -n 's/\.yaml$$//p' | grep -vx chapters | tr '\n' ' ')"
	@sed -n -e 's/^## */\n/p' -e 's/^\([a-z-]*\):[^#]*# /  \1\t/p' Makefile | expand -t 14

## Run: PROFILE=digits VARIANT=two_objectives SEEDS="0 1 2" STAGES="distill prune svd int8" MINUTES=60 CORES=all ARGS=-n

study: $(READY) $(EXTRA) # train and compress every combination of PROFILE, print the table (ARGS=-n: only say what would run)
	@$(STUDY) -- $(ARGS)

chapters: $(READY) $(EXTRA) # only the chapters of PROFILE and what they need (CHAPTERS="03 6": only those)
	@$(STUDY) --chapters "$(CHAPTERS)" -- $(ARGS)

compare: $(READY) # two runs side by side: A=digits B=smoke (a profile, a path of a sweep.csv, or the word published)
	@$(PY) engine/tools/compare.py "$(A)" "$(B)"

pack: $(READY) # the run of PROFILE as one file, to go on elsewhere, unfinished trainings included (ARCHIVE=PROFILE.tar.gz)
	@$(PY) engine/tools/pack.py pack "$(RUN)" "$(ARCHIVE)"

unpack: $(READY) # put the run in ARCHIVE below runs/; make study goes on with it
	@$(PY) engine/tools/pack.py unpack "$(ARCHIVE)"

clean: # remove the run of PROFILE and say what that frees (PROFILE=all: every run and environment)
	@$(PYTHON) engine/tools/clean.py "$(RUN)"

## Your own network: NETWORK=module:build WEIGHTS=file IMAGES=file.npz FORMS="float32 int8 pruned pruned-int8" SPARSITY=0.5

compress: $(READY) # it as small files in OUT=runs/compress, each read back: bytes, accuracy, layer by layer what went in
	@$(PY) -m studylib.tree.compress "$(NETWORK)" --weights "$(WEIGHTS)" --images "$(IMAGES)" --forms $(FORMS) --sparsity "$(SPARSITY)" --mean $(MEAN) --std $(STD) --out "$(or $(OUT),runs/compress)"

## Publish and check results

figures: $(READY) # publish the run of PROFILE (CHAPTERS=9: only those; a new study: ARGS=--force), or draw again; trains nothing
	@$(PY) engine/publish/figures.py "$(RUN)" --chapters "$(CHAPTERS)" $(ARGS)

explorer: $(VENV)/.book # one page with every published network, to filter: build/explorer.html (100 MB more, once)
	@$(PY) -m studylib.experiments.explorer figures build/explorer.html

evaluate: $(READY) # bytes and test accuracy of a coded file, beside what was published of it (MODEL=figures/models/….slnc)
	@$(PY) engine/tools/evaluate.py "$(MODEL)" --dataset "$(DATASET)"

sample: $(READY) # what a generative file draws, a picture or a text (MODEL=figures/models/….slnc SEED=0 OUT=x.png PROMPT="The ")
	@$(PY) -m studylib.experiments.sample "$(MODEL)" --seed "$(SEED)" --out "$(OUT)" --prompt "$(PROMPT)"

zoo: $(READY) # bytes of torchvision's classifiers in int8, beside the survey's (MODELS="resnet18 vgg16": only those)
	@$(PY) -m studylib.experiments.zoo $(MODELS)

nncodec: $(READY) .venv-nncodec/.ready # bytes of PROFILE's int8 nodes by the reference coder of ISO/IEC 15938-17 (6 GB more, once)
	@$(PY) tests/benchmarks/nncodec.py "$(RUN)"

notebooks: $(READY) # run each notebook as it stands and keep its outputs in it (needs the smoke run)
	@$(PY) tests/store_outputs.py $(ARGS)

book: $(VENV)/.book # chapters, pages and the package's reference as web pages, to open from disk; runs nothing
	@$(PY) book/build.py

cite: $(READY) # a picture (FIGURE=front) or table (TABLE=sweep) for a thesis, in build/cite/: LaTeX, BibTeX, PDF, rows
	@$(PY) book/cite.py --figure "$(FIGURE)" --table "$(TABLE)"

## Develop

test: lint # lint, the smoke profile, the unit tests, the notebooks (WORKERS=2: so many side by side)
	@$(MAKE) --no-print-directory study PROFILE=smoke
	@$(PYTEST) tests --ignore=tests/notebooks -m "not long" -n $(WORKERS) --dist loadfile --cov --cov-report=term
	@$(PYTEST) tests/notebooks notebooks --ignore=tests/notebooks/reduced -m "not long" -n $(WORKERS) --dist loadfile $(NBVAL)

test-long: $(VENV)/.book # what takes minutes: every chapter run three ways, runs killed in each way, the book
	@$(MAKE) --no-print-directory study PROFILE=smoke
	@$(PYTEST) tests -m long
	@$(PYTEST) tests/notebooks/reduced $(NBVAL)

lint: $(READY) # ruff over code and notebooks
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

bench: $(READY) # paired timings; nothing else should be running (ARGS=augment: only that one)
	@OMP_WAIT_POLICY=passive $(PY) tests/benchmarks/run.py $(ARGS)

setup: $(READY) # only make .venv

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or later is needed, {sys.executable} is {sys.version.split()[0]}; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

$(VENV)/.book: $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation -c requirements.lock -e '.[book]'
	@touch $@

$(VENV)/.federated: $(READY)
	@echo "Chapter 13 wants the extra federated: half a gigabyte, and an older protobuf, into $(VENV)"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[federated]'
	@touch $@

.venv-nncodec/.ready:
	$(PYTHON) -m venv .venv-nncodec
	.venv-nncodec/bin/python -m pip install --quiet --disable-pip-version-check nncodec==2.1.3
	@touch $@

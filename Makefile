# `make help` lists the targets. The first part of this file is for developers. The second part
# repeats the thesis, chapter by chapter.
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# make fuzz tries FUZZ_TIMES times as many cases as the other targets, drawn with FUZZ_SEED.
FUZZ_TIMES = 30
FUZZ_SEED = 0
DEMO := results/demo/tiny-shapes
# The page about the thesis is made from results of the present commit.
PAGE_RESULTS = results/page-$(shell git describe --always)
# pip compiles no package: two thirds of an installation would go into modules that nobody imports.
# Bytecode is kept, also where the environment switches it off: else each process compiles again.
export PYTHONDONTWRITEBYTECODE :=
# Processes share the tests, one per core if there is memory for all (tests/conftest.py). Each begins
# with its part and helps the others at the end.
WORKERS = auto
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
QUICK := not long and not exhaustive and not fuzz
# What make test and make coverage run
TESTS = not exhaustive and not fuzz

.PHONY: help install demo test test-quick test-all test-processors test-noise test-order oldest \
  test-oldest coverage mutants lint format docs site thesis-page bench fuzz tiny tiny-llava clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z0-9%.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## Create .venv and install clipkit with its development tools

$(INSTALLED): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## Run the pipeline on the bundled data set and model, with an untrained control
	@$(MAKE) --no-print-directory tour MODEL=tiny DATASET=shapes LIMIT=2000 \
	  RESULTS=results/demo
	@cat $(DEMO)/report.md
	@echo
	@echo "The same report with pictures, for a browser:"
	@ls $(DEMO)/report.html

test-quick: $(INSTALLED)  ## Check style and run the quick tests, in under a minute
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(PYTEST) -m "$(QUICK)"

test: lint  ## Run the linters and the tests, in five minutes on two cores
	$(PYTEST) -m "$(TESTS)"

test-all: lint  ## Run the linters and all tests except fuzz, as CI does every night
	$(PYTEST) -m "not fuzz"

# What depends on the kernels that libraries choose for a processor
PROCESSOR_TESTS = $(addprefix tests/test_,docs.py features.py models.py probes.py tiny.py)

test-processors: $(INSTALLED)  ## Run the tests of pages, models and probes as on other processors
	for processor in avx2 sse4; do \
	  $(BIN)/python tests/processors.py $$processor $(PYTEST) -m "$(TESTS)" $(PROCESSOR_TESTS); \
	done

# NOISE_TESTS are the files of tests to run; none stands for all of make test.
NOISE_TESTS =
NOISE_SEEDS = 1 2
test-noise: $(INSTALLED)  ## Run the tests with other last bits of every kernel's results
	for seed in $(NOISE_SEEDS); do \
	  $(BIN)/python tests/noise $$seed $(PYTEST) -m "$(TESTS)" $(NOISE_TESTS); \
	done

# A test that needs another's work, or fails after it, fails here.
ORDER = $(shell date +%j)
test-order: $(INSTALLED)  ## Run each file of tests by itself, and all tests in a random order
	ls tests/test_*.py tests/fuzz/test_*.py | xargs -P 2 -I % sh -c '$(BIN)/python -m pytest \
	  -m "$(TESTS)" % || [ $$? = 5 ] || { echo "% fails by itself"; exit 1; }'  # 5: it has none
	$(PYTEST) -m "$(TESTS)" --random-order-bucket global --random-order-seed $(ORDER)

oldest:  ## Run the main commands with the oldest versions that pyproject.toml allows
	PYTHON=$(PYTHON) .ci/oldest

# Old libraries warn beside newer ones, which is no error here.
test-oldest: oldest  ## Run the quick tests with these versions
	build/oldest/bin/python -m pytest -n $(WORKERS) --dist worksteal -W default -m "$(QUICK)"

# If a test fails, the lines are still counted. combine warns of what killed processes have left.
coverage: $(INSTALLED)  ## Print the lines and branches of clipkit that `make test` does not run
	rm -rf build/coverage
	-$(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist worksteal -m "$(TESTS)"
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

mutants: $(INSTALLED)  ## Change clipkit here and there, and see if a test notices (MUTANTS="--seed 1")
	$(BIN)/python tests/mutants.py $(MUTANTS)

lint: $(INSTALLED)  ## Check style, formatting, types and the layers of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/imports.py

format: $(INSTALLED)  ## Fix style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(INSTALLED)  ## Run the examples of README.md and docs/ again and record their output
	$(BIN)/python docs/examples.py

site: $(INSTALLED)  ## Build README.md, docs/ and an example report as a site in build/site/html
	$(BIN)/python docs/website.py

thesis-page: $(INSTALLED)  ## Make the tables and pictures of docs/thesis.md again
	@$(MAKE) --no-print-directory thesis MODEL=tiny DATASET=shapes LIMIT= RESULTS=$(PAGE_RESULTS)
	$(BIN)/python docs/thesis_page.py $(PAGE_RESULTS)

bench: $(INSTALLED)  ## Time clipkit and the code that it replaces (BENCH="--only probes" ...)
	$(BIN)/python tests/bench/bench.py $(BENCH)

fuzz: $(INSTALLED)  ## Test hostile inputs, servers, signals and disks (FUZZ="-k servers")
	FUZZ_TIMES=$(FUZZ_TIMES) $(PYTEST) tests/fuzz --hypothesis-seed=$(FUZZ_SEED) $(FUZZ)
	$(if $(FUZZ),,$(PYTEST) -m fuzz)

tiny: $(INSTALLED)  ## Train the bundled model again, in ten minutes on one idle core
	PYTHONPATH=tests $(BIN)/python -m training.train --out build/tiny

tiny-llava: $(INSTALLED)  ## Train the bundled generative model again, in four minutes
	PYTHONPATH=tests $(BIN)/python -m training.llava --out build/tiny-llava

clean:  ## Remove the environment and all generated files
	rm -rf $(VENV) build results .pytest_cache .mypy_cache .ruff_cache

# ---- The thesis, chapter by chapter --------------------------------------------------------------
#
# A chapter makes the results of a model in the folder RESULTS/<model>-<data set>, and those of its
# untrained control in RESULTS/<model>-untrained<seed>-<data set>. A file's name says how it was
# made: generic32.logits.svm.h5 is the result of an SVM on the logits of the prompt set generic32.
# docs/thesis.mk has the rules of a folder. `make -n thesis` prints all commands.
MODEL = openai/clip-vit-base-patch32
DATASET =
ROOT =
LIMIT =
# The thesis computed in float32, and reports compare its figures to a hundredth of a point.
PRECISION = $(if $(and $(filter model=openai/clip-vit-base-patch32,model=$(MODEL) $(SAME_AS)),\
  $(filter $(DATASETS:%=dataset=%),dataset=$(DATASET) $(SAME_AS))),fp32)
DEVICE =
UNTRAINED = 7
# All chapters score the split test. In a folder without one, it is a fifth of the images.
SPLITS := test val valid validation
SPLIT_OFF = $(if $(wildcard $(DATASET)/.),$(if $(wildcard $(SPLITS:%=$(DATASET)/%/.)),,test=0.2))
TABLE = $(if $(filter shapes,$(DATASET)),shapes)
WORDS = $(if $(filter shapes,$(DATASET)),prompts/attributes/shapes.tsv)
ATTRIBUTES = $(if $(filter shapes,$(DATASET)),outline pattern colour)
CAPTIONS = $(if $(filter shapes,$(DATASET)),shapes)
ITEMS = $(if $(filter shapes,$(DATASET)),shapes)
RESULTS = results
SEEDS := 42 1 2 3 4
SETS := generic16 generic32 generic99 generic205 generic415
# Sizes below the native one, in pixels
SIZES = $(if $(filter shapes tiny-imagenet,$(DATASET)),16 32,32 64 128)
PROMPTS = prompts
EXPECTED = docs/thesis.tsv
SAME_AS =
HIGH_RESOLUTION := imagenette tiny-imagenet food101
DATASETS := cifar10 cifar100 $(HIGH_RESOLUTION)
CHAPTERS := chapter2 chapter3 chapter4 chapter5 chapter6

TARGETS := $(CHAPTERS) chapter7 layers resolution high-resolution tour
.PHONY: thesis $(TARGETS)
thesis: $(CHAPTERS)  ## Run all chapters (MODEL=... DATASET=...)
chapter2:  ## Run the supervised baseline and zero-shot classification
chapter3:  ## Probe the logits of class-agnostic prompts and measure their entropy
chapter4:  ## Vary temperature, classifier, prompts and image resolution
chapter5:  ## Cluster image embeddings and logits
chapter6:  ## Measure attributes, calibration and few shots (TABLE=... WORDS=...)
chapter7:  ## Retrieve captions, and choose among texts (CAPTIONS=... ITEMS=...)
layers:  ## Probe every layer of a model (TABLE=... ATTRIBUTES="... ...")
resolution:  ## Probe the same images at several sizes (SIZES="32 64 128")
tour:  ## Run the pipeline once, with pictures: embeddings, zero-shot, 32 prompts, attributes
GOALS := $(filter $(TARGETS),$(patsubst thesis,$(CHAPTERS),$(MAKECMDGOALS)))

# Refuse unknown variables, since a misspelt DATASET would run all data sets. Refuse spaces, since
# make would take a path with a space for two targets.
VARIABLES := MODEL DATASET ROOT LIMIT SPLIT_OFF PRECISION DEVICE UNTRAINED TABLE WORDS ATTRIBUTES \
  CAPTIONS ITEMS RESULTS SEEDS SETS PROMPTS SIZES EXPECTED SAME_AS VENV PYTHON INSTALLED
unknown := $(strip $(foreach name,$(filter-out $(VARIABLES),$(.VARIABLES)),\
  $(if $(findstring command line,$(origin $(name))),$(name))))
ifneq ($(and $(GOALS),$(unknown)),)
$(error unknown variable $(firstword $(unknown)); known: $(VARIABLES))
endif
$(if $(GOALS),$(foreach name,MODEL DATASET ROOT LIMIT SPLIT_OFF PRECISION DEVICE UNTRAINED TABLE \
  WORDS CAPTIONS ITEMS RESULTS PROMPTS EXPECTED,$(if $(word 2,$($(name))),$(error $(name): expected no space, got $($(name))))))

ifneq ($(filter chapter7,$(GOALS)),)
$(if $(CAPTIONS)$(ITEMS),,$(error chapter7: expected CAPTIONS=... or ITEMS=..., got none))
endif

# The slug of a model or data set is its part in the folder's name: the last part of a path or of a
# Hub id. The slash of a name such as ViT-B/32 becomes a hyphen.
last_part = $(if $(filter ViT-%,$1),$(subst /,-,$1),$(notdir $1))
slug = $(call last_part,$(patsubst %/openai,%,$(patsubst %/,%,$1)))
folder = $(RESULTS)/$(call slug,$(MODEL))$1-$(call slug,$(DATASET))
comma := ,
CONTROL_SEEDS := $(subst $(comma), ,$(UNTRAINED))
CONTROLS := $(foreach seed,$(CONTROL_SEEDS),$(call folder,-untrained$(seed)))

ifeq ($(DATASET),)
# Without DATASET, run a separate make for each of the thesis's data sets, one after another. One
# that fails does not stop the others. The last line names those that are missing.
$(if $(filter thesis,$(MAKECMDGOALS)),$(info # data sets are downloaded unless they are there: \
  cifar10 170 MB, cifar100 169 MB, imagenette 1.6 GB, tiny-imagenet 248 MB, food101 5.0 GB))
run = $(if $2,$(MAKE) --no-print-directory $2 DATASET=$1 || missing+=" $1";)
LARGE_GOALS := $(strip $(if $(filter chapter4,$(GOALS)),high-resolution) $(filter resolution,$(GOALS)))
RUNS = $(strip $(call run,cifar10,$(filter chapter2,$(GOALS))) \
  $(call run,cifar100,$(filter-out resolution,$(GOALS))) \
  $(foreach data,$(HIGH_RESOLUTION),$(call run,$(data),$(LARGE_GOALS))))
.PHONY: data-sets
$(GOALS): data-sets
data-sets: | $(INSTALLED)
	+@missing=; $(RUNS) [ -z "$$missing" ] || \
	  { echo "missing:$$missing; hint: the same command continues with them" >&2; exit 1; }

else
# Run a separate make for the folder of each control, and then for the model's.
SHARED := MODEL DATASET ROOT LIMIT SPLIT_OFF PRECISION DEVICE UNTRAINED TABLE WORDS ATTRIBUTES \
  CAPTIONS ITEMS SEEDS SETS PROMPTS SIZES EXPECTED SAME_AS HIGH_RESOLUTION CONTROLS
export $(SHARED)
export PATH := $(abspath $(BIN)):$(PATH)
# Two commands run at a time, unless -j says otherwise. A folder's first command embeds the images,
# and others wait for it.
JOBS = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j2)
IN_FOLDER = $(MAKE) --no-print-directory $(JOBS) -f docs/thesis.mk CHAPTERS='$(GOALS)'
# Another make that works in the folder ends first. Without flock, as on macOS, start only one.
DRY = $(findstring n,$(firstword -$(MAKEFLAGS)))
alone = $(if $(DRY),,mkdir -p $1; exec 9< $1; ! command -v flock > /dev/null || flock -n 9 || \
  { echo '$1: waiting for another make'; flock 9 || :; };)
.PHONY: trained $(CONTROL_SEEDS:%=untrained%)
$(GOALS): trained
trained: $(CONTROL_SEEDS:%=untrained%) | $(INSTALLED)
	+@$(strip $(call alone,$(call folder)) $(IN_FOLDER) OUT=$(call folder) $(call steps,model))
$(CONTROL_SEEDS:%=untrained%): untrained%: | $(INSTALLED)
	+@$(strip $(call alone,$(call folder,-untrained$*)) \
	  $(IN_FOLDER) OUT=$(call folder,-untrained$*) SEED=$* $(call steps,$*))
steps = $(patsubst $1=%,STEPS=%,$(filter $1=%,$(PLAN)))
# The plan has the steps of each folder, and a sentence that says how long all take. It is made from
# a dry run of each chapter in each folder, and from what such commands took on another machine.
NUMBERS := cifar10=60000 cifar100=60000 imagenette=13394 tiny-imagenet=55000 food101=101000 \
  shapes=25000
IMAGES = $(or $(patsubst $(DATASET)=%,%,$(filter $(DATASET)=%,$(NUMBERS))),\
  $(if $(wildcard $(DATASET)/.),$(shell find -L $(DATASET) -type f | wc -l)))
AT_A_TIME = $(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),2)
LOOP = { TIMEFORMAT=%R; time eval "$$(sed -n 2p docs/costs.tsv | cut -f 1)"; } 2>&1
dry_run = MAKEFLAGS= $(foreach name,$(SHARED),$(name)='$($(name))') $(MAKE) --no-print-directory -n \
  -f docs/thesis.mk CHAPTERS=$3 OUT=$(call folder,$(addprefix -untrained,$2)) SEED=$2 2> /dev/null | \
  sed $$'s/^/$1\t$3\t/';
ifeq ($(DRY)$(if $(GOALS),,none),)
# A name that is no file needs to be a data set's, a URL or a pattern, unless it is embedded already.
ifeq ($(wildcard $(DATASET) $(call folder)/img.h5)$(findstring :,$(DATASET))$(findstring {,$(DATASET)),)
NAMED := $(shell test ! -x $(BIN)/clipkit || $(BIN)/clipkit list datasets --no-header | cut -f 1)
$(if $(and $(NAMED),$(if $(filter $(DATASET),$(NAMED)),,unknown)),$(error DATASET: there is no file \
  or folder $(DATASET), and no data set is called so; known: $(NAMED)))
endif
PLAN := $(shell { $(foreach goal,$(GOALS),$(call dry_run,model,,$(goal)) \
  $(foreach seed,$(CONTROL_SEEDS),$(call dry_run,$(seed),$(seed),$(goal)))) } | \
  awk -v images='$(IMAGES)' -v limit='$(LIMIT)' -v loop=$$($(LOOP)) -v jobs=$(AT_A_TIME) \
  -v cores=$$(getconf _NPROCESSORS_ONLN) -f docs/costs.awk docs/costs.tsv -)
COUNTS := $(foreach word,$(PLAN),$(if $(findstring =,$(word)),$(word)))
$(if $(filter-out $(COUNTS),$(PLAN)),$(info $(filter-out $(COUNTS),$(PLAN))))
endif
ifneq ($(and $(filter chapter4,$(GOALS)),$(filter-out $(HIGH_RESOLUTION),$(DATASET))),)
$(info # chapter 4, higher resolution: skipped, since $(DATASET) is none of $(HIGH_RESOLUTION))
endif

endif

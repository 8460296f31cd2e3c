# make help lists the targets.
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := results/demo/tiny-shapes

.PHONY: help install demo test lint format docs bench fuzz tiny clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z0-9%.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## Make .venv and install clipkit with what its tests need

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

test: lint  ## Run the linters and the tests
	$(BIN)/python -m pytest -m "not slow"

lint: $(INSTALLED)  ## Check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)  ## Mend style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

demo: $(INSTALLED)  ## The pipeline on the bundled data set and model, beside an untrained twin: a table and four pictures
	@$(MAKE) --no-print-directory tour MODEL=tiny DATASET=shapes UNTRAINED=7 LIMIT=5000 RESULTS=results/demo
	@cat $(DEMO)/report.md
	@echo
	@echo "The pictures:"
	@ls $(DEMO)/*.png

docs: $(INSTALLED)  ## Run the examples in README.md and docs/ again and write down what they print
	$(BIN)/python docs/examples.py

bench: $(INSTALLED)  ## Time clipkit beside what it replaces: make bench BENCH="--images 4096 --rows 1000000"
	$(BIN)/python tests/bench/bench.py $(BENCH)

fuzz: $(INSTALLED)  ## Read 56,000 damaged files; kill real runs at 50 random points
	$(BIN)/python tests/fuzz/run.py --cases 24000
	$(BIN)/python -m pytest -m slow

tiny: $(INSTALLED)  ## Train the bundled model again: ten minutes of one quiet core
	$(BIN)/python -m clipkit.tiny.train --out build/tiny

clean:  ## Remove the environment and every made file
	rm -rf $(VENV) build results .pytest_cache .mypy_cache .ruff_cache

# The thesis, chapter by chapter; `make -n thesis` reads like its method section. A data set's results are in the folder
# RESULTS/<model>-<data set>, with UNTRAINED=SEED those of the model's untrained twin beside it. A file's name tells what
# made it: generic32.logits.svm.h5 is what the SVM found in the logits of generic32. No path may hold a space.
MODEL = openai/clip-vit-base-patch32
DATASET =
ROOT =
LIMIT =
PRECISION =
DEVICE =
UNTRAINED =
RESULTS = results

comma := ,
TAUS := 1,0.5,0.07,0.05,0.03,0.02
SEEDS := 42 1 2 3 4
SETS := generic16 generic32 generic99 generic205 generic415
LARGE := imagenette tiny-imagenet food101

.PHONY: thesis chapter2 chapter3 chapter4 chapter5 resolution tour
thesis: chapter2 chapter3 chapter4 chapter5  ## All of: (MODEL DATASET ROOT LIMIT PRECISION DEVICE UNTRAINED RESULTS)
chapter2:  ## Baseline and zero-shot
chapter3:  ## Class-agnostic prompts, and the entropy of their logits
chapter4:  ## Temperature, classifiers, prompt vocabularies, higher resolution
chapter5:  ## Clustering

chapter2 := img.svm.h5 img.logreg.h5 img.svm.confusion.png img.svm.classes.png \
  $(addprefix classes.logits.zeroshot.,h5 confusion.png classes.png)
chapter3 := generic16.logits.svm.h5 generic16.logits.entropy.h5 generic32.logits.logreg.h5 \
  $(addprefix generic32.logits.,svm.h5 entropy.h5 entropy.png confidence.png logits.png similarity.png)
chapter4 := $(addprefix generic32.logits.,sweep.h5 svm-val.h5 logreg-val.h5 mlp-val.h5 trade.h5 trade-probs.h5) \
  $(foreach set,$(SETS),$(addprefix $(set).logits.,svm.h5 few.h5 entropy.h5)) \
  $(foreach set,$(SETS:generic%=random%),$(SEEDS:%=$(set)-%.svm.h5) $(set)-42.few.h5) \
  $(addprefix generic32.logits.,sweep.temperature.png trade.grid.png trade-probs.grid.png) classifiers.png spectrum.png
chapter5 := $(foreach file,img generic32.logits generic415.logits,\
  $(SEEDS:%=$(file).cluster-%.h5) $(file).cluster-$(firstword $(SEEDS)).clusters.png)
tour := images.png img.svm.h5 classes.logits.zeroshot.h5 classes.logits.zeroshot.outlines.png \
  $(addprefix generic32.logits.,sweep.h5 entropy.h5 sweep.temperature.png similarity.png)
resolution := $(foreach set,generic32 food32,$(set).logits.svm.h5 $(set).logits.entropy.h5)

chapters := chapter2 chapter3 chapter4 chapter5
asked := $(filter $(chapters) resolution tour,$(MAKECMDGOALS:thesis=$(chapters)))

# A misspelt DATASET would be five data sets, a space in a path two targets.
names := MODEL DATASET ROOT LIMIT PRECISION DEVICE UNTRAINED RESULTS SEEDS SETS VENV PYTHON INSTALLED CIFAR10
given = $(foreach word,$(MAKEOVERRIDES),$(if $(findstring =,$(word)),$(firstword $(subst =, ,$(word)))))
ifneq ($(asked),)
$(foreach name,$(filter-out $(names),$(given)),$(error no variable is called $(name); there are $(names)))
$(foreach name,MODEL DATASET ROOT LIMIT UNTRAINED RESULTS,$(if $(word 2,$($(name))),\
  $(error $(name) must hold no space; got $($(name)))))
endif

ifeq ($(DATASET),)  # the thesis's own, each in a make of its own
cifar10 := $(filter chapter2,$(asked))
cifar100 := $(asked)
$(foreach data,$(LARGE),$(eval $(data) := $(and $(filter chapter4,$(asked)),resolution)))

.PHONY: cifar10 cifar100 $(LARGE)
$(asked): cifar10 cifar100 $(LARGE)
cifar10 cifar100 $(LARGE): | $(INSTALLED)
	$(if $($@),$(MAKE) --no-print-directory $($@) DATASET=$@)
else

base = $(notdir $(patsubst %/,%,$(patsubst %/openai,%,$(subst ViT-B/,ViT-B-,$(subst ViT-L/,ViT-L-,$1)))))
OUT := $(RESULTS)/$(call base,$(MODEL))-$(call base,$(DATASET))
twin = $(RESULTS)/$(call base,$(MODEL))-untrained$1-$(call base,$(DATASET))

# Results of other settings are not mixed.
settings := MODEL=$(MODEL:%/=%) DATASET=$(DATASET:%/=%) LIMIT=$(LIMIT) PRECISION=$(PRECISION)
differ = $(and $(wildcard $1/settings),$(subst <$(settings)>,,<$(shell cat $1/settings)>))
twins := $(patsubst %/img.h5,%,$(wildcard $(call twin,*)/img.h5))
TWIN := $(if $(UNTRAINED),$(call twin,$(UNTRAINED)),$(firstword $(foreach folder,$(twins),\
  $(if $(call differ,$(folder)),,$(folder)))))
stale := $(foreach folder,$(OUT) $(TWIN),$(if $(call differ,$(folder)),$(folder)))
ifneq ($(asked),)
$(foreach folder,$(stale),$(if $(wildcard $(folder)/img.h5*),$(error $(folder)/settings says \
  $(shell cat $(folder)/settings), not $(settings): remove its folder, or name another with RESULTS=)))
.PHONY: $(stale:%=%/settings)  # written again, since nothing was made by them
endif

ifneq ($(filter $(DATASET),$(LARGE)),)
chapter4 += $(resolution)
else ifneq ($(and $(filter chapter4,$(asked)),$(filter 0,$(MAKELEVEL))),)
$(info # chapter 4, higher resolution: skipped, since $(DATASET) is none of $(LARGE))
endif

files := $(foreach chapter,$(asked),$($(chapter)))
numbers := img.h5 $(filter %.h5,$(files)) $(and $(filter chapter4,$(asked)),$(SETS:%=%.h5))
$(asked): $(OUT)/report.md
$(OUT)/report.md: $(addprefix $(OUT)/,$(numbers) $(filter %.png,$(files))) $(and $(UNTRAINED),$(addprefix $(TWIN)/,$(numbers)))
	clipkit report $(OUT) $(TWIN:%=--untrained % )-f -o $@

# A report of another twin is none.
ifneq ($(and $(UNTRAINED),$(wildcard $(OUT)/report.md)),)
.PHONY: $(if $(shell grep -F 'untrained (seed $(UNTRAINED))' $(OUT)/report.md),,$(OUT)/report.md)
endif

# What results are made of is kept, but not missed when it is gone and they are there.
material := settings img.h5 classes.h5 classes.logits.h5 $(foreach set,$(SETS) food32,$(set).h5 $(set).logits.h5)
.SECONDARY: $(foreach folder,$(OUT) $(TWIN),$(addprefix $(folder)/,$(material)))

endif

encoder = --model $(MODEL)$(addprefix $() --untrained ,$(untrained))$(PRECISION:%= --precision %)$(DEVICE:%= --device %)
rows = $(ROOT:%= --root %)$(LIMIT:%= --limit %)$(if $(filter tiny-imagenet,$(DATASET)), --classes 100)
few := --classifier logreg --shots 20 -t $(TAUS) --val 0.1
$(RESULTS)/%: export PATH := $(abspath $(BIN)):$(PATH)
$(INSTALLED): export PATH := $(PATH)
$(TWIN)/%: untrained := $(UNTRAINED)

.SECONDEXPANSION:
%/settings: | $(INSTALLED)
	mkdir -p $(@D)
	echo '$(settings)' > $@

%/img.h5: | %/settings  # exit code 3: some images cannot be used, and the report says how many
	clipkit embed $(DATASET)$(rows) $(encoder) -o $@ || test $$? = 3

%.h5: prompts/$$(*F).txt | $$(@D)/settings
	clipkit textembed $< $(encoder) -f -o $@

%/classes.h5: %/img.h5
	clipkit textembed --classes $< --template "a photo of a {}" $(encoder) -f -o $@

%.logits.h5: $$(@D)/img.h5 %.h5
	clipkit logits $^ -f -o $@

%.zeroshot.h5: %.h5
	clipkit zeroshot $< -f -o $@

%.entropy.h5: %.h5
	clipkit entropy $< -t $(TAUS) -f -o $@

%.svm.h5: %.h5
	clipkit probe $< -f -o $@

%.logreg.h5: %.h5
	clipkit probe $< --classifier logreg -f -o $@

%.sweep.h5: %.h5
	clipkit probe $< -t $(TAUS) -f -o $@

%-val.h5: $$(basename $$*).h5
	clipkit probe $< --classifier $(subst .,,$(suffix $*)) -t $(TAUS) --val 0.1 -f -o $@

# tau falls by 2 and C grows by 4, so that C / tau^2 recurs; probabilities are 32 times smaller, their C 32^2 times larger.
%.trade.h5: %.h5
	clipkit probe $< --shots 20 -t 1,0.5,0.25,0.125,0.0625 -C 0.25,1,4,16 -f -o $@

%.trade-probs.h5: %.h5
	clipkit probe $< --shots 20 --features probs -t 1,0.5,0.25,0.125,0.0625 -C 256,1024,4096,16384 -f -o $@

%.few.h5: %.h5
	clipkit probe $< $(few) -f -o $@

random%-42.few.h5: $$(@D)/img.h5
	clipkit logits $< --random $(*F) --seed 42 | clipkit probe $(few) -f -o $@

define seeded
random%-$1.svm.h5: $$$$(@D)/img.h5
	clipkit logits $$< --random $$(*F) --seed $1 | clipkit probe -f -o $$@

%.cluster-$1.h5: %.h5
	clipkit cluster $$< --seed $1 -f -o $$@

endef
$(eval $(foreach seed,$(SEEDS),$(call seeded,$(seed))))

%.png: $$(basename $$*).h5
	clipkit plot $(subst .,,$(suffix $*)) $< $(if $(filter %.entropy %.confidence,$*),-t 1$(comma)0.07$(comma)0.02 )-f -o $@

%/images.png: | %/settings
	clipkit plot images $(DATASET)$(ROOT:%= --root %) -f -o $@

%.outlines.png: %.h5
	clipkit plot confusion $< --groups prompts/groups/shapes-outlines.tsv -f -o $@

%/classifiers.png: $(foreach classifier,svm logreg mlp,%/generic32.logits.$(classifier)-val.h5)
	clipkit plot temperature $^ --split val -f -o $@

%/spectrum.png: $(foreach set,$(SETS),%/$(set).h5)
	clipkit plot spectrum $^ -f -o $@

CIFAR10 =
PAGE := build/thesis
.PHONY: thesis-page
thesis-page: $(INSTALLED)  ## Make docs/thesis.md's numbers and pictures again (CIFAR10=FOLDER of image files), in half an hour
	test -d '$(CIFAR10)'
	rm -rf $(PAGE)
	$(MAKE) chapter3 MODEL=tiny DATASET=shapes LIMIT=500 PRECISION=fp32 UNTRAINED=7 RESULTS=$(PAGE)/small
	$(MAKE) thesis MODEL=tiny DATASET=shapes UNTRAINED=7 RESULTS=$(PAGE)
	cd tests && $(abspath $(BIN))/python -c 'from clip_factory import *; vit_b32(Path("../$(PAGE)/vit-b-32"))'
	$(MAKE) thesis MODEL=$(PAGE)/vit-b-32 DATASET=$(CIFAR10) LIMIT=2000 RESULTS=$(PAGE)
	$(BIN)/python docs/thesis.py $(PAGE)

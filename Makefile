# `make help` lists the targets. The first part of this file is for developers. The second part
# repeats the thesis, chapter by chapter. The third part selects the files that a run makes.
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := results/demo/tiny-shapes
# Two processes share the tests. Each begins with one half and helps the other at the end.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: help install demo test test-quick lint format docs site bench fuzz tiny clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z0-9%.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## Create .venv and install clipkit with its development tools

$(INSTALLED): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## Run the pipeline on the bundled data set and model, with an untrained control
	@$(MAKE) --no-print-directory tour MODEL=tiny DATASET=shapes LIMIT=5000 \
	  RESULTS=results/demo
	@cat $(DEMO)/report.md
	@echo
	@echo "The same report with pictures, for a browser:"
	@ls $(DEMO)/report.html

test: lint  ## Run the linters and the tests
	$(PYTEST) -m "not slow"

test-quick: $(INSTALLED)  ## Run the quick tests, in about a minute on two cores
	$(PYTEST) -m "not slow and not long"

lint: $(INSTALLED)  ## Check style, formatting, types and the layers of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Fix style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(INSTALLED)  ## Run the examples of README.md and docs/ again and record their output
	$(BIN)/python docs/examples.py

site: $(INSTALLED)  ## Build README.md and docs/ as a site in build/site/html
	$(BIN)/python docs/website.py

bench: $(INSTALLED)  ## Time clipkit and the code that it replaces (BENCH="--only probes" ...)
	$(BIN)/python tests/bench/bench.py $(BENCH)

fuzz: $(INSTALLED)  ## Test hostile inputs, signals and full disks, in half an hour (FUZZ="--seed 1")
	$(BIN)/python tests/fuzz/run.py $(FUZZ)
	$(BIN)/python -m pytest -m slow

tiny: $(INSTALLED)  ## Train the bundled model again, in ten minutes on one idle core
	PYTHONPATH=tests $(BIN)/python -m training.train --out build/tiny

clean:  ## Remove the environment and all generated files
	rm -rf $(VENV) build results .pytest_cache .mypy_cache .ruff_cache

# ---- The thesis, chapter by chapter --------------------------------------------------------------
#
# Each chapter lists its results and then the rules that make them. A file's name says how it was
# made: generic32.logits.svm.h5 is the result of an SVM on the logits of the prompt set generic32.
# `make -n thesis` prints all commands.
MODEL = openai/clip-vit-base-patch32
DATASET =
ROOT =
LIMIT =
PRECISION =
DEVICE =
UNTRAINED = 7
# All chapters score the split test. In a folder without one, it is a fifth of the images.
SPLITS := test val valid validation
SPLIT_OFF = $(if $(wildcard $(DATASET)/.),$(if $(wildcard $(SPLITS:%=$(DATASET)/%/.)),,test=0.2))
TABLE = $(if $(filter shapes,$(DATASET)),shapes)
WORDS = $(if $(filter shapes,$(DATASET)),prompts/attributes/shapes.tsv)
ATTRIBUTES = $(if $(filter shapes,$(DATASET)),outline pattern colour)
RESULTS = results

TEMPERATURES := 1,0.5,0.07,0.05,0.03,0.02,0.01,0.005
SEEDS := 42 1 2 3 4
SEED := $(firstword $(SEEDS))
SETS := generic16 generic32 generic99 generic205 generic415
RANDOM_SETS := $(SETS:generic%=random%)
HIGH_RESOLUTION := imagenette tiny-imagenet food101

# $(call option,limit,50) is --limit 50. If the value is empty, it is nothing.
option = $(if $2,--$1 $2)
MODEL_OPTIONS = $(strip --model $(MODEL) $(call option,untrained,$(seed)) \
  $(call option,precision,$(PRECISION)) $(call option,device,$(DEVICE)))
DATA_OPTIONS = $(strip $(call option,root,$(ROOT)) $(call option,limit,$(LIMIT)) \
  $(call option,split-off,$(SPLIT_OFF)) $(if $(filter tiny-imagenet,$(DATASET)),--max-classes 100))

# The last word of a name such as img.svm.confusion.
last_word = $(subst .,,$(suffix $1))

.PHONY: thesis chapter2 chapter3 chapter4 chapter5 chapter6 layers resolution tour
.SECONDEXPANSION:
thesis: chapter2 chapter3 chapter4 chapter5 chapter6  ## Run all chapters (MODEL=... DATASET=...)

# Chapter 2. A linear SVM on image embeddings is the supervised baseline. Zero-shot classification
# predicts the class of the most similar prompt.
chapter2:  ## Run the supervised baseline and zero-shot classification
chapter2 := \
  img.svm.h5 img.svm.confusion.png img.svm.classes.png img.svm-c.h5 img.logreg.h5 \
  $(addprefix classes.logits.zeroshot.,h5 confusion.png classes.png)

# Exit code 3 says that images were skipped, or that a report leaves files out. The report names them.
%/img.h5: | %/settings
	clipkit embed $(strip $(DATASET) $(DATA_OPTIONS) $(MODEL_OPTIONS)) -o $@ || test $$? = 3

%.svm.h5: %.h5
	clipkit probe $< -f -o $@

%.svm-c.h5: %.h5
	clipkit probe $< -C 0.0001,0.001,0.01,0.1,1 --val 0.1 -f -o $@

%.logreg.h5: %.h5
	clipkit probe $< --classifier logreg -f -o $@

%/classes.h5: %/img.h5
	clipkit textembed --classes $< --template "a photo of a {}" $(MODEL_OPTIONS) -f -o $@

%.logits.h5: $$(@D)/img.h5 %.h5
	clipkit logits $^ -f -o $@

%.zeroshot.h5: %.h5
	clipkit zeroshot $< -f -o $@

# Chapter 3. The same SVM on the logits of prompts that name no class, and the entropy of their
# softmax.
chapter3:  ## Probe the logits of class-agnostic prompts and measure their entropy
chapter3 := \
  $(addprefix generic16.logits.,svm.h5 entropy.h5) \
  $(addprefix generic32.logits.,svm.h5 logreg.h5 entropy.h5) \
  $(addprefix generic32.logits.,entropy.png confidence.png logits.png similarity.png)

%.h5: prompts/$$(*F).txt | $$(@D)/settings
	clipkit textembed $< $(MODEL_OPTIONS) -f -o $@

%.entropy.h5: %.h5
	clipkit entropy $< -t $(TEMPERATURES) -f -o $@

# Chapter 4. The effect of temperature, classifier and number of prompts. The controls are a grid of
# tau and C, random directions, and whitened prompts with few shots.
chapter4:  ## Vary temperature, classifier, prompts and image resolution
chapter4 := \
  $(addprefix generic32.logits.,sweep.h5 sweep.temperature.png) \
  $(addprefix generic32.logits.,c-tau-grid.h5 c-tau-grid.grid.png) \
  $(addprefix generic32.logits.,c-tau-grid-probs.h5 c-tau-grid-probs.grid.png) \
  $(addprefix generic32.logits.,svm-val.h5 logreg-val.h5 mlp-val.h5) classifiers.png \
  $(SETS:%=%.h5) spectrum.png \
  $(SETS:%=%.logits.svm.h5) $(SETS:%=%.logits.entropy.h5) \
  $(foreach seed,$(SEEDS),$(RANDOM_SETS:%=%-$(seed).svm.h5) $(RANDOM_SETS:%=%-$(seed).fewshot.h5) \
    $(SETS:%=%.logits.fewshot-$(seed).h5) $(SETS:%=%.whitened.fewshot-$(seed).h5) \
    salad32-$(seed).logits.fewshot-$(seed).h5)
resolution := $(foreach set,generic32 food32,$(set).logits.svm.h5 $(set).logits.entropy.h5)

%.sweep.h5: %.h5
	clipkit probe $< -t $(TEMPERATURES) -f -o $@

# tau falls by a factor of 2 and C grows by a factor of 4, so that values of C / tau^2 recur.
# Probabilities are about 32 times smaller than cosines, so their C is 32^2 times larger.
c_tau_grid = clipkit probe $< --shots 20 -t 1,0.5,0.25,0.125,0.0625
%.c-tau-grid.h5: %.h5
	$(c_tau_grid) -C 0.25,1,4,16 -f -o $@

%.c-tau-grid-probs.h5: %.h5
	$(c_tau_grid) --features probs -C 256,1024,4096,16384 -f -o $@

%-val.h5: $$(basename $$*).h5
	clipkit probe $< --classifier $(call last_word,$*) -t $(TEMPERATURES) --val 0.1 -f -o $@

%.whitened.h5: $$(@D)/img.h5 %.h5
	clipkit logits $^ --whiten -f -o $@

FEWSHOT := --classifier logreg --shots 20 -t 1,0.3,0.1,0.03,0.01 --val 0.1
define fewshot_with_seed
%.fewshot-$1.h5: %.h5
	clipkit probe $$< $(FEWSHOT) --seed $1 -f -o $$@
endef
$(foreach seed,$(SEEDS),$(eval $(call fewshot_with_seed,$(seed))))

# random32-42 names 32 random directions of seed 42.
random_logits = clipkit logits $< --random $(subst -, --seed ,$(*F))
random%.svm.h5: $$(@D)/img.h5
	$(random_logits) | clipkit probe -f -o $@

random%.fewshot.h5: $$(@D)/img.h5
	$(random_logits) | clipkit probe $(FEWSHOT) --seed $(lastword $(subst -, ,$(*F))) -f -o $@

# salad32-42.txt has the words of generic32.txt in random order, with seed 42.
define salad_with_seed
%/salad32-$1.txt: prompts/generic32.txt prompts/word-salad.awk | %/settings
	awk -v seed=$1 -f prompts/word-salad.awk $$< > $$@

%/salad32-$1.h5: %/salad32-$1.txt
	clipkit textembed $$(strip $$< $$(MODEL_OPTIONS)) -f -o $$@
endef
$(foreach seed,$(SEEDS),$(eval $(call salad_with_seed,$(seed))))

# Chapter 5. k-means on image embeddings and on logits, once per seed.
chapter5:  ## Cluster image embeddings and logits
chapter5 := $(foreach features,img generic32.logits generic415.logits,\
  $(SEEDS:%=$(features).cluster-%.h5) $(features).cluster-$(SEED).clusters.png)

define cluster_with_seed
%.cluster-$1.h5: %.h5
	clipkit cluster $$< --seed $1 -f -o $$@
endef
$(foreach seed,$(SEEDS),$(eval $(call cluster_with_seed,$(seed))))

# Chapter 6. Measure for each attribute what probes, words and controls recognise. TABLE has the
# attributes of the images, and WORDS has the words for their values. Without them, the only
# attribute is the class.
chapter6:  ## Measure attributes, calibration and few shots (TABLE=... WORDS=...)
chapter6 := \
  img.variance.h5 img.attributes.h5 $(if $(TABLE),variance.png attributes.png) \
  classes.logits.zeroshot.h5 classes.logits.calibrate.h5 reliability.png \
  img.shots.h5 shots.png

%/words.h5: $(WORDS) %/table
	clipkit textembed --classes $< --template "{}" $(MODEL_OPTIONS) -f -o $@

words := %/$(if $(WORDS),words,classes).h5
attribute_options = $(strip $(call option,table,$(TABLE)) $(CONTROLS:%=--control %/img.h5))
%/img.attributes.h5: %/img.h5 $(words) %/table $$(CONTROL_IMAGES)
	clipkit attributes $(strip $(wordlist 1,2,$^) $(attribute_options)) -f -o $@

%/img.variance.h5: %/img.h5 %/table $$(CONTROL_IMAGES)
	clipkit variance $(strip $< $(attribute_options)) -f -o $@

%.calibrate.h5: %.h5
	clipkit calibrate $< -t 1,model -f -o $@

%.shots.h5: %.h5
	clipkit probe $< --classifier logreg --shots 1,2,4,8,16 --repeat 5 -f -o $@

%/attributes.png: %/img.attributes.h5
	clipkit plot attributes $< -f -o $@

%/variance.png: %/img.variance.h5
	clipkit plot variance $< -f -o $@

%/reliability.png: %/classes.logits.h5
	clipkit plot reliability $< -t 1,model -f -o $@

%/shots.png: %/img.shots.h5 %/classes.logits.zeroshot.h5 $$(CONTROL_SHOTS)
	clipkit plot shots $(filter %.shots.h5,$^) --zeroshot $*/classes.logits.zeroshot.h5 -f -o $@

# Layers. The same SVM on the hidden states of each layer, for the class and for each of ATTRIBUTES,
# which TABLE must have. One pass embeds all layers. Only then it is known how many there are, so
# that a second make probes them.
layers:  ## Probe every layer of a model (TABLE=... ATTRIBUTES="... ...")
layers := img.svm.h5 $(ATTRIBUTES:%=img.%.svm.h5) layers.png

%/layers.stamp: | %/settings
	clipkit embed $(strip $(DATASET) $(DATA_OPTIONS) $(MODEL_OPTIONS)) --layers all \
	  -f -o '$(@D)/img.l{layer}.h5' || test $$? = 3
	touch $@

define probe_attribute
%.$1.svm.h5: %.h5 $$$$(OUT)/table
	clipkit relabel $$< --table $(TABLE) --attribute $1 | clipkit probe -f -o $$@
endef
$(foreach attribute,$(ATTRIBUTES),$(eval $(call probe_attribute,$(attribute))))

drawn_layers = img.svm.h5 img.l*[0-9].svm.h5 \
  $(foreach attribute,$(ATTRIBUTES),img.$(attribute).svm.h5 img.l*.$(attribute).svm.h5)
%/layers.png: $$(EMBEDDING_RESULTS) $$(LAYER_STAMPS) $$(LAYER_RESULTS)
	$(MAKE) --no-print-directory layer-results
	clipkit plot layers $(strip $(foreach folder,$(@D) $(CONTROLS),\
	  $(addprefix $(folder)/,$(drawn_layers)))) -f -o $@

# Pictures. The last word of a picture's name is the subcommand of `clipkit plot`.
%.entropy.png %.confidence.png: plot_options := -t 1,0.07,0.02
%.png: $$(basename $$*).h5
	clipkit plot $(strip $(call last_word,$*) $< $(plot_options)) -f -o $@

%.outlines.png: %.h5
	clipkit plot confusion $< --groups prompts/groups/shapes-outlines.tsv -f -o $@

%/images.png: | %/settings
	clipkit plot images $(strip $(DATASET) $(call option,root,$(ROOT))) -f -o $@

%/classifiers.png: $(foreach classifier,svm logreg mlp,%/generic32.logits.$(classifier)-val.h5)
	clipkit plot temperature $^ -f -o $@

%/spectrum.png: $(foreach set,$(SETS),%/$(set).h5)
	clipkit plot spectrum $^ -f -o $@

# ---- Which files the chapters make ---------------------------------------------------------------
#
# The results of a data set are in the folder RESULTS/<model>-<data set>, and those of the untrained
# control in RESULTS/<model>-untrained<seed>-<data set>. UNTRAINED=7,8,9 makes three controls, and
# UNTRAINED= makes none.
tour := \
  images.png img.svm.h5 classes.logits.zeroshot.h5 classes.logits.zeroshot.outlines.png \
  $(addprefix generic32.logits.,sweep.h5 sweep.temperature.png entropy.h5 similarity.png) \
  img.attributes.h5 attributes.png
CHAPTERS := chapter2 chapter3 chapter4 chapter5 chapter6
GOALS := $(filter $(CHAPTERS) layers resolution tour,$(patsubst thesis,$(CHAPTERS),$(MAKECMDGOALS)))

# Refuse unknown variables, since a misspelt DATASET would run all data sets. Refuse spaces, since
# make would take a path with a space for two targets.
VARIABLES := MODEL DATASET ROOT LIMIT SPLIT_OFF PRECISION DEVICE UNTRAINED TABLE WORDS \
  ATTRIBUTES RESULTS SEEDS SETS VENV PYTHON INSTALLED CIFAR10
WITHOUT_SPACE := MODEL DATASET ROOT LIMIT SPLIT_OFF UNTRAINED TABLE WORDS RESULTS
ifneq ($(GOALS),)
set_by_user = $(findstring command line,$(origin $1))
$(foreach name,$(filter-out $(VARIABLES),$(.VARIABLES)),$(if $(call set_by_user,$(name)),\
  $(error unknown variable $(name); known: $(VARIABLES))))
$(foreach name,$(WITHOUT_SPACE),$(if $(word 2,$($(name))),\
  $(error $(name): expected no space, got $($(name)))))
endif

ifeq ($(DATASET),)
# Without DATASET, run a separate make for each of the thesis's data sets.
DATASETS := cifar10 cifar100 $(HIGH_RESOLUTION)
.PHONY: $(DATASETS)
$(GOALS): $(DATASETS)
cifar10: chapters := $(filter chapter2,$(GOALS))
cifar100: chapters := $(GOALS)
$(HIGH_RESOLUTION): chapters := $(if $(filter chapter4,$(GOALS)),resolution)
$(DATASETS): | $(INSTALLED)
	$(if $(chapters),$(MAKE) --no-print-directory $(chapters) DATASET=$@)
else

# The slug of a model or data set is its part in the folder's name: the last part of a path or of a
# Hub id. The slash of a name such as ViT-B/32 becomes a hyphen.
last_part = $(if $(filter ViT-%,$1),$(subst /,-,$1),$(notdir $1))
slug = $(call last_part,$(patsubst %/openai,%,$(patsubst %/,%,$1)))
control_folder = $(RESULTS)/$(call slug,$(MODEL))-untrained$1-$(call slug,$(DATASET))
OUT := $(RESULTS)/$(call slug,$(MODEL))-$(call slug,$(DATASET))

# The file `settings` of a folder records the settings of its results. settings_differ lists the
# recorded settings that differ from the current ones, and outdated the folders where some do.
SETTINGS := $(strip MODEL=$(MODEL:%/=%) DATASET=$(DATASET:%/=%) ROOT=$(ROOT:%/=%) \
  LIMIT=$(LIMIT) PRECISION=$(PRECISION) $(addprefix SPLIT_OFF=,$(SPLIT_OFF)))
recorded = $(shell cat $1/settings 2>/dev/null)
settings_differ = $(if $(recorded),$(strip $(filter-out $(SETTINGS),$(recorded)) \
  $(filter-out $(recorded) ROOT=,$(SETTINGS))))

outdated = $(foreach folder,$1,$(if $(call settings_differ,$(folder)),$(folder)))

comma := ,
untrained_seeds := $(subst $(comma), ,$(UNTRAINED))
CONTROLS := $(foreach seed,$(untrained_seeds),$(call control_folder,$(seed)))
CONTROL_IMAGES := $(CONTROLS:%=%/img.h5)
CONTROL_SHOTS := $(CONTROLS:%=%/img.shots.h5)

# The probes of embeddings, and of the layers that are embedded so far
probes = $(1:.h5=.svm.h5) $(foreach attribute,$(ATTRIBUTES),$(1:.h5=.$(attribute).svm.h5))
EMBEDDING_RESULTS := $(call probes,$(OUT)/img.h5 $(CONTROL_IMAGES))
LAYER_STAMPS := $(addsuffix /layers.stamp,$(OUT) $(CONTROLS))
LAYER_RESULTS := $(call probes,$(foreach folder,$(OUT) $(CONTROLS),\
  $(wildcard $(folder)/img.l[0-9].h5 $(folder)/img.l[0-9][0-9].h5)))
.PHONY: layer-results
layer-results: $(LAYER_RESULTS)

# A folder of other settings gets the new ones if it has no embeddings. Else its results would mix.
OUTDATED := $(call outdated,$(OUT) $(CONTROLS))
$(OUTDATED:%=%/settings): FORCE
MIXED := $(firstword $(patsubst %/,%,$(dir $(wildcard $(OUTDATED:%=%/img.*h5*)))))
ifneq ($(and $(GOALS),$(MIXED)),)
$(error $(MIXED)/settings: expected $(SETTINGS), got $(shell cat $(MIXED)/settings); \
  hint: remove the folder, or choose another one with RESULTS=)
endif

ifneq ($(filter $(DATASET),$(HIGH_RESOLUTION)),)
chapter4 += $(resolution)
else ifneq ($(and $(filter chapter4,$(GOALS)),$(filter 0,$(MAKELEVEL))),)
$(info # chapter 4, higher resolution: skipped, since $(DATASET) is none of $(HIGH_RESOLUTION))
endif

# Each chapter ends with a report on everything in the folder, as Markdown and for a browser.
FILES := img.h5 $(foreach goal,$(GOALS),$($(goal)))
# The results on attributes and variance include the controls, so the controls have none.
OF_CONTROLS := $(filter-out img.attributes.h5 img.variance.h5,$(filter %.h5,$(FILES)))
CONTROL_FILES := $(foreach control,$(CONTROLS),$(addprefix $(control)/,$(OF_CONTROLS)))
$(GOALS): $(OUT)/report.html
report_folder = clipkit report $(strip $(OUT) $(CONTROLS:%=--untrained %)) -f -o $@
$(OUT)/report.md: $(addprefix $(OUT)/,$(FILES)) $(CONTROL_FILES)
	$(report_folder) || test $$? = 3

$(OUT)/report.html: $(OUT)/report.md
	$(report_folder) --images $(DATASET) $(call option,root,$(ROOT)) || test $$? = 3
	@echo 'Open the report in a browser: $@'

# Make the report again if it lacks a control that UNTRAINED names.
reported = $(shell grep -sF 'untrained (seed $1)' $(OUT)/report.md)
ifneq ($(foreach seed,$(untrained_seeds),$(if $(call reported,$(seed)),,$(seed))),)
.PHONY: $(OUT)/report.md
endif

# Measure the attributes again if TABLE, WORDS or UNTRAINED differ from the recorded ones.
ATTRIBUTE_SETTINGS := TABLE=$(TABLE) WORDS=$(WORDS) UNTRAINED=$(UNTRAINED)
ifneq ($(shell cat $(OUT)/table 2>/dev/null),$(ATTRIBUTE_SETTINGS))
$(OUT)/table: FORCE
endif

# Keep intermediate files, but do not rebuild them if only they are missing.
INTERMEDIATE := settings table layers.stamp img.h5 classes.h5 classes.logits.h5 words.h5 \
  $(foreach set,$(SETS) food32,$(set).h5 $(set).logits.h5 $(set).whitened.h5) \
  $(foreach seed,$(SEEDS),$(addprefix salad32-$(seed),.txt .h5 .logits.h5))
.SECONDARY: $(foreach folder,$(OUT) $(CONTROLS),$(INTERMEDIATE:%=$(folder)/%))

endif

%/settings: | $(INSTALLED)
	mkdir -p $(@D)
	echo '$(SETTINGS)' > $@

%/table: $(wildcard $(TABLE)) $(WORDS) | %/settings
	echo '$(ATTRIBUTE_SETTINGS)' > $@

# A pattern rule is not tried for a phony target, so that this is what a changed setting needs.
.PHONY: FORCE
FORCE:

# Recipes find clipkit on the PATH, so that a dry run reads like a session. Only the environment
# itself is made by the user's Python.
$(RESULTS)/%: export PATH := $(abspath $(BIN)):$(PATH)
$(INSTALLED): export PATH := $(PATH)
define control_settings
$(call control_folder,$1)/%: seed := $1
# An SVM on features without information takes very long at lower temperatures.
$(call control_folder,$1)/%: TEMPERATURES := 1,0.5,0.07,0.05,0.03,0.02,0.01
endef
$(foreach seed,$(untrained_seeds),$(eval $(call control_settings,$(seed))))

# ---- The numbers and pictures of docs/thesis.md --------------------------------------------------
CIFAR10 =
PAGE := build/thesis
VIT_B32 := $(PAGE)/vit-b-32
.PHONY: thesis-page
thesis-page: $(INSTALLED)  ## Update docs/thesis.md, in about an hour (CIFAR10=FOLDER of images)
	test -d '$(CIFAR10)'
	rm -rf $(PAGE)
	$(MAKE) chapter3 MODEL=tiny DATASET=shapes LIMIT=500 PRECISION=fp32 \
	  RESULTS=$(PAGE)/small
	$(MAKE) thesis MODEL=tiny DATASET=shapes RESULTS=$(PAGE)
	PYTHONPATH=tests $(BIN)/python -c \
	  'import pathlib, clip_factory; clip_factory.vit_b32(pathlib.Path("$(VIT_B32)"))'
	$(MAKE) thesis MODEL=$(VIT_B32) DATASET=$(CIFAR10) LIMIT=2000 UNTRAINED= RESULTS=$(PAGE)
	$(BIN)/python docs/thesis.py $(PAGE)

# The results of CHAPTERS for one model and one data set, in the folder OUT. The Makefile calls this
# file for a model and for its untrained controls, whose seed is in SEED and whose pictures are not
# drawn. It sets the other variables, and finds clipkit on the PATH, so that a dry run reads like a
# session.
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c
.DEFAULT_GOAL := results
comma := ,
option = $(if $2,--$1 $2)
MODEL_OPTIONS = $(strip --model $(MODEL) $(call option,untrained,$(SEED)) \
  $(call option,precision,$(PRECISION)) $(call option,device,$(DEVICE)))
DATA_OPTIONS = $(strip $(call option,root,$(ROOT)) $(call option,limit,$(LIMIT)) \
  $(call option,split-off,$(SPLIT_OFF)) $(if $(filter tiny-imagenet,$(DATASET)),--max-classes 100))
# An SVM on features without information takes very long at lower temperatures.
TEMPERATURES := 1,0.5,0.07,0.05,0.03,0.02,0.01$(if $(SEED),,$(comma)0.005)
FIRST := $(firstword $(SEEDS))
LAST := $(lastword $(SEEDS))
# The prompts of a set are in the folder PROMPTS or among the bundled ones.
OWN_SETS := $(filter-out generic16 generic32 generic99 generic205 generic415,$(SETS))
prompt_file = $(firstword $(wildcard $(PROMPTS:%/=%)/$1.txt prompts/$1.txt))
$(foreach set,$(SETS),$(if $(call prompt_file,$(set)),,\
  $(error SETS: expected a file $(PROMPTS:%/=%)/$(set).txt, got none)))
count_prompts = $(shell grep -c '[^[:space:]]' $(call prompt_file,$1))
space := $(subst ,, )
EACH_SEED := --seed $(subst $(space),$(comma),$(strip $(SEEDS)))

# The groups of classes of a confusion matrix
SUPERCLASSES := $(wildcard prompts/groups/$(notdir $(DATASET:%/=%))-superclasses.tsv)

# Chapter 2. A linear SVM on image embeddings is the supervised baseline. Zero-shot classification
# predicts the class of the most similar prompt.
FILES_chapter2 := img.svm.h5 img.svm.confusion.png img.svm.classes.png img.svm-c.h5 img.logreg.h5 \
  $(addprefix classes.logits.zeroshot.,h5 confusion.png classes.png) \
  $(addsuffix .superclasses.png,$(SUPERCLASSES:%=img.svm) $(SUPERCLASSES:%=classes.logits.zeroshot))

# Exit code 3 says that images were skipped, or that a report leaves files out. The report names them.
$(OUT)/img.h5:
	clipkit embed $(strip $(DATASET) $(DATA_OPTIONS) $(MODEL_OPTIONS)) -o $@ || test $$? = 3
$(OUT)/%.svm.h5: $(OUT)/%.h5 ; clipkit probe $< -f -o $@
$(OUT)/%.svm-c.h5: $(OUT)/%.h5 ; clipkit probe $< -C 0.0001,0.001,0.01,0.1,1 --val 0.1 -f -o $@
$(OUT)/%.logreg.h5: $(OUT)/%.h5 ; clipkit probe $< --classifier logreg -f -o $@
$(OUT)/classes.h5: $(OUT)/img.h5
	clipkit textembed --classes $< --template "a photo of a {}" $(MODEL_OPTIONS) -f -o $@
$(OUT)/%.logits.h5: $(OUT)/img.h5 $(OUT)/%.h5 ; clipkit logits $^ -f -o $@
$(OUT)/%.zeroshot.h5: $(OUT)/%.h5 ; clipkit zeroshot $< -f -o $@

# Chapter 3. The same SVM on the logits of prompts that name no class, and the entropy of their
# softmax.
FILES_chapter3 := $(foreach set,$(filter generic16,$(SETS)) $(OWN_SETS),\
  $(addprefix $(set).logits.,svm.h5 entropy.h5)) $(addprefix generic32.logits.,\
  svm.h5 svm.confusion.png logreg.h5 entropy.h5 entropy.png confidence.png logits.png \
  similarity.png $(SUPERCLASSES:%=svm.superclasses.png))

$(OUT)/%.h5: $(PROMPTS:%/=%)/%.txt ; clipkit textembed $< $(MODEL_OPTIONS) -f -o $@
ifneq ($(PROMPTS:%/=%),prompts)
$(OUT)/%.h5: prompts/%.txt ; clipkit textembed $< $(MODEL_OPTIONS) -f -o $@
endif
$(OUT)/%.entropy.h5: $(OUT)/%.h5 ; clipkit entropy $< -t $(TEMPERATURES) -f -o $@

# Chapter 4. The effect of temperature, classifier and number of prompts. The controls are a grid of
# tau and C, random directions, prompts of the same words in random order, and whitened prompts with
# few shots. A rule makes the results of all SEEDS, and make knows it by the last.
RANDOM := $(sort $(filter random%,$(SETS:generic%=random%)) \
  $(foreach set,$(OWN_SETS),random$(call count_prompts,$(set))))
FILES_chapter4 := $(addprefix generic32.logits.,sweep.h5 sweep.temperature.png c-tau-grid.h5 \
  c-tau-grid.temperature.png c-tau-grid-probs.h5 c-tau-grid-probs.temperature.png svm-val.h5 logreg-val.h5 \
  mlp-val.h5) classifiers.png spectrum.png salad32.fewshot-$(LAST).h5 \
  $(foreach set,$(SETS),$(addprefix $(set),.h5 .logits.svm.h5 .logits.entropy.h5 \
    .logits.fewshot-$(LAST).h5 .whitened.fewshot-$(LAST).h5)) \
  $(foreach set,$(RANDOM),$(set).svm-$(LAST).h5 $(set).fewshot-$(LAST).h5)
FILES_high-resolution := $(foreach set,generic32 food32,\
  $(addprefix $(set).logits.,svm.h5 entropy.h5))
ifneq ($(filter $(DATASET),$(HIGH_RESOLUTION)),)
FILES_chapter4 += $(FILES_high-resolution)
endif
FEWSHOT := --classifier logreg --shots 20 -t 1,0.3,0.1,0.03,0.01 --val 0.1

$(OUT)/%.sweep.h5: $(OUT)/%.h5 ; clipkit probe $< -t $(TEMPERATURES) -f -o $@
# tau falls by a factor of 2 and C grows by a factor of 4, so that values of C / tau^2 recur.
# Probabilities are about 32 times smaller than cosines, so their C is 32^2 times larger.
C_TAU_GRID = clipkit probe $< --shots 20 -t 1,0.5,0.25,0.125,0.0625
$(OUT)/%.c-tau-grid.h5: $(OUT)/%.h5 ; $(C_TAU_GRID) -C 0.25,1,4,16 -f -o $@
$(OUT)/%.c-tau-grid-probs.h5: $(OUT)/%.h5
	$(C_TAU_GRID) --features probs -C 256,1024,4096,16384 -f -o $@
VALIDATED = clipkit probe $< -t $(TEMPERATURES) --val 0.1 -f -o $@ --classifier
$(OUT)/%.svm-val.h5: $(OUT)/%.h5 ; $(VALIDATED) svm
$(OUT)/%.logreg-val.h5: $(OUT)/%.h5 ; $(VALIDATED) logreg
# An MLP is trained for a fixed number of epochs. Standardised columns take the place of the
# temperature, and C weights the penalty.
$(OUT)/%.mlp-val.h5: $(OUT)/%.h5
	clipkit probe $< --classifier mlp --standardize -C 0.01,0.1,1 --val 0.1 -f -o $@
$(OUT)/%.whitened.h5: $(OUT)/img.h5 $(OUT)/%.h5 ; clipkit logits $^ --whiten -f -o $@
$(OUT)/%.fewshot-$(LAST).h5: $(OUT)/%.h5
	clipkit probe $< $(FEWSHOT) $(EACH_SEED) -f -o '$(OUT)/$*.fewshot-{seed}.h5'
# The logits of random directions and of salads take much room, so that they are not kept.
$(OUT)/random%.svm-$(LAST).h5 $(OUT)/random%.fewshot-$(LAST).h5: $(OUT)/img.h5
	clipkit logits $< --random $* $(EACH_SEED) -f -o '$(OUT)/random$*-{seed}.tmp'
	clipkit probe '$(OUT)/random$*-{seed}.tmp' $(EACH_SEED) -f -o '$(OUT)/random$*.svm-{seed}.h5'
	clipkit probe '$(OUT)/random$*-{seed}.tmp' $(FEWSHOT) $(EACH_SEED) \
	  -f -o '$(OUT)/random$*.fewshot-{seed}.h5'
	rm $(SEEDS:%=$(OUT)/random$*-%.tmp)
SALAD_PROMPTS := $(call prompt_file,generic32)
$(OUT)/salad32.fewshot-$(LAST).h5: $(OUT)/img.h5 $(SALAD_PROMPTS) prompts/word-salad.awk
	for seed in $(SEEDS); do awk -v seed=$$seed -f prompts/word-salad.awk $(SALAD_PROMPTS) | \
	  clipkit textembed - $(MODEL_OPTIONS) | \
	  clipkit logits $< - -f -o $(OUT)/salad32-$$seed.tmp; done
	clipkit probe '$(OUT)/salad32-{seed}.tmp' $(FEWSHOT) $(EACH_SEED) \
	  -f -o '$(OUT)/salad32.fewshot-{seed}.h5'
	rm $(SEEDS:%=$(OUT)/salad32-%.tmp)

# Chapter 5. k-means on image embeddings and on logits.
FILES_chapter5 := $(foreach features,\
  img generic32.logits $(addsuffix .logits,$(filter generic415,$(SETS)) $(OWN_SETS)),\
  $(features).cluster-$(LAST).h5 $(features).clusters.png)

$(OUT)/%.cluster-$(LAST).h5: $(OUT)/%.h5
	clipkit cluster $< $(EACH_SEED) -f -o '$(OUT)/$*.cluster-{seed}.h5'
$(OUT)/%.clusters.png: $(OUT)/%.cluster-$(LAST).h5
	clipkit plot clusters $(OUT)/$*.cluster-$(FIRST).h5 -f -o $@

# Chapter 6. Measure for each attribute what probes, words and controls recognise. TABLE has the
# attributes of the images, and WORDS has the words for their values. Without them, the only
# attribute is the class. The results include the controls, so that these have none.
FILES_chapter6 := classes.logits.zeroshot.h5 classes.logits.calibrate.h5 reliability.png \
  img.shots.h5 shots.png $(if $(SEED),,img.attributes.h5 img.variance.h5) \
  $(if $(TABLE),variance.png attributes.png)

CONTROL_IMAGES := $(wildcard $(CONTROLS:%=%/img.h5))
MEASURED = $(call option,table,$(TABLE)) $(CONTROLS:%=--control %/img.h5) -f -o $@
WORD_FILE := $(OUT)/$(if $(WORDS),words,classes).h5
$(OUT)/words.h5: $(WORDS) $(OUT)/table
	clipkit textembed --classes $< --template "{}" $(MODEL_OPTIONS) -f -o $@
$(OUT)/img.attributes.h5: $(OUT)/img.h5 $(WORD_FILE) $(OUT)/table $(CONTROL_IMAGES)
	clipkit attributes $(strip $< $(WORD_FILE) $(MEASURED))
$(OUT)/img.variance.h5: $(OUT)/img.h5 $(OUT)/table $(CONTROL_IMAGES)
	clipkit variance $(strip $< $(MEASURED))
$(OUT)/%.calibrate.h5: $(OUT)/%.h5 ; clipkit calibrate $< -t 1,model -f -o $@
$(OUT)/%.shots.h5: $(OUT)/%.h5
	clipkit probe $< --classifier logreg --shots 1,2,4,8,16 --repeat 5 -f -o $@

# Chapter 7. Whether images and captions find each other (CAPTIONS), and whether an image finds its
# text among texts that differ in a word or in the order of words (ITEMS).
FILES_chapter7 := $(if $(CAPTIONS),retrieve.h5 retrieve.png) $(if $(ITEMS),choose.h5 choose.png)

REFERENCE := $(if $(SEED),,$(firstword $(CONTROLS)))
AGAINST = $(if $(REFERENCE),--control $(REFERENCE)/img.h5 --control-texts $(REFERENCE)/$1.h5)
$(OUT)/captions.h5: $(wildcard $(CAPTIONS)) $(OUT)/table
	clipkit textembed --captions $(CAPTIONS) $(MODEL_OPTIONS) -f -o $@
$(OUT)/items.h5: $(wildcard $(ITEMS)) $(OUT)/table
	clipkit textembed --items $(ITEMS) $(MODEL_OPTIONS) -f -o $@
$(OUT)/retrieve.h5: $(OUT)/img.h5 $(OUT)/captions.h5
	clipkit retrieve $(strip $^ --gap $(call AGAINST,captions)) -f -o $@
$(OUT)/choose.h5: $(OUT)/img.h5 $(OUT)/items.h5
	clipkit choose $(strip $^ --items $(ITEMS) $(call AGAINST,items)) -f -o $@

# Layers. The same SVM on the hidden states of each layer, for the class and for each of ATTRIBUTES,
# which TABLE must have. One pass embeds all layers. Only then it is known how many there are.
FILES_layers := img.svm.h5 layers.class.stamp $(ATTRIBUTES:%=layers.%.stamp) $(if $(SEED),,layers.png)

$(OUT)/layers.stamp:
	clipkit embed $(strip $(DATASET) $(DATA_OPTIONS) $(MODEL_OPTIONS)) --layers all \
	  -f -o '$(OUT)/img.l{layer}.h5' || test $$? = 3
	touch $@
$(OUT)/layers.class.stamp: $(OUT)/layers.stamp
	for file in $(OUT)/img.l*[0-9].h5; do clipkit probe $$file -f -o $${file%.h5}.svm.h5; done
	touch $@
$(OUT)/layers.%.stamp: $(OUT)/layers.stamp $(OUT)/img.h5
	for file in $(OUT)/img.h5 $(OUT)/img.l*[0-9].h5; do \
	  clipkit probe $$file --table $(TABLE) --attribute $* -f -o $${file%.h5}.$*.svm.h5; done
	touch $@
LAYER_RESULTS = img.svm.h5 img.l*[0-9].svm.h5 \
  $(foreach attribute,$(ATTRIBUTES),img.$(attribute).svm.h5 img.l*.$(attribute).svm.h5)
$(OUT)/layers.png: $(filter %.h5 %.stamp,$(FILES_layers:%=$(OUT)/%)) $(OUT)/table \
  $(wildcard $(foreach in,$(CONTROLS),$(in)/img.svm.h5 $(in)/layers.*.stamp))
	clipkit plot layers $(foreach in,$(OUT) $(CONTROLS),$(LAYER_RESULTS:%=$(in)/%)) -f -o $@

# Resolution. The same images at their native size and at SIZES, with the same two probes: on
# embeddings and on the 32 prompts. Differences from the native size are paired.
FILES_resolution := $(foreach probe,svm logits.svm,$(SIZES:%=px%.$(probe).h5)) img.svm.h5 \
  generic32.logits.svm.h5 embeddings.sizes.h5 generic32.sizes.h5 \
  $(if $(SEED),,embeddings.sizes.png generic32.sizes.png)

$(SIZES:%=$(OUT)/px%.h5): $(OUT)/px%.h5:
	clipkit embed $(strip $(DATASET) $(DATA_OPTIONS) $(MODEL_OPTIONS)) --downsample $* -o $@ || \
	  test $$? = 3
$(SIZES:%=$(OUT)/px%.logits.h5): $(OUT)/%.logits.h5: $(OUT)/%.h5 $(OUT)/generic32.h5
	clipkit logits $^ -f -o $@
$(OUT)/embeddings.sizes.h5: $(OUT)/img.svm.h5 $(SIZES:%=$(OUT)/px%.svm.h5)
	clipkit compare $^ -f -o $@
$(OUT)/generic32.sizes.h5: $(OUT)/generic32.logits.svm.h5 $(SIZES:%=$(OUT)/px%.logits.svm.h5)
	clipkit compare $^ -f -o $@
$(OUT)/%.sizes.png: $(OUT)/%.sizes.h5 ; clipkit plot compare $< -f -o $@

# Pictures
$(OUT)/%.confusion.png: $(OUT)/%.h5 ; clipkit plot confusion $< -f -o $@
$(OUT)/%.classes.png: $(OUT)/%.h5 ; clipkit plot classes $< -f -o $@
$(OUT)/%.entropy.png: $(OUT)/%.h5 ; clipkit plot entropy $< -t 1,0.07,0.02 -f -o $@
$(OUT)/%.confidence.png: $(OUT)/%.h5 ; clipkit plot confidence $< -t 1,0.07,0.02 -f -o $@
$(OUT)/%.logits.png: $(OUT)/%.h5 ; clipkit plot logits $< -f -o $@
$(OUT)/%.similarity.png: $(OUT)/%.h5 ; clipkit plot similarity $< -f -o $@
$(OUT)/%.temperature.png: $(OUT)/%.h5 ; clipkit plot temperature $< -f -o $@
$(OUT)/%.superclasses.png: $(OUT)/%.h5 $(SUPERCLASSES)
	clipkit plot confusion $< --groups $(SUPERCLASSES) -f -o $@
$(OUT)/%.outlines.png: $(OUT)/%.h5
	clipkit plot confusion $< --groups prompts/groups/shapes-outlines.tsv -f -o $@
$(OUT)/classifiers.png: $(foreach name,svm logreg,$(OUT)/generic32.logits.$(name)-val.h5)
	clipkit plot temperature $^ -f -o $@
$(OUT)/spectrum.png: $(SETS:%=$(OUT)/%.h5) ; clipkit plot spectrum $^ -f -o $@
$(OUT)/attributes.png: $(OUT)/img.attributes.h5 ; clipkit plot attributes $< -f -o $@
$(OUT)/retrieve.png: $(OUT)/retrieve.h5 ; clipkit plot retrieve $< -f -o $@
$(OUT)/choose.png: $(OUT)/choose.h5 ; clipkit plot choose $< -f -o $@
$(OUT)/variance.png: $(OUT)/img.variance.h5 ; clipkit plot variance $< -f -o $@
$(OUT)/reliability.png: $(OUT)/classes.logits.h5 ; clipkit plot reliability $< -t 1,model -f -o $@
$(OUT)/shots.png: $(OUT)/img.shots.h5 $(OUT)/classes.logits.zeroshot.h5 $(OUT)/table \
  $(wildcard $(CONTROLS:%=%/img.shots.h5))
	clipkit plot shots $(foreach in,$(OUT) $(CONTROLS),$(in)/img.shots.h5) \
	  --zeroshot $(OUT)/classes.logits.zeroshot.h5 -f -o $@
$(OUT)/images.png: ; clipkit plot images $(strip $(DATASET) $(call option,root,$(ROOT))) -f -o $@

# The report on everything in the folder, as Markdown and for a browser
FILES_tour := images.png img.svm.h5 classes.logits.zeroshot.h5 classes.logits.zeroshot.outlines.png \
  $(addprefix generic32.logits.,sweep.h5 sweep.temperature.png entropy.h5 similarity.png) \
  $(if $(SEED),,img.attributes.h5) attributes.png
FILES := $(addprefix $(OUT)/,img.h5 $(foreach chapter,$(CHAPTERS),$(FILES_$(chapter))))
FILES := $(if $(SEED),$(filter-out %.png,$(FILES)),$(FILES))
REPORT = clipkit report $(strip $(OUT) $(CONTROLS:%=--control %) --expected $(EXPECTED) \
  $(SAME_AS:%=--same-as %))

# Keep intermediate files, but do not rebuild them if only they are missing.
SET_FILES := $(foreach set,$(sort $(SETS) generic32 generic415 food32),\
  $(addprefix $(set).,h5 logits.h5 whitened.h5))
SIZE_FILES := $(SIZES:%=px%.h5) $(SIZES:%=px%.logits.h5)
FEATURES := $(addprefix $(OUT)/,img.h5 classes.h5 classes.logits.h5 words.h5 captions.h5 items.h5 \
  $(SET_FILES) \
  $(SIZE_FILES))
.SECONDARY: $(FEATURES)
.PHONY: results
results: $(filter-out $(FEATURES),$(FILES)) $(if $(SEED),,$(OUT)/report.html)
$(OUT)/report.md: $(FILES) $(OUT)/table $(wildcard $(CONTROLS:%=%/*.h5))
	$(REPORT) -f -o $@ || test $$? = 3
$(OUT)/report.html: $(OUT)/report.md
	$(REPORT) $(strip --images $(DATASET) $(call option,root,$(ROOT))) -f -o $@ || test $$? = 3
	@echo 'Open the report in a browser: $@'

# The file `settings` records what the embeddings are made of. Others are refused, since results
# would mix. Embeddings without this file, from another machine, are taken as they are. `table`
# records what chapter 6 and the report are made of, which are then made again.
RECORDED := $(shell cat $(OUT)/settings 2> /dev/null)
# Without the images, the embeddings were made as it is recorded.
ifeq ($(wildcard $(DATASET)/.),)
SPLIT_OFF := $(or $(SPLIT_OFF),$(patsubst SPLIT_OFF=%,%,$(filter SPLIT_OFF=%,$(RECORDED))))
endif
SETTINGS := $(strip MODEL=$(MODEL:%/=%) DATASET=$(DATASET:%/=%) ROOT=$(ROOT) LIMIT=$(LIMIT) \
  PRECISION=$(PRECISION) $(addprefix SPLIT_OFF=,$(SPLIT_OFF)))
TABLE_SETTINGS := $(strip TABLE=$(TABLE) WORDS=$(WORDS) UNTRAINED=$(UNTRAINED) \
  $(CAPTIONS:%=CAPTIONS=%) $(ITEMS:%=ITEMS=%) $(if $(SAME_AS),SAME_AS=$(SAME_AS)))
ifneq ($(RECORDED),$(SETTINGS))
$(if $(and $(RECORDED),$(wildcard $(OUT)/img*.h5)),\
  $(error $(OUT)/settings: expected $(SETTINGS), got $(RECORDED); \
  hint: remove the folder, or choose another one with RESULTS=))
.PHONY: $(OUT)/settings
endif
ifneq ($(shell cat $(OUT)/table 2> /dev/null),$(TABLE_SETTINGS))
.PHONY: $(OUT)/table
endif
$(FILES): | $(OUT)/settings
$(OUT)/settings:
	mkdir -p $(OUT)
	echo '$(SETTINGS)' > $@
$(OUT)/table: $(wildcard $(TABLE)) $(WORDS) | $(OUT)/settings ; echo '$(TABLE_SETTINGS)' > $@

# Number the commands of STEPS as they start: make expands SHELL once for each.
step = $(eval DONE += x)$(info [$(notdir $(OUT)) $(words $(DONE))/$(STEPS)])
ifneq ($(STEPS),)
SHELL = $(step)/bin/bash
endif

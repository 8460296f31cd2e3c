# A study, written by clipkit start. `make` embeds the images, asks each question that the files
# allow, and makes report.html. Variables may stand on the line: make MODEL=ViT-L/14 CONTROL=
MODEL = openai/clip-vit-base-patch32
DATASET = @DATASET@
EMBED = @EMBED@
# The seed of the control, the same network with random weights; empty for none
CONTROL = 7
# Attributes of the images, a line for each. Columns with at least two values are measured.
TABLE = $(wildcard table.tsv)
# Words for these values: `attribute: value`, tab, words
WORDS = $(wildcard words.tsv)

.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:
.DEFAULT_GOAL := report.html
OUT := results/$(subst /,-,$(MODEL))
CONTROL_OUT := $(CONTROL:%=$(OUT)-untrained%)
FILLED := awk -F '\t' 'NR == 1 { n = split($$0, name) } \
  NR > 1 { for (i = 2; i <= n; i++) if ($$i != "" && !seen[i, $$i]++) count[i]++ } \
  END { for (i = 2; i <= n; i++) if (count[i] > 1) { printf "%s%s", comma, name[i]; comma = "," } }'
ATTRIBUTES := $(if $(TABLE),$(shell $(FILLED) $(TABLE)))
CLASSES = $(firstword $(wildcard classes.tsv) $(@D)/img.h5)
MODEL_OPTIONS = --model $(MODEL) $(if $(findstring -untrained,$(@D)),--untrained $(CONTROL))
MEASURED = --table $(TABLE) --attribute '$(ATTRIBUTES)' $(CONTROL_OUT:%=--control %/img.h5) -f -o $@

OF_BOTH := generic32.logits.entropy.h5 @OF_CLASSES@
FILES := $(foreach folder,$(OUT) $(CONTROL_OUT),$(OF_BOTH:%=$(folder)/%))
ifneq ($(ATTRIBUTES),)
FILES += $(OUT)/img.attributes.h5 $(OUT)/img.variance.h5
endif

report.html: $(FILES)
	clipkit report $(OUT) $(CONTROL_OUT:%=--control %) --images $(DATASET) -f -o $@ || test $$? = 3
	@echo 'Open the page in a browser: $(CURDIR)/$@'
# Exit code 3 says that images were skipped.
%/img.h5:
	mkdir -p $(@D)
	clipkit embed $(DATASET) $(EMBED) $(MODEL_OPTIONS) -f -o $@ || test $$? = 3
%/generic32.h5: %/img.h5 ; clipkit textembed generic32 $(MODEL_OPTIONS) -f -o $@
%/classes.h5: %/img.h5 $(wildcard classes.tsv)
	clipkit textembed --classes $(CLASSES) $(MODEL_OPTIONS) -f -o $@
%/words.h5: %/img.h5 $(WORDS)
	clipkit textembed --classes $(WORDS) --template '{}' $(MODEL_OPTIONS) -f -o $@
%/classes.logits.h5: %/img.h5 %/classes.h5 ; clipkit logits $^ -f -o $@
%/generic32.logits.h5: %/img.h5 %/generic32.h5 ; clipkit logits $^ -f -o $@
%.svm.h5: %.h5 ; clipkit probe $< -f -o $@
%.zeroshot.h5: %.h5 ; clipkit zeroshot $< -f -o $@
%.calibrate.h5: %.h5 ; clipkit calibrate $< -t 1,model -f -o $@
%.entropy.h5: %.h5 ; clipkit entropy $< -t 1,0.07,0.02 -f -o $@
%/img.cluster.h5: %/img.h5 ; clipkit cluster $< -f -o $@
%/img.attributes.h5: %/img.h5 $(if $(WORDS),%/words.h5) $(TABLE) $(CONTROL_OUT:%=%/img.h5)
	clipkit attributes $< $(filter %/words.h5,$^) $(MEASURED)
%/img.variance.h5: %/img.h5 $(TABLE) $(CONTROL_OUT:%=%/img.h5)
	clipkit variance $< $(MEASURED)

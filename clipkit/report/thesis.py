"""The thesis's figures and protocol.

N. Benedetto, "What Do Vision-Language Models Understand?", University of Florence, 2024-2025.
Accuracies and purities are fractions, entropies are in nats.
"""

from __future__ import annotations

from typing import Any

MODEL = "openai/clip-vit-base-patch32"
SEED = 42

# Data set -> rows of its training and test split. Tiny ImageNet has 100 of its 200 classes.
ROWS = {
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "food101": (75_750, 25_250),
    "tiny-imagenet": (50_000, 5_000),
}

# Data set -> experiment -> figure. An experiment is named after the result that repeats it, and
# has a temperature of 1 unless the name says another.
FIGURES: dict[str, dict[str, float]] = {
    "cifar10": {"img.svm": 0.9324, "classes.logits.zeroshot": 0.888},
    "cifar100": {
        # chapter 2
        "img.svm": 0.7801,
        "classes.logits.zeroshot": 0.6171,
        # chapter 3
        "generic32.logits.svm": 0.2930,
        "generic32.logits.logreg": 0.3033,
        "generic32.logits.entropy": 3.4656,
        # table 4.1
        "svm at 0.5": 0.5062,
        "svm at 0.07": 0.6295,
        "svm at 0.03": 0.6376,
        "svm at 0.02": 0.6345,
        "svm at 1": 0.2930,
        "best svm": 0.6376,
        "entropy at 1": 3.4656,
        "entropy at 0.5": 3.4649,
        "entropy at 0.07": 3.4206,
        "entropy at 0.03": 3.2099,
        "entropy at 0.02": 2.8957,
        # table 4.2
        "generic99.logits.svm": 0.4545,
        "generic205.logits.svm": 0.5459,
        "generic415.logits.svm": 0.6286,
        "generic99.logits.entropy": 4.5950,
        "generic205.logits.entropy": 5.3299,
        "generic415.logits.entropy": 6.0282,
        # table 5.1
        "img purity": 0.4455,
        "generic32.logits purity": 0.2976,
        "generic415.logits purity": 0.3321,
    },
    # table 4.3
    "tiny-imagenet": {"generic32.logits.svm": 0.3562, "generic32.logits.entropy": 3.4656},
    "food101": {
        "generic32.logits.svm": 0.4125,
        "generic32.logits.entropy": 3.4656,
        "food32.logits.svm": 0.6247,
        "food32.logits.entropy": 3.4654,
    },
}


def figures(embedding: dict[str, Any]) -> dict[str, float]:
    """Return the thesis's figures for a history's entry of `clipkit embed`.

    There are none unless the thesis's model embedded all images of one of its data sets.

    >>> figures({"model": {"name": MODEL}, "dataset": {"name": "cifar10", "splits": {
    ...     "train": {"images": 50_000}, "test": {"images": 10_000}}}})["img.svm"]
    0.9324
    """
    model, dataset = embedding["model"], embedding["dataset"]
    splits = dataset["splits"]
    rows = tuple(splits.get(split, {}).get("images") for split in ("train", "test"))
    is_same_model = model["name"] == MODEL and "untrained" not in model
    is_same_data = rows == ROWS.get(dataset["name"]) and not embedding.get("skipped")
    return FIGURES[dataset["name"]] if is_same_model and is_same_data else {}

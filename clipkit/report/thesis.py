"""What the thesis printed: Benedetto, "What Do Vision-Language Models Understand?", University of Florence, 2024-2025.

Accuracies and purities are fractions, entropies nats. The model is `openai/clip-vit-base-patch32` everywhere.
"""

from __future__ import annotations

from typing import Any

MODEL = "openai/clip-vit-base-patch32"

# Data set -> rows of its train and test split.
ROWS = {"cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "food101": (75_750, 25_250)}
ROWS["tiny-imagenet"] = (50_000, 5_000)  # 100 of its 200 classes

# Data set -> experiment -> figure; an experiment is called after the file that repeats it, at tau 1 unless said.
FIGURES: dict[str, dict[str, float]] = {
    "cifar10": {"img.svm": 0.9324, "zeroshot": 0.888},
    "cifar100": {
        # chapter 2
        "img.svm": 0.7801,
        "zeroshot": 0.6171,
        # chapter 3
        "generic32.svm": 0.2930,
        "generic32.logreg": 0.3033,
        "generic32.entropy": 3.4656,
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
        "generic99.svm": 0.4545,
        "generic205.svm": 0.5459,
        "generic415.svm": 0.6286,
        "generic99.entropy": 4.5950,
        "generic205.entropy": 5.3299,
        "generic415.entropy": 6.0282,
        # table 5.1
        "img purity": 0.4455,
        "generic32.logits purity": 0.2976,
        "generic415.logits purity": 0.3321,
    },
    # table 4.3
    "tiny-imagenet": {"generic32.svm": 0.3562, "generic32.entropy": 3.4656},
    "food101": {
        "generic32.svm": 0.4125,
        "generic32.entropy": 3.4656,
        "food32.svm": 0.6247,
        "food32.entropy": 3.4654,
    },
}


def figures(embedded: dict[str, Any]) -> dict[str, float]:
    """The thesis's figures for what a history's `embed` entry says; none unless model and data are the thesis's.

    >>> figures({"model": {"name": MODEL}, "dataset": {"name": "cifar10", "splits": {
    ...     "train": {"images": 50_000}, "test": {"images": 10_000}}}})["zeroshot"]
    0.888
    """
    model, data = embedded["model"], embedded["dataset"]
    rows = tuple(data["splits"].get(split, {}).get("images") for split in ("train", "test"))
    same = (
        model["name"] == MODEL and "untrained" not in model and rows == ROWS.get(data["name"], ())
    )
    return FIGURES[data["name"]] if same and not embedded.get("skipped") else {}

"""The thesis's figures and protocol.

N. Benedetto, "What Do Vision-Language Models Understand?", University of Florence, 2024-2025.
Accuracies and purities are fractions, entropies are in nats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

MODEL = "openai/clip-vit-base-patch32"
SEED = 42

# Data set -> rows of its training and test split. Tiny ImageNet has 100 of its 200 classes.
ROWS = {
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "food101": (75_750, 25_250),
    "tiny-imagenet": (50_000, 5_000),
}


class Experiment(NamedTuple):
    """A column of the result that repeats an experiment, at one temperature.

    The temperature None stands for the best of a sweep. If the sweep chose a setting on a
    validation split, it stands for the chosen one.
    """

    name: str
    column: str = "acc1"
    temperature: float | None = 1.0


SWEEP = "generic32.logits.sweep"
ENTROPY = "generic32.logits.entropy"

FIGURES: dict[str, dict[Experiment, float]] = {
    "cifar10": {Experiment("img.svm"): 0.9324, Experiment("classes.logits.zeroshot"): 0.888},
    "cifar100": {
        # chapter 2
        Experiment("img.svm"): 0.7801,
        Experiment("classes.logits.zeroshot"): 0.6171,
        # chapter 3
        Experiment("generic32.logits.svm"): 0.2930,
        Experiment("generic32.logits.logreg"): 0.3033,
        # table 4.1
        Experiment(SWEEP, temperature=1): 0.2930,
        Experiment(SWEEP, temperature=0.5): 0.5062,
        Experiment(SWEEP, temperature=0.07): 0.6295,
        Experiment(SWEEP, temperature=0.03): 0.6376,
        Experiment(SWEEP, temperature=0.02): 0.6345,
        Experiment(SWEEP, temperature=None): 0.6376,
        Experiment(ENTROPY, "mean_entropy", 1): 3.4656,
        Experiment(ENTROPY, "mean_entropy", 0.5): 3.4649,
        Experiment(ENTROPY, "mean_entropy", 0.07): 3.4206,
        Experiment(ENTROPY, "mean_entropy", 0.03): 3.2099,
        Experiment(ENTROPY, "mean_entropy", 0.02): 2.8957,
        # table 4.2
        Experiment("generic99.logits.svm"): 0.4545,
        Experiment("generic205.logits.svm"): 0.5459,
        Experiment("generic415.logits.svm"): 0.6286,
        Experiment("generic99.logits.entropy", "mean_entropy"): 4.5950,
        Experiment("generic205.logits.entropy", "mean_entropy"): 5.3299,  # above ln 205, a slip
        Experiment("generic415.logits.entropy", "mean_entropy"): 6.0282,
        # table 5.1
        Experiment("img", "purity"): 0.4455,
        Experiment("generic32.logits", "purity"): 0.2976,
        Experiment("generic415.logits", "purity"): 0.3321,
    },
    # table 4.3
    "tiny-imagenet": {
        Experiment("generic32.logits.svm"): 0.3562,
        Experiment(ENTROPY, "mean_entropy"): 3.4656,
    },
    "food101": {
        Experiment("generic32.logits.svm"): 0.4125,
        Experiment(ENTROPY, "mean_entropy"): 3.4656,
        Experiment("food32.logits.svm"): 0.6247,
        Experiment("food32.logits.entropy", "mean_entropy"): 3.4654,
    },
}


def figures(embedding: dict[str, Any]) -> dict[Experiment, float]:
    """Return the thesis's figures for a history's entry of `clipkit embed`.

    There are none unless the thesis's model embedded all images of one of its data sets.

    >>> figures({"model": {"name": MODEL}, "dataset": {"name": "cifar10", "splits": {
    ...     "train": {"images": 50_000}, "test": {"images": 10_000}}}})[Experiment("img.svm")]
    0.9324
    """
    model, dataset = embedding["model"], embedding["dataset"]
    splits = dataset["splits"]
    rows = tuple(splits.get(split, {}).get("images") for split in ("train", "test"))
    is_other = {"untrained", "layer", "projection"} & model.keys()
    is_same_model = model["name"] == MODEL and not is_other
    is_same_data = rows == ROWS.get(dataset["name"]) and not embedding.get("skipped")
    return FIGURES[dataset["name"]] if is_same_model and is_same_data else {}

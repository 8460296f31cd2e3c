"""Rows that depend on each other: how often sentences are said of nothing, and intervals hold.

`python tests/test_siblings.py WORLDS` prints the rates of docs/tests.md.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.special import softmax

import clipkit
from clipkit.base import console
from clipkit.features import FeatureFile, History, Split
from clipkit.statistics import metrics

# The rows of each kind of world: clusters, rows of each, and how alike these are (1: copies)
KINDS = {
    "independent": (300, 1, 0.0),
    "each twice": (150, 2, 1.0),
    "30 x 10 copies": (30, 10, 1.0),
    "40 x 10 frames": (40, 10, 0.9),
}
WORLDS = 200
MODEL = {"name": "m", "digest": "sha256:1", "weights": "sha256:2", "logit_scale": 100.0}


def draw(random, kind, width):
    """Return standard normal numbers (N, width) and the cluster (N,) of each row."""
    clusters, size, alike = KINDS[kind]
    index = np.repeat(np.arange(clusters), size)
    shared = random.standard_normal((clusters, width))[index]
    own = random.standard_normal((len(index), width))
    return np.sqrt(alike) * shared + np.sqrt(1 - alike) * own, index


def file_of(kind, splits, names=("a", "b"), **fields):
    history = History([{"command": "embed", "model": dict(MODEL)}])
    file = FeatureFile(kind, history, class_names=list(names), **fields)
    for split, (features, labels, cluster) in splits.items():
        ids = [f"{split}/{row}" for row in range(len(labels))]
        rows = np.asarray(features, np.float32)
        if split == "test" and cluster is not None:
            cluster = cluster + 1000  # others than those of the fitted rows
        file.splits[split] = Split(rows, np.asarray(labels), ids, cluster=cluster)
    return file


def labels_of_clusters(random, index, count=2):
    """Return a label of each row that its cluster decides, as a patient's disease."""
    return random.randint(count, size=index.max() + 1)[index]


def variance(random, kind):
    X, index = draw(random, kind, 8)
    images = file_of("images", {"test": (X, labels_of_clusters(random, index), index)})
    (row,) = clipkit.variance(images).rows()
    return row["share"] > row["null95"]


def importance(random, kind):
    """Return whether the interval holds the cost that 100 times as many rows show."""
    weights = np.random.RandomState(0).standard_normal((3, 4))
    sides = {}
    for split in ("train", "test"):
        X, index = draw(random, kind, 4)
        noisy = X + 0.8 * draw(random, kind, 4)[0]
        sides[split] = (0.1 * X, (noisy @ weights.T).argmax(axis=1), index)
    logits = logits_of(sides, 4, "abc")
    probe = clipkit.probe(logits, classifier="logreg", keep=True)
    rows = clipkit.importance(probe, logits, repeat=5).rows()
    return probe, {row["prompt"]: (row["low"], row["high"]) for row in rows}


def logits_of(splits, prompts, names, classes=None):
    texts = [f"prompt {number}" for number in range(prompts)]
    index = np.full(prompts, -1) if classes is None else np.arange(prompts)
    return file_of(
        "logits", splits, names, texts=texts, class_index=index, temperature=1.0, logit_scale=100.0
    )


def importance_holds(random, kind):
    probe, intervals = importance(random, kind)
    large = np.random.RandomState(random.randint(2**31))
    weights = np.random.RandomState(0).standard_normal((3, 4))
    X = large.standard_normal((20_000, 4))
    noisy = X + 0.8 * large.standard_normal((20_000, 4))
    rows = 0.1 * X, (noisy @ weights.T).argmax(axis=1), None
    truth = clipkit.importance(probe, logits_of({"test": rows}, 4, "abc"), repeat=1).rows()
    held = [
        intervals[row["prompt"]][0] <= row["cost"] <= intervals[row["prompt"]][1] for row in truth
    ]
    return float(np.mean(held))


def calibrated(random, kind):
    """Return logits of which the softmax at the temperature 0.1 is calibrated."""
    splits = {}
    for split in ("train", "test"):
        X, index = draw(random, kind, 4)
        cosines = 0.15 * X
        # a normal copula: one number for rows that are alike
        shared, _ = draw_as(random, kind)
        p = np.cumsum(softmax(cosines / 0.1, axis=1), axis=1)
        splits[split] = (cosines, (shared[:, None] > p[:, :-1]).sum(axis=1), index)
    return logits_of(splits, 4, "abcd", classes=True)


def draw_as(random, kind):
    from scipy.special import ndtr

    X, index = draw(random, kind, 1)
    return ndtr(X[:, 0]), index


def calibration(random, kind):
    """Return whether the error is above its null, and whether the interval holds 0.1."""
    row, fitted = clipkit.calibrate(calibrated(random, kind), temperature=[0.1]).rows()
    is_outside = fitted["low"] > 0.1 or fitted["high"] < 0.1  # an end may be missing
    return row["ece"] > row["ece_null975"], not is_outside


def attributes(random, kind):
    splits = {}
    for split in ("train", "test"):
        X, index = draw(random, kind, 8)
        splits[split] = (X, labels_of_clusters(random, index), index)
    (row,) = clipkit.attributes(file_of("images", splits), random=0).rows()
    return row["probe_low"] > row["chance"]


def gap(random, kind):
    X, index = draw(random, kind, 8)
    Y, _ = draw(random, kind, 8)
    labels = np.zeros(len(X), int)
    images = file_of("images", {"test": (X, labels, index)})
    history = History([{"command": "textembed", "model": dict(MODEL)}])
    ids = images.splits["test"].ids
    texts = FeatureFile("texts", history, texts=ids, class_names=ids, features=np.float32(Y))
    texts.class_index = np.arange(len(ids))
    return clipkit.retrieve(images, texts, gap=True).rows()[0]["gap_p"] <= 0.05


def result(random, kind):
    """Return a result with an accuracy of about 70 %, and where its figures come from."""
    splits = {}
    shared, index = draw_as(random, kind)
    labels = random.randint(2, size=len(index))
    if KINDS[kind][2] == 1:
        labels = labels_of_clusters(random, index)
    predicted = np.where(shared < 0.7, labels, 1 - labels)
    splits["test"] = (0.9 * np.eye(2)[predicted], labels, index)
    return clipkit.zeroshot(logits_of(splits, 2, "ab", classes=True))


def worst_group(random, kind):
    made = result(random, kind)
    split = made.splits["test"]
    clusters, size, _ = KINDS[kind]
    groups = random.randint(5, size=clusters)[np.repeat(np.arange(clusters), size)]
    table = {"id": split.ids, "group": [f"group {number}" for number in groups]}
    rows = clipkit.compare(made, table=table, attribute="group").rows()
    (row,) = [row for row in rows if row["scope"] == "worst"]
    return row["acc_a"] < row["null5"]


def f1_holds(random, kind):
    split = result(random, kind).splits["test"]
    _, low, high = metrics.mean_f1(split.labels, split.predicted[0], [0, 1], 2, split.cluster)
    return low <= 0.7 <= high


def accuracy_holds(random, kind):
    (row,) = result(random, kind).rows()
    return row["acc1_low"] <= 0.7 <= row["acc1_high"]


RATES = {
    "variance above null95": (variance, 0.05),
    "learned": (attributes, 0.025),
    "gap_p <= .05": (gap, 0.05),
    "worst group below null5": (worst_group, 0.05),
    "miscalibrated": (lambda random, kind: calibration(random, kind)[0], 0.05),
}
COVERAGES = {
    "temperature": lambda random, kind: calibration(random, kind)[1],
    "importance": importance_holds,
    "acc1": accuracy_holds,
    "mean F1": f1_holds,
}


def rate(measure, kind, worlds):
    """Return the mean of a measure over worlds of a kind."""
    return float(np.mean([measure(np.random.RandomState(world), kind) for world in range(worlds)]))


@pytest.mark.long
@pytest.mark.parametrize("kind", list(KINDS)[1:])
@pytest.mark.parametrize("name", RATES)
def test_nothing_is_said_of_nothing_more_often_than_it_says(name, kind):
    measure, nominal = RATES[name]
    allowed = nominal * WORLDS + 2.5 * np.sqrt(nominal * (1 - nominal) * WORLDS)
    assert rate(measure, kind, WORLDS) <= allowed / WORLDS


@pytest.mark.long
@pytest.mark.parametrize("kind", list(KINDS)[1:])
@pytest.mark.parametrize("name", COVERAGES)
def test_intervals_hold_the_truth_in_clusters(name, kind):
    allowed = 0.93 - 2.5 * np.sqrt(0.93 * 0.07 / WORLDS)
    assert rate(COVERAGES[name], kind, WORLDS) >= allowed


if __name__ == "__main__":
    console.set_quiet(True)
    count = int(sys.argv[1])
    print("measure", *KINDS, sep="\t")
    measures = {name: measure for name, (measure, _) in RATES.items()} | COVERAGES
    for name in sys.argv[2:] or measures:
        found = [f"{100 * rate(measures[name], kind, count):.1f}" for kind in KINDS]
        print(name, *found, sep="\t", flush=True)

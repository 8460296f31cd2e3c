"""An attribute of which few clusters have a value: how often nothing is said to be learned.

`python tests/test_rare_values.py WORLDS` prints the rates of docs/tests.md.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from test_main_number import rate

from clipkit.statistics import metrics
from clipkit.statistics.score_metrics import METRICS, RECALL

WEIGHTS = {  # of two values
    "97/3": np.array([0.97, 0.03]),
    "90/10": np.array([0.9, 0.1]),
    "50/50": np.array([0.5, 0.5]),
}
KINDS = {  # clusters, rows of each, and how alike these are
    "40 videos of 10 frames": (40, 10, 0.9),
    "15 videos of 40 frames": (15, 40, 0.9),
}
WORLDS = 100
METRIC = METRICS[RECALL]
PROBE, WORDS = np.array([0.9, 0.9]), np.array([0.8, 0.6])  # their recalls; the reach is 0.5


def guess(world):
    """Return predictions (N,) that say nothing of the labels, both values alike."""
    return world.guess(np.array([0.5, 0.5]))


def predict(world, luck, recalls):
    """Return predictions (N,) of which uniform numbers (N,) decide whether they are right."""
    return np.where(luck < recalls[world.labels], world.labels, 1 - world.labels)


def probe_and_words(world):
    """Return predictions of which half of the clusters share their luck."""
    luck, others = world.luck(), world.luck()
    count, size, _ = world.shape
    is_shared = np.repeat(world.random.random(count) < 0.5, size)
    return predict(world, luck, PROBE), predict(world, np.where(is_shared, luck, others), WORDS)


def gain(world, first, second):
    """Return the interval of the gain, as `attributes` has it."""
    covariance = METRIC.covariance(world.labels, [first, second], world.clusters)
    value = METRIC.value(world.labels, first) - METRIC.value(world.labels, second)
    half = metrics.QUANTILE * np.sqrt(covariance.trace() - 2 * covariance[0, 1])
    return value - half, value + half


def is_learned(world):
    return METRIC.interval(world.labels, guess(world), world.clusters)[0] > 0.5


def is_gained(world):
    return gain(world, guess(world), guess(world))[0] > 0


def holds_recall(world):
    predicted = predict(world, world.luck(), np.array([0.8, 0.5]))
    low, high = METRIC.interval(world.labels, predicted, world.clusters)
    return low <= 0.65 <= high


def holds_gain(world):
    low, high = gain(world, *probe_and_words(world))
    return low <= (PROBE - WORDS).mean() <= high


def holds_reach(world):
    """Return whether the interval of the reach, as `attributes` has it, holds 0.5."""
    probe, words = probe_and_words(world)
    above = METRIC.value(world.labels, probe) - 0.5
    if METRIC.interval(world.labels, probe, world.clusters)[0] <= 0.52:
        return True  # there is none
    reach = (METRIC.value(world.labels, words) - 0.5) / above
    gradient = np.array([1, -reach]) / above
    covariance = METRIC.covariance(world.labels, [words, probe], world.clusters)
    return abs(reach - 0.5) <= metrics.QUANTILE * np.sqrt(gradient @ covariance @ gradient)


RATES = {
    "an attribute is learned": is_learned,
    "a probe exceeds its control": is_gained,
}
COVERAGES = {
    "the interval of a recall holds it": holds_recall,
    "the interval of a gain holds it": holds_gain,
    "the interval of a reach holds it": holds_reach,
}


def test_recalls_of_one_cluster_are_no_more_certain_than_one_row():
    labels = np.repeat([0, 1], [190, 10])
    clusters = np.arange(200) // 10
    low, high = METRIC.interval(labels, labels, clusters)
    assert (low < 0.55, high) == (True, 1.0)
    covariance = METRIC.covariance(labels, [labels, 1 - labels], clusters)
    assert 1 - metrics.QUANTILE * np.sqrt(covariance[0, 0]) == pytest.approx(low)
    half_right = np.arange(200) % 2 == 0
    two = METRIC.covariance(labels, [np.where(half_right, labels, -1)], labels)
    assert two[0, 0] > 0


def test_a_cluster_for_each_row_changes_nothing():
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 2, (2, 60))
    rows = np.arange(60)
    assert METRIC.interval(labels, predicted, rows) == METRIC.interval(labels, predicted)
    covariances = [METRIC.covariance(labels, [predicted, labels], one) for one in (rows, None)]
    np.testing.assert_allclose(*covariances, rtol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))
@pytest.mark.parametrize("shape", KINDS.values(), ids=list(KINDS))
def test_rare_values_hold_their_nominal_rates(weights, shape):
    for measure in RATES.values():
        allowed = 0.025 + 2.5 * np.sqrt(0.025 * 0.975 / WORLDS)
        assert rate(measure, weights, shape, WORLDS) <= allowed
    for measure in COVERAGES.values():
        assert rate(measure, weights, shape, WORLDS) >= 0.93 - 2.5 * np.sqrt(0.93 * 0.07 / WORLDS)


if __name__ == "__main__":
    for kind, shape in KINDS.items():
        print(kind, *WEIGHTS, sep="\t")
        for name, measure in (RATES | COVERAGES).items():
            found = [
                f"{100 * rate(measure, one, shape, int(sys.argv[1])):.1f}"
                for one in WEIGHTS.values()
            ]
            print(name, *found, sep="\t", flush=True)

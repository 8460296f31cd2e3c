"""`power.rows_needed`: as many rows as it says decide in 80 % of worlds.

To measure the power: python tests/test_power.py 4000
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binom, norm

from clipkit.analysis.compare import comparison
from clipkit.statistics import claims, dependence, metrics
from clipkit.statistics.claims import NOT_DECIDED, Reference, decide
from clipkit.statistics.power import (
    FARTHEST,
    INTERVAL,
    PAIRED,
    SHARE,
    detectable_difference,
    error_rows,
    rows_needed,
)

PILOT = 60_000  # rows, which show the variance as it is


class Case(NamedTuple):
    """A world with a true effect: how many rows it needs, and whether a draw of n rows decides."""

    needed: Callable[[], float]
    is_decided: Callable[[np.random.Generator, int], bool]


# ---- Worlds --------------------------------------------------------------------------------------


def accuracy(share, chance):
    """Hold an accuracy against chance."""

    def is_decided(random, n):
        (claim,) = claims.accuracy_claims("", random.random(n) < share, chance, None, "")
        return claim.verdict != NOT_DECIDED

    limits = metrics.exact_interval(share, PILOT)
    return Case(lambda: rows_needed(share, limits, chance, PILOT, kind=SHARE), is_decided)


def control(only_own, only_control, both=0.2):
    """Hold an accuracy against that of a control on the same rows."""
    difference = only_own - only_control

    def needed():
        limits = dependence.difference_interval(PILOT * only_own, PILOT * only_control, PILOT)
        return rows_needed(difference, limits, 0, PILOT, kind=PAIRED)

    def is_decided(random, n):
        kind = random.random(n)
        right = kind < both + only_own
        of_control = (kind < both) | (kind > 1 - only_control)
        row = comparison.compare_right(right, of_control)
        _, claim = claims.accuracy_claims("", right, 0.1, row, "the control")
        return claim.verdict != NOT_DECIDED

    return Case(needed, is_decided)


def draw_recall(random, recalls, n, frequencies=None):
    """Return the labels of n rows, and predictions that are right by the recalls of values."""
    labels = np.arange(n) % len(recalls)
    if frequencies is not None:
        labels = random.choice(len(recalls), n, p=frequencies)
    is_right = random.random(n) < np.asarray(recalls)[labels]
    return labels, np.where(is_right, labels, (labels + 1) % len(recalls))


def recall(recalls, chance, frequencies=None):
    """Hold the mean recall of words or a probe against chance."""

    def needed():
        labels, predicted = draw_recall(np.random.default_rng(0), recalls, PILOT, frequencies)
        if frequencies is None:
            labels, predicted = draw_exactly(recalls)
        low, high = metrics.recall_interval(labels, predicted)
        half = (high - low) / 2
        value = float(np.mean(recalls))
        limits = value - half, value + half
        return rows_needed(value, limits, chance, len(labels), classes=len(recalls))

    def is_decided(random, n):
        limits = metrics.recall_interval(*draw_recall(random, recalls, n, frequencies))
        return decide(*limits, chance, chance) != NOT_DECIDED

    return Case(needed, is_decided)


def draw_exactly(recalls):
    """Return labels and predictions with exactly these recalls, of PILOT rows."""
    per_value = PILOT // len(recalls)
    labels = np.repeat(np.arange(len(recalls)), per_value)
    is_right = [np.arange(per_value) < round(share * per_value) for share in recalls]
    return labels, np.where(np.concatenate(is_right), labels, (labels + 1) % len(recalls))


def two_recalls(first, second):
    """Hold the mean recall of one result against that of another one, of other rows."""

    def needed():
        limits = metrics.recall_interval(*draw_exactly(first))
        of_second = metrics.recall_interval(*draw_exactly(second))
        n = PILOT // len(first) * len(first)
        return rows_needed(
            np.mean(first), limits, np.mean(second), n, of_second, classes=len(first)
        )

    def is_decided(random, n):
        limits = metrics.recall_interval(*draw_recall(random, first, n))
        of_second = metrics.recall_interval(*draw_recall(random, second, n))
        return decide(*limits, *of_second) != NOT_DECIDED

    return Case(needed, is_decided)


def two_accuracies(first, second, ratio=1.0):
    """Hold an accuracy against another one, of `ratio` times as many other rows."""

    def needed():
        limits, of_second = (
            metrics.exact_interval(first, PILOT),
            metrics.exact_interval(second, ratio * PILOT),
        )
        return rows_needed(first, limits, second, PILOT, of_second, SHARE)

    def is_decided(random, n):
        others = round(ratio * n)
        shares = random.binomial([n, others], [first, second]) / [n, others]
        reference = Reference("", shares[1], *metrics.exact_interval(shares[1], others))
        return claims.of_share("", shares[0], n, reference).verdict != NOT_DECIDED

    return Case(needed, is_decided)


def draw_clusters(random, shares, clusters, sizes, alike):
    """Return what results with these accuracies get right (M, N), and the cluster of each row."""
    index = np.repeat(np.arange(clusters), random.choice(sizes, clusters))
    of_clusters = random.standard_normal((len(shares), clusters))[:, index]
    own = random.standard_normal(of_clusters.shape)
    latent = math.sqrt(alike) * of_clusters + math.sqrt(1 - alike) * own
    return latent < norm.ppf(shares)[:, None], index


def clustered_accuracy(share, chance, sizes, alike):
    """Hold an accuracy against chance, where rows of one cluster depend on each other."""

    def needed():
        random = np.random.default_rng(0)
        (right,), index = draw_clusters(random, [share], PILOT, sizes, alike)
        limits = metrics.exact_interval(share, metrics.effective_rows(right, index))
        return rows_needed(share, limits, chance, len(index), kind=SHARE)

    def is_decided(random, n):
        clusters = round(n / np.mean(sizes))
        (right,), index = draw_clusters(random, [share], clusters, sizes, alike)
        (claim,) = claims.accuracy_claims("", right, chance, None, "", clusters=index)
        return claim.verdict != NOT_DECIDED

    return Case(needed, is_decided)


def clustered_control(first, second, sizes, alike):
    """Hold an accuracy against a control, where rows of one cluster depend on each other."""

    def draw(random, clusters):
        right, index = draw_clusters(random, [first, second], clusters, sizes, alike)
        return np.bincount(index, right[0].astype(int) - right[1]).astype(int), np.bincount(index)

    def needed():
        sums, counts = draw(np.random.default_rng(0), PILOT)
        difference = first - second
        deviations = sums - sums.sum() / counts.sum() * counts
        half = metrics.QUANTILE * np.linalg.norm(deviations) / counts.sum()
        limits = difference - half, difference + half
        return rows_needed(difference, limits, 0, counts.sum(), kind=PAIRED)

    def is_decided(random, n):  # the interval leaves 0 out exactly if p is at most 5 %
        sums, _ = draw(random, round(n / np.mean(sizes)))
        return dependence.paired_test_log10(sums) <= math.log10(0.05)

    return Case(needed, is_decided)


MIXED = tuple(range(1, 10))
CASES = {
    "accuracy 60 %, chance 50 %": accuracy(0.6, 0.5),
    "accuracy 70 %, chance 50 %": accuracy(0.7, 0.5),
    "accuracy 80 %, chance 50 %": accuracy(0.8, 0.5),
    "accuracy 14 %, chance 10 %": accuracy(0.14, 0.1),
    "accuracy 30 %, chance 10 %": accuracy(0.3, 0.1),
    "accuracy 3 %, chance 1 %": accuracy(0.03, 0.01),
    "accuracy 10 %, chance 1 %": accuracy(0.1, 0.01),
    "accuracy 98 %, chance 90 %": accuracy(0.98, 0.9),
    "accuracy 2 %, chance 10 %": accuracy(0.02, 0.1),
    "control, same rows: 20 % right in one only, 10 % in the other": control(0.2, 0.1),
    "control: 40 % and 10 %": control(0.4, 0.1),
    "control: 50 % and 5 %": control(0.5, 0.05),
    "control: 6 % and 3 %": control(0.06, 0.03),
    "control: 30 % and none": control(0.3, 0.0),
    "mean recall 16 % of 10 values, chance 10 %": recall([0.08, 0.24] * 5, 0.1),
    "mean recall 30 % of 10 values, chance 10 %": recall([0.2, 0.4] * 5, 0.1),
    "mean recall 60 % of 2 values, chance 50 %": recall([0.3, 0.9], 0.5),
    "mean recall 70 % of 2 values, chance 50 %": recall([0.7, 0.7], 0.5),
    "mean recall 65 % of 2 values, one rare, chance 50 %": recall([0.6, 0.7], 0.5, [0.8, 0.2]),
    "mean recall 97 % of 3 values, chance 92 %": recall([0.97] * 3, 0.92),
    "mean recall 5 % of 100 values, chance 1 %": recall([0.03, 0.07] * 50, 0.01),
    "two accuracies, 55 and 50 %": two_accuracies(0.55, 0.5),
    "two accuracies, 80 and 50 %": two_accuracies(0.8, 0.5),
    "two accuracies, 5 and 1 %": two_accuracies(0.05, 0.01),
    "two accuracies, 30 and 1 %": two_accuracies(0.3, 0.01),
    "two accuracies, 40 and 25 %, one of a third of the rows": two_accuracies(0.4, 0.25, 1 / 3),
    "two mean recalls of 4 values, 40 and 30 %": two_recalls([0.2, 0.6] * 2, [0.3] * 4),
    "two mean recalls of 4 values, 80 and 50 %": two_recalls([0.8] * 4, [0.5] * 4),
    "clusters of 4, accuracy 60 %, chance 50 %": clustered_accuracy(0.6, 0.5, [4], 0.5),
    "clusters of 1 to 9, accuracy 15 %, chance 10 %": clustered_accuracy(0.15, 0.1, MIXED, 0.5),
    "clusters of 10, accuracy 70 %, chance 50 %": clustered_accuracy(0.7, 0.5, [10], 0.8),
    "clusters of 4, 60 %, control 50 %": clustered_control(0.6, 0.5, [4], 0.5),
    "clusters of 1 to 9, 60 %, control 45 %": clustered_control(0.6, 0.45, MIXED, 0.5),
    "clusters of 10, 70 %, control 50 %": clustered_control(0.7, 0.5, [10], 0.8),
}


def power_of(case, worlds, seed=0):
    """Return how many rows a case needs, and in which share of worlds of so many they decide."""
    n = math.ceil(case.needed())
    random = np.random.default_rng(seed)
    return n, np.mean([case.is_decided(random, n) for _ in range(worlds)])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_so_many_rows_decide_in_80_percent_of_worlds(name):
    """Of 300 worlds, the share is wrong by 0.07 in 0.3 % of cases."""
    _, power = power_of(CASES[name], 300)
    assert 0.75 - 0.07 <= power <= 0.85 + 0.07


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_so_many_rows_decide_in_75_to_85_percent_of_many_worlds(name):
    """Of 4,000 worlds, the share is wrong by 0.02 in 0.3 % of cases."""
    _, power = power_of(CASES[name], 4000)
    assert 0.75 - 0.02 <= power <= 0.85 + 0.02


# ---- Exact powers --------------------------------------------------------------------------------


def exact_power(share, chance, n):
    """Return how often the exact interval of n rows excludes chance."""
    if share < chance:
        share, chance = 1 - share, 1 - chance
    return binom.sf(binom.isf(0.025, n, chance), n, share)


@pytest.mark.parametrize(
    ("share", "chance"),
    [
        *[(0.55, 0.5), (0.7, 0.5), (0.8, 0.5), (0.3, 0.1), (0.4, 0.25), (0.5, 0.33)],
        *[(0.02, 0.01), (0.05, 0.01), (0.1, 0.01), (0.05, 0.1), (0.02, 0.1), (0.003, 0.001)],
        *[(0.95, 0.9), (0.97, 0.9), (0.99, 0.95), (0.995, 0.98), (0.85, 0.9)],
    ],
)
def test_the_power_around_the_rows_of_a_share_is_80_percent(share, chance):
    """The power jumps with the whole number of right rows, so that other n have more or less."""
    n = rows_needed(share, metrics.exact_interval(share, 500), chance, 500, kind=SHARE)
    assert 0.72 <= exact_power(share, chance, math.ceil(n)) <= 0.88
    around = np.arange(math.floor(0.9 * n), math.ceil(1.1 * n) + 1)
    assert exact_power(share, chance, around).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("n", [20, 60, 400])
def test_a_small_pilot_needs_as_many_rows_as_a_large_one(n):
    """If its share is the same, since its interval tells what its variance is."""
    share = [
        rows_needed(0.55, metrics.exact_interval(0.55, rows), 0.5, rows, kind=SHARE)
        for rows in (n, PILOT)
    ]
    assert share[0] == pytest.approx(share[1], rel=1e-6)
    labels = np.arange(n) % 2
    recalls = []
    for rows in (n, 100 * n):
        labels = np.arange(rows) % 2
        predicted = np.where(np.arange(rows) < 0.6 * rows, labels, 1 - labels)
        limits = metrics.recall_interval(labels, predicted)
        recalls.append(rows_needed(0.6, limits, 0.5, rows, classes=2))
    assert recalls[0] == pytest.approx(recalls[1], rel=1e-6)
    paired = []
    for rows in (n, 100 * n):
        limits = dependence.difference_interval(0.3 * rows, 0.2 * rows, rows)
        paired.append(rows_needed(0.1, limits, 0, rows, kind=PAIRED))
    assert paired[0] == pytest.approx(paired[1], rel=0.12)


@pytest.mark.parametrize(("discordant", "difference"), [(0.2, 0.05), (0.45, 0.15), (0.05, 0.03)])
def test_the_rows_of_a_paired_difference_are_those_that_would_just_show_it(discordant, difference):
    """`mde80` of `compare` for so many rows is this difference."""
    gained, lost = (discordant + difference) / 2, (discordant - difference) / 2
    limits = dependence.difference_interval(PILOT * gained, PILOT * lost, PILOT)
    n = rows_needed(difference, limits, 0, PILOT, kind=PAIRED)
    assert detectable_difference(discordant, round(n)) == pytest.approx(difference, rel=0.01)
    for kind in (PAIRED, INTERVAL):
        swapped = -limits[1], -limits[0]
        both = [
            rows_needed(sign * difference, ends, 0, PILOT, kind=kind)
            for sign, ends in ((1, limits), (-1, swapped))
        ]
        assert both[0] == pytest.approx(both[1])


def test_dependent_rows_count_as_their_effective_number():
    """Of ten rows that are alike, the interval is that of one."""
    single = rows_needed(0.6, metrics.exact_interval(0.6, 50), 0.5, 50, kind=SHARE)
    assert rows_needed(0.6, metrics.exact_interval(0.6, 50), 0.5, 500, kind=SHARE) == pytest.approx(
        10 * single
    )
    limits = dependence.difference_interval(30, 20, 100)
    single = rows_needed(0.1, limits, 0, 100, kind=PAIRED)
    assert rows_needed(0.1, limits, 0, 1000, kind=PAIRED) == pytest.approx(10 * single, rel=0.05)


NAN = math.nan


@pytest.mark.parametrize("kind", [INTERVAL, SHARE, PAIRED])
@pytest.mark.parametrize(
    ("value", "limits", "against"),
    [
        (0.5, (NAN, NAN), 0.4),
        (NAN, (NAN, NAN), 0.4),
        (0.5, (0.4, 0.6), NAN),
        (0.5, (0.5, 0.5), 0.4),
        (0.5, (0.5, 0.5), 0.5),
    ],
)
def test_nothing_is_said_where_nothing_is_known(kind, value, limits, against):
    assert math.isnan(rows_needed(value, limits, against, 100, kind=kind))


@pytest.mark.parametrize("kind", [INTERVAL, SHARE, PAIRED])
@pytest.mark.parametrize("against", [0.5, 0.4999, 0.5001])
def test_no_number_of_rows_is_named_for_what_is_equal_or_nearly_so(kind, against):
    assert math.isinf(rows_needed(0.5, (0.4, 0.6), against, 100, kind=kind))


def test_no_number_is_named_beyond_100_times_the_rows_or_of_an_interval_without_an_end():
    needed = [rows_needed(0.5 + step, (0.4, 0.6), 0.5, 100) for step in (0.02, 0.01)]
    assert needed[0] < FARTHEST * 100
    assert math.isinf(needed[1])
    assert math.isnan(rows_needed(0.2, (-1, 1), 0, 100, kind=PAIRED))
    assert math.isnan(rows_needed(0.2, (0, 0.6), 0.1, 5, kind=SHARE))
    known = rows_needed(0.6, (0.5, 0.7), 0.55, 50)
    assert rows_needed(0.6, (0.5, 0.7), 0.55, 50, (NAN, NAN)) == known


if __name__ == "__main__":
    print("| what is held against what | rows | power (%) |")
    print("|---|---:|---:|")
    for name, case in CASES.items():
        n, power = power_of(case, int(sys.argv[1]))
        print(f"| {name} | {n:,} | {100 * power:.1f} |", flush=True)


def test_so_many_rows_decide_that_a_softmax_is_overconfident_in_most_worlds():
    random = np.random.default_rng(0)

    def draw(n):
        confidence = random.beta(5, 1, n)
        return metrics.reliability(confidence, random.random(n) < confidence**2)

    pilot = [draw(60) for _ in range(100)]
    error, null, limit = (
        np.mean([getattr(one, name) for one in pilot])
        for name in ("ece", "ece_null", "ece_null975")
    )
    needed = round(error_rows(error, null, limit, 60))
    decided = [one.ece > one.ece_null975 for one in (draw(needed) for _ in range(100))]
    assert 0.6 < np.mean(decided) < 0.95
    assert math.isinf(error_rows(null, null, limit, 60))

"""Attributes by their mean absolute error have the verdicts that other metrics have."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from factories import MODEL, feature_file

from clipkit.analysis import attributes
from clipkit.analysis.attributes import recalls
from clipkit.features import Split, row_ids
from clipkit.statistics.claims import LEARNED, NOT_DECIDED, ONLY_THROUGH, WITHOUT_TRAINING

N, WIDTH = 300, 8


def file_of(random, numbers=None, **model):
    """Return two splits of noise, of which the first axis holds numbers (2 N,)."""
    file = feature_file(datasets={"class_names": ["a"]})
    X = random.standard_normal((2 * N, WIDTH))
    if numbers is not None:
        X[:, 0] = numbers + 0.3 * X[:, 0]
    for name, rows in (("train", slice(N)), ("test", slice(N, 2 * N))):
        file.splits[name] = Split(X[rows].astype("f4"), np.zeros(N, int), row_ids(N))
    if model:
        file.history = [{"command": "embed", "model": {**MODEL, **model}}]
    return file


def verdict(images, control, numbers, **others):
    """Return what is claimed of the column y, in a table with others."""
    table = {"split": np.repeat(["train", "test"], N), "id": np.tile(row_ids(N), 2), "y": numbers}
    result = recalls.measure(
        images, table={**table, **others}, columns=["y"], controls=control, metric="mae", random=1
    )
    (claim,) = attributes.ANALYSIS.claims(result)
    assert claim.against.name in ("chance", "the untrained control")
    return claim


def claim_of_world(random, is_held, is_held_untrained, is_confounded=False):
    y = random.standard_normal(2 * N)
    read = y
    others = {}
    if is_confounded:
        others["b"] = read = random.standard_normal(2 * N)
        y = read + 0.4 * random.standard_normal(2 * N)
    images = file_of(random, read if is_held else None)
    control = file_of(random, read if is_held_untrained else None, untrained=7)
    return verdict(images, [control], y, **others)


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        ((True, False), LEARNED),
        ((True, True), WITHOUT_TRAINING),
        ((True, False, True), f"{ONLY_THROUGH} b"),
    ],
)
def test_what_a_world_holds_is_said(world, expected):
    claim = claim_of_world(np.random.default_rng(0), *world)
    assert claim.verdict == expected


def test_a_smaller_error_is_held_against_the_error_by_chance():
    claim = claim_of_world(np.random.default_rng(0), True, False)
    assert claim.low < claim.value < claim.high < claim.against.value
    undecided = verdict(file_of(np.random.default_rng(1)), [], np.arange(2.0 * N))
    assert undecided.verdict == NOT_DECIDED
    assert undecided.because


@pytest.mark.exhaustive
@pytest.mark.parametrize("is_confounded", [False, True])
def test_learned_is_hardly_said_of_what_is_not_there(is_confounded):
    """Of 100 worlds, 7 are said by luck in less than 1 % of cases if the rate is 2.5 %."""
    random = np.random.default_rng(2)
    said = Counter()
    for _ in range(100):
        said[claim_of_world(random, is_confounded, False, is_confounded).verdict] += 1
    assert said[LEARNED] + said[WITHOUT_TRAINING] <= 7

"""Which attribute explains errors: what is found where it was put, and in nothing."""

import numpy as np
import pytest

from clipkit.statistics.shared_errors import kept_values, largest_changes

COLOURS, SHAPES = 4, 6
VALUES = {
    "colour": [f"c{i}" for i in range(COLOURS) for _ in range(SHAPES)],
    "shape": [f"s{j}" for _ in range(COLOURS) for j in range(SHAPES)],
}
C = COLOURS * SHAPES


def test_errors_that_keep_the_shape_change_the_colour():
    counts = 50 * np.eye(C, dtype=int)
    for shape in range(SHAPES):  # the first colour is taken for the second
        counts[shape, SHAPES + shape] = 10
    kept = kept_values(counts, VALUES)
    assert kept["shape"].share == 1
    assert kept["colour"].share == 0
    assert kept["shape"].p < 0.01
    change = largest_changes(counts, VALUES)["colour"]
    assert (change.error.true, change.error.predicted, change.error.images) == ("c0", "c1", 60)
    assert change.p < 0.025


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.long
def test_errors_that_know_no_attribute_are_rarely_said_to_keep_one(name):
    random = np.random.default_rng(0)
    said = sum(
        kept_values(random.poisson(0.5, (C, C)) + 20 * np.eye(C, dtype=int), VALUES)[name].p <= 0.05
        for _ in range(60)
    )
    assert said <= 8  # of 60 at 5 %, more are found in less than 1 % of cases

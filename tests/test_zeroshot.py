"""Zero-shot classification: class scores, and reports on labelled and unlabelled images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from factories import feature_file

from clipkit import zeroshot
from clipkit.errors import ClipkitError


def test_the_score_of_a_class_is_that_of_its_best_prompt():
    cosines = np.array([[0.1, 0.3, 0.2, 0.9], [0.5, 0.1, 0.2, 0.9]], dtype=np.float32)
    scores = zeroshot.class_scores(cosines, np.array([2, 0, 0, -1]), 3)
    expected = np.array([[0.3, -np.inf, 0.1], [0.2, -np.inf, 0.5]], dtype=np.float32)
    assert np.array_equal(scores, expected)


def test_measures_that_do_not_apply_are_nan():
    file = feature_file("logits")  # 2 classes have no top 5
    file.splits["test"] = replace(file.splits["test"], labels=None)
    result = zeroshot.evaluate(file)
    by_split = {row.pop("split"): row for row in result.rows()}
    best = file.splits["train"].features[:, :2].argmax(axis=1)
    assert by_split["train"]["acc1"] == (best == file.splits["train"].labels).mean()
    assert np.isnan(by_split["train"]["acc5"])
    assert all(np.isnan(value) for value in by_split["test"].values())
    assert result.splits["test"].predicted.shape == (1, 6)


@pytest.mark.parametrize(
    ("class_index", "message"),
    [
        ([-1, -1, -1], "expected prompts of the images' classes, got none"),
        ([1, 1, -1], "expected a prompt for every class, but 1 have none, for example 'cat'"),
    ],
)
def test_every_class_needs_a_prompt(class_index, message):
    file = feature_file("logits", datasets={"class_index": np.array(class_index)})
    with pytest.raises(ClipkitError, match=message) as caught:
        zeroshot.evaluate(file)
    assert "textembed --classes" in caught.value.hint

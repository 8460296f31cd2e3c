"""`plot nearest`: the right images of the right data set, with their cosines and classes."""

import numpy as np
from factories import feature_file
from shell import ok

from clipkit.features import Split, read
from clipkit.plots.images import nearest_images


def logits():
    """Return cosines of five images with three prompts, at a temperature of 0.5."""
    file = feature_file("logits", attributes={"temperature": 0.5})
    cosines = np.array([[0.1, 0, 0], [0.5, 0, 1], [0.3, 0.2, 0], [0.5, 0, 0], [-0.2, 0, 0]])
    file.splits = {"test": Split((cosines / 0.5).astype("f4"), ids=list("abcde"))}
    return file


def test_the_highest_and_the_lowest_cosines_are_found_in_falling_order():
    (found,) = nearest_images(logits(), "test", ["a"], count=2)
    assert found.rows.tolist() == [[1, 3], [0, 4]]  # of equals, the first comes first
    np.testing.assert_allclose(found.cosines, [[0.5, 0.5], [0.1, -0.2]], atol=1e-6)


def test_a_class_counts_by_its_most_similar_prompt():
    file = logits()
    file.class_index = np.array([0, 0, -1])
    (found,) = nearest_images(file, "test", classes=["cat"], count=1)
    assert (found.name, found.rows.tolist()) == ("cat", [[1], [4]])


def test_few_images_are_shown_on_both_sides():
    found = nearest_images(logits(), "test", count=9)
    assert len(found) == 3
    assert found[0].rows.shape == (2, 5)


def test_a_sheet_is_drawn(logits_h5, tmp_path):
    prompt = (read(logits_h5).texts or [])[0]
    ok("plot", "nearest", logits_h5, "digits", "--prompt", prompt, "-o", tmp_path / "n.png")
    assert (tmp_path / "n.png").stat().st_size > 5000

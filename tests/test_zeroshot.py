"""Zero-shot classification: class scores, and reports on labelled and unlabelled images."""

from dataclasses import replace

import numpy as np
import pytest
from factories import feature_file

from clipkit.analysis.class_scores import class_scores
from clipkit.analysis.zeroshot import classification
from clipkit.base.errors import ClipkitError
from clipkit.features import similarity


def test_measures_that_do_not_apply_are_nan():
    file = feature_file("logits")  # 2 classes have no top 5
    file.splits["test"] = replace(file.splits["test"], labels=None)
    result = classification.evaluate(file)
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
        ([1, 1, -1], "got none for 1 of 2, such as 'cat'"),
    ],
)
def test_every_class_needs_a_prompt(class_index, message):
    file = feature_file("logits", datasets={"class_index": np.array(class_index)})
    with pytest.raises(ClipkitError, match=message) as caught:
        classification.evaluate(file)
    assert "textembed --classes" in caught.value.hint


def test_the_score_of_a_class_among_many_prompts_is_that_of_its_best():
    rng = np.random.default_rng(0)
    cosines = rng.random((7, 500)).astype(np.float32)
    index = rng.integers(-1, 60, 500)
    scores = class_scores(cosines, index, 61)
    for c in range(60):
        assert np.array_equal(scores[:, c], cosines[:, index == c].max(axis=1))
    assert np.isneginf(scores[:, 60]).all()


def joined(image_names, text_names, history=()):
    """Return the class indices of one prompt per class, joined with images of other names."""
    K = len(text_names)
    images = feature_file("images", datasets={"class_names": image_names})
    images.history = [*images.history, *history]
    of_texts = {"class_names": text_names, "texts": [f"a photo of a {name}" for name in text_names]}
    of_texts |= {"class_index": np.arange(K), "features": np.ones((K, 4), np.float32)}
    texts = feature_file("texts", datasets=of_texts)
    return similarity.compute_logits(images, texts).class_index.tolist()


def test_prompts_are_matched_to_classes_by_name_in_any_order():
    assert joined(["cat", "dog", "owl"], ["owl", "cat", "dog"]) == [2, 0, 1]
    names = [str(i) for i in range(50_000)]
    assert joined(names, names[::-1]) == list(range(50_000))[::-1]


def test_two_classes_of_one_name_are_matched_by_their_order_or_not_at_all(capsys):
    names = ["crane", "cock", "crane"]
    assert joined(names, names) == [0, 1, 2]
    with pytest.raises(ClipkitError, match="in another order, but 2 of them are called 'crane'"):
        joined(names, ["cock", "crane", "crane"])
    assert capsys.readouterr().err == ""
    assert joined(names, ["crane", "cock", "cock"]) == [-1, -1, -1]
    assert "name different classes (for example 'cock')" in capsys.readouterr().err


def test_words_of_an_attribute_belong_to_the_values_of_relabelled_images(capsys):
    history = [{"command": "relabel", "column": "animal"}]
    names = ["animal: yes", "colour: red", "animal: no"]
    assert joined(["no", "yes"], names, history) == [1, -1, 0]
    assert capsys.readouterr().err == ""
    assert joined(["no", "perhaps", "yes"], names, history) == [-1, -1, -1]
    assert joined(["no", "yes"], names) == [-1, -1, -1]


def test_printed_scores_are_cosines_and_logits_that_differ_in_the_last_bit_decide():
    file = feature_file("logits")
    high = np.float32(20)
    low = np.nextafter(high, np.float32(0))
    file.splits["test"].features[:, :2] = [low, high]  # 2 classes, whose cosines are equal
    file.temperature = 0.013
    cosines = file.cosines("test").read()[:, :2]
    assert np.array_equal(cosines[:, 0], cosines[:, 1])
    assert (classification.evaluate(file).splits["test"].predicted == 1).all()
    ranking = classification.rank_images(file, ["test"], keep_scores=True)["test"]
    assert ranking.classes.tolist() == [[1, 0]] * len(cosines)
    assert np.array_equal(ranking.all_scores, cosines)


@pytest.mark.parametrize(
    ("names", "is_labelled", "is_refused"),
    [
        ("colour: red, colour: blue, shape: circle", False, True),
        ("colour: red, colour: blue, colour: green", False, False),
        ("colour: red, colour: blue, none", False, False),
        ("colour: red, colour: blue, shape: circle", True, False),  # the classes are called so
    ],
)
def test_words_of_several_attributes_are_not_classes_of_one(names, is_labelled, is_refused):
    words = {"class_names": names.split(", "), "class_index": np.arange(3)}
    if not is_labelled:
        words |= {"train/labels": None, "test/labels": None}
    file = feature_file("logits", datasets=words)
    if is_refused:
        with pytest.raises(ClipkitError, match="got 2: colour, shape") as caught:
            classification.rank_images(file)
        assert "'colour: ...'" in caught.value.hint
        assert "clipkit attributes" in caught.value.hint
    else:
        classification.evaluate(file)

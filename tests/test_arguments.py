"""Library functions take paths and single values, and refuse a wrong argument by its name."""

import numpy as np
import pytest
from factories import feature_file, random_features, saved, write_feature_file

from clipkit.analysis import (
    alignment,
    attributes,
    neighbours,
    retrieval,
    similarity,
    softmax,
    thresholds,
    zeroshot,
)
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import FeatureFile, Split

MODEL = {"name": "a", "digest": "sha256:1", "logit_scale": 100.0}
N = 40


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return images, their captions and logits, which are also in files of the current folder."""
    monkeypatch.chdir(tmp_path)
    history = [{"command": "embed", "model": MODEL}]
    images = FeatureFile("images", history, class_names=["cat", "dog"])
    for seed, name in enumerate(("train", "test")):
        ids = [f"{name}{row}" for row in range(N)]
        images.splits[name] = Split(random_features(N, 8, seed), np.arange(N) % 2, ids)
    texts = FeatureFile("texts", history, features=random_features(N, 8, 5))
    texts.texts = [f"text {row}" for row in range(N)]
    texts.class_index, texts.class_names = np.arange(N), images["test"].ids
    classes = FeatureFile("texts", history, features=random_features(2, 8, 6))
    classes.texts, classes.class_names = ["a cat", "a dog"], ["cat", "dog"]
    classes.class_index = np.arange(2)
    logits = similarity.compute_logits(images, classes)
    for name, file in (("images", images), ("texts", texts), ("logits", logits)):
        saved(tmp_path / f"{name}.h5", file)
        file.display_name = f"{name}.h5"
    return {"images": images, "texts": texts, "logits": logits.in_memory()}


CALLS = {
    "retrieve": lambda images, texts, logits: retrieval.retrieve(images, texts, k=5),
    "retrieve, listed": lambda images, texts, logits: retrieval.retrieve(images, texts, k=[5]),
    "nearest": lambda images, texts, logits: neighbours.nearest(images, texts, "test", k=2),
    "align": lambda images, texts, logits: alignment.align([images, texts], k=3),
    "choose": lambda images, texts, logits: thresholds.choose(logits, fpr=0.25),
    "zeroshot": lambda images, texts, logits: zeroshot.evaluate(logits, "test"),
    "entropy": lambda images, texts, logits: softmax.entropy_summary(logits, 0.5, splits="test"),
    "entropy, listed": lambda images, texts, logits: softmax.entropy_summary(
        logits, np.array([0.5]), splits=("test",)
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_paths_give_what_files_give(call, files, tmp_path):
    by_file = CALLS[call](**files)
    by_path = CALLS[call](**{name: f"{name}.h5" for name in files})
    by_long_path = CALLS[call](**{name: tmp_path / f"{name}.h5" for name in files})
    np.testing.assert_equal(by_path.rows(), by_file.rows())
    np.testing.assert_equal(by_long_path.rows(), by_file.rows())


def test_one_value_gives_what_a_list_of_it_gives(files):
    for name in ("retrieve", "entropy"):
        listed = CALLS[f"{name}, listed"](**files).rows()
        np.testing.assert_equal(CALLS[name](**files).rows(), listed)
    yielded = softmax.entropy_summary(files["logits"], (t for t in [0.5]), splits=iter(["test"]))
    np.testing.assert_equal(yielded.rows(), listed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: retrieval.retrieve(3, f["texts"]),
            "images: expected a feature file or its path",
        ),
        (
            lambda f: retrieval.retrieve(f["images"], f["texts"], k="5"),
            "k: expected a whole number",
        ),
        (
            lambda f: retrieval.retrieve(f["images"], f["texts"], k=[1.5]),
            "k: expected a whole numb",
        ),
        (lambda f: retrieval.retrieve(f["images"], f["texts"], gap=1), "gap: expected True or Fal"),
        (
            lambda f: alignment.align(f["images"], f["texts"]),
            "split: expected a text, got FeatureF",
        ),
        (lambda f: alignment.align([f["images"], 1]), "files: expected a feature file or its path"),
        (lambda f: neighbours.nearest(f["images"], k=True), "k: expected a whole number, got True"),
        (lambda f: neighbours.nearest(f["images"], k=None), "k: expected a whole number, got None"),
        (lambda f: thresholds.choose(f["logits"], fpr="1%"), "fpr: expected a number, or several"),
        (lambda f: zeroshot.evaluate(f["logits"], 0), "splits: expected a text, or several, got 0"),
        (
            lambda f: attributes.measure(f["images"], table={"id": []}),
            "table: expected a text, got",
        ),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(call, message, files):
    with pytest.raises(UsageError) as raised:
        call(files)
    assert raised.value.message.startswith(message)
    assert "\n" not in raised.value.message
    assert len(raised.value.message) < 150


def test_a_file_of_another_kind_or_none_is_refused_by_its_path_or_content(tmp_path):
    texts = write_feature_file(tmp_path / "texts.h5", "texts")
    for file, name in ((feature_file("texts"), "the file"), (texts, texts)):
        with pytest.raises(ClipkitError) as raised:
            zeroshot.evaluate(file)
        assert raised.value.message == f"{name}: expected logits, got texts"
    with pytest.raises(ClipkitError, match="there is no such file"):
        zeroshot.evaluate(tmp_path / "none.h5")

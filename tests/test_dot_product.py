"""Files whose similarity is a dot product: the next-token logits of a generative model."""

import numpy as np
import pytest
import scipy
from factories import fails_with, random_features, saved
from shell import fails, ok, rows

from clipkit import plots
from clipkit.features import FeatureFile, Split, read, similarity
from clipkit.plots.picture import Picture

WORDS = ["red", "green", "blue"]
MODEL = {"name": "vlm", "similarity": "dot product", "question": "Which colour?"}
CAPPED = MODEL | {"logit_scale": 0.5, "logit_softcap": 3.0}


def images_of(model=CAPPED, n=60, width=8):
    """Return images in two splits, of three classes, with hidden states (n, width)."""
    history = [{"command": "embed", "model": model, "dataset": {"name": "pics"}}]
    file = FeatureFile("images", history, class_names=WORDS)
    words = words_of(model).features
    for seed, name in enumerate(("train", "test")):
        labels = np.arange(n) % len(WORDS)
        features = 2 * random_features(n, width, seed) + words[labels]
        file.splits[name] = Split(features, labels, [f"{row}.png" for row in range(n)])
    return file


def words_of(model=CAPPED, width=8):
    """Return rows of an output embedding, of very different lengths."""
    history = [{"command": "textembed", "model": model}]
    features = random_features(3, width, 7) * np.float32([[0.5], [1], [4]])
    words = FeatureFile("texts", history, features=features, texts=WORDS, class_names=WORDS)
    words.class_index = np.arange(3)
    return words


@pytest.fixture
def files(tmp_path):
    saved(tmp_path / "img.h5", images_of())
    saved(tmp_path / "words.h5", words_of())
    ok("logits", tmp_path / "img.h5", tmp_path / "words.h5", "-o", tmp_path / "logits.h5")
    return tmp_path


def expected_logits(split="test"):
    products = images_of().splits[split].features.astype(np.float64) @ words_of().features.T
    return 3 * np.tanh(0.5 * products / 3)


def test_logits_are_the_models_scaled_and_capped_dot_products(files):
    logits = read(files / "logits.h5")
    assert (logits.temperature, logits.logit_scale) == (1, 1)
    found = logits.splits["test"].features
    np.testing.assert_allclose(found, expected_logits(), rtol=0, atol=1e-6)
    plain = similarity.compute_logits(images_of(MODEL), words_of(MODEL), temperature=0.5)
    products = images_of().splits["test"].features.astype(np.float64) @ words_of().features.T
    np.testing.assert_array_equal(
        plain.splits["test"].features.read(), 2 * products.astype(np.float32)
    )


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_other_formats_carry_the_similarity(files, ending):
    for name in ("img", "words", "logits"):
        source = files / f"{name}.h5"
        ok("convert", source, files / f"x.{ending}", "--force")
        ok("convert", files / f"x.{ending}", files / "back.h5", "--force")
        back = read(files / "back.h5")
        assert back.is_dot_product


def test_splits_and_joins_keep_the_similarity_and_joins_check_it(files):
    ok("split", files / "img.h5", "--val", "0.5", "-o", files / "a.h5")
    assert read(files / "a.h5").is_dot_product
    other = images_of(MODEL | {"question": "Which shape?"})
    saved(files / "other.h5", other)
    cosines = dict(MODEL)
    del cosines["similarity"]
    saved(files / "cosines.h5", images_of(cosines))
    assert "belong to different questions" in fails("concat", files / "img.h5", files / "other.h5")
    for command, pair in (("concat", "img"), ("logits", "words")):
        line = fails(command, files / "cosines.h5", files / f"{pair}.h5")
        assert "have different similarities (vlm 'Which colour?', vlm 'dot product'" in line
    line = fails("logits", files / "other.h5", files / "words.h5")
    assert "belong to different questions" in line
    letters = words_of({**MODEL, "question": "Which shape?"})
    assert similarity.compute_logits(other, letters).splits


def test_words_of_another_generative_model_are_of_another_model(tmp_path):
    saved(tmp_path / "img.h5", images_of(MODEL | {"tower": "image"}))
    saved(tmp_path / "words.h5", words_of(MODEL | {"tower": "text", "name": "other"}))
    line = fails("logits", tmp_path / "img.h5", tmp_path / "words.h5")
    assert "come from different models (vlm 'dot product'" in line


def test_another_similarity_is_refused(tmp_path):
    with fails_with("similarity: expected 'dot product' or none, got 'euclidean'"):
        saved(tmp_path / "x.h5", images_of({"name": "vlm", "similarity": "euclidean"}))


def test_prompts_of_dot_products_are_not_whitened(files):
    line = fails("logits", files / "img.h5", files / "words.h5", "--whiten")
    assert "words.h5: expected cosines to whiten, got dot products of a generative model" in line


def test_zero_shot_entropy_and_calibration_are_the_models_own_softmax(files):
    logits = expected_logits()
    labels = np.arange(60) % 3
    (found,) = rows(ok("zeroshot", files / "logits.h5", "--split", "test").stdout)
    assert float(found["acc1"]) == pytest.approx((logits.argmax(axis=1) == labels).mean())
    p = scipy.special.softmax(logits, axis=1)
    for words in ((), ("-t", "1"), ("-t", "model")):
        (found,) = rows(ok("entropy", files / "logits.h5", "--split", "test", *words).stdout)
        entropy = scipy.stats.entropy(p, axis=1).mean()
        assert float(found["mean_entropy"]) == pytest.approx(entropy, abs=1e-6)
    calibrated = rows(ok("calibrate", files / "logits.h5", "-t", "1").stdout)
    nll = -np.log(p[np.arange(60), labels]).mean()
    assert float(calibrated[0]["nll"]) == pytest.approx(nll, abs=1e-6)


def test_prompts_of_another_model_are_refused_as_such():
    images, words = images_of(MODEL | {"tower": "image"}), words_of({"name": "clip"})
    with fails_with("come from different models"):
        similarity.compute_logits(images, words)


def test_a_control_of_another_question_is_refused(files):
    other = images_of(CAPPED | {"question": "Which shape?", "untrained": 7})
    for split in other.splits.values():
        split.features += 1
    saved(files / "control.h5", other)
    line = fails("attributes", files / "img.h5", "--control", files / "control.h5")
    assert "control.h5: expected the question of" in line


def test_attributes_say_what_zero_shot_says(files):
    (found,) = rows(ok("attributes", files / "img.h5", files / "words.h5").stdout)
    said = expected_logits().argmax(axis=1)
    labels = np.arange(60) % 3
    recall = np.mean([(said[labels == c] == c).mean() for c in range(3)])
    assert float(found["zeroshot"]) == pytest.approx(recall)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("threshold", "logits.h5"), "expected cosines for a threshold"),
        (("plot", "threshold", "logits.h5"), "expected cosines to plot threshold"),
        (("plot", "spectrum", "words.h5"), "expected cosines to plot spectrum"),
        (("retrieve", "img.h5", "words.h5"), "expected cosines to rank by"),
    ],
)
def test_what_has_no_meaning_for_dot_products_is_refused(files, words, message):
    line = fails(*(files / word if word.endswith("h5") else word for word in words))
    assert f"{message}, got dot products of a generative model" in line


def test_a_picture_takes_dot_products_only_if_its_record_says_so(files):
    logits, texts, images = (read(files / name) for name in ("logits.h5", "words.h5", "img.h5"))
    new = Picture("new", draw=lambda file: None, example="", kinds=("logits",))
    for picture in (new, *plots.PICTURES.values()):
        picture.check(images)  # its hidden states are no similarities
        for file in (logits, texts):
            if picture.draws_dot_products:
                picture.check(file)
            else:
                with fails_with(f"expected cosines to plot {picture.name}, got dot products"):
                    picture.check(file)


def test_pictures_call_the_numbers_next_token_logits(files):
    from matplotlib.text import Text

    from clipkit.plots.logits import draw_cosines, draw_similarity

    file = read(files / "logits.h5")
    figures = [draw_cosines(file, "test", (), (), ())[0]]
    figures += [draw_similarity(file, "test", centred)[0] for centred in (False, True)]
    for figure in figures:
        texts = " ".join(text.get_text() for text in figure.findobj(Text))
        assert "ext-token logit" in texts
        assert "osine" not in texts

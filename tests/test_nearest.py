"""`nearest` and `plot nearest`: the right rows of the right file, in the order of their cosines."""

import re

import numpy as np
import pytest
from factories import feature_file, random_features, saved
from shell import fails, ok, rows

from clipkit import embedding
from clipkit.analysis import nearest
from clipkit.analysis.nearest import neighbours
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import BlockMatrix, FeatureFile, History, Split, read, similarity
from clipkit.plots.images import nearest_images
from clipkit.statistics import metrics

MODEL = {"name": "a", "digest": "sha256:1", "logit_scale": 100.0}


def images_file(n, seed=0, model=MODEL):
    """Return images, of which every third is a copy of the first, so that many cosines tie."""
    features = random_features(n, 5, seed)
    features[::3] = features[0]
    split = Split(features, np.arange(n) % 2, [f"{row}.png" for row in range(n)])
    return FeatureFile(
        "images",
        [{"command": "embed", "model": model}],
        {"test": split},
        class_names=["cat", "dog"],
    )


def texts_file(n, seed=1, model=MODEL):
    features = random_features(n, 5, seed)
    index = np.where(np.arange(n) % 2, 0, -1)
    history = History([{"command": "textembed", "model": model}])
    texts = [f"text {row}" for row in range(n)]
    return FeatureFile(
        "texts", history, features=features, texts=texts, class_index=index, class_names=["cat"]
    )


def unit(features):
    return similarity.normalize(features).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 5, 11, 12, 20])
@pytest.mark.parametrize("values", [2, 4, 1000])
def test_the_highest_are_the_first_of_a_stable_sort(count, values):
    scores = np.random.default_rng(count).integers(0, values, (50, 12)).astype(np.float32)
    scores[0, :6] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(metrics.highest(scores, count), expected)


@pytest.mark.parametrize("skip_self", [False, True])
@pytest.mark.parametrize(("size", "cosines"), [(5, 16), (35, 400), (1 << 20, 1 << 20)])
def test_blocks_of_any_size_give_the_first_of_a_stable_sort(monkeypatch, size, cosines, skip_self):
    monkeypatch.setattr(neighbours, "BLOCK_SIZE", size)
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", cosines)
    candidates = unit(images_file(40).splits["test"].features)
    queries = candidates if skip_self else unit(random_features(17, 5, seed=3))
    products = similarity.products(queries, candidates)
    if skip_self:
        np.fill_diagonal(products, -np.inf)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :9]
    found = neighbours.find(queries, candidates, 9, skip_self=skip_self)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.cosines, np.take_along_axis(products, expected, axis=1))


@pytest.mark.parametrize("skip_self", [False, True])
def test_the_largest_cosines_of_sets_leave_no_neighbour_out(monkeypatch, skip_self):
    monkeypatch.setattr(neighbours, "SETS", 8)
    monkeypatch.setattr(neighbours, "FEW", 4)
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 4 * 101 * 7)  # 7 queries
    candidates = unit(random_features(101, 5))
    candidates[60:80] = candidates[:20]  # equal cosines
    queries = candidates if skip_self else unit(random_features(17, 5, seed=3))
    products = similarity.products(queries, candidates)
    if skip_self:
        np.fill_diagonal(products, -np.inf)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :3]
    chosen = []

    def cosines(block, few, places):
        chosen.append(len(places))
        return similarity.products(few, block.rows[places])

    monkeypatch.setattr(neighbours._Block, "cosines", cosines)
    found = neighbours.find(queries, candidates, 3, skip_self=skip_self)
    np.testing.assert_array_equal(found.rows, expected)
    assert max(chosen) < 60  # of 101 candidates


@pytest.mark.parametrize("length", [1e-20, 1.0, 1e25])
def test_rows_of_any_length_are_ranked_as_normalised_ones(monkeypatch, length):
    monkeypatch.setattr(neighbours, "BLOCK_SIZE", 35)
    lengths = np.random.default_rng(0).uniform(0.5, 2, (400, 1)) * length
    candidates = random_features(400, 5) * lengths.astype(np.float32)
    queries = unit(random_features(17, 5, seed=3))
    expected = neighbours.find(queries, unit(candidates), 9)
    found = neighbours.find(queries, candidates, 9, name="images")
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.cosines, expected.cosines)


@pytest.mark.parametrize("name", [None, "images"])
def test_cosines_that_float32_cannot_tell_apart_are_ranked_as_their_float64_sums(monkeypatch, name):
    monkeypatch.setattr(neighbours, "BLOCK_SIZE", 50 * 512)
    rng = np.random.default_rng(0)
    base = rng.standard_normal(512)
    candidates = unit(base + 1e-3 * rng.standard_normal((600, 512)))
    queries = unit(base + 1e-3 * rng.standard_normal((20, 512)))
    rows = candidates if name is None else unit(candidates)
    products = similarity.products(queries, rows)
    assert np.ptp(products) < 1e-5
    in_float32 = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :9]
    expected = np.argsort(-products, axis=1, kind="stable")[:, :9]
    assert (in_float32 != expected).any()
    found = neighbours.find(queries, candidates, 9, name=name)
    np.testing.assert_array_equal(found.rows, expected)


def test_a_row_of_zeros_is_named_in_whichever_block_it_is(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_SIZE", 35)
    candidates = random_features(40, 5)
    for row in (3, 38):
        with_zeros = candidates.copy()
        with_zeros[row] = 0
        with pytest.raises(ClipkitError) as raised:
            neighbours.find(candidates[:2], with_zeros, 2, name="images")
        expected = f"images: expected rows that are not zero, got zeros in row {row}"
        assert raised.value.message == expected


def test_prompts_find_images_alike_by_embeddings_in_blocks_and_by_logits():
    images, texts = images_file(40), texts_file(6)
    logits = similarity.compute_logits(images, texts, temperature=0.5)
    features = images.splits["test"].features

    def iter_blocks():
        for start in range(0, 40, 7):
            yield features[start : start + 7]

    by_embeddings = neighbours.nearest(images, texts, k=8).columns()
    images.splits["test"].features = BlockMatrix(features.shape, iter_blocks)
    assert neighbours.nearest(images, texts, k=8).columns() == by_embeddings
    assert neighbours.nearest(logits, k=8).columns() == by_embeddings
    cosines = similarity.products(unit(texts.features), unit(features))
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :8]
    assert by_embeddings["query"] == np.repeat(texts.texts, 8).tolist()
    assert by_embeddings["rank"] == [*range(1, 9)] * 6
    assert by_embeddings["id"] == [f"{row}.png" for row in order.ravel()]
    assert by_embeddings["label"] == [("cat", "dog")[row % 2] for row in order.ravel()]
    expected = np.take_along_axis(cosines, order, axis=1).ravel()
    np.testing.assert_array_equal(by_embeddings["cosine"], expected)


def test_images_find_prompts_whose_class_is_their_label_if_they_have_one():
    found = neighbours.nearest(texts_file(3), images_file(4), k=9).columns()
    assert found["query"] == np.repeat([f"{row}.png" for row in range(4)], 3).tolist()
    of_first = dict(zip(found["prompt"][:3], found["label"], strict=False))
    assert of_first == {"text 0": "", "text 1": "cat", "text 2": ""}


def test_without_queries_each_row_finds_all_others_and_not_itself():
    found = neighbours.nearest(images_file(7), k=100).rows()
    for number in range(7):
        own = [row["id"] for row in found if row["query"] == f"{number}.png"]
        assert sorted(own) == [f"{row}.png" for row in range(7) if row != number]


@pytest.mark.parametrize(
    ("arguments", "k", "error", "message"),
    [
        ((images_file(4), texts_file(2)), 0, UsageError, "k: expected at least 1, got 0"),
        (
            (images_file(4), texts_file(2, model={"name": "b", "digest": "sha256:2"})),
            1,
            ClipkitError,
            "the file and the file come from different models (a sha256:1, b sha256:2)",
        ),
        (
            (similarity.compute_logits(images_file(4), texts_file(2)), texts_file(2)),
            1,
            UsageError,
            "the file: expected images or texts to search, got logits",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(arguments, k, error, message):
    with pytest.raises(error) as raised:
        neighbours.nearest(*arguments, k=k)
    assert raised.value.message == message


@pytest.mark.long
def test_a_text_is_embedded_by_the_model_of_the_file(tmp_path):
    images = tmp_path / "img.h5"
    control = ("--model", "tiny", "--untrained", 3)
    ok("embed", "shapes", "--split", "test", "--limit", 40, *control, "-o", images)
    (tmp_path / "texts.txt").write_text("a red car\na moon\n")
    ok("textembed", tmp_path / "texts.txt", *control, "-o", tmp_path / "txt.h5")
    by_file = ok("nearest", images, tmp_path / "txt.h5", "-k", 3).stdout
    result = tmp_path / "n.h5"
    by_text = ok("nearest", images, "-q", "a red car", "-q", "a moon", "-k", 3, "-o", result)
    assert by_text.stdout == by_file
    assert by_text.stderr == f"clipkit: model: tiny, untrained with seed 3, as in {images}\n"
    assert read(result).history[-1]["query"] == ["a red car", "a moon"]
    assert len(rows(by_file)) == 6
    quiet = ok("nearest", images, "-q", "a moon", "--quiet")
    assert quiet.stderr == ""


def test_texts_of_a_file_without_a_model_cannot_be_embedded(tmp_path):
    images = images_file(4)
    images.history = [{"command": "convert"}]
    with pytest.raises(ClipkitError, match="expected the name of its model"):
        embedding.embed_queries("a cat", images)
    images.history = [{"command": "embed", "model": {"name": "python:f.py:make", "python": "f.py"}}]
    with pytest.raises(UsageError, match="one's own encoder"):
        embedding.embed_queries("a cat", images)


def test_texts_need_a_file_to_search_and_no_other_queries(tmp_path):
    images = saved(tmp_path / "img.h5", images_file(4))
    texts = saved(tmp_path / "txt.h5", texts_file(2))
    assert "; hint: to search for a text: -q cat" in fails("nearest", images, "cat", exit_code=2)
    message = fails("nearest", images, texts, "-q", "a cat", exit_code=2)
    assert message == f"clipkit nearest: expected {texts} or --query, got both\n"
    logits = tmp_path / "logits.h5"
    ok("logits", images, texts, "-o", logits)
    assert "got logits" in fails("nearest", logits, "-q", "a cat", exit_code=2)


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


@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_with_classes_says_how_many_neighbours_are_of_the_same_class(is_there, tmp_path):
    labels = np.arange(48) % 3
    centres = 5 * is_there * np.eye(3)
    features = centres[labels] + np.random.default_rng(4).standard_normal((48, 3))
    file = images_file(48)
    file.class_names = list("abc")
    file.splits["test"] = Split(features.astype(np.float32), labels, file.splits["test"].ids)
    path = saved(tmp_path / "x.h5", file)
    text = ok("nearest", path, "-k", 3, "--format", "table").stderr
    verdict = "above" if is_there else "not decided against"
    said = rf"Neighbours of the same class: [\d.]+ % of 48, {verdict} chance \(31.9 %"
    assert re.search(said, text)


def test_rows_without_a_class_do_not_count_and_one_class_says_nothing():
    neighbours_of_rows = np.array([[1, 3], [0, 2], [3, 1], [2, 0]])
    (claim,) = neighbours._of_same_class(np.array([0, 0, 1, -1]), neighbours_of_rows)
    assert (claim.value, claim.n) == (2 / 4, 3)
    assert claim.against.value == pytest.approx(1 / 3)
    assert neighbours._of_same_class(np.array([0, 0, -1, 0]), neighbours_of_rows) == []


def test_other_searches_say_nothing():
    """Their queries are prompts or other images: `zeroshot` and `threshold` say what these mean."""
    images, texts = images_file(20), texts_file(4)
    assert nearest.ANALYSIS.claims(neighbours.nearest(images, texts)) == []
    assert nearest.ANALYSIS.claims(neighbours.nearest(images, images_file(5, seed=3))) == []
    assert nearest.ANALYSIS.claims(neighbours.nearest(logits())) == []

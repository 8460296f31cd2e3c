"""Alignment of models: mutual neighbours, unbiased CKA, nulls, blind pairs; the modality gap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group, skew
from shell import fails, ok, rows

from clipkit import features
from clipkit.analysis import alignment, retrieval
from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile
from clipkit.features.history import History
from clipkit.features.model import Split

K = 7


def make_file(rows, name="a", ids=None, **model):
    ids = ids or [f"{i}.jpg" for i in range(len(rows))]
    history = History([{"command": "embed", "model": {"name": name, **model}}])
    splits = {"test": Split(features=np.asarray(rows, np.float32), ids=ids)}
    return FeatureFile("images", history, splits, display_name=f"{name}.h5")


def make_views(n, noises, seed=0, width=8):
    """Return noisy views (n, width) of the same four hidden causes."""
    random = np.random.RandomState(seed)
    causes = random.standard_normal((n, 4))
    views = []
    for noise in noises:
        view = causes @ random.standard_normal((4, width))
        views.append(view + noise * random.standard_normal((n, width)))
    return views


def unit(rows):
    rows = np.asarray(rows, np.float32).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def gram(rows):
    cosines = unit(rows) @ unit(rows).T
    np.fill_diagonal(cosines, 0)
    return cosines


def brute_cka(a, b):
    """Return the CKA by equation 5 of Song et al. (2012), on whole matrices."""

    def hsic(k, m):
        n, one = len(k), np.ones(len(k))
        products = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (products - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    k, m = gram(a), gram(b)
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def brute_knn(a, b, k=K):
    nearest = []
    for view in (a, b):
        cosines = gram(view) - 9 * np.eye(len(view))
        nearest.append([set(row) for row in np.argsort(-cosines, axis=1)[:, :k].tolist()])
    return np.mean([len(x & y) / k for x, y in zip(*nearest, strict=True)])


BRUTE = {"cka": brute_cka, "mutual_knn": brute_knn}


def spaces(*views):
    return [alignment.make_space(unit(view), K) for view in views]


def test_both_measures_are_what_brute_force_gives_for_models_of_different_widths():
    (a,), (b,) = make_views(60, [1]), make_views(60, [2], width=90)
    for row in alignment.align([make_file(a), make_file(b, "b")], k=K).rows():
        assert row["similarity"] == pytest.approx(BRUTE[row["measure"]](a, b), abs=1e-12)


def test_a_model_is_like_itself_and_like_its_rotation():
    (a,) = make_views(50, [1])
    rotated = unit(a) @ ortho_group.rvs(8, random_state=0)
    same, rotation = spaces(a)[0], alignment.make_space(rotated, K)
    assert alignment.measure(same, rotation, np.arange(50)) == pytest.approx((1, 1), abs=1e-12)
    for row in alignment.align([make_file(a), make_file(a, "b")], k=K).rows():
        assert row["similarity"] == pytest.approx(1, abs=1e-12)
        assert (row["calibrated"], row["p"]) == (pytest.approx(1), 1 / 201)


def test_nulls_are_the_exact_means_over_permutations():
    a, b = make_views(40, [0.1, 0.1])
    random = np.random.RandomState(0)
    found = [alignment.measure(*spaces(a, b), random.permutation(40)) for _ in range(2000)]
    for m, row in enumerate(alignment.align([make_file(a), make_file(b)], k=K).rows()):
        error = np.std(found, axis=0)[m] / np.sqrt(2000)
        assert abs(np.mean(found, axis=0)[m] - row["similarity_null"]) < 4 * error
    assert row["similarity_null"] == 0


def test_a_permutation_moves_the_rows_of_the_second_model():
    a, b = make_views(30, [1, 1])
    order = np.random.RandomState(0).permutation(30)
    moved = alignment.measure(*spaces(a, b[order]), np.arange(30))
    assert alignment.measure(*spaces(a, b), order) == pytest.approx(moved, abs=1e-12)


def independent_p(worlds, layers=1):
    """Return p (worlds, 2) of the most similar pair of layers of independent models."""
    found = []
    for seed in range(worlds):
        views = [make_views(40, [1] * layers, seed=2 * seed + side) for side in range(2)]
        files = [
            make_file(view, name) for name, side in zip("ab", views, strict=True) for view in side
        ]
        result = alignment.align(files, k=K, seed=seed).runs
        best = [result["p"][result["measure"] == name].min() for name in alignment.MEASURES]
        found.append(best)
    return np.array(found)


@pytest.mark.parametrize("layers", [1, 3])
def test_independent_models_are_marked_in_5_percent_of_worlds(monkeypatch, layers):
    monkeypatch.setattr(alignment, "PERMUTATIONS", 39)
    marked = (independent_p(100, layers) <= 0.05).mean(axis=0)
    assert (marked <= 0.12).all()
    assert marked.max() >= 0.01


def test_rows_of_equal_cosines_are_no_neighbours_that_independent_models_share():
    shares = []
    for seed in range(20):
        random = np.random.RandomState(seed)
        classes = np.eye(5)[random.randint(5, size=(2, 100))]
        files = [make_file(rows, name) for rows, name in zip(classes, "ab", strict=True)]
        shares.append(alignment.align(files, k=K, seed=seed).rows()[0]["similarity"])
    assert np.mean(shares) == pytest.approx(K / 99, abs=4 * np.std(shares) / np.sqrt(20))


def test_layers_of_two_models_share_the_null_of_the_largest_similarity():
    views = make_views(60, [1, 4, 8, 2, 9])
    files = [make_file(view, "a", layer=i) for i, view in enumerate(views[:2])]
    files += [make_file(view, "b", layer=i) for i, view in enumerate(views[2:])]
    for number, file in enumerate(files):
        file.display_name = f"{number}.h5"
    result = alignment.align(files, k=K, seed=3)
    pairs = [f"{row['a']}{row['b']}" for row in result.rows()[::2]]
    assert pairs == ["02", "03", "04", "12", "13", "14"]
    random = np.random.RandomState(3)
    of_views = spaces(*views)
    left, right = of_views[:2], of_views[2:]
    null = []
    for order in [np.arange(60), *(random.permutation(60) for _ in range(200))]:
        null.append([[alignment.measure(a, b, order) for b in right] for a in left])
    largest = np.max(null, axis=(1, 2))
    for row in result.rows():
        of_measure = np.sort(largest[:, alignment.MEASURES.index(row["measure"])])
        assert row["similarity_null95"] == of_measure[190]  # of 201
        assert row["p"] == (of_measure >= row["similarity"]).mean()


def test_layers_of_one_model_are_compared_with_each_other():
    files = [make_file(view, layer=i) for i, view in enumerate(make_views(30, [1, 2, 4]))]
    similarity = alignment.align(files, k=K).runs["similarity"][1::2].reshape(3, 3)
    assert similarity == pytest.approx(similarity.T)
    assert np.diag(similarity) == pytest.approx(np.ones(3))


def test_rows_are_matched_by_their_ids():
    a, b = make_views(50, [1, 1])
    ids = [f"{i}.jpg" for i in range(50)]
    expected = alignment.align([make_file(a), make_file(b, "b")], k=K)
    shuffled = make_file(b[::-1], "b", ids[::-1])
    assert alignment.align([make_file(a), shuffled], k=K).rows() == expected.rows()
    result = alignment.align([make_file(a), make_file(b[10:], "b", ids[10:])], k=K)
    assert set(result.runs["rows"]) == {40}


def test_an_image_is_matched_with_its_first_text():
    (a,), (b,) = make_views(30, [1]), make_views(30, [1], width=12)
    images = make_file(a)
    texts = FeatureFile(
        "texts",
        History([{"command": "textembed", "model": {"name": "t"}}]),
        features=np.concatenate([b[::-1], b[:5] * -1]).astype(np.float32),
        texts=[f"caption {i}" for i in range(35)],
        class_index=np.concatenate([np.arange(30)[::-1], np.arange(5)]),
        class_names=images.splits["test"].ids,
    )
    result = alignment.align([images, texts], k=K)
    assert result.runs["similarity"] == pytest.approx([brute_knn(a, b), brute_cka(a, b)], abs=1e-6)


def test_a_planted_blind_pair_is_found_and_independent_models_hold_half_apart():
    (a,) = make_views(100, [1])
    b = a.copy()
    a[1] = a[0] + 0.01  # alike in the first, opposite in the second
    b[1] = -b[0]
    first, *others = alignment.align([make_file(a), make_file(b, "b")], k=3, blind=4).rows()
    assert {first["id"], first["other"]} == {"0.jpg", "1.jpg"}
    assert first["rank_b"] == 99
    assert first["cosine_a"] > 0.99 > 0 > first["cosine_b"] > -1.001
    assert len(others) == 3
    a, b = make_views(300, [1])[0], make_views(300, [1], seed=1)[0]
    (row,) = alignment.align([make_file(a), make_file(b, "b")], blind=1).rows()
    assert row["blind"] == pytest.approx(row["blind_null"], abs=0.05)


def test_the_command_reports_two_models_and_lists_blind_pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = make_views(40, [1, 1])
    for name, view in zip("ab", (a, b), strict=True):
        features.write(f"{name}.h5", make_file(view, name))
    stdin = (tmp_path / "b.h5").read_bytes()
    output = ok("align", "a.h5", "-", "-k", K, "-o", "align.h5", stdin=stdin).stdout
    knn, cka = rows(output)
    assert float(knn["similarity"]) == pytest.approx(brute_knn(a, b), abs=1e-6)
    assert float(cka["similarity"]) == pytest.approx(brute_cka(a, b), abs=1e-6)
    assert len(rows(ok("info", "align.h5", "--runs").stdout)) == 2
    assert "align" in ok("report", "align.h5").stdout
    assert len(rows(ok("align", "a.h5", "b.h5", "--blind", 3).stdout)) == 3


@pytest.mark.parametrize(
    ("second", "options", "named"),
    [
        (make_file(np.eye(20), ids=[f"other {i}" for i in range(20)]), {}, "20 of 20 images of"),
        (make_file(np.eye(20)[:1]), {}, "at least 12 rows"),
        (make_file(np.eye(20)), {"k": 19}, "at least 21 rows"),
        (make_file(np.ones((20, 5))), {}, "equal ones"),
        (make_file(np.eye(20)), {}, "equal ones"),
        (make_file(np.zeros((20, 5))), {}, "not zero"),
        (make_file(np.eye(20), ids=["same"] * 20), {}, "different ids"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(second, options, named):
    with pytest.raises(ClipkitError, match=named):
        alignment.align([make_file(make_views(20, [1])[0]), second], **options)


def test_files_that_cannot_be_compared_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        features.write(f"{name}.h5", make_file(make_views(20, [1])[0], name))
    assert "images" in fails("align", "a.h5", exit_code=2)
    assert "--blind" in fails("align", *(f"{name}.h5" for name in "abc"), "--blind", 2, exit_code=2)


def test_concepts_of_published_images_are_held_as_those_of_other_images(real_features):
    """200 images of THINGS by ViT-L/14, with the means of other images of their concepts."""
    things = np.load(real_features / "things200-vitl14.npz")
    images, centres = things["images"], things["centres"]
    result = alignment.align([make_file(images), make_file(centres, "b")]).runs
    brute = [brute_knn(images, centres, 10), brute_cka(images, centres)]
    assert result["similarity"] == pytest.approx(brute, abs=1e-9)
    assert result["similarity"] == pytest.approx([0.5135, 0.8206], abs=5e-5)
    assert result["similarity_null"] == pytest.approx([10 / 199, 0])
    assert (result["similarity_null95"] < [0.06, 0.03]).all()


# ---- The modality gap ----------------------------------------------------------------------------


def make_pairs(n=60, shift=1.0):
    random = np.random.RandomState(0)
    images = random.standard_normal((n, 16)) + shift
    texts = images + random.standard_normal((n, 16)) - 2 * shift
    both = [unit(rows).astype(np.float32) for rows in (images, texts)]
    return retrieval.Pairs(*both, np.arange(n), [f"{i}.jpg" for i in range(n)])


@pytest.mark.parametrize("task", retrieval.TASKS)
def test_gap_and_hubness_are_what_brute_force_gives(task):
    pairs = make_pairs()
    images, texts = (rows.astype(np.float64) for rows in pairs[:2])
    found = retrieval.modality_gap(pairs, task)
    assert found["gap"] == pytest.approx(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0)))
    others = ~np.eye(60, dtype=bool)
    within = np.mean([(1 - rows @ rows.T)[others].mean() for rows in (images, texts)])
    between = (1 - images @ texts.T).diagonal().mean()
    assert found["relative_gap"] == pytest.approx(between / (between + within))
    cosines = images @ texts.T if task == "text_retrieval" else texts @ images.T
    nearest = np.argsort(-cosines, axis=1)[:, :10]
    assert found["hubness"] == pytest.approx(skew(np.bincount(nearest.ravel(), minlength=60)))


def test_halves_of_one_modality_have_no_gap():
    images, texts = make_pairs(400)[:2]
    ids = [f"{i}.jpg" for i in range(400)]
    history = History([{"command": "textembed", "model": {"name": "a"}}])
    names = {"texts": ids, "class_names": ids, "class_index": np.arange(400)}
    of_texts = FeatureFile("texts", history, features=texts, **names)
    for row in retrieval.retrieve(make_file(images, ids=ids), of_texts, gap=True).rows():
        assert row["gap"] > 1 > 0.2 > row["gap_null"]
        assert row["relative_gap"] > 0.6
        assert row["relative_gap_null"] == pytest.approx(0.5, abs=0.02)
    few = of_texts.class_names[:3]
    of_texts.class_index = np.where(np.arange(400) < 3, np.arange(400), -1)
    of_texts.class_names = few
    with pytest.raises(ClipkitError, match="at least 4 pairs"):
        retrieval.retrieve(make_file(images, ids=ids), of_texts, gap=True)

"""Alignment of models: mutual neighbours, unbiased CKA, nulls, blind pairs; the modality gap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group, skew
from shell import fails, ok, rows

from clipkit import features
from clipkit.analysis import align, for_people
from clipkit.analysis.align import alignment
from clipkit.analysis.retrieve import retrieval
from clipkit.base.errors import ClipkitError, UsageError
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
    pair = spaces(a, b)
    found = [alignment.measure(*pair, random.permutation(40)) for _ in range(2000)]
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


@pytest.mark.long
@pytest.mark.parametrize("layers", [1, 3])
def test_independent_models_are_marked_in_5_percent_of_worlds(monkeypatch, layers):
    monkeypatch.setattr(alignment, "PERMUTATIONS", 39)
    marked = (independent_p(100, layers) <= 0.05).mean(axis=0)
    assert (marked <= 0.12).all()
    assert marked.max() >= 0.01


def make_frames(random, sizes, width=8):
    """Return frames of videos by two models that hold nothing in common."""
    video = np.repeat(np.arange(len(sizes)), sizes)
    files = []
    for name in "ab":
        scene = random.standard_normal((len(sizes), width))[video]
        files.append(make_file(scene + 0.3 * random.standard_normal(scene.shape), name))
        files[-1].splits["test"].labels = video
    return files


def cluster_p(worlds, kind, videos=30):
    """Return p of independent models by frame and by video, (worlds, 2, 2)."""
    found = []
    for seed in range(worlds):
        random = np.random.RandomState(seed)
        sizes = {"equal": np.full(videos, 4), "twice": np.full(videos, 2)}.get(kind)
        if sizes is None:
            sizes = random.randint(1, 21, videos)
        if kind == "one large":
            sizes = np.concatenate([[60], np.full(videos - 1, 3)])
        files = make_frames(random, sizes)
        by = [alignment.align(files, k=5, seed=seed, cluster=name) for name in (None, "class")]
        found.append([one.runs["p"] for one in by])
    return np.array(found)


@pytest.mark.long
def test_frames_of_a_video_are_no_neighbours_that_independent_models_share(monkeypatch):
    monkeypatch.setattr(alignment, "PERMUTATIONS", 39)
    by_frame, by_video = (cluster_p(20, "equal") <= 0.05).mean(axis=0)
    assert (by_frame >= 0.95).all()
    assert (by_video <= 0.25).all()


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["equal", "1 to 20", "one large"])
def test_independent_models_of_videos_are_marked_in_5_percent_of_worlds(monkeypatch, kind):
    monkeypatch.setattr(alignment, "PERMUTATIONS", 39)
    by_video = (cluster_p(400, kind)[:, 1] <= 0.05).mean(axis=0)
    assert ((by_video >= 0.02) & (by_video <= 0.08)).all()


def test_copies_of_rows_count_once_and_are_noted(capsys):
    a, b = make_views(30, [1, 1])
    once = alignment.align([make_file(a), make_file(b, "b")], k=K)
    assert "equal" not in capsys.readouterr().err
    copies = [make_file(np.repeat(view, 3, axis=0), name) for view, name in ((a, "a"), (b, "b"))]
    for file in copies:
        file.splits["test"].labels = np.repeat(np.arange(30), 3)
    alignment.align(copies, k=K)
    assert "90 of 90 rows are equal to another row in all files" in capsys.readouterr().err
    thrice = alignment.align(copies, k=K, cluster="class")
    assert "equal" not in capsys.readouterr().err
    assert set(thrice.runs["clusters"]) == {30}
    for name in ("similarity", "similarity_null", "similarity_null95", "p"):
        assert thrice.runs[name] == pytest.approx(once.runs[name], abs=1e-12)


def test_each_draw_has_one_row_of_each_cluster():
    clusters = np.array([3, 1, 3, 3, 1, 0])
    taken = alignment.draw_rows(clusters, 6)
    assert taken.shape == (3, 3)
    for drawn in taken:
        assert sorted(clusters[drawn]) == [0, 1, 3]
    assert set(taken.ravel()) == set(range(6))
    assert alignment.draw_rows(None, 4).tolist() == [[0, 1, 2, 3]]


def test_equal_rows_are_not_far_apart_to_a_model():
    (a,) = make_views(60, [1])
    classes = np.eye(3)[np.arange(60) % 3]
    for row in alignment.align([make_file(a), make_file(classes, "b")], blind=20).rows():
        if row["cosine_b"] > 0.99:
            assert row["rank_b"] == 10  # the mean of 1 to 19
        else:
            assert row["rank_b"] == 39.5  # of 20 to 59
    with pytest.raises(ClipkitError, match="got equal ones"):
        alignment.align([make_file(a), make_file(np.ones((60, 5)), "b")], blind=2)
    with pytest.raises(UsageError, match="--blind without --cluster"):
        alignment.align([make_file(a), make_file(a)], blind=2, cluster="class")


@pytest.mark.long
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


@pytest.mark.long
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


def gap_files(images, texts, image_of=None):
    ids = [f"{i}.jpg" for i in range(len(images))]
    history = History([{"command": "textembed", "model": {"name": "a"}}])
    of_texts = FeatureFile("texts", history, features=texts, class_names=ids)
    of_texts.texts = [f"text {i}" for i in range(len(texts))]
    of_texts.class_index = np.arange(len(texts)) if image_of is None else image_of
    return make_file(images, ids=ids), of_texts


def test_halves_of_one_modality_have_no_gap():
    files = gap_files(*make_pairs(400)[:2])
    for row in retrieval.retrieve(*files, gap=True).rows():
        assert row["gap"] > 1 > 0.2 > row["gap_null"]
        assert row["gap_p"] == row["p_min"] == 1 / 201
        assert row["gap_within_one_side"] < 0.2
        assert row["relative_gap"] > 0.6
        assert row["relative_gap_within_one_side"] == pytest.approx(0.5, abs=0.02)
    shown = for_people.rows_for_people(retrieval.retrieve(*files, k=[1], gap=True))
    (of_gap,) = [row for row in shown if row["measure"] == "gap"][:1]
    assert of_gap["by chance"].endswith(" (p <=\N{NO-BREAK SPACE}1/201)")
    images, texts = files
    texts.class_index = np.where(np.arange(400) < 3, np.arange(400), -1)
    with pytest.raises(ClipkitError, match="at least 4 pairs"):
        retrieval.retrieve(images, texts, gap=True)


def test_images_and_texts_that_are_all_equal_have_no_gap_to_measure():
    files = gap_files(np.ones((20, 4)), np.ones((20, 4)))
    with pytest.raises(ClipkitError, match="--gap: expected images and texts that differ"):
        retrieval.retrieve(*files, gap=True)


def make_world(random, sizes, shared=0.7):
    """Return pairs without a gap: texts are alike as those of an image, and as its image."""
    n = len(sizes)
    image_of = np.repeat(np.arange(n), sizes)
    scene, caption = random.standard_normal((2, n, 12))
    mean = random.standard_normal(12)
    images = mean + shared * scene + random.standard_normal((n, 12))
    noise = random.standard_normal((len(image_of), 12))
    texts = mean + shared * scene[image_of] + 0.8 * caption[image_of] + 0.6 * noise
    both = [unit(rows).astype(np.float32) for rows in (images, texts)]
    return retrieval.Pairs(*both, image_of, [f"{i}.jpg" for i in range(n)])


def gap_rate(worlds, kind, n=40):
    random = np.random.RandomState(0)
    small = []
    for _ in range(worlds):
        sizes = {"1": np.ones(n, int), "5": np.full(n, 5)}.get(kind)
        if sizes is None:
            sizes = random.randint(1, 21, n)
        pairs = make_world(random, sizes)
        gap = retrieval.modality_gap(pairs, "text_retrieval")["gap"]
        small.append(retrieval._gap_null(pairs, gap)["gap_p"] <= 0.05)
    return np.mean(small)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["1", "1 to 20", "5"])
def test_pairs_without_a_gap_rarely_seem_to_have_one(kind):
    assert gap_rate(60, kind) <= 0.15


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["1", "5", "1 to 20"])
def test_five_percent_of_worlds_without_a_gap_seem_to_have_one(kind):
    assert 0.02 <= gap_rate(600, kind, n=60) <= 0.07


@pytest.mark.parametrize("task", retrieval.TASKS)
def test_candidates_without_hubs_are_as_hubby_as_rotated_ones(task):
    """In halves of one side, with other numbers of candidates, hubness differs."""
    found = []
    for seed in range(8):
        random = np.random.RandomState(seed)
        images, texts = (unit(random.standard_normal((n, 16))) for n in (100, 500))
        both = [rows.astype(np.float32) for rows in (images, texts)]
        pairs = retrieval.Pairs(*both, np.repeat(np.arange(100), 5), [])
        found.append((retrieval.hubness(*retrieval._sides(pairs, task)),
                      retrieval._hub_null(pairs, task)))  # fmt: skip
    observed, null = np.mean(found, axis=0)
    assert observed == pytest.approx(null, abs=3 * np.std(found, axis=0)[0] / np.sqrt(8))


@pytest.mark.parametrize(
    ("is_alike", "verdict", "because"),
    [(True, "above chance", ""), (False, "not decided against chance", "of permutations reach it")],
)
def test_the_verdict_holds_each_similarity_against_permuted_rows(
    is_alike, verdict, because, tmp_path
):
    views = make_views(48, [0.1, 0.1], seed=3)
    if not is_alike:
        views[1] = np.random.RandomState(0).standard_normal(views[1].shape)
    names = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for name, view in zip(names, views, strict=True):
        features.write(name, make_file(view, name.stem))
    found = rows(ok("align", *names, "-k", K, "--columns", "measure,verdict,because,needs").stdout)
    assert [row["verdict"] for row in found] == [verdict, verdict]
    assert all(because in row["because"] for row in found)
    table = ok("align", *names, "-k", K, "--format", "table").stderr
    assert "Agreement of a and b by mutual_knn: " in table
    assert f"of 48, {verdict} (14.9 %" in table


def test_a_list_of_pairs_has_no_verdict():
    files = [make_file(view, name) for view, name in zip(make_views(20, [1, 1]), "ab", strict=True)]
    assert align.ANALYSIS.claims(alignment.align(files, k=K, blind=2)) == []

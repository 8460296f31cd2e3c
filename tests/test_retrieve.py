"""Image-text retrieval: ranks, exact chance, intervals, captions from every source."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import check_means_of_controls, fails_with, random_features, untrained
from PIL import Image
from shell import fails, ok, rows

from clipkit import datasets, embedding, features
from clipkit.analysis import for_people
from clipkit.analysis.compare import comparison
from clipkit.analysis.controls import Control
from clipkit.analysis.nearest import neighbours
from clipkit.analysis.retrieve import rank_metrics, retrieval
from clipkit.analysis.retrieve.rank_metrics import METRICS, RELATIVES, RankMetric
from clipkit.analysis.retrieve.retrieval import Pairs
from clipkit.analysis.variance import shares
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import FeatureFile, columns, similarity
from clipkit.features.columns import LABELS, LOWER, NUMBER, Column, all_columns
from clipkit.features.history import History
from clipkit.features.model import Split
from clipkit.shapes.attributes import captions as shapes_captions
from clipkit.statistics import claims, metrics


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_pairs(n, texts_of_each, noise, seed=0):
    random = np.random.RandomState(seed)
    images = random.standard_normal((n, 16))
    image_of = random.permutation(np.repeat(np.arange(n), texts_of_each))
    texts = images[image_of] + noise * random.standard_normal((len(image_of), 16))
    return Pairs(unit(images), unit(texts), image_of, [f"{i}.jpg" for i in range(n)])


def make_files(pairs, model="m"):
    history = [{"command": "embed", "model": {"name": model}}]
    images = FeatureFile(
        "images", History(history), {"test": Split(features=pairs.images, ids=pairs.ids)}
    )
    texts = FeatureFile(
        "texts",
        History([{"command": "textembed", "model": {"name": model}}]),
        features=pairs.texts,
        texts=[f"caption {i}" for i in range(len(pairs.texts))],
        class_index=pairs.image_of,
        class_names=pairs.ids,
    )
    return images, texts


def test_ranks_are_those_of_sorting_all_cosines(monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK_BYTES", 4 * 90 * 7)  # seven images a block
    pairs = make_pairs(30, 3, noise=2.0)
    cosines = pairs.images @ pairs.texts.T
    ranks = retrieval.rank(pairs)
    for text, image in enumerate(pairs.image_of):
        order = np.argsort(-cosines[:, text])
        assert ranks["image_retrieval"].ranks[text] == 1 + np.flatnonzero(order == image)[0]
        wrong = order[order != image][0]
        assert ranks["image_retrieval"].others[text] == wrong
    for image in range(30):
        owners = pairs.image_of[np.argsort(-cosines[image])]
        others_ahead = np.flatnonzero(owners == image)[0]
        assert ranks["text_retrieval"].ranks[image] == 1 + others_ahead
        assert ranks["text_retrieval"].others[image] == owners[owners != image][0]


def test_equal_vectors_share_the_mean_of_their_ranks():
    pairs = make_pairs(4, 1, noise=0.0)
    images = np.repeat(pairs.images[:1], 4, axis=0)
    ranks = retrieval.rank(pairs._replace(images=images, image_of=np.arange(4)))
    assert ranks["image_retrieval"].ranks.tolist() == [2.5] * 4


@pytest.mark.parametrize("partners", [1, 3, 40])
def test_chance_is_what_random_ranks_give(partners):
    candidates, k = 40, [1, 5, 10]
    random = np.random.RandomState(0)
    best = []
    for _ in range(20_000):
        best.append(1 + random.permutation(candidates)[:partners].min())
    best = np.array(best)
    by_chance = retrieval.chance(np.array([partners]), candidates)
    others = {m.column.name: m.by_chance(by_chance) for m in METRICS}
    assert by_chance.recalls(k) == pytest.approx([np.mean(best <= n) for n in k], abs=0.015)
    assert others["mrr"] == pytest.approx(np.mean(1 / best), abs=0.01)
    assert others["median_rank"] == pytest.approx(np.median(best), abs=1)


@pytest.mark.long
def test_random_vectors_have_the_recall_and_the_ranks_of_chance():
    held: dict[str, list[bool]] = {"recall": [], "mrr": [], "median_rank": []}
    for seed in range(100):
        result = retrieval.retrieve(*make_files(make_pairs(100, 2, noise=1e6, seed=seed)), k=[10])
        for row in result.rows():
            for name, inside in held.items():
                inside.append(row[f"{name}_low"] <= row[f"{name}_null"] <= row[f"{name}_high"])
    for inside in held.values():
        assert 0.9 <= np.mean(inside) <= 0.995


def make_alike(random, n, sizes, like, width=32):
    """Return random images and texts that hold nothing of them; those of an image are alike."""
    image_of = np.repeat(np.arange(n), sizes)
    shared = random.standard_normal((n, width))[image_of]
    texts = np.sqrt(like) * shared
    texts = texts + np.sqrt(1 - like) * random.standard_normal((len(image_of), width))
    images = random.standard_normal((n, width))
    return Pairs(unit(images), unit(texts), image_of, [f"{i}.jpg" for i in range(n)])


def test_by_chance_each_image_has_the_texts_of_any_image(monkeypatch):
    """By loops over all pairings, with equal texts that share the mean of their ranks."""
    monkeypatch.setattr(retrieval, "BLOCK_BYTES", 4 * 200 * 7)  # seven images a block
    random = np.random.RandomState(0)
    pairs = make_alike(random, 30, random.randint(1, 8, 30), 0.5)
    pairs.texts[:4] = pairs.texts[5]
    cosines = similarity.products(pairs.images, pairs.texts)
    ranks = []
    for row in cosines:
        for image in range(30):
            is_partner = pairs.image_of == image
            best = row[is_partner].max()
            ahead = (row > best + retrieval.TIE).sum()
            is_tied = np.abs(row - best) <= retrieval.TIE
            ties = (is_tied & ~is_partner).sum()
            ranks.append(1 + ahead + ties / ((is_tied & is_partner).sum() + 1))
    ranks = np.array(ranks)
    by_chance = retrieval.rank(pairs)["text_retrieval"].by_chance
    assert by_chance.recalls([1, 5, 10]) == pytest.approx([(ranks <= k).mean() for k in (1, 5, 10)])
    assert by_chance.mrr == pytest.approx((1 / ranks).mean())
    (median,) = (m.by_chance(by_chance) for m in METRICS if m.column.name == "median_rank")
    assert abs(median - np.median(ranks)) <= 1
    monkeypatch.setattr(retrieval, "NULL_IMAGES", 10)
    monkeypatch.setattr(retrieval, "NULL_COSINES", 1)
    few = retrieval.rank(pairs)["text_retrieval"].by_chance
    assert few.recalls([5]) == pytest.approx(by_chance.recalls([5]), abs=0.1)
    assert few.mrr != by_chance.mrr


def test_one_text_of_each_image_has_random_ranks_by_chance():
    pairs = make_pairs(40, 1, noise=1.0)
    (row, *_) = retrieval.retrieve(*make_files(pairs), k=[1, 5]).rows()
    assert "recall_random_ranks" not in row
    assert row["recall_null"] == 1 / 40
    row = retrieval.retrieve(*make_files(make_pairs(40, 3, 1.0)), k=[1, 5]).rows()[-1]
    assert row["split"] == "text_retrieval"
    expected = retrieval.chance(np.array([3]), 120)
    assert row["recall_random_ranks"] == expected.recalls([5])[0] != row["recall_null"]
    assert row["mrr_random_ranks"] == pytest.approx(expected.mrr)


NULLS = ("recall", "mrr", "median_rank")


def ignorant(worlds, sizes, like):
    """Return how often an ignorant model's intervals hold `_null`, and `_random_ranks`."""
    held = np.zeros((2, len(NULLS)))
    for seed in range(worlds):
        random = np.random.RandomState(seed)
        pairs = make_alike(random, 80, sizes(random), like)
        row = retrieval.retrieve(*make_files(pairs), k=[20]).rows()[1]
        for number, ending in enumerate(("null", "random_ranks")):
            inside = [row[f"{n}_low"] <= row[f"{n}_{ending}"] <= row[f"{n}_high"] for n in NULLS]
            held[number] += inside
    return held / worlds


@pytest.mark.long
def test_what_an_ignorant_model_reaches_with_texts_alike_is_chance():
    held, by_random_ranks = ignorant(40, lambda random: np.full(80, 5), 0.9)
    assert (held >= [0.85, 0.7, 0.85]).all()  # of MRR, a note says that few queries have rank 1
    assert (by_random_ranks < held).all()
    assert (by_random_ranks[[0, 2]] <= 0.3).all()


@pytest.mark.exhaustive
@pytest.mark.parametrize("like", [0.1, 0.9])
@pytest.mark.parametrize("kind", ["1 to 20", "one large", "mostly one"])
def test_an_ignorant_model_lies_in_its_interval(kind, like):
    def sizes(random):
        if kind == "1 to 20":
            return random.randint(1, 21, 80)
        most, rare = {"one large": (2, 200), "mostly one": (1, 3)}[kind]
        return np.concatenate([[rare], np.full(79, most)])

    recall, mrr, median_rank = ignorant(300, sizes, like)[0]
    assert min(recall, median_rank) >= 0.92
    assert mrr >= 0.75  # with a note


def test_a_new_metric_is_shown_everywhere(monkeypatch, tmp_path):
    """Its record is all that one needs."""
    furthest = RankMetric(
        Column("last_rank", NUMBER, LABELS, better=LOWER, has_interval=True, relatives=RELATIVES),
        lambda ranks: (ranks.ranks.max(), 1.0, ranks.candidates),
        lambda chance: float(len(chance.behind) - 1),
    )
    monkeypatch.setattr(rank_metrics, "METRICS", (*METRICS, furthest))
    known = all_columns()
    family = tuple(replace(furthest.column, of="retrieve").family())
    monkeypatch.setattr(columns, "all_columns", lambda: (*known, *family))
    images, texts = make_files(make_pairs(9, 2, noise=1.0))
    control = Control(*untrained(images, texts))
    result = retrieval.retrieve(images, texts, k=[1], controls=[control])
    row = result.runs_on("text_retrieval")[0]
    assert row["last_rank_high"] == row["last_rank_null"] == 18
    assert row["last_rank"] <= 9 * 2 - 1
    assert row["last_rank_control"] >= 1
    features.write(tmp_path / "r.h5", result)
    names = ["last_rank", "last_rank_low", "last_rank_high", "last_rank_null"]
    printed = ok("info", "--runs", tmp_path / "r.h5", "--format", "tsv").stdout
    assert set(names) <= set(printed.splitlines()[0].split("\t"))
    shown = [
        for_people.as_table(result),
        ok("report", tmp_path / "r.h5").stdout,
        result._repr_html_(),
    ]
    for text in map(str, shown):
        assert "last rank" in text


def test_the_interval_of_mrr_is_symmetric_on_the_logit_scale(capsys, monkeypatch):
    monkeypatch.setattr(console, "_verbose", True)
    ranks = np.repeat([1.0, 2, 40], [88, 10, 2])
    by_chance = retrieval.chance(np.ones(100, int), 100)
    row = retrieval._metric_columns(
        retrieval.Ranks(
            ranks, *[np.arange(100)] * 2, np.ones(100, int), 100, np.arange(100), by_chance
        ),
        nulls={},
        controls=[],
    )
    odds = [row[name] / (1 - row[name]) for name in ("mrr_low", "mrr", "mrr_high")]
    assert odds[1] / odds[0] == pytest.approx(odds[2] / odds[1])
    half = 1.959964 * (1 / ranks).std() / 10
    assert row["mrr_high"] - row["mrr_low"] == pytest.approx(2 * half, rel=0.05)
    retrieval.retrieve(*make_files(make_pairs(30, 1, noise=0.01)))
    assert "MRR" not in capsys.readouterr().err
    retrieval.retrieve(*make_files(make_pairs(30, 1, noise=9)))
    assert "the interval of MRR may be too narrow" in capsys.readouterr().err


def test_a_recall_among_all_candidates_is_empty():
    files = make_files(make_pairs(9, 2, noise=1.0))
    control = Control(*untrained(*files))
    result = retrieval.retrieve(*files, k=[1, 9, 20], controls=[control])
    for task, empty in (("image_retrieval", [False, True, True]), ("text_retrieval", [0, 0, 1])):
        for row, is_empty in zip(result.runs_on(task), empty, strict=True):
            for name in ("recall", "recall_low", "recall_null", "recall_control", "control_p"):
                assert np.isnan(row[name]) == bool(is_empty)
    assert "first" in claims.retrieval_sentence(retrieval.first_rows(result))
    assert retrieval.first_rows(retrieval.retrieve(*files, k=[20])) == {}


def test_a_model_is_tested_against_its_control_on_the_same_queries():
    pairs = make_pairs(60, 2, noise=1.0)
    files = make_files(pairs)
    control = Control(*untrained(*files))
    result = retrieval.retrieve(*files, k=[1, 5], controls=[control])
    alone = retrieval.retrieve(*control, k=[1, 5])
    for task in retrieval.TASKS:
        for run, row in enumerate(result.runs_on(task)):
            paired = comparison.pair([result, alone], task, [run])
            assert comparison.compare(paired).rows()[0]["p"] == row["control_p"]
    table = for_people.rows_for_people(result)
    assert re.fullmatch(r"[0-9.]+ \(p\s[0-9.e-]+\)", table[1]["control"])


def test_intervals_hold_the_recall_of_all_queries_in_95_percent_of_samples():
    """Texts of one image depend on each other, and whole images are drawn."""
    random = np.random.RandomState(0)
    held = held_by_rows = 0
    for _ in range(500):
        difficulty = random.uniform(size=100)  # of each image
        groups = np.repeat(np.arange(100), 5)
        found = random.uniform(size=500) < difficulty[groups] ** 4
        rate = 1 / 5  # the mean of the fourth power
        low, high = metrics.wilson(found.mean(), metrics.effective_rows(found, groups))
        held += low <= rate <= high
        low, high = metrics.wilson(found.mean(), len(found))
        held_by_rows += low <= rate <= high
    assert 0.92 <= held / 500 <= 0.98
    assert held_by_rows / 500 < 0.85


def write(folder, pairs, name):
    for file, kind in zip(make_files(pairs), ("img", "txt"), strict=True):
        features.write(str(folder / f"{name}-{kind}.h5"), file)


@pytest.mark.long
def test_a_result_is_compared_query_by_query_and_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, noise in (("good", 0.5), ("bad", 3.0)):
        write(tmp_path, make_pairs(200, 1, noise), name)
        ok("retrieve", f"{name}-img.h5", f"{name}-txt.h5", "-o", f"{name}.h5")
    for task in retrieval.TASKS:
        recalls = [
            features.read(f"{name}.h5").runs_on(task)[0]["recall"] for name in ("good", "bad")
        ]
        (row,) = rows(ok("compare", "good.h5", "bad.h5", "--split", task).stdout)
        assert [float(row["acc_a"]), float(row["acc_b"])] == pytest.approx(recalls)
    ok("plot", "good.h5", "-o", "good.png")
    assert "recall" in ok("report", "good.h5", "bad.h5").stdout
    ok("report", "good.h5", "-o", "good.html")
    page = (tmp_path / "good.html").read_text("utf-8")
    assert page.count('src="data:image/svg') == 1
    assert "In all rows: file good.h5<" in page
    rows_of_tasks = retrieval.first_rows(features.read("good.h5"))
    assert claims.retrieval_sentence(rows_of_tasks) in page
    header = page[page.index("<thead>") : page.index("</thead>")]
    assert re.findall(r">([^<]+)</th>", header)[:2] == ["measure, task", "value"]


def test_several_controls_have_a_mean_and_a_range():
    files = make_files(make_pairs(9, 2, noise=1.0))
    controls = [Control(*untrained(*files, seed=seed)) for seed in (3, 4, 5)]

    def measure(controls):
        return retrieval.retrieve(*files, k=[1, 5], controls=controls, gap=True)

    check_means_of_controls(measure, controls)
    inputs = measure(controls[:2]).history[-1]["inputs"]
    numbers = ("control 1", "control 1 texts", "control 2", "control 2 texts")
    assert set(inputs) == {"images", "texts", *numbers}
    assert inputs["control 2 texts"] == controls[1].texts.digest


def test_a_control_has_texts_where_they_are_needed_and_only_there():
    images, texts = make_files(make_pairs(9, 2, noise=1.0))
    images.splits["test"].labels = np.arange(9) % 3
    images.class_names = ["a", "b", "c"]
    control = Control(*untrained(images, texts))
    with fails_with("control 1: expected texts, got none", UsageError):
        retrieval.retrieve(images, texts, controls=[control.images])
    with fails_with("control 2: expected no texts, got some", UsageError):
        shares.decompose(images, controls=[control.images, control])
    others = replace(control.texts, texts=[*control.texts.texts[1:], "other"])
    with fails_with("expected the same images and texts, got others"):
        retrieval.retrieve(images, texts, controls=[control._replace(texts=others)])


def test_a_control_on_the_command_line_has_its_texts(img_h5, txt_h5):
    for count, options in ((0, []), (1, ["--control-texts", "c.h5"])):
        options += ["--control", "a.h5", "--control", "b.h5"]
        line = fails("retrieve", img_h5, txt_h5, *options, exit_code=2)
        assert f"expected as many --control-texts as --control, got 2 and {count}" in line


@pytest.mark.long
def test_a_control_is_of_the_same_pairs_and_an_untrained_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shapes = ("shapes", "--model", "tiny")
    ok("embed", *shapes, "--split", "test", "--limit", 60, "-o", "img.h5")
    ok("embed", *shapes, "--split", "test", "--limit", 60, "--untrained", 7, "-o", "control.h5")
    ids = [*features.read("img.h5").splits["test"].ids, "4999"]  # one more than there are images
    texts = shapes_captions([int(row_id) for row_id in ids], split="test", seed=0)
    lines = [f"{row_id},{text}\n" for row_id, text in zip(ids, texts, strict=True)]
    Path("captions.csv").write_text("".join(["image,caption\n", *lines]))
    embed_texts = ("textembed", "--captions", "captions.csv", "--model", "tiny")
    ok(*embed_texts, "-o", "txt.h5")
    ok(*embed_texts, "--untrained", 7, "-o", "control-txt.h5")
    control = ("--control", "control.h5", "--control-texts", "control-txt.h5")
    trained = ("--control", "img.h5", "--control-texts", "txt.h5")
    first = rows(ok("retrieve", "img.h5", "txt.h5", *control, "-o", "r.h5").stdout)[0]
    assert float(first["recall_low"]) > 0.5 > float(first["recall_control"])
    inputs = set(features.read("r.h5").history[-1]["inputs"])
    assert inputs == {"images", "texts", "control 1", "control 1 texts"}
    assert "untrained" in fails("retrieve", "img.h5", "txt.h5", *trained)
    assert "txt.h5" in fails("retrieve", "img.h5", "txt.h5", "--strict")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"class_names": [f"other {i}" for i in range(9)]}, "txt.h5"),
        ({"class_index": np.full(18, -1)}, "txt.h5"),
        ({"features": np.ones((18, 5), np.float32)}, "txt.h5"),
    ],
)
def test_texts_without_their_images_are_refused(change, named):
    images, texts = make_files(make_pairs(9, 2, noise=1.0))
    texts.display_name = "txt.h5"
    for name, value in change.items():
        texts.set_dataset(name, value)
    with pytest.raises(ClipkitError, match=named):
        retrieval.retrieve(images, texts)


def test_what_has_no_partner_is_left_out_with_a_count(capsys):
    images, texts = make_files(make_pairs(9, 2, noise=1.0))
    texts.class_names = ["elsewhere.jpg", *texts.class_names[1:]]
    result = retrieval.retrieve(images, texts)
    assert [row["queries"] for row in result.runs_on("image_retrieval")] == [16] * 3
    assert [row["candidates"] for row in result.runs_on("image_retrieval")] == [8] * 3
    assert "left out 2 of 18 texts of the file without image" in capsys.readouterr().err
    with pytest.raises(ClipkitError):
        retrieval.retrieve(images, texts, common=False)


def test_texts_of_several_images_are_warned_about(capsys):
    images, texts = make_files(make_pairs(9, 2, noise=1.0))
    texts.texts[0] = texts.texts[np.flatnonzero(texts.class_index != texts.class_index[0])[0]]
    retrieval.retrieve(images, texts)
    assert "1 text of several images" in capsys.readouterr().err


def test_rows_of_two_imports_are_pairs_if_the_user_says_so():
    pairs = make_pairs(50, 1, noise=0.1)
    pairs = pairs._replace(texts=pairs.texts[np.argsort(pairs.image_of)])
    images, texts = make_files(pairs)
    texts.class_index[:] = -1
    result = retrieval.retrieve(images, texts, same_rows=True)
    assert result.runs_on("text_retrieval")[0]["recall"] > 0.9
    texts.class_index[:] = np.arange(50)[::-1]
    with pytest.raises(ClipkitError, match="another order"):
        retrieval.retrieve(images, texts, same_rows=True)
    texts.features, texts.texts = texts.features[:49], texts.texts[:49]
    texts.class_index = np.full(49, -1)
    with pytest.raises(ClipkitError, match="50"):
        retrieval.retrieve(images, texts, same_rows=True)


# ---- Captions ------------------------------------------------------------------------------------


def picture():
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


def write_members(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_tar(path):
    members = {
        "a.png": picture(),
        "a.txt": b"a first\ncaption",
        "b.png": picture(),
        "c.txt": b"without an image",
        "b.txt": b"a second caption",
    }
    write_members(path, members)


def write_parquet(path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    image = [{"bytes": picture(), "path": f"{name}.png"} for name in "ab"]
    captions = [["one", "two"], ["three"]]
    pq.write_table(pa.table({"image": image, "caption": captions}), path)


def write_objects(path):
    lines = [{"image": "a.png", "caption": ["one", "two"]}, {"image": "b.png", "caption": "three"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("name", "make", "ids", "texts"),
    [
        ("x.tar", write_tar, ["a", "b"], ["a first caption", "a second caption"]),
        ("x.parquet", write_parquet, ["a.png", "a.png", "b.png"], ["one", "two", "three"]),
        ("x.jsonl", write_objects, ["a.png", "a.png", "b.png"], ["one", "two", "three"]),
        (
            "x.tsv",
            lambda path: path.write_text("image\tcaption\n./a.png\tone\nb.png\ttwo\n"),
            ["a.png", "b.png"],
            ["one", "two"],
        ),
    ],
)
def test_captions_have_the_ids_that_embed_gives_to_the_images(tmp_path, name, make, ids, texts):
    make(tmp_path / name)
    captions = embedding.read_captions([str(tmp_path / name)])
    assert (captions.ids, captions.texts) == (ids, texts)
    if name.endswith((".tar", ".parquet")):
        (split,) = datasets.load(tmp_path / name).splits.values()
        assert set(split.ids) == set(ids)


def test_a_table_has_a_number_of_columns_that_can_be_read_in_seconds(tmp_path):
    columns = ["image", "caption", *map(str, range(2**14 - 1))]
    for count, expected in ((2**14, None), (2**14 + 1, "line 1: expected at most 16,384 columns")):
        rows = [columns[:count], ["a"] * count]
        (tmp_path / "x.csv").write_text("\n".join(map(",".join, rows)))
        if expected is None:
            assert embedding.read_captions(str(tmp_path / "x.csv")).texts == ["a"]
        else:
            with pytest.raises(ClipkitError, match=expected):
                embedding.read_captions(str(tmp_path / "x.csv"))


def test_quotes_between_tabs_belong_to_captions(tmp_path, capsys):
    lines = ['a\t"The Scream" by Munch', 'b\t"half', 'c\ta 5" disk', 'd\t"whole"']
    (tmp_path / "x.tsv").write_text("\n".join(["image\tcaption", *lines]))
    found = embedding.read_captions(str(tmp_path / "x.tsv"))
    assert found.texts == ['"The Scream" by Munch', '"half', 'a 5" disk', '"whole"']
    assert "line 5: the quotes around a cell between tabs belong to it" in capsys.readouterr().err


TWICE = '{"image": "a", "caption": "one", "image": "b"}'
ANNOTATION = '{"image_id": 1, "caption": "x", "caption": "y"}'
REPEATED = [
    ("x.jsonl", TWICE, "x.jsonl, line 1: expected each key once, got 'image' again"),
    (
        "x.json",
        f'{{"images": [{{"id": 1, "file_name": "a"}}], "annotations": [{ANNOTATION}]}}',
        "x.json: expected each key once, got 'caption' again",
    ),
    ("x.csv", "image,caption,Image\na,b,c\n", "expected different names of columns, got 'image'"),
    (
        "x.jsonl",
        '{"image": "a", "caption": "b", "Caption": "c"}',
        "x.jsonl, line 1: expected different names of columns, got 'caption' again",
    ),
]


@pytest.mark.parametrize(("name", "text", "message"), REPEATED)
def test_what_a_table_of_captions_says_twice_is_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ClipkitError) as caught:
        embedding.read_captions(str(tmp_path / name))
    assert message in caught.value.message


def test_blank_rows_of_a_table_are_counted(tmp_path, capsys):
    (tmp_path / "x.csv").write_text("image,caption\na,one\n,\n\n , \nb,\n")
    assert embedding.read_captions(str(tmp_path / "x.csv")).texts == ["one"]
    said = capsys.readouterr().err
    assert "2 blank rows left out" in said
    assert "1 blank caption left out" in said


def test_captions_in_tars_are_utf_8_and_one_for_a_key(tmp_path, capsys):
    members = {"a.png": picture(), "a.txt": "\ufeffé".encode(), "a.long.txt": b"another"}
    write_members(tmp_path / "x.tar", members)
    assert embedding.read_captions(str(tmp_path / "x.tar")).texts == ["é"]
    assert "x.tar: left out 1 text, first a.long.txt: their keys" in capsys.readouterr().err
    for text, message in (
        (b"\xff", r"y.tar, a.txt, line 1: expected UTF-8 text, got"),
        (b"x" * 10_001, r"y.tar, a.txt: expected at most 10,000 characters, got 10,001"),
    ):
        write_members(tmp_path / "y.tar", {"a.png": picture(), "a.txt": text})
        with pytest.raises(ClipkitError, match=message):
            embedding.read_captions(str(tmp_path / "y.tar"))


@pytest.mark.parametrize(
    "table",
    ["caption\none\n", "image\n1\n", "image\tcaption\na\tb\tc\n", "image\tcaption\n\tone\n",
     "image\tcaption\na\t\n", f"image\tcaption\na\t{'x' * 10_001}\n"],
)  # fmt: skip
def test_a_table_without_captions_or_ids_is_refused_by_name(tmp_path, monkeypatch, table):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.tsv").write_text(table)
    assert "x.tsv" in fails("textembed", "--captions", "x.tsv", "--model", "tiny", "-o", "x.h5")
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"c\.json: empty input"),
        ("[" + "[]," * 2**22 + "0]", r"c\.json: expected JSON of at most 8,388,608 values, got"),
        ('{"images":\n[', r"c\.json, line 2: expected JSON"),
        ("[1]", r"c\.json: expected captions in COCO"),
    ],
)
def test_damaged_captions_of_coco_are_named(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ClipkitError, match=message):
        embedding.read_captions(str(tmp_path / "c.json"))


def test_captions_of_coco_have_the_names_of_the_images_files(tmp_path):
    coco = {
        "images": [{"id": 7, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 7, "id": n, "caption": f"caption {n}"} for n in range(2)],
    }
    (tmp_path / "c.json").write_text(json.dumps(coco))
    captions = embedding.read_captions(str(tmp_path / "c.json"))
    assert (captions.ids, captions.texts) == (["a.jpg"] * 2, ["caption 0", "caption 1"])
    coco["annotations"][0]["image_id"] = 8
    (tmp_path / "c.json").write_text(json.dumps(coco))
    with pytest.raises(ClipkitError, match=r"c\.json"):
        embedding.read_captions(str(tmp_path / "c.json"))


@pytest.mark.parametrize("k", [1, 3, 5, 8])
def test_the_first_of_equal_candidates_are_the_nearest(k):
    queries = random_features(6, 4, 1)
    candidates = np.concatenate([random_features(2, 4, 2)] * 4)  # each four times
    cosines = similarity.products(queries, candidates)
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(neighbours.find(queries, candidates, k).rows, expected)


def test_half_a_character_is_no_caption(tmp_path):
    (tmp_path / "x.jsonl").write_text(r'{"image": "a", "caption": "b\ud83d\ude00 \ud800"}')
    with pytest.raises(
        ClipkitError, match=r"line 1: expected text, got half a surrogate pair, U\+D800"
    ):
        embedding.read_captions(str(tmp_path / "x.jsonl"))


@pytest.mark.parametrize("n", [50, 500])
def test_the_interval_of_mrr_excludes_what_random_ranks_have_in_few_worlds(n):
    random = np.random.default_rng(n)
    null = retrieval.chance(np.ones(n, np.int64), n)
    below = above = 0
    for _ in range(400):
        ranks = retrieval.Ranks(
            ranks=random.integers(1, n + 1, n).astype(float),
            others=np.zeros(n, np.int64),
            labels=np.arange(n),
            partners=np.ones(n, np.int64),
            candidates=n,
            clusters=np.arange(n),
            by_chance=null,
            has_sets=False,
        )
        found = retrieval._metric_columns(ranks, {}, [])
        below += found["mrr_high"] < null.mrr
        above += found["mrr_low"] > null.mrr
    assert max(below, above) <= 20  # of 400, by luck in less than 1 % of cases if 2.5 % are

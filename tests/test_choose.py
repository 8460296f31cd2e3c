"""Choices between texts and images: accuracies, nulls, items from every source."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from factories import check_means_of_controls, untrained
from shell import fails, ok, rows

from clipkit import embedding, features
from clipkit.analysis.choose import choices
from clipkit.analysis.controls import Control
from clipkit.base.errors import ClipkitError
from clipkit.datasets.items import Item, Items
from clipkit.features import FeatureFile
from clipkit.features.history import History
from clipkit.features.model import Split
from clipkit.plots.attributes import draw_choices
from clipkit.shapes.attributes import attributes
from clipkit.shapes.attributes import items as shapes_items
from clipkit.statistics import metrics
from clipkit.statistics.claims import choices_sentence, understood
from clipkit.statistics.dependence import components

TWO = ("text_acc", "image_acc", "acc")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def make_files(images, texts, model="m"):
    """Return files of images (N, I, D) and texts (N, T, D), and their items."""
    N, T = len(images), texts.shape[1]
    image_ids = [[f"{n}-{i}.jpg" for i in range(images.shape[1])] for n in range(N)]
    names = [[f"text {n} {t}" for t in range(T)] for n in range(N)]
    pairs = zip(image_ids, names, strict=True)
    items = [Item(f"{n}", f"category {n % 2}", *pair) for n, pair in enumerate(pairs)]
    D = images.shape[2]
    ids = [name for of_item in image_ids for name in of_item]
    image_file = FeatureFile(
        "images",
        History([{"command": "embed", "model": {"name": model}}]),
        {"test": Split(features=images.reshape(-1, D), ids=ids)},
        display_name="img.h5",
    )
    text_file = FeatureFile(
        "texts",
        History([{"command": "textembed", "model": {"name": model}}]),
        features=texts.reshape(-1, D),
        texts=[text for of_item in names for text in of_item],
        class_index=np.full(N * T, -1),
        display_name="txt.h5",
    )
    return image_file, text_file, Items("items.csv", items, {"items": ["items.csv"]})


def random_pairs(n, rho, dim, random):
    """Return pairs (n, 2, dim) of unit vectors with the cosine rho."""
    first = unit(random.standard_normal((n, dim)))
    other = random.standard_normal((n, dim))
    other = unit(other - (other * first).sum(axis=1, keepdims=True) * first)
    return np.stack([first, rho * first + np.sqrt(1 - rho**2) * other], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("rho", "known"), [(0, (0.25, 0.25, 1 / 6)), (0.95, (0.0505, 0.0505, 0.008))]
)
def test_random_directions_have_the_accuracy_of_their_angles(rho, known):
    random = np.random.RandomState(0)
    n = 2000
    result = choices.choose(*make_files(*(random_pairs(n, rho, 64, random) for _ in range(2))))
    for measure, expected in zip(TWO, known, strict=True):
        row = result.runs_on(measure)[0]
        assert row["angle"] == pytest.approx(expected, abs=0.0002)
        error = np.sqrt(expected * (1 - expected) / n)
        assert row["accuracy"] == pytest.approx(expected, abs=3 * error)
        assert row["shuffled"] == pytest.approx(expected, abs=3 * error)


def test_two_images_are_right_as_in_the_definition_of_winoground():
    random = np.random.RandomState(0)
    images = random.standard_normal((40, 2, 8))
    texts = images + 1.5 * random.standard_normal((40, 2, 8))
    result = choices.choose(*make_files(images, texts))
    right = {measure: [] for measure in TWO}
    for (v0, v1), (t0, t1) in zip(unit(images), unit(texts), strict=True):
        text = v0 @ t0 > v0 @ t1 and v1 @ t1 > v1 @ t0
        image = t0 @ v0 > t0 @ v1 and t1 @ v1 > t1 @ v0
        for measure, value in zip(TWO, (text, image, text and image), strict=True):
            right[measure].append(value)
    for measure in TWO:
        row, *of_categories = result.runs_on(measure)
        assert row["accuracy"] == np.mean(right[measure])
        assert [other["category"] for other in of_categories] == ["category 0", "category 1"]
        means = [np.mean(right[measure][start::2]) for start in (0, 1)]
        assert [other["accuracy"] for other in of_categories] == means
        split = result.splits[measure]
        assert (split.predicted[0] == split.labels).tolist() == right[measure]


def test_one_image_is_right_if_its_text_is_closer_than_all_others():
    random = np.random.RandomState(0)
    images = random.standard_normal((60, 1, 8))
    texts = random.standard_normal((60, 5, 8))
    texts[:, :1] += images
    image_file, text_file, items = make_files(images, texts)
    fewer = [
        item._replace(texts=item.texts[: 2 + number % 4]) for number, item in enumerate(items.items)
    ]
    result = choices.choose(image_file, text_file, items._replace(items=fewer))
    right = []
    for number, ((v,), of_item) in enumerate(zip(unit(images), unit(texts), strict=True)):
        cosines = of_item[: 2 + number % 4] @ v
        right.append(cosines[0] > cosines[1:].max())
    (row, *_) = result.rows()
    assert {row["split"] for row in result.rows()} == {"text_acc"}
    assert row["accuracy"] == np.mean(right)
    assert row["angle"] == pytest.approx(np.mean([1 / (2 + number % 4) for number in range(60)]))


def test_permuted_images_show_what_the_texts_alone_give():
    """All images prefer the first text, whatever they show."""
    random = np.random.RandomState(0)
    images = random.standard_normal((100, 1, 8)) + 5
    texts = np.stack([np.ones((100, 8)), -np.ones((100, 8))], axis=1)
    (row, *_) = choices.choose(*make_files(images, texts)).rows()
    assert row["accuracy"] == row["shuffled"] == row["shuffled95"] == 1


def above_draws(shuffled):
    """Whether an accuracy is above 95 % of draws."""
    return shuffled.right.mean() > np.quantile(shuffled.draws.mean(axis=(1, 2)), 0.95)


@pytest.mark.long
def test_an_accuracy_of_random_texts_is_above_95_percent_of_draws_in_about_5_percent_of_samples():
    random = np.random.RandomState(0)
    above = []
    for _ in range(300):
        images, texts = random.standard_normal((40, 1, 6)), random.standard_normal((40, 2, 6))
        above.append(above_draws(choices.shuffle(images, texts + 0.5, ["" for _ in images])))
    assert 0.01 <= np.mean(above) <= 0.09


@pytest.mark.long
def test_items_of_one_image_are_given_another_image_together():
    """Ten items of an image have nearly the same texts, so that they are right together."""
    random = np.random.RandomState(0)
    above = []
    for _ in range(100):
        rows = np.repeat(np.arange(20), 10)
        images = random.standard_normal((20, 1, 8))[rows]
        right_texts = random.standard_normal((20, 1, 8))[rows]
        right_texts = right_texts + 0.3 * random.standard_normal((200, 1, 8))
        texts = np.concatenate([right_texts, -right_texts], axis=1)
        above.append(above_draws(choices.shuffle(images, texts, [""] * 200, rows[:, None])))
    assert np.mean(above) <= 0.12  # if items are permuted one by one: 0.3


def brute_shuffled(images, texts, categories, members):
    """Return the mean accuracies (M,) with the images of all items that share none, by loops."""
    by_item = []
    for n, text in enumerate(texts):
        others = {}
        for m, image in enumerate(images):
            if categories[m] == categories[n] and not set(members[m]) & set(members[n]):
                others[tuple(members[m])] = image
        right = []
        for image in others.values():
            cosines = image @ text.T
            first = cosines[0, 0] > cosines[0, 1:].max()
            if len(image) == 1:
                right.append([first])
                continue
            of_texts = first and cosines[1, 1] > cosines[1, 0]
            of_images = cosines[0, 0] > cosines[1, 0] and cosines[1, 1] > cosines[0, 1]
            right.append([of_texts, of_images, of_texts and of_images])
        if right:
            by_item.append(np.mean(right, axis=0))
    return np.mean(by_item, axis=0)


@pytest.mark.parametrize("width", [1, 2])
def test_shuffled_is_the_mean_over_the_images_of_all_other_items(width, monkeypatch):
    """Of items from a pool of images, of which an item may have some of another one."""
    monkeypatch.setattr(choices, "PAIRINGS_AT_ONCE", 100)
    random = np.random.RandomState(0)
    pool = random.standard_normal((12, 8)) + 0.5
    members = np.array([random.choice(12, width, replace=False) for _ in range(40)])
    texts = random.standard_normal((40, 2, 8))
    categories = [f"{n % 3}" for n in range(40)]
    found = choices.shuffle(pool[members], texts, categories, members)
    expected = brute_shuffled(pool[members], texts, categories, members)
    assert np.nanmean(found.expected, axis=1) == pytest.approx(expected, abs=1e-12)
    drawn = np.nanmean(found.draws, axis=(0, 2))
    assert drawn == pytest.approx(expected, abs=0.02)
    monkeypatch.setattr(choices, "PAIRINGS", 1 << 9)
    few = choices.shuffle(pool[members], texts, categories, members)
    assert np.nanmean(few.expected, axis=1) == pytest.approx(expected, abs=0.12)


def test_a_model_that_holds_all_pairs_shows_none_of_them_with_other_images():
    """In permutations with fixed points, a fraction 1/n of the items would keep its image."""
    random = np.random.RandomState(0)
    pairs = random_pairs(8, 0.0, 64, random)
    (row, *_) = choices.choose(*make_files(pairs, pairs)).rows()
    assert row["accuracy"] == 1
    texts = np.concatenate([pairs[:, :1], -pairs[:, :1]], axis=1)
    one = choices.shuffle(pairs[:, :1], texts, [""] * 8)
    expected = brute_shuffled(pairs[:, :1], texts, [""] * 8, np.arange(8)[:, None])
    assert one.expected.mean() == pytest.approx(expected[0], abs=1e-12)


def test_items_of_one_image_alone_have_no_other_images():
    random = np.random.RandomState(0)
    image_file, text_file, items = make_files(
        random.standard_normal((9, 1, 8)), random.standard_normal((9, 2, 8))
    )
    items.items[:] = [item._replace(images=["0-0.jpg"]) for item in items.items]
    result = choices.choose(image_file, text_file, items)
    assert np.isnan(result.runs["shuffled"]).all()
    assert np.isnan(result.runs["shuffled95"]).all()
    assert set(result.runs["clusters"]) == {1}
    assert choices_sentence(result.rows()).startswith("Understood: words in 0 of 2 categories")


def draw_pool(random, items=100, pool=40, like=1.0):
    """Return which items of two images from a pool are right, and the images of each.

    An item is right if the mean of its images' ease and of its own is above a limit.
    """
    members = np.array([random.choice(pool, 2, replace=False) for _ in range(items)])
    ease = random.standard_normal(pool)[members].mean(axis=1)
    return like * ease + random.standard_normal(items) > 0, members


def test_items_from_a_pool_of_images_are_counted_with_all_that_share_one():
    random = np.random.RandomState(0)
    members = np.array([[0, 1], [2, 3], [1, 4], [5, 6], [3, 2], [7, 8]])
    images, texts = random.standard_normal((9, 8)), random.standard_normal((6, 2, 8))
    image_file, text_file, items = make_files(images[members], texts)
    image_file.splits["test"].features = images.astype(np.float32)
    image_file.splits["test"].ids = [f"{n}.jpg" for n in range(9)]
    for n, pair in enumerate(members):
        items.items[n] = items.items[n]._replace(images=[f"{image}.jpg" for image in pair])
    result = choices.choose(image_file, text_file, items)
    assert result.splits["acc"].cluster.tolist() == [0, 1, 0, 2, 1, 3]
    assert result.rows()[0]["clusters"] == 4
    image_file.splits["test"].labels = np.array([0, 0, 1, 1, 0, 2, 2, 2, 2])
    by_class = choices.choose(image_file, text_file, items, cluster="class")
    assert by_class.splits["acc"].cluster.tolist() == [0, 1, 0, 2, 1, 2]
    assert by_class.history[-1]["cluster"] == "class"


@pytest.mark.exhaustive
def test_intervals_of_items_from_a_pool_hold_the_accuracy():
    """Of images that few items share, which form clusters of one to about ten items."""
    random = np.random.RandomState(0)
    held = held_by_first = 0
    for _ in range(400):
        right, members = draw_pool(random, items=100, pool=250, like=2.0)
        for number, clusters in enumerate((components(members), members[:, 0])):
            low, high = metrics.wilson(right.mean(), metrics.effective_rows(right, clusters))
            if number:
                held_by_first += low <= 0.5 <= high
            else:
                held += low <= 0.5 <= high
    assert 0.92 <= held / 400 <= 0.98
    assert held_by_first < held


@pytest.mark.long
def test_a_control_that_is_as_good_is_rarely_said_to_be_below(monkeypatch):
    """Against the control's accuracy without its own error: 9 %."""
    random = np.random.RandomState(0)
    said = 0
    for number in range(40):
        pairs = random.standard_normal((60, 1, 6))
        texts = np.concatenate([pairs, -pairs], axis=1)
        files = []
        for name in "mc":
            noisy = pairs + 1.2 * random.standard_normal(pairs.shape)
            files.append(make_files(noisy, texts, name))
        (images, text_file, items), (other, other_texts, _) = files
        for file in (other, other_texts):
            file.history[0]["model"]["untrained"] = number
        result = choices.choose(images, text_file, items, controls=[Control(other, other_texts)])
        said += sum(understood(result.rows())["words"].values()) / 2
        assert result.rows()[0]["accuracy_low"] > 0.6 > result.rows()[0]["shuffled"]
    assert said <= 4


def test_texts_of_the_same_words_have_a_ceiling():
    texts = [
        ["a dog, a cat", "A cat a dog"],
        ["a dog", "a cat"],
        ["a b c", "b a c", "c b a", "c a d"],
    ]
    items = [Item("", "", ["x"], of_item) for of_item in texts]
    assert choices.order_blind_ceiling(Items("", items, {})).tolist() == [[1 / 2, 1, 1 / 3]]


def test_two_texts_of_the_same_words_are_never_closer_to_different_images(monkeypatch):
    """A model blind to the order of words, but for what rounding leaves."""
    random = np.random.RandomState(0)
    images, texts = random.standard_normal((2000, 2, 8)), random.standard_normal((2000, 1, 8))
    texts = texts + 1e-6 * random.standard_normal((2000, 2, 8))
    items = [Item("", "", ["x", "y"], ["a b", "b a"]), Item("", "", ["x", "y"], ["a b", "b c"])]
    ceiling = choices.order_blind_ceiling(Items("", items, {}))
    assert ceiling.tolist() == [[1 / 4, 1], [0, 1], [0, 1]]
    monkeypatch.setattr(choices, "PAIRINGS", 1 << 16)
    right = choices.shuffle(images, texts, [""] * 2000).right.mean(axis=1)
    assert right == pytest.approx(ceiling[:, 0], abs=0.03)


def test_items_of_one_image_are_counted_together():
    """Ten texts of each image are equally right, so there are as many rows as images."""
    random = np.random.RandomState(0)
    images, texts = random.standard_normal((50, 1, 8)), random.standard_normal((50, 2, 8))
    image_file, text_file, items = make_files(images, texts)
    copies = [item._replace(id=f"{item.id} {n}") for item in items.items for n in range(10)]
    one = choices.choose(image_file, text_file, items).rows()[0]
    ten = choices.choose(image_file, text_file, items._replace(items=copies)).rows()[0]
    assert ten["accuracy_high"] == pytest.approx(one["accuracy_high"])


@pytest.mark.exhaustive
def test_seven_thousand_items_take_seconds():
    random = np.random.RandomState(0)
    files = make_files(
        random.standard_normal((7511, 1, 512)), random.standard_normal((7511, 2, 512))
    )
    start = time.process_time()
    choices.choose(*files)
    assert time.process_time() - start < 30


# ---- Items ---------------------------------------------------------------------------------------

SUGARCREPE = {"0": {"filename": "a.jpg", "caption": "one ", "negative_caption": "two"}}
ARO = {"image_path": "a.jpg", "true_caption": "one", "false_caption": "two", "bbox_x": 1}
ORDER = {"image": "a.jpg", "caption_options": ["one", "two", "two", "three"]}
WINOGROUND = {
    **{"id": 7, "image_0": "ex_7_img_0", "image_1": "ex_7_img_1", "tag": "Verb"},
    **{"caption_0": "one", "caption_1": "two", "collapsed_tag": "Relation"},
}
TABLE = "item,image,text,correct,category\n7,a.jpg,two,0,x\n7,a.jpg,one,1,x\n"
PAIR = "item\timage\ttext\tcorrect\n7\ta\tone\t1\n7\tb\ttwo\t1\n7\ta\ttwo\t0\n"


@pytest.mark.parametrize(
    ("name", "content", "item"),
    [
        ("add_att.json", SUGARCREPE, ("add_att/0", "add_att", ["a.jpg"], ["one", "two"])),
        ("vgr.json", [ARO | {"relation_name": "on"}], ("vgr/0", "on", ["a.jpg"], ["one", "two"])),
        (
            "vga.json",
            [ARO | {"attributes": ["red", "old"]}],
            ("vga/0", "red and old", ["a.jpg"], ["one", "two"]),
        ),
        ("coco.json", [ORDER], ("coco/0", "coco", ["a.jpg"], ["one", "two", "three"])),
        (
            "examples.jsonl",
            WINOGROUND,
            ("examples/7", "Relation", ["ex_7_img_0", "ex_7_img_1"], ["one", "two"]),
        ),
        ("x.csv", TABLE, ("7", "x", ["a.jpg"], ["one", "two"])),
        ("x.tsv", PAIR, ("7", "", ["a", "b"], ["one", "two"])),
    ],
)
def test_published_items_are_read_as_they_are(tmp_path, name, content, item):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text)
    items = embedding.read_items(str(tmp_path / name))
    assert items.items == [item]
    assert embedding.read_items(str(tmp_path)).items == [item]


def test_a_folder_has_a_category_for_each_file(tmp_path):
    for name in ("swap_att", "add_att"):
        (tmp_path / f"{name}.json").write_text(json.dumps(SUGARCREPE))
    items = embedding.read_items([str(tmp_path)]).items
    assert [(item.id, item.category) for item in items] == [
        ("add_att/0", "add_att"),
        ("swap_att/0", "swap_att"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "x.json",
            '{"0": {"filename": "a", "caption": "b", "negative_caption": "b"}}',
            "x.json, 0",
        ),
        ("x.json", '{"0": {"filename": "a", "negative_caption": "b"}}', "x.json, 0"),
        ("x.json", '[{"caption": "a"}]', "members caption"),
        ("x.json", "", "x.json: empty input"),
        ("x.json", '{"0":\n{"a"', "x.json, line 2: expected JSON (Expecting ':' delimiter"),
        ("x.json", "[]", "x.json: expected items, got none"),
        ("x.csv", "", "line 1: expected a column item, got none; hint: the first line"),
        ("x.jsonl", "1\n", "x.jsonl, line 1"),
        ("x.csv", "item,image,text,correct\n7,a,one,1\n", "x.csv, item 7"),
        ("x.csv", "item,image,text,correct\n7,a,one,1\n7,a,two,1\n", "x.csv, item 7"),
        ("x.csv", "item,image,text,correct\n7,a,one,1\n7,b,two,0\n", "x.csv, item 7"),
        ("x.csv", "item,image,text,correct\n7,a,one,yes\n", "x.csv, line 2"),
        ("x.csv", "item,image,text\n7,a,one\n", "x.csv, line 1: expected a column correct"),
        (
            "x.csv",
            "item,image,text,correct\n7,a,one,1\n7,a,two,0\n7,a,one,0\n",
            "x.csv, item 7: expected a text to be right or wrong, got 'one' as both",
        ),
        (
            "x.csv",
            "item,image,text,correct,category\n7,a,one,1,x\n7,a,two,0,y\n",
            "x.csv, item 7: expected one category, got 'x' and 'y'",
        ),
        (
            "x.json",
            '{"0": {"filename": "a", "caption": ["b", "c"], "negative_caption": "d"}}',
            "x.json, 0, caption: expected a text or a whole number, got",
        ),
        (
            "x.json",
            '{"0": {"filename": "a", "caption": "b", "caption": "c", "negative_caption": "d"}}',
            "x.json: expected each key once, got 'caption' again",
        ),
        ("x.txt", "one\n", "x.txt"),
    ],
)
def test_a_table_without_items_is_refused_by_name(tmp_path, monkeypatch, name, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    command = ("textembed", "--items", name, "--model", "tiny", "-o", "txt.h5")
    assert message in fails(*command, exit_code=2 if name == "x.txt" else 1)
    assert not (tmp_path / "txt.h5").exists()


def test_images_with_other_endings_are_other_images():
    image_file, text_file, items = make_files(np.eye(2)[:, None], np.ones((2, 2, 2)))
    image_file.splits["test"].ids = ["view.1", "other"]
    items.items[:] = [item._replace(images=["view.2"]) for item in items.items]
    with pytest.raises(ClipkitError, match=r"like 'view.2'"):
        choices.choose(image_file, text_file, items)


def test_names_without_an_ending_are_those_of_the_images_files():
    random = np.random.RandomState(0)
    image_file, text_file, items = make_files(*(random_pairs(9, 0.5, 16, random) for _ in range(2)))
    without = [
        item._replace(images=[name.removesuffix(".jpg") for name in item.images])
        for item in items.items
    ]
    result = choices.choose(image_file, text_file, items._replace(items=without))
    assert result.rows()[0]["items"] == 9


def test_items_of_unknown_images_are_named_and_refused_or_left_out(capsys):
    random = np.random.RandomState(0)
    image_file, text_file, items = make_files(*(random_pairs(9, 0.5, 16, random) for _ in range(2)))
    for number in range(6):
        items.items[number] = items.items[number]._replace(images=[f"no {number}.jpg", "1-1.jpg"])
    with pytest.raises(ClipkitError, match=r"6 of 9 items .* like 'no 0.jpg'") as error:
        choices.choose(image_file, text_file, items)
    assert error.value.hint == "--common leaves them out"
    result = choices.choose(image_file, text_file, items, common=True)
    assert result.rows()[0]["items"] == 3
    notes = capsys.readouterr().err
    assert "left out 6 of 9 items of items.csv without image in test of img.h5" in notes
    assert "12 images in no item" in notes


def test_equal_ids_are_refused():
    random = np.random.RandomState(0)
    image_file, text_file, items = make_files(*(random_pairs(9, 0.5, 16, random) for _ in range(2)))
    image_file.splits["test"].ids[1] = "0-0.jpg"
    with pytest.raises(ClipkitError, match=r"img.h5: test: expected different ids"):
        choices.choose(image_file, text_file, items, common=True)


def test_other_texts_and_other_models_are_refused():
    random = np.random.RandomState(0)
    image_file, text_file, items = make_files(*(random_pairs(9, 0.5, 16, random) for _ in range(2)))
    _, other, _ = make_files(*(random_pairs(9, 0.5, 16, random) for _ in range(2)), model="other")
    with pytest.raises(ClipkitError, match="different models"):
        choices.choose(image_file, other, items)
    text_file.texts = [f"{text} of others" for text in text_file.texts]
    with pytest.raises(ClipkitError, match=r"txt.h5: .*'text 0 0', .* and 13 more"):
        choices.choose(image_file, text_file, items)


def test_items_of_one_image_and_of_two_are_not_mixed():
    random = np.random.RandomState(0)
    image_file, text_file, items = make_files(*(random_pairs(9, 0.5, 16, random) for _ in range(2)))
    items.items[0] = items.items[0]._replace(images=items.items[0].images[:1])
    with pytest.raises(ClipkitError, match=r"items.csv: expected items of one image or of two"):
        choices.choose(image_file, text_file, items)


def test_the_texts_of_shapes_fit_their_images():
    index = np.arange(400)
    table = attributes(index, split="test", seed=0)
    categories = {}
    for category, row, right, wrong in shapes_items(index, split="test", seed=0):
        categories.setdefault(category, []).append(right.startswith("a photo of a "))
        shown = {table[name][row] for name in ("outline", "pattern", "colour", "background")}
        if category == "negation":
            *_, article, noun = right.split()
            assert (article == "a") == (noun == table["outline"][row])
            assert sorted([article, wrong.split()[-2]]) == ["a", "no"]
        elif category in ("word order", "swapped attributes"):
            assert sorted(right.split()) == sorted(wrong.split())
            assert right != wrong
        else:
            new = set(wrong.split()) - set(right.split())
            assert len(new) == 1
            assert not new & shown
            assert set(right.split()) & shown
    assert len(categories) == 7
    assert 0.4 < np.mean(categories["negation"]) < 0.6


def test_several_controls_have_a_mean_and_a_range_and_none_may_do_as_well():
    random = np.random.RandomState(1)
    pairs = random_pairs(60, 0.5, 16, random)
    images, texts, items = make_files(pairs, pairs)
    controls = [Control(*untrained(images, texts, seed=seed)) for seed in (3, 4)]

    def measure(controls):
        return choices.choose(images, texts, items, controls=controls)

    check_means_of_controls(measure, controls)
    result = measure(controls)
    assert choices_sentence(result.rows()) == "Understood: words in 2 of 2 categories"
    figure, _ = draw_choices(result)
    assert figure.axes[0].get_title("left").endswith("; controls: the range")
    lines = np.vstack([lines.get_segments() for lines in figure.axes[0].collections])
    ends = [[row["accuracy_control_low"], row["accuracy_control_high"]] for row in result.rows()]
    assert {tuple(line) for line in 100 * np.array(ends)} <= {tuple(line) for line in lines[..., 0]}
    assert (result.runs["control_p"] < 0.05).all()
    result.runs["accuracy_control_high"][:] = 1.0
    sentence = choices_sentence(result.rows())
    assert sentence.startswith("Understood: words in 0 of 2 categories; not decided: ")


# ---- The command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Embed images of `shapes` and the texts of its items by `tiny` and by its control."""
    folder = tmp_path_factory.mktemp("choose")
    for name, control in (("", ()), ("control-", ("--untrained", 7))):
        options = ("--model", "tiny", *control)
        ok(
            "embed",
            "shapes",
            "--split",
            "test",
            "--limit",
            1000,
            *options,
            "-o",
            folder / f"{name}img.h5",
        )
        ok("textembed", "--items", "shapes", *options, "-o", folder / f"{name}txt.h5")
    return folder


@pytest.mark.exhaustive
def test_tiny_understands_words_and_its_control_does_not(shapes, monkeypatch):
    monkeypatch.chdir(shapes)
    control = ("--control", "control-img.h5", "--control-texts", "control-txt.h5")
    report = ok("choose", "img.h5", "txt.h5", "--items", "shapes", *control, "-o", "tiny.h5")
    found = {}
    for row in rows(report.stdout):
        names = ("accuracy", "shuffled", "accuracy_control", "shuffled_control", "ceiling")
        found[row["category"]] = [float(row[name]) for name in names]
    assert found["replaced pattern"] == pytest.approx([0.879, 0.505, 0.502, 0.497, 1], abs=0.03)
    assert found["replaced outline"] == pytest.approx([0.994, 0.499, 0.515, 0.512, 1], abs=0.03)
    assert found["word order"] == pytest.approx([0.661, 0.249, 0.439, 0.440, 0.5], abs=0.02)
    ok("choose", "control-img.h5", "control-txt.h5", "--items", "shapes", "-o", "control.h5")
    (pair,) = rows(ok("compare", "tiny.h5", "control.h5").stdout)
    assert float(pair["acc_a"]) == found["all"][0]
    assert int(pair["rows"]) == sum(int(row["items"]) for row in rows(report.stdout)[1:])
    ok("plot", "tiny.h5", "-o", "tiny.png")
    ok("report", "tiny.h5", "control.h5", "-o", "page.html")
    page = (shapes / "page.html").read_text("utf-8")
    assert page.count('src="data:image/svg') >= 1
    assert "clipkit choose images.h5 texts.h5 --control control1.h5" in page
    counts = "words in 4 of 5 categories, order of words in 2 of 2 categories"
    assert f"{counts}; not decided: negation" in page
    assert page.count(">word order<") == 1  # the control is a column, and has no rows
    table = ok("choose", "img.h5", "txt.h5", "--items", "shapes", "--format", "table").stdout
    assert "word order" in table


@pytest.mark.long
def test_what_does_not_belong_together_is_one_line_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = ("--model", "tiny")
    ok("embed", "shapes", "--split", "test", "--limit", 20, *tiny, "-o", "img.h5")
    row_id = features.read("img.h5").splits["test"].ids[0]
    lines = ["item,image,text,correct", f"1,{row_id},a red box,1", f"1,{row_id},a blue box,0", ""]
    Path("items.csv").write_text("\n".join(lines))
    ok("textembed", "--items", "items.csv", *tiny, "-o", "txt.h5")
    ok("textembed", "--items", "items.csv", *tiny, "--untrained", 7, "-o", "control-txt.h5")
    items = ("--items", "items.csv", "-o", "none.h5")
    assert "different models" in fails("choose", "img.h5", "control-txt.h5", *items)
    assert "img.h5" in fails("choose", "img.h5", "img.h5", *items)
    trained = ("--control", "img.h5", "--control-texts", "txt.h5")
    assert "untrained" in fails("choose", "img.h5", "txt.h5", *items, *trained)
    assert "--control-texts" in fails(
        "choose", "img.h5", "txt.h5", *items, *trained[:2], exit_code=2
    )
    assert "--items" in fails("choose", "img.h5", "txt.h5", exit_code=2)
    assert "--items" in fails("textembed", "x.txt", "--items", "shapes", exit_code=2)
    assert not Path("none.h5").exists()
    Path("x.csv").write_text("\n".join(lines).replace("a blue box", "no"))
    assert "'no'" in fails("choose", "img.h5", "txt.h5", "--items", "x.csv")


@pytest.mark.long
def test_two_images_are_drawn_with_a_row_for_each_measure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    result = choices.choose(*make_files(*(random_pairs(20, 0.9, 16, random) for _ in range(2))))
    features.write("two.h5", result)
    ok("plot", "two.h5", "-o", "two.png")
    assert {row["split"] for row in rows(ok("info", "two.h5", "--runs").stdout)} == set(TWO)


def test_a_result_is_exported_with_the_chosen_text_of_each_item(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    result = choices.choose(*make_files(*(random_pairs(20, 0.9, 16, random) for _ in range(2))))
    features.write("two.h5", result)
    ok("convert", "two.h5", "two.csv")
    with Path("two.csv").open(encoding="utf-8", newline="") as file:
        exported = list(csv.DictReader(file))
    accuracies = {row["split"]: row["accuracy"] for row in result.rows()[::-1]}  # of all items
    for name in TWO:
        right = [row["label"] == row["predicted"] for row in exported if row["split"] == name]
        assert len(right) == 20
        assert np.mean(right) == accuracies[name]

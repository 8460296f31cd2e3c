"""The rendered data set: what an image is, that it is always the same, and that nuisances do not know the class."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from clipkit import shapes
from clipkit.shapes import __main__ as folder_command
from clipkit.shapes.captions import KINDS, OUTLINE_WORDS, PATTERN_WORDS
from clipkit.shapes.draw import draw
from clipkit.shapes.scene import sample


def test_one_hundred_classes_in_the_order_of_their_folders():
    assert len(shapes.CLASS_NAMES) == len(set(shapes.CLASS_NAMES)) == 100
    assert list(shapes.CLASS_NAMES) == sorted(shapes.CLASS_NAMES)
    assert "striped ball" in shapes.CLASS_NAMES
    for c, name in enumerate(shapes.CLASS_NAMES):
        assert name == f"{shapes.PATTERNS[c // 20]} {shapes.OUTLINES[c % 20]}"


@pytest.mark.parametrize("n", [1, 99, 100, 250, 2000])
def test_labels_are_balanced_and_the_first_ones_do_not_depend_on_how_many(n):
    labels = shapes.labels("train", n, seed=3)
    counts = np.bincount(labels, minlength=100)
    assert labels.dtype == np.int64
    assert counts.max() - counts.min() <= (n % 100 != 0)
    assert (labels == shapes.labels("train", 5000, seed=3)[:n]).all()
    assert (labels == shapes.labels_of(np.arange(n), split="train", seed=3)).all()


def test_pixels_are_these_on_every_machine():
    """Hashing and IEEE arithmetic alone decide them; a change of the world must be meant, and changes this digest."""
    pixels = shapes.render(np.arange(200), split="test", seed=0, size=32)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "c27d371daec92694"


def test_an_image_does_not_depend_on_its_neighbours_or_their_order():
    indices = np.random.default_rng(0).permutation(700)[:300]
    together = shapes.render(indices, split="test", seed=5, size=48)
    assert together.shape == (300, 48, 48, 3)
    assert together.dtype == np.uint8
    for row in range(0, 300, 17):
        alone = shapes.render(indices[row : row + 1], split="test", seed=5, size=48)
        assert (alone[0] == together[row]).all()


def test_seed_split_and_index_each_give_other_images():
    first = shapes.render([0], split="test", seed=0, size=16)
    for indices, split, seed in [([1], "test", 0), ([0], "train", 0), ([0], "test", 1)]:
        assert (first != shapes.render(indices, split=split, seed=seed, size=16)).any()
    assert shapes.render([], split="test", seed=0, size=16).shape == (0, 16, 16, 3)


def test_another_resolution_shows_the_same_picture():
    scene = sample(np.arange(100), split="test", seed=1)
    scene["noise"] = np.zeros(100)
    small, large = (draw(scene, size)[0].astype(float) for size in (32, 96))
    shrunk = large.reshape(100, 32, 3, 32, 3, 3).mean((2, 4))
    assert np.abs(shrunk - small).mean() < 4


def test_noise_is_as_strong_in_a_shrunk_picture_as_in_a_small_one():
    scene = sample(np.arange(400), split="test", seed=1)
    clean = {**scene, "noise": np.zeros(400)}
    noisy = scene["noise"] > 0
    noise = {
        size: draw(scene, size)[0][noisy].astype(float) - draw(clean, size)[0][noisy]
        for size in (32, 64)
    }
    shrunk = noise[64].reshape(-1, 32, 2, 32, 2, 3).mean((2, 4))
    assert shrunk.std() == pytest.approx(noise[32].std(), rel=0.1)


def test_masks_cover_the_object_and_nothing_else():
    scene = sample(np.arange(200), split="test", seed=2)
    for name in ("noise", "blur"):
        scene[name] = np.zeros(200)
    first, masks = draw(scene, 48)
    other, same = draw(
        {**scene, "colour": (scene["colour"] + 1) % 10, "second": (scene["second"] + 1) % 10}, 48
    )
    assert (masks == same).all()
    changed = (
        np.abs(first.astype(int) - other).max(-1) > 1
    )  # what a mask of 0 rounds away is within one grey level
    assert changed.any()
    assert (masks[changed] > 0).all()
    assert (masks.reshape(200, -1).max(1) == 255).all()


def test_grey_images_have_no_colour():
    grey = shapes.attributes(np.arange(500), split="test", seed=0)["greyscale"]
    pixels = shapes.render(np.arange(500), split="test", seed=0, size=16).astype(int)
    spread = (pixels.max(-1) - pixels.min(-1)).reshape(500, -1).max(1)
    assert 0.05 < grey.mean() < 0.2
    assert (spread[grey] <= 1).all()
    assert (spread[~grey] > 1).mean() > 0.95


def test_nuisances_are_independent_of_the_class():
    n = 20_000
    labels = shapes.labels("train", n, seed=11)
    table = shapes.attributes(np.arange(n), split="train", seed=11)
    assert {
        "outline",
        "pattern",
        "colour",
        "background",
        "material",
        "size",
        "x",
        "y",
        "angle",
        "greyscale",
    } <= set(table)
    for name, column in table.items():
        assert column.shape == (n,)
        if name in ("outline", "pattern"):
            continue
        codes = np.unique(column, return_inverse=True)[1] if column.dtype.kind in "Ub" else column
        values = (codes - codes.mean()) / codes.std()
        means = np.array([values[labels == c].mean() for c in range(100)]) * np.sqrt(n / 100)
        # the sum of 100 squared standard normals: 100, give or take 14
        assert 50 < (means**2).sum() < 170, name


def test_the_table_names_the_class():
    labels = shapes.labels("test", 300, seed=4)
    table = shapes.attributes(np.arange(300), split="test", seed=4)
    assert [f"{p} {o}" for p, o in zip(table["pattern"], table["outline"], strict=True)] == [
        shapes.CLASS_NAMES[c] for c in labels
    ]


def test_captions_are_repeatable_varied_and_seldom_name_the_whole_class():
    indices = np.arange(5000)
    texts = shapes.captions(indices, split="fresh", seed=0)
    assert texts == shapes.captions(indices, split="fresh", seed=0)
    assert texts[17] == shapes.captions([17], split="fresh", seed=0)[0]
    assert texts != shapes.captions(indices, split="fresh", seed=0, draw=1)
    assert len(set(texts)) > 1500
    table = shapes.attributes(indices, split="fresh", seed=0)
    whole = [
        any(w in text for w in OUTLINE_WORDS[o]) and any(w in text for w in PATTERN_WORDS[p])
        for text, o, p in zip(texts, table["outline"], table["pattern"], strict=True)
    ]
    assert 0 < np.mean(whole) < 0.25


def test_captions_tell_the_truth():
    indices = np.arange(5000)
    texts = shapes.captions(indices, split="fresh", seed=1)
    table = shapes.attributes(indices, split="fresh", seed=1)
    said = {
        word: np.array([word in text for text in texts])
        for word in ("grayscale", "noisy", "blurry", "object with wheels")
    }
    assert all(mentions.any() for mentions in said.values())
    assert table["greyscale"][said["grayscale"]].all()
    assert (table["noise"][said["noisy"]] > 0).all()
    assert (table["blur"][said["blurry"]] > 0).all()
    assert set(table["outline"][said["object with wheels"]]) == set(
        KINDS["object with wheels"].split()
    )


def test_a_folder_holds_the_same_pixels_in_the_same_order(tmp_path):
    assert (
        folder_command.main(
            [
                str(tmp_path / "out"),
                "--seed",
                "3",
                "--size",
                "24",
                "--train",
                "200",
                "--test",
                "100",
            ]
        )
        == 0
    )
    for split, n in (("train", 200), ("test", 100)):
        files = sorted(
            (tmp_path / "out" / split).glob("*/*.png"),
            key=lambda path: (path.parent.name, path.name),
        )
        order = shapes.listing(split, n, seed=3)
        assert [f"{p.parent.name}/{p.name}" for p in files] == shapes.file_names(
            order, split=split, seed=3
        )
        assert [shapes.CLASS_NAMES.index(p.parent.name) for p in files] == sorted(
            shapes.labels(split, n, seed=3)
        )
        pixels = np.stack([np.asarray(Image.open(p)) for p in files])
        assert (pixels == shapes.render(order, split=split, seed=3, size=24)).all()


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        folder_command.main([str(tmp_path), "--train", "100", "--test", "0"])
    assert stop.value.code == 2
    assert "must not exist yet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

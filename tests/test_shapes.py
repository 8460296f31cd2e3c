"""`shapes` is the same on every machine, and its nuisances are independent of the class."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from training.captions import captions

from clipkit import shapes
from clipkit.shapes import __main__ as folder_command
from clipkit.shapes.draw import draw_scenes
from clipkit.shapes.scene import OUTLINES, PATTERNS, sample_scenes


def test_the_hundred_classes_are_in_the_order_of_their_folders():
    names = [f"{pattern} {outline}" for pattern in PATTERNS for outline in OUTLINES]
    assert list(shapes.CLASS_NAMES) == names == sorted(names)
    assert len(set(names)) == 100


@pytest.mark.parametrize("n", [1, 99, 100, 250, 2000])
def test_labels_are_balanced_and_do_not_depend_on_the_size_of_the_split(n):
    labels = shapes.labels(np.arange(n), split="train", seed=3)
    counts = np.bincount(labels, minlength=100)
    assert labels.dtype == np.int64
    assert counts.max() - counts.min() <= (n % 100 != 0)
    assert (labels == shapes.labels(np.arange(5000), split="train", seed=3)[:n]).all()


def test_pixels_and_captions_never_change():
    """They depend on integer hashing and IEEE arithmetic alone; the bundled model rests on them."""
    pixels = shapes.render(np.arange(200), split="test", seed=0, size=32)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "c27d371daec92694"
    texts = captions(np.arange(5000), split="test", seed=0)
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "ffc634bc28a4d17d"


def test_an_image_does_not_depend_on_its_neighbours_or_their_order():
    indices = np.random.default_rng(0).permutation(700)[:300]
    together = shapes.render(indices, split="test", seed=5, size=48)
    assert together.shape == (300, 48, 48, 3)
    assert together.dtype == np.uint8
    for row in range(0, 300, 17):
        alone = shapes.render(indices[row : row + 1], split="test", seed=5, size=48)
        assert (alone[0] == together[row]).all()


def test_seed_split_and_index_each_give_another_image():
    first = shapes.render([0], split="test", seed=0, size=16)
    for indices, split, seed in [([1], "test", 0), ([0], "train", 0), ([0], "test", 1)]:
        assert (first != shapes.render(indices, split=split, seed=seed, size=16)).any()
    assert shapes.render([], split="test", seed=0, size=16).shape == (0, 16, 16, 3)


def test_masks_cover_the_object_and_nothing_else():
    scene = sample_scenes(np.arange(200), split="test", seed=2)
    scene |= {"noise": np.zeros(200), "blur": np.zeros(200)}
    recoloured = {name: (scene[name] + 1) % 10 for name in ("colour", "second")}
    images, masks = draw_scenes(scene, 48)
    others, same_masks = draw_scenes({**scene, **recoloured}, 48)
    assert (masks == same_masks).all()
    # where a mask is rounded to 0, the object changes the image by one grey level at most
    changed = np.abs(images.astype(int) - others).max(-1) > 1
    assert changed.any()
    assert (masks[changed] > 0).all()
    assert (masks.reshape(200, -1).max(1) == 255).all()


def test_nuisances_are_independent_of_the_class():
    n = 20_000
    labels = shapes.labels(np.arange(n), split="train", seed=11)
    scene = sample_scenes(np.arange(n), split="train", seed=11)
    assert (scene["pattern"] * 20 + scene["outline"] == labels).all()
    nuisances = set(scene) - {"key", "label", "outline", "pattern"}
    assert nuisances >= {"colour", "background", "material", "size", "x", "tilt", "grey"}
    for name in nuisances:
        column = scene[name].astype(float)
        assert column.shape == (n,)
        values = (column - column.mean()) / column.std()
        means = np.array([values[labels == c].mean() for c in range(100)]) * np.sqrt(n / 100)
        # the sum of 100 squared standard normals: 100, with a standard deviation of 14
        assert 50 < (means**2).sum() < 170, name


def test_a_folder_holds_the_same_pixels_by_class_and_number(tmp_path, capsys):
    options = ["--seed", "3", "--size", "24", "--train", "200", "--test", "100"]
    assert folder_command.main([str(tmp_path / "out"), *options]) == 0
    assert f"300 images in {tmp_path / 'out'}" in capsys.readouterr().err
    for split, n in {"train": 200, "test": 100}.items():
        folder = tmp_path / "out" / split
        labels = shapes.labels(np.arange(n), split=split, seed=3)
        names = [f"{shapes.CLASS_NAMES[label]}/{i:06d}.png" for i, label in enumerate(labels)]
        assert {path.relative_to(folder).as_posix() for path in folder.glob("*/*")} == set(names)
        pixels = np.stack([np.asarray(Image.open(folder / name)) for name in names])
        assert (pixels == shapes.render(np.arange(n), split=split, seed=3, size=24)).all()
    with pytest.raises(SystemExit) as stop:
        folder_command.main([str(tmp_path / "out"), "--train", "100", "--test", "0"])
    assert stop.value.code == 2
    assert "out exists" in capsys.readouterr().err

"""`clipkit.embed` and `clipkit.textembed`: from images or texts to a feature file in memory."""

from pathlib import Path

import numpy as np
import pytest
from factories import write_images
from PIL import Image
from shell import ok

import clipkit
from clipkit.base.errors import UsageError

NAMES = ("a.png", "b.png", "c.png")


def test_paths_arrays_and_images_have_the_embeddings_of_the_folder(tmp_path):
    folder = write_images(tmp_path / "photos", *NAMES)
    ok("embed", folder, "--model", "tiny", "-o", tmp_path / "img.h5")
    expected = clipkit.read(tmp_path / "img.h5")["all"].features
    paths = [folder / name for name in NAMES]
    pictures = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture) for picture in pictures]
    for images in (paths, pictures, arrays, [paths[0], pictures[1], arrays[2]]):
        file = clipkit.embed(images, model="tiny", batch_size=2)
        np.testing.assert_allclose(file["all"].features, expected, rtol=0, atol=1e-6)
        ids = list(map(str, paths)) if images is paths else ["0", "1", "2"]
        assert file["all"].ids == ids
    clipkit.write(tmp_path / "again.h5", file)
    assert clipkit.read(tmp_path / "again.h5")["all"].ids == ids


def test_a_picture_has_an_entropy_over_prompts_in_three_lines():
    images = clipkit.embed([np.zeros((40, 30, 3), np.uint8)], model="tiny")
    texts = clipkit.textembed(["black", "white"], "tiny")
    (row,) = clipkit.entropy(images, texts, temperature=0.07).rows()
    assert 0 < row["mean_entropy"] <= np.log(2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images: expected a list of at least one image, got []"),
        (3, "images: expected a list of at least one image, got 3"),
        ([3], "images: expected a Pillow image, an array of uint8 or a path, got 3 at 0"),
    ],
)
def test_what_is_no_list_of_images_is_refused(images, message):
    with pytest.raises(UsageError) as raised:
        clipkit.embed(images, model="tiny")
    assert raised.value.message == message


def test_a_folder_is_embedded_in_one_call(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    file = clipkit.embed(tmp_path, model="tiny")
    assert (file.class_names, file["all"].labels.tolist()) == (["cat", "dog"], [0, 1])
    assert file["all"].ids == ["cat/1.png", "dog/1.png"]


def test_an_unknown_setting_lists_the_known_ones():
    with pytest.raises(UsageError) as raised:
        clipkit.embed(["a.png"], model="tiny", devise="cpu")
    assert str(raised.value) == "unknown argument 'devise'; hint: did you mean device?"


def test_a_data_set_is_embedded_by_its_name_or_as_it_was_loaded():
    by_name = clipkit.embed("digits", "tiny", split="test", limit=20)
    loaded = clipkit.embed(clipkit.load_dataset("digits", splits="test", limit=20), "tiny")
    assert by_name.digest == loaded.digest
    assert [len(split) for split in by_name.splits.values()] == [20]
    with pytest.raises(UsageError, match="limit: expected it with the name or path of a data set"):
        clipkit.embed(["a.png"], limit=3)


# The arguments of a call, and those of the command that writes the same file
CALLS = [
    ({"prompts": "generic32"}, ["generic32"]),
    ({"prompts": "mine.txt"}, ["mine.txt"]),
    ({"classes": "mine.txt", "template": "a {}"}, ["--classes", "mine.txt", "--template", "a {}"]),
    ({"classes": "digits", "normalize": True}, ["--classes", "digits", "--normalize"]),
    ({"captions": "pairs.csv"}, ["--captions", "pairs.csv"]),
    ({"items": ["items.csv"]}, ["--items", "items.csv"]),
    ({"prompts": "mine.txt", "layers": [0]}, ["mine.txt", "--layer", "0"]),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("a cat\na dog\n")
    Path("pairs.csv").write_text("image,caption\na.jpg,a cat\nb.jpg,a dog\n")
    Path("items.csv").write_text("item,image,text,correct\n1,a.jpg,a cat,1\n1,a.jpg,a dog,0\n")


@pytest.mark.parametrize(("arguments", "words"), CALLS)
def test_texts_are_embedded_as_by_the_command(arguments, words, here):
    ok("textembed", *words, "--model", "tiny", "-o", "txt.h5")
    assert clipkit.textembed(model="tiny", **arguments).digest == clipkit.read("txt.h5").digest


def test_lists_are_prompts_or_names_of_classes_and_images_choose_the_model(here):
    images = clipkit.embed("digits", "tiny", split="test", limit=20)
    listed = clipkit.textembed(["a cat", "a dog"], "tiny")
    of_file = clipkit.textembed("mine.txt", "tiny")
    assert listed.texts == of_file.texts == ["a cat", "a dog"]
    np.testing.assert_array_equal(listed.features, of_file.features)
    named = clipkit.textembed(classes=images.class_names, model="tiny")
    of_file = clipkit.textembed(classes=images)
    np.testing.assert_array_equal(named.features, of_file.features)
    assert of_file.model()["name"] == "tiny"
    logits = clipkit.logits(images, of_file)
    assert logits["test"].features.shape == (20, 10)


REFUSED = [
    ({}, "expected one of prompts, classes, captions, items, got none"),
    ({"prompts": ["a"], "classes": ["b"]}, "expected one of prompts, classes, captions, items"),
    ({"prompts": ["a"], "template": "a {}"}, "template: expected it with classes, got prompts"),
    ({"captions": "shapes", "column": "a"}, "column: expected it with prompts or classes"),
    ({"classes": ["a"], "split": "test"}, "split: expected it with captions, got classes"),
    ({"prompts": []}, "texts: expected at least one, got none"),
    ({"prompts": [3]}, "prompts: expected a text, or several, got [3]"),
    ({"prompts": "a cat"}, "expected a list of texts, a file or a bundled set, got 'a cat'"),
    ({"prompts": ["a"], "limit": 3}, "unknown argument 'limit'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_are_no_texts_is_refused(arguments, message):
    with pytest.raises(UsageError) as raised:
        clipkit.textembed(**{"model": "tiny"} | arguments)
    assert message in raised.value.message

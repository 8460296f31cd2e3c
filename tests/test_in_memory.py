"""`clipkit.embed`: from images in memory, or single files, to a feature file in memory."""

import numpy as np
import pytest
from factories import write_images
from PIL import Image
from shell import ok

import clipkit
from clipkit import embedding
from clipkit.base.errors import UsageError
from clipkit.models import load

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
    texts = embedding.embed_texts(["black", "white"], load("tiny", tower="text"))
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
    assert raised.value.with_hint() == "unknown argument 'devise'; hint: did you mean device?"

"""`embed --downsample`: images are made smaller before the model's own preprocessing."""

import numpy as np
import pytest
from factories import fails_with
from PIL import Image
from shell import fails, ok
from typer.main import get_command

from clipkit import datasets, features
from clipkit.base.errors import ClipkitError
from clipkit.cli import app
from clipkit.commands._options import option_table
from clipkit.embedding import checkpoint
from clipkit.features.compatibility import check_same_images
from clipkit.features.provenance import provenance
from clipkit.report.command_lines import command_lines

SHAPES = ("shapes", "--split", "test", "--model", "tiny", "--precision", "fp32")


def embed(out, *words, limit=20):
    ok("embed", *SHAPES, "--limit", limit, *words, "-o", out)
    return features.read(out)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 48), (43, 32)), ((48, 640), (32, 427)), ((32, 90), (32, 90)), ((8, 8), (8, 8))],
)
def test_the_shorter_side_gets_the_size_and_smaller_images_stay(tmp_path, size, expected):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    data = datasets.load(str(tmp_path)).change({"downsample": 32})
    assert data.splits["all"].image(0).size == expected
    assert data.splits["all"].take(np.array([0])).image(0).size == expected


def test_downsampling_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    data = datasets.load(str(tmp_path)).change({"downsample": 16})
    pixels = np.asarray(data.splits["all"].image(0))
    assert np.ptp(pixels[2:-2, 2:-2].astype(int)) <= 4
    assert abs(pixels.mean() - 127.5) < 4


def test_embeddings_are_those_of_images_that_were_made_smaller_before(tmp_path):
    shapes = datasets.load("shapes", limit=4, splits=["test"]).splits["test"]
    (tmp_path / "small").mkdir()
    for i in range(4):
        small = shapes.image(i).resize((16, 16), Image.Resampling.BICUBIC)
        small.save(tmp_path / "small" / f"{i}.png")
    model = ("--model", "tiny", "--precision", "fp32")
    ok("embed", tmp_path / "small", *model, "-o", tmp_path / "small.h5")
    expected = features.read(tmp_path / "small.h5").splits["all"].features
    file = embed(tmp_path / "img.h5", "--downsample", 16, limit=4)
    np.testing.assert_allclose(file.splits["test"].features, expected, atol=1e-5)


def test_images_that_are_too_small_to_be_shrunk_are_noted(tmp_path):
    line = ("embed", *SHAPES, "--limit", 4, "-f", "-o", tmp_path / "img.h5", "--downsample")
    text = "--downsample 64: the first image has 64x64 pixels\n"
    assert text in ok(*line, 64).stderr
    assert "pixels" not in ok(*line, 63).stderr


@pytest.mark.long
def test_the_history_has_the_size_only_if_images_were_made_smaller(tmp_path):
    plain = embed(tmp_path / "img.h5")
    small = embed(tmp_path / "small.h5", "--downsample", 16)
    assert "downsample" not in plain.history[0].dataset
    assert small.history[0].dataset["downsample"] == 16
    assert provenance(plain).model == "tiny"
    assert provenance(small).model == "tiny at 16 px"
    layer = embed(tmp_path / "l.h5", "--downsample", 16, "--layer", 2)
    assert provenance(layer).model == "tiny layer 2 cls at 16 px"
    options = option_table(get_command(app))
    (line,) = command_lines(small.history, "small.h5", lambda _: None, options)
    assert " --downsample 16 " in line


def test_an_interrupted_run_continues_only_at_its_own_size(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise ClipkitError("interrupted")

    words = ("embed", *SHAPES, "--limit", 20, "-o", tmp_path / "img.h5", "--downsample")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.Checkpoint, "join", interrupt)
        fails(*words, 16)
    assert "downsample" in fails(*words, 32, exit_code=2)
    ok(*words, 16)


def test_files_of_different_sizes_are_the_same_images_but_are_not_joined(tmp_path):
    native = embed(tmp_path / "img.h5")
    small = embed(tmp_path / "small.h5", "--downsample", 16)
    message = fails("concat", native.display_name, small.display_name, "--prefix")
    assert "expected one --downsample, got none and 16" in message
    with fails_with("img.h5, got others"):
        check_same_images(small, native, ["test"])
    check_same_images(small, small, ["test"])

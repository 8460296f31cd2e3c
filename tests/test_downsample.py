"""`embed --downsample`: images are made smaller before the model's own preprocessing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories.results import layer_result as result
from PIL import Image
from shell import fails, ok

from clipkit import datasets, features
from clipkit.base.errors import ClipkitError
from clipkit.features.compatibility import check_same_images
from clipkit.features.history import provenance
from clipkit.plots.layer_curves import draw_layers, layer_curves
from clipkit.report import expected
from clipkit.report.command_lines import command_lines

SHAPES = ("shapes", "--split", "test", "--model", "tiny", "--precision", "fp32")


def embed(out: Path, *words: object, limit: int = 20) -> features.FeatureFile:
    ok("embed", *SHAPES, "--limit", limit, *words, "-o", out)
    return features.read(out)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 48), (43, 32)), ((48, 640), (32, 427)), ((32, 90), (32, 90)), ((8, 8), (8, 8))],
)
def test_the_shorter_side_gets_the_size_and_smaller_images_stay(tmp_path, size, expected):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    data = datasets.load(str(tmp_path)).downsample(32)
    assert data.splits["all"].image(0).size == expected
    assert data.splits["all"].take(np.array([0])).image(0).size == expected


def test_downsampling_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    pixels = np.asarray(datasets.load(str(tmp_path)).downsample(16).splits["all"].image(0))
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
    for parts in ((), ("--batch-size", 3)):
        file = embed(tmp_path / "img.h5", "--downsample", 16, *parts, "-f", limit=4)
        actual = file.splits["test"].features
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_images_that_are_too_small_to_be_shrunk_are_noted(tmp_path):
    line = ("embed", *SHAPES, "--limit", 4, "-f", "-o", tmp_path / "img.h5", "--downsample")
    text = "--downsample 64: the first image has 64x64 pixels\n"
    assert text in ok(*line, 64).stderr
    assert "pixels" not in ok(*line, 63).stderr


def test_the_history_has_the_size_only_if_images_were_made_smaller(tmp_path):
    plain = embed(tmp_path / "img.h5")
    small = embed(tmp_path / "small.h5", "--downsample", 16)
    assert "downsample" not in plain.history[0].dataset
    assert small.history[0].dataset["downsample"] == 16
    assert provenance(plain).model == "tiny"
    assert provenance(small).model == "tiny at 16 px"
    layer = embed(tmp_path / "l.h5", "--downsample", 16, "--layer", 2)
    assert provenance(layer).model == "tiny layer 2 cls at 16 px"
    (line,) = command_lines(small.history, "small.h5", lambda _: None, _commands())
    assert " --downsample 16 " in line


def _commands() -> object:
    from typer.main import get_command

    from clipkit.cli import app
    from clipkit.commands._options import option_table

    return option_table(get_command(app))


def test_an_interrupted_run_continues_only_at_its_own_size(tmp_path, monkeypatch):
    from clipkit.embedding import pipeline

    with monkeypatch.context() as patched:
        patched.setattr(pipeline._Run, "_publish", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            _embed_in_process(tmp_path / "img.h5", 16)
    words = ("embed", *SHAPES, "--limit", 20, "-o", tmp_path / "img.h5", "--downsample")
    message = fails(*words, 32, exit_code=2)
    assert "downsample" in message
    ok(*words, 16)


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def _embed_in_process(out: Path, pixels: int) -> None:
    from clipkit import embedding

    data = datasets.load("shapes", limit=20, splits=["test"]).downsample(pixels)
    embedding.embed(data, str(out), model="tiny", precision="fp32")


def test_files_of_different_sizes_are_the_same_images_but_are_not_joined(tmp_path):
    native = embed(tmp_path / "img.h5")
    small = embed(tmp_path / "small.h5", "--downsample", 16)
    ok("logits", tmp_path / "small.h5", "--random", 4, "-o", tmp_path / "logits.h5")
    message = fails("concat", native.display_name, small.display_name, "--prefix")
    assert "expected one --downsample, got None and 16" in message
    with pytest.raises(ClipkitError, match=r"expected the test images of .*img\.h5, got others"):
        check_same_images(small, native, ["test"])
    check_same_images(small, small, ["test"])


@pytest.mark.parametrize("value", ["0", "-3", "small"])
def test_a_size_that_is_no_number_of_pixels_is_refused(value, tmp_path):
    fails("embed", *SHAPES, "--downsample", value, "-o", tmp_path / "x.h5", exit_code=2)


def at_size(correct: int, size: int | None, **settings: object) -> features.FeatureFile:
    file = result(correct, **settings)
    if size is not None:
        file.history[0]["dataset"]["downsample"] = size
    return file


def test_results_at_several_sizes_are_drawn_by_size_with_the_native_one_on_the_right():
    trained = [at_size(9, 64), at_size(5, 16), at_size(15, None)]
    controls = [at_size(4, size, untrained=3) for size in (16, 64, None)]
    (curve,), source = layer_curves([*trained, *controls])
    assert source == "m and untrained m on shapes, test, embeddings, labels: classes, svm"
    assert curve.trained.layers == curve.control.layers == [16, 64]
    assert curve.trained.values == (0.25, 0.45)
    assert curve.trained.embedding[0] == 0.75
    figure, _ = draw_layers([*trained, *controls], None)
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["16", "64", "native"]
    assert ax.get_xlabel() == "shorter side of the images (pixels)"


def test_a_row_without_a_size_fits_no_images_that_were_made_smaller():
    facts = [expected._describe(at_size(5, size)) for size in (None, 16)]
    where = {"command": "probe", "dataset": "shapes"}
    assert [expected._fits(of_one, where) for of_one in facts] == [True, False]
    assert [expected._fits(of_one, {**where, "downsample": "16"}) for of_one in facts] == [
        False,
        True,
    ]


def test_embeddings_and_prompts_at_several_sizes_have_a_curve_each():
    files = [at_size(number, size) for size, number in ((16, 5), (32, 6), (None, 7))]
    for size, number in ((16, 8), (None, 9)):
        file = at_size(number, size)
        file.history.insert(1, {"command": "textembed", "prompts": "generic32"})
        files.append(file)
    curves, _ = layer_curves(files)
    assert [curve.label for curve in curves] == ["embeddings", "generic32"]
    assert [curve.trained.values for curve in curves] == [(0.25, 0.3), (0.4,)]


def test_layers_at_two_sizes_have_a_curve_per_size():
    files = [at_size(n, 16, layer=n) for n in (1, 2)] + [result(n + 3, layer=n) for n in (1, 2)]
    curves, _ = layer_curves(files)
    assert [curve.trained.values for curve in curves] == [(0.05, 0.1), (0.2, 0.25)]
    assert curves[0].label == "images of 16 pixels"

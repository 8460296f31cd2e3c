"""A setting of models is one record: every reader knows a setting that nobody has heard of."""

from dataclasses import make_dataclass

import numpy as np
import pytest
from factories import fails_with
from PIL import Image
from shell import fails, ok

from clipkit import features
from clipkit.analysis.layer_curves import _facts
from clipkit.base.errors import UsageError
from clipkit.base.options import option, options_of
from clipkit.commands._options import run_values, with_settings
from clipkit.commands.embed import embed
from clipkit.features import concatenation, model_settings
from clipkit.features.compatibility import check_same_images, common_logit_scale
from clipkit.features.model import FeatureFile, Split
from clipkit.features.model_settings import Setting
from clipkit.features.provenance import provenance
from clipkit.models.architecture import Architecture
from clipkit.models.options import RunOptions, check_taken
from clipkit.report import expected
from clipkit.report.command_lines import command_lines
from clipkit.report.tables import provenance_table

DUMMY = Setting(
    "dummy",
    option("N", "Change all pixels.", "--dummy", member="model.dummy"),
    kind=int | None,
    default=None,
    suffix="with dummy {}",
    compares=False,
)
BLANK = Setting(
    "blank",
    option("L", "Make all pixels of images this grey.", "--blank", member="dataset.blank"),
    kind=int | None,
    default=None,
    suffix="in grey {}",
    change=lambda image, grey: Image.new("RGB", image.size, (grey,) * 3),
)
OPTIONS = make_dataclass("OPTIONS", [("dummy", int, None)], bases=(RunOptions,), frozen=True)


@pytest.fixture(autouse=True)
def dummy(monkeypatch):
    monkeypatch.setattr(model_settings, "SETTINGS", (*model_settings.SETTINGS, DUMMY, BLANK))


def images(name, **model):
    history = [{"command": "embed", "model": {"name": "m", "digest": "sha256:1", **model}}]
    split = Split(np.eye(2, dtype=np.float32), ids=[f"{name}0", f"{name}1"])
    return FeatureFile("images", history, {"all": split}, display_name=name)


def test_files_that_differ_in_it_are_neither_joined_nor_compared():
    message = "a and b: expected one --dummy, got none and 3"
    with fails_with(message):
        concatenation.concat([images("a"), images("b", dummy=3)])
    with fails_with(message):
        common_logit_scale(images("a"), images("b", dummy=3))
    assert (
        len(concatenation.concat([images("a", dummy=3), images("b", dummy=3)]).splits["all"]) == 4
    )


def test_it_is_in_the_name_of_a_model_and_in_the_label_of_a_curve():
    assert provenance(images("a", dummy=3)).model == "m with dummy 3"
    assert _facts(images("a", dummy=3))["dummy"] == "with dummy 3"
    assert "dummy" not in _facts(images("a"))


def test_a_row_of_published_figures_has_to_name_it():
    assert expected._parse_where("dummy=3", "t.tsv") == {"dummy": "3"}
    assert not expected._fits({"dummy": 3}, {})
    assert expected._fits({"dummy": 3}, {"dummy": "3"})


def test_embed_has_its_option_and_a_page_rebuilds_it():
    commands = {"embed": options_of(with_settings(embed))}
    (line,) = command_lines(images("a", dummy=3).history, "a.h5", {}.get, commands)[-1:]
    assert " --dummy 3 " in line
    assert run_values({"dummy": 3}) == {"dummy": 3}
    assert OPTIONS(dummy=3).changes() == {"dummy": 3}


def test_an_encoder_that_does_not_take_it_refuses_it():
    for tower, taken in Architecture.taken.items():
        with pytest.raises(UsageError, match=f"expected no --dummy with {tower}s, got one"):
            check_taken(OPTIONS(dummy=3), taken, f"{tower}s")


def test_a_setting_of_images_reaches_the_encoder_and_every_reader(tmp_path):
    defaults = {setting.name: setting.default for setting in model_settings.SETTINGS}
    del defaults["dummy"]  # of the model: `RunOptions` have no field for it
    files = []
    for grey in (None, 0, 128):
        words = {**defaults, "blank": grey, "model": "tiny", "split": ["test"], "limit": 6}
        embed(dataset=["shapes"], output=str(tmp_path / f"{grey}.h5"), **words)
        files.append(features.read(tmp_path / f"{grey}.h5"))
    native, black, grey = files
    for file in (black, grey):
        rows = file.splits["test"].features
        assert (
            np.ptp(rows, axis=0).max() < 1e-5 < np.ptp(native.splits["test"].features, axis=0).max()
        )
    assert np.abs(black.splits["test"].features - grey.splits["test"].features).max() > 1e-3
    assert [file.history[0].dataset.get("blank") for file in files] == [None, 0, 128]
    assert [provenance(file).model for file in files] == [
        "tiny",
        "tiny in grey 0",
        "tiny in grey 128",
    ]
    with fails_with("expected one --blank, got 0 and 128"):
        concatenation.concat([black, grey])
    with fails_with("got others"):
        check_same_images(grey, native, ["test"])
    assert "in grey 128" in str(provenance_table([grey]))
    commands = {"embed": options_of(with_settings(embed))}
    (line,) = command_lines(grey.history, "a.h5", {}.get, commands)[-1:]
    assert " --blank 128 " in line


@pytest.mark.long
def test_concat_refuses_other_sizes_by_command_line(monkeypatch, tmp_path):
    monkeypatch.undo()  # the command knows no dummy
    for name, size in (("a", 32), ("b", 48)):
        words = ("embed", "shapes", "--limit", 4, "-m", "tiny", "--split", "test")
        ok(*words, "--image-size", size, "-o", tmp_path / f"{name}.h5")
    line = fails("concat", tmp_path / "a.h5", tmp_path / "b.h5", "--prefix")
    assert "expected one --image-size, got 32 and 48" in line

"""A setting of models is one record: every reader knows a setting that nobody has heard of."""

from dataclasses import make_dataclass

import numpy as np
import pytest
from factories import fails_with
from shell import fails, ok

from clipkit.analysis.layer_curves import _facts
from clipkit.base.errors import UsageError
from clipkit.base.options import option, options_of
from clipkit.commands._options import run_values, with_settings
from clipkit.commands.embed import embed
from clipkit.features import concatenation, model_settings
from clipkit.features.compatibility import common_logit_scale
from clipkit.features.model import FeatureFile, Split
from clipkit.features.model_settings import Setting
from clipkit.features.provenance import provenance
from clipkit.models.architecture import Architecture
from clipkit.models.options import RunOptions, check_taken
from clipkit.report import expected
from clipkit.report.command_lines import command_lines

DUMMY = Setting(
    "dummy",
    option("N", "Change all pixels.", "--dummy", member="model.dummy"),
    kind=int | None,
    default=None,
    suffix="with dummy {}",
    compares=False,
)
OPTIONS = make_dataclass("OPTIONS", [("dummy", int, None)], bases=(RunOptions,), frozen=True)


@pytest.fixture(autouse=True)
def dummy(monkeypatch):
    monkeypatch.setattr(model_settings, "SETTINGS", (*model_settings.SETTINGS, DUMMY))


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


@pytest.mark.long
def test_concat_refuses_other_sizes_by_command_line(monkeypatch, tmp_path):
    monkeypatch.undo()  # the command knows no dummy
    for name, size in (("a", 32), ("b", 48)):
        words = ("embed", "shapes", "--limit", 4, "-m", "tiny", "--split", "test")
        ok(*words, "--image-size", size, "-o", tmp_path / f"{name}.h5")
    line = fails("concat", tmp_path / "a.h5", tmp_path / "b.h5", "--prefix")
    assert "expected one --image-size, got 32 and 48" in line

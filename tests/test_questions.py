"""The contract of questions: all keep it, a broken one is found out, and a new one is known."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Annotated

import numpy as np
import pytest
import typer.main
from factories import saved
from shell import app, fails, ok, rows

import clipkit
from clipkit import analysis, cli, features, report
from clipkit.analysis.options import Cluster, LabelledFile, Seed, Splits, Table
from clipkit.analysis.question import Analysis, FeatureFile
from clipkit.base.errors import ClipkitError
from clipkit.base.options import option
from clipkit.base.views import QUESTIONS
from clipkit.commands import _completion, contract
from clipkit.commands.contract import PROMISES, Trial
from clipkit.commands.samples import Samples
from clipkit.features import columns
from clipkit.features.columns import HIGHER, LABELS, NOTHING, SCALE, SHARE, Column
from clipkit.features.matching import choose_splits
from clipkit.statistics.claims import Claim, Reference

DRAWING_PAGES = ("survives hostile names", "shows every column in every format", "says its claims")


def make_pages(path):
    page = report.of_files([path])
    return report.as_html(page), report.as_markdown(page)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """The trial of each question; its promises share what it answered."""
    return {
        name: Trial(analysis.find(name), tmp_path_factory.mktemp(name), make_pages)
        for name in analysis.names()
    }


def cases():
    """Return each question with each promise."""
    found = []
    for promise in PROMISES:
        for name in analysis.names():
            marks = [pytest.mark.long] if promise.name in DRAWING_PAGES else []
            case = f"{name} {promise.name}"
            found.append(pytest.param(name, promise, id=case, marks=marks))
    return found


@pytest.mark.whole
@pytest.mark.parametrize(("name", "promise"), cases())
def test_every_question_keeps_its_promises(name, promise, trials):
    assert promise.broken(trials[name]) == []


def loudness(
    file: LabelledFile,
    split: Splits = None,
    level: Annotated[float, option("X", "Length above which an image is loud.", min=0)] = 1.0,
    seed: Seed = 42,
) -> FeatureFile:
    """Report how many images are loud, that is, longer than a level.

    Example: clipkit loudness img.h5 --level 2
    """
    file, names = choose_splits(file, split)
    found = []
    for name in names:
        lengths = np.linalg.norm(np.asarray(file.splits[name].features), axis=1)
        loud = float(np.mean(lengths > level))
        found.append({"split": name, "level": level, "loud": loud, "loud_control": loud / 2})
    result = features.FeatureFile("result", file.extended_history("loudness", level=level))
    result.set_rows(found)
    return result


LOUD = Column(
    "loud",
    SHARE,
    LABELS,
    title="loud images",
    better=HIGHER,
    has_interval=True,
    relatives="control",
)
COLUMNS = (LOUD, Column("level", SCALE, NOTHING))
LOUDNESS = Analysis("loudness", "How many images are loud?", loudness, COLUMNS)


@pytest.fixture
def loud(monkeypatch):
    """Make the dummy question and its columns known, as a package and its record do."""
    names, find = analysis.names(), analysis.find
    monkeypatch.setattr(analysis, "names", lambda: [*names, "loudness"])
    monkeypatch.setattr(
        analysis, "find", lambda name: {"loudness": LOUDNESS}.get(name) or find(name)
    )
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "loudness"))
    monkeypatch.setattr(cli, "_command", cli._command.__wrapped__)  # which remembers nothing
    monkeypatch.setitem(QUESTIONS, "loudness", lambda: LOUDNESS)
    for cached in (columns.records, columns.all_columns):
        monkeypatch.setattr(columns, cached.__name__, cached.__wrapped__)


@pytest.fixture
def images(tmp_path):
    return saved(tmp_path / "images.h5", Samples(tmp_path).images)


@pytest.mark.long
def test_a_new_question_keeps_its_promises(loud):
    assert contract.check(LOUDNESS, make_pages) == []


def first_image_decides(file, result):
    result.runs["loud"][:] = abs(np.asarray(file["test"].features)[0, 0]) / 10


def draws(file, result):
    result.runs["loud"][:] = np.random.default_rng().random()


def guesses_labels(file, result):
    result.runs["loud"][:] = 0.5 if file["test"].labels is None else 0.25


def adds_a_column(file, result):
    result.runs["noise"] = result.runs["loud"]


def divides(file, result):
    result.runs["loud"] /= 1 // len(result.runs["unknown"])


def prints_names(file, result):
    raise ClipkitError("expected a name\nin one line")


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (first_image_decides, "ignores the order of rows: expected loud "),
        (draws, "is the same again: expected loud "),
        (
            guesses_labels,
            "leaves empty what needs labels: expected no loud without labels, got 0.5",
        ),
        (adds_a_column, "knows its columns: expected a Column, got none for noise"),
        (divides, "expected an answer, got KeyError: 'unknown'"),
        (prints_names, "expected an answer, got ClipkitError: it accepts no samples of its kinds"),
    ],
)
def test_a_question_that_breaks_a_promise_is_found_out(change, broken, loud):
    @functools.wraps(loudness)
    def measure(file, *arguments, **options):
        result = loudness(file, *arguments, **options)
        change(file, result)
        return result

    found = contract.check(replace(LOUDNESS, measure=measure), make_pages)
    assert any(text.startswith(broken) for text in found), found


def crowded(
    file: LabelledFile, split: Splits = None, table: Table = None, cluster: Cluster = None
) -> FeatureFile:
    """Report the share of loud images with an interval over rows, whatever their clusters."""
    result = loudness(file, split)
    rows = np.array([len(file.splits[name]) for name in choose_splits(file, split)[1]])
    result.runs["loud_low"] = result.runs["loud"] - 1 / np.sqrt(rows)
    result.runs["loud_high"] = result.runs["loud"] + 1 / np.sqrt(rows)
    return result


def test_an_interval_over_dependent_rows_and_a_help_without_example_are_found_out(loud):
    found = contract.check(replace(LOUDNESS, measure=crowded), make_pages)
    for broken in (
        "counts copies once: expected loud_low to loud_high as wide",
        "has an example: ",
    ):
        assert any(text.startswith(broken) for text in found), found


def are_loud(result):
    chance = Reference("chance", 0.0)
    return [Claim("loud:", 0.9, 0.8, 1.0, chance, 30, run=0)]


def test_a_question_whose_claims_a_view_does_not_say_is_found_out(loud, monkeypatch):
    silent = replace(LOUDNESS, claims=are_loud, findings=lambda result: [])
    monkeypatch.setitem(QUESTIONS, "loudness", lambda: silent)
    found = contract.check(silent, make_pages)
    assert "says its claims: expected a sentence of its claims, got none" in found
    without_topic = replace(LOUDNESS, claims=are_loud)
    monkeypatch.setitem(QUESTIONS, "loudness", lambda: without_topic)
    sentence = "'Loud: 90.0 % of 30, above chance (0.0 %)'"
    expected = {
        f"says its claims: the {view} does not say {sentence}"
        for view in ("page", "report.md", "notebook")
    }
    assert set(contract.check(without_topic, make_pages)) == expected
    with_topic = replace(without_topic, topic="Loudness")
    monkeypatch.setitem(QUESTIONS, "loudness", lambda: with_topic)
    assert contract.check(with_topic, make_pages) == []


def test_a_new_question_is_a_command_with_help_and_completion(loud, images):
    assert "loudness" in ok("--help").stdout
    text = " ".join(ok("loudness", "--help").stdout.split())
    for words in (
        "Report how many images are loud",
        "--level",
        "clipkit loudness img.h5 --level 2",
    ):
        assert words in text
    group = typer.main.get_command(app)
    context = typer.Context(group)
    assert [item.value for item in group.shell_complete(context, "lou")] == ["loudness"]
    context = typer.Context(group.get_command(context, "loudness"), info_name="loudness")
    assert {"loud", "loud_control"} <= set(_completion.columns(context, "loud"))
    texts = saved(images.parent / "texts.h5", Samples(images.parent).class_texts)
    assert "expected images or logits, got texts" in fails("loudness", texts)


def test_a_new_question_is_a_function(loud, images):
    assert "loudness" in dir(clipkit)
    test = features.read(images)["test"]
    expected = (np.linalg.norm(test.features, axis=1) > 1.5).mean()
    (row,) = clipkit.loudness(images, level=1.5, split="test").rows()
    assert row == {"split": "test", "level": 1.5, "loud": expected, "loud_control": expected / 2}


FORMATS = {"table": "loud images %", "markdown": "loud images %", "latex": r"loud images \%"}


@pytest.mark.parametrize("format", [*FORMATS, "tsv", "csv", "json"])
def test_a_new_column_is_in_every_format_with_its_unit(format, loud, images):
    result = clipkit.loudness(images)
    percent = f"{100 * result.runs['loud'][0]:.2f}"
    value = percent if format in FORMATS else f"{result.runs['loud'][0]:.8g}"
    for words in ((), ("--columns", "loud"), ("--columns", "loud images")):
        text = ok("loudness", images, "--format", format, *words).stdout
        assert FORMATS.get(format, "loud") in text
        assert value in text


def test_a_new_column_is_in_a_report_a_notebook_and_info(loud, images):
    path = saved(images.parent / "result.h5", clipkit.loudness(images))
    page = report.of_files([path])
    for text in (report.as_html(page), report.as_markdown(page), features.read(path)._repr_html_()):
        assert "loud images" in text
        assert f"{100 * features.read(path).runs['loud'][0]:.2f}" in text
    (first, _) = rows(ok("info", "--runs", path, "--columns", "loud,level").stdout)
    assert first["level"] == "1"
    assert "loud images %" in ok("info", "--runs", path, "--format", "table").stdout

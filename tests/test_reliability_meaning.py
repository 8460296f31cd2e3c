"""Inputs that are valid but do not mean what the command needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import MODEL, random_features, refused, unchanged, write_feature_file
from shell import clipkit, fails, ok, rows
from typer.testing import Result

from clipkit.features import read

EmbedTexts = Callable[..., Result]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_feature_file(tmp_path / "img.h5")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_feature_file(tmp_path / "txt.h5", "texts")


@pytest.fixture
def logits(tmp_path: Path) -> Path:
    return write_feature_file(tmp_path / "logits.h5", "logits")


def made_by(**model: Any) -> dict[str, str]:
    return {"history": json.dumps([{"command": "embed", "model": {**MODEL, **model}}])}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"datasets": {"features": random_features(3, 5)}},
            ["img.h5 and ", "txt.h5: expected one dimension, got 4 and 5"],
        ),
        ({"attributes": made_by(digest="sha256:2")}, ["(m sha256:1, m sha256:2); hint: embed one"]),
        ({"attributes": made_by(untrained=3)}, ["(m sha256:1, m untrained 3 sha256:1); hint: "]),
        ({"attributes": made_by(name="n", digest=None)}, ["(m sha256:1, n); hint: "]),
        (
            {"attributes": {"history": '[{"command":"x"}]'}},
            ["txt.h5: expected the name of its model in the history, got none; hint: "],
        ),
    ],
)
@pytest.mark.long
def test_texts_that_do_not_belong_to_the_images_are_refused(images, tmp_path, changes, parts):
    texts = write_feature_file(tmp_path / "txt.h5", "texts", **changes)
    with unchanged(tmp_path):
        refused(clipkit("logits", images, texts, "-o", tmp_path / "o.h5"), 1, *parts)


def test_a_probe_needs_labels(tmp_path):
    images = write_feature_file(tmp_path / "x.h5", datasets={"train/labels": None})
    assert "x.h5: train: expected labels, got none; hint: " in fails("probe", images)


def test_a_class_without_rows_to_fit_on_is_warned_about_and_counts_as_wrong(tmp_path):
    datasets = {"class_names": ["a", "b", "c"], "test/labels": np.array([0, 1, 2, 0, 1, 2])}
    result = ok("probe", write_feature_file(tmp_path / "x.h5", datasets=datasets))
    message = "clipkit: warning: train lacks 1 of the classes of test (for example c), "
    assert result.stderr.startswith(message)
    assert float(rows(result.stdout)[0]["acc1"]) <= 4 / 6


@pytest.mark.parametrize("tau", ["0", "-1", "nan", "inf", "1e-309", "-inf", "", "hot", "1,,2"])
@pytest.mark.long
def test_a_temperature_is_a_number_in_a_sensible_range(tau, logits):
    got = "" if tau == "1,,2" else tau
    message = f"temperature: expected a number between 1e-12 and 1e+12, got {got!r}"
    assert message in fails("entropy", logits, f"--temperature={tau}", exit_code=2)


@pytest.mark.parametrize("command", ["logits", "probe"])
def test_other_commands_have_the_same_range_of_temperatures(command, images, texts, logits):
    inputs = (images, texts) if command == "logits" else (logits,)
    assert "temperature: expected" in fails(command, *inputs, "--temperature=0", exit_code=2)


@pytest.mark.parametrize("C", ["0", "-1", "nan", "inf", "1e300"])
def test_c_is_a_number_in_a_sensible_range(C, logits):
    line = fails("probe", logits, f"-C{C}", exit_code=2)
    assert f"C: expected a number between 1e-12 and 1e+12, got {C!r}" in line


def test_a_temperature_needs_logits(images):
    line = fails("probe", images, "-t", "model", exit_code=2)
    assert "temperature 'model': expected logits with a logit_scale, got none; hint: " in line
    assert "with: clipkit logits" in fails("probe", images, "-t", "0.5", exit_code=2)


@pytest.fixture
def embed_texts(tmp_path: Path, model_options: list[object]) -> EmbedTexts:
    def run(data: bytes, *words: object) -> Result:
        (tmp_path / "mine.txt").write_bytes(data)
        output = tmp_path / "mine.h5"
        return clipkit("textembed", tmp_path / "mine.txt", *model_options, "-o", output, *words)

    return run


def test_blank_lines_duplicates_and_long_prompts_are_named_by_their_lines(embed_texts, tmp_path):
    result = embed_texts(b"a dot\n\n  \na dot\n")
    assert result.exit_code == 0
    for message in ("2 blank lines dropped", "1 duplicate kept: line 4 repeats line 1"):
        assert f"clipkit: warning: {tmp_path}/mine.txt: {message}\n" in result.stderr
    assert read(tmp_path / "mine.h5").texts == ["a dot", "a dot"]
    (tmp_path / "mine.h5").unlink()
    refused(embed_texts(b"a dot\n" + b"word " * 90), 1, "mine.txt, line 2: expected at most 77 t")
    assert embed_texts(b"word " * 90 + b"\n", "--truncate").exit_code == 0
    assert read(tmp_path / "mine.h5").history[0]["truncate"] is True


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("embed cifar1", "unknown data set 'cifar1'; hint: did you mean cifar10"),
        ("plot temprature x.h5", "unknown plot 'temprature'; hint: did you mean temperature?"),
        ("probe LOGITS --classifier svn", "unknown classifier 'svn'; hint: did you mean svm"),
        ("probe LOGITS --features prob", "unknown features 'prob'; hint: did you mean"),
        ("textembed --classes digit --model tiny", "unknown data set 'digit'; hint: did you mean"),
        ("zeroshot LOGITS --split tset", "'tset'; hint: did you mean test?"),
        ("entropy LOGITS --format cvs", "unknown format 'cvs'; hint: did you mean"),
        ("embed", "Missing argument 'DATASET'"),
        ("logitz", "No such command 'logitz'"),
        ("entropy LOGITS --temprature 1", "No such option: --temprature"),
    ],
)
@pytest.mark.long
def test_an_unknown_name_is_refused_with_the_nearest(line, message, logits):
    words = line.replace("LOGITS", str(logits)).split()
    assert message in fails(*words, exit_code=2)


def test_an_unknown_model_is_refused_with_a_hint(embed_texts, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = embed_texts(b"a dot\n", "--model", "tinny")
    assert result.exit_code in (1, 2)
    assert "hint: " in refused(result, result.exit_code, "tinny")


def test_a_valid_chain_of_commands_warns_of_nothing(images, texts, tmp_path):
    assert ok("logits", images, texts, "-o", tmp_path / "o.h5").stderr == ""
    assert ok("entropy", tmp_path / "o.h5").stderr == ""

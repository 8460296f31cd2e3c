"""Inputs that are valid but do not mean what the command needs."""

import numpy as np
import pytest
from factories import MODEL, random_features, refused, unchanged, write_feature_file
from shell import clipkit, fails, ok, rows

from clipkit.features import read


@pytest.fixture
def logits(tmp_path):
    return write_feature_file(tmp_path / "logits.h5", "logits")


def made_by(**model):
    return {"attributes": {"history": [{"command": "embed", "model": {**MODEL, **model}}]}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": {"features": random_features(3, 5)}}, "expected one dimension, got 4 and 5"),
        (made_by(untrained=3), "(m sha256:1, m untrained 3 sha256:1); hint: embed one"),
        (
            {"attributes": {"history": [{"command": "x"}]}},
            "txt.h5: ",
        ),
    ],
)
def test_texts_that_do_not_belong_to_the_images_are_refused(tmp_path, changes, message):
    images = write_feature_file(tmp_path / "img.h5")
    texts = write_feature_file(tmp_path / "txt.h5", "texts", **changes)
    with unchanged(tmp_path):
        refused(clipkit("logits", images, texts, "-o", tmp_path / "o.h5"), 1, message)


def test_a_probe_needs_labels(tmp_path):
    images = write_feature_file(tmp_path / "x.h5", datasets={"train/labels": None})
    assert "x.h5: train: " in fails("probe", images)


def test_a_class_without_rows_to_fit_on_is_warned_about_and_counts_as_wrong(tmp_path):
    datasets = {"class_names": ["a", "b", "c"], "test/labels": np.array([0, 1, 2, 0, 1, 2])}
    result = ok("probe", write_feature_file(tmp_path / "x.h5", datasets=datasets))
    message = "clipkit: warning: train lacks 1 of the classes of test (for example c), "
    assert result.stderr.startswith(message)
    assert float(rows(result.stdout)[0]["acc1"]) <= 4 / 6


def test_a_temperature_needs_logits(tmp_path):
    images = write_feature_file(tmp_path / "img.h5")
    line = fails("probe", images, "-t", "model", exit_code=2)
    assert "temperature 'model': expected logits with a logit_scale, got none; hint: " in line
    assert "hint: add texts: clipkit textembed --classes " in fails(
        "probe", images, "-t", "0.5", exit_code=2
    )


def test_blank_lines_duplicates_and_long_prompts_are_named_by_their_lines(tmp_path):
    prompts, output = tmp_path / "mine.txt", tmp_path / "mine.h5"
    words = ("textembed", prompts, "--model", "tiny", "-f", "-o", output)
    prompts.write_text("a dot\n\n  \na dot\n")
    stderr = ok(*words).stderr
    for message in ("2 blank lines dropped", "1 duplicate kept: line 4 repeats line 1"):
        assert f"clipkit: warning: {prompts}: {message}\n" in stderr
    assert read(output).texts == ["a dot", "a dot"]
    prompts.write_text("a dot\n" + "word " * 90)
    assert "mine.txt, line 2: expected at most 77 t" in fails(*words)
    ok(*words, "--truncate")
    assert read(output).history[0]["truncate"] is True


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("embed photoz", "hint: there is no such file or folder either; known: cifar10"),
        ("plot temprature x.h5", "unknown plot 'temprature'; hint: did you mean temperature?"),
        ("textembed --classes digit --model tiny", "unknown data set 'digit'; hint: did you mean"),
        ("entropy LOGITS --format cvs", "unknown format 'cvs'; hint: did you mean"),
        ("embed", "Missing argument 'DATASET'"),
        ("logitz", "unknown command 'logitz'"),
        ("entropy LOGITS --temprature 1", "No such option: --temprature"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(line, message, logits):
    words = line.replace("LOGITS", str(logits)).split()
    assert message in fails(*words, exit_code=2)


def test_a_valid_chain_of_commands_warns_of_nothing(tmp_path):
    images = write_feature_file(tmp_path / "img.h5")
    texts = write_feature_file(tmp_path / "txt.h5", "texts")
    assert ok("logits", images, texts, "-o", tmp_path / "o.h5").stderr == ""
    assert ok("entropy", tmp_path / "o.h5").stderr == ""

"""Inputs that are sound and do not mean what the command needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import MODEL, random_features, refused, unchanged, write_feature_file
from shell import clipkit, ok, rows

from clipkit.features import read

COMMON = {"class_names": ["cat", "dog"]}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_feature_file(tmp_path / "img.h5")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_feature_file(tmp_path / "txt.h5", "texts")


@pytest.fixture
def logits(tmp_path: Path) -> Path:
    return write_feature_file(tmp_path / "logits.h5", "logits")


def by(**model: Any) -> dict[str, str]:
    return {"history": json.dumps([{"command": "embed", "model": {**MODEL, **model}}])}


def test_dimensions_that_differ_are_both_shown(images: Path, tmp_path: Path) -> None:
    other = write_feature_file(
        tmp_path / "t.h5", "texts", datasets={"features": random_features(3, 5)}
    )
    with unchanged(tmp_path):
        refused(
            clipkit("logits", images, other, "-o", tmp_path / "o.h5"),
            1,
            "must have one dimension; got 4 and 5",
        )


@pytest.mark.parametrize(
    "model", [{"digest": "sha256:2"}, {"untrained": 3}, {"name": "n", "digest": None}]
)
def test_the_same_dimension_of_another_model(
    images: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    other = write_feature_file(tmp_path / "t.h5", "texts", attributes=by(**model))
    with unchanged(tmp_path):
        said = refused(
            clipkit("logits", images, other, "-o", tmp_path / "o.h5"),
            1,
            f"{images} and {other} must come from one model; got m",
        )
    assert "hint: " in said


def test_features_of_no_known_model(images: Path, tmp_path: Path) -> None:
    other = write_feature_file(
        tmp_path / "t.h5", "texts", attributes={"history": '[{"command":"x"}]'}
    )
    refused(
        clipkit("logits", images, other, "-o", tmp_path / "o.h5"),
        1,
        f"{other} must say which model made it",
        "clipkit convert --model",
    )


def test_labels_that_are_missing(tmp_path: Path) -> None:
    bare = write_feature_file(
        tmp_path / "x.h5", datasets={"train/labels": None, "test/labels": None}
    )
    said = refused(clipkit("probe", bare), 1, "label")
    assert str(bare) in said or "train" in said


def test_one_class_only(tmp_path: Path) -> None:
    one = write_feature_file(
        tmp_path / "x.h5",
        datasets={"train/labels": np.zeros(6, int), "test/labels": np.zeros(6, int)},
    )
    refused(clipkit("probe", one), 1, "a probe must have two classes or more to tell apart; got 1")


def test_a_class_in_test_that_train_lacks(tmp_path: Path) -> None:
    """It counts as wrong and is told; the run goes on."""
    lacking = write_feature_file(
        tmp_path / "x.h5",
        datasets={"class_names": ["a", "b", "c"], "test/labels": np.array([0, 1, 2, 0, 1, 2])},
    )
    result = clipkit("probe", lacking)
    assert result.exit_code == 0
    assert result.stderr.startswith(
        "clipkit: warning: 1 classes of test do not occur in train (c, say)"
    )
    assert float(rows(result.stdout)[0]["acc1"]) <= 4 / 6


@pytest.mark.parametrize("tau", ["0", "-1", "nan", "inf", "1e-400", "-inf", "", "hot", "1,,2"])
@pytest.mark.parametrize("command", ["logits", "entropy", "probe"])
def test_temperatures(
    tau: str, command: str, images: Path, texts: Path, logits: Path, tmp_path: Path
) -> None:
    inputs = (images, texts, "-o", tmp_path / "o.h5") if command == "logits" else (logits,)
    with unchanged(tmp_path):
        refused(
            clipkit(command, *inputs, f"--temperature={tau}"),
            2,
            "temperature must be a finite number above 0; got ",
        )


def test_c_must_be_positive(logits: Path) -> None:
    for value in ("0", "-1", "nan", "inf"):
        refused(clipkit("probe", logits, f"-C{value}"), 2, "C must be a finite number above 0")


@pytest.fixture
def embed_texts(tmp_path: Path, tiny_clip_dir: Path) -> Any:
    def run(data: bytes, *words: object, name: str = "mine.txt") -> Any:
        (tmp_path / name).write_bytes(data)
        return clipkit(
            "textembed",
            tmp_path / name,
            "--model",
            tiny_clip_dir,
            "--precision",
            "fp32",
            "-o",
            tmp_path / f"{name}.h5",
            *words,
        )

    return run


def test_bom_and_crlf_change_nothing(embed_texts: Any, tmp_path: Path) -> None:
    assert embed_texts(b"a dot\na line\n", name="clean").stderr == ""
    assert embed_texts(b"\xef\xbb\xbfa dot\r\na line", name="windows").stderr == ""
    assert (tmp_path / "clean.h5").read_bytes() == (tmp_path / "windows.h5").read_bytes()


def test_blanks_and_duplicates_are_told(embed_texts: Any, tmp_path: Path) -> None:
    result = embed_texts(b"a dot\n\n  \na dot\n")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"clipkit: warning: {tmp_path}/mine.txt: 2 blank lines dropped",
        f"clipkit: warning: {tmp_path}/mine.txt: 1 duplicate kept: line 4 repeats line 1",
    ]
    assert read(tmp_path / "mine.txt.h5").texts == ["a dot", "a dot"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\n  \n\t\n", "mine.txt: expected at least one prompt, got blank lines"),
        (b"", "mine.txt: empty input: did the command before it fail?"),
        (b"a dot\ncaf\xe9\n", "mine.txt, line 2: expected UTF-8 text, got the byte 0xe9"),
        (b"a dot\na\0b\n", "mine.txt, line 2: expected no control character, got U+0000"),
        (
            b"a dot\n" + b"word " * 90 + b"\n",
            "mine.txt, line 2: expected at most 77 tokens, got 92",
        ),
    ],
)
def test_prompts_that_are_refused(embed_texts: Any, tmp_path: Path, data: bytes, says: str) -> None:
    refused(embed_texts(data), 1, says)
    assert not (tmp_path / "mine.txt.h5").exists()


def test_a_long_prompt_is_cut_when_asked_for(embed_texts: Any, tmp_path: Path) -> None:
    assert embed_texts(b"word " * 90 + b"\n", "--truncate").exit_code == 0
    assert read(tmp_path / "mine.txt.h5").history[0]["truncate"] is True


def test_a_line_separator_does_not_split_a_prompt(embed_texts: Any, tmp_path: Path) -> None:
    assert embed_texts("a\u2028b\u0085c\n".encode()).exit_code == 0
    assert read(tmp_path / "mine.txt.h5").texts == ["a\u2028b\u0085c"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("embed", "cifar1"), "unknown data set 'cifar1'; hint: did you mean cifar10"),
        (
            ("plot", "temprature", "x.h5"),
            "unknown plot 'temprature'; hint: did you mean temperature?",
        ),
        (
            ("probe", "LOGITS", "--classifier", "svn"),
            "unknown classifier 'svn'; hint: did you mean svm",
        ),
        (
            ("textembed", "--classes", "digit", "--model", "tiny"),
            "unknown data set 'digit'; hint: did you mean digits?",
        ),
        (("zeroshot", "LOGITS", "--split", "tset"), "'tset'; hint: did you mean test?"),
        (("entropy", "LOGITS", "--format", "cvs"), "unknown format 'cvs'; hint: did you mean"),
        (("logitz",), "No such command 'logitz'"),
        (("entropy", "LOGITS", "--temprature", "1"), "No such option: --temprature"),
    ],
)
def test_unknown_names_meet_the_nearest(words: tuple[str, ...], says: str, logits: Path) -> None:
    refused(clipkit(*(logits if word == "LOGITS" else word for word in words)), 2, says)


def test_an_unknown_model_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "mine.txt").write_text("a dot\n")
    result = clipkit(
        "textembed", tmp_path / "mine.txt", "--model", "tinny", "-o", tmp_path / "o.h5"
    )
    assert result.exit_code in (1, 2)
    assert "hint: " in refused(result, result.exit_code, "tinny")


def test_a_sound_chain_says_nothing(images: Path, texts: Path, tmp_path: Path) -> None:
    assert ok("logits", images, texts, "-o", tmp_path / "o.h5").stderr == ""
    assert ok("entropy", tmp_path / "o.h5").stderr == ""

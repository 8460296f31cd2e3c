"""`clipkit report` on folders made here: when the thesis's figures stand, what is left out, what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from shell import clipkit, ok

from clipkit.features import FeatureFile, Split, write
from clipkit.report import thesis

Table = dict[str, dict[str, str]]  # first cell -> column -> cell
HISTORY: dict[str, Any] = {
    "command": "embed",
    "clipkit": "0.1.0",
    "model": {"name": thesis.MODEL, "digest": "sha256:12", "precision": "fp32", "device": "cpu"},
    "dataset": {
        "name": "cifar100",
        "splits": {
            "train": {"images": 50_000, "rows": "ab"},
            "test": {"images": 10_000, "rows": "cd"},
        },
    },
}


def tables(text: str) -> Table:
    """Every row of a page's tables, by its first cell: column -> cell."""
    found: Table = {}
    head: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells or set("".join(cells)) <= set("-:"):
            head = head if cells else []
        elif not head:
            head = cells
        else:
            assert cells[0] not in found, cells[0]
            found[cells[0]] = dict(zip(head[1:], cells[1:], strict=True))
    return found


def folder(
    at: Path, *, model: dict[str, Any] | None = None, data: dict[str, Any] | None = None
) -> Path:
    """A results folder with chapter 2's baseline: 200 test rows, of which 150 are right."""
    at.mkdir()
    made = {
        **HISTORY,
        "model": HISTORY["model"] | (model or {}),
        "dataset": HISTORY["dataset"] | (data or {}),
    }
    labels, ids = np.arange(200) % 5, [f"{i}" for i in range(200)]
    features = np.ones((200, 3), np.float32)
    names = ["ant", "bee|hive", "cat", "dog", "eel"]
    splits = {name: Split(features, labels, ids) for name in ("train", "test")}
    write(str(at / "img.h5"), FeatureFile("images", [made], splits, class_names=names))
    predicted = np.where(np.arange(200) < 150, labels, (labels + 1) % 5)
    runs = {
        "classifier": np.array(["svm"]),
        "eval_split": np.array(["test"]),
        "acc1": np.array([0.75]),
    }
    result = FeatureFile("result", [made, {"command": "probe"}], class_names=names, runs=runs)
    result.splits["test"] = Split(labels=labels, ids=ids, predicted=predicted[None])
    write(str(at / "img.svm.h5"), result)
    return at


BASELINE = "2.2 baseline: SVM on standardised image embeddings (%)"


def test_the_thesis_stands_beside_its_own_model_and_data(tmp_path: Path) -> None:
    row = tables(ok("report", folder(tmp_path / "r")).stdout)[BASELINE]
    low, high = binomtest(150, 200).proportion_ci(method="wilson")
    assert row == {
        "thesis": "78.01",
        "here": f"75.00 ({100 * low:.2f}–{100 * high:.2f})",
        "difference": "-3.01",
    }


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ({"name": "tiny"}, {}),
        ({"untrained": 7}, {}),
        ({}, {"name": "shapes"}),
        (
            {},
            {
                "splits": {
                    "train": {"images": 500, "rows": "ab"},
                    "test": {"images": 10_000, "rows": "cd"},
                }
            },
        ),
        ({}, {"splits": {"test": {"images": 10_000, "rows": "cd"}}}),
    ],
)
def test_the_thesis_stands_beside_nothing_else(
    model: dict[str, Any], data: dict[str, Any], tmp_path: Path
) -> None:
    row = tables(ok("report", folder(tmp_path / "r", model=model, data=data)).stdout)[BASELINE]
    assert (row["thesis"], row["difference"]) == ("", "")
    assert row["here"].startswith("75.00 (")


def test_what_ran_is_said_first(tmp_path: Path) -> None:
    at = folder(tmp_path / "r", model={"untrained": 7}, data={"draw": {"limit": 9, "seed": 42}})
    text = ok("report", at).stdout
    assert text.startswith(
        "# openai/clip-vit-base-patch32, untrained (seed 7) on cifar100\n\n| what ran"
    )
    said = {key: cells[""] for key, cells in tables(text).items() if "" in cells}
    assert said["weights"] == "sha256:12"
    assert said["precision"] == "fp32 on cpu"
    assert said["data set"] == "cifar100: 200 train + 200 test images, 5 classes"
    assert said["draw"] == "limit 9, seed 42"
    assert said["rows of test"] == "sha256:cd"
    assert f"numpy {np.__version__}" in said["reported by"]


def test_the_untrained_twin_has_a_column(tmp_path: Path) -> None:
    here, twin = (
        folder(tmp_path / "a"),
        folder(tmp_path / "b", model={"untrained": 3, "digest": "sha256:34"}),
    )
    (twin / "img.svm.h5").unlink()
    text = ok("report", here, "--untrained", twin).stdout
    assert list(tables(text)[BASELINE]) == ["thesis", "here", "untrained", "difference"]
    assert tables(text)[BASELINE]["untrained"] == ""
    assert tables(text)["its weights"][""] == "sha256:34"


def test_classes_and_pictures_are_those_that_are_there(tmp_path: Path) -> None:
    at = folder(tmp_path / "r")
    (at / "img.svm.confusion.png").touch()
    text = ok("report", at).stdout
    assert re.findall(r"!\[.*\]\((.*)\)", text) == ["img.svm.confusion.png"]
    assert "F1 of the best classes: " in text
    assert "Chapter 3" not in text


def test_tables_line_up(tmp_path: Path) -> None:
    for block in ok("report", folder(tmp_path / "r")).stdout.split("\n\n"):
        if block.startswith("|"):
            assert len({len(line) for line in block.splitlines()}) == 1


def test_a_page_is_written_once(tmp_path: Path) -> None:
    at = folder(tmp_path / "r")
    ok("report", at, "-o", at / "report.md")
    assert (at / "report.md").read_text() == ok("report", at).stdout
    assert clipkit("report", at, "-o", at / "report.md").exit_code == 2
    ok("report", at, "-o", at / "report.md", "--force")


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    result = clipkit("report", tmp_path)
    assert result.exit_code == 1
    assert "must hold img.h5" in result.stderr
    (tmp_path / "img.h5").write_text("no feature file")
    assert clipkit("report", tmp_path).exit_code == 1

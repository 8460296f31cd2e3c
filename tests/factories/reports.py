"""Folders of results made by hand, and what tests read from a report about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.features import FeatureFile, Split, read, row_ids, write
from factories import result_file

Table = dict[str, dict[str, str]]  # first cell -> column -> cell
NAME = "openai/clip-vit-base-patch32"
MODEL = {"name": NAME, "digest": "sha256:12", "precision": "fp32", "device": "cpu"}
TEST_ROWS = {"images": 10_000, "rows": "cd"}
SPLITS = {"train": {"images": 50_000, "rows": "ab"}, "test": TEST_ROWS}
DATASET = {"name": "cifar100", "splits": SPLITS}
NAMES = ("ant", "bee|hive", "cat", "dog", "eel")
HEADER = "section\ttitle\twhere\tcolumn\tvalue\tcomparable\tsource\n"
LABELS = np.arange(200) % 5
RUN = {
    "classifier": "svm",
    "C": 1.0,
    "temperature": np.nan,
    "standardize": True,
    "eval_split": "test",
    "acc1": 0.75,
}


def tables(text: str) -> Table:
    """Return every row of a page's tables by its first cell: column -> cell."""
    rows: Table = {}
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            header = []
        elif not header:
            header = cells
        elif not set("".join(cells)) <= set("-:"):
            row = rows.setdefault(cells[0], {})
            assert not row.keys() & set(header[1:])
            row |= dict(zip(header[1:], cells[1:], strict=True))
    return rows


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", cell)]


def write_results(folder: Path, names: Sequence[str] = NAMES, **entry: Any) -> Path:
    """Write a folder with embeddings and an SVM on them: 150 of 200 test rows are right.

    `model` and `dataset` change the history's entry of `embed`; other values are added to it.
    """
    folder.mkdir()
    model = MODEL | entry.pop("model", {})
    dataset = DATASET | entry.pop("dataset", {})
    history = [{"command": "embed", "clipkit": "0.1.0", "model": model, "dataset": dataset} | entry]
    split = Split(np.ones((200, 3), np.float32), LABELS, row_ids(200))
    splits = {"train": split, "test": split}
    images = FeatureFile("images", history, splits, class_names=list(names))
    write(str(folder / "img.h5"), images)
    write_baseline(folder)
    return folder


def write_baseline(folder: Path, *runs: dict[str, Any], **entry: Any) -> None:
    """Write img.svm.h5; `runs` and `entry` change its runs and its entry of the history."""
    images = read(folder / "img.h5")
    made = {"command": "probe", "features": "logits", "fit_split": "train"}
    made["inputs"] = {"features": images.digest}
    rows = [RUN | run for run in runs or [{}]]
    predicted = np.where(np.arange(200) < 150, LABELS, (LABELS + 1) % 5)
    history = [*images.history, made | entry]
    result = result_file(rows, LABELS, [predicted] * len(rows), history, images.class_names)
    write(folder / "img.svm.h5", result, force=True)

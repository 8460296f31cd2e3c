"""Results made by hand for reports and pictures, and what a page says."""

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
LABELS = np.arange(200) % 5
LAYER_LABELS = np.repeat([0, 1], [12, 8])
HEADER = "section\ttitle\twhere\tcolumn\tvalue\tcomparable\tsource\n"
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


def layer_result(
    correct: int = 10,
    layer: int | None = None,
    *,
    layers: int = 4,
    name: str = "org/m",
    untrained: int | None = None,
    pool: str = "cls",
    relabel: dict[str, Any] | None = None,
    labels: Any = LAYER_LABELS,
    dataset: str = "shapes",
    classifier: str = "svm",
    C: float = 1.0,
    runs: int = 1,
    split: str = "test",
    **members: Any,
) -> FeatureFile:
    """Return a result of a probe with a number of correct predictions, of 20 rows."""
    model: dict[str, Any] = {"name": name, "weights": f"sha256:{name}{untrained}", **members}
    if layer is not None:
        model |= {"layer": layer, "layers": layers, "pool": pool, "norm": False}
    if untrained is not None:
        model["untrained"] = untrained
    history: list[dict[str, Any]] = [
        {"command": "embed", "model": model, "dataset": {"name": dataset}}
    ]
    if relabel is not None:
        history.append({"command": "relabel", **relabel})
    history.append({"command": "probe", "classifier": classifier, "C": [C], "clipkit": "1"})
    predicted = np.where(np.arange(len(labels)) < correct, labels, 1 - np.asarray(labels))
    row = {"classifier": classifier, "C": C, "eval_split": split, "acc1": correct / len(labels)}
    file = result_file([row] * runs, labels, [predicted] * runs, history, ["cat", "dog"])
    file.splits = {split: file.splits["test"]}
    file.display_name = f"{'' if untrained is None else 'untrained/'}l{layer}.h5"
    return file

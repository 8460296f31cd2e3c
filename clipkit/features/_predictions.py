"""Results as tables: which class did each image get, in which run?"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.errors import ClipkitError

PARAMETERS = ("classifier", "C", "temperature", "standardize", "fit_split", "k")


def columns(datasets: Mapping[str, Any]) -> dict[str, type]:
    """The table's columns and what they hold: str, int or float."""
    runs = _runs(datasets)
    if not _splits(datasets):
        return {name: _type(column) for name, column in runs.items()}
    of_class = str if datasets.get("class_names") else int
    said = {name: _type(runs[name]) for name in PARAMETERS if name in runs}
    return {"split": str, "id": str, "label": of_class, "predicted": of_class, **said}


def frames(datasets: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
    """Yield the table run by run, a row an image, classes by name; the runs alone where nothing was predicted."""
    runs, names = _runs(datasets), datasets.get("class_names")
    if not _splits(datasets):
        yield {name: column.tolist() for name, column in runs.items()}
        return
    for split in _splits(datasets):
        predicted = datasets[f"{split}/predicted"]  # (R, N)
        ids, labels = datasets[f"{split}/ids"], datasets.get(f"{split}/labels")
        scored = runs.get("eval_split", runs.get("split"))
        here = np.flatnonzero([] if scored is None else scored == split)  # (R)
        if len(here) != len(predicted):
            raise ClipkitError(
                f"{split} must have predictions of each of its {len(here)} runs; it has {len(predicted)}"
            )
        for run, row in zip(here, predicted, strict=True):
            said = {
                name: [runs[name][run].item()] * len(ids) for name in PARAMETERS if name in runs
            }
            truth = [None] * len(ids) if labels is None else _classes(labels, names)
            yield {
                "split": [split] * len(ids),
                "id": ids,
                "label": truth,
                "predicted": _classes(row, names),
                **said,
            }


def write_csv(path: Path, datasets: Mapping[str, Any]) -> None:
    """Write the table as CSV: UTF-8, a header, empty cells for what does not apply."""
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(columns(datasets))
        for frame in frames(datasets):
            out.writerows(
                [_cell(value) for value in row] for row in zip(*frame.values(), strict=True)
            )


def _runs(datasets: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix("runs/"): np.asarray(value)
        for name, value in datasets.items()
        if name.startswith("runs/")
    }


def _splits(datasets: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix("/predicted") for name in datasets if name.endswith("/predicted")]


def _type(column: Any) -> type:
    return {"U": str, "f": float}.get(column.dtype.kind, int)


def _classes(numbers: Any, names: list[str] | None) -> list[Any]:
    if names and (numbers.min() < 0 or numbers.max() >= len(names)):
        raise ClipkitError(
            f"predictions must lie in 0..{len(names) - 1}, as class names do; got {numbers.min()}..{numbers.max()}"
        )
    return [names[i] for i in numbers] if names else np.asarray(numbers).tolist()


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value

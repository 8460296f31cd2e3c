"""A results folder: feature files and results by name, and the numbers in them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkit import features, metrics, similarity
from clipkit.errors import ClipkitError
from clipkit.features import FeatureFile

SEEDS = (42, 1, 2, 3, 4)  # the thesis's first


@dataclass(frozen=True)
class Value:
    """A number, the interval that it lies in, and what was chosen for it."""

    x: float
    low: float | None = None
    high: float | None = None
    note: str = ""


Getter = Callable[["Results"], Value | None]


class Results:
    """What lies in a results folder; a file that is absent gives None.

    Raises
    ------
    ClipkitError
        If the folder holds no img.h5.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "img.h5").is_file():
            raise ClipkitError(
                f"a results folder must hold img.h5; {folder} does not",
                "make one with: make chapter2",
            )
        with features.open_file(folder / "img.h5", kinds=["images"]) as file:
            self.embedded: dict[str, Any] = file.history[0]
            self.class_names = file.class_names or []
            self.counts = {name: len(split) for name, split in file.splits.items()}
        self.file = functools.cache(self._file)

    def _file(self, name: str) -> FeatureFile | None:
        path = self.folder / f"{name}.h5"
        return features.read(path) if path.is_file() else None

    def runs(self, name: str, **where: Any) -> list[dict[str, Any]]:
        """The runs of a result whose columns have the given values."""
        file = self.file(name)
        if file is None:
            return []
        count = len(next(iter(file.runs.values())))
        rows = [{key: column[i] for key, column in file.runs.items()} for i in range(count)]
        return [row for row in rows if all(row[key] == value for key, value in where.items())]

    def predicted(self, name: str, split: str = "test") -> tuple[Any, Any] | None:
        """Labels (N) and the first run's predictions (N)."""
        file = self.file(name)
        if file is None or split not in file.splits:
            return None
        part = file.splits[split]
        return part.labels, None if part.predicted is None else part.predicted[0]


def accuracy(
    name: str, *, column: str = "acc1", told: tuple[str, ...] = (), **where: Any
) -> Getter:
    """Accuracy on test, with Wilson's 95 % interval; `told` are the columns to name beside it."""

    def get(results: Results) -> Value | None:
        file = results.file(name)
        split = "split" if file is not None and "split" in file.runs else "eval_split"
        rows = results.runs(name, **{split: "test"}, **where)
        if file is None or not rows:
            return None
        return _of(rows[0], len(file.splits["test"]), column, told)

    return get


def best(name: str) -> Getter:
    """The highest accuracy on test of a sweep, which is optimistic."""

    def get(results: Results) -> Value | None:
        rows = results.runs(name, eval_split="test")
        file = results.file(name)
        if file is None or not rows:
            return None
        return _of(
            max(rows, key=lambda row: float(row["acc1"])),
            len(file.splits["test"]),
            "acc1",
            ("temperature",),
        )

    return get


def _of(row: dict[str, Any], n: int, column: str, told: tuple[str, ...]) -> Value:
    names = {"temperature": "τ", "C": "C"}
    note = ", ".join(f"{names[key]} {row[key]:g}" for key in told)
    return Value(float(row[column]), *metrics.wilson(float(row[column]), n), note)


def mean(name: str, column: str, temperature: float) -> Getter:
    """A mean over the test images that `entropy` found."""

    def get(results: Results) -> Value | None:
        rows = results.runs(name, split="test", temperature=temperature)
        return Value(float(rows[0][column])) if rows else None

    return get


def over_seeds(name: str, column: str, *, middle: bool = False, **where: Any) -> Getter:
    """The first seed's number, or the mean, with the lowest and highest; the name has a place for the seed."""

    def get(results: Results) -> Value | None:
        rows = [row for seed in SEEDS for row in results.runs(name.format(seed), **where)]
        found = [float(row[column]) for row in rows]
        if not found:
            return None
        return Value(float(np.mean(found)) if middle else found[0], min(found), max(found))

    return get


def spectrum(results: Results, name: str) -> tuple[Any, float, float] | None:
    """Singular values of a prompt set's directions, its effective rank, and that of as many random directions."""
    file = results.file(name)
    if file is None:
        return None
    values = similarity.singular_values(file.features)
    count, dim = file.features.shape
    random = similarity.singular_values(similarity.random_directions(count, dim, SEEDS[0]))
    return values, similarity.effective_rank(values), similarity.effective_rank(random)


def spread(results: Results, name: str) -> tuple[float, float, float] | None:
    """Of a grid: lowest and highest accuracy, and the largest difference between runs of one C / tau^2."""
    rows = results.runs(name)
    if not rows:
        return None
    lines: dict[float, list[float]] = {}
    for row in rows:
        lines.setdefault(float(f"{row['C'] / row['temperature'] ** 2:.6g}"), []).append(
            float(row["acc1"])
        )
    found = [value for line in lines.values() for value in line]
    return min(found), max(found), max(max(line) - min(line) for line in lines.values())

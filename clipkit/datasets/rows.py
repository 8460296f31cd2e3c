"""Make a data set of rows that a list or a manifest names: check paths, ids, labels and splits."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from clipkit.datasets import remote
from clipkit.datasets.dataset import ImageDataset, ImageFiles, split_name
from clipkit.datasets.images import escape
from clipkit.datasets.labels import number_labels
from clipkit.errors import ClipkitError
from clipkit.features import Int64
from clipkit.features.validation import MAX_CLASSES, MAX_NAMES, is_split_name

MAX_PATH = 4096  # characters; Linux opens no longer path
MAX_TEXT = 1000  # characters of a label or an id
UNNAMED = "all"  # the split of rows that name none


class Row(NamedTuple):
    """A row of a list or manifest. What it does not name is ""."""

    place: int  # its line
    path: str
    label: str = ""
    split: str = ""
    id: str = ""


@dataclass
class _Split:
    """The rows of a split, while they are read."""

    ids: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)  # "" for none
    places: array[int] = field(default_factory=lambda: array("q"))


class Rows(NamedTuple):
    """What a list or manifest holds."""

    class_names: list[str]
    splits: dict[str, ImageDataset]


def collect(
    rows: Iterable[Row],
    name: str,
    *,
    unit: str = "line",
    folder: str = "",
    has_splits: bool = False,
) -> Rows:
    """Make the splits of a data set.

    `clipkit.datasets.labels.number_labels` says what labels mean. A split has labels in all of its
    rows or in none.

    Parameters
    ----------
    rows : iterable of Row
    name : str
        What messages call the file.
    unit : str
        What messages call the place of a row.
    folder : str
        Relative paths start here.
    has_splits : bool
        Whether every row must name its split; otherwise all rows are in the split `all`.

    Raises
    ------
    ClipkitError
        If there is no row, a path is missing or is a URL of another protocol than http(s), an id
        occurs twice in a split, or a label or the name of a split is not valid. The message names
        the line.
    """
    splits: dict[str, _Split] = {}
    for row in rows:
        where = f"{name}, {unit} {row.place}"
        _check_path(row.path, where)
        split = _split_of(row, splits, where) if has_splits else UNNAMED
        if split not in splits:
            splits[split] = _Split()
        _add(splits[split], row, where, unit)
    if not splits:
        raise ClipkitError(f"{name}: expected paths of images, got none")
    class_names, numbers = _number_labels(splits, name, unit)
    datasets = {}
    for split, content in splits.items():
        labels = _labels(content, numbers, name, unit)
        datasets[split] = ImageDataset(content.ids, labels, ImageFiles(content.paths, folder))
    return Rows(class_names, datasets)


def _check_path(path: str, where: str) -> None:
    if not path:
        raise ClipkitError(f"{where}: expected a path, got none")
    if len(path) > MAX_PATH:
        raise ClipkitError(
            f"{where}: expected a path of at most {MAX_PATH:,} characters, got {len(path):,}"
        )
    if "\0" in path:
        raise ClipkitError(f"{where}: expected a path without NUL characters, got {path[:40]!r}")
    if remote.protocol_of(path) not in (None, "http", "https"):
        raise ClipkitError(
            f"{where}: expected a local path or an http(s) URL, got {escape(path[:100])}",
            "download the images first, and name their files",
        )


def _split_of(row: Row, splits: dict[str, _Split], where: str) -> str:
    if row.split in splits:
        return row.split
    split = split_name(row.split)
    if not is_split_name(split):
        characters = "letters, digits, '.', '_' and '-'"
        got = repr(row.split[:40]) if row.split else "none"
        raise ClipkitError(f"{where}: expected a split, named by {characters}, got {got}")
    if len(splits) >= MAX_NAMES and split not in splits:
        raise ClipkitError(f"{where}: expected at most {MAX_NAMES:,} splits, got more")
    return split


def _add(split: _Split, row: Row, where: str, unit: str) -> None:
    for what, text in (("id", row.id), ("label", row.label)):
        if len(text) > MAX_TEXT:
            expected = f"expected an {what}" if what == "id" else f"expected a {what}"
            raise ClipkitError(
                f"{where}: {expected} of at most {MAX_TEXT:,} characters, got {len(text):,}"
            )
    row_id = escape(row.id or row.path.removeprefix("./"))
    if row_id in split.known:
        first = split.places[split.ids.index(row_id)]
        what = "id" if row.id else "path"
        raise ClipkitError(f"{where}: expected each {what} once, got {row_id} as in {unit} {first}")
    split.known.add(row_id)
    split.ids.append(row_id)
    split.paths.append(row.path)
    split.labels.append(row.label)
    split.places.append(row.place)


def _number_labels(
    splits: dict[str, _Split], name: str, unit: str
) -> tuple[list[str], dict[str, int]]:
    """Return the names of the classes, and the number of each label."""
    labels = {label for split in splits.values() for label in split.labels} - {""}
    if len(labels) > MAX_CLASSES:
        raise ClipkitError(f"{name}: expected at most {MAX_CLASSES:,} classes, got {len(labels):,}")
    return number_labels(labels, lambda label: f"{name}, {unit} {_first_place(splits, label)}")


def _first_place(splits: dict[str, _Split], label: str) -> int:
    places: Iterator[int] = (
        split.places[split.labels.index(label)]
        for split in splits.values()
        if label in split.labels
    )
    return min(places)


def _labels(split: _Split, numbers: dict[str, int], name: str, unit: str) -> Int64 | None:
    """Return the labels (N,) of a split, or None if no row has one."""
    missing = split.labels.count("")
    if missing == len(split.labels):
        return None
    if missing:
        place = split.places[split.labels.index("")]
        raise ClipkitError(
            f"{name}, {unit} {place}: expected a label, got none",
            "label all rows of a split, or none",
        )
    return np.array([numbers[label] for label in split.labels], np.int64)

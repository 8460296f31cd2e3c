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
from clipkit.datasets.labels import (
    NO_LABEL,
    attach_labels,
    has_duplicates,
    labels_from_texts,
)
from clipkit.errors import ClipkitError
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
    paths: list[str] = field(default_factory=list)
    codes: array[int] = field(default_factory=lambda: array("i"))  # of the labels, or NO_LABEL
    places: array[int] = field(default_factory=lambda: array("I"))
    has_ids: bool = False  # or the paths are the ids


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

    `clipkit.datasets.labels.number_labels` says what labels mean, and `attach_labels` what happens
    to rows without one.

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
    texts: dict[str, int] = {}  # the number of each label
    for row in rows:
        where = f"{name}, {unit} {row.place}"
        _check_path(row.path, where)
        split = _split_of(row, splits, where) if has_splits else UNNAMED
        if split not in splits:
            splits[split] = _Split()
        _add(splits[split], row, where, texts)
    if not splits:
        raise ClipkitError(f"{name}: expected paths of images, got none")
    for content in splits.values():
        _check_unique(content, name, unit)
    if len(texts) > MAX_CLASSES:
        raise ClipkitError(f"{name}: expected at most {MAX_CLASSES:,} classes, got {len(texts):,}")
    datasets = {}
    for split, content in splits.items():
        datasets[split] = ImageDataset(content.ids, None, ImageFiles(content.paths, folder))
    if not texts:
        return Rows([], datasets)
    codes = {split: np.frombuffer(content.codes, np.int32) for split, content in splits.items()}

    def place_of(label: str) -> str:
        return f"{name}, {unit} {_first_place(splits, texts[label])}"

    labels, class_names = labels_from_texts(codes, list(texts), place_of)
    return Rows(class_names, attach_labels(datasets, labels))


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


def _add(split: _Split, row: Row, where: str, texts: dict[str, int]) -> None:
    for what, text in (("id", row.id), ("label", row.label)):
        if len(text) > MAX_TEXT:
            expected = f"expected an {what}" if what == "id" else f"expected a {what}"
            raise ClipkitError(
                f"{where}: {expected} of at most {MAX_TEXT:,} characters, got {len(text):,}"
            )
    code = NO_LABEL
    if row.label:
        code = texts.setdefault(row.label, len(texts))
    split.ids.append(escape(row.id or row.path.removeprefix("./")))
    split.paths.append(row.path)
    split.codes.append(code)
    split.places.append(row.place)
    split.has_ids = bool(row.id)


def _check_unique(split: _Split, name: str, unit: str) -> None:
    """Refuse an id that occurs twice. Checked after reading, since a set takes much memory."""
    if not has_duplicates(split.ids):
        return
    known: dict[str, int] = {}
    for row_id, place in zip(split.ids, split.places, strict=True):
        first = known.setdefault(row_id, place)
        if first != place:
            what = "id" if split.has_ids else "path"
            raise ClipkitError(
                f"{name}, {unit} {place}: expected each {what} once, "
                f"got {row_id[:80]} as in {unit} {first}"
            )


def _first_place(splits: dict[str, _Split], code: int) -> int:
    places: Iterator[int] = (
        split.places[split.codes.index(code)] for split in splits.values() if code in split.codes
    )
    return min(places)

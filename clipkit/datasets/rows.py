"""Make the rows of a data set: their columns, paths, ids and splits."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.base import suggestions
from clipkit.base.bounds import MAX_NAMES
from clipkit.base.errors import ClipkitError, listed, shorten
from clipkit.base.names import escape, find_repeat
from clipkit.datasets import remote
from clipkit.datasets.dataset import (
    ImageDataset,
    ImageFiles,
    attach_clusters,
    attach_labels,
    split_name,
)
from clipkit.datasets.labels import LabelCodes
from clipkit.datasets.wordnet import MAX_NAME
from clipkit.features.model import is_split_name

LISTED_COLUMNS = 10  # in a message
CAPTION_COLUMNS = ("caption", "text", "captions", "texts", "title", "sentence")  # the first is read


class Columns(NamedTuple):
    """The names of the columns that a manifest is read by."""

    path: str = "path"
    label: str = "label"
    split: str = "split"
    id: str = "id"
    cluster: str = ""  # no column


PATH = Columns._field_defaults["path"]
# What other tools call the column of image files
PATHS = {"file", "filename", "file_name", "filepath", "image", "image_path", "img", "name"}


class ColumnError(ClipkitError):
    """Report that a table lacks a column."""

    def __init__(self, message: str, hint: str | None = None, column: str = "") -> None:
        super().__init__(message, hint)
        self.column = column


def check_columns(present: Sequence[str], required: set[str], where: str) -> None:
    """Refuse a table that lacks a column."""
    for column in sorted(required):
        if column in present:
            continue
        hint = "rename it, or name the columns by --path-column, --label-column and --split-column"
        if column == PATH:
            name = next((one for one in present if one.lower() in PATHS), "NAME")
            hint = (
                f"name the column of the images: --path-column {suggestions.command(name)}; "
                "a table of texts is for textembed"
            )
        expected = f"a column {escape(column)!r}"
        got = list_columns(present)
        raise ColumnError(f"{where}: expected {expected}, got {got}", hint, column)


def list_columns(names: Iterable[str]) -> str:
    """Return the names of columns for a message, the first of many."""
    return listed([repr(escape(shorten(name))) for name in names], LISTED_COLUMNS) or "none"


def as_text(value: Any, where: str) -> str:
    """Return a value of a table as text: a text, a whole number, or "" for none.

    >>> as_text(None, ""), as_text(3, ""), as_text(3.0, ""), as_text("cat", "")
    ('', '3', '3', 'cat')
    """
    if isinstance(value, str):  # nearly always
        return value
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)[:40]  # no number has more digits, so that another is refused
    raise ClipkitError(
        f"{where}: expected a text or a whole number, got {escape(shorten(value))!r}",
        "store it as a text",
    )


UNNAMED = "all"  # the split of rows that name none


class Row(NamedTuple):
    """A row of a list or manifest, as it is read. What it does not name is None or ""."""

    place: int  # its line
    path: Any
    label: Any = None
    split: Any = None
    id: Any = None
    cluster: Any = None


class Table(NamedTuple):
    """The rows of a list or manifest, and whether all of them name a split and an id."""

    rows: Iterator[Row]
    has_splits: bool = False
    has_ids: bool = False
    label: str = "label"  # what messages call its columns
    split: str = "split"
    cluster: str = ""  # "" without clusters


@dataclass
class _Split:
    """The rows of a split, while they are read."""

    ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    codes: array[int] = field(default_factory=lambda: array("i"))  # of the labels, or NO_LABEL
    places: array[int] = field(default_factory=lambda: array("I"))
    clusters: array[int] = field(default_factory=lambda: array("i"))  # as `codes`

    def add(self, row: Row, row_id: str, code: int, cluster: int) -> None:
        """Add a row."""
        self.ids.append(row_id)
        self.paths.append(row.path)
        self.codes.append(code)
        self.places.append(row.place)
        self.clusters.append(cluster)


class Content(NamedTuple):
    """The class names and splits of a list or manifest."""

    class_names: list[str]
    splits: dict[str, ImageDataset]


def collect(table: Table, name: str, *, unit: str = "line", folder: str = "") -> Content:
    """Make the splits of a data set.

    `number_labels` says what labels mean, and `attach_labels` what happens to rows without one.

    Without splits, all rows are in the split `all`; without ids, the paths are the ids. `name` and
    `unit` are what messages call the file and the place of a row. Relative paths start at `folder`.
    A row that cannot be used is refused with its place.
    """
    splits: dict[str, _Split] = defaultdict(_Split)
    texts = LabelCodes()
    cluster_texts = LabelCodes()
    place_of: dict[str, int] = {}  # the first of each label
    split = UNNAMED
    for row in table.rows:
        where = f"{name}, {unit} {row.place}"
        _check_path(row.path, where)
        row_id = row.path.removeprefix("./")
        if table.has_ids:
            row_id = as_text(row.id, f"{where}: id")
            if not row_id:
                raise ClipkitError(f"{where}: expected an id, got none")
        if table.has_splits:
            split = _split_of(as_text(row.split, f"{where}: {table.split}").strip(), splits, where)
        label = as_text(row.label, f"{where}: {table.label}").strip()
        cluster = ""
        if table.cluster:
            cluster = as_text(row.cluster, f"{where}: {table.cluster}").strip()
        checked = {"a path": row.path, "an id": row_id, "a label": label, "a cluster": cluster}
        for what, text in checked.items():
            if len(text) > MAX_NAME:
                expected = f"{what} of at most {MAX_NAME:,} characters"
                raise ClipkitError(f"{where}: expected {expected}, got {len(text):,}")
        splits[split].add(row, escape(row_id), texts.code(label), cluster_texts.code(cluster))
        place_of.setdefault(label, row.place)
    if not splits:
        raise ClipkitError(f"{name}: expected paths of images, got none")
    _check_unique(splits, name, unit, "id" if table.has_ids else "path")
    datasets: dict[str, ImageDataset] = {}
    codes: dict[str, NDArray[np.int32]] = {}
    for split, content in splits.items():
        datasets[split] = ImageDataset(content.ids, None, ImageFiles(content.paths, folder))
        codes[split] = np.frombuffer(content.codes, np.int32)
    if table.cluster:
        numbers: dict[str, NDArray[np.int32]] = {}
        for split, content in splits.items():
            numbers[split] = np.frombuffer(content.clusters, np.int32)
        datasets = attach_clusters(datasets, numbers, f"{name}: {table.cluster}")
    labelled, class_names = attach_labels(
        datasets, codes, texts, lambda label: f"{name}, {unit} {place_of[label]}"
    )
    return Content(class_names, labelled)


def _check_path(path: Any, where: str) -> None:
    if not path:
        raise ClipkitError(f"{where}: expected a path, got none")
    if not isinstance(path, str):
        raise ClipkitError(f"{where}: expected a path, got {shorten(path)!r}")
    if "\0" in path:
        raise ClipkitError(
            f"{where}: expected a path without NUL characters, got {shorten(path)!r}"
        )
    if remote.protocol_of(path) is not None and not remote.is_http(path):
        raise ClipkitError(
            f"{where}: expected a local path or an http(s) URL, got {escape(shorten(path, 100))}",
            "download the images first, and name their files",
        )


def _split_of(name: str, splits: dict[str, _Split], where: str) -> str:
    if name in splits:
        return name
    split = split_name(name)
    if not is_split_name(split):
        characters = "letters, digits, '.', '_' and '-'"
        got = repr(shorten(name)) if name else "none"
        raise ClipkitError(f"{where}: expected a split, named by {characters}, got {got}")
    if len(splits) >= MAX_NAMES and split not in splits:
        raise ClipkitError(f"{where}: expected at most {MAX_NAMES:,} splits, got more")
    return split


def _check_unique(splits: dict[str, _Split], name: str, unit: str, what: str) -> None:
    """Refuse an id that a split has twice. Checked after reading, since a set takes much memory."""
    for split in splits.values():
        repeat = find_repeat(split.ids)
        if repeat:
            first, again = repeat
            raise ClipkitError(
                f"{name}, {unit} {split.places[again]}: expected each {what} once, "
                f"got {shorten(split.ids[again])} as in {unit} {split.places[first]}"
            )

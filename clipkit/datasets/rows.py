"""Make a data set of rows that a list or a manifest names: check paths, ids, labels and splits."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from clipkit.datasets import remote
from clipkit.datasets.dataset import ImageDataset, ImageFiles, split_name
from clipkit.datasets.images import escape
from clipkit.datasets.labels import (
    LabelCodes,
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


class Table(NamedTuple):
    """The rows of a list or manifest, and whether all of them name a split and an id."""

    rows: Iterator[Row]
    has_splits: bool = False
    has_ids: bool = False


class PackedTexts(Sequence[str]):
    """Texts that are kept as one run of UTF-8, and made when they are asked for.

    In a list, each takes 57 bytes more than its letters.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        """Append a text."""
        self._data += text.encode()
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return list(map(self._text, range(len(self))[i]))
        # the range counts from the end, too, and refuses what is out of range
        return self._text(range(len(self))[i])

    def _text(self, row: int) -> str:
        return self._data[self._ends[row] : self._ends[row + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        return map(self._text, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


@dataclass
class _Split:
    """The rows of a split, while they are read."""

    ids: list[str] | PackedTexts
    paths: list[str] = field(default_factory=list)
    codes: array[int] = field(default_factory=lambda: array("i"))  # of the labels, or NO_LABEL
    places: array[int] = field(default_factory=lambda: array("I"))


class Content(NamedTuple):
    """The class names and splits of a list or manifest."""

    class_names: list[str]
    splits: dict[str, ImageDataset]


def collect(table: Table, name: str, *, unit: str = "line", folder: str = "") -> Content:
    """Make the splits of a data set.

    `clipkit.datasets.labels.number_labels` says what labels mean, and `attach_labels` what happens
    to rows without one.

    Parameters
    ----------
    table : Table
        Without splits, all rows are in the split `all`; without ids, the paths are the ids.
    name : str
        What messages call the file.
    unit : str
        What messages call the place of a row.
    folder : str
        Relative paths start here.

    Raises
    ------
    ClipkitError
        If there is no row, a path is missing or is a URL of another protocol than http(s), an id
        occurs twice in a split, or a label or the name of a split is not valid. The message names
        the line.
    """
    splits: dict[str, _Split] = {}
    texts = LabelCodes()
    split = UNNAMED
    for row in table.rows:
        where = f"{name}, {unit} {row.place}"
        if table.has_ids and not row.id:
            raise ClipkitError(f"{where}: expected an id, got none")
        _check_path(row.path, where)
        if table.has_splits:
            split = _split_of(row.split.strip(), splits, where)
        if split not in splits:
            splits[split] = _Split(PackedTexts() if table.has_ids else [])
        _add(splits[split], row, where, texts)
    if not splits:
        raise ClipkitError(f"{name}: expected paths of images, got none")
    _check_unique(splits, name, unit, "id" if table.has_ids else "path")
    if len(texts) > MAX_CLASSES:
        raise ClipkitError(f"{name}: expected at most {MAX_CLASSES:,} classes, got {len(texts):,}")
    datasets: dict[str, ImageDataset] = {}
    codes: dict[str, NDArray[np.int32]] = {}
    for split, content in splits.items():
        datasets[split] = ImageDataset(content.ids, None, ImageFiles(content.paths, folder))
        codes[split] = np.frombuffer(content.codes, np.int32)
    if not texts:
        return Content([], datasets)

    def place_of(label: str) -> str:
        return f"{name}, {unit} {_first_place(splits, texts[label])}"

    labels, class_names = labels_from_texts(codes, texts, place_of)
    return Content(class_names, attach_labels(datasets, labels))


def _check_path(path: str, where: str) -> None:
    if not path:
        raise ClipkitError(f"{where}: expected a path, got none")
    if len(path) > MAX_PATH:
        raise ClipkitError(
            f"{where}: expected a path of at most {MAX_PATH:,} characters, got {len(path):,}"
        )
    if "\0" in path:
        raise ClipkitError(f"{where}: expected a path without NUL characters, got {path[:40]!r}")
    if remote.protocol_of(path) is not None and not remote.is_http(path):
        raise ClipkitError(
            f"{where}: expected a local path or an http(s) URL, got {escape(path[:100])}",
            "download the images first, and name their files",
        )


def _split_of(name: str, splits: dict[str, _Split], where: str) -> str:
    if name in splits:
        return name
    split = split_name(name)
    if not is_split_name(split):
        characters = "letters, digits, '.', '_' and '-'"
        got = repr(name[:40]) if name else "none"
        raise ClipkitError(f"{where}: expected a split, named by {characters}, got {got}")
    if len(splits) >= MAX_NAMES and split not in splits:
        raise ClipkitError(f"{where}: expected at most {MAX_NAMES:,} splits, got more")
    return split


def _add(split: _Split, row: Row, where: str, texts: LabelCodes) -> None:
    label = row.label.strip()
    for what, text in (("an id", row.id), ("a label", label)):
        if len(text) > MAX_TEXT:
            raise ClipkitError(
                f"{where}: expected {what} of at most {MAX_TEXT:,} characters, got {len(text):,}"
            )
    split.ids.append(escape(row.id or row.path.removeprefix("./")))
    split.paths.append(row.path)
    split.codes.append(texts.code(label))
    split.places.append(row.place)


def _check_unique(splits: dict[str, _Split], name: str, unit: str, what: str) -> None:
    """Refuse an id that a split has twice. Checked after reading, since a set takes much memory."""
    for split in splits.values():
        if has_duplicates(split.ids):
            _refuse_duplicate(split, name, unit, what)


def _refuse_duplicate(split: _Split, name: str, unit: str, what: str) -> None:
    known: dict[str, int] = {}
    for row_id, place in zip(split.ids, split.places, strict=True):
        first = known.setdefault(row_id, place)
        if first != place:
            raise ClipkitError(
                f"{name}, {unit} {place}: expected each {what} once, "
                f"got {row_id[:80]} as in {unit} {first}"
            )


def _first_place(splits: dict[str, _Split], code: int) -> int:
    """Return where a label occurs first."""
    places = []
    for split in splits.values():
        if code in split.codes:
            places.append(split.places[split.codes.index(code)])
    return min(places)

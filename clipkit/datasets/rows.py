"""Make the rows of a data set: their columns, labels, paths, ids and splits."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.base import console
from clipkit.base.bounds import MAX_NAMES
from clipkit.base.errors import ClipkitError, listed, shorten
from clipkit.base.names import escape, positions
from clipkit.datasets import remote
from clipkit.datasets.dataset import ImageDataset, ImageFiles, NamedClasses, split_name
from clipkit.datasets.wordnet import MAX_NAME, escape_text
from clipkit.features.matching import find_repeat
from clipkit.features.model import Int64
from clipkit.features.validation import is_split_name

NO_LABEL = -1

WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]{0,18}))(?:\.0)?")  # a table of floats has 3.0


class LabelCodes(dict[str, int]):
    """The codes of distinct labels: 0, 1, 2, ... in the order in which they first occur."""

    def code(self, label: str | None) -> int:
        """Return the code of a label, a new one for a new label, or `NO_LABEL` for none."""
        if not label:
            return NO_LABEL
        return self.setdefault(label, len(self))

    def recode(self, codes: NDArray[np.int32] | Int64, labels: Iterable[str]) -> NDArray[np.int32]:
        """Return the codes (N,) of rows that have `codes` (N,) of other `labels`."""
        table = np.array([*map(self.code, labels), NO_LABEL], np.int32)  # NO_LABEL, -1, is the last
        return table[codes]


def number_labels(
    labels: Collection[str],
    place_of: Callable[[str], str],
    names_of_numbers: Callable[[], NamedClasses | None] = lambda: None,
) -> tuple[list[str], dict[str, int]]:
    """Return the class names, and the class of each label: the rule for every source.

    If all labels are whole numbers and the classes have names, they are the numbers of the classes.
    Otherwise all are names. Names that are whole numbers are sorted as numbers, so that 0..n-1 are
    the numbers of their classes, too, and a gap is no class.

    `labels` are distinct. `place_of` returns what an error calls the place of one, and
    `names_of_numbers` the class names where labels are numbers, or None. Names are sorted by code
    point, as class folders are. A file that names more classes than the labels have is warned
    about: a part of a data set may lack classes.
    """
    matches = [WHOLE_NUMBER.fullmatch(label) for label in labels]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) < len(labels):
        return _number_names(labels)
    if not numbers:
        return [], {}
    number_of = dict(zip(labels, numbers, strict=True))
    lowest = min(number_of, key=number_of.__getitem__)
    highest = max(number_of, key=number_of.__getitem__)
    if number_of[lowest] < 0:
        raise ClipkitError(f"{place_of(lowest)}: expected a label from 0, got {lowest}")
    classes = names_of_numbers()
    if classes is None:
        distinct, ranks = np.unique(numbers, return_inverse=True)
        return list(map(str, distinct.tolist())), dict(zip(labels, ranks.tolist(), strict=True))
    _check_named(classes, number_of, place_of, highest)
    return classes.names, number_of


def _number_names(labels: Collection[str]) -> tuple[list[str], dict[str, int]]:
    """Return the class names, sorted, and the class of each label."""
    name_of = {label: escape_text(label) for label in labels}
    class_names = sorted(set(name_of.values()))
    number_of = positions(class_names)
    return class_names, {label: number_of[name] for label, name in name_of.items()}


def _check_named(
    classes: NamedClasses,
    number_of: Mapping[str, int],
    place_of: Callable[[str], str],
    highest: str,
) -> None:
    """Refuse a number without a name, and warn of names that no label has."""
    last = len(classes.names) - 1
    named_by = f"{classes.file or 'the file'} names {last + 1:,} classes"
    if number_of[highest] > last:
        expected = f"a label from 0 to {last:,}, since {named_by}"
        raise ClipkitError(f"{place_of(highest)}: expected {expected}, got {highest}")
    if number_of[highest] < last and classes.file:
        console.warn(f"{named_by}, but no label is above {highest}; hint: check that file")


def attach_labels(
    splits: Mapping[str, ImageDataset],
    codes: Mapping[str, NDArray[np.int32]],
    texts: Collection[str],
    place_of: Callable[[str], str],
    names_of_numbers: Callable[[], NamedClasses | None] = lambda: None,
) -> tuple[dict[str, ImageDataset], list[str]]:
    """Return splits with labels, and class names, where rows have the numbers of texts.

    `codes` (N,) of each split number `texts`, or are `NO_LABEL`; see `number_labels` for the
    functions. A split without any label is unlabelled. In a split that has labels, rows without one
    are left out, with a warning.
    """
    class_names, number_of = number_labels(texts, place_of, names_of_numbers)
    values = np.array([number_of[text] for text in texts] + [NO_LABEL], np.int64)
    labelled = {}
    for name, split in splits.items():
        has_label = codes[name] != NO_LABEL
        if not has_label.any():
            labelled[name] = split
            continue
        labels = values[codes[name]]
        if not has_label.all():
            missing = np.flatnonzero(~has_label)
            left_out = console.count(len(missing), "image")
            first = split.ids[int(missing[0])]
            console.warn(f"{name}: left out {left_out} without a label, first {first}")
            split, labels = split.take(np.flatnonzero(has_label)), labels[has_label]
        labelled[name] = replace(split, labels=labels)
    return labelled, class_names


LISTED_COLUMNS = 10  # in a message
CAPTION_COLUMNS = ("caption", "text", "captions", "texts", "title", "sentence")  # the first is read


class Columns(NamedTuple):
    """The names of the columns that a manifest is read by."""

    path: str = "path"
    label: str = "label"
    split: str = "split"
    id: str = "id"


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
        hint = (
            "rename it, or name the columns by clipkit embed --path-column, --label-column and "
            "--split-column"
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


class Table(NamedTuple):
    """The rows of a list or manifest, and whether all of them name a split and an id."""

    rows: Iterator[Row]
    has_splits: bool = False
    has_ids: bool = False
    label: str = "label"  # what messages call its columns
    split: str = "split"


@dataclass
class _Split:
    """The rows of a split, while they are read."""

    ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    codes: array[int] = field(default_factory=lambda: array("i"))  # of the labels, or NO_LABEL
    places: array[int] = field(default_factory=lambda: array("I"))

    def add(self, row: Row, row_id: str, code: int) -> None:
        """Add a row."""
        self.ids.append(row_id)
        self.paths.append(row.path)
        self.codes.append(code)
        self.places.append(row.place)


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
        for what, text in (("a path", row.path), ("an id", row_id), ("a label", label)):
            if len(text) > MAX_NAME:
                expected = f"{what} of at most {MAX_NAME:,} characters"
                raise ClipkitError(f"{where}: expected {expected}, got {len(text):,}")
        splits[split].add(row, escape(row_id), texts.code(label))
        place_of.setdefault(label, row.place)
    if not splits:
        raise ClipkitError(f"{name}: expected paths of images, got none")
    _check_unique(splits, name, unit, "id" if table.has_ids else "path")
    datasets: dict[str, ImageDataset] = {}
    codes: dict[str, NDArray[np.int32]] = {}
    for split, content in splits.items():
        datasets[split] = ImageDataset(content.ids, None, ImageFiles(content.paths, folder))
        codes[split] = np.frombuffer(content.codes, np.int32)
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

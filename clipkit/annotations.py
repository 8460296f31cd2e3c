"""Read the attributes of a feature file's rows from a table, a data set or the file's labels.

A table is a .csv or .tsv file with a header: `id`, optionally `split`, and the attributes. An empty
cell means that the value is not known. The data set `shapes` has its own attributes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from clipkit import console, files
from clipkit.csv_rows import read_rows
from clipkit.errors import ClipkitError, UsageError, unknown
from clipkit.features import FeatureFile, Int64
from clipkit.features.provenance import dataset_entries, original_split

TABLES = (".csv", ".tsv")
CLASS = "class"  # the attribute that consists of the labels of a file
KEYS = ("id", "split")
INTERACTION = "*"

Columns = dict[str, dict[str, list[str]]]  # attribute -> split -> value of each row, or ""


@dataclass(frozen=True)
class Attribute:
    """An attribute of a file's rows.

    Attributes
    ----------
    name : str
    values : list of K str
        The values that occur, sorted. For the attribute `class`, all class names.
    codes : dict of str to (N,) int64 array
        Per split, the position of each row's value in `values`, or -1 if it has none.
    parts : list of Attribute
        Of an interaction: the attributes that it combines.
    is_class : bool
        Whether it is the class of the images, as the labels or the data set have it.
    """

    name: str
    values: list[str]
    codes: dict[str, Int64]
    parts: list[Attribute] = field(default_factory=list)
    is_class: bool = False


@dataclass(frozen=True)
class Annotations:
    """The attributes of a file's rows, with their provenance.

    Attributes
    ----------
    attributes : list of Attribute
    source : str
        What the history records: a data set, ``table`` or ``labels``.
    inputs : dict of str to str
        The digest of the table, if it is a file.
    """

    attributes: list[Attribute]
    source: str
    inputs: dict[str, str] = field(default_factory=dict)


def read_annotations(
    file: FeatureFile, table: str | None = None, columns: Sequence[str] = ()
) -> Annotations:
    """Read attributes for the rows of a file.

    Parameters
    ----------
    file : FeatureFile
        Of kind images, logits or result, with splits.
    table : str, optional
        A .csv or .tsv file, or ``shapes``. Unless the table has an attribute `class`, the labels of
        the file are added as `class`. Without a table, `class` is the only attribute.
    columns : sequence of str, optional
        Attributes to use, all by default; ``a*b`` is the interaction of two.

    Raises
    ------
    ClipkitError
        If the table is malformed, or lacks a row of the file or has it twice. If there is no table
        and the file has no labels.
    UsageError
        If there is no such table or column.
    """
    inputs = {}
    if table is None:
        source, attributes = "labels", []
    elif Path(table).suffix.lower() in TABLES:
        data = files.read_bytes(table)
        inputs["attributes"] = files.digest(data)
        source, attributes = "table", _number_all(_match(file, table, data))
    else:
        source, attributes = table, _number_all(_bundled(file, table))
        attributes[-1] = replace(attributes[-1], is_class=True)
    if all(attribute.name != CLASS for attribute in attributes):
        attributes += _labels(file)
    if not attributes:
        raise ClipkitError(
            f"{file.display_name}: expected labels, got none",
            "name a table of attributes with --attributes",
        )
    by_name = {attribute.name: attribute for attribute in attributes}
    where = table or file.display_name
    chosen = [_choose(by_name, name, where) for name in dict.fromkeys(columns)]
    return Annotations(chosen or attributes, source, inputs)


def read_attribute(file: FeatureFile, table: str, column: str | None = None) -> Annotations:
    """Read one attribute: the named one, or the only one of a table besides the file's labels.

    Raises
    ------
    UsageError
        If there is no such column, or the table has several attributes and none is named.
    """
    annotations = read_annotations(file, table, [column] if column else ())
    attributes = annotations.attributes
    others = [attribute for attribute in attributes if attribute.name != CLASS] or attributes
    if len(others) > 1:
        names = ", ".join(attribute.name for attribute in others)
        raise UsageError(f"{table}: expected one attribute, got {names}", "choose with --column")
    return replace(annotations, attributes=others)


def _choose(known: dict[str, Attribute], name: str, where: str) -> Attribute:
    """Return an attribute, or the interaction of two."""
    if name in known:
        return known[name]
    parts = name.split(INTERACTION)
    for part in parts:
        if part not in known:
            raise unknown(f"attribute of {where}", part, known)
    if len(parts) > 2:
        raise UsageError(f"expected an interaction of two attributes, got {name!r}")
    return _interaction(name, *(known[part] for part in parts))


def _interaction(name: str, first: Attribute, second: Attribute) -> Attribute:
    """Return the combinations of two values that occur, in the order of the values."""
    numbers = {}
    for split, a in first.codes.items():
        b = second.codes[split]
        numbers[split] = np.where((a >= 0) & (b >= 0), a * len(second.values) + b, -1)
    occurring = np.unique(np.concatenate(list(numbers.values())))
    occurring = occurring[occurring >= 0]
    codes = {}
    for split, indices in numbers.items():
        codes[split] = np.where(indices >= 0, np.searchsorted(occurring, indices), -1)
    values = []
    for number in occurring.tolist():
        a, b = divmod(number, len(second.values))
        values.append(f"{first.values[a]} {INTERACTION} {second.values[b]}")
    return Attribute(name, values, codes, [first, second])


def _labels(file: FeatureFile) -> list[Attribute]:
    codes = {}
    largest = -1
    for name, split in file.splits.items():
        codes[name] = np.full(len(split), -1)
        if split.labels is not None:
            codes[name] = split.labels
            largest = max(largest, int(split.labels.max()))
    if largest < 0:
        return []
    names = file.class_names or list(map(str, range(largest + 1)))
    return [Attribute(CLASS, names, codes, is_class=True)]


def _number_all(columns: Columns) -> list[Attribute]:
    return [_number(name, values) for name, values in columns.items()]


def _number(name: str, columns: dict[str, list[str]]) -> Attribute:
    """Assign numbers from 0 to the sorted values of a column, and -1 to empty cells."""
    values = sorted(set().union(*columns.values()) - {""})
    code_of = {value: code for code, value in enumerate(values)} | {"": -1}
    codes = {}
    for split, rows in columns.items():
        codes[split] = np.array([code_of[value] for value in rows], np.int64)
    return Attribute(name, values, codes)


def _bundled(file: FeatureFile, name: str) -> Columns:
    """Return the attributes of a bundled data set."""
    if name != "shapes":
        raise unknown(
            "table of attributes (.csv or .tsv) or data set with attributes", name, ["shapes"]
        )
    from clipkit import shapes
    from clipkit.shapes.attributes import attributes

    _check_dataset(file, name)
    columns: Columns = {}
    for split_name, split in file.splits.items():
        original = original_split(file, split_name)
        count = shapes.DEFAULT_SPLITS.get(original, 0)
        for row_id in split.ids:
            if not row_id.isdecimal() or int(row_id) >= count:
                raise _missing_row(name, split_name, row_id)
        indices = [int(row_id) for row_id in split.ids]
        for attribute, values in attributes(indices, split=original, seed=0).items():
            columns.setdefault(attribute, {})[split_name] = values.tolist()
    return columns


def _check_dataset(file: FeatureFile, name: str) -> None:
    """Refuse a file whose history names another data set."""
    names = [str(dataset.get("name")) for dataset in dataset_entries(file)]
    if not names:
        console.note(f"{file.display_name} does not say that its images are those of {name}")
    elif names[0] != name:
        raise ClipkitError(
            f"{file.display_name}: expected images of {name}, got those of {names[0][:100]}",
            "name a table of their attributes: a .csv or .tsv file",
        )


def _missing_row(table: str, split: str, row_id: str, example: str = "") -> ClipkitError:
    hint = "if nothing is known of a row, write a line with empty cells"
    if example:
        hint += f"; an id of the table is {example!r}"
    return ClipkitError(f"{table}: expected a line for {row_id!r} of {split}, got none", hint)


def _match(file: FeatureFile, table: str, data: bytes) -> Columns:
    """Return the columns of a table for the rows of a file, matched by split and id."""
    names, lines = _parse(table, data)
    keys = [names.index(name) for name in KEYS if name in names]
    line_of: dict[tuple[str, ...], list[str]] = {}
    for number, line in lines:
        key = tuple(line[column] for column in keys)
        if key in line_of:
            raise ClipkitError(
                f"{table}, line {number}: expected each row once, got {key[0]!r} again"
            )
        line_of[key] = line
    used = set()
    columns: Columns = {name: {} for name in names if name not in KEYS}
    for split_name, split in file.splits.items():
        rows = []
        for row_id in split.ids:
            key = (row_id, split_name)[: len(keys)]  # without a split, ids are of all splits
            if key not in line_of:
                example = next(iter(line_of), ("",))[0]
                raise _missing_row(table, split_name, row_id, example)
            rows.append(line_of[key])
            used.add(key)
        cells = dict(zip(names, zip(*rows, strict=True), strict=True))
        for name, values in columns.items():
            values[split_name] = list(cells[name])
    if len(line_of) > len(used):
        extra = len(line_of) - len(used)
        console.note(f"{table}: {extra:,} lines are about rows that {file.display_name} lacks")
    return columns


def _parse(table: str, data: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and each line with its number."""
    delimiter = "\t" if Path(table).suffix.lower() == ".tsv" else ","
    lines = read_rows(io.BytesIO(data), table, delimiter, quotes=delimiter == ",")
    _, header = next(lines, (0, []))
    names = list(map(str.strip, header))
    if "id" not in names or not set(names) - set(KEYS):
        got = ", ".join(names) or "nothing"
        raise ClipkitError(
            f"{table}: expected a header with id and attributes, got {got}",
            "for example: id,split,colour",
        )
    for name in names:
        if not name or names.count(name) > 1:
            problem = f"got {name!r} {names.count(name)} times" if name else "got an empty one"
            raise ClipkitError(f"{table}: expected different names of columns, {problem}")
    rows = []
    for number, cells in lines:
        if len(cells) != len(names):
            raise ClipkitError(
                f"{table}, line {number}: expected {len(names)} cells, got {len(cells)}"
            )
        rows.append((number, list(map(str.strip, cells))))
    return names, rows


def check_same_images(control: FeatureFile, images: FeatureFile, splits: Sequence[str]) -> None:
    """Refuse a control that was not made from the same images.

    Raises
    ------
    ClipkitError
        If the ids of a split differ.
    """
    for split in splits:
        if split not in control.splits or control.splits[split].ids != images.splits[split].ids:
            raise ClipkitError(
                f"{control.display_name}: expected the {split} images of {images.display_name}, "
                "got others"
            )

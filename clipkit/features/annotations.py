"""Read the attributes of a feature file's rows from a table, a data set or the file's labels.

A table is a .csv, .tsv, .jsonl or .parquet file with the columns `id`, optionally `split`, and the
attributes. An empty cell, NA, nan, None or - means that the value is not known. The data set
`shapes` has its own attributes.
"""

from __future__ import annotations

import contextlib
import io
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.base import console, files
from clipkit.base.csv_rows import is_no_value, read_objects, read_table
from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.features.formats import import_parquet
from clipkit.features.history import original_split
from clipkit.features.model import FeatureFile, Int64

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
CLASS = "class"  # the attribute that consists of the labels of a file
KEYS = ("id", "split")
INDEX = ("", "unnamed: 0", "__index_level_0__")  # how pandas writes the column of a table's index
IDS = ("id", "filename", "file_name", "file", "path", "image", "image_id", *INDEX)  # the first
NO_ATTRIBUTES = (*KEYS, "filename", "path", "")
WHOLE = re.compile(r"-?[0-9]+\.0")
MAX_NUMBERS = 20  # values of a column of numbers that are categories
MOST = 0.9  # of the values of a column of numbers are numbers
INTERACTION = "*"

Columns = dict[str, dict[str, list[str]]]  # attribute -> split -> value of each row, or ""
Key = tuple[str, ...]  # the id of a row and, if the table has splits, its split


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
    file: FeatureFile,
    table: str | None = None,
    columns: Sequence[str] = (),
    *,
    categories: bool = True,
) -> Annotations:
    """Read attributes for the rows of a file.

    Parameters
    ----------
    file : FeatureFile
        Of kind images, logits or result, with splits.
    table : str, optional
        A file that ends in one of `TABLES`, or ``shapes``. Unless the table has an attribute
        `class`, the labels of the file are added as `class`. Without a table, `class` is the only
        attribute.
    columns : sequence of str, optional
        Attributes to use, all by default; ``a*b`` is the interaction of two.
    categories : bool
        Whether a column of more than 20 numbers is refused or, if all columns are used, left out.

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
    elif Path(table).suffix.lower() in TABLES or Path(table).is_file():
        data = files.read_bytes(table)
        inputs["attributes"] = files.digest(data)
        source, attributes = "table", _number_all(_match(file, table, data))
        if categories:
            attributes = _leave_numbers_out(table, attributes, columns)
    else:
        source, attributes = table, _number_all(_bundled(file, table))
        attributes[-1] = replace(attributes[-1], is_class=True)
    if all(attribute.name != CLASS for attribute in attributes):
        attributes += _labels(file)
    if not attributes:
        raise ClipkitError(
            f"{file.display_name}: expected labels, got none",
            "name a table of attributes with --table",
        )
    by_name = {attribute.name: attribute for attribute in attributes}
    where = table or file.display_name
    chosen = [_choose(by_name, name, where) for name in dict.fromkeys(columns)] or attributes
    for attribute in chosen:
        if source == "table" and not attribute.is_class:
            console.note_spellings(f"{table}: {attribute.name}", attribute.values)
    return Annotations(chosen, source, inputs)


def read_attribute(file: FeatureFile, table: str, column: str | None = None) -> Annotations:
    """Read one attribute: the named one, or the only one of a table besides the file's labels."""
    annotations = read_annotations(file, table, [column] if column else ())
    attributes = annotations.attributes
    others = [attribute for attribute in attributes if attribute.name != CLASS] or attributes
    if len(others) > 1:
        names = ", ".join(attribute.name for attribute in others)
        raise UsageError(f"{table}: expected one attribute, got {names}", "choose with --attribute")
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


def _leave_numbers_out(
    table: str, attributes: list[Attribute], columns: Sequence[str]
) -> list[Attribute]:
    """Leave out columns of numbers that are no categories; refuse the ones that are asked for."""
    numeric = [attribute for attribute in attributes if has_many_numbers(attribute.values)]
    names = [attribute.name for attribute in numeric]
    asked = {part for column in columns for part in (column, *column.split(INTERACTION))}
    if len(numeric) == len(attributes) and not columns:
        asked.update(names)
    hint = f"bin them into at most {MAX_NUMBERS} named ranges, such as young and old"
    for attribute in numeric:
        if attribute.name in asked:
            got = f"{len(attribute.values):,} numbers"
            raise ClipkitError(f"{table}: expected categories in {attribute.name}, got {got}", hint)
    if numeric and not columns:
        console.note(f"{table}: left out the numbers of {', '.join(names)}; hint: {hint}")
    return [attribute for attribute in attributes if attribute.name not in names]


def has_many_numbers(values: Sequence[str]) -> bool:
    """Return True if nearly all of many values are numbers; a few others may be no value."""
    return sum(map(_is_number, values)) > max(MAX_NUMBERS, MOST * len(values))


def _is_number(value: str) -> bool:
    with contextlib.suppress(ValueError):
        float(value.replace(",", "."))
        return True
    return False


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
            f"table of attributes ({' '.join(TABLES)}) or data set with attributes",
            name,
            ["shapes"],
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
    """Refuse a file if its history names another data set."""
    names = [str(dataset.get("name")) for dataset in file.history.datasets]
    if not names:
        console.note(f"{file.display_name} does not say that its images are those of {name}")
    elif names[0] != name:
        raise ClipkitError(
            f"{file.display_name}: expected images of {name}, got those of {names[0][:100]}",
            f"name a table of their attributes: a {', '.join(TABLES)} file",
        )


def _missing_row(table: str, split: str, row_id: str) -> ClipkitError:
    return ClipkitError(f"{table}: expected a line for {row_id!r} of {split}, got none")


def _match(file: FeatureFile, table: str, data: bytes) -> Columns:
    """Return the columns of a table for the rows of a file, matched by split and id."""
    names, lines = _parse(table, data)
    keys = [names.index(name) for name in KEYS if name in names]
    line_of: dict[Key, Sequence[str]] = {}
    for number, line in lines:
        key = tuple(line[column] for column in keys)
        if key in line_of:
            raise ClipkitError(
                f"{table}, line {number}: expected each row once, got {key[0]!r} again",
                "if two folders have a file of this name, write the folder, too: cat/0000.jpg",
            )
        line_of[key] = line
    if not line_of:
        raise ClipkitError(f"{table}: expected a line for each image, got none")
    keys_of: dict[str, list[Key]] = {}  # without a split, ids are of all splits
    for split_name, split in file.splits.items():
        keys_of[split_name] = [(row_id, split_name)[: len(keys)] for row_id in split.ids]
    wanted = dict.fromkeys(key for split_keys in keys_of.values() for key in split_keys)
    match_of = _match_ids(table, wanted, line_of)
    columns: Columns = {name: {} for name in names if name not in NO_ATTRIBUTES}
    for split_name, split_keys in keys_of.items():
        rows = [line_of[match_of[key]] for key in split_keys]
        cells = dict(zip(names, zip(*rows, strict=True), strict=True))
        for name, values in columns.items():
            values[split_name] = list(cells[name])
    extra = len(line_of) - len(match_of)
    if extra and not file.is_result:  # which has the scored rows alone
        unused = console.count(extra, "line")
        console.note(f"{table}: {unused} without an image in {file.display_name}")
    _clear(table, columns)
    return columns


def _match_ids(table: str, wanted: Iterable[Key], known: Iterable[Key]) -> dict[Key, Key]:
    """Return the table's key of each row; folders and endings may be left out of unique ids."""
    wanted, known = list(wanted), list(known)
    best: dict[Key, Key] = {}
    for left_out, form in _id_forms(max(key[0].count("/") for key in wanted + known)):
        line_of = {(form(key[0]), *key[1:]): key for key in known}
        row_of = {(form(key[0]), *key[1:]): key for key in wanted}
        if len(line_of) < len(known) or len(row_of) < len(wanted):
            continue  # not unique
        matched = {key: line_of[short] for short, key in row_of.items() if short in line_of}
        if len(matched) == len(wanted):
            if left_out:
                console.note(f"{table}: matched the ids without {left_out}")
            return matched
        best = max(best, matched, key=len)
    missing = [key for key in wanted if key not in best]
    unused = set(known).difference(best.values())
    example = next((key for key in known if key in unused), known[0])
    ours, theirs = (" of ".join(map(repr, key)) for key in (missing[0], example))
    verb = "has" if len(missing) == 1 else "have"
    hint = "if nothing is known of an image, write a line with empty cells"
    if not best:
        hint = "write the ids as the images have them; folders and endings may be left out"
    raise ClipkitError(
        f"{len(missing):,} of {len(wanted):,} images {verb} no line in {table}. Ids there look "
        f"like {theirs}, those of the images like {ours}",
        hint,
    )


def _id_forms(folders: int) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Yield what an id may lack on one of the two sides, and a function for the rest of it."""

    def shorten(name: str, parts: int, endings: str) -> str:
        name = "/".join(name.split("/")[-parts:])
        return posixpath.splitext(name)[0] if endings else name

    for endings in ("", "endings"):
        for parts in (0, *range(min(folders, 8), 0, -1)):  # each is a pass over the ids
            left_out = filter(None, ["leading folders" if parts else "", endings])
            yield " and ".join(left_out), partial(shorten, parts=parts, endings=endings)


def _clear(table: str, columns: Columns) -> None:
    """Empty the cells that stand for no value, and drop the .0 of columns of whole numbers."""
    cleared = []
    for name, values_of in columns.items():
        for values in values_of.values():
            for row, value in enumerate(values):
                if value and is_no_value(value):
                    cleared.append(f"{value!r} of {name}")
                    values[row] = ""
        if all(not v or WHOLE.fullmatch(v) for values in values_of.values() for v in values):
            for values in values_of.values():
                values[:] = [value.removesuffix(".0") for value in values]
    if cleared:
        console.note(f"{table}: {len(cleared):,} cells, first {cleared[0]}, are read as no value")


def _parse(table: str, data: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, with the column of ids as `id`, and each line with its number."""
    ending = Path(table).suffix.lower()
    if ending == ".parquet":
        names, lines = import_parquet().read_cells(Path(table), table)
    elif ending == ".jsonl":
        objects = list(read_objects(io.BytesIO(data), table, '{"id": "a.jpg", "colour": "red"}'))
        names = list(dict.fromkeys(name for _, row in objects for name in row))
        lines = [(number, list(map(row.get, names))) for number, row in objects]
    else:
        if data.startswith(b"PK\3\4"):
            raise ClipkitError(f"{table}: expected text, got a spreadsheet", "save it as CSV UTF-8")
        records = read_table(data, table, ending, quotes=False)
        _, names = next(records, (0, []))
        lines = list(records)
    names = _name_ids(list(map(str.strip, names)))
    if "id" not in names or not set(names).difference(NO_ATTRIBUTES):
        got = ", ".join(names) or "nothing"
        raise ClipkitError(
            f"{table}: expected a header with id and attributes, got {got}",
            "for example: id,colour; the column of ids is called id, filename or path",
        )
    for number, name in enumerate(names):
        if (number and not name) or names.count(name) > 1:
            problem = f"got {name!r} {names.count(name)} times" if name else "got an empty one"
            raise ClipkitError(f"{table}: expected different names of columns, {problem}")
    rows = []
    for number, cells in lines:
        if len(cells) != len(names):
            raise ClipkitError(
                f"{table}, line {number}: expected {len(names)} cells, got {len(cells)}"
            )
        rows.append((number, [_as_text(cell, f"{table}, line {number}") for cell in cells]))
    return names, rows


def _name_ids(names: list[str]) -> list[str]:
    """Call the column of ids `id`, and the column of an index that has no ids ""."""
    lower = [name.lower() for name in names]
    candidates = [lower.index(name) for name in IDS if name in lower]
    if lower and lower[0] in INDEX:
        names[0] = ""
    if candidates:
        names[candidates[0]] = "id"
    return names


def _as_text(cell: Any, where: str) -> str:
    """Return a cell of a table as text: whole numbers without .0, and "" for none."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, (list, dict)):
        raise ClipkitError(f"{where}: expected texts and numbers, got {str(cell)[:40]}")
    return str(cell).strip()

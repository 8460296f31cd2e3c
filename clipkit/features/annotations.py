"""Read the attributes of a feature file's rows from a table, a data set or the file's labels.

A table is a .csv, .tsv, .jsonl or .parquet file with the columns `id`, optionally `split`, and the
attributes. An empty cell, NA, nan, None or - means that the value is not known. A column of lists,
which a .jsonl file may have, becomes a column of 1 and 0 for each of their elements. The data set
`shapes` has its own attributes.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipkit.base import console, files
from clipkit.base.csv_rows import is_no_value, read_objects, read_table
from clipkit.base.errors import ClipkitError, UsageError, shorten, unknown
from clipkit.features import matching
from clipkit.features.endings import import_parquet
from clipkit.features.model import FeatureFile, Floats, Int64
from clipkit.features.provenance import original_splits

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
CLASS = "class"  # the attribute that consists of the labels of a file
KEYS = ("id", "split")
INDEX = ("", "unnamed: 0", "__index_level_0__")  # how pandas writes the column of a table's index
IDS = ("id", "filename", "file_name", "file", "path", "image", "image_id", *INDEX)  # the first
NO_ATTRIBUTES = (*KEYS, "filename", "path", "")
WHOLE = re.compile(r"-?[0-9]+\.0")
MAX_NUMBERS = 20  # values of a column of numbers that are categories
MAX_ELEMENTS = 1000  # of the lists in a column
MOST = 0.9  # of the values of a column of numbers are numbers
INTERACTION = "*"

Columns = dict[str, list[str]]  # attribute -> value of each row of all splits, or ""
Key = tuple[str, ...]  # the id of a row and, if the table has splits, its split


@dataclass(frozen=True)
class Attribute:
    """An attribute of a file's rows."""

    name: str
    values: list[str]  # the K values that occur, sorted; of `class`, all class names
    codes: dict[str, Int64]  # split -> place (N,) of each row's value in `values`, -1 for none
    parts: list[Attribute] = field(default_factory=list)  # that an interaction combines
    is_class: bool = False  # whether the labels or the data set say that it is the class
    is_number: bool = False  # whether the values are numbers, and no categories

    def numbers(self) -> Floats:
        """Return the values (K,) as numbers."""
        return np.array([float(value.replace(",", ".")) for value in self.values])


@dataclass(frozen=True)
class Annotations:
    """The attributes of a file's rows, with their provenance."""

    attributes: list[Attribute]
    source: str  # what the history records: a data set, `table` or `labels`
    inputs: dict[str, str] = field(default_factory=dict)  # the digest of the table, if it is a file


def read_annotations(
    file: FeatureFile,
    table: str | None = None,
    columns: Sequence[str] = (),
    *,
    categories: bool = True,
    numbers: Literal["", "alone", "many", "all"] = "",
    splits: Sequence[str] | None = None,
    common: bool = False,
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
    numbers : str
        `alone` reads columns of numbers alone; `many` and `all` mark those of more than 20 or of
        three numbers beside the categories. With `alone` and `all`, ``shapes`` has no ranges.
    splits : sequence of str, optional
        The splits that are used, all by default. A row of another split may have no line.
    common : bool
        Whether rows may have no line in the table: then they have no values.

    Raises
    ------
    ClipkitError
        If the table is malformed, has a row twice or, unless `common`, lacks one. If there is no
        table and the file has no labels.
    UsageError
        If there is no such table or column.
    """
    found = Annotations([], "labels")
    if table is not None and _is_file(table):
        found = _read_file(file, table, numbers, splits, common)
        found = replace(found, attributes=_of_kind(table, found, columns, categories, numbers))
    elif table is not None:
        found = _read_bundled(file, table, numbers)
    known = {attribute.name: attribute for attribute in found.attributes}
    if CLASS not in known and numbers != "alone":
        known |= _labels(file)
    _check_any(file, known)
    where = table or file.display_name
    chosen = [_choose(known, name, where) for name in dict.fromkeys(columns or known)]
    if found.source == "table":
        _note_spellings(where, chosen)
    return replace(found, attributes=chosen)


def attribute_names(table: str) -> list[str]:
    """Return the names of the attributes that a table or a data set has, without their values."""
    if not _is_file(table):
        from clipkit.shapes import attributes as described

        return list(described.attributes([0], split="train", seed=0)) if table == "shapes" else []
    names, _ = _parse(table, files.read_bytes(table))
    return [name for name in names if name not in NO_ATTRIBUTES]


def _note_spellings(table: str, attributes: Iterable[Attribute]) -> None:
    for attribute in attributes:
        if not attribute.is_class:
            console.note_spellings(f"{table}: {attribute.name}", attribute.values)


def _check_any(file: FeatureFile, known: Mapping[str, Attribute]) -> None:
    if not known:
        raise ClipkitError(
            f"{file.display_name}: expected labels, got none",
            "name a table of attributes with --table",
        )


def _read_file(
    file: FeatureFile, table: str, numbers: str, splits: Sequence[str] | None, common: bool
) -> Annotations:
    """Read all columns of a table in a file."""
    data = files.read_bytes(table)
    columns = _match(file, table, data, splits or list(file.splits), common)
    attributes = _mark_numbers(_number_all(file, columns), numbers)
    return Annotations(attributes, "table", {"attributes": files.digest(data)})


def _read_bundled(file: FeatureFile, table: str, numbers: str) -> Annotations:
    """Read all columns of a bundled table, the last of which has the classes."""
    attributes = _mark_numbers(_number_all(file, _bundled(file, table, numbers)), numbers)
    if numbers != "alone":
        attributes[-1] = replace(attributes[-1], is_class=True)
    return Annotations(attributes, table)


def _of_kind(
    table: str, found: Annotations, columns: Sequence[str], categories: bool, numbers: str
) -> list[Attribute]:
    """Return the columns that are numbers, or those that are categories, or all."""
    if numbers == "alone":
        return _numbers_alone(table, found.attributes, columns)
    if categories:
        return _leave_numbers_out(table, found.attributes, columns)
    return found.attributes


def read_attribute(
    file: FeatureFile,
    table: str | None,
    column: str | None = None,
    *,
    categories: bool = True,
    splits: Sequence[str] | None = None,
    common: bool = False,
) -> Annotations:
    """Read one attribute: the named one, or the only one of a table besides the file's labels."""
    columns = [column] if column else ()
    annotations = read_annotations(
        file, table, columns, categories=categories, splits=splits, common=common
    )
    attributes = annotations.attributes
    if len(attributes) > 1:
        attributes = [attribute for attribute in attributes if attribute.name != CLASS]
    if len(attributes) > 1:
        names = ", ".join(attribute.name for attribute in attributes)
        message = f"{table}: expected one attribute, got {shorten(names, 200)}"
        raise UsageError(message, "choose with --attribute")
    return replace(annotations, attributes=attributes)


def _choose(known: dict[str, Attribute], name: str, where: str) -> Attribute:
    """Return an attribute, or the interaction of two."""
    if name in known:
        return known[name]
    parts = name.split(INTERACTION)
    for part in parts:
        if part not in known:
            raise unknown(f"attribute of {where}", part, known)
        if known[part].is_number:
            raise UsageError(f"expected an interaction of categories, got the numbers of {part}")
    if len(parts) > 2:
        raise UsageError(f"expected an interaction of two attributes, got {name!r}")
    return _interaction(name, *(known[part] for part in parts))


def _interaction(name: str, first: Attribute, second: Attribute) -> Attribute:
    """Return the combinations of two values that occur, in the order of the values."""
    numbers = {}
    for split, a in first.codes.items():
        b = second.codes[split]
        numbers[split] = np.where((a >= 0) & (b >= 0), a * len(second.values) + b, -1)
    occurring = np.unique(np.concatenate([[-1], *numbers.values()]))
    codes = {}
    for split, indices in numbers.items():
        codes[split] = np.searchsorted(occurring, indices) - 1  # -1 stays
    values = []
    for number in occurring[1:].tolist():
        i, j = divmod(number, len(second.values))
        values.append(f"{first.values[i]} {INTERACTION} {second.values[j]}")
    return Attribute(name, values, codes, [first, second])


def _labels(file: FeatureFile) -> dict[str, Attribute]:
    """Return the attribute `class`, or {} if no row has a label."""
    codes = {}
    largest = -1
    for name, split in file.splits.items():
        codes[name] = np.full(len(split), -1)
        if split.labels is not None:
            codes[name] = split.labels
        largest = max(largest, int(codes[name].max()))
    if largest < 0:
        return {}
    names = file.class_names or list(map(str, range(largest + 1)))
    return {CLASS: Attribute(CLASS, names, codes, is_class=True)}


def _mark_numbers(attributes: list[Attribute], numbers: str) -> list[Attribute]:
    """Mark the columns that have enough values, all of which are numbers."""
    least = {"many": MAX_NUMBERS + 1, "all": 3}.get(numbers, math.inf)
    marked = []
    for attribute in attributes:
        is_number = len(attribute.values) >= least and all(map(_is_number, attribute.values))
        marked.append(replace(attribute, is_number=is_number))
    return marked


def _is_file(table: str) -> bool:
    """Return whether a table is a file: one of another name is bundled."""
    return Path(table).suffix.lower() in TABLES or Path(table).is_file()


def _leave_numbers_out(
    table: str, attributes: list[Attribute], columns: Sequence[str]
) -> list[Attribute]:
    """Leave out columns of numbers that are no categories; refuse the ones that are asked for."""
    numeric: dict[str, int] = {}
    for attribute in attributes:
        if not attribute.is_number and has_many_numbers(attribute.values):
            numeric[attribute.name] = len(attribute.values)
    named = {*columns, *INTERACTION.join(columns).split(INTERACTION)}
    if not columns and len(numeric) == len(attributes):
        named.update(numeric)
    hint = (
        f"bin them into at most {MAX_NUMBERS} named ranges, such as young and old, or measure them "
        "with: clipkit attributes --metric r2"
    )
    for name, count in numeric.items():
        if name in named:
            got = f"{count:,} numbers"
            raise ClipkitError(f"{table}: expected categories in {name}, got {got}", hint)
    if numeric and not columns:
        console.note(f"{table}: left out the numbers of {', '.join(numeric)}; hint: {hint}")
    return [attribute for attribute in attributes if attribute.name not in numeric]


def _numbers_alone(
    table: str, attributes: list[Attribute], columns: Sequence[str]
) -> list[Attribute]:
    """Return the columns of three numbers or more; refuse others if they are asked for."""
    found = []
    for attribute in attributes:
        count = len(attribute.values)
        others = list(itertools.filterfalse(_is_number, attribute.values))
        if not others and count > 2:
            found.append(attribute)
            continue
        got = f"{count} values"
        if others:
            got = repr(shorten(others[0], 40))
        if attribute.name in columns:
            raise ClipkitError(
                f"{table}: expected numbers in {attribute.name}, got {got}",
                "--metric recall measures categories, and auroc and ap measure columns of 0 and 1",
            )
        if 0 < len(others) < count / 2:
            console.note(f"{table}: left out {attribute.name}: expected numbers, got {got}")
    if not found:
        raise ClipkitError(f"{table}: expected columns of numbers, got none")
    return found


def has_many_numbers(values: Sequence[str]) -> bool:
    """Return True if nearly all of many values are numbers; a few others may be no value."""
    return sum(map(_is_number, values)) > max(MAX_NUMBERS, MOST * len(values))


def _is_number(value: str) -> bool:
    with contextlib.suppress(ValueError):
        return math.isfinite(float(value.replace(",", ".")))
    return False


def _number_all(file: FeatureFile, columns: Columns) -> list[Attribute]:
    """Assign numbers from 0 to the sorted values of each column, and -1 to empty cells."""
    ends = np.cumsum(list(map(len, file.splits.values())))
    attributes = []
    for name, cells in columns.items():
        values = sorted(set(cells) - {""})
        code_of = dict(zip(["", *values], range(-1, len(values)), strict=True))
        codes = np.array(list(map(code_of.get, cells)), np.int64)
        of_split = dict(zip(file.splits, np.split(codes, ends[:-1]), strict=True))
        attributes.append(Attribute(name, values, of_split))
    return attributes


def _bundled(file: FeatureFile, name: str, numbers: str) -> Columns:
    """Return the attributes of a bundled data set."""
    if name != "shapes":
        what = f"table of attributes ({' '.join(TABLES)}) or data set with attributes"
        raise unknown(what, name, ["shapes"])
    _check_dataset(file, name)
    columns: Columns = {}
    for split_name, split in file.splits.items():
        parts = split.parts or [split_name] * len(split)
        of_split: dict[str, list[str]] = {}
        for part, rows in itertools.groupby(range(len(split)), parts.__getitem__):
            ids = [split.ids[row] for row in rows]
            for attribute, values in _of_shapes(file, part, ids, numbers).items():
                of_split.setdefault(attribute, []).extend(map(str, values))
        for attribute, values in of_split.items():
            columns.setdefault(attribute, []).extend(values)
    return columns


def _of_shapes(file: FeatureFile, split: str, ids: list[str], numbers: str) -> dict[str, list[Any]]:
    """Return the attributes of images of `shapes`, whose ids are their numbers in a split."""
    from clipkit import shapes
    from clipkit.shapes import attributes as described

    originals = original_splits(file, split)
    if len(originals) > 1:
        got = ", ".join(originals)
        raise ClipkitError(f"shapes: expected {split} to be of one split of shapes, got {got}")
    count = shapes.DEFAULT_SPLITS.get(originals[0], 0)
    for row_id in ids:
        if not row_id.isdecimal() or int(row_id) >= count:
            raise ClipkitError(f"shapes: expected a line for {row_id!r} of {split}, got none")
    indices = list(map(int, ids))
    read: dict[str, Any] = {}
    if numbers != "alone":
        read |= described.attributes(indices, split=originals[0], seed=0)
    if numbers in ("alone", "all"):
        read |= described.numbers(indices, split=originals[0], seed=0)
    return {attribute: values.tolist() for attribute, values in read.items()}


def _check_dataset(file: FeatureFile, name: str) -> None:
    """Refuse a file if its history names another data set."""
    names = [str(dataset.get("name")) for dataset in file.history.datasets]
    if not names:
        console.note(f"{file.display_name} does not say that its images are those of {name}")
    elif names[0] != name:
        got = f"those of {shorten(names[0], 100)}"
        raise ClipkitError(
            f"{file.display_name}: expected images of {name}, got {got}",
            f"name a table of their attributes: a {', '.join(TABLES)} file",
        )


def _match(
    file: FeatureFile, table: str, data: bytes, splits: Sequence[str], common: bool
) -> Columns:
    """Return the columns of a table for the rows of a file, matched by split and id.

    Rows of `splits` need a line unless `common`. A row without a line has empty cells.
    """
    names, lines = _parse(table, data)
    places = [names.index(name) for name in KEYS if name in names]
    line_of = _lines_by_key(table, lines, places)
    cells = [*line_of.values(), [""] * len(names)]  # the last is for rows without a line
    found = _find_lines(file, table, list(line_of), splits, common)
    columns: Columns = {}
    for place, name in enumerate(names):
        if name not in NO_ATTRIBUTES:
            columns[name] = [cells[row][place] for row in found]
    extra = len(line_of) - len(set(found) - {-1})
    if extra and not file.is_result:  # which has the scored rows alone
        unused = console.count(extra, "line")
        console.note(f"{table}: {unused} without an image in {file.display_name}")
    _clear(table, columns)
    return columns


def _find_lines(
    file: FeatureFile, table: str, keys: Sequence[Key], splits: Sequence[str], common: bool
) -> list[int]:
    """Return the place of each row's line among the keys of a table; -1 for none."""
    found: list[int] = []
    rows: list[Key] = []
    is_needed: list[bool] = []
    rules: dict[str, None] = {}
    for name, split in file.splits.items():
        parts = split.parts or [name] * len(split)
        for part, group in itertools.groupby(range(len(split)), parts.__getitem__):
            ids = [split.ids[row] for row in group]
            lines = _lines_of_split(file, part, keys)
            places, rule = matching.find_ids(ids, [keys[line][0] for line in lines])
            rules[rule] = None
            found += np.array([*lines, -1])[places].tolist()  # -1 is the last
            rows += [(row_id, part)[: len(keys[0])] for row_id in ids]
            is_needed += [name in splits] * len(ids)
    needed = np.flatnonzero(is_needed)
    of_needed = np.array(found, np.int64)[needed]
    images = _as_rows([rows[row] for row in needed.tolist()], "images", file.display_name)
    rule = " or ".join(filter(None, rules))
    matching.note_rule(images, matching.Found(of_needed, rule))
    lines_of_table = _as_rows(keys, "lines", table)
    matching.check_partners(images, lines_of_table, of_needed, "line", common)
    return found


def _as_rows(keys: Sequence[Key], noun: str, where: str) -> matching.Rows:
    """Return rows to match; a key has an id and, if the table has splits, a split."""
    ids = [key[0] for key in keys]
    return matching.Rows(ids, noun, where, splits=[key[1] for key in keys if len(key) > 1])


def _lines_of_split(file: FeatureFile, split: str, keys: Sequence[Key]) -> list[int]:
    """Return the places of the keys of a table that may be of rows of a split."""
    if len(keys[0]) == 1:  # without splits, ids are of all
        return list(range(len(keys)))
    names = [split]
    if all(key[1] != split for key in keys):  # rows of a split that was divided, or of several
        names = original_splits(file, split)
    return [place for place, key in enumerate(keys) if key[1] in names]


def _lines_by_key(
    table: str, lines: Iterable[tuple[int, list[str]]], places: Sequence[int]
) -> dict[Key, Sequence[str]]:
    """Return each line by its cells at some places."""
    line_of: dict[Key, Sequence[str]] = {}
    for number, line in lines:
        key = tuple(line[place] for place in places)
        if key in line_of:
            raise ClipkitError(
                f"{table}, line {number}: expected each row once, got {key[0]!r} again",
                "if two folders have a file of this name, write the folder, too: cat/0000.jpg",
            )
        line_of[key] = line
    if not line_of:
        raise ClipkitError(f"{table}: expected a line for each image, got none")
    return line_of


def _clear(table: str, columns: Columns) -> None:
    """Empty the cells that stand for no value, and drop the .0 of columns of whole numbers."""
    cleared = []
    for name, values in columns.items():
        distinct = set(values)
        empty = set(filter(is_no_value, distinct)) - {""}
        if empty:
            for row, value in enumerate(values):
                if value in empty:
                    cleared.append(f"{value!r} of {name}")
                    values[row] = ""
        if all(map(WHOLE.fullmatch, distinct - empty - {""})):
            columns[name] = [value.removesuffix(".0") for value in values]
    if cleared:
        console.note(f"{table}: {len(cleared):,} cells, first {cleared[0]}, are read as no value")


def _parse(table: str, data: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, with the column of ids as `id`, and each line with its number."""
    names, lines = _read_lines(table, data)
    names = _name_ids([name.strip() for name in names])
    _check_names(table, names)
    rows = []
    for number, cells in lines:
        try:
            texts = list(map(str.strip, cells))
        except TypeError:  # not of a text table
            where = f"{table}, line {number}"
            texts = [_as_text(cell, where) for cell in cells]
        rows.append((number, texts))
    return names, rows


def _read_lines(table: str, data: bytes) -> tuple[list[str], Iterable[tuple[int, list[Any]]]]:
    """Return the names of the columns, and each line with its number."""
    ending = Path(table).suffix.lower()
    if ending in (".parquet", ".jsonl"):
        objects = list(_objects(table, data, ending))
        _spread_lists(table, objects)
        seen: dict[str, Any] = {}
        for _, row in objects:
            seen |= row
        names = list(seen)
        return names, [(number, list(map(row.get, names))) for number, row in objects]
    if data.startswith(b"PK\3\4"):
        raise ClipkitError(f"{table}: expected text, got a spreadsheet", "save it as CSV UTF-8")
    text_table = read_table(data, table, ending)
    return text_table.columns, text_table.lines


def _check_names(table: str, names: list[str]) -> None:
    """Refuse a header without ids or attributes, or with a name that is empty or there twice."""
    if "id" not in names or not set(names).difference(NO_ATTRIBUTES):
        got = ", ".join(names) or "nothing"
        raise ClipkitError(
            f"{table}: expected a header with id and attributes, got {got}",
            "for example: id,colour; the column of ids is called id, filename or path",
        )
    for number, name in enumerate(names):
        if (number and not name) or names.count(name) > 1:
            got = "an empty one"
            if name:
                got = f"{name!r} {names.count(name)} times"
            raise ClipkitError(f"{table}: expected different names of columns, got {got}")


def _objects(table: str, data: bytes, ending: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table whose cells may be lists, by the names of the columns."""
    if ending == ".jsonl":
        yield from read_objects(data, table, '{"id": "a.jpg", "colour": "red"}')
        return
    names, lines = import_parquet().read_cells(Path(table), table)
    for number, cells in lines:
        yield number, dict(zip(names, cells, strict=True))


def _spread_lists(table: str, objects: list[tuple[int, dict[str, Any]]]) -> None:
    """Replace each list by 1 or 0 for every element that the column has: `column: element`.

    A row without the list has none of these values: they are not known.
    """
    for name, elements in _elements(table, objects).items():
        if len(elements) > MAX_ELEMENTS:
            raise ClipkitError(
                f"{table}: expected at most {MAX_ELEMENTS:,} different elements in the lists of "
                f"{name}, got {len(elements):,}"
            )
        for number, row in objects:
            cell = row.pop(name, None)
            if cell is None:
                continue
            if not isinstance(cell, list):
                got = shorten(cell, 40)
                raise ClipkitError(f"{table}, line {number}: expected a list in {name}, got {got}")
            present = {_as_text(element, table) for element in cell}
            for element in elements:
                row[f"{name}: {element}"] = str(int(element in present))


def _elements(table: str, objects: list[tuple[int, dict[str, Any]]]) -> dict[str, list[str]]:
    """Return the elements of each column that holds a list, sorted."""
    elements: dict[str, set[str]] = {}
    for number, row in objects:
        for name, cell in row.items():
            if isinstance(cell, list):
                texts = {_as_text(element, f"{table}, line {number}") for element in cell}
                elements.setdefault(name, set()).update(texts)
    return {name: sorted(known) for name, known in elements.items()}


def _name_ids(names: list[str]) -> list[str]:
    """Call the column of ids `id`, and the column of an index that has no ids ""."""
    lower = list(map(str.lower, names))
    if lower and lower[0] in INDEX:
        names[0] = ""
    for name in IDS:
        if name in lower:
            names[lower.index(name)] = "id"
            break
    return names


def _as_text(cell: Any, where: str) -> str:
    """Return a cell of a table as text: whole numbers without .0, and "" for none."""
    if isinstance(cell, str):  # nearly always
        return cell.strip()
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, (list, dict)):
        raise ClipkitError(f"{where}: expected texts and numbers, got {shorten(cell, 40)}")
    return str(cell).strip()

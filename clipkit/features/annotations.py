"""Read the attributes of a feature file's rows from a table, a data set or the file's labels.

A table is a .csv, .tsv, .jsonl or .parquet file, a dict of columns or a DataFrame. It has the
columns `id`, optionally `split`, and the attributes. An empty cell, NA, nan, None or - means that
the value is not known. A column of lists, which a .jsonl file may have, becomes a column of 1 and 0
for each of their elements. The data set `shapes` has its own attributes.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from clipkit.base import console, files, suggestions
from clipkit.base.csv_rows import (
    MAX_NUMBERS,
    Line,
    check_different,
    check_width,
    has_many_numbers,
    is_no_value,
    is_numeric,
    read_objects,
    read_table,
)
from clipkit.base.errors import ClipkitError, UsageError, shorten, unknown
from clipkit.base.matrices import Floats, Int64
from clipkit.base.names import abridged, find_repeat, positions
from clipkit.base.options import split_words
from clipkit.features import matching
from clipkit.features.arrays import missing_labels
from clipkit.features.attribute_tables import OpenTable, Table, open_table
from clipkit.features.endings import ATTRIBUTE_TABLES, import_parquet
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import original_splits

CLASS = "class"  # the attribute that consists of the labels of a file
KEYS = ("id", "split")
INDEX = ("", "unnamed: 0", "__index_level_0__")  # how pandas writes the column of a table's index
IDS = ("id", "filename", "file_name", "file", "path", "image", "image_id", *INDEX)  # the first
NO_ATTRIBUTES = (*KEYS, "filename", "path", "")
WHOLE = re.compile(r"-?[0-9]+\.0")
MAX_CELLS = 2**26  # of rows that name their own columns: 512 MiB as references to texts
INTERACTION = "*"
BLOCK_LINES = 256  # of a text file, divided into columns at once; more take longer

Columns = dict[str, list[str]]  # attribute -> the value of each row or line, or ""
Block = tuple[Sequence[int], Sequence[Sequence[str]]]  # the numbers of lines, and their columns
TABLE_HINT = "name a table of the images: --table TABLE, or --table shapes for the bundled ones"


@dataclass(frozen=True)
class Lines:
    """The lines of a table, without its header."""

    ids: list[str]  # [] if the table has no column of ids
    splits: list[str]  # of each line, or [] if the table has no column of splits
    columns: Columns  # the cells of each attribute


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
    others: list[Attribute] = field(default_factory=list)  # of the table, which were not chosen


def read_annotations(
    file: FeatureFile,
    table: Table | None = None,
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
    table : Table, optional
        See `attribute_tables.open_table`; or ``shapes``. Unless the table has an attribute
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
    where = file.display_name
    unread: dict[str, str] = {}
    if table is not None:
        opened = open_table(table)
        where = opened.name
        if opened.ending == ".parquet":
            unread = import_parquet("clipkit.features.parquet").left_out(opened.data, where)
        if unread and not columns:
            kinds = [f"{column} ({kind})" for column, kind in unread.items()]
            console.note(f"{where}: left out {abridged(kinds)}")
        found = _read_table(file, opened, numbers, splits, common)
    if found.source == "table" and numbers == "alone":
        attributes = _numbers_alone(where, found.attributes, columns)
        found = replace(found, attributes=attributes)
    elif found.source == "table" and categories:
        attributes = _leave_numbers_out(where, found.attributes, columns)
        found = replace(found, attributes=attributes)
    known = {attribute.name: attribute for attribute in found.attributes}
    if CLASS not in known and numbers != "alone":
        known |= _labels(file)
    if not known:
        hint = "name a table of attributes with --table"
        raise missing_labels(file, "expected labels, got none", hint)
    names: list[str] = []
    for name in columns or known:  # a name may hold commas
        names += [name] if name in known else split_words([name])
    chosen = [_choose(known, name, where, unread) for name in dict.fromkeys(names)]
    if found.source == "table":
        for attribute in chosen:
            if not attribute.is_class:
                console.note_spellings(f"{where}: {attribute.name}", attribute.values)
    others = [attribute for name, attribute in known.items() if name not in columns]
    return replace(found, attributes=chosen, others=others if columns else [])


def attribute_names(table: str) -> list[str]:
    """Return the names of the attributes that a table or a data set has, without their values."""
    opened = open_table(table)
    if opened.data is None:
        from clipkit.shapes import attributes as described

        return list(described.attributes([0], split="train", seed=0)) if table == "shapes" else []
    names, _ = _read_blocks(opened)
    return [name for name in names if name not in NO_ATTRIBUTES]


def _read_table(
    file: FeatureFile, table: OpenTable, numbers: str, splits: Sequence[str] | None, common: bool
) -> Annotations:
    """Read all columns of a table, or of a data set, whose last column has the classes."""
    if table.data is None:
        attributes = _number_all(file, _bundled(file, table.name, numbers), numbers)
        if numbers != "alone":
            attributes[-1] = replace(attributes[-1], is_class=True)
        return Annotations(attributes, table.name)
    columns = _match(file, table, splits or list(file.splits), common)
    digest = files.digest(table.data)
    return Annotations(_number_all(file, columns, numbers), "table", {"attributes": digest})


def read_attribute(
    file: FeatureFile,
    table: Table | None,
    column: str | None = None,
    *,
    categories: bool = True,
    splits: Sequence[str] | None = None,
    common: bool = False,
) -> Annotations:
    """Read one attribute: the named one, or the only one of a table besides the file's labels."""
    where = "the labels"
    if table is not None:
        table = open_table(table)
        where = table.name
    columns = [column] if column else ()
    annotations = read_annotations(
        file, table, columns, categories=categories, splits=splits, common=common
    )
    attributes = annotations.attributes
    if len(attributes) > 1:
        attributes = [attribute for attribute in attributes if attribute.name != CLASS]
    if len(attributes) > 1:
        names = ", ".join(attribute.name for attribute in attributes)
        message = f"{where}: expected one attribute, got {shorten(names, 200)}"
        hint = "choose with --attribute"
        if column:
            combined = INTERACTION.join(split_words([column]))
            hint = f"to combine them: {suggestions.command('--attribute', combined)}"
        raise UsageError(message, hint)
    return replace(annotations, attributes=attributes)


def _choose(
    known: dict[str, Attribute], name: str, where: str, unread: Mapping[str, str]
) -> Attribute:
    """Return an attribute, or the interaction of two. `unread` are columns of other types."""
    if name in known:
        return known[name]
    parts = name.split(INTERACTION)
    for part in parts:
        if part in unread:
            expected = "expected texts, numbers, truth values, lists of texts, dates or times"
            raise UsageError(f"{where}: {part}: {expected}, got {unread[part]}")
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
        others = list(itertools.filterfalse(is_numeric, attribute.values))
        if not others and count > 2:
            found.append(attribute)
            continue
        got = f"{count} values"
        if others:
            got = repr(shorten(others[0]))
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


def _number_all(file: FeatureFile, columns: Columns, numbers: str) -> list[Attribute]:
    """Assign numbers from 0 to the sorted values of each column, and -1 to empty cells.

    Columns that have enough values, all of which are numbers, are marked.
    """
    least = {"many": MAX_NUMBERS + 1, "all": 3}.get(numbers, math.inf)
    ends = np.cumsum(list(map(len, file.splits.values())))
    attributes = []
    for name, cells in columns.items():
        values = sorted(set(cells) - {""})
        code_of = {**positions(values), "": -1}
        codes = np.array(list(map(code_of.get, cells)), np.int64)
        of_split = dict(zip(file.splits, np.split(codes, ends[:-1]), strict=True))
        is_number = len(values) >= least and all(map(is_numeric, values))
        attributes.append(Attribute(name, values, of_split, is_number=is_number))
    return attributes


def _bundled(file: FeatureFile, name: str, numbers: str) -> Columns:
    """Return the attributes of a bundled data set; refuse a file of another one."""
    if name != "shapes":
        what = f"table of attributes ({' '.join(ATTRIBUTE_TABLES)}) or data set with attributes"
        raise unknown(what, name, ["shapes"])
    datasets = [str(dataset.get("name")) for dataset in file.history.datasets]
    if not datasets:
        console.note(f"{file.display_name} does not say that its images are those of {name}")
    elif datasets[0] != name:
        got = f"those of {shorten(datasets[0], 100)}"
        raise ClipkitError(
            f"{file.display_name}: expected images of {name}, got {got}",
            f"name a table of their attributes: a {', '.join(ATTRIBUTE_TABLES)} file",
        )
    columns: Columns = {}
    for _, part, ids in _ids_of_parts(file):
        for attribute, values in _of_shapes(file, part, ids, numbers).items():
            columns.setdefault(attribute, []).extend(map(str, values))
    return columns


def _ids_of_parts(file: FeatureFile) -> Iterator[tuple[str, str, list[str]]]:
    """Yield, for all rows in order, a split, the split that rows of it are from, and their ids."""
    for name, split in file.splits.items():
        parts = split.parts or [name] * len(split)
        rows = zip(parts, split.ids, strict=True)
        for part, group in itertools.groupby(rows, operator.itemgetter(0)):
            yield name, part, [row_id for _, row_id in group]


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


def _match(file: FeatureFile, opened: OpenTable, splits: Sequence[str], common: bool) -> Columns:
    """Return the columns of a table for the rows of a file, matched by split and id.

    Rows of `splits` need a line unless `common`. A row without a line has empty cells.
    """
    table = opened.name
    lines = _read_lines(opened)
    if lines.ids:
        found = _find_lines(file, table, lines, splits, common)
    else:
        found = _lines_in_order(file, table, lines, splits)
    columns: Columns = {}
    for name, cells in lines.columns.items():
        cells.append("")  # the last is for rows without a line
        columns[name] = [cells[line] for line in found]
    extra = max(0, len(lines.ids) - len(set(found) - {-1}))
    if extra and not file.is_result:  # which has the scored rows alone
        unused = console.count(extra, "line")
        console.note(f"{table}: {unused} without an image in {file.display_name}")
    _clear(table, columns)
    return columns


def _lines_in_order(
    file: FeatureFile, table: str, lines: Lines, splits: Sequence[str]
) -> list[int]:
    """Return the place of each row's line in a table without ids: that of the row in its split.

    There must be one split that is used, with as many rows as the table has lines.
    """
    count = len(next(iter(lines.columns.values())))
    if len(splits) != 1 or len(file.splits[splits[0]]) != count or lines.splits:
        raise _no_ids(table, [*lines.columns])
    console.note(f"{table} has no ids: its lines are those of {splits[0]}, in their order")
    found: list[int] = []
    for name, split in file.splits.items():
        found += range(count) if name == splits[0] else [-1] * len(split)
    return found


def _no_ids(table: str, names: Sequence[str]) -> ClipkitError:
    """Return the error of a table whose header has no ids or no attributes."""
    got = ", ".join(names) or "nothing"
    return ClipkitError(
        f"{table}: expected a header with id and attributes, got {got}",
        "for example: id,colour; the column of ids is called id, filename or path",
    )


def _find_lines(
    file: FeatureFile, table: str, lines: Lines, splits: Sequence[str], common: bool
) -> list[int]:
    """Return the place of each row's line in a table; -1 for none."""
    found: list[int] = []
    ids: list[str] = []  # of the rows that need a line
    parts: list[str] = []
    needed: list[int] = []
    rules: dict[str, None] = {}
    for name, part, of_part in _ids_of_parts(file):
        candidates = _lines_of_split(file, part, lines)
        known = [lines.ids[line] for line in candidates]
        places, rule = matching.find_ids(of_part, known)
        line_of = np.append(np.asarray(candidates, np.int64), -1)  # at -1, for none, is -1
        partners = line_of[places].tolist()
        found += partners
        rules[rule] = None
        if name in splits:
            needed += partners
            ids += of_part
            parts += [part] * len(of_part)
    images = matching.Rows(ids, "images", file.display_name, splits=parts if lines.splits else ())
    of_needed = np.array(needed, np.int64)
    matching.note_rule(images, matching.Found(of_needed, " or ".join(filter(None, rules))))
    lines_of_table = matching.Rows(lines.ids, "lines", table, splits=lines.splits)
    matching.check_partners(images, lines_of_table, of_needed, "line", common)
    return found


def _lines_of_split(file: FeatureFile, split: str, lines: Lines) -> Sequence[int]:
    """Return the places of the lines of a table that may be of rows of a split."""
    if not lines.splits:  # then ids are of all
        return range(len(lines.ids))
    names = [split]
    if split not in lines.splits:  # rows of a split that was divided, or of several
        names = original_splits(file, split)
    return [place for place, name in enumerate(lines.splits) if name in names]


def _clear(table: str, columns: Columns) -> None:
    """Empty the cells that stand for no value, and drop the .0 of columns of whole numbers."""
    count = 0
    first = ""
    for name, values in columns.items():
        distinct = set(values)
        empty = set(filter(is_no_value, distinct)) - {""}
        if empty:
            for row, value in enumerate(values):
                if value in empty:
                    count += 1
                    first = first or f"{value!r} of {name}"
                    values[row] = ""
        if all(map(WHOLE.fullmatch, distinct - empty - {""})):
            columns[name] = [value.removesuffix(".0") for value in values]
    if count:
        console.note(f"{table}: {count:,} cells, first {first}, are read as no value")


def _read_lines(table: OpenTable) -> Lines:
    """Return the lines of a table. Of equal cells, one is in memory."""
    names, blocks = _read_blocks(table)
    columns: Columns = {name: [] for name in names if name in KEYS or name not in NO_ATTRIBUTES}
    numbers = array("I")
    known: dict[str, str] = {}
    for of_block, cells in blocks:
        numbers.extend(of_block)
        for name, texts in zip(names, cells, strict=True):
            if name == "id":
                columns[name] += texts
            elif name in columns:
                columns[name] += map(known.setdefault, texts, texts)
    if not numbers:
        raise ClipkitError(f"{table.name}: expected a line for each image, got none")
    lines = Lines(columns.pop("id", []), columns.pop("split", []), columns)
    rows: Sequence[Any] = lines.ids
    if lines.splits and lines.ids:
        rows = list(zip(lines.splits, lines.ids, strict=True))
    repeat = find_repeat(rows)
    if repeat:
        _, place = repeat
        got = f"got {lines.ids[place]!r} again"
        raise ClipkitError(
            f"{table.name}, line {numbers[place]}: expected each row once, {got}",
            "if two folders have a file of this name, write the folder, too: cat/0000.jpg",
        )
    return lines


def _read_blocks(table: OpenTable) -> tuple[list[str], Iterator[Block]]:
    """Return the names of the columns, that of ids as `id`, and the lines, some at a time."""
    data = table.data or b""
    if table.ending in (".jsonl", ".parquet"):
        names, block = _spread_lists(table.name, *_read_objects(table, data))
        blocks = iter([block])
    elif data.startswith(b"PK\3\4"):
        hint = "save it as CSV UTF-8"
        raise ClipkitError(f"{table.name}: expected text, got a spreadsheet", hint)
    else:
        names, _, lines = read_table(data, table.name, table.ending)
        blocks = _blocks(lines)
    names = _name_ids([name.strip() for name in names])
    _check_names(table.name, names)
    return names, blocks


def _blocks(lines: Iterator[Line]) -> Iterator[Block]:
    """Yield the numbers and the columns of some lines at a time."""
    while block := list(itertools.islice(lines, BLOCK_LINES)):
        numbers, rows = zip(*block, strict=True)
        yield numbers, [list(map(str.strip, cells)) for cells in zip(*rows, strict=True)]


def _check_names(table: str, names: list[str]) -> None:
    """Refuse a header without ids or attributes, or with an empty name or one that is repeated."""
    if not set(names).difference(NO_ATTRIBUTES):
        raise _no_ids(table, names)
    if "" in names[1:]:
        raise ClipkitError(f"{table}: expected different names of columns, got an empty one")
    for name, count in Counter(names).items():
        if count > 1:
            got = f"{name!r} {count} times"
            raise ClipkitError(f"{table}: expected different names of columns, got {got}")


def _read_objects(table: OpenTable, data: bytes) -> tuple[dict[str, list[Any]], list[int]]:
    """Return cells of any type by column, None for a key that an object lacks, and the lines."""
    if table.ending == ".parquet":
        columns = import_parquet("clipkit.features.parquet").read_cells(data, table.name)
        return columns, list(range(len(next(iter(columns.values()), []))))
    objects = dict(read_objects(data, table.name, '{"id": "a.jpg", "colour": "red"}'))
    names = list(dict.fromkeys(itertools.chain.from_iterable(objects.values())))
    check_different(names, table.name)
    _check_size(table.name, len(objects), len(names))
    columns = {name: [row.get(name) for row in objects.values()] for name in names}
    return columns, list(objects)


def _check_size(table: str, rows: int, columns: int) -> None:
    """Refuse more cells than memory has room for, where rows do not write each of them."""
    check_width(columns, table)
    if rows * columns > MAX_CELLS:
        got = f"{rows:,} rows of {columns:,} columns or elements of lists"
        raise ClipkitError(f"{table}: expected at most {MAX_CELLS:,} cells, got {got}")


def _spread_lists(
    table: str, columns: dict[str, list[Any]], numbers: list[int]
) -> tuple[list[str], Block]:
    """Return the names of the columns, and their cells as texts.

    A column of lists becomes a column `column: element` of 1 and 0 for each of their elements. A
    row without the list has none of these values: they are not known.
    """
    elements = {}
    names: list[str] = []
    for name, cells in columns.items():
        if any(isinstance(cell, list) for cell in cells):
            elements[name] = _elements(table, name, cells, numbers)
            names += [f"{name}: {element}" for element in elements[name]]
        else:
            names.append(name)
    _check_size(table, len(numbers), len(names))
    texts: list[list[str]] = []
    for name, cells in columns.items():
        if name in elements:
            texts += _presences(cells, elements[name])
        else:
            lines = zip(numbers, cells, strict=True)
            texts.append([_as_text(cell, table, number) for number, cell in lines])
    return names, (numbers, texts)


def _elements(table: str, name: str, cells: list[Any], numbers: list[int]) -> list[str]:
    """Return the different elements of the lists in a column, sorted."""
    elements: set[str] = set()
    for number, cell in zip(numbers, cells, strict=True):
        if isinstance(cell, list):
            elements.update(_as_text(element, table, number) for element in cell)
        elif cell is not None:
            got = shorten(cell)
            raise ClipkitError(f"{table}, line {number}: expected a list in {name}, got {got}")
    return sorted(elements)


def _presences(cells: list[Any], elements: list[str]) -> Iterable[list[str]]:
    """Return for each element whether each list has it, as 1 or 0; "" without a list."""
    presences = {element: ["0"] * len(cells) for element in elements}
    for row, cell in enumerate(cells):
        if cell is None:
            for column in presences.values():
                column[row] = ""
        else:
            for element in cell:
                presences[_as_text(element)][row] = "1"
    return presences.values()


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


def _as_text(cell: Any, table: str = "", number: int = 0) -> str:
    """Return a cell of a line as text: whole numbers without .0, and "" for none."""
    if isinstance(cell, str):  # nearly always
        return cell.strip()
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, (list, dict)):
        got = shorten(cell)
        raise ClipkitError(f"{table}, line {number}: expected texts and numbers, got {got}")
    return str(cell).strip()

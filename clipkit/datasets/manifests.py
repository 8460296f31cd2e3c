"""Read a list of paths of images, or a manifest: a table with a row for each image.

A row of a manifest may also name a label, a split and an id.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from clipkit.base import files
from clipkit.base.csv_rows import (
    BOM,
    TextTable,
    find_delimiter,
    read_objects,
    read_table,
)
from clipkit.base.errors import ClipkitError, UsageError, read_errors
from clipkit.base.names import escape
from clipkit.datasets.dataset import Dataset
from clipkit.datasets.rows import Columns, Content, Row, Table, check_columns, collect
from clipkit.datasets.wordnet import find_class_index, rename_classes
from clipkit.features.endings import import_parquet
from clipkit.features.history import drop_none

# How feature files, PNG, JPEG, GIF, Parquet and gzip begin.
CONTENTS = (b"\x89HDF", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PAR1", b"\x1f\x8b")


def read_list(source: str = files.STREAM) -> Dataset:
    """Read a list of paths: one a line, or separated by NUL as `find -print0` does.

    Relative paths start at the current folder. Blank lines are dropped. An id is the path without
    "./" at its start. The split is `all`, and there are no labels.

    Raises
    ------
    UsageError
        If standard input is a terminal.
    ClipkitError
        If the list is empty, too long or the content of another file, or a path is a URL or is
        there twice.
    """
    name = files.display_name(source)
    if source == files.STREAM and sys.stdin.isatty():
        raise UsageError(
            "expected a list of paths on standard input, got a terminal",
            "pipe one in: find photos -name '*.jpg' | clipkit embed - -o img.h5",
        )
    data = files.read_bytes(source)
    if not data:
        hint = "check whether the command before it found files"
        raise ClipkitError(f"{name}: expected a list of paths, got an empty input", hint)
    if data.startswith(CONTENTS):
        hint = "name the file itself: clipkit embed FILE"
        raise ClipkitError(f"{name}: expected a list of paths, got the content of a file", hint)
    is_nul = b"\0" in data
    details = {"source": "list", "list": files.digest(data)}
    data = data.removeprefix(BOM)
    lines = (line.removesuffix(b"\n").removesuffix(b"\r") for line in BytesIO(data))
    entries = data.split(b"\0") if is_nul else lines
    class_names, splits = collect(Table(_rows(entries)), name, unit="entry" if is_nul else "line")
    return Dataset(name, class_names, splits, details)


def _rows(entries: Iterable[bytes]) -> Iterator[Row]:
    for place, entry in enumerate(entries, 1):
        if entry:
            yield Row(place, os.fsdecode(entry))


ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
DEFAULTS = Columns()
PARQUET_READER = "clipkit.datasets.parquet_images"
EXAMPLE = '{"path": "a.jpg", "label": "cat"}'


def is_manifest(name: str) -> bool:
    """Return whether the ending of a name is a manifest's.

    A folder is no manifest, nor is a Parquet file that holds images.
    """
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
    if ending not in ENDINGS or Path(name).is_dir():
        return False
    if ending != ".parquet" or not Path(name).is_file():
        return True
    return not import_parquet(PARQUET_READER).holds_images(Path(name), escape(name))


def names_images(name: str) -> bool:
    """Whether a file is a manifest, and not a table of something else: it has a column `path`."""
    ending = Path(name).suffix.lower()
    if not is_manifest(name) or not Path(name).is_file():
        return False
    if ending not in (".csv", ".tsv"):
        return True
    with read_errors(escape(name)), Path(name).open("rb") as file:
        line = file.readline(files.COPY_BYTES)
    header = line.removeprefix(BOM).decode(errors="replace").split(find_delimiter(line, ending))
    return DEFAULTS.path in [column.strip(' "\r\n') for column in header]


def read_manifest(
    path: str | Path,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    cluster: str | None = None,
    defaults: Columns = DEFAULTS,
) -> Dataset:
    """Read a manifest: a .csv, .tsv, .parquet or .jsonl file with a row for each image.

    The column `path` names the files. Relative paths start at the folder of the manifest. The
    columns `label`, `split` and `id` are optional. Without `split`, all rows are in the split
    `all`. Without `id`, the id is the path as the manifest has it.

    `clipkit.datasets.labels.number_labels` says what labels mean. A split may be without labels. In
    a split that has labels, rows without one are left out, with a warning. If a file
    `class_index.json` is next to the manifest or in the folder above, WordNet ids become its names.

    Parameters
    ----------
    path : str or Path
    path_column, label_column, split_column : str, optional
        Read these columns instead. A column that is named must be there.
    cluster : str, optional
        A column. Rows with the same value depend on each other; a row without one is alone.
    defaults : Columns
        The columns that are read otherwise, of which only `path` must be there.

    Raises
    ------
    ClipkitError
        If the manifest cannot be read or is too large, a column is missing, a row has no path or
        its id occurs twice in the split. The message names the line.
    """
    source = str(path)
    named = drop_none({"path": path_column, "label": label_column, "split": split_column})
    columns = defaults._replace(**named, cluster=cluster or "")
    required = {columns.path, *named.values(), *([cluster] if cluster else [])}
    content, digest = _read_rows(source, columns, required)
    folder = Path(source).resolve().parent
    class_names, index = rename_classes(
        content.class_names, lambda: find_class_index(map(str, (folder, folder.parent)))
    )
    details: dict[str, Any] = {"source": "manifest", "manifest": digest, **index}
    if named:
        details["columns"] = named
    return Dataset(escape(Path(source).stem), class_names, content.splits, details)


def _read_rows(source: str, columns: Columns, required: set[str]) -> tuple[Content, str]:
    """Return the content of a manifest and the digest of the file."""
    name = escape(source)
    folder = os.path.dirname(source)  # noqa: PTH120 ("" for the current folder)
    ending = Path(source).suffix.lower()
    if ending == ".parquet":
        with files.spool_input(source) as file:
            with file.path.open("rb") as content:
                digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
            table = import_parquet(PARQUET_READER).read_table(file.path, name, columns, required)
            table = table._replace(
                label=columns.label, split=columns.split, cluster=columns.cluster
            )
            return collect(table, name, unit="row", folder=folder), digest
    data = files.read_bytes(source)
    if not data.removeprefix(BOM).strip():
        hint = "check whether the command before it failed"
        raise ClipkitError(f"{name}: expected a table with a row for each image, got none", hint)
    if ending == ".jsonl":
        line, first = next(read_objects(data, name, EXAMPLE))
        present, header = list(first), f"{name}, line {line}"
        rows = _json_rows(data, name, columns)
    else:
        text_table = read_table(data, name, ending)
        present, header = text_table.columns, text_table.header
        rows = _csv_rows(text_table, columns)
    check_columns(present, required, header)
    has_splits, has_ids = columns.split in present, columns.id in present
    table = Table(rows, has_splits, has_ids, columns.label, columns.split, columns.cluster)
    return collect(table, name, folder=folder), files.digest(data)


def _csv_rows(table: TextTable, columns: Columns) -> Iterator[Row]:
    width = len(table.columns)
    place = dict(zip(table.columns, range(width), strict=True))
    places = [place.get(column, width) for column in columns]
    for line, cells in table.lines:
        cells.append("")  # of an absent column
        yield Row(line, *[cells[place] for place in places])


def _json_rows(data: bytes, name: str, columns: Columns) -> Iterator[Row]:
    for line, content in read_objects(data, name, EXAMPLE):
        yield Row(line, *map(content.get, columns))

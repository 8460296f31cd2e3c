"""Read a manifest: a table that names an image file in each row, with its label, split and id."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from clipkit import files
from clipkit.csv_rows import check_text, read_rows
from clipkit.datasets.class_index import find_class_index, rename_classes
from clipkit.datasets.columns import Columns, as_text, check_columns
from clipkit.datasets.dataset import Dataset
from clipkit.datasets.images import escape
from clipkit.datasets.rows import Row, Rows, collect
from clipkit.errors import ClipkitError

ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
MAX_HEADER = 1 << 16
MAX_BYTES = 1 << 28  # a million rows of 256 bytes


def is_manifest(name: str) -> bool:
    """Whether a name is that of a manifest, by its ending.

    A folder is none. Of Parquet files, those that hold images are none.
    """
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
    if ending not in ENDINGS or Path(name).is_dir():
        return False
    if ending != ".parquet" or not Path(name).is_file():
        return True
    return not import_parquet("parquet_manifests").holds_images(Path(name), escape(name))


def names_images(name: str) -> bool:
    """Whether a file is a manifest, and not a table of something else: it has a column `path`.

    Raises
    ------
    ClipkitError
        If the file is a damaged Parquet file.
    """
    ending = Path(name).suffix.lower()
    if not is_manifest(name) or not Path(name).is_file():
        return False
    if ending not in DELIMITERS:
        return True
    with Path(name).open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(MAX_HEADER).split(DELIMITERS[ending])
    return Columns().path in [column.strip(' "\n') for column in header]


def read_manifest(
    path: str | Path,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
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

    Raises
    ------
    ClipkitError
        If the manifest cannot be read or is too large, a column is missing, a row has no path or
        its id occurs twice in the split. The message names the line.
    """
    source = str(path)
    given = {"path": path_column, "label": label_column, "split": split_column}
    named = {role: column for role, column in given.items() if column is not None}
    columns = Columns()._replace(**named)
    content, digest = _read_rows(source, columns, {columns.path, *named.values()})
    folder = Path(source).resolve().parent
    class_names, index = rename_classes(
        content.class_names, lambda: find_class_index(map(str, (folder, folder.parent)))
    )
    details: dict[str, Any] = {"source": "manifest", "manifest": f"sha256:{digest}", **index}
    if named:
        details["columns"] = named
    return Dataset(escape(Path(source).stem), class_names, content.splits, details)


def _read_rows(source: str, columns: Columns, required: set[str]) -> tuple[Rows, str]:
    """Return the content of a manifest and the SHA-256 of the file."""
    name = escape(source)
    folder = os.path.dirname(source)  # noqa: PTH120 ("" for the current folder)
    ending = Path(source).suffix.lower()
    if ending == ".parquet":
        with files.spool_input(source) as file:
            digest = _digest(file.path)
            has_splits, rows = import_parquet("parquet_manifests").read_rows(
                file.path, name, columns, required, MAX_BYTES
            )
            content = collect(rows, name, unit="row", folder=folder, has_splits=has_splits)
        return content, digest
    data = files.read_bytes(source, MAX_BYTES)
    _check_text(data, name)
    if ending == ".jsonl":
        has_splits, rows = _read_jsonl(data, name, columns, required)
    else:
        has_splits, rows = _read_csv(data, name, columns, required, DELIMITERS[ending])
    digest = hashlib.sha256(data).hexdigest()
    del data  # so that it is freed with the last row
    return collect(rows, name, folder=folder, has_splits=has_splits), digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def import_parquet(module: str) -> ModuleType:
    """Import a module of this package that needs pyarrow.

    Raises
    ------
    ClipkitError
        If pyarrow is not installed.
    """
    try:
        return importlib.import_module(f"clipkit.datasets.{module}")
    except ImportError as error:
        raise ClipkitError(
            "a .parquet file needs pyarrow, which is not installed",
            "install it: pip install 'clipkit-vl[parquet]'",
        ) from error


def _check_text(data: bytes, name: str) -> None:
    """Refuse an empty file, and what is no text."""
    if not data.strip():
        hint = "check whether the command before it failed"
        raise ClipkitError(f"{name}: expected a table with a row for each image, got none", hint)
    check_text(data, name)


def _read_csv(
    data: bytes, name: str, columns: Columns, required: set[str], delimiter: str
) -> tuple[bool, Iterator[Row]]:
    """Return whether there is a column of splits, and the rows."""
    records = read_rows(data, name, delimiter)
    line, header = next(records)
    header = [column.strip() for column in header]
    check_columns(header, required, f"{name}, line {line}")
    place = {column: number for number, column in enumerate(header)}
    indices = [place.get(column) for column in columns]
    return columns.split in place, _csv_rows(records, name, len(header), indices)


def _csv_rows(
    records: Iterator[tuple[int, list[str]]], name: str, width: int, indices: Sequence[int | None]
) -> Iterator[Row]:
    path, label, split, row_id = indices
    assert path is not None, "check_columns has found it"
    for line, record in records:
        if len(record) != width:
            raise ClipkitError(
                f"{name}, line {line}: expected {width} columns as in the header, "
                f"got {len(record)}",
                "quote values that hold a separator or a quote",
            )
        yield Row(
            line,
            record[path],
            "" if label is None else record[label].strip(),
            "" if split is None else record[split].strip(),
            "" if row_id is None else _required_id(record[row_id], f"{name}, line {line}"),
        )


def _required_id(text: str, where: str) -> str:
    if not text:
        raise ClipkitError(f"{where}: expected an id, got none")
    return text


def _read_jsonl(
    data: bytes, name: str, columns: Columns, required: set[str]
) -> tuple[bool, Iterator[Row]]:
    """Return whether there is a column of splits, as the first object has it, and the rows."""
    objects = _objects(data, name)
    line, first = next(objects)
    check_columns(list(first), required, f"{name}, line {line}")
    has_ids = columns.id in first
    return columns.split in first, _json_rows(data, name, columns, has_ids)


def _objects(data: bytes, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            got = escape(line[:40].decode(errors="replace").strip())
            raise ClipkitError(
                f"{name}, line {number}: expected a JSON object, got {got}",
                'write one object per line: {"path": "a.jpg", "label": "cat"}',
            )
        yield number, content


def _json_rows(data: bytes, name: str, columns: Columns, has_ids: bool) -> Iterator[Row]:
    for line, content in _objects(data, name):
        where = f"{name}, line {line}"
        path = content.get(columns.path)
        if path is not None and not isinstance(path, str):
            raise ClipkitError(f"{where}: expected a path, got {str(path)[:40]!r}")
        row_id = as_text(content.get(columns.id), f"{where}: {columns.id}") if has_ids else ""
        yield Row(
            line,
            as_text(path, f"{where}: {columns.path}"),
            as_text(content.get(columns.label), f"{where}: {columns.label}").strip(),
            as_text(content.get(columns.split), f"{where}: {columns.split}").strip(),
            _required_id(row_id, where) if has_ids else "",
        )

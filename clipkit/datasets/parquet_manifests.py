"""Read the columns of a manifest in Parquet."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipkit.datasets.columns import Columns, as_text, check_columns
from clipkit.datasets.images import reason
from clipkit.datasets.rows import MAX_PATH, Row, Table
from clipkit.errors import ClipkitError
from clipkit.features.isolation import check_in_subprocess
from clipkit.features.parquet import check_footer, column_chunks, value_type
from clipkit.files import OpenFile, keep_open

BATCH_ROWS = 1 << 10
MAX_ROWS = 1 << 24
MAX_BYTES_OF_TEXT = 4 * MAX_PATH  # in UTF-8
READ_BYTES = 1 << 16  # of a column at a time; without it, Arrow reads all of it
READ_MEMORY = 1 << 30  # for columns of MAX_BYTES, and their pages packed and unpacked


def holds_images(path: Path, name: str) -> bool:
    """Whether a Parquet file holds images: structs with bytes, as in Hugging Face's, or bytes."""
    return any(is_image_type(field.type) for field in _schema(path, name))


def is_image_type(arrow_type: pa.DataType) -> bool:
    """Whether a column of this type may hold images: structs with `bytes`, or bytes."""
    if pa.types.is_struct(arrow_type):
        number = arrow_type.get_field_index("bytes")
        return number >= 0 and _is_binary(arrow_type.field(number).type)
    return _is_binary(arrow_type)


def _is_binary(arrow_type: pa.DataType) -> bool:
    return str(arrow_type) in ("binary", "large_binary")


def _schema(path: Path, name: str) -> pa.Schema:
    check_footer(path, name)
    with read_errors(name):
        return pq.read_schema(path)


@contextlib.contextmanager
def read_errors(name: str) -> Iterator[None]:
    """Turn the many exceptions of Arrow into one error that names the file."""
    try:
        yield
    except (ClipkitError, MemoryError):
        raise
    except Exception as error:
        raise ClipkitError(f"cannot read {name}: {reason(error)}") from error


def read_table(
    path: Path, name: str, columns: Columns, required: set[str], max_bytes: int
) -> Table:
    """Read the columns of a manifest.

    Raises
    ------
    ClipkitError
        If the file is damaged, lacks a column or would unpack to more than `max_bytes`.
    """
    schema = _schema(path, name)
    check_columns(schema.names, required, name)
    present = [column for column in columns if column in schema.names]
    for column in present:
        _check_type(schema.field(column).type, f"{name}: {column}", is_path=column == columns.path)
    rows = _iter_rows(path, name, columns, present, max_bytes)
    return Table(rows, columns.split in present, columns.id in present)


def _check_type(arrow_type: pa.DataType, where: str, *, is_path: bool) -> None:
    if is_text(arrow_type):
        return
    arrow_type = value_type(arrow_type)
    if is_path:
        raise ClipkitError(f"{where}: expected texts, got {arrow_type}")
    others = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    if not any(is_type(arrow_type) for is_type in others):
        raise ClipkitError(f"{where}: expected texts or whole numbers, got {arrow_type}")


def is_text(arrow_type: pa.DataType) -> bool:
    """Whether a column of this type holds texts, also as a dictionary."""
    return str(value_type(arrow_type)) in ("string", "large_string")


def _iter_rows(
    path: Path, name: str, columns: Columns, present: list[str], max_bytes: int
) -> Iterator[Row]:
    with read_errors(name), _open(path, present) as file:
        _check_size(file.metadata, present, name, max_bytes)
    _check_unpacked(path, name, present)
    start = 0
    with read_errors(name), _open(path, present) as file:
        for batch in _iter_batches(file, present):
            yield from _batch_rows(batch, name, columns, start)
            start += len(batch)
            pa.default_memory_pool().release_unused()  # Arrow would keep more than the rows
            if start > MAX_ROWS:  # the metadata of an untrusted file may state fewer
                raise ClipkitError(f"{name}: expected at most {MAX_ROWS:,} rows, got more")


def _open(path: Path, present: list[str]) -> pq.ParquetFile:
    # Where no subprocess can read the rows first, they are read as dictionaries, so that a text
    # that fills many rows is in memory once. But then Arrow holds all texts of a row group.
    dictionaries = [] if sys.platform == "linux" else present
    return pq.ParquetFile(path, buffer_size=READ_BYTES, read_dictionary=dictionaries)


def _iter_batches(file: pq.ParquetFile, present: list[str]) -> Iterator[pa.RecordBatch]:
    batches: Iterator[pa.RecordBatch] = file.iter_batches(
        BATCH_ROWS, columns=present, use_threads=False
    )
    return batches


def _check_unpacked(path: Path, name: str, present: list[str]) -> None:
    """Refuse a file whose rows would take too much memory.

    A dictionary may repeat a text of 100 MB in each row, and the sizes in the metadata may be
    wrong. So a subprocess with limited memory reads the rows first.
    """

    def read(file: OpenFile) -> None:
        with _open(file.path, present) as content:
            for batch in _iter_batches(content, present):
                for column in batch.columns:
                    _check_lengths(column, name)

    with keep_open(path) as file:
        check_in_subprocess(file, name, read, "Parquet", READ_MEMORY)


def _check_size(metadata: pq.FileMetaData, present: list[str], name: str, max_bytes: int) -> None:
    size = 0
    for chunk in column_chunks(metadata):
        if chunk.path_in_schema in present:
            size += chunk.total_uncompressed_size
    if size > max_bytes:
        raise ClipkitError(
            f"{name}: expected columns of at most {max_bytes >> 20} MiB, got {size >> 20} MiB"
        )


def _batch_rows(batch: pa.RecordBatch, name: str, columns: Columns, start: int) -> Iterator[Row]:
    values = {}
    for column in batch.schema.names:
        values[column] = _texts(batch.column(column), f"{name}: {column}")
    empty = [""] * len(batch)
    texts = [values.get(column, empty) for column in columns]
    places = range(start, start + len(batch))
    yield from map(Row, places, *texts)


def _texts(array: Any, where: str) -> list[str]:
    """Return the values of a column as texts; null is ""."""
    _check_lengths(array, where)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return [as_text(value, where) for value in array.to_pylist()]


def _check_lengths(array: pa.Array, where: str) -> None:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary
    if not is_text(array.type):
        return
    longest = pc.max(pc.binary_length(array)).as_py() or 0
    if longest > MAX_BYTES_OF_TEXT:
        raise ClipkitError(
            f"{where}: expected at most {MAX_BYTES_OF_TEXT:,} bytes, got {longest:,}"
        )

"""Read the columns of a manifest in Parquet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.base.errors import ClipkitError
from clipkit.datasets.images import reason
from clipkit.datasets.rows import Columns, Row, Table, as_text, check_columns
from clipkit.features.parquet import column_chunks, value_type

BATCH_ROWS = 1 << 10
MAX_ROWS = 1 << 24
READ_BYTES = 1 << 16  # of a column at a time; without it, Arrow reads all of it
BATCH_BYTES = 1 << 30  # of a batch whose rows all repeat the longest text


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
        If the file is damaged, lacks a column or holds more than `max_bytes` of text.
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
    start = kept = 0
    with read_errors(name), pq.ParquetFile(path, buffer_size=READ_BYTES) as file:
        batch_rows = _check_size(file.metadata, present, name, max_bytes)
        for batch in file.iter_batches(batch_rows, columns=present, use_threads=False):
            for row in _batch_rows(batch, name, columns, start):
                kept += len(row.path) + len(row.id)
                yield row
            start += len(batch)
            if kept > max_bytes:
                most = f"{max_bytes >> 20} MiB"
                raise ClipkitError(f"{name}: expected paths and ids of at most {most}, got more")

            if start > MAX_ROWS:  # the metadata of an untrusted file may state fewer
                raise ClipkitError(f"{name}: expected at most {MAX_ROWS:,} rows, got more")


def _check_size(metadata: pq.FileMetaData, present: list[str], name: str, max_bytes: int) -> int:
    """Check the size of all columns, and return the number of rows to read at once.

    A dictionary may repeat a text as long as the column in each row.
    """
    sizes = [0]
    for chunk in column_chunks(metadata):
        if chunk.path_in_schema in present:
            sizes.append(chunk.total_uncompressed_size)
    size = sum(sizes)
    if size > max_bytes:
        raise ClipkitError(
            f"{name}: expected columns of at most {max_bytes >> 20} MiB, got {size >> 20} MiB"
        )
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(*sizes, 1)))


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
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return [as_text(value, where) for value in array.to_pylist()]

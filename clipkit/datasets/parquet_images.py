"""Read Parquet files: with images, in the form of Hugging Face `datasets`, and manifests.

A row group is read when one of its images is asked for. The groups that were used last are kept for
all threads and data sets of the process: a worker gets shard after shard of the same groups.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from clipkit.base import console, files
from clipkit.base.csv_rows import check_characters, check_different
from clipkit.base.errors import ClipkitError, ImageError, read_errors
from clipkit.base.matrices import Int64
from clipkit.base.names import escape, find_repeat
from clipkit.datasets import images, remote, shards
from clipkit.datasets.dataset import Dataset, ImageDataset
from clipkit.datasets.labels import NO_LABEL, LabelCodes
from clipkit.datasets.remote import (
    LocalFile,
    RangeReader,
    SharedCache,
    StoredFile,
    display_url,
)
from clipkit.datasets.rows import (
    CAPTION_COLUMNS,
    Columns,
    Row,
    Table,
    check_columns,
    list_columns,
)
from clipkit.features.history import drop_none
from clipkit.features.parquet import (
    column_chunks,
    declared_features,
    is_number,
    leaf_paths,
    value_type,
)

Types = Mapping[str, pa.DataType]  # of the columns of a file

ENDING = ".parquet"
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")  # fine_label: CIFAR-100
# A dictionary may repeat a huge value in every row, so few rows are read at once: at most these
# numbers, and fewer if a column is large. (A batch of one row takes 0.01 ms.)
IMAGE_ROWS, OTHER_ROWS = 4, 4096
BATCH_BYTES = 2**27
KEPT_GROUPS = 3  # at least
KEPT_BYTES = 2**29
ROW_BYTES = 16  # that a row takes beside its texts
MANIFEST_ROWS = 1 << 10
READ_BYTES = 1 << 16  # of a manifest's column at a time; without it, Arrow reads all of it


class ParquetImages:
    """Images in row groups; `rows` (N,) are the places of the images in all files together."""

    def __init__(self, parts: Sequence[ParquetPart], rows: Int64) -> None:
        self.parts = tuple(parts)
        self.rows = rows
        self._starts = _starts(map(len, parts))

    def image(self, i: int) -> Image.Image:
        """Decode image `i`."""
        number, row = _locate(self._starts, int(self.rows[i]))
        part = self.parts[number]
        name = f"{display_url(part.file.name)}, row {row}"
        group, row_of_group = _locate(part.starts, row)
        data = _groups.get((part, group))[row_of_group].as_py()
        if data is None:
            raise ImageError(f"cannot read {name}: expected the bytes of an image, got none")
        return images.decode(data, name)

    def captions(self) -> list[Any]:
        """Return what the column of captions holds for each image (N)."""
        values: list[Any] = []
        for part in self.parts:
            where = display_url(part.file.name)
            with read_errors(where):
                present = _metadata(part.file).schema.to_arrow_schema().names
            column = next((name for name in CAPTION_COLUMNS if name in present), None)
            if column is None:
                expected = " or ".join(CAPTION_COLUMNS)
                got = list_columns(present)
                raise ClipkitError(f"{where}: expected a column {expected}, got {got}")
            _check_column(_metadata(part.file), column, where)
            for array in _iter_column(part, column):
                values += array.to_pylist()
        return [values[row] for row in self.rows.tolist()]

    def take(self, rows: Int64) -> ParquetImages:
        """Return the given images, and of the files those that hold one."""
        rows = self.rows[rows]
        starts = np.array(self._starts)
        part_of = np.searchsorted(starts, rows, side="right") - 1
        used, new_part_of = np.unique(part_of, return_inverse=True)
        parts = [self.parts[number] for number in used]
        new_starts = np.array(_starts(map(len, parts)))
        return ParquetImages(parts, rows - starts[part_of] + new_starts[new_part_of])

    def fingerprint(self) -> str:
        """Return the SHA-256 over the size and state of the files, and the rows."""
        sha = hashlib.sha256()
        for part in self.parts:
            sha.update(f"{part.file.size} {part.file.state}\n".encode())
        sha.update(self.rows.astype("<i8").tobytes())
        return sha.hexdigest()

    def __reduce__(self) -> tuple[type[ParquetImages], tuple[object, ...]]:
        return ParquetImages, (self.parts, self.rows)


def _starts(lengths: Iterable[int]) -> tuple[int, ...]:
    """Return the first row of each part of these lengths, and the end."""
    return tuple(itertools.accumulate(lengths, initial=0))


def _locate(starts: Sequence[int], row: int) -> tuple[int, int]:
    """Return the number of the part that holds a row, and the row's number in that part."""
    number = bisect.bisect_right(starts, row) - 1
    return number, row - starts[number]


@dataclass(frozen=True)
class ParquetPart:
    """A Parquet file: where its images are."""

    file: StoredFile
    column: str  # of the images
    is_struct: bool  # whether it holds structs of `bytes` and `path`, or bytes alone
    starts: tuple[int, ...]  # the first row of each row group, and the number of rows

    def __len__(self) -> int:
        return self.starts[-1]


@functools.lru_cache(maxsize=64)
def _metadata(file: StoredFile) -> pq.FileMetaData:
    """Return the footer of a file, which takes several requests of a remote one."""
    with read_errors(display_url(file.name)), _opened(file) as source:
        return pq.read_metadata(source)


@contextlib.contextmanager
def _opened(file: StoredFile) -> Iterator[pa.NativeFile]:
    """Yield what Arrow reads: a part of a remote file for each request, or an opened file."""
    if not isinstance(file, LocalFile):
        yield pa.PythonFile(RangeReader(file), "r")
        return
    # an OSFile of Arrow before version 25 does not tell its descriptor
    with Path(file.name).open("rb") as stream, pa.PythonFile(stream, "r") as source:
        file.check_opened(stream.fileno())
        try:
            yield source
        finally:  # a change is the reason for whatever Arrow says
            file.check_opened(stream.fileno())


def _read_group(part: ParquetPart, number: int) -> pa.ChunkedArray:
    """Read the images of a row group, as bytes."""
    where = f"{display_url(part.file.name)}, row group {number}"
    column = f"{part.column}.bytes" if part.is_struct else part.column
    chunks: list[pa.Array] = []
    size = 0
    for array in _iter_arrays(part.file, column, [number], IMAGE_ROWS):
        chunks.append(array)
        size += array.nbytes
        _check_group_size(size, where)
    rows = sum(map(len, chunks))
    stated = part.starts[number + 1] - part.starts[number]
    if rows != stated:
        raise ClipkitError(f"{where}: expected {stated:,} rows, got {rows:,}")
    return pa.chunked_array(chunks)


_groups: SharedCache[tuple[ParquetPart, int], pa.ChunkedArray] = SharedCache(
    lambda key: _read_group(*key),
    lambda group: int(group.nbytes),
    count=KEPT_GROUPS,
    budget=KEPT_BYTES,
)


def _iter_arrays(
    file: StoredFile, column: str, groups: Sequence[int], most: int
) -> Iterator[pa.Array]:
    """Yield a column of row groups, or a field of a struct, at most so many rows at a time."""
    name = display_url(file.name)
    metadata = _metadata(file)
    chunks = _chunks(metadata, column, groups)
    if not chunks:  # lists, whose sizes the footer has by another name
        most = IMAGE_ROWS
    rows = _rows_at_once(chunks, most)
    with read_errors(name), _opened(file) as source:
        content = pq.ParquetFile(source, metadata=metadata)
        for batch in content.iter_batches(
            rows, row_groups=groups, columns=[column], use_threads=False
        ):
            array = batch.column(0)
            if pa.types.is_struct(array.type):
                array = array.flatten()[0]  # null where the struct is null
            yield array


def _chunks(
    metadata: pq.FileMetaData, column: str, groups: Iterable[int]
) -> list[pq.ColumnChunkMetaData]:
    """Return what the footer says of one column in row groups."""
    return [chunk for chunk in column_chunks(metadata, groups) if chunk.path_in_schema == column]


def _largest(chunks: Iterable[pq.ColumnChunkMetaData]) -> int:
    """Return the bytes that the largest of these chunks unpacks to, as the footer says."""
    return max((int(chunk.total_uncompressed_size) for chunk in chunks), default=0)


def _rows_at_once(chunks: Iterable[pq.ColumnChunkMetaData], most: int) -> int:
    """Return the rows of a batch: one takes at most as much as its group, with a dictionary."""
    return max(1, min(most, BATCH_BYTES // max(1, _largest(chunks))))


def _check_group_size(size: int, where: str) -> None:
    if size > files.MAX_UNPACKED_BYTES:
        raise ClipkitError(
            f"{where}: expected at most {files.MAX_UNPACKED_BYTES >> 20} MiB of images, got "
            f"{size >> 20} MiB",
            "write the file again with smaller row groups",
        )


def read_parquet(patterns: Sequence[str]) -> Dataset:
    """Read Parquet files in the form of Hugging Face `datasets`, on this machine or at URLs.

    The images are in the column `image` or `img`, or in the only column of images: structs of
    `bytes` and `path`, or bytes. The labels are in the column `label` or `fine_label`, or else in
    the only `ClassLabel`; `clipkit.datasets.labels.number_labels` says what they mean. Numbers have
    the class names that `datasets` has written into the file, or those of ``classnames.txt`` or
    ``class_index.json`` beside it; the latter also names WordNet ids. A null is no label, nor is a
    negative integer. The ids are the paths, or the name of the file and the number of the row if a
    path is missing or occurs twice.
    Splits are named as `shards.split_names` says.

    Raises
    ------
    ClipkitError
        If a file cannot be read, there is no column of images or more than one, a row group is too
        large, or the class names differ between files.
    """
    names = shards.find_files(patterns, ENDING)
    what = "reading the labels of Parquet files"
    tables_of = shards.read_by_split(_read_table, names, what, "files")
    tables = list(itertools.chain.from_iterable(tables_of.values()))
    _check_same(tables)
    splits: dict[str, ImageDataset] = {}
    for split, its in tables_of.items():
        if any(len(table.part) for table in its):
            splits[split] = _join(its)
    if not splits:
        raise ClipkitError(f"{display_url(names[0])}: expected rows, got none")
    texts = LabelCodes()
    codes: dict[str, NDArray[np.int32]] = {}
    for split, its in tables_of.items():
        codes[split] = np.concatenate([texts.recode(table.codes, table.texts) for table in its])
    first = tables[0]
    columns = drop_none({"image": first.part.column, "label": first.label})
    details = {"format": "parquet", "files": len(names), "columns": columns}
    return shards.to_dataset(names, splits, codes, texts, details, first.class_names)


@dataclass
class _Table:
    """The ids and labels of one file."""

    part: ParquetPart
    paths: list[str] | None  # None if one is missing
    label: str | None  # the column of the labels
    has_texts: bool  # whether the labels are texts
    codes: NDArray[np.int32]  # (N,) of the labels in `texts`; NO_LABEL for none
    texts: LabelCodes
    class_names: list[str] | None


def _read_table(name: str) -> _Table:
    """Read all columns of a file but the images."""
    file = remote.open_file(name)
    where = display_url(name)
    metadata = _metadata(file)
    with read_errors(where):
        types = {field.name: field.type for field in metadata.schema.to_arrow_schema()}
        features = declared_features(metadata.metadata or {})
        column = _image_column(types, features, where)
        is_struct = pa.types.is_struct(types[column])
        content = f"{column}.bytes" if is_struct else column
        lengths = _check_column(metadata, content, where)
        for number in range(len(lengths)):
            size = _largest(_chunks(metadata, content, [number]))
            _check_group_size(size, f"{where}, row group {number}")
    part = ParquetPart(file, column, is_struct, _starts(lengths))
    _check_unpacked(ROW_BYTES * len(part), where)
    paths = None
    if is_struct and types[column].get_field_index("path") >= 0:
        _check_column(metadata, f"{column}.path", where)
        paths = _read_paths(part)
    label = _label_column(types, features, where)
    pa.default_memory_pool().release_unused()  # Arrow would keep more memory than the paths take
    texts = LabelCodes()
    codes = np.full(len(part), NO_LABEL, np.int32)
    if label is None:
        return _Table(part, paths, None, False, codes, texts, None)
    _check_column(metadata, label, where)
    codes = _read_labels(part, label, texts)
    class_names = _class_names(features.get(label), f"{where}: {label}")
    return _Table(part, paths, label, is_text(types[label]), codes, texts, class_names)


def _check_column(metadata: pq.FileMetaData, column: str, where: str) -> list[int]:
    """Return the rows of each row group of a column.

    Refuse a name by which Arrow would read several columns, as `a.b` with `a`.
    """
    names = [path for path in leaf_paths(metadata) if f"{path}.".startswith(f"{column}.")]
    if len(names) != 1:
        raise ClipkitError(f"{where}: expected one column {column!r}, got {list_columns(names)}")
    return _check_rows(metadata, column, where)


def _check_unpacked(size: int, where: str) -> None:
    """Refuse rows that unpack to `size` bytes if they are many."""
    if size > files.MAX_UNPACKED_BYTES:
        limit = files.MAX_UNPACKED_BYTES >> 20
        raise ClipkitError(f"{where}: expected rows that unpack to at most {limit} MiB, got more")


def _unpacked_bytes(array: pa.Array) -> int:
    """Return about the bytes that values take in Python, where a character takes up to four."""
    size = ROW_BYTES * len(array)
    if pa.types.is_list(array.type):
        return size + _unpacked_bytes(array.flatten())
    if not is_text(array.type):
        return size
    if pc.all(pc.string_is_ascii(array)).as_py() in (True, None):
        return size + int(array.nbytes)
    return size + 4 * (pc.sum(pc.utf8_length(array)).as_py() or 0)


def _decode(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _image_column(types: Types, features: Mapping[str, Mapping[str, Any]], where: str) -> str:
    """Return the column of the images."""
    columns = [name for name in types if is_image_type(types[name])]
    for name in IMAGE_COLUMNS:
        if name in columns:
            return name
    declared = _declared(columns, features, "Image")
    structs = [name for name in columns if pa.types.is_struct(types[name])]
    for candidates in (declared, structs, columns):
        if len(candidates) == 1:
            return candidates[0]
    hint = f"call the column {IMAGE_COLUMNS[0]!r}"
    got = list_columns(columns or types)
    raise ClipkitError(f"{where}: expected one column of images, got {got}", hint)


def _label_column(
    types: Types, features: Mapping[str, Mapping[str, Any]], where: str
) -> str | None:
    """Return the column of the labels, or None."""
    columns = [name for name in LABEL_COLUMNS if name in types]
    if not columns:
        columns = _declared(types, features, "ClassLabel")
    if not columns:
        return None
    if len(columns) > 1 and columns[0] not in LABEL_COLUMNS:
        console.warn(f"{where}: no labels are read: several columns hold them, none called label")
        return None
    arrow_type = types[columns[0]]
    if pa.types.is_integer(arrow_type) or is_text(arrow_type):
        return columns[0]
    console.warn(f"{where}: {columns[0]}: labels of type {arrow_type} are not read")
    return None


def _declared(
    names: Iterable[str], features: Mapping[str, Mapping[str, Any]], kind: str
) -> list[str]:
    """Return the columns that `datasets` calls a feature of this kind."""
    return [name for name in names if features.get(name, {}).get("_type") == kind]


def _check_rows(metadata: pq.FileMetaData, column: str, where: str) -> list[int]:
    """Return the rows of each row group, of which a column must have as many and the file all."""
    lengths = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    if sum(lengths) != metadata.num_rows:
        expected = f"expected {metadata.num_rows:,} rows, as the file states"
        raise ClipkitError(f"{where}: {expected}, got {sum(lengths):,} in its row groups")
    for number, rows in enumerate(lengths):
        for chunk in _chunks(metadata, column, [number]):  # with a value or a null in each row
            if chunk.num_values != rows:
                expected = f"expected {chunk.num_values:,} rows, as in {column}"
                raise ClipkitError(f"{where}, row group {number}: {expected}, got {rows:,}")
    return lengths


def _iter_column(part: ParquetPart, column: str) -> Iterator[pa.Array]:
    """Yield the values of a column other than the images, some rows at a time."""
    where = f"{display_url(part.file.name)}: {column}"
    size = rows = 0
    groups = range(len(part.starts) - 1)
    for array in _iter_arrays(part.file, column, groups, OTHER_ROWS):
        with read_errors(display_url(part.file.name)):
            array.validate(full=True)  # texts are UTF-8
            array = _decode(array)
        rows += len(array)
        size += _unpacked_bytes(array)
        _check_unpacked(size, where)
        if rows > len(part):
            break
        yield array
    if rows != len(part):
        raise ClipkitError(f"{where}: expected {len(part):,} values, got {rows:,}")


def _read_paths(part: ParquetPart) -> list[str] | None:
    """Return the path of each image, or None if one is missing."""
    paths: list[str] = []
    for values in _iter_column(part, f"{part.column}.path"):
        if values.null_count or not pa.types.is_string(values.type):
            return None
        paths += map(escape, values.to_pylist())
    return paths if all(paths) else None


def _read_labels(part: ParquetPart, column: str, texts: LabelCodes) -> NDArray[np.int32]:
    """Return the codes (N,) of the labels in `texts`."""
    codes = [np.zeros(0, np.int32)]
    for array in _iter_column(part, column):
        if not is_text(array.type):
            with read_errors(display_url(part.file.name)):  # a label beyond 64 bits
                array = array.cast(pa.int64())
        encoded = array.dictionary_encode()
        labels = map(_label_text, encoded.dictionary.to_pylist())
        indices = encoded.indices.fill_null(NO_LABEL).to_numpy(zero_copy_only=False)
        codes.append(texts.recode(indices, labels))
    return np.concatenate(codes)


def _label_text(label: str | int) -> str:
    """Return a label as text; "" for a number below 0."""
    if isinstance(label, str):
        return label.strip()
    return str(label) if label >= 0 else ""


def _class_names(feature: Mapping[str, Any] | None, where: str) -> list[str] | None:
    """Return the names that `datasets` has written for a column."""
    names = (feature or {}).get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ClipkitError(f"{where}: expected a list of class names in the file's metadata")
    check_characters(names, where)
    return list(map(escape, names))


def _check_same(tables: Sequence[_Table]) -> None:
    """Refuse files with labels that mean different things."""
    first = tables[0]
    for table in tables[1:]:
        for what, expected, got in (
            ("the same column of labels", first.label, table.label),
            ("the same class names", first.class_names, table.class_names),
            ("the same type of labels", first.has_texts, table.has_texts),
        ):
            if expected != got:
                names = [display_url(its.part.file.name) for its in (first, table)]
                both = f"{names[0]} and {names[1]}"
                raise ClipkitError(f"{both}: expected {what}, got different ones")


def _join(tables: Sequence[_Table]) -> ImageDataset:
    """Return the rows of one split, without labels."""
    parts = [table.part for table in tables]
    source = ParquetImages(parts, np.arange(sum(map(len, parts))))
    ids: list[str] = []
    for table in tables:
        ids += table.paths or []
        table.paths = None
    if len(ids) != len(source.rows) or find_repeat(ids):
        prefixes = shards.distinct_stems([part.file.name for part in parts])
        ids = []
        for prefix, part in zip(prefixes, parts, strict=True):
            ids += [f"{prefix}/{row}" for row in range(len(part))]
    return ImageDataset(ids, None, source)


def holds_images(path: Path, name: str) -> bool:
    """Whether a Parquet file holds images: structs with bytes, as in Hugging Face's, or bytes."""
    with read_errors(name):
        return any(is_image_type(field.type) for field in pq.read_schema(path))


def is_image_type(arrow_type: pa.DataType) -> bool:
    """Whether a column of this type may hold images: structs with `bytes`, or bytes."""
    if pa.types.is_struct(arrow_type):
        number = arrow_type.get_field_index("bytes")
        return number >= 0 and _is_binary(arrow_type.field(number).type)
    return _is_binary(arrow_type)


def _is_binary(arrow_type: pa.DataType) -> bool:
    return str(arrow_type) in ("binary", "large_binary")


def read_table(path: Path, name: str, columns: Columns, required: set[str]) -> Table:
    """Read the columns of a manifest."""
    with read_errors(name):
        schema = pq.read_schema(path)
    check_columns(schema.names, required, name)
    check_different(schema.names, name)
    present = [column for column in dict.fromkeys(columns) if column and column in schema.names]
    for column in present:
        _check_type(schema.field(column).type, f"{name}: {column}", is_path=column == columns.path)
    rows = _iter_rows(path, name, columns, present)
    return Table(rows, columns.split in present, columns.id in present)


def _check_type(arrow_type: pa.DataType, where: str, *, is_path: bool) -> None:
    if is_text(arrow_type):
        return
    arrow_type = value_type(arrow_type)
    if is_path:
        raise ClipkitError(f"{where}: expected texts, got {arrow_type}")
    if not is_number(arrow_type) and not pa.types.is_null(arrow_type):
        raise ClipkitError(f"{where}: expected texts or whole numbers, got {arrow_type}")


def is_text(arrow_type: pa.DataType) -> bool:
    """Whether a column of this type holds texts, also as a dictionary, and not bytes."""
    return str(value_type(arrow_type)) in ("string", "large_string")


def _iter_rows(path: Path, name: str, columns: Columns, present: list[str]) -> Iterator[Row]:
    """Yield the rows. Their sum is checked before Python's texts are made of them."""
    start = size = 0
    with read_errors(name), pq.ParquetFile(path, buffer_size=READ_BYTES) as file:
        read = tuple(f"{column}." for column in present)  # Arrow reads `a.b` with `a`
        chunks = [
            chunk
            for chunk in column_chunks(file.metadata)
            if f"{chunk.path_in_schema}.".startswith(read)
        ]
        batch_rows = _rows_at_once(chunks, MANIFEST_ROWS)
        for column in present:
            _check_rows(file.metadata, column, name)
        for batch in file.iter_batches(batch_rows, columns=present, use_threads=False):
            arrays = {column: _decode(batch.column(column)) for column in present}
            size += sum(map(_unpacked_bytes, arrays.values()))
            _check_unpacked(size, name)
            stop = start + len(batch)
            values = {column: array.to_pylist() for column, array in arrays.items()}
            absent = [None] * len(batch)
            of_roles = [values.get(column, absent) for column in columns]
            yield from map(Row, range(start, stop), *of_roles)
            start = stop

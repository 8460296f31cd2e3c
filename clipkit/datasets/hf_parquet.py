"""Read Parquet files in the form of Hugging Face `datasets`: the images are in the files.

A row group is read when one of its images is asked for. The groups that were used last are kept for
all threads and data sets of the process: a worker gets shard after shard of the same groups.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clipkit import console
from clipkit.datasets import images, remote, shards
from clipkit.datasets.cache import SharedCache
from clipkit.datasets.dataset import Dataset, ImageDataset
from clipkit.datasets.images import escape, reason
from clipkit.datasets.labels import (
    NO_LABEL,
    attach_labels,
    has_duplicates,
    labels_from_texts,
    number_labels,
)
from clipkit.datasets.parquet_manifests import is_image_type
from clipkit.datasets.remote import LocalFile, RangeReader, StoredFile, display_url
from clipkit.errors import ClipkitError, ImageError
from clipkit.features import Int64
from clipkit.features.parquet import check_footer
from clipkit.features.prefetch import prefetch_map
from clipkit.features.validation import MAX_CLASSES

ENDING = ".parquet"
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")  # fine_label: CIFAR-100
# A dictionary may repeat a huge value in every row, so few rows are read at once: at most these
# numbers, and fewer if a column is large. (A batch of one row takes 0.01 ms.)
IMAGE_ROWS, OTHER_ROWS = 4, 4096
BATCH_BYTES = 2**28
KEPT_GROUPS = 3  # at least
KEPT_BYTES = 2**29
MAX_GROUP_BYTES = 2**30
MAX_OTHER_BYTES = 2**28  # the paths or labels of a file
REMOTE_FILES = 8  # whose columns are read at the same time
MAX_LISTED = 10


class ParquetImages:
    """Images in row groups.

    Parameters
    ----------
    parts : sequence of ParquetPart
    rows : (N,) int64 array
        For each image, its row in all files together.
    """

    def __init__(self, parts: Sequence[ParquetPart], rows: Int64) -> None:
        self.parts = tuple(parts)
        self.rows = rows
        lengths = [length for part in parts for length in part.lengths]
        self._group_starts = np.cumsum([0, *lengths])  # the first row of each group, and the end
        self._part_starts = np.cumsum([0, *map(len, parts)])
        self._first_groups = np.cumsum([0, *(len(part.lengths) for part in parts)])

    def image(self, i: int) -> Image.Image:
        """Decode image `i`."""
        row = int(self.rows[i])
        number = _last_start(self._part_starts, row)
        part = self.parts[number]
        name = f"{display_url(part.file.name)}, row {row - self._part_starts[number]}"
        group = _last_start(self._group_starts, row)
        images_of_group = _groups.get((part, group - int(self._first_groups[number])))
        data = images_of_group.content(row - int(self._group_starts[group]))
        if data is None:
            raise ImageError(f"cannot read {name}: expected the bytes of an image, got none")
        return images.decode(data, name)

    def take(self, rows: Int64) -> ParquetImages:
        """Return the given images, and of the files those that hold one."""
        rows = self.rows[rows]
        part_of = np.searchsorted(self._part_starts, rows, side="right") - 1
        used, new_part_of = np.unique(part_of, return_inverse=True)
        parts = [self.parts[number] for number in used]
        new_starts = np.cumsum([0, *map(len, parts)])
        return ParquetImages(parts, rows - self._part_starts[part_of] + new_starts[new_part_of])

    def fingerprint(self) -> str:
        """Return the SHA-256 over the size and state of the files, and the rows."""
        sha = hashlib.sha256()
        for part in self.parts:
            sha.update(f"{part.file.size} {part.file.state}\n".encode())
        sha.update(self.rows.astype("<i8").tobytes())
        return sha.hexdigest()

    def __reduce__(self) -> tuple[type[ParquetImages], tuple[object, ...]]:
        return ParquetImages, (self.parts, self.rows)


def _last_start(starts: Int64, row: int) -> int:
    """Return the number of the part that holds a row, by where the parts start."""
    return int(np.searchsorted(starts, row, side="right")) - 1


@dataclass(frozen=True)
class ParquetPart:
    """A Parquet file: where its images are.

    Attributes
    ----------
    file : StoredFile
    column : str
        The column of the images.
    is_struct : bool
        Whether the column holds structs of `bytes` and `path`, or bytes alone.
    lengths : tuple of int
        The number of rows in each row group.
    """

    file: StoredFile
    column: str
    is_struct: bool
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.lengths)


class _Group:
    """The images of a row group, as bytes."""

    def __init__(self, chunks: list[Any]) -> None:
        self.chunks = chunks
        self.starts = [0]
        for chunk in chunks:
            self.starts.append(self.starts[-1] + len(chunk))

    def content(self, row: int) -> bytes | None:
        """Return the bytes of a row, or None for a null."""
        number = bisect.bisect_right(self.starts, row) - 1
        content: bytes | None = self.chunks[number][row - self.starts[number]].as_py()
        return content

    def nbytes(self) -> int:
        """Return the bytes in memory."""
        return sum(chunk.nbytes for chunk in self.chunks)


@functools.lru_cache(maxsize=64)
def _metadata(file: StoredFile) -> pq.FileMetaData:
    """Return the footer of a file, which takes several requests of a remote one."""
    if isinstance(file, LocalFile):
        check_footer(Path(file.name), file.name)
    with _read_errors(file):
        return pq.read_metadata(_source(file))


def _source(file: StoredFile) -> Any:
    return file.name if isinstance(file, LocalFile) else pa.PythonFile(RangeReader(file), "r")


def _open(file: StoredFile, **options: Any) -> pq.ParquetFile:
    return pq.ParquetFile(_source(file), metadata=_metadata(file), **options)


@contextlib.contextmanager
def _read_errors(file: StoredFile) -> Iterator[None]:
    """Turn what pyarrow raises about a damaged file into one line."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ClipkitError(f"cannot read {display_url(file.name)}: {reason(error)}") from error


def _read_group(part: ParquetPart, number: int) -> _Group:
    """Read the images of a row group."""
    where = f"{display_url(part.file.name)}, row group {number}"
    column = f"{part.column}.bytes" if part.is_struct else part.column
    chunks = []
    size = 0
    with _read_errors(part.file), _open(part.file) as file:
        rows = _rows_at_once(_column_size(file.metadata, number, column), IMAGE_ROWS)
        for batch in file.iter_batches(
            rows, row_groups=[number], columns=[column], use_threads=False
        ):
            array = batch.column(0)
            if part.is_struct:
                array = array.flatten()[0]  # null where the struct is null
            chunks.append(array)
            size += array.nbytes
            _check_group_size(size, where)
    group = _Group(chunks)
    if group.starts[-1] != part.lengths[number]:
        raise ClipkitError(
            f"{where}: expected {part.lengths[number]:,} rows, got {group.starts[-1]:,}"
        )
    return group


_groups: SharedCache[tuple[ParquetPart, int], _Group] = SharedCache(
    lambda key: _read_group(*key), _Group.nbytes, count=KEPT_GROUPS, budget=KEPT_BYTES
)


def _rows_at_once(size: int, most: int) -> int:
    """Return how many rows are read at once from a column of so many bytes in a row group.

    A row takes at most as much as all of them, a dictionary included.
    """
    return max(1, min(most, BATCH_BYTES // max(1, size)))


def _column_size(metadata: pq.FileMetaData, group: int, column: str) -> int:
    """Return the uncompressed bytes of a column in a row group; 0 without the column."""
    row_group = metadata.row_group(group)
    for leaf in map(row_group.column, range(row_group.num_columns)):
        if leaf.path_in_schema == column:
            return int(leaf.total_uncompressed_size)
    return 0


def _check_group_size(size: int, where: str) -> None:
    if size > MAX_GROUP_BYTES:
        raise ClipkitError(
            f"{where}: expected at most {MAX_GROUP_BYTES >> 20} MiB of images, got "
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

    Parameters
    ----------
    patterns : sequence of str
        See `shards.find_files`.

    Raises
    ------
    ClipkitError
        If a file cannot be read, there is no column of images or more than one, a row group is too
        large, or the class names differ between files.
    """
    names = shards.find_files(patterns, ENDING)
    split_of = shards.split_names(names)
    tables = _read_tables(names)
    _check_same(tables)
    splits: dict[str, ImageDataset] = {}
    for split in dict.fromkeys(split_of):
        chosen = [table for table, its in zip(tables, split_of, strict=True) if its == split]
        if any(len(table.part) for table in chosen):
            splits[split] = _join(chosen)
    if not splits:
        raise ClipkitError(f"{display_url(names[0])}: expected rows, got none")
    class_names: list[str] = []
    first = tables[0]
    details: dict[str, Any] = {"format": "parquet", "files": len(names)}
    details["columns"] = {"image": first.part.column}
    if first.label is not None:
        details["columns"]["label"] = first.label
        labels, class_names = _labels(tables, split_of, names[0])
        splits = attach_labels(splits, {split: labels[split] for split in splits})
        class_names, index = shards.rename_classes_beside(class_names, names[0])
        details |= index
    return Dataset(shards.data_set_name(names), class_names, splits, details)


@dataclass
class _Table:
    """What one file holds besides its images."""

    part: ParquetPart
    paths: list[str] | None  # None if one is missing
    label: str | None  # the column of the labels
    # (N,) labels, indices into `texts` if there are any, or NO_LABEL. None after joining
    values: Int64 | None
    texts: list[str] | None
    class_names: list[str] | None


def _read_tables(names: Sequence[str]) -> list[_Table]:
    """Read all columns but the images; those of remote files at the same time."""
    workers = REMOTE_FILES if any(map(remote.is_url, names)) else 1
    tables: list[_Table] = []
    with console.progress("reading the labels of Parquet files", "files") as report_progress:
        for table in prefetch_map(_read_table, names, workers, ahead=workers):
            tables.append(table)
            report_progress(len(tables), len(names))
    return tables


def _read_table(name: str) -> _Table:
    file = remote.open_file(name)
    where = display_url(name)
    metadata = _metadata(file)
    with _read_errors(file):
        schema = metadata.schema.to_arrow_schema()
        features = _features(metadata.metadata or {})
        column = _image_column(schema, features, where)
        is_struct = pa.types.is_struct(schema.field(column).type)
        content = f"{column}.bytes" if is_struct else column
        groups = _check_groups(metadata, content, where)
    part = ParquetPart(file, column, is_struct, groups)
    paths = None
    if is_struct and schema.field(column).type.get_field_index("path") >= 0:
        paths = _read_paths(part)
    label = _label_column(schema, features, where)
    pa.default_memory_pool().release_unused()  # Arrow would keep more memory than the paths take
    if label is None:
        return _Table(part, paths, None, np.full(len(part), NO_LABEL, np.int64), None, None)
    values, texts = _read_labels(part, label)
    class_names = _class_names(features.get(label), f"{where}: {label}")
    return _Table(part, paths, label, values, texts, class_names)


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return what `datasets` says of each column, or nothing."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _image_column(schema: pa.Schema, features: Mapping[str, Mapping[str, Any]], where: str) -> str:
    """Return the column of the images."""
    columns: list[str] = [field.name for field in schema if is_image_type(field.type)]
    for name in IMAGE_COLUMNS:
        if columns.count(name) == 1:
            return name
    declared = [name for name in columns if features.get(name, {}).get("_type") == "Image"]
    structs = [name for name in columns if pa.types.is_struct(schema.field(name).type)]
    for candidates in (declared, structs, columns):
        if len(candidates) == 1:
            return candidates[0]
    hint = f"call the column {IMAGE_COLUMNS[0]!r}"
    shown = _listed(columns or schema.names)
    raise ClipkitError(f"{where}: expected one column of images, got {shown}", hint)


def _label_column(
    schema: pa.Schema, features: Mapping[str, Mapping[str, Any]], where: str
) -> str | None:
    """Return the column of the labels, or None."""
    declared: list[str] = [
        name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"
    ]
    columns: list[str] = [name for name in LABEL_COLUMNS if name in schema.names] or declared
    if not columns:
        return None
    if len(columns) > 1 and columns[0] not in LABEL_COLUMNS:
        console.warn(f"{where}: no labels are read: several columns hold them, none called label")
        return None
    arrow_type = schema.field(columns[0]).type
    if pa.types.is_integer(arrow_type) or _is_text(arrow_type):
        return columns[0]
    console.warn(f"{where}: {columns[0]}: labels of type {arrow_type} are not read")
    return None


def _is_text(arrow_type: pa.DataType) -> bool:
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    return str(arrow_type) in ("string", "large_string")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(escape(name[:40]) for name in names[:MAX_LISTED])
    return f"{shown} and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else shown


def _check_groups(metadata: pq.FileMetaData, column: str, where: str) -> tuple[int, ...]:
    """Return the rows of each row group, and refuse one with too many bytes in a column."""
    lengths = []
    for number in range(metadata.num_row_groups):
        _check_group_size(_column_size(metadata, number, column), f"{where}, row group {number}")
        lengths.append(metadata.row_group(number).num_rows)
    return tuple(lengths)


def _iter_column(part: ParquetPart, column: str) -> Iterator[pa.Array]:
    """Yield the values of a column other than the images, some rows at a time."""
    where = f"{display_url(part.file.name)}: {column}"
    size = rows = 0
    with _read_errors(part.file), _open(part.file) as file:
        groups = range(file.metadata.num_row_groups)
        largest = max((_column_size(file.metadata, group, column) for group in groups), default=0)
        at_once = _rows_at_once(largest, OTHER_ROWS)
        for batch in file.iter_batches(at_once, columns=[column], use_threads=False):
            batch.validate(full=True)  # texts are UTF-8
            rows += len(batch)
            size += batch.nbytes
            if size > MAX_OTHER_BYTES or rows > len(part):
                raise ClipkitError(
                    f"{where}: expected {len(part):,} values in at most "
                    f"{MAX_OTHER_BYTES >> 20} MiB, got more"
                )
            yield batch.column(0)
    if rows != len(part):
        raise ClipkitError(f"{where}: expected {len(part):,} values, got {rows:,}")


def _read_paths(part: ParquetPart) -> list[str] | None:
    """Return the path of each image, or None if one is missing."""
    paths: list[str] = []
    for array in _iter_column(part, f"{part.column}.path"):
        values = array.flatten()[0]
        if values.null_count or not pa.types.is_string(values.type):
            return None
        paths += map(escape, values.to_pylist())
    return paths if all(paths) else None


def _read_labels(part: ParquetPart, column: str) -> tuple[Int64, list[str] | None]:
    """Return the labels (N,), or indices into the distinct texts of labels."""
    texts: dict[str, int] = {}
    is_text = False
    values = np.full(len(part), NO_LABEL, np.int64)
    start = 0
    for array in _iter_column(part, column):
        is_text = _is_text(array.type)
        if is_text:
            numbers = np.array([_number(text, texts) for text in array.to_pylist()], np.int64)
        else:
            with _read_errors(part.file):  # a label beyond 64 bits
                array = array.cast(pa.int64())
            numbers = array.fill_null(NO_LABEL).to_numpy(zero_copy_only=False)
        values[start : start + len(numbers)] = np.maximum(numbers, NO_LABEL)
        start += len(numbers)
        if len(texts) > MAX_CLASSES:
            where = f"{display_url(part.file.name)}: {column}"
            raise ClipkitError(f"{where}: expected at most {MAX_CLASSES:,} different labels")
    return values, list(texts) if is_text else None


def _number(text: str | None, texts: dict[str, int]) -> int:
    text = (text or "").strip()
    return texts.setdefault(text, len(texts)) if text else NO_LABEL


def _class_names(feature: Mapping[str, Any] | None, where: str) -> list[str] | None:
    """Return the names that `datasets` has written for a column."""
    names = (feature or {}).get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ClipkitError(f"{where}: expected a list of class names in the file's metadata")
    return [escape(name) for name in names]


def _check_same(tables: Sequence[_Table]) -> None:
    """Refuse files whose labels mean different things."""
    first = tables[0]
    for table in tables[1:]:
        for what, ours, theirs in (
            ("the same column of labels", first.label, table.label),
            ("the same class names", first.class_names, table.class_names),
            ("the same type of labels", first.texts is None, table.texts is None),
        ):
            if ours != theirs:
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
    if len(ids) != len(source.rows) or has_duplicates(ids):
        prefixes = shards.distinct_stems([part.file.name for part in parts])
        if len(set(prefixes)) < len(prefixes):
            raise ClipkitError(f"{display_url(parts[0].file.name)}: expected each file once")
        ids = []
        for prefix, part in zip(prefixes, parts, strict=True):
            ids += [f"{prefix}/{row}" for row in range(len(part))]
    return ImageDataset(ids, None, source)


def _labels(
    tables: Sequence[_Table], split_of: Sequence[str], name: str
) -> tuple[dict[str, Int64], list[str]]:
    """Return the labels of each split and the class names."""
    where = f"labels of {display_url(name)}"
    texts: dict[str, int] = {}
    joined: dict[str, list[Any]] = {}
    for table, split in zip(tables, split_of, strict=True):
        values: Any = table.values
        if table.texts is not None:
            numbers = [texts.setdefault(text, len(texts)) for text in table.texts]
            values = np.array([*numbers, NO_LABEL], np.int32)[values]
        joined.setdefault(split, []).append(values)
        table.values = None
    labels: dict[str, Any] = {split: np.concatenate(values) for split, values in joined.items()}
    del joined, values

    def names_of_numbers() -> list[str] | None:
        return tables[0].class_names or shards.read_class_names(name)

    if tables[0].texts is not None:
        return labels_from_texts(labels, list(texts), lambda _: where, names_of_numbers)
    largest = max(int(values.max(initial=NO_LABEL)) for values in labels.values())
    shown = [] if largest == NO_LABEL else [str(largest)]
    class_names, _ = number_labels(shown, lambda _: where, names_of_numbers)
    return labels, class_names

"""Tables in Parquet, written a block of rows at a time."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipkit.base.errors import ClipkitError, read_errors
from clipkit.features.describe import abridged
from clipkit.features.model import BlockMatrix, FeatureFile, Float32, as_float32
from clipkit.features.npz import MATRICES, OTHERS
from clipkit.features.validation import MAX_CLASSES, MAX_NAMES

METADATA = "clipkit"  # the name of the JSON with what no column holds
ARROW_TYPES = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
# The columns beside `feature`: what they hold, and the array of an .npz that has the same.
COLUMNS_OF_IMAGES = {
    "split": (str, ""),
    "id": (str, "ids"),
    "label": (int, "labels"),
    "class_name": (str, "labels"),  # without numbers
}
COLUMNS_OF_TEXTS = {
    "text": (str, "texts"),
    "class_index": (int, "class_index"),
    "class_name": (str, ""),
}
IMAGE = "image"  # the column of thumbnails, in the form of Hugging Face `datasets`
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGE_ROWS = 1024  # with thumbnails in memory at once


def column_chunks(
    metadata: pq.FileMetaData, groups: Iterable[int] | None = None
) -> Iterator[pq.ColumnChunkMetaData]:
    """Yield what the footer says of each column in row groups, all by default."""
    if groups is None:
        groups = range(metadata.num_row_groups)
    for group in map(metadata.row_group, groups):
        yield from map(group.column, range(group.num_columns))


def value_type(arrow_type: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, which may be in a dictionary."""
    return arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type


def is_text(arrow_type: pa.DataType) -> bool:
    """Whether a column of this type holds texts, also as a dictionary or as bytes."""
    name = str(value_type(arrow_type)).removeprefix("large_").removesuffix("_view")
    return name in ("string", "binary")


def is_number(arrow_type: pa.DataType) -> bool:
    """Whether a column of this type holds numbers."""
    return bool(pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type))


def _is_scalar(arrow_type: pa.DataType) -> bool:
    kind = value_type(arrow_type)
    is_other = pa.types.is_boolean(kind) or pa.types.is_null(kind)
    return is_text(kind) or is_number(kind) or is_other


def _is_text_list(arrow_type: pa.DataType) -> bool:
    return isinstance(arrow_type, LISTS) and is_text(arrow_type.value_type)


def read_table(path: Path, name: str, *, with_features: bool = True) -> dict[str, Any]:
    """Read a table with a column ``feature`` (or ``features``) of lists of numbers.

    Arrays are named as in an .npz. A column that has no place in a feature file is None.
    """
    schema = pq.read_schema(path)
    is_of_texts = "text" in schema.names
    known = COLUMNS_OF_TEXTS if is_of_texts else COLUMNS_OF_IMAGES
    metadata = (schema.metadata or {}).get(METADATA.encode())
    feature = _feature_column(schema, name)
    present = [column for column in known if column in schema.names]
    with _open(path, schema, name, present, feature) as file:
        columns = _values(file, present, name, path.stat().st_size)
        n = file.metadata.num_rows
        features = None
        if with_features:
            features = _features(file.read(columns=[feature]).column(feature), name, feature)
            n = len(features)  # the metadata of an untrusted file may state more
    arrays: dict[str, Any] = dict.fromkeys(set(schema.names) - known.keys() - {feature})
    if metadata is not None:
        arrays.pop(IMAGE, None)  # the thumbnails of an export, which no feature file holds
        arrays[METADATA] = metadata.decode("utf-8", "replace")
    groups = {"": slice(None)} if is_of_texts else _rows_of_splits(columns, n, name)
    for prefix, rows in groups.items():
        if features is not None:
            arrays[f"{prefix}features"] = features[rows]
        for column, (_, key) in known.items():
            if key and column in columns:
                values = np.asarray(columns[column], object)[rows].tolist()
                if values.count(None) < len(values):  # else it is absent from the split
                    arrays.setdefault(f"{prefix}{key}", values)
    if metadata is None and {"label", "class_name"} <= columns.keys():
        arrays |= _class_names(columns["label"], columns["class_name"], name)
    return arrays


def read_cells(path: Path, name: str) -> tuple[list[str], list[tuple[int, list[Any]]]]:
    """Read columns of texts, numbers, truth values and lists of texts: their names, and each row.

    Others are left out.
    """
    with read_errors(name):
        schema = pq.read_schema(path)
        _check_distinct(schema, name)
        names = [
            field.name for field in schema if _is_scalar(field.type) or _is_text_list(field.type)
        ]
        with _open(path, schema, name, names) as file:
            values = _values(file, names, name, path.stat().st_size)
    rows = zip(*(values[column] for column in names), strict=True)
    return names, list(enumerate(map(list, rows)))


def _open(
    path: Path, schema: pa.Schema, name: str, columns: list[str], feature: str = ""
) -> pq.ParquetFile:
    """Open a file; refuse columns that would unpack to much more than the file.

    Texts are read as dictionaries, so that one that fills many rows is in memory once.
    """
    for column in columns:
        arrow_type = schema.field(column).type
        if not _is_scalar(arrow_type) and (feature or not _is_text_list(arrow_type)):
            got = value_type(arrow_type)
            raise ClipkitError(f"{name}: {column}: expected texts or numbers, got {got}")
    texts = [column for column in columns if is_text(schema.field(column).type)]
    leaves = pq.read_metadata(path).schema
    paths = [leaves.column(number).path for number in range(len(leaves))]
    lists = tuple(f"{column}.list." for column in columns)
    texts += [leaf for leaf in paths if leaf.startswith(lists)]
    file = pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts)
    if feature and not file.metadata.num_rows:
        raise ClipkitError(f"{name}: expected rows with a column 'feature', got no rows")
    matrix = others = 0
    for chunk in column_chunks(file.metadata):
        owner = chunk.path_in_schema.partition(".")[0]
        if owner == feature:
            matrix += max(4 * chunk.num_values, chunk.total_uncompressed_size)
        elif owner in columns:
            others += max(8 * chunk.num_values, chunk.total_uncompressed_size)
    size = path.stat().st_size
    MATRICES.check(matrix, size, f"{name}: {feature}")
    OTHERS.check(others, size, f"{name}: columns other than {feature}")
    return file


def _values(file: pq.ParquetFile, columns: list[str], name: str, size: int) -> dict[str, list[Any]]:
    """Return columns as lists; a text that fills many rows may not unpack to much more."""
    table = file.read(columns=columns)
    unpacked = 0
    for column in table.columns:
        texts = pc.list_flatten(column) if isinstance(column.type, LISTS) else column
        for chunk in texts.chunks:
            if pa.types.is_dictionary(chunk.type) and is_text(chunk.type):
                lengths = pc.binary_length(chunk.dictionary)
                unpacked += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    OTHERS.check(unpacked, size, f"{name}: texts")
    return dict(table.to_pydict())


def _check_distinct(schema: pa.Schema, name: str) -> None:
    for column, count in Counter(schema.names).items():
        if count > 1:
            raise ClipkitError(f"{name}: expected each column once, got {column} {count} times")


def _feature_column(schema: pa.Schema, name: str) -> str:
    """Return the name of the column of lists; check the names of all columns."""
    _check_distinct(schema, name)
    feature = "feature" if "feature" in schema.names else "features"
    if feature not in schema.names:
        content = abridged(schema.names)
        raise ClipkitError(f"{name}: expected rows with a column 'feature', got {content}")
    arrow_type = schema.field(feature).type
    if not isinstance(arrow_type, LISTS) or not is_number(arrow_type.value_type):
        raise ClipkitError(f"{name}: {feature}: expected lists of numbers, got {arrow_type}")
    return feature


def _features(lists: pa.ChunkedArray, name: str, feature: str) -> Float32:
    """Return lists as a matrix (N, D); a null number becomes NaN, which no file may hold."""
    widths = pc.list_value_length(lists).fill_null(0).to_numpy()
    wrong = np.flatnonzero(widths != widths[0])
    if len(wrong):
        row = wrong[0]
        raise ClipkitError(
            f"{name}: {feature}: expected {widths[0]} numbers, as in the first row, "
            f"got {widths[row]} in row {row}"
        )
    numbers = pc.list_flatten(lists).to_numpy()
    return as_float32(numbers.reshape(len(lists), widths[0]))


def _rows_of_splits(columns: dict[str, list[Any]], n: int, name: str) -> dict[str, Any]:
    """Return the rows of each split, by what its arrays' names begin with."""
    if "split" not in columns:
        return {"": slice(n)}
    rows: dict[str, list[int]] = {}
    for row, split in enumerate(columns["split"]):
        if split is None:
            raise ClipkitError(f"{name}: split: expected a value in every row, got null")
        rows.setdefault(f"{split}_", []).append(row)
    if len(rows) > MAX_NAMES:
        raise ClipkitError(f"{name}: expected at most {MAX_NAMES:,} splits, got {len(rows):,}")
    return rows


def _class_names(labels: list[Any], names: list[Any], file: str) -> dict[str, list[str]]:
    """Return the names in the order of their labels; a label without a row is its number."""
    known: dict[int, str] = {}
    for label, name in zip(labels, names, strict=True):
        if name is None or not isinstance(label, int) or label < 0:
            continue
        if label >= MAX_CLASSES:
            raise ClipkitError(f"{file}: expected labels below {MAX_CLASSES:,}, got {label}")
        if known.setdefault(label, name) != name:
            both = f"{known[label]!r} and {name!r}"
            raise ClipkitError(f"{file}: label {label}: expected one class_name, got {both}")
    if not known:
        return {}
    return {"class_names": [known.get(label, str(label)) for label in range(max(known) + 1)]}


def write_features(
    path: Path, file: FeatureFile, metadata: str, thumbnails: Mapping[str, Iterator[bytes]] | None
) -> None:
    """Write the features of a file with the other columns, and the metadata as text.

    Thumbnails, for each split one per row, become structs of `bytes` and `path`, which is the id.
    """
    known = COLUMNS_OF_TEXTS if file.kind == "texts" else COLUMNS_OF_IMAGES
    fields = [(column, ARROW_TYPES[kind]) for column, (kind, _) in known.items()]
    matrices = file.matrices()
    width = next(iter(matrices.values())).shape[1]
    fields.append(("feature", pa.list_(pa.float32(), width)))
    if thumbnails is not None:
        fields.append((IMAGE, IMAGE_TYPE))
    schema = pa.schema(fields, {METADATA: metadata})
    with pq.ParquetWriter(
        path, schema, use_dictionary=["split", "class_name"], write_page_checksum=True
    ) as writer:
        for name, matrix in matrices.items():
            split = name.rpartition("/")[0]
            columns = _row_columns(file, split)
            start = 0
            for block in _blocks(matrix, None if thumbnails is None else IMAGE_ROWS):
                stop = start + len(block)
                rows = {column: values[start:stop] for column, values in columns.items()}
                numbers = pa.array(np.ascontiguousarray(block).reshape(-1))
                rows["feature"] = pa.FixedSizeListArray.from_arrays(numbers, width)
                if thumbnails is not None:
                    encoded = pa.array(itertools.islice(thumbnails[split], len(block)), pa.binary())
                    images = [encoded, pa.array(rows["id"])]
                    rows[IMAGE] = pa.StructArray.from_arrays(images, fields=list(IMAGE_TYPE))
                writer.write_table(pa.table(rows, schema))
                start = stop


def _blocks(matrix: BlockMatrix, most: int | None) -> Iterator[Float32]:
    """Yield the blocks (B, D) of a matrix, cut into pieces of at most so many rows."""
    for block in matrix.iter_blocks():
        step = most or len(block)
        for start in range(0, len(block), step):
            yield block[start : start + step]


def _row_columns(file: FeatureFile, split_name: str) -> dict[str, Any]:
    """Return the other columns of a split or, for the name "", of the prompts."""
    if split_name:
        split = file.splits[split_name]
        n = len(split)
        labels = [None] * n if split.labels is None else split.labels.tolist()
        columns = {"split": [split_name] * n, "id": split.ids, "label": labels}
    else:
        labels = np.asarray(file.class_index).tolist()
        columns = {"text": file.texts, "class_index": labels}
    class_names: dict[int | None, str] = dict(enumerate(file.class_names or []))
    return {**columns, "class_name": [class_names.get(label) for label in labels]}


def write_table(
    path: Path, columns: dict[str, type], frames: Iterable[dict[str, list[Any]]]
) -> None:
    """Write columns of str, bool, int or float that come some rows at a time; NaN becomes null."""
    schema = pa.schema([(name, ARROW_TYPES[kind]) for name, kind in columns.items()])
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for frame in frames:
            arrays = [pa.array(frame[f.name], f.type, from_pandas=True) for f in schema]
            writer.write_batch(pa.record_batch(arrays, schema=schema))

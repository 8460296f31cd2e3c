"""Tables in Parquet, written a block of rows at a time. The only importer of pyarrow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipkit.errors import ClipkitError
from clipkit.features.model import FeatureFile, Float32, as_float32
from clipkit.features.npz import check_size

METADATA = "clipkit"  # the name of the JSON with what no column holds
ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
COLUMNS_OF_IMAGES = {"split": str, "id": str, "label": int, "class_name": str}
COLUMNS_OF_TEXTS = {"text": str, "class_index": int, "class_name": str}


def read_table(path: Path, name: str) -> dict[str, Any]:
    """Read a table with a column ``feature`` (or ``features``) of lists of numbers.

    Returns
    -------
    dict of str to array, list or None
        Named like the arrays of an .npz. A column that has no place in a feature file is None.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        feature = "feature" if "feature" in schema.names else "features"
        if feature not in schema.names or not file.metadata.num_rows:
            content = ", ".join(schema.names) if file.metadata.num_rows else "no rows"
            raise ClipkitError(f"{name}: expected rows with a column 'feature', got {content}")
        for column, count in Counter(schema.names).items():
            if count > 1:
                raise ClipkitError(f"{name}: expected each column once, got {column} {count} times")
        _check_lists(schema.field(feature).type, f"{name}: {feature}")
        check_size(4 * _count_numbers(file.metadata, feature), path.stat().st_size, name)
        known = COLUMNS_OF_TEXTS if "text" in schema.names else COLUMNS_OF_IMAGES
        table = file.read(columns=[feature, *known])
    arrays: dict[str, Any] = dict.fromkeys(set(schema.names) - known.keys() - {feature})
    metadata = (schema.metadata or {}).get(METADATA.encode())
    if metadata is not None:
        arrays[METADATA] = metadata.decode("utf-8", "replace")
    features = _features(table.column(feature), f"{name}: {feature}")
    columns = table.drop_columns([feature]).to_pydict()
    if "text" in columns:
        arrays |= {"features": features, "texts": columns["text"]}
        if "class_index" in columns:
            arrays["class_index"] = columns["class_index"]
        return arrays
    arrays |= _splits(features, columns, name)
    if metadata is None and {"label", "class_name"} <= columns.keys():
        arrays |= _class_names(columns["label"], columns["class_name"], name)
    return arrays


def _check_lists(arrow_type: pa.DataType, name: str) -> None:
    number = getattr(arrow_type, "value_type", pa.null())
    is_number = pa.types.is_integer(number) or pa.types.is_floating(number)
    if not isinstance(arrow_type, LISTS) or not is_number:
        raise ClipkitError(f"{name}: expected lists of numbers, got {arrow_type}")


def _count_numbers(metadata: pq.FileMetaData, feature: str) -> int:
    """Return how many numbers the lists of a column hold."""
    count = 0
    for group in range(metadata.num_row_groups):
        columns = map(metadata.row_group(group).column, range(metadata.num_columns))
        count += sum(c.num_values for c in columns if c.path_in_schema.startswith(f"{feature}."))
    return count


def _features(lists: pa.ChunkedArray, name: str) -> Float32:
    """Return lists as a matrix (N, D); a null number becomes NaN, which no file may hold."""
    widths = pc.list_value_length(lists).fill_null(0).to_numpy()
    wrong = np.flatnonzero(widths != widths[0])
    if len(wrong):
        row = wrong[0]
        raise ClipkitError(
            f"{name}: expected {widths[0]} numbers, as in the first row, "
            f"got {widths[row]} in row {row}"
        )
    numbers = pc.list_flatten(lists).to_numpy()
    return as_float32(numbers.reshape(len(lists), widths[0]))


def _splits(features: Float32, columns: dict[str, list[Any]], name: str) -> dict[str, Any]:
    """Return the arrays of every split; a column that is null in all of its rows is absent."""
    split_names = columns.get("split", [""] * len(features))
    if None in split_names:
        raise ClipkitError(f"{name}: split: expected a value in every row, got null")
    split_of_row = np.array(split_names)
    arrays: dict[str, Any] = {}
    for split in dict.fromkeys(split_names):
        prefix = f"{split}_" if "split" in columns else ""
        rows = np.flatnonzero(split_of_row == split).tolist()
        arrays[f"{prefix}features"] = features[rows]
        for column, key in (("id", "ids"), ("class_name", "labels"), ("label", "labels")):
            values = [columns[column][row] for row in rows] if column in columns else []
            if values.count(None) < len(values):
                arrays[f"{prefix}{key}"] = values
    return arrays


def _class_names(labels: list[Any], names: list[Any], file: str) -> dict[str, list[str]]:
    """Return the names in the order of their labels; a label without a row is its number."""
    known: dict[int, str] = {}
    for label, name in zip(labels, names, strict=True):
        if name is None or not isinstance(label, int) or label < 0:
            continue
        if known.setdefault(label, name) != name:
            both = f"{known[label]!r} and {name!r}"
            raise ClipkitError(f"{file}: label {label}: expected one class_name, got {both}")
    if not known:
        return {}
    return {"class_names": [known.get(label, str(label)) for label in range(max(known) + 1)]}


def write_features(path: Path, file: FeatureFile, metadata: str) -> None:
    """Write the features of a file with the other columns, and the metadata as text."""
    columns = _schema(COLUMNS_OF_TEXTS if file.kind == "texts" else COLUMNS_OF_IMAGES)
    matrices = file.matrices()
    width = next(iter(matrices.values())).shape[1]
    feature = pa.field("feature", pa.list_(pa.float32(), width))
    schema = columns.append(feature).with_metadata({METADATA: metadata})
    with pq.ParquetWriter(
        path, schema, use_dictionary=["split", "class_name"], write_page_checksum=True
    ) as writer:
        for name, matrix in matrices.items():
            others = pa.table(_row_columns(file, name.rpartition("/")[0]), columns)
            start = 0
            for block in matrix.iter_blocks():
                numbers = pa.array(np.ascontiguousarray(block).reshape(-1))
                lists = pa.FixedSizeListArray.from_arrays(numbers, width)
                rows = others.slice(start, len(block)).append_column(feature, lists)
                writer.write_table(rows.replace_schema_metadata(schema.metadata))
                start += len(block)


def _row_columns(file: FeatureFile, split_name: str) -> dict[str, list[Any]]:
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


def _schema(columns: dict[str, type]) -> pa.Schema:
    return pa.schema([(name, ARROW_TYPES[kind]) for name, kind in columns.items()])


def write_table(
    path: Path, columns: dict[str, type], frames: Iterable[dict[str, list[Any]]]
) -> None:
    """Write columns of str, int or float that come some rows at a time; NaN becomes null."""
    schema = _schema(columns)
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for frame in frames:
            arrays = [pa.array(frame[f.name], f.type, from_pandas=True) for f in schema]
            writer.write_batch(pa.record_batch(arrays, schema=schema))

"""Tables in Parquet, written a block of rows at a time. The only importer of pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipkit.errors import ClipkitError
from clipkit.features.model import FeatureFile, Float32, as_float32

METADATA = "clipkit"
ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
COLUMNS_OF_IMAGES = {"split": str, "id": str, "label": int, "class_name": str}
COLUMNS_OF_TEXTS = {"text": str, "class_index": int, "class_name": str}


@contextlib.contextmanager
def open_table(path: Path, name: str) -> Iterator[Table]:
    """Open a table with a column ``feature`` (or ``features``) of lists of numbers."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield Table(file, name)


class Table:
    """A table of images or prompts, still unread.

    Parameters
    ----------
    file : pyarrow.parquet.ParquetFile
    name : str
        What errors call it.
    """

    def __init__(self, file: pq.ParquetFile, name: str) -> None:
        self.file = file
        self.name = name
        self.columns = set(file.schema_arrow.names)
        self.rows = int(file.metadata.num_rows)
        self.feature = "feature" if "feature" in self.columns else "features"
        if self.feature not in self.columns or not self.rows:
            content = ", ".join(file.schema_arrow.names) if self.rows else "no rows"
            raise ClipkitError(f"{name}: expected rows with a column 'feature', got {content}")
        self.width = self._width()

    def _width(self) -> int:
        """Return the length of the features: that of the type, or of the first row."""
        list_type = self.file.schema_arrow.field(self.feature).type
        is_fixed = pa.types.is_fixed_size_list(list_type)
        is_list = is_fixed or pa.types.is_list(list_type) or pa.types.is_large_list(list_type)
        if not is_list or not _is_number(list_type.value_type):
            where = f"{self.name}: {self.feature}"
            raise ClipkitError(f"{where}: expected lists of numbers, got {list_type}")
        if is_fixed:
            return int(list_type.list_size)
        first = next(self.file.iter_batches(1, columns=[self.feature])).column(0)[0].as_py()
        return len(first or ())

    def arrays(self) -> dict[str, Any]:
        """Return the content as matrices and lists, named like the arrays of an .npz.

        A column that has no place in a feature file has the value None.
        """
        known = COLUMNS_OF_TEXTS if "text" in self.columns else COLUMNS_OF_IMAGES
        columns = self.file.read(columns=sorted(self.columns & known.keys())).to_pydict()
        arrays: dict[str, Any] = dict.fromkeys(self.columns - known.keys() - {self.feature})
        metadata = (self.file.schema_arrow.metadata or {}).get(METADATA.encode())
        if metadata is not None:
            arrays[METADATA] = metadata.decode("utf-8", "replace")
        if "text" in columns:
            arrays["features"] = self._features()
            arrays["texts"] = columns["text"]
            if "class_index" in columns:
                arrays["class_index"] = columns["class_index"]
            return arrays
        arrays |= self._splits(columns)
        if metadata is None and {"label", "class_name"} <= columns.keys():
            arrays |= self._class_names(columns["label"], columns["class_name"])
        return arrays

    def _splits(self, columns: dict[str, list[Any]]) -> dict[str, Any]:
        """Return the arrays of every split; a column that is null in all of its rows is absent."""
        names = columns.get("split", [""] * self.rows)
        if None in names:
            raise ClipkitError(f"{self.name}: split: expected a value in every row, got null")
        features = self._features()
        split_of_row = np.array(names)
        arrays: dict[str, Any] = {}
        for name in dict.fromkeys(names):
            prefix = f"{name}_" if "split" in columns else ""
            rows = np.flatnonzero(split_of_row == name).tolist()
            arrays[f"{prefix}features"] = features[rows]
            for column, key in (("id", "ids"), ("class_name", "labels"), ("label", "labels")):
                values = [columns[column][row] for row in rows] if column in columns else []
                if values.count(None) < len(values):
                    arrays[f"{prefix}{key}"] = values
        return arrays

    def _class_names(self, labels: list[Any], names: list[Any]) -> dict[str, list[str]]:
        """Return the names in the order of their labels; a label without a row is its number."""
        known: dict[int, str] = {}
        for label, name in zip(labels, names, strict=True):
            if name is None or not isinstance(label, int) or label < 0:
                continue
            if known.setdefault(label, name) != name:
                both = f"{known[label]!r} and {name!r}"
                raise ClipkitError(
                    f"{self.name}: label {label}: expected one class_name, got {both}"
                )
        if not known:
            return {}
        return {"class_names": [known.get(label, str(label)) for label in range(max(known) + 1)]}

    def _features(self) -> Float32:
        """Read the features (N, D); a null number becomes NaN, which no file may hold."""
        if not self.width:
            return np.empty((self.rows, 0), np.float32)  # which no file may hold, either
        lists = self.file.read(columns=[self.feature]).column(0)
        widths = pc.list_value_length(lists).fill_null(0).to_numpy()
        wrong = np.flatnonzero(widths != self.width)
        if len(wrong):
            row = wrong[0]
            raise ClipkitError(
                f"{self.name}: {self.feature}: expected {self.width} numbers, as in the first row, "
                f"got {widths[row]} in row {row}"
            )
        numbers = pc.list_flatten(lists).to_numpy()
        return as_float32(numbers.reshape(self.rows, self.width))


def _is_number(arrow_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type))


def write_features(path: Path, file: FeatureFile, metadata: str) -> None:
    """Write the features of a file with the other columns, and the metadata as text."""
    columns = COLUMNS_OF_TEXTS if file.kind == "texts" else COLUMNS_OF_IMAGES
    fields = [(name, ARROW_TYPES[kind]) for name, kind in columns.items()]
    width = next(iter(file.matrices().values())).shape[1]
    fields.append(("feature", pa.list_(pa.float32(), width)))
    schema = pa.schema(fields, {METADATA: metadata})
    with pq.ParquetWriter(
        path, schema, use_dictionary=["split", "class_name"], write_page_checksum=True
    ) as writer:
        for name, matrix in file.matrices().items():
            values = _row_columns(file, name.rpartition("/")[0])
            start = 0
            for block in matrix.iter_blocks():
                stop = start + len(block)
                arrays = [
                    pa.array(values[key][start:stop], ARROW_TYPES[columns[key]]) for key in columns
                ]
                numbers = pa.array(np.ascontiguousarray(block).reshape(-1))
                arrays.append(pa.FixedSizeListArray.from_arrays(numbers, width))
                writer.write_batch(pa.record_batch(arrays, schema=schema))
                start = stop


def _row_columns(file: FeatureFile, split_name: str) -> dict[str, list[Any]]:
    """Return the other columns of a split or, for the name "", of the prompts."""
    class_names = dict(enumerate(file.class_names or []))
    if not split_name:
        index = np.asarray(file.class_index).tolist()
        names = [class_names.get(label) for label in index]
        return {"text": file.texts or [], "class_index": index, "class_name": names}
    split = file.splits[split_name]
    labels: list[Any] = [None] * len(split)
    if split.labels is not None:
        labels = split.labels.tolist()
    names = [class_names.get(label) for label in labels]
    splits = [split_name] * len(split)
    return {"split": splits, "id": split.ids, "label": labels, "class_name": names}


def write_table(
    path: Path, columns: dict[str, type], frames: Iterable[dict[str, list[Any]]]
) -> None:
    """Write columns of str, int or float that come some rows at a time; NaN becomes null."""
    schema = pa.schema([(name, ARROW_TYPES[kind]) for name, kind in columns.items()])
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for frame in frames:
            arrays = [
                pa.array(frame[name], ARROW_TYPES[kind], from_pandas=True)
                for name, kind in columns.items()
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))

"""`.parquet`: one row an image or prompt. The only importer of pyarrow."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipkit.errors import ClipkitError, UsageError
from clipkit.features._found import (
    BLOCK_BYTES,
    UNNAMED,
    Float32,
    Found,
    check_size,
    choose,
    complete,
    dump_about,
    floats,
    parse_about,
    strings,
    whole,
)

ABOUT = b"clipkit"
CARRIED = (
    "class_names",
    "texts",
    "class_index",
)  # what has no row of its own, beside the attributes
TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
OF_TEXTS, OF_IMAGES = {"text", "class_index", "class_name"}, {"split", "id", "label", "class_name"}


@contextlib.contextmanager
def opened(path: Path, shown: str, split: str | None) -> Iterator[Found]:
    """Open a table with a column ``feature`` of lists of numbers; see `clipkit.features.formats.opened`."""
    with contextlib.ExitStack() as stack:
        with _damaged(shown):
            file = stack.enter_context(pq.ParquetFile(path, page_checksum_verification=True))
            found = _found(_Table(file, shown, path.stat().st_size), split)
        yield found


@contextlib.contextmanager
def _damaged(shown: str) -> Iterator[None]:
    try:
        yield
    except (ClipkitError, MemoryError):  # Arrow's own is one
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ClipkitError(
            f"{shown} must be a sound Parquet file; got: {reason}", "write the file again"
        ) from error


class _Table:
    """A Parquet file's columns; everything but the features is read at once."""

    def __init__(self, file: pq.ParquetFile, shown: str, size: int) -> None:
        self.file, self.shown, self.schema = file, shown, file.schema_arrow
        self.rows = int(file.metadata.num_rows)
        names = set(self.schema.names)
        self.feature = next((name for name in ("feature", "features") if name in names), "")
        if not self.feature or not self.rows:
            there = ", ".join(self.schema.names) if self.rows else "no rows"
            raise ClipkitError(f"{shown} must have rows with a column 'feature'; it has {there}")
        self.width = self._width()
        if not self.width:
            raise ClipkitError(
                f"{shown}: {self.feature} must be lists of at least one number; the first is empty"
            )
        check_size(self.rows * self.width * 4, size, shown)

    def _width(self) -> int:
        type_ = self.schema.field(self.feature).type
        kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        value = type_.value_type if any(kind(type_) for kind in kinds) else None
        if value is None or not (pa.types.is_integer(value) or pa.types.is_floating(value)):
            raise ClipkitError(
                f"{self.shown}: {self.feature} must be lists of numbers; got {type_}"
            )
        if pa.types.is_fixed_size_list(type_):
            return int(type_.list_size)
        first = next(self.file.iter_batches(1, columns=[self.feature])).column(0)[0].as_py()
        return len(first or ())

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self.schema.names

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column; categories are written out."""
        column = self.file.read(columns=[name]).column(0)
        return (
            column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        )

    def texts(self, name: str) -> list[str]:
        """A column without nulls as strings."""
        column = self.column(name)
        if column.null_count:
            raise ClipkitError(
                f"{self.shown}: {name} must have a value in every row; {column.null_count} have none"
            )
        return strings(column.to_pylist(), f"{self.shown}: {name}")

    def iter_blocks(self, rows: NDArray[np.bool_]) -> Iterator[Float32]:
        """The features of the rows (N) marked, (B, D) at a time."""
        at, step = 0, max(1, BLOCK_BYTES // (4 * self.width))
        with _damaged(self.shown):
            for batch in self.file.iter_batches(step, columns=[self.feature]):
                column, n = batch.column(0), batch.num_rows
                lengths = np.asarray(pc.list_value_length(column).fill_null(-1))
                if len(bad := np.flatnonzero(lengths != self.width)):
                    got = "none" if lengths[bad[0]] < 0 else lengths[bad[0]]
                    raise ClipkitError(
                        f"{self.shown}: every {self.feature} must have {self.width} values, as the first has; "
                        f"row {at + bad[0]} has {got}"
                    )
                values = column.flatten().to_numpy(
                    zero_copy_only=False
                )  # a null becomes NaN, which the store refuses
                yield floats(values.reshape(n, self.width)[rows[at : at + n]])
                at += n


@dataclass(frozen=True)
class _Part:
    """The features of some rows (N) of a table."""

    table: _Table
    rows: NDArray[np.bool_]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return (int(self.rows.sum()), self.table.width)

    def iter_blocks(self) -> Iterator[Float32]:
        """Blocks (B, D)."""
        return self.table.iter_blocks(self.rows)


def _found(table: _Table, split: str | None) -> Found:
    about, carried = _about(table)
    kind = about.get("kind") or ("texts" if table.has("text") else "images")
    known = {table.feature} | (OF_TEXTS if kind == "texts" else OF_IMAGES)
    found = Found(
        kind, dict(carried), about, [name for name in table.schema.names if name not in known]
    )
    every = np.ones(table.rows, bool)
    if kind == "texts":
        if split is not None:
            raise UsageError(
                f"{table.shown} holds texts, which have no splits; got split {split!r}"
            )
        found.arrays |= {"features": _Part(table, every), "texts": table.texts("text")}
        if table.has("class_index"):
            found.arrays["class_index"] = _labels(table, "class_index", every)
    else:
        ids = table.texts("id") if table.has("id") else None
        of = np.asarray(
            table.texts("split") if table.has("split") else [split or UNNAMED] * table.rows
        )
        for name in choose(split, list(dict.fromkeys(of.tolist())), table.shown):
            found.arrays |= _split(table, name, of == name, ids)
        if table.has("label") and table.has("class_name") and "class_names" not in carried:
            found.arrays |= _class_names(table)
    return complete(found, table.shown)


def _split(
    table: _Table, name: str, rows: NDArray[np.bool_], ids: list[str] | None
) -> dict[str, Any]:
    """One split's arrays; labels that are null in all of its rows are not there."""
    arrays: dict[str, Any] = {f"{name}/features": _Part(table, rows)}
    if ids is not None:
        arrays[f"{name}/ids"] = [ids[i] for i in np.flatnonzero(rows)]
    for column in ("label", "class_name"):
        if table.has(column) and f"{name}/labels" not in arrays:
            labels = _labels(table, column, rows)
            arrays |= {} if labels is None else {f"{name}/labels": labels}
    return arrays


def _labels(table: _Table, name: str, rows: NDArray[np.bool_]) -> Any:
    shown, column = f"{table.shown}: {name}", table.column(name).filter(pa.array(rows))
    if column.null_count == len(column):
        return None
    if column.null_count:
        raise ClipkitError(
            f"{shown} must be there for all rows of a split or none; {column.null_count} of {len(column)} have none"
        )
    values = column.to_pylist()
    return (
        strings(values, shown) if isinstance(values[0], str) else whole(np.asarray(values), shown)
    )


def _class_names(table: _Table) -> dict[str, list[str]]:
    """Names by label, of rows that have both; a label without a row is called by its number."""
    pairs = set(
        zip(table.column("label").to_pylist(), table.column("class_name").to_pylist(), strict=True)
    )
    pairs = {
        (label, name)
        for label, name in pairs
        if name is not None and isinstance(label, int) and label >= 0
    }
    if not pairs:
        return {}
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ClipkitError(f"{table.shown}: each label must have one class_name; one has two")
    return {"class_names": [names.get(label, str(label)) for label in range(max(names) + 1)]}


def _about(table: _Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """What clipkit said of a file that it wrote: attributes, and what has no row of its own."""
    text = (table.schema.metadata or {}).get(ABOUT)
    if text is None:
        return {}, {}
    text = text.decode("utf-8", "replace")
    about, said = parse_about(text, table.shown), json.loads(text)
    carried: dict[str, Any] = {
        name: strings(said[name], f"{table.shown}: {name}") for name in CARRIED if name in said
    }
    if "class_index" in carried:
        carried["class_index"] = whole(
            np.asarray(said["class_index"]), f"{table.shown}: class_index"
        )
    return about, carried


def write(path: Path, datasets: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write split, id, label, class_name, feature of images; text, class_index, class_name, feature of texts."""
    carried = {
        name: datasets[name]
        for name in CARRIED
        if name in datasets and (name == "class_names" or about["kind"] == "logits")
    }
    said = {**about, **{name: np.asarray(value).tolist() for name, value in carried.items()}}
    features = {
        name: value for name, value in datasets.items() if name.rpartition("/")[2] == "features"
    }
    width = next(iter(features.values())).shape[1]
    first = (
        {"text": str, "class_index": int}
        if about["kind"] == "texts"
        else {"split": str, "id": str, "label": int}
    )
    schema = pa.schema([(name, TYPES[of]) for name, of in {**first, "class_name": str}.items()])
    schema = schema.append(pa.field("feature", pa.list_(pa.float32(), width))).with_metadata(
        {ABOUT: dump_about(said).encode()}
    )
    with pq.ParquetWriter(
        path, schema, use_dictionary=["split", "class_name"], write_page_checksum=True
    ) as writer:
        for name, matrix in features.items():
            at, columns = 0, _columns(datasets, name.rpartition("/")[0])
            for block in matrix.iter_blocks():
                rows = slice(at, at + len(block))
                here = [
                    pa.array(column[rows], schema.field(i).type) for i, column in enumerate(columns)
                ]
                values = pa.FixedSizeListArray.from_arrays(
                    pa.array(np.ascontiguousarray(block).reshape(-1)), width
                )
                writer.write_batch(pa.record_batch([*here, values], schema=schema))
                at += len(block)


def _columns(datasets: Mapping[str, Any], split: str) -> list[list[Any]]:
    """What stands beside the features of a split, or of texts."""
    names = datasets.get("class_names")
    if split:
        ids, labels = datasets[f"{split}/ids"], datasets.get(f"{split}/labels")
        numbers = [None] * len(ids) if labels is None else labels.tolist()
        columns: list[list[Any]] = [[split] * len(ids), ids, numbers]
    else:
        numbers = datasets["class_index"].tolist()
        columns = [datasets["texts"], numbers]
    return [*columns, [names[i] if names and i is not None and i >= 0 else None for i in numbers]]


def write_columns(
    path: Path, columns: Mapping[str, type], frames: Iterable[Mapping[str, list[Any]]]
) -> None:
    """Write a table that comes a few rows at a time; NaN, which stands for what does not apply, becomes null."""
    schema = pa.schema([(name, TYPES[of]) for name, of in columns.items()])
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for frame in frames:
            arrays = [
                pa.array(frame[name], schema.field(name).type, from_pandas=True) for name in columns
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))

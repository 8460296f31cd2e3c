"""Tables in Parquet, written a block of rows at a time."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipkit.base.bounds import MATRICES, MAX_CLASSES, MAX_NAMES, OTHERS
from clipkit.base.errors import ClipkitError, UsageError, read_errors, unknown
from clipkit.base.matrices import BlockMatrix, Float32, as_float32
from clipkit.base.names import abridged, distinct_names
from clipkit.features.clusters import has_clusters
from clipkit.features.model import METADATA, FeatureFile

ARROW_TYPES = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
# The columns beside `feature`: what they hold, and the array of an .npz that has the same.
COLUMNS_OF_IMAGES = {
    "split": (str, ""),
    "id": (str, "ids"),
    "label": (int, "labels"),
    "class_name": (str, "labels"),  # without numbers
    "cluster": (int, "cluster"),
}
COLUMNS_OF_TEXTS = {
    "text": (str, "texts"),
    "class_index": (int, "class_index"),
    "class_name": (str, "class_index"),  # without numbers
}
# Columns of texts that are read. An export has the image of a caption as its class
READ_OF_TEXTS = {
    **COLUMNS_OF_TEXTS,
    "image_id": (str, "image_ids"),
    "image_ids": (str, "image_ids"),  # as in an .npz
}
# Columns that hold the ids of images where none is called `id`, as other tools write them.
ID_COLUMNS = ("filename", "file_name", "image_path", "path", "frame_idx", "image_id", "key")
FIRST_OF_WIDE = "feature_0"  # dinotool writes a column for each number of a vector
HUGGING_FACE = b"huggingface"  # the name of the JSON in which `datasets` has the columns' types
IMAGE = "image"  # the column of thumbnails, in the form of Hugging Face `datasets`
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGE_ROWS = 1024  # with thumbnails in memory at once


def first_cells(path: str, column: str) -> list[Any]:
    """Return the first cells of a column, at most 10,000."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(10_000, columns=[column]):
            cells: list[Any] = batch.column(0).to_pylist()
            return cells
    return []


def column_chunks(
    metadata: pq.FileMetaData, groups: Iterable[int] | None = None
) -> Iterator[pq.ColumnChunkMetaData]:
    """Yield what the footer says of each column in row groups, all by default."""
    if groups is None:
        groups = range(metadata.num_row_groups)
    for group in map(metadata.row_group, groups):
        yield from map(group.column, range(group.num_columns))


def leaf_paths(metadata: pq.FileMetaData) -> list[str]:
    """Return the path of each column of values, such as `image.bytes` in structs."""
    return [metadata.schema.column(number).path for number in range(metadata.num_columns)]


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


def _is_time(arrow_type: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_date(arrow_type) or types.is_timestamp(arrow_type) or types.is_time(arrow_type)
    )


def _is_cell(arrow_type: pa.DataType) -> bool:
    """Whether a table of attributes can have a column of this type."""
    is_other = pa.types.is_decimal(arrow_type) or _is_time(arrow_type)
    return is_other or _is_scalar(arrow_type) or _is_text_list(arrow_type)


def _type_name(arrow_type: pa.DataType) -> str:
    """Return the type without its parameters: `struct` of `struct<a: int64>`."""
    return re.split(r"[<(\[]", str(arrow_type))[0]


def declared_features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return what `datasets` says of each column, or nothing."""
    try:
        features = json.loads(metadata[HUGGING_FACE])["info"]["features"]
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def read_table(
    paths: Sequence[Path],
    name: str,
    chosen: Mapping[str, str] | None = None,
    *,
    matrices: Sequence[Float32] = (),
) -> dict[str, Any]:
    """Read a table with a column ``feature`` of lists of numbers, or columns ``feature_0`` to N.

    Any other column of lists is taken if it is the only one. The table may be in parts, and the
    features of each part may be among `matrices` instead. `chosen` names the columns for
    ``feature``, ``id`` and so on if they are called otherwise. Arrays are named as in an .npz. A
    column that has no place in a feature file is None.
    """
    schema = pq.read_schema(paths[0])
    chosen = dict(chosen or {})
    is_of_texts = "text" in (chosen if matrices else schema.names)
    known = COLUMNS_OF_IMAGES
    if is_of_texts:
        known = READ_OF_TEXTS
        chosen = {("image_id" if key == "id" else key): column for key, column in chosen.items()}
    features_of: list[str] = []
    if not matrices:
        features_of = _feature_columns(schema, name, chosen.pop("feature", None))
    source_of = _choose_columns(schema, known, chosen, name)
    sources = list(source_of.values())
    cells, features = _read_parts(paths, name, schema, sources, features_of, matrices)
    columns = {column: cells[source] for column, source in source_of.items()}
    if source_of.get("id", "id") != "id":
        _check_ids(columns["id"], f"{name}: {source_of['id']}")
    arrays: dict[str, Any] = {}
    if not matrices:
        arrays |= dict.fromkeys(set(schema.names).difference(known, features_of, sources))
    rows_of = {"": slice(None)}
    if not is_of_texts:
        rows_of = _rows_of_splits(columns, len(features), name)
    for prefix, rows in rows_of.items():
        arrays[f"{prefix}features"] = features[rows]
        arrays |= _arrays_of_rows(columns, known, prefix, rows)
    metadata = schema.metadata or {}
    if METADATA.encode() in metadata:
        arrays.pop(IMAGE, None)  # the thumbnails of an export, which no feature file holds
        arrays[METADATA] = metadata[METADATA.encode()].decode("utf-8", "replace")
    else:
        label = declared_features(metadata).get(source_of.get("label", ""), {})
        arrays |= _class_names(columns, label.get("names"), name)
    return arrays


def _arrays_of_rows(
    columns: Mapping[str, list[Any]], known: Mapping[str, tuple[type, str]], prefix: str, rows: Any
) -> dict[str, list[Any]]:
    """Return the arrays of some rows; a column without values there is left out."""
    arrays: dict[str, list[Any]] = {}
    for column, values in columns.items():
        key = known[column][1]
        of_rows = np.asarray(values, object)[rows].tolist()
        has_values = of_rows.count(None) < len(of_rows)
        if key and has_values:
            arrays.setdefault(f"{prefix}{key}", of_rows)
    return arrays


def _read_parts(
    paths: Sequence[Path],
    name: str,
    schema: pa.Schema,
    sources: list[str],
    features_of: list[str],
    matrices: Sequence[Float32],
) -> tuple[dict[str, list[Any]], Float32]:
    """Read the cells of columns, and the features of all parts."""
    cells: dict[str, list[Any]] = {source: [] for source in sources}
    features = list(matrices)
    for number, path in enumerate(paths):
        part = name if len(paths) == 1 else str(path)
        if _content(pq.read_schema(path)) != _content(schema):
            raise ClipkitError(f"{part}: expected the columns and class names of {paths[0].name}")
        size = path.stat().st_size
        with _open(path, size, schema, part, sources, features_of) as file:
            for source, values in _values(file, sources, part, path.stat().st_size).items():
                cells[source] += values
            if features_of:
                features.append(_features(file.read(columns=features_of), part, features_of))
            elif file.metadata.num_rows != len(matrices[number]):
                expected = f"{len(matrices[number])} rows, as its features have"
                raise ClipkitError(f"{path}: expected {expected}, got {file.metadata.num_rows}")
    return cells, features[0] if len(features) == 1 else np.concatenate(features)


def _content(schema: pa.Schema) -> tuple[list[pa.Field], bytes | None, bytes | None]:
    """Return what the parts of a table have in common: columns, and what is said of them."""
    metadata = schema.metadata or {}
    return list(schema), metadata.get(HUGGING_FACE), metadata.get(METADATA.encode())


def _choose_columns(
    schema: pa.Schema, known: Mapping[str, Any], chosen: Mapping[str, str], name: str
) -> dict[str, str]:
    """Return the file's column for each known column that it has."""
    present = {column: column for column in known if column in schema.names}
    ids = [column for column in ID_COLUMNS if column in schema.names]
    if "id" in known and ids:
        present.setdefault("id", ids[0])
    if "text" in known and "image_path" in schema.names:
        present.setdefault("class_name", "image_path")  # a caption belongs to its image
    for column, source in chosen.items():
        if column not in known:
            raise UsageError(f"--{column}-column: no such column in the table {name}")
        if source not in schema.names:
            raise unknown(f"column of {name}", source, schema.names)
        present[column] = source
    if "label" in chosen:
        present.pop("class_name", None)
    return present


def _check_ids(ids: list[Any], where: str) -> None:
    """Refuse a column as ids if one is there twice, as it is where each row is a patch."""
    row_id, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise ClipkitError(
            f"{where}: expected a row for each image, got {times} rows for {row_id!r}",
            "choose another column with --id-column; of dinotool, save the features of frames",
        )


def read_cells(data: bytes, name: str) -> dict[str, list[Any]]:
    """Read columns of texts, numbers, truth values, lists of texts, decimals, dates and times.

    Decimals, with all their digits, dates and times become texts. `left_out` has the columns of
    other types.
    """
    with read_errors(name):
        source = pa.BufferReader(data)
        schema = pq.read_schema(source)
        _check_distinct(schema, name)
        names = [field.name for field in schema if _is_cell(field.type)]
        with _open(source, len(data), schema, name, names) as file:
            return _values(file, names, name, len(data))


def left_out(data: bytes, name: str) -> dict[str, str]:
    """Return the columns that `read_cells` leaves out, and the type of each."""
    with read_errors(name):
        schema = pq.read_schema(pa.BufferReader(data))
    return {field.name: _type_name(field.type) for field in schema if not _is_cell(field.type)}


def _open(
    source: Path | pa.BufferReader,
    size: int,
    schema: pa.Schema,
    name: str,
    columns: list[str],
    features: Sequence[str] = (),
) -> pq.ParquetFile:
    """Open a file of `size` bytes; refuse columns that would unpack to much more than the file.

    Texts are read as dictionaries, so that one that fills many rows is in memory once.
    """
    for column in columns:
        arrow_type = schema.field(column).type
        is_cell = not features and _is_cell(arrow_type)
        if not _is_scalar(arrow_type) and not is_cell:
            got = value_type(arrow_type)
            raise ClipkitError(f"{name}: {column}: expected texts or numbers, got {got}")
    texts = [column for column in columns if is_text(schema.field(column).type)]
    lists = tuple(f"{column}.list." for column in columns)
    texts += [leaf for leaf in leaf_paths(pq.read_metadata(source)) if leaf.startswith(lists)]
    file = pq.ParquetFile(source, page_checksum_verification=True, read_dictionary=texts)
    if features and not file.metadata.num_rows:
        raise ClipkitError(f"{name}: expected rows with a column 'feature', got no rows")
    matrix = others = 0
    for chunk in column_chunks(file.metadata):
        owner = chunk.path_in_schema.partition(".")[0]
        if owner in features:
            matrix += max(4 * chunk.num_values, chunk.total_uncompressed_size)
        elif owner in columns:
            others += max(8 * chunk.num_values, chunk.total_uncompressed_size)
    feature = features[0] if features else "features"
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
    cells = {}
    for title, column in zip(table.column_names, table.columns, strict=True):
        if _is_time(column.type):
            column = pc.cast(column, pa.string())
        cells[title] = column.to_pylist()
        if pa.types.is_decimal(column.type):
            cells[title] = [_digits(cell) for cell in cells[title]]
    return cells


def _digits(number: Decimal | None) -> str | None:
    """Return a decimal number without zeros at its end: float64 holds no more than 17 digits.

    >>> _digits(Decimal("1.50")), _digits(Decimal("12345678901234567890.00"))
    ('1.5', '12345678901234567890')
    """
    if number is None:
        return None
    text = format(number, "f")
    return text.rstrip("0").removesuffix(".") if "." in text else text


def _check_distinct(schema: pa.Schema, name: str) -> None:
    for column, count in Counter(schema.names).items():
        if count > 1:
            raise ClipkitError(f"{name}: expected each column once, got {column} {count} times")


def _feature_columns(schema: pa.Schema, name: str, chosen: str | None) -> list[str]:
    """Return the column of lists, or the columns of a number each; check all columns' names."""
    _check_distinct(schema, name)
    if chosen and chosen not in schema.names:
        raise unknown(f"column of {name}", chosen, schema.names)
    columns = _vector_columns(schema, chosen)
    if len(columns) > 1:
        raise UsageError(
            f"{name}: expected one column of features, got {abridged(columns)}",
            "choose one with --feature-column",
        )
    if not columns:
        n = sum(column.startswith("feature_") for column in schema.names)
        wide = [f"feature_{number}" for number in range(n)]
        if set(schema.names).issuperset(wide):
            columns = wide
    if not columns:
        content = abridged(schema.names)
        raise ClipkitError(f"{name}: expected rows with a column 'feature', got {content}")
    arrow_type = schema.field(columns[0]).type
    if columns[0] != FIRST_OF_WIDE and not _holds_vectors(arrow_type):
        expected = f"{columns[0]}: expected lists of numbers"
        raise ClipkitError(f"{name}: {expected}, got {arrow_type}")
    return columns


def _vector_columns(schema: pa.Schema, chosen: str | None) -> list[str]:
    """Return the column of features by its name, or else all columns that hold vectors."""
    for column in (chosen, "feature", "features"):
        if column and column in schema.names:
            return [column]
    return [field.name for field in schema if _holds_vectors(field.type)]


def _holds_vectors(arrow_type: pa.DataType) -> bool:
    return isinstance(arrow_type, LISTS) and is_number(arrow_type.value_type)


def _features(table: pa.Table, name: str, columns: list[str]) -> Float32:
    """Return lists, or columns of numbers, as a matrix (N, D); a null number becomes NaN."""
    feature = columns[0]
    lists = table.column(feature)
    if not isinstance(lists.type, LISTS):
        return np.stack([as_float32(table.column(c).to_numpy()) for c in columns], axis=1)
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


def _class_names(columns: dict[str, list[Any]], declared: Any, file: str) -> dict[str, list[str]]:
    """Return the names in the order of their labels; a label without a row is its number."""
    if isinstance(declared, list):
        return {"class_names": declared}
    if not columns.keys() >= {"label", "class_name"}:
        return {}
    known: dict[int, str] = {}
    for label, name in zip(columns["label"], columns["class_name"], strict=True):
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
    if not has_clusters(file.splits):
        fields = [(column, arrow_type) for column, arrow_type in fields if column != "cluster"]
    matrices = file.matrices()
    width = next(iter(matrices.values())).shape[1]
    fields.append(("feature", pa.list_(pa.float32(), width)))
    if thumbnails is not None:
        fields.append((IMAGE, IMAGE_TYPE))
    hugging_face = json.dumps({"info": {"features": _types_of_datasets(fields, file)}})
    schema = pa.schema(fields, {METADATA: metadata, HUGGING_FACE: hugging_face})
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


def _types_of_datasets(
    fields: Sequence[tuple[str, pa.DataType]], file: FeatureFile
) -> dict[str, dict[str, Any]]:
    """Return the columns' types as Hugging Face `datasets` reads them: images, names of classes."""
    types: dict[str, dict[str, Any]] = {}
    for column, arrow_type in fields:
        types[column] = {"dtype": str(arrow_type), "_type": "Value"}
        if column == "feature":
            number = {"dtype": "float32", "_type": "Value"}
            types[column] = {"feature": number, "length": arrow_type.list_size, "_type": "Sequence"}
        elif column == "label" and file.class_names:
            types[column] = {"names": distinct_names(file.class_names), "_type": "ClassLabel"}
        elif column == IMAGE:
            types[column] = {"_type": "Image"}
    return types


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
        columns["cluster"] = [None] * n if split.cluster is None else split.cluster.tolist()
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

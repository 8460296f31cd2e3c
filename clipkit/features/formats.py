"""Conversion between a `FeatureFile` and .npz, .npy or .parquet, and of results to .csv.

Arrays keep the names of the feature file's data sets: ``train/features`` is ``train_features`` in
an .npz, and the rows whose ``split`` is ``train`` in a .parquet. Kind, history and scales travel as
JSON named ``clipkit``, so that nothing is lost on the way there and back. Pickles are never loaded.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

from clipkit import console
from clipkit.errors import ClipkitError, UsageError
from clipkit.features.model import (
    VERSION,
    BlockMatrix,
    FeatureFile,
    Float32,
    Int64,
    Split,
    as_float32,
    block_rows,
    row_ids,
)
from clipkit.features.validation import allowed_names, validate
from clipkit.files import atomic_write, spool_input

READABLE = (".npz", ".npy", ".parquet")
WRITABLE = (*READABLE, ".csv")
METADATA = "clipkit"  # the name of the JSON among the arrays
UNNAMED = "all"  # the split of rows that name none, as for a folder of images
BOMB_BYTES = 1 << 26  # a file may unpack to this many bytes, or to BOMB_RATIO times its size
BOMB_RATIO = 100
RUN_PARAMETERS = ("classifier", "C", "temperature", "standardize", "fit_split", "k")

Order = Literal["C", "F"]  # of rows, or of columns
Arrays = dict[str, Any]  # named as in an .npz: StoredArray, BlockMatrix, list; None for a stray


@contextlib.contextmanager
def import_file(
    source: str | Path,
    *,
    split: str | None = None,
    model: str | None = None,
    labels: str | Path | None = None,
    texts: Sequence[str] | None = None,
    texts_digest: str | None = None,
) -> Iterator[FeatureFile]:
    """Open another tool's file as a valid feature file, whose features are read block by block.

    Parameters
    ----------
    source : str or Path
        A .npz, .npy or .parquet file.
    split : str, optional
        Import this split only. Rows that name no split get this name, ``all`` by default.
    model : str, optional
        The model that made the features, for a file that does not say so.
    labels : str or Path, optional
        An .npy with a label (number or name) for each row of one unnamed matrix.
    texts : sequence of K str, optional
        The prompts whose embeddings (K, D) are the rows of one unnamed matrix.
    texts_digest : str, optional
        Digest of the prompts' file, for the history.

    Raises
    ------
    ClipkitError
        If the file is damaged, holds pickled objects or no features, or breaks the format's rules.
    UsageError
        If there is no such split, or the file already holds what is given beside it.
    """
    source = str(source)
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(spool_input(source))
        inputs = {"features": _digest(path)}
        added: Arrays = {}
        if labels is not None:
            labels_path = stack.enter_context(spool_input(str(labels)))
            inputs["labels"] = _digest(labels_path)
            added["labels"] = _stored_file(labels_path, str(labels))
        if texts is not None:
            added["texts"] = list(texts)
        if texts_digest is not None:
            inputs["prompts"] = texts_digest
        with _reading(source):
            arrays = stack.enter_context(_open_arrays(path, source, added))
            file = _assemble(arrays, source, split, added)
        validate(file)
        made_by = file.model()
        if made_by and model:
            raise UsageError(f"--model: {source} says that {made_by['name']} made the features")
        file.history = file.extended_history(
            "convert",
            source=Path(source).suffix.lower(),
            split=split,
            model={"name": model} if model else None,
            inputs=inputs,
        )
        yield _watch(file, stack.enter_context(console.progress("converting", "rows")))


def export_file(
    output: str | Path, file: FeatureFile, *, split: str | None = None, force: bool = False
) -> None:
    """Write a feature file for other tools.

    Parameters
    ----------
    output : str or Path
        Its ending is .npz, .npy, .parquet or, for results only, .csv.
    file : FeatureFile
    split : str, optional
        Export this split only.
    force : bool
        Replace an existing file.

    Raises
    ------
    UsageError
        If there is no such split, files with this ending cannot hold what there is, or the output
        exists and `force` is not given.
    WriteError
        If the file system refuses the data.
    """
    writers = {
        ".npz": _write_npz,
        ".npy": _write_npy,
        ".parquet": _write_parquet,
        ".csv": _write_csv,
    }
    write = writers[Path(output).suffix.lower()]
    with (
        console.progress("converting", "rows") as report,
        atomic_write(str(output), force=force) as temporary,
    ):
        write(temporary, _watch(_keep_split(file, split), report))


def _keep_split(file: FeatureFile, split: str | None) -> FeatureFile:
    """Return the file with one split only; as it is, if that is None."""
    if split is None:
        return file
    if file.kind == "texts":
        raise UsageError(f"{file.display_name}: texts have no splits, got the split {split!r}")
    names = file.choose_splits([split])
    return replace(file, splits={name: file.splits[name] for name in names})


def _watch(file: FeatureFile, report: Callable[[int, int], None]) -> FeatureFile:
    """Return the same content. Reading its features reports progress, and damage as one error."""
    total = sum(map(len, file.matrices().values()))
    done = 0

    def watch(matrix: BlockMatrix) -> BlockMatrix:
        def iter_blocks() -> Iterator[Float32]:
            nonlocal done
            with _reading(file.display_name):
                for block in matrix.iter_blocks():
                    yield block
                    done += len(block)
                    report(done, total)

        return BlockMatrix(matrix.shape, iter_blocks)

    return file.map_features(watch)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn the many exceptions of zipfile, NumPy and Arrow into one error that names the file."""
    try:
        yield
    except (ClipkitError, MemoryError):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise ClipkitError(f"cannot read {name}: {reason or type(error).__name__}") from error


def _digest(path: Path) -> str:
    with _reading(str(path)), path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _check_size(unpacked: int, packed: int, name: str) -> None:
    """Refuse data that would unpack to a hundred times their size, unless that is little.

    >>> _check_size(10_000, 20, "labels")
    """
    if unpacked > max(BOMB_BYTES, BOMB_RATIO * packed):
        raise ClipkitError(
            f"{name}: expected at most {BOMB_RATIO} times its {packed} bytes, got {unpacked}",
            "save it without compression if it is meant",
        )


# Import: each format gives arrays by name, of which `_assemble` makes a feature file.


class StoredArray(NamedTuple):
    """An array in an .npy file or in a member of an .npz, still unread: `open` gives its bytes."""

    name: str
    open: Callable[[], IO[bytes]]
    size: int

    def read_header(self, file: IO[bytes]) -> tuple[tuple[int, ...], Order, np.dtype[Any]]:
        """Read shape, order and type, and check that as many bytes follow."""
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_column_major, dtype = read(file)
        if dtype.hasobject:
            raise ClipkitError(
                f"{self.name}: expected numbers or texts, got pickled objects, never loaded",
                "save numbers or texts: np.save(file, np.stack(rows))",
            )
        expected = file.tell() + math.prod(shape) * dtype.itemsize
        if expected != self.size:
            reason = "it was cut short" if self.size < expected else "something was added to it"
            raise ClipkitError(f"{self.name}: expected {expected} bytes, got {self.size}: {reason}")
        return shape, "F" if is_column_major else "C", dtype

    def items(self, ndim: int = 1) -> list[Any]:
        """Return an array of one dimension, or of none, as a list."""
        with _reading(self.name), self.open() as file:
            shape, _, dtype = self.read_header(file)
            if len(shape) != ndim or dtype.kind not in "biufUS":
                raise ClipkitError(
                    f"{self.name}: expected numbers or texts (N), got {dtype} of shape {shape}"
                )
            return list(np.frombuffer(file.read(), dtype).tolist())

    def matrix(self) -> BlockMatrix:
        """Return a matrix of numbers, to be read block by block."""
        with _reading(self.name), self.open() as file:
            shape, order, dtype = self.read_header(file)
        if len(shape) != 2 or 0 in shape or dtype.kind not in "biuf":
            hint = "flatten each row, or select a layer" if len(shape) > 2 else None
            raise ClipkitError(
                f"{self.name}: expected numbers (N, D), got {dtype} of shape {shape}", hint
            )
        n, width = shape
        step = n if order == "F" else block_rows(width)  # by columns, rows lie all over the file

        def iter_blocks() -> Iterator[Float32]:
            with self.open() as file:
                self.read_header(file)
                for start in range(0, n, step):
                    rows = min(step, n - start)
                    data = file.read(rows * width * dtype.itemsize)
                    yield as_float32(np.ndarray((rows, width), dtype, data, order=order))
                file.read(1)  # an archive compares its checksum at the end

        return BlockMatrix((n, width), iter_blocks)


def _stored_file(path: Path, name: str) -> StoredArray:
    return StoredArray(name, lambda: path.open("rb"), path.stat().st_size)


@contextlib.contextmanager
def _open_arrays(path: Path, source: str, added: Arrays) -> Iterator[Arrays]:
    ending = Path(source).suffix.lower()
    size = path.stat().st_size
    if size == 0:
        raise ClipkitError(f"{source}: empty input: did the command before it fail?")
    if ending == ".npy":
        yield {"features": _stored_file(path, source)}
    elif ending == ".npz":
        with zipfile.ZipFile(path) as archive:
            yield _members(archive, source)
    else:
        if added:
            raise UsageError(f"{source}: labels and prompts are columns of a .parquet file")
        with _parquet().open_table(path, source) as table:
            _check_size(4 * table.rows * table.width, size, source)
            yield table.arrays()


def _members(archive: zipfile.ZipFile, source: str) -> Arrays:
    arrays: Arrays = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in arrays:
            raise ClipkitError(f"{source}: expected each array once, got {name} twice")
        where = f"{source}: {name}"
        _check_size(info.file_size, info.compress_size, where)
        arrays[name] = StoredArray(where, functools.partial(archive.open, info), info.file_size)
    return arrays


def _parquet() -> ModuleType:
    try:
        from clipkit.features import parquet
    except ImportError as error:
        raise ClipkitError(
            "a .parquet file needs pyarrow, which is not installed",
            "pip install 'clipkit-vl[parquet]'",
        ) from error
    return parquet


def _assemble(arrays: Arrays, source: str, split: str | None, added: Arrays) -> FeatureFile:
    """Make a feature file of the arrays of a source and of those that were added to them."""
    for name in added:
        if name in arrays:
            raise UsageError(f"{source} has {name} of its own; got others beside it")
    arrays = {**arrays, **added}
    kind = "texts" if "features" in arrays and "texts" in arrays else "images"
    file = _start_file(arrays.pop(METADATA, None), kind, source)
    places = _places(arrays, file.kind, split or UNNAMED, source)
    splits = [place.removesuffix("/features") for place in places if place.endswith("/features")]
    if file.kind != "texts" and not splits:
        raise ClipkitError(
            f"{source}: expected features, got {', '.join(sorted(arrays)) or 'nothing'}",
            "name them features, or train_features and test_features",
        )
    file.splits = {name: Split() for name in splits}
    file = _keep_split(file, split)
    unused = set(arrays).difference(places.values())
    for place, name in places.items():
        group, _, key = place.rpartition("/")
        if group and group not in splits:
            unused.add(name)
        elif not group or group in file.splits:
            file.set_dataset(place, _value(key, arrays[name], f"{source}: {name}"))
    for name in unused.intersection(added):
        raise UsageError(f"{source}: {name} go with one unnamed matrix of features, got others")
    if unused:
        names = ", ".join(sorted(unused))
        console.warn(f"{source}: left out, having no place in a feature file: {names}")
    _number_labels(file)
    _fill_defaults(file)
    return file


def _start_file(metadata: Any, kind: str, source: str) -> FeatureFile:
    """Return a file with the metadata that clipkit exported or, if there is none, of this kind."""
    if metadata is None:
        return FeatureFile(kind, display_name=source)
    text = metadata.items(ndim=0)[0] if isinstance(metadata, StoredArray) else metadata
    try:
        content = json.loads(text)
        version = int(content["version"])
    except (ValueError, TypeError, KeyError, RecursionError):
        message = f"{source}: {METADATA}: expected the JSON that clipkit convert writes"
        raise ClipkitError(message, "remove it") from None
    if version > VERSION:
        raise ClipkitError(f"{source}: version {version} was made by a newer clipkit: update")
    if content.get("kind") not in ("images", "texts", "logits"):
        kind = content.get("kind")
        raise ClipkitError(f"{source}: expected images, texts or logits, got {kind}")
    file = FeatureFile(content["kind"], content.get("history"), display_name=source)
    file.temperature = content.get("temperature")
    file.logit_scale = content.get("logit_scale")
    for name in ("class_names", "texts", "class_index"):
        if name in content:
            file.set_dataset(name, _value(name, content[name], f"{source}: {name}"))
    return file


def _places(arrays: Arrays, kind: str, unnamed: str, source: str) -> dict[str, str]:
    """Return the data set that each array becomes, with the array's name.

    >>> _places({"features": [], "train_features": [], "X": []}, "images", "all", "a.npz")
    {'all/features': 'features', 'train/features': 'train_features'}
    """
    root, split = allowed_names(kind)
    places: dict[str, str] = {}
    for name, array in arrays.items():
        prefix, _, key = name.rpartition("_")
        if array is None:
            continue
        if name in root:
            place = name
        elif name in split:
            place = f"{unnamed}/{name}"
        elif prefix and key in split:
            place = f"{prefix}/{key}"
        else:
            continue
        if place in places:
            raise ClipkitError(f"{source}: {places[place]} and {name} are both {place}")
        places[place] = name
    return places


def _value(key: str, array: Any, name: str) -> Any:
    """Return an array as a feature file holds it. Labels may still be names."""
    if key == "features":
        return array.matrix() if isinstance(array, StoredArray) else array
    items = array.items() if isinstance(array, StoredArray) else array
    if None in items:
        row = items.index(None)
        raise ClipkitError(f"{name}: expected a value in every row, got none in row {row}")
    are_names = bool(items) and isinstance(items[0], str | bytes)
    if key == "class_index" or (key == "labels" and not are_names):
        return _as_integers(items, name)
    return [_as_text(item) for item in items]


def _as_text(item: Any) -> Any:
    if isinstance(item, bytes):
        return item.decode()
    return str(item) if isinstance(item, int) else item


def _as_integers(items: list[Any], name: str) -> Int64:
    """Return whole numbers, of whatever type, as int64."""
    array = np.asarray(items)
    if array.dtype.kind not in "biuf":
        raise ClipkitError(f"{name}: expected whole numbers, got type {array.dtype}")
    with np.errstate(invalid="ignore"):
        numbers = array.astype(np.int64)
    rows = np.flatnonzero(numbers != array)
    if len(rows):
        row = rows[0]
        raise ClipkitError(f"{name}: expected whole numbers, got {items[row]} in row {row}")
    return numbers


def _number_labels(file: FeatureFile) -> None:
    """Replace labels that are names by their positions among the class names.

    Without class names, the names that occur are the classes, sorted.
    """
    labels: Any = [split.labels for split in file.splits.values() if split.labels is not None]
    named = [names for names in labels if isinstance(names, list)]
    if not named:
        return
    if len(named) < len(labels):
        raise ClipkitError(f"{file.display_name}: expected names as labels in all splits, got both")
    if file.class_names is None:
        file.class_names = sorted({name for names in named for name in names})
    numbers = {name: number for number, name in enumerate(file.class_names)}
    for split in file.splits.values():
        names: Any = split.labels
        if names is not None:
            strange = sorted(set(names).difference(numbers))
            if strange:
                where = f"{file.display_name}: labels"
                raise ClipkitError(f"{where}: expected class names, got {strange[0]!r}")
            split.labels = np.array([numbers[name] for name in names], np.int64)


def _fill_defaults(file: FeatureFile) -> None:
    """Fill in what other tools leave out: ids, and that prompts belong to no class."""
    if file.kind == "texts" and file.class_index is None and file.texts:
        file.class_index = np.full(len(file.texts), -1)
    for split in file.splits.values():
        if not split.ids:
            split.ids = row_ids(len(split.features))


# Export


def _write_npz(path: Path, file: FeatureFile) -> None:
    arrays = {name.replace("/", "_"): value for name, value in file.datasets().items()}
    arrays[METADATA] = np.array(_metadata(file))
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in sorted(arrays.items()):
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: equal content gives equal bytes
            with archive.open(member, "w", force_zip64=True) as stream:
                _write_array(stream, value)


def _write_npy(path: Path, file: FeatureFile) -> None:
    matrices = file.matrices()
    if len(matrices) != 1:
        names = ", ".join(name.removesuffix("/features") for name in matrices) or "none"
        hint = "choose one with --split, or write an .npz" if matrices else "choose .npz"
        raise UsageError(f"an .npy file takes one matrix of features, got {names}", hint)
    with path.open("wb") as stream:
        _write_array(stream, *matrices.values())


def _write_array(stream: IO[bytes], value: Any) -> None:
    if not isinstance(value, BlockMatrix):
        npy.write_array(stream, np.asarray(value), allow_pickle=False)
        return
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(value.shape)}
    npy.write_array_header_1_0(stream, header)
    for block in value.iter_blocks():
        stream.write(np.ascontiguousarray(block, "<f4").data)


def _write_parquet(path: Path, file: FeatureFile) -> None:
    if file.kind == "result":
        _parquet().write_table(path, _result_columns(file), _result_frames(file))
        return
    arrays: dict[str, Any] = {"class_names": file.class_names}  # those that have no rows
    if file.kind == "logits":
        arrays["texts"] = file.texts
        arrays["class_index"] = np.asarray(file.class_index).tolist()
    _parquet().write_features(path, file, _metadata(file, **arrays))


def _metadata(file: FeatureFile, **arrays: Any) -> str:
    """Return a file's attributes, and arrays that have no other place, as JSON."""
    content = {**file.attributes(), "history": file.history, **arrays}
    content = {name: value for name, value in content.items() if value is not None}
    return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _write_csv(path: Path, file: FeatureFile) -> None:
    if file.kind != "result":
        hint = "choose .npz or .parquet for features; zeroshot -o and probe -o make results"
        raise UsageError(f"a .csv file takes results, got {file.kind}", hint)
    with path.open("w", encoding="utf-8", newline="") as stream:
        columns = _result_columns(file)
        out = csv.writer(stream, lineterminator="\n")
        out.writerow(columns)
        for frame in _result_frames(file):
            for row in zip(*(frame[name] for name in columns), strict=True):
                out.writerow("" if _is_nan(value) else value for value in row)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _result_columns(file: FeatureFile) -> dict[str, type]:
    """Return the columns of a result's table, and whether they hold str, int or float."""
    kinds = {"U": str, "f": float}
    runs = {name: kinds.get(column.dtype.kind, int) for name, column in file.runs.items()}
    if not file.splits:
        return runs
    of_class = str if file.class_names else int
    columns = {"split": str, "id": str, "label": of_class, "predicted": of_class}
    return columns | {name: runs[name] for name in RUN_PARAMETERS if name in runs}


def _result_frames(file: FeatureFile) -> Iterator[dict[str, list[Any]]]:
    """Yield the table run by run, a row per image; or all runs at once, if they predict nothing."""
    if not file.splits:
        yield {name: column.tolist() for name, column in file.runs.items()}
        return
    for name, split in file.splits.items():
        runs = [row for row in file.rows() if row.get("eval_split", row.get("split")) == name]
        predicted = np.asarray(split.predicted)
        if len(runs) != len(predicted):
            where = f"{file.display_name}: {name}/predicted"
            raise ClipkitError(f"{where}: expected {len(runs)} runs, got {len(predicted)}")
        labels = [None] * len(split) if split.labels is None else _classes(split.labels, file)
        for run, classes in zip(runs, predicted, strict=True):
            constants = {key: run[key] for key in RUN_PARAMETERS if key in run}
            frame = {
                key: [value] * len(split) for key, value in {"split": name, **constants}.items()
            }
            yield frame | {"id": split.ids, "label": labels, "predicted": _classes(classes, file)}


def _classes(labels: Int64, file: FeatureFile) -> list[Any]:
    """Return labels by name, or as they are where classes have no names."""
    numbers = labels.tolist()
    return [file.class_names[number] for number in numbers] if file.class_names else numbers

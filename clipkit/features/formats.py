"""Conversion between a `FeatureFile` and .npz, .npy or .parquet, and of results to .csv.

Tensors in .safetensors and the folders of clip-retrieval and dinotool are imported, too.

Arrays keep the names of the feature file's data sets: ``train/features`` is ``train_features`` in
an .npz, and the rows whose ``split`` is ``train`` in a .parquet. Kind, history and scales travel as
JSON named ``clipkit``, so that a round trip loses nothing. Pickles are never loaded.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import importlib
import json
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from clipkit.base import console
from clipkit.base.csv_rows import is_no_value
from clipkit.base.errors import ClipkitError, UsageError, import_error, read_errors, unknown
from clipkit.base.files import atomic_write, spool_input
from clipkit.base.names import distinct_names
from clipkit.features import folders, npz
from clipkit.features.describe import abridged
from clipkit.features.history import drop_none
from clipkit.features.model import (
    RESULTS,
    ROW_NUMBERS,
    BlockMatrix,
    FeatureFile,
    Float32,
    Int64,
    Split,
    as_float32,
    row_ids,
)
from clipkit.features.validation import allowed_names, check_version, validate

READABLE = (".npz", ".npy", ".parquet", ".safetensors")
WRITABLE = (".npz", ".npy", ".parquet", ".csv")
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib")
PICKLE_HINT = (
    "reading a pickle runs the code in it; where you trust it, save its arrays: "
    "numpy.savez('features.npz', train_features=..., train_labels=...)"
)
METADATA = "clipkit"  # the name of the JSON among the arrays
NO_ROWS = ("class_names", "texts", "class_index")  # arrays that a .parquet has in the JSON
CSV_LINE_END = "\r\n"
UNNAMED = "all"  # the split of rows that name none, as for a folder of images
RUN_PARAMETERS = (
    *("classifier", "C", "temperature", "standardize"),
    *("fit_split", "k", "shots", "draw"),
)

# Arrays named as in an .npz: npz.StoredArray, array or list; None for what cannot be used.
Arrays = dict[str, Any]


def import_file(
    source: str | Path,
    *,
    split: str | None = None,
    model: str | None = None,
    labels: str | Path | None = None,
    texts: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    digests: Mapping[str, str] | None = None,
    **columns: str | None,
) -> FeatureFile:
    """Read another tool's file as a valid feature file.

    Parameters
    ----------
    source : str or Path
        A .npz, .npy, .parquet or .safetensors file, a folder with the parts of a .parquet, or the
        folder of clip-retrieval's embeddings.
    split : str, optional
        Import this split only. Rows that name no split get this name, ``all`` by default.
    model : str, optional
        The model that made the features, for a file that does not say so.
    labels : str or Path, optional
        An .npy with a label (number or name) for each row of one unnamed matrix.
    texts : sequence of K str, optional
        The prompts whose embeddings (K, D) are the rows of one unnamed matrix.
    classes : sequence of K str, optional
        The class of each prompt. Without prompts, the classes are the prompts.
    digests : mapping of str to str, optional
        The digests of further files, for the history.
    **columns : str, optional
        The columns of a .parquet that are the ``feature``, the ``id`` and the ``label``.

    Raises
    ------
    ClipkitError
        If the file is damaged, holds pickled objects or no features, or breaks the format's rules.
    UsageError
        If there is no such split, or the file already holds an array that is also a parameter.
    """
    source = str(source)
    added: Arrays = {}
    with contextlib.ExitStack() as archives:
        arrays, digest = _read_source(source, archives, drop_none(columns))
        inputs = {"features": digest, **(digests or {})}
        if labels is not None:
            with spool_input(str(labels)) as file:
                array = npz.open_npy(file.path)
                added["labels"] = _value("labels", array, str(labels))
                inputs["labels"] = _digest([file.path], str(labels))
        if texts is not None:
            added["texts"] = list(texts)
        if classes is not None and "texts" in {**added, **arrays}:
            added["class_index"] = list(classes)
        elif classes is not None:  # each row is a class, also if two have one name
            added |= {"texts": list(classes), "class_names": list(classes)}
            added["class_index"] = list(range(len(classes)))
        imported = _assemble(arrays, source, split, added)
    without_ids = [rows for rows in imported.splits.values() if not rows.ids]
    for rows in without_ids:
        rows.ids = row_ids(len(rows.features))
    validate(imported)
    if model and imported.history.model:
        made_by = imported.history.model["name"]
        raise UsageError(f"--model: {source} says that {made_by} made the features")
    ending = Path(source).suffix.lower()
    if folders.clip_retrieval(Path(source)):
        ending = "clip-retrieval"
    imported.history = imported.extended_history(
        "convert",
        ids=ROW_NUMBERS if without_ids else None,
        source=ending or ".parquet",
        split=split,
        model={"name": model} if model else None,
        inputs=inputs,
    )
    return imported


def export_file(
    output: str | Path,
    file: FeatureFile,
    *,
    split: str | None = None,
    thumbnails: Mapping[str, Iterator[bytes]] | None = None,
    force: bool = False,
) -> None:
    """Write a feature file for other tools.

    Parameters
    ----------
    output : str or Path
        Its ending is .npz, .npy, .parquet or, for results only, .csv.
    file : FeatureFile
    split : str, optional
        Export this split only.
    thumbnails : mapping of str to iterator of bytes, optional
        For each split, an encoded image for each row: the column `image` of a .parquet.
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
    writers: dict[str, Callable[[Path, FeatureFile], None]] = {
        ".npz": _write_npz,
        ".npy": _write_npy,
        ".parquet": functools.partial(_write_parquet, thumbnails=thumbnails),
        ".csv": _write_csv,
    }
    ending = Path(output).suffix.lower()
    if thumbnails is not None and ending != ".parquet":
        raise UsageError(f"thumbnails: expected a .parquet file, got {output}")
    if file.is_result and ending == ".npz":
        console.note(f"{output}: convert does not import results; keep {file.display_name}")
    with (
        console.progress("converting", "rows") as report,
        atomic_write(str(output), force=force) as temporary,
    ):
        validate(file)
        file = _keep_split(file, split)
        writers[ending](temporary, report_rows(file, report))
        if ending in (".npz", ".parquet") and not file.is_result:
            _check_written(temporary, file, str(output))


def _check_written(path: Path, file: FeatureFile, output: str) -> None:
    """Import an exported file, except for its features, before it is published."""
    with contextlib.ExitStack() as archives:
        arrays = _read_arrays(path, output, archives, with_features=False)
        arrays |= {name.replace("/", "_"): matrix for name, matrix in file.matrices().items()}
        imported = _assemble(arrays, output, None, {})
    validate(imported)
    if imported.digest != replace(file, digest_read="").digest:
        raise ClipkitError(f"{output}: expected to hold the file unchanged, but it cannot")


def _keep_split(file: FeatureFile, split: str | None) -> FeatureFile:
    """Return the file with only the named split, or unchanged if the name is None."""
    if split is None:
        return file
    if file.kind == "texts":
        raise UsageError(f"{file.display_name}: expected no split for texts, got {split!r}")
    names = file.choose_splits([split])
    return replace(file, splits={name: file.splits[name] for name in names})


def report_rows(file: FeatureFile, report: Callable[[int, int], None]) -> FeatureFile:
    """Return the same content; reading its features reports how many rows are done."""
    total = sum(map(len, file.matrices().values()))
    done = 0

    def count(block: Float32) -> Float32:
        nonlocal done
        done += len(block)
        report(done, total)
        return block

    return file.map_features(lambda matrix: matrix.map(count))


def _digest(paths: Sequence[Path], source: str) -> str:
    """Return the digest of the bytes of files, one after the other."""
    sha256 = hashlib.sha256()
    with read_errors(source):
        for path in paths:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: sha256)
    return f"sha256:{sha256.hexdigest()}"


def _read_source(
    source: str, archives: contextlib.ExitStack, columns: Mapping[str, str]
) -> tuple[Arrays, str]:
    """Read a file, or the files of a folder; return its arrays, and the digest of all bytes."""
    if not Path(source).is_dir():
        path = archives.enter_context(spool_input(source)).path
        digest = _digest([path], source)
        return _read_arrays(path, source, archives, columns), digest
    read_table: Callable[..., Arrays] = import_parquet().read_table
    embeddings = folders.clip_retrieval(Path(source))
    with read_errors(source):
        if embeddings is None:
            paths = folders.part_files(Path(source), ".parquet")
            return read_table(paths, source, columns), _digest(paths, source)
        paths = folders.part_files(embeddings, ".npy")
        tables = folders.metadata_files(paths)
        matrices = [_value("features", npz.open_npy(path), str(path)) for path in paths]
        if embeddings.name == folders.TEXTS:
            columns = {"text": "caption", **columns}
        arrays = read_table(tables, source, columns, matrices=matrices)
    return arrays, _digest([*paths, *tables], source)


def _read_arrays(
    path: Path,
    source: str,
    archives: contextlib.ExitStack,
    columns: Mapping[str, str] | None = None,
    *,
    with_features: bool = True,
) -> Arrays:
    """Open a file of any readable format; `archives` closes an .npz, which is read when used."""
    ending = Path(source).suffix.lower()
    if path.stat().st_size == 0:
        raise ClipkitError(f"{source}: empty input", "check whether the command before it failed")
    if columns and ending != ".parquet":
        option = f"--{next(iter(columns))}-column"
        raise UsageError(f"{option}: expected a .parquet file or a folder, got {source}")
    with read_errors(source):
        if ending == ".safetensors":
            return npz.read_safetensors(path)
        if ending == ".npy":
            return {"features": npz.open_npy(path)}
        if ending == ".npz":
            archive = archives.enter_context(zipfile.ZipFile(path))
            return npz.open_npz(archive, path.stat().st_size, source)
        read_table: Callable[..., Arrays] = import_parquet().read_table
        return read_table([path], source, columns, with_features=with_features)


def import_parquet(module: str = "clipkit.features.parquet") -> Any:
    """Import a module that needs pyarrow."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ClipkitError(
            "a .parquet file needs pyarrow, which is not installed",
            "install it: pip install 'clipkit-vl[parquet]'",
        ) from error
    except ImportError as error:
        raise import_error(error) from error


def _assemble(arrays: Arrays, source: str, split: str | None, added: Arrays) -> FeatureFile:
    """Make a feature file from the arrays of a source and the arrays added to them."""
    for name in added.keys() & arrays:
        message = f"expected no extra {name}, because the file already holds them"
        raise UsageError(f"{source}: {message}")
    arrays = {**arrays, **added}
    is_export = METADATA in arrays  # its labels stay as they are
    about: Any = {"kind": "images", "history": []}
    if is_export:
        about = _parse_metadata(arrays.pop(METADATA), source)
        arrays |= {name: about[name] for name in NO_ROWS if name in about}
    elif arrays.keys() >= {"features", "texts"}:
        about["kind"] = "texts"
    file = FeatureFile(about["kind"], about.get("history"), display_name=source)
    file.temperature = about.get("temperature")
    file.logit_scale = about.get("logit_scale")
    places = _places(arrays, file.kind, split or UNNAMED, source)
    file.splits = {group: Split() for group, _ in places if group}
    if file.kind != "texts" and not file.splits:
        raise ClipkitError(
            f"{source}: expected features, got {abridged(sorted(arrays)) or 'nothing'}",
            "name them features, or train_features and test_features",
        )
    file = _keep_split(file, split)
    owners: dict[str, Any] = {"": file, **file.splits}
    for (group, key), name in places.items():
        if group in owners:
            setattr(owners[group], key, _value(key, arrays[name], f"{source}: {name}"))
    unused = set(arrays).difference(places.values())
    for name in unused & added.keys():
        message = f"expected one unnamed matrix of features for {name}, got others"
        raise UsageError(f"{source}: {message}")
    if unused:
        names = abridged(sorted(unused))
        console.warn(f"{source}: ignored, because a feature file cannot hold them: {names}")
    _number_labels(file, is_export)
    if file.kind == "texts":
        _number_classes(file)
    return file


def _parse_metadata(metadata: Any, source: str) -> Any:
    """Return the metadata that clipkit exported, of a version and kind that can be imported."""
    try:
        about = json.loads(str(metadata()) if callable(metadata) else metadata)
        version = about.get("version")
    except (ValueError, AttributeError, RecursionError):
        version = None
    if not isinstance(version, int):
        message = f"{source}: {METADATA}: expected the JSON that clipkit convert writes"
        raise ClipkitError(message, "remove it")
    check_version(source, version)
    kind = about.get("kind")
    if kind not in ("images", "texts", "logits"):
        hint = "use the feature file that it was made of" if kind in RESULTS else None
        raise ClipkitError(f"{source}: expected images, texts or logits, got {kind}", hint)
    return about


def _places(arrays: Arrays, kind: str, unnamed: str, source: str) -> dict[tuple[str, str], str]:
    """Return where arrays belong: the name for each split and key. The split of the root is "".

    Arrays of other names, or of a split without features, are left out.

    >>> _places({"features": [], "train_features": [], "X": []}, "images", "all", "a.npz")
    {('all', 'features'): 'features', ('train', 'features'): 'train_features'}
    """
    root_keys, split_keys = allowed_names(kind)
    places: dict[tuple[str, str], str] = {}
    for name, array in arrays.items():
        group, _, key = name.rpartition("_")
        if name in root_keys:
            group, key = "", name
        elif name in split_keys:
            group, key = unnamed, name
        elif not group or key not in split_keys:
            continue
        if array is None:
            continue
        if (group, key) in places:
            both = f"{places[group, key]} and {name}"
            raise ClipkitError(f"{source}: expected {group}/{key} once, got {both}")
        places[group, key] = name
    for group, key in list(places):
        if group and (group, "features") not in places:
            del places[group, key]
    return places


def _value(key: str, array: Any, name: str) -> Any:
    """Return an array as a feature file holds it. Labels may still be names."""
    if isinstance(array, BlockMatrix):  # of a file that was just exported
        return array
    with read_errors(name):
        if callable(array):
            array = array()
        if key == "features":
            return _as_matrix(array, name)
        items = _as_list(array, name)
        if key in ("class_index", "labels") and not isinstance(items[0], str | bytes):
            return _as_integers(items, name)
        return [_as_text(item) for item in items]


def _as_matrix(array: Any, name: str) -> Float32:
    hint = "flatten each row, or select a layer" if array.ndim > 2 else None
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "biuf":
        got = f"{array.dtype} of shape {array.shape}"
        raise ClipkitError(f"{name}: expected numbers (N, D), got {got}", hint)
    return as_float32(array)


def _as_list(array: Any, name: str) -> list[Any]:
    if isinstance(array, np.ndarray):
        # a text of no bytes may be there any number of times
        if array.ndim != 1 or array.dtype.kind not in "biufUS" or not array.itemsize:
            raise ClipkitError(
                f"{name}: expected numbers or texts (N), got {array.dtype} of shape {array.shape}"
            )
        array = array.tolist()
    if not isinstance(array, list) or not array or None in array:
        raise ClipkitError(f"{name}: expected a list with a value for every row")
    return array


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


def _number_labels(file: FeatureFile, is_export: bool) -> None:
    """Replace labels that are names by their positions among the class names.

    Without class names, the names that occur are the classes, sorted. So are whole numbers with
    gaps, such as 0, 10, 20.
    """
    labelled: list[Any] = [split for split in file.splits.values() if split.labels is not None]
    are_names = {isinstance(split.labels, list) for split in labelled}
    if are_names == {True}:
        _number_names(file, labelled)
    elif len(are_names) > 1:
        raise ClipkitError(
            f"{file.display_name}: labels: expected names in all splits, got names and numbers"
        )
    elif labelled and file.class_names is None and not is_export:
        numbers = np.unique(np.concatenate([split.labels for split in labelled]))
        if numbers[0] >= 0 and len(numbers) <= numbers[-1]:
            file.class_names = list(map(str, numbers.tolist()))
            for split in labelled:
                split.labels = np.searchsorted(numbers, split.labels)


def _number_classes(file: FeatureFile) -> None:
    """Replace the classes of prompts that are names by their positions; none is -1 for all."""
    if file.class_index is None and file.texts:
        file.class_index = np.full(len(file.texts), -1)
    names: Any = file.class_index
    if isinstance(names, list):
        file.class_names = file.class_names or list(dict.fromkeys(names))
        prompts: Any = Split()
        prompts.labels = names
        _number_names(file, [prompts])
        file.class_index = prompts.labels


def _number_names(file: FeatureFile, labelled: list[Any]) -> None:
    where = f"{file.display_name}: labels"
    names = set[str]().union(*(split.labels for split in labelled))
    if file.class_names is None:
        file.class_names = sorted(names)
        for name in filter(is_no_value, file.class_names):
            message = f"{where}: expected a class for each row, got {name!r}"
            raise ClipkitError(message, "leave these rows out, or add class_names")
    counts = Counter(file.class_names)
    for name in sorted(names):
        if name not in counts:
            raise ClipkitError(f"{where}: expected class names, got {name!r}")
        if counts[name] > 1:
            message = f"expected numbers, since several classes are called {name!r}"
            raise ClipkitError(f"{where}: {message}")
    numbers = {name: number for number, name in enumerate(file.class_names)}
    for split in labelled:
        split.labels = np.array([numbers[name] for name in split.labels], np.int64)


def _write_npz(path: Path, file: FeatureFile) -> None:
    arrays = {name.replace("/", "_"): array for name, array in file.datasets().items()}
    npz.write_npz(path, {**arrays, METADATA: np.array(_metadata(file))})


def _write_npy(path: Path, file: FeatureFile) -> None:
    matrices = file.matrices()
    if len(matrices) != 1:
        names = ", ".join(name.removesuffix("/features") for name in matrices) or "none"
        hint = "choose one with --split, or write an .npz" if matrices else "choose .npz"
        raise UsageError(f"expected one matrix of features for an .npy file, got {names}", hint)
    with path.open("wb") as stream:
        npz.write_array(stream, *matrices.values())


def _write_parquet(
    path: Path, file: FeatureFile, thumbnails: Mapping[str, Iterator[bytes]] | None = None
) -> None:
    if file.is_result:
        import_parquet().write_table(path, _result_columns(file), _result_frames(file))
        return
    arrays: dict[str, Any] = {"class_names": file.class_names}
    if file.kind == "logits":
        arrays["texts"] = file.texts
        arrays["class_index"] = np.asarray(file.class_index).tolist()
    import_parquet().write_features(path, file, _metadata(file, **arrays), thumbnails)


def _metadata(file: FeatureFile, **arrays: Any) -> str:
    """Return a file's attributes, and arrays that have no other place, as JSON."""
    content = drop_none({**file.attributes(), "history": file.history, **arrays})
    return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _write_csv(path: Path, file: FeatureFile) -> None:
    if not file.is_result:
        hint = "choose .npz or .parquet for features, or make a result with zeroshot -o or probe -o"
        raise UsageError(f"expected a result for a .csv file, got {file.kind}", hint)
    columns = _result_columns(file)
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(_CsvLines(stream), lineterminator=CSV_LINE_END)
        out.writerow(columns)
        for frame in _result_frames(file):
            for row in zip(*(frame[name] for name in columns), strict=True):
                out.writerow(map(_csv_cell, row))


class _CsvLines:
    """End lines as usual on Unix. Before Python 3.13, csv quotes only what ends its own lines."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        """Write a row, which csv passes as a whole."""
        self._stream.write(line.removesuffix(CSV_LINE_END) + "\n")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isnan(value):
        return ""
    return value


def only_runs(file: FeatureFile, split: str | None = None) -> FeatureFile:
    """Return the runs of a result or probe without predictions, all or those scored on a split."""
    if not file.is_result:
        raise UsageError(f"--runs: expected a result, got {file.kind}")
    file = replace(file.as_result(), splits={})
    if split is None:
        return file
    column = file.runs.get("eval_split", file.runs.get("split", np.array([], str)))
    scored = np.flatnonzero(column == split)
    if not len(scored):
        raise unknown(f"split of {file.display_name}", split, sorted(set(column.tolist())))
    return replace(file, runs={name: values[scored] for name, values in file.runs.items()})


def _result_columns(file: FeatureFile) -> dict[str, type]:
    """Return the columns of a result's table, and what they hold: str, bool, int or float."""
    runs = {name: type(values[0]) for name, values in file.columns().items()}
    if not file.splits or file.holds_ranks:
        return runs
    of_class = str if file.class_names else int
    columns = {"split": str, "id": str, "label": of_class, "predicted": of_class}
    if file.holds_clusters:
        columns["predicted"] = int
    for name in RUN_PARAMETERS:
        if name in runs:
            columns[name] = int if runs[name] is bool else runs[name]
    return {**columns, "run": int}


def _result_frames(file: FeatureFile) -> Iterator[dict[str, list[Any]]]:
    """Yield the table run by run, a row per image; or all runs at once, if they predict nothing."""
    if not file.splits or file.holds_ranks:
        yield file.columns()
        return
    class_names = distinct_names(file.class_names or [])
    names_of_predicted = [] if file.holds_clusters else class_names
    for name, split in file.splits.items():
        runs = file.runs_on(name)
        predicted = np.asarray(split.predicted)
        if len(runs) != len(predicted):
            where = f"{file.display_name}: {name}/predicted"
            raise ClipkitError(f"{where}: expected {len(runs)} runs, got {len(predicted)}")
        n = len(split)
        rows: dict[str, list[Any]] = {"split": [name] * n, "id": split.ids, "label": [None] * n}
        if split.labels is not None:
            rows["label"] = _classes(split.labels, class_names)
        for number, (run, classes) in enumerate(zip(runs, predicted, strict=True)):
            frame = {**rows, "predicted": _classes(classes, names_of_predicted)}
            for parameter in RUN_PARAMETERS:
                value = run.get(parameter)
                frame[parameter] = [int(value) if isinstance(value, bool) else value] * n
            yield {**frame, "run": [number] * n}


def _classes(labels: Int64, class_names: Sequence[str]) -> list[Any]:
    """Return labels by name, or as they are where classes have no names."""
    numbers: list[int] = labels.tolist()
    if not class_names:
        return numbers
    return [class_names[number] for number in numbers]

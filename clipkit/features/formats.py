"""Conversion between a `FeatureFile` and .npz, .npy or .parquet, and of results to .csv.

Tensors in .safetensors and the folders of clip-retrieval and dinotool are imported, too.

Arrays keep the names of the feature file's data sets: ``train/features`` is ``train_features`` in
an .npz, and the rows whose ``split`` is ``train`` in a .parquet. Kind, history and scales travel as
JSON named ``clipkit``, so that a round trip loses nothing. Pickles are never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.base import console, suggestions
from clipkit.base.csv_rows import is_no_value
from clipkit.base.errors import ClipkitError, UsageError, read_errors, shorten, unknown
from clipkit.base.files import atomic_write, spool_input
from clipkit.base.matrices import Float32, Int64, as_float32
from clipkit.base.names import abridged, positions, select
from clipkit.features import folders, npz
from clipkit.features.arguments import Features, as_file
from clipkit.features.endings import (
    FOR_FEATURES,
    FOR_RESULTS,
    FORMATS,
    PARQUET,
    READABLE,
    WITH_COLUMNS,
    WITH_THUMBNAILS,
    WRITABLE,
    import_parquet,
)
from clipkit.features.exporting import WRITERS
from clipkit.features.history import drop_none
from clipkit.features.matching import choose_splits
from clipkit.features.model import (
    METADATA,
    OTHER_TEXTS,
    RESULTS,
    ROW_NUMBERS,
    FeatureFile,
    Split,
    allowed_names,
    check_version,
    row_ids,
)
from clipkit.features.validation import validate

# Arrays that a .parquet has in the JSON
NO_ROWS = ("class_names", "texts", "class_index", *OTHER_TEXTS)
IMAGE_IDS = "image_ids"  # the array with the image of each text, which becomes its class
PARQUET_FILES = "clipkit.features.parquet"
TABLES_OF_LABELS = (".csv", ".tsv")
UNNAMED = "all"  # the split of rows that name none, as for a folder of images
# Arrays named as in an .npz: npz.StoredArray, array or list; None for what cannot be used.
Arrays = dict[str, Any]


def import_file(  # noqa: PLR0913 (the options of `clipkit convert`)
    source: str | Path,
    *,
    split: str | None = None,
    model: str | None = None,
    labels: str | Path | None = None,
    texts: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    image_ids: Sequence[str] | None = None,
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
    image_ids : sequence of K str, optional
        The image that each text belongs to. `texts` that the file has, too, must be equal.
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
    inputs: dict[str, str] = {}
    added: Arrays = {}
    with contextlib.ExitStack() as archives:
        arrays, inputs["features"] = _read_source(source, archives, drop_none(columns))
        if labels is not None:
            with spool_input(str(labels)) as file:
                try:
                    added["labels"] = _value("labels", npz.open_npy(file.path), str(labels))
                except ClipkitError as error:
                    hint = "save them by numpy.save: one label per row"
                    if Path(labels).suffix.lower() in TABLES_OF_LABELS:
                        table = suggestions.command("--table", str(labels))
                        hint += f"; or, once imported: clipkit relabel FILE {table}"
                    raise error.adding_hint(hint) from error
                inputs["labels"] = _digest([file.path], str(labels))
        if texts is not None:
            added["texts"] = list(texts)
        if image_ids is not None:
            added[IMAGE_IDS] = list(image_ids)
            _check_captions(added, arrays, source)
        if classes is not None:
            added["class_index"] = list(classes)
            if "texts" not in added and "texts" not in arrays:
                # each row is a class, also if two have one name
                added["class_index"] = list(range(len(classes)))
                added["texts"] = added["class_names"] = list(classes)
        imported = _assemble(arrays, source, split, added)
    without_ids = [rows for rows in imported.splits.values() if not rows.ids]
    for rows in without_ids:
        rows.ids = row_ids(len(rows.features))
    validate(imported)
    if model and imported.history.model:
        made_by = imported.history.model["name"]
        raise UsageError(f"--model: {imported.display_name} says that {made_by} made the features")
    form = Path(source).suffix.lower() or ".parquet"
    if folders.clip_retrieval(Path(source)):
        form = "clip-retrieval"
    imported.history = imported.extended_history(
        "convert",
        ids=ROW_NUMBERS if without_ids else None,
        source=form,
        split=split,
        model={"name": model} if model else None,
        inputs={**inputs, **(digests or {})},
    )
    return imported


def _check_captions(added: Arrays, arrays: Arrays, source: str) -> None:
    """Refuse captions that are not the texts of a source; leave them out if they are."""
    if "texts" not in arrays:
        return
    captions, texts = added.pop("texts"), _value("texts", arrays["texts"], f"{source}: texts")
    if len(captions) != len(texts):
        raise ClipkitError(
            f"{source}: expected a caption for each of {len(texts):,} texts, got {len(captions):,}"
        )
    for row, (caption, text) in enumerate(zip(captions, texts, strict=True)):
        if caption != text:
            got = f"got {shorten(caption)!r} for {shorten(text)!r}"
            hint = "write the table in the order of the texts"
            raise ClipkitError(
                f"{source}: expected its texts as captions, {got} in row {row}", hint
            )


def export_file(
    output: str | Path,
    file: Features,
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
    file = as_file(file, "file")
    ending = Path(output).suffix.lower()
    known = FORMATS.get(ending)
    if known is None or not known.is_written:
        raise unknown("ending", ending or str(output), WRITABLE)
    if thumbnails is not None and not known.has_thumbnails:
        raise UsageError(f"thumbnails: expected a {WITH_THUMBNAILS} file, got {output}")
    if file.is_result and not known.holds_results:
        raise UsageError(
            f"expected features for an {known.ending} file, got a {file.kind}",
            f"choose {' or '.join(FOR_RESULTS)}",
        )
    if not file.is_result and not known.holds_features:
        raise UsageError(
            f"expected a result for a {known.ending} file, got {file.kind}",
            f"choose {' or '.join(FOR_FEATURES)}, or make a result with zeroshot -o or probe -o",
        )
    known.check_installed()
    if file.is_result and not known.is_table:
        console.note(f"{output}: convert does not import results; keep {file.display_name}")
    with (
        console.progress("converting", "rows") as report,
        atomic_write(str(output), force=force) as temporary,
    ):
        validate(file)
        file = _keep_split(file, split)
        WRITERS[ending](temporary, report_rows(file, report), thumbnails)


def _keep_split(file: FeatureFile, split: str | None) -> FeatureFile:
    """Return the file with only the named split, or unchanged if the name is None."""
    if split is None:
        return file
    if file.kind == "texts":
        raise UsageError(f"{file.display_name}: expected no split for texts, got {split!r}")
    file, names = choose_splits(file, [split])
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
    read_table: Callable[..., Arrays] = import_parquet(PARQUET_FILES).read_table
    embeddings = folders.clip_retrieval(Path(source))
    with read_errors(source):
        if embeddings is None:
            paths = folders.part_files(Path(source), ".parquet")
            folders.note_start(paths)
            return read_table(paths, source, columns), _digest(paths, source)
        paths = folders.part_files(embeddings, ".npy")
        tables = folders.metadata_files(paths)
        folders.note_start(paths)
        matrices = [_value("features", npz.open_npy(path), str(path)) for path in paths]
        if embeddings.name == folders.TEXTS:
            columns = {"text": "caption", **columns}
        arrays = read_table(tables, source, columns, matrices=matrices)
    return arrays, _digest([*paths, *tables], source)


def _read_npz(
    path: Path, source: str, archives: contextlib.ExitStack, _: Mapping[str, str]
) -> Arrays:
    archive = archives.enter_context(zipfile.ZipFile(path))
    return npz.open_npz(archive, path.stat().st_size, source)


def _read_npy(
    path: Path, _source: str, _archives: contextlib.ExitStack, _columns: Mapping[str, str]
) -> Arrays:
    return {"features": npz.open_npy(path)}


def _read_safetensors(
    path: Path, _source: str, _archives: contextlib.ExitStack, _columns: Mapping[str, str]
) -> Arrays:
    return npz.read_safetensors(path)


def _read_parquet(
    path: Path, source: str, _: contextlib.ExitStack, columns: Mapping[str, str]
) -> Arrays:
    arrays: Arrays = import_parquet(PARQUET_FILES).read_table([path], source, columns)
    return arrays


# Functions that return the arrays of a file, given its path, its name in messages, the stack that
# closes what stays open, and the chosen columns
READERS: dict[str, Callable[[Path, str, contextlib.ExitStack, Mapping[str, str]], Arrays]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".parquet": _read_parquet,
    ".safetensors": _read_safetensors,
}


def _read_arrays(
    path: Path, source: str, archives: contextlib.ExitStack, columns: Mapping[str, str]
) -> Arrays:
    """Open a file of any readable format; `archives` closes an .npz, which is read when used."""
    if path.stat().st_size == 0:
        raise ClipkitError(f"{source}: empty input", "check whether the command before it failed")
    known = FORMATS.get(Path(source).suffix.lower(), PARQUET)
    if columns and not known.has_columns:
        option = f"--{next(iter(columns))}-column"
        raise UsageError(f"{option}: expected a {WITH_COLUMNS} file or a folder, got {source}")
    if not known.is_read:
        raise unknown("ending", known.ending, READABLE)
    known.check_installed()
    with read_errors(source):
        return READERS[known.ending](path, source, archives, columns)


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
        arrays |= select(about, NO_ROWS)
    elif arrays.keys() >= {"features", "texts"}:
        about["kind"] = "texts"
    if IMAGE_IDS in arrays:
        _name_images(arrays, about["kind"], source)
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
        if group in owners:  # else it is of a split that is left out
            setattr(owners[group], key, _value(key, arrays[name], f"{source}: {name}"))
    unused = {name: arrays[name] for name in sorted(arrays.keys() - places.values())}
    _check_used(unused, added, source, file)
    _number_labels(file, is_export)
    _number_clusters(file)
    if file.kind == "texts":
        _number_classes(file)
    return file


def _name_images(arrays: Arrays, kind: str, source: str) -> None:
    """Make the image of each text its class, as `textembed --captions` does."""
    if kind != "texts":
        hint = "add the array texts, or name their table with --captions"
        raise ClipkitError(f"{source}: expected texts beside {IMAGE_IDS}, got none", hint)
    for name in ("class_index", "class_names"):
        if name in arrays:
            raise ClipkitError(f"{source}: expected {IMAGE_IDS} or {name}, got both")
    arrays["class_index"] = list(map(str, _value("ids", arrays.pop(IMAGE_IDS), source)))


def _check_used(unused: Mapping[str, Any], added: Arrays, source: str, file: FeatureFile) -> None:
    """Refuse added arrays that have no place; warn of others that have none, and name their use."""
    for name in unused.keys() & added.keys():
        message = f"expected one unnamed matrix of features for {name}, got others"
        raise UsageError(f"{source}: {message}")
    if unused:
        names = abridged(list(unused))
        warning = f"{source}: ignored, because a feature file cannot hold them: {names}"
        if file.kind == "texts" and "ids" in unused:
            warning += f"; hint: if these are the ids of the texts' images, call them {IMAGE_IDS}"
        elif file.kind == "images" and (uses := _uses(unused, source, file)):
            warning += f"; hint: {uses}"
        console.warn(warning)


def _uses(unused: Mapping[str, Any], source: str, file: FeatureFile) -> str:
    """Say how columns of different texts become ids, and those of few texts labels; "" for none."""
    is_table = Path(source).suffix.lower() == PARQUET.ending
    uses: dict[str, str] = {}
    for name, values in unused.items():
        if is_table:
            cells = import_parquet(PARQUET_FILES).first_cells(source, name)
        else:
            cells = np.asarray(values() if callable(values) else values, object).ravel().tolist()
        if len(cells) < 2 or not all(isinstance(cell, str) for cell in cells):
            continue
        different = len(set(cells))
        is_labels = 1 < different <= len(cells) // 2 and not file.is_labelled
        if different != len(cells) and not is_labels:
            continue
        column, key = ("id", "ids") if different == len(cells) else ("label", "labels")
        group = next((f"{split}_" for split in file.splits if name.startswith(f"{split}_")), "")
        use = f"{group}{key} for {name}"
        if is_table:
            use = f"--{column}-column {suggestions.command(name)}"
        uses.setdefault(column, use)
    if not uses:
        return ""
    listed = " and ".join(uses.values())
    return f"to take them: {listed}" if is_table else f"to take them: name the arrays {listed}"


def _parse_metadata(metadata: Any, source: str) -> Any:
    """Return the metadata that clipkit exported, of a version and kind that can be imported."""
    try:
        about = json.loads(str(metadata() if callable(metadata) else metadata))
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
    with read_errors(name):
        if callable(array):
            array = array()
        if key in ("features", "other_features"):
            return _as_matrix(np.asarray(array), name)
        items = _as_list(array, name)
        if key in ("class_index", "labels", "cluster") and not isinstance(items[0], str | bytes):
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
        if numbers[0] >= 0 and len(numbers) <= numbers[-1]:  # they have gaps
            file.class_names = list(map(str, numbers.tolist()))
            for split in labelled:
                split.labels = np.searchsorted(numbers, split.labels)


def _number_clusters(file: FeatureFile) -> None:
    """Replace clusters that are names by numbers, in all splits alike."""
    clustered = [split for split in file.splits.values() if split.cluster is not None]
    named: list[Any] = [split for split in clustered if isinstance(split.cluster, list)]
    if not named:
        return
    names = [str(name) for split in clustered for name in split.cluster]  # type: ignore[union-attr]
    number = positions(sorted(set(names)))
    for split in clustered:
        numbers = [number[str(name)] for name in split.cluster]  # type: ignore[union-attr]
        split.cluster = np.array(numbers, np.int64)


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
    numbers = positions(file.class_names)
    for split in labelled:
        split.labels = np.array([numbers[name] for name in split.labels], np.int64)


def only_runs(file: FeatureFile, split: str | None = None) -> FeatureFile:
    """Return the runs of a result or probe without predictions, all or those scored on a split."""
    if not file.is_result:
        raise UsageError(f"--runs: expected a result, got {file.kind}")
    file = replace(file.as_result(), splits={})
    if split is None:
        return file
    scored = file.numbers_on(split)
    if not scored:
        known = sorted({*file.split_of_runs} - {""})
        raise unknown(f"split of {file.display_name}", split, known)
    runs = {name: values[scored] for name, values in file.runs.items()}
    is_kept = np.isin(file.claims.get("run", []), scored)
    claims: dict[str, Any] = {}
    if is_kept.any():
        claims = {name: values[is_kept] for name, values in file.claims.items()}
        claims["run"] = np.searchsorted(scored, claims["run"])
    return replace(file, runs=runs, claims=claims)

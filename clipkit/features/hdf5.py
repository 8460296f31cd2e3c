"""Feature files in HDF5: reading, writing and digests.

A file is written completely or not at all, and is used only after its container, names, types and
digests have been checked. Features are read and written a block of rows at a time.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from clipkit.base import console, suggestions, views
from clipkit.base.errors import ClipkitError, InputError, WriteError, brief
from clipkit.base.files import (
    DISK_FULL_HINT,
    HDF5_SIGNATURE,
    STREAM,
    atomic_write,
    check_one_stream,
    display_name,
    is_stream,
    keep_open,
    spool_input,
)
from clipkit.base.matrices import BlockMatrix, Float32, block_rows, chunk_rows
from clipkit.base.prefetch import prefetch
from clipkit.features.checked_file import CheckedFile
from clipkit.features.endings import (
    CAPTION_TABLES,
    FEATURE_ENDINGS,
    PICTURES,
    READABLE,
    check_ending,
)
from clipkit.features.model import (
    RESULTS,
    TABLES,
    FeatureFile,
    digest_entry,
    file_digest,
    is_features,
    place_of,
    sha256_of,
    stored_array,
)
from clipkit.features.provenance import IMAGES_ALONE_HINT, has_text_tower, texts_hint
from clipkit.features.validation import finite_blocks, validate

MAKERS = {
    "images": "embed PHOTOS -o img.h5",
    "texts": "textembed PROMPTS -o txt.h5",
    "logits": "logits IMAGES TEXTS -o logits.h5",
    "result": "entropy, probe, zeroshot, retrieve, choose or cluster with -o",
    "probe": "probe IMAGES --keep -o probe.h5",
}
NUMBER = re.compile(r"[-+.\d]+")  # a value of an option, rather than a file
TABLES_OF_CLASSES = (".csv", ".tsv")
# Columns that tell a table of attributes from one of captions or of prompts
IDS = {"id", "image", "image_id", "file", "filename", "file_name", "path"}
CAPTIONS = {"caption", "captions", "text", "prompt"}
# Another input of a command, and the kinds of files that its place takes: see `open_file`
Other = tuple[str | None, Sequence[str]]


@console.stage("reading files")
def read(
    source: str | Path, *, kinds: Iterable[str] = (), swapped: Other | None = None
) -> FeatureFile:
    """Read a feature file into memory. `open_file` describes parameters and errors.

    Returns
    -------
    FeatureFile
        With features as arrays.
    """
    with open_file(source, kinds=kinds, swapped=swapped) as file:
        return file.in_memory()


def read_all(sources: Iterable[str], *, kinds: Iterable[str] = ()) -> list[FeatureFile]:
    """Read several feature files; see `read`."""
    sources, kinds = list(sources), list(kinds)
    check_one_stream(sources)
    return [read(source, kinds=kinds) for source in sources]


@contextlib.contextmanager
def open_file(
    source: str | Path, *, kinds: Iterable[str] = (), swapped: Other | None = None
) -> Iterator[FeatureFile]:
    """Open a feature file; its features are `BlockMatrix`, everything else is in memory.

    Parameters
    ----------
    source : str or Path
        A path, or ``-`` for standard input.
    kinds : iterable of str
        The kinds that the caller accepts; all, if empty. Who accepts a result also gets probes.
    swapped : (str or None, sequence of str), optional
        Another input, and the kinds that the caller accepts in its place; none, if feature files do
        not belong there. If both inputs belong in the other's place, the hint says so.

    Raises
    ------
    InputError
        If the file is missing, is no feature file, or is of another kind.
    ClipkitError
        If the file is damaged or breaks a rule of the format. Features are checked against their
        digest when the last block is read.
    """
    source, kinds = str(source), list(kinds)
    with contextlib.ExitStack() as opened:
        kind = ""
        try:
            file = opened.enter_context(_open(source))
            kind = file.kind
            check_kind(file, kinds)
        except InputError as error:
            hint = _swap_hint(kinds, kind, swapped)
            if hint is not None:
                raise ClipkitError(error.message, hint) from None
            error.hint = _maker_hint(source, kinds, error, swapped)
            raise
        yield file


@contextlib.contextmanager
def _open(source: str) -> Iterator[FeatureFile]:
    """Open a feature file of any kind."""
    with (
        spool_input(source, HDF5_SIGNATURE) as input_file,
        contextlib.closing(CheckedFile(input_file, display_name(source))) as checked,
    ):
        file = _assemble(checked)
        file.digest_read = file.digest
        file.digest_stated = checked.attribute(checked.h5, "digest")
        yield file


def _accepts(kinds: Sequence[str], kind: str) -> bool:
    """Whether a file of a kind belongs where `kinds` are accepted."""
    return kind in kinds or ("result" in kinds and kind in RESULTS)


def check_kind(file: FeatureFile, kinds: Sequence[str]) -> None:
    """Refuse a file of another kind."""
    if not kinds or _accepts(kinds, file.kind):
        return
    hint = f"make one with: clipkit {MAKERS[kinds[0]]}"
    name = suggestions.path(file.display_name)
    stem = Path(name).stem
    if {"result", "probe"}.intersection(kinds) and file.kind in ("images", "logits"):
        has_classes = file.class_index is not None and (file.class_index >= 0).all()
        is_scored = "result" in kinds and file.kind == "logits" and has_classes
        command = ["zeroshot"] if is_scored else ["probe"]
        output = ["-o", f"{stem}.{command[0]}.h5"]
        if "result" not in kinds:
            command.append("--keep")
        make = suggestions.command("clipkit", command[0], name, *command[1:], *output)
        hint = f"make one with: {suggestions.made(make, {file.display_name: output[1:]})}"
    if kinds == ["logits"] and file.kind == "images":
        hint = texts_hint(file)
    if kinds == ["logits"] and file.kind == "texts":
        hint = f"put images before it: IMAGES {suggestions.command(name)}"
    if kinds == ["logits"] and not has_text_tower(file):
        hint = IMAGES_ALONE_HINT
    message = f"{file.display_name}: expected {' or '.join(kinds)}, got {file.kind}"
    raise InputError(message, hint)


def _swap_hint(kinds: Sequence[str], kind: str, swapped: Other | None) -> str | None:
    """Return what to do if two inputs belong in each other's place; `kind` is "" for no file."""
    if swapped is None or swapped[0] in (None, STREAM):
        return None
    name, kinds_there = str(swapped[0]), swapped[1]
    if kind not in kinds_there and (kind or kinds_there):
        return None
    try:
        with _open(name) as other:
            is_swapped = _accepts(kinds, other.kind)
    except ClipkitError:
        return None
    return f"swap the two: {name} holds the {other.kind}" if is_swapped else None


def _maker_hint(
    source: str, kinds: Sequence[str], error: InputError, other: Other | None
) -> str | None:
    """Return the lines that make a feature file of an input that is none, or the error's hint."""
    path = Path(source)
    if source == STREAM:
        return error.hint
    if not path.exists():
        return _missing_hint(path, kinds, other) or error.hint
    if path.is_dir():
        inside = next(path.glob(f"*{FEATURE_ENDINGS[0]}"), None)
        if inside is not None:
            return f"name a file in it, such as {inside}"
    if path.suffix.lower() in FEATURE_ENDINGS:
        return error.hint
    made = path.with_name(f"{path.stem}{FEATURE_ENDINGS[0]}").name
    if path.suffix.lower() in READABLE and path.is_file():
        convert = suggestions.command("clipkit", "convert", suggestions.path(source), made)
        return f"if it holds features: {suggestions.made(convert, {source: [made]})}"
    if not kinds:
        return error.hint
    if Path(made).exists():
        return f"did you mean {made}?"
    header = _header(path) if path.suffix.lower() in TABLES_OF_CLASSES else set()
    if "texts" in kinds and header & IDS and not header & CAPTIONS:
        return f"if it is a table of attributes: --table {suggestions.command(source)}"
    words = _making(path, kinds, header)
    if not words:
        return error.hint
    make = suggestions.command("clipkit", *words, *_model_options(other), "-o", made)
    hint = f"make one with: {suggestions.made(make, {source: [made]})}"
    if "--captions" in words:
        hint += "; leave out --captions if they belong to no images"
    return hint


def _making(path: Path, kinds: Sequence[str], header: set[str]) -> list[str]:
    """Return the command that makes a feature file of an input that is none, without its output."""
    name, ending = suggestions.path(path), path.suffix.lower()
    if "texts" in kinds and ending in TABLES_OF_CLASSES and "image" not in header:
        return ["textembed", "--classes", str(path), "--template", "{}"]
    if "texts" in kinds and ending in CAPTION_TABLES:
        return ["textembed", "--captions", name]
    if "texts" in kinds and ending == ".txt":
        return ["textembed", name]
    if "images" in kinds or ("logits" in kinds and (path.is_dir() or ending in PICTURES)):
        return ["embed", name]
    return []


def _missing_hint(path: Path, kinds: Sequence[str], other: Other | None) -> str | None:
    """Return what was meant by the name of a file that does not exist."""
    name, source = path.name, str(path)
    if path.suffix.lower() in PICTURES:
        return f"to write it: {suggestions.again({source: ['-o', source]})}"
    ending = FEATURE_ENDINGS[0]
    known = sorted(other.name for other in itertools.islice(path.parent.glob(f"*{ending}"), 1000))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if f"{name}{ending}" in known:
        near = [f"{name}{ending}"]
    if near:
        return f"did you mean {path.with_name(near[0])}?"
    if NUMBER.fullmatch(name):
        return "give several values of an option by commas, or repeat the option"
    made = f"{name}{ending}"
    is_name = not path.suffix and path.parent == Path()
    if "images" in kinds and is_name:  # such as a data set
        options = [*_model_options(other), "-o", made]
        make = suggestions.command("clipkit", "embed", source, *options)
        return f"make one with: {suggestions.made(make, {source: [made]})}"
    if "texts" not in kinds or path.suffix in FEATURE_ENDINGS:
        return None
    if "," in name and is_name:
        return "write the names to a file, one a line: clipkit textembed --classes FILE -o txt.h5"
    if any(map(str.isspace, name)):
        embed = suggestions.command("clipkit", "textembed", "-", *_model_options(other))
        asked = suggestions.again({source: ["-"]}) or "clipkit"
        return f"to embed it as a prompt: {suggestions.command('echo', source)} | {embed} | {asked}"
    if not is_name:
        return None
    words = [source]
    if views.NAMES["data set"](name):
        made, words = f"{name}.classes{ending}", ["--classes", source]
    elif not views.NAMES["prompt set"](name):
        return None
    options = [*_model_options(other), "-o", made]
    make = suggestions.command("clipkit", "textembed", *words, *options)
    return f"make one with: {suggestions.made(make, {source: [made]})}"


def _model_options(other: Other | None) -> list[str]:
    """Return the options that embed by the model of another input, if it is a feature file."""
    if other is None or other[0] in (None, STREAM):
        return []
    try:
        with _open(str(other[0])) as file:
            model = file.history.model
    except ClipkitError:
        return []
    name = model.get("python", model.get("name"))
    untrained = ["--untrained", str(model["untrained"])] if "untrained" in model else []
    return ["--model", str(name), *untrained] if name else []


def _header(path: Path) -> set[str]:
    """Return the words of the first line of a table."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(1 << 16).lower()
    except OSError:
        return set()
    return {word.strip(' "') for word in re.split(r"[\t,;]", header.strip())}


@console.stage("reading files")
def _assemble(checked: CheckedFile) -> FeatureFile:
    attributes = checked.attributes()
    file = FeatureFile(
        attributes["kind"],
        temperature=attributes.get("temperature"),
        logit_scale=attributes.get("logit_scale"),
        display_name=checked.display_name,
    )
    try:
        file.history = json.loads(attributes["history"])
    except (ValueError, RecursionError):  # RecursionError: a million brackets
        raise checked.error("history: expected valid JSON") from None
    entries = {}
    for name, dataset in checked.datasets(file.kind).items():
        sha256 = checked.attribute(dataset, "sha256")
        entries[name] = digest_entry(dataset.dtype.str, dataset.shape, sha256)
        file.set_dataset(name, _value(checked, dataset, name, sha256))
    validate(file)
    digest = checked.attribute(checked.h5, "digest")
    if file_digest(attributes, entries) != digest:
        raise checked.damage("the metadata does not match the digest: it was changed")
    return file


def _value(checked: CheckedFile, dataset: h5py.Dataset, name: str, sha256: str) -> Any:
    if is_features(name):
        where = f"{checked.display_name}: {name}"

        def iter_blocks() -> Iterator[Float32]:
            return prefetch(finite_blocks(_blocks(checked, dataset, name, sha256), where))

        return BlockMatrix(dataset.shape, iter_blocks, sha256)
    array = checked.read(dataset, name)
    if sha256_of([array]) != sha256:
        raise _changed(checked, name)
    return checked.texts(array, name) if array.dtype.kind == "S" else array


def _blocks(
    checked: CheckedFile, dataset: h5py.Dataset, name: str, sha256: str
) -> Iterator[Float32]:
    """Yield blocks in order; the last one only if the digest of all of them is right."""
    sha = hashlib.sha256()
    n, width = dataset.shape
    rows = 0
    for block in checked.blocks(dataset, name, block_rows(width)):
        sha.update(block.data)
        rows += len(block)
        if rows == n and sha.hexdigest() != sha256:
            raise _changed(checked, name)
        yield block


def _changed(checked: CheckedFile, name: str) -> ClipkitError:
    return checked.damage(f"{name} does not match its SHA-256: it was changed")


@console.stage("writing files")
def write(output: str | Path, file: FeatureFile, *, force: bool = False) -> str:
    """Write a feature file and return its digest.

    Parameters
    ----------
    output : str or Path
        A path, or ``-`` for standard output.
    file : FeatureFile
    force : bool
        Replace an existing file.

    Raises
    ------
    ClipkitError
        If the content breaks a rule of the format.
    UsageError
        If the output exists and `force` is not given, or its name ends as that of another format.
    WriteError
        If the file system refuses the data. An earlier file stays.
    """
    check_ending(str(output))
    with atomic_write(str(output), force=force) as temporary:
        validate(file)
        try:
            digest = _write(temporary, file)
        except WriteError as error:
            where = f"to {temporary.parent}" if is_stream(str(output)) else output
            raise WriteError(f"cannot write {where}: {error.message}", error.hint) from error
        # read it back as a reader will, before it is published: nobody could read it later; its
        # features were checked while they were written
        with (
            keep_open(temporary) as written,
            contextlib.closing(CheckedFile(written, file.display_name)) as checked,
        ):
            _assemble(checked)
    return digest


def _write(path: Path, file: FeatureFile) -> str:
    """Write a feature file and return its digest. The message of a WriteError is its reason."""
    with _create(path) as h5:
        entries = {}
        for table in TABLES:
            if getattr(file, table):
                _create_group(h5, table)
        datasets = file.datasets()
        for name in sorted(datasets, key=place_of):
            value = datasets[name]
            _create_group(h5, name.rpartition("/")[0])
            if is_features(name):
                where = f"{file.display_name}: {name}"
                entries[name] = _write_features(h5, name, BlockMatrix.from_array(value), where)
            else:
                entries[name] = _write_array(h5, name, stored_array(value, name))
        attributes = file.attributes()
        digest = file_digest(attributes, entries)
        with _write_errors():
            for name, value in {**attributes, "digest": digest, "complete": 1}.items():
                _set_attribute(h5, name, value)
            h5.flush()
    return digest


@contextlib.contextmanager
def _create(path: Path) -> Iterator[h5py.File]:
    """Create an HDF5 file, and close it at the end.

    `h5py.File(path, "w", libver="v110", locking=False)` of h5py before 3.16 would write the time.
    """
    h5p, h5f = h5py.h5p, h5py.h5f
    with _write_errors():
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_LATEST)
        access.set_fclose_degree(h5f.CLOSE_STRONG)
        access.set_file_locking(False, False)
        creation = h5p.create(h5p.FILE_CREATE)
        creation.set_obj_track_times(False)
        h5 = h5py.File(h5f.create(os.fsencode(path), h5f.ACC_TRUNC, fcpl=creation, fapl=access))
    try:
        yield h5
    except WriteError:
        _keep_open(h5)
        raise
    except BaseException:
        _close(h5)
        raise
    _close(h5)


def _close(h5: h5py.File) -> None:
    try:
        with _write_errors():
            h5.close()
    except WriteError:
        _keep_open(h5)
        raise


def _keep_open(h5: h5py.File) -> None:
    """Keep a file and all of its parts open until the process ends, which must be by `os._exit`.

    HDF5 crashes when it closes what it could not write.
    """
    for handle in h5py.h5f.get_obj_ids(h5.id):
        h5py.h5i.inc_ref(handle)


def _create_group(h5: h5py.File, name: str) -> None:
    """Create a group without the time, unless it exists or has no name."""
    h5p = h5py.h5p
    with _write_errors():
        if not name or name in h5:
            return
        properties = h5p.create(h5p.GROUP_CREATE)
        properties.set_obj_track_times(False)
        if name in TABLES:  # HDF5 would sort the columns of a report by name
            order = h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED
            properties.set_link_creation_order(order)
            properties.set_attr_creation_order(order)
        h5py.h5g.create(h5.id, name.encode(), gcpl=properties)


def _write_array(h5: h5py.File, name: str, array: NDArray[Any]) -> dict[str, Any]:
    """Write one array and return its part of the file's digest."""
    sha256 = sha256_of([array])
    if array.dtype.kind == "S":
        array = array.astype(h5py.string_dtype("utf-8", array.dtype.itemsize))
    with _write_errors():
        dataset = h5.create_dataset(name, data=array)
        dataset.flush()
        _set_attribute(dataset, "sha256", sha256)
    return digest_entry(array.dtype.str, array.shape, sha256)


def _write_features(h5: h5py.File, name: str, matrix: BlockMatrix, where: str) -> dict[str, Any]:
    """Write a matrix block by block and return its part of the file's digest."""
    n, width = matrix.shape
    chunks = (min(n, chunk_rows(width)), width)
    with _write_errors():
        dataset = h5.create_dataset(name, (n, width), "<f4", chunks=chunks, fletcher32=True)
    sha = hashlib.sha256()
    rows = 0
    blocks = finite_blocks(_whole_chunks(matrix.iter_blocks(), chunk_rows(width)), where)
    with ThreadPoolExecutor(1) as hasher:
        for block in prefetch(blocks):
            hashed = hasher.submit(sha.update, block.data)
            with _write_errors():
                dataset[rows : rows + len(block)] = block
            hashed.result()
            rows += len(block)
    if rows != n:
        raise ClipkitError(f"{where}: expected {n} rows, got {rows}")
    with _write_errors():
        dataset.flush()  # HDF5 reports no error for what it writes when an object is freed
        _set_attribute(dataset, "sha256", sha.hexdigest())
    return digest_entry("<f4", matrix.shape, sha.hexdigest())


def _whole_chunks(blocks: Iterable[Float32], rows: int) -> Iterator[Float32]:
    """Yield the same rows in blocks of whole chunks: HDF5 would read and write parts again."""
    pending: list[Float32] = []
    count = 0
    for block in blocks:
        pending.append(np.asarray(block, dtype="<f4"))
        count += len(block)
        if count < rows:
            continue
        joined = np.concatenate(pending) if len(pending) > 1 else pending[0]
        count %= rows
        end = len(joined) - count
        yield np.ascontiguousarray(joined[:end])
        pending = [joined[end:]] if count else []
    if count:
        yield np.ascontiguousarray(np.concatenate(pending))


def _set_attribute(owner: Any, name: str, value: str | int | float) -> None:
    if isinstance(value, str):
        data = value.encode()
        owner.attrs.create(name, data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))
    else:
        owner.attrs.create(name, value, dtype="<i8" if isinstance(value, int) else "<f8")


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
    """Turn h5py's errors into one: for a full disk it has OSError, RuntimeError and others."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise WriteError(_reason(error), DISK_FULL_HINT) from error


def _reason(error: Exception) -> str:
    """Return the cause out of HDF5's long messages."""
    for part in str(error).replace("\n", " ").split(", "):
        if part.startswith("error message = "):
            return part.removeprefix("error message = ").strip("'")
    return brief(error)

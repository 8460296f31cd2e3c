"""Feature files in HDF5: reading, writing and digests.

A file is written completely or not at all, and is used only after its container, names, types and
digests have been checked. Features are read and written a block of rows at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from clipkit.errors import ClipkitError, WriteError
from clipkit.features.checked_file import REMAKE, CheckedFile
from clipkit.features.isolation import check_in_subprocess
from clipkit.features.model import (
    BlockMatrix,
    FeatureFile,
    Float32,
    block_rows,
    canonical_json,
    chunk_rows,
)
from clipkit.features.prefetch import prefetch
from clipkit.features.validation import finite_blocks, is_features, validate
from clipkit.files import DISK_FULL_HINT, atomic_write, display_name, spool_input

MAKERS = {
    "images": "embed",
    "texts": "textembed",
    "logits": "logits",
    "result": "entropy, probe, zeroshot or cluster with -o",
}


def read(source: str | Path, *, kinds: Iterable[str] = (), trusted: bool = False) -> FeatureFile:
    """Read a feature file into memory. `open_file` describes parameters and errors.

    Returns
    -------
    FeatureFile
        With features as arrays.
    """
    with open_file(source, kinds=kinds, trusted=trusted) as file:
        return file.in_memory()


@contextlib.contextmanager
def open_file(
    source: str | Path, *, kinds: Iterable[str] = (), trusted: bool = False
) -> Iterator[FeatureFile]:
    """Open a feature file; its features are `BlockMatrix`, everything else is in memory.

    Parameters
    ----------
    source : str or Path
        A path, or ``-`` for standard input.
    kinds : iterable of str
        The kinds that the caller accepts; all, if empty.
    trusted : bool
        Skip the check in a subprocess, for a file that the caller wrote itself.

    Raises
    ------
    ClipkitError
        If the file is damaged, breaks a rule of the format or is of another kind. Features are
        checked against their digest when the last block is read.
    """
    name = display_name(source)
    kinds = list(kinds)
    with spool_input(str(source)) as path:
        if not trusted:
            check_in_subprocess(path, name, lambda: _read_a_little(path, name))
        with CheckedFile(path, name) as checked:
            file = _assemble(checked)
            if kinds and file.kind not in kinds:
                raise ClipkitError(
                    f"{name}: expected {' or '.join(kinds)}, got {file.kind}",
                    f"make one with: clipkit {MAKERS[kinds[0]]}",
                )
            yield file


def _read_a_little(path: Path, name: str) -> None:
    """Read everything but features, and the last row of those: enough to meet what crashes HDF5."""
    with CheckedFile(path, name) as checked:
        for key, value in _assemble(checked).datasets().items():
            if isinstance(value, BlockMatrix):
                checked.h5[key].id.get_num_chunks()
                checked.read(checked.h5[key], key, slice(-1, None))


def _assemble(checked: CheckedFile) -> FeatureFile:
    attributes = checked.attributes()
    file = FeatureFile(
        attributes["kind"],
        temperature=attributes.get("temperature"),
        logit_scale=attributes.get("logit_scale"),
        digest=checked.attribute(checked.h5, "digest"),
        display_name=checked.display_name,
    )
    try:
        file.history = json.loads(attributes["history"])
    except (ValueError, RecursionError):  # RecursionError: a million brackets
        raise checked.error("history: expected valid JSON") from None
    entries = {}
    for name, dataset in checked.datasets(file.kind).items():
        sha256 = checked.attribute(dataset, "sha256")
        entries[name] = _digest_entry(dataset.dtype, dataset.shape, sha256)
        file.set_dataset(name, _value(checked, dataset, name, sha256))
    validate(file)
    if _file_digest(attributes, entries) != file.digest:
        raise checked.error("the metadata does not match the digest: it was changed", REMAKE)
    return file


def _value(checked: CheckedFile, dataset: h5py.Dataset, name: str, sha256: str) -> Any:
    if is_features(name):
        where = f"{checked.display_name}: {name}"

        def iter_blocks() -> Iterator[Float32]:
            return prefetch(finite_blocks(_blocks(checked, dataset, name, sha256), where))

        return BlockMatrix(dataset.shape, iter_blocks)
    array = checked.read(dataset, name)
    if hashlib.sha256(array.tobytes()).hexdigest() != sha256:
        raise _changed(checked, name)
    return checked.texts(array, name) if array.dtype.kind == "S" else array


def _blocks(
    checked: CheckedFile, dataset: h5py.Dataset, name: str, sha256: str
) -> Iterator[Float32]:
    """Yield blocks in order; the last one only if the digest of all of them is right."""
    sha = hashlib.sha256()
    n, width = dataset.shape
    step = block_rows(width)
    for start in range(0, n, step):
        block = checked.read(dataset, name, slice(start, start + step))
        sha.update(block.data)
        is_last = start + step >= n
        if is_last and sha.hexdigest() != sha256:
            raise _changed(checked, name)
        yield block


def _changed(checked: CheckedFile, name: str) -> ClipkitError:
    return checked.error(f"{name} does not match its SHA-256: it was changed", REMAKE)


def write(output: str | Path, file: FeatureFile, *, force: bool = False) -> str:
    """Write a feature file and return its digest.

    Parameters
    ----------
    output : str or Path
        A path, or ``-`` for standard output.
    file : FeatureFile
        Its `digest` is set.
    force : bool
        Replace an existing file.

    Raises
    ------
    ClipkitError
        If the content breaks a rule of the format.
    UsageError
        If the output exists and `force` is not given.
    WriteError
        If the file system refuses the data. An earlier file stays.
    """
    with atomic_write(str(output), force=force) as temporary:
        validate(file)
        with _create(temporary) as h5:
            entries = {}
            for name, value in sorted(file.datasets().items()):
                if is_features(name):
                    where = f"{file.display_name}: {name}"
                    entry = _write_features(h5, name, BlockMatrix.from_array(value), where)
                else:
                    entry = _write_array(h5, name, _encode(value))
                with _write_errors(temporary):
                    _set_attribute(h5[name], "sha256", entry["sha256"])
                entries[name] = entry
            file.digest = _file_digest(file.attributes(), entries)
            with _write_errors(temporary):
                for name, value in {**file.attributes(), "digest": file.digest}.items():
                    _set_attribute(h5, name, value)
                _set_attribute(h5, "complete", 1)
                h5.flush()
    return file.digest


@contextlib.contextmanager
def _create(path: Path) -> Iterator[h5py.File]:
    """Create an HDF5 file, and close it at the end."""
    with _write_errors(path):
        h5 = h5py.File(path, "w", libver="v110", locking=False)
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
        with _write_errors(h5.filename):
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


def _write_array(h5: h5py.File, name: str, array: NDArray[Any]) -> dict[str, Any]:
    """Write one array and return its part of the file's digest."""
    with _write_errors(h5.filename):
        h5.create_dataset(name, data=array).flush()
    sha256 = hashlib.sha256(array.tobytes()).hexdigest()
    return _digest_entry(array.dtype, array.shape, sha256)


def _write_features(h5: h5py.File, name: str, matrix: BlockMatrix, where: str) -> dict[str, Any]:
    """Write a matrix block by block and return its part of the file's digest."""
    n, width = matrix.shape
    chunks = (min(n, chunk_rows(width)), width)
    with _write_errors(h5.filename):
        dataset = h5.create_dataset(name, (n, width), "<f4", chunks=chunks, fletcher32=True)
    blocks = finite_blocks(_equal_blocks(matrix.iter_blocks(), block_rows(width)), where)
    rows, sha256 = _fill(dataset, blocks)
    if rows != n:
        raise ClipkitError(f"{where}: expected {n} rows, got {rows}")
    return _digest_entry(dataset.dtype, dataset.shape, sha256)


def _fill(dataset: h5py.Dataset, blocks: Iterator[Float32]) -> tuple[int, str]:
    """Write blocks of features; return how many rows came and the SHA-256 of their bytes."""
    path = dataset.file.filename
    sha = hashlib.sha256()
    start = 0
    with ThreadPoolExecutor(1) as hasher:
        for block in prefetch(blocks):
            hashed = hasher.submit(sha.update, block.data)
            with _write_errors(path):
                dataset[start : start + len(block)] = block
            hashed.result()
            start += len(block)
    with _write_errors(path):
        dataset.flush()  # HDF5 reports no error for what it writes when an object is freed
    return start, sha.hexdigest()


def _equal_blocks(blocks: Iterable[Float32], rows: int) -> Iterator[Float32]:
    """Yield the same rows in blocks of one size: a file's bytes must not depend on the source's."""
    pending: list[Float32] = []
    count = 0
    for block in blocks:
        pending.append(np.asarray(block, dtype="<f4"))
        count += len(block)
        while count >= rows:
            joined = np.concatenate(pending) if len(pending) > 1 else pending[0]
            yield np.ascontiguousarray(joined[:rows])
            pending = [joined[rows:]]
            count -= rows
    if count:
        yield np.ascontiguousarray(np.concatenate(pending))


def _encode(value: Any) -> NDArray[Any]:
    """Return an array as it is stored: little-endian numbers, or UTF-8 padded to the longest."""
    if isinstance(value, list) or value.dtype.kind == "U":
        encoded = [str(text).encode() for text in value]
        longest = max(1, *map(len, encoded))
        return np.array(encoded, dtype=h5py.string_dtype("utf-8", longest))
    return np.asarray(value.astype("<f8" if value.dtype.kind == "f" else "<i8"))


def _set_attribute(owner: Any, name: str, value: Any) -> None:
    if isinstance(value, str):
        data = value.encode()
        owner.attrs.create(
            name, np.array(data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))
        )
    else:
        owner.attrs.create(name, np.asarray(value, "<i8" if isinstance(value, int) else "<f8"))


@contextlib.contextmanager
def _write_errors(path: Any) -> Iterator[None]:
    """Turn h5py's errors into one: for a full disk it has OSError, RuntimeError and others."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        folder = Path(path).parent
        raise WriteError(f"cannot write to {folder}: {_reason(error)}", DISK_FULL_HINT) from error


def _reason(error: Exception) -> str:
    """Return the cause out of HDF5's long messages."""
    for part in str(error).replace("\n", " ").split(", "):
        if part.startswith("error message = "):
            return part.removeprefix("error message = ").strip("'")
    return str(error).partition("\n")[0]


def _file_digest(attributes: dict[str, Any], entries: dict[str, dict[str, Any]]) -> str:
    """Return SHA-256 over the attributes and over each data set's type, shape and SHA-256."""
    text = canonical_json({"attributes": attributes, "datasets": entries})
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _digest_entry(dtype: np.dtype[Any], shape: tuple[int, ...], sha256: str) -> dict[str, Any]:
    return {"dtype": dtype.str, "shape": list(shape), "sha256": sha256}

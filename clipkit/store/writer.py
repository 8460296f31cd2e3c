"""Writing a feature file: into a temporary file, a block of rows at a time, `complete` last."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from clipkit.errors import ClipkitError, WriteFailed
from clipkit.files import publishing
from clipkit.store.ahead import ahead
from clipkit.store.schema import (
    TYPES,
    FeatureFile,
    Float32,
    Rows,
    block_rows,
    check,
    chunk_rows,
    entry,
    file_digest,
    not_finite,
    refuse_rows,
)


def write(output: str | Path, file: FeatureFile, *, force: bool = False) -> str:
    """Write a feature file and return its digest; ``-`` is standard output.

    Raises
    ------
    ClipkitError
        If the content breaks a rule of the format: lengths that differ, features that are not finite, empty splits.
    UsageError
        If the output exists and `force` is not given.
    WriteFailed
        If the file system refuses the data. The old file stays.
    """
    with publishing(str(output), force=force) as temporary:
        write_into(temporary, file)
    return file.digest


def write_into(path: Path, file: FeatureFile) -> None:
    """Write `file` over `path`, a temporary file of the caller's, and set its digest."""
    check(file, "the result")
    with _write_errors(path):
        h5 = h5py.File(path, "w", libver="v110", locking=False)
    try:
        entries = {
            name: _write_dataset(h5, name, value) for name, value in sorted(file.datasets().items())
        }
        file.digest = file_digest(file.attributes(), entries)
        with _write_errors(path):
            for name, value in {**file.attributes(), "digest": file.digest}.items():
                _set_attribute(h5, name, value)
            _set_attribute(h5, "complete", 1)
            h5.flush()
    except WriteFailed:
        raise  # and leave it open, see _abandoned
    except BaseException:
        with _write_errors(path):
            h5.close()
        raise
    with _write_errors(path):
        h5.close()


def _write_dataset(h5: h5py.File, name: str, value: Any) -> dict[str, Any]:
    if name.rpartition("/")[2] == "features" and not name.startswith("runs/"):
        found = _write_rows(h5, name, Rows.of(value))
    else:
        array = _encode(value, name)
        with _write_errors(h5.filename):
            h5.create_dataset(name, data=array).flush()
        found = entry(array.dtype, array.shape, hashlib.sha256(array.tobytes()).hexdigest())
    with _write_errors(h5.filename):
        _set_attribute(h5[name], "sha256", found["sha256"])
    return found


def _write_rows(h5: h5py.File, name: str, rows: Rows) -> dict[str, Any]:
    (n, width), sha, at = rows.shape, hashlib.sha256(), 0
    if 0 in (n, width):
        raise ClipkitError(f"{name} must hold at least one row and one column; got {n} x {width}")
    with _write_errors(h5.filename):
        dataset = h5.create_dataset(
            name, (n, width), "<f4", chunks=(min(n, chunk_rows(width)), width), fletcher32=True
        )
    with ThreadPoolExecutor(1) as aside:
        for block in ahead(_regular(rows.blocks(), block_rows(width))):
            if bad := not_finite(block):
                raise refuse_rows(name, [at + row for row in bad])
            hashed = aside.submit(sha.update, block.data)
            with _write_errors(h5.filename):
                dataset[at : at + len(block)] = block
            hashed.result()
            at += len(block)
    if at != n:
        raise ClipkitError(f"{name} must have {n} rows; {at} came")
    with _write_errors(h5.filename):
        dataset.flush()  # what is left to be written when an object goes away fails unheard
    return entry(dataset.dtype, dataset.shape, sha.hexdigest())


def _regular(blocks: Iterable[Float32], rows: int) -> Iterator[Float32]:
    """The same rows in blocks of one size, so that a file's bytes do not depend on how its rows came."""
    held: list[Float32] = []
    count = 0
    for block in blocks:
        held.append(np.asarray(block, dtype="<f4"))
        count += len(block)
        while count >= rows:
            joined = np.concatenate(held) if len(held) > 1 else held[0]
            yield np.ascontiguousarray(joined[:rows])
            held, count = [joined[rows:]], count - rows
    if count:
        yield np.ascontiguousarray(np.concatenate(held))


def _encode(value: Any, name: str) -> NDArray[Any]:
    """An array as it is stored: little-endian numbers, or UTF-8 padded to the longest text."""
    allowed, ndim = TYPES["runs" if name.startswith("runs/") else name.rpartition("/")[2]]
    if isinstance(value, list) or value.dtype.kind == "U":
        try:
            data = [str(text).encode() for text in value]
        except UnicodeEncodeError as error:
            raise ClipkitError(f"{name} must be UTF-8; got {error.object!r}") from error
        if any(b"\0" in text for text in data):
            raise ClipkitError(f"{name} must not hold NUL characters")
        array = np.array(data, dtype=h5py.string_dtype("utf-8", max(1, *map(len, data))))
    else:
        array = value.astype("<f8" if value.dtype.kind == "f" else "<i8")
    kind = "S" if array.dtype.kind == "S" else array.dtype.str
    if kind not in allowed or array.ndim != ndim:
        raise ClipkitError(
            f"{name} must be {' or '.join(sorted(allowed))} of {ndim} dimensions; got {array.ndim} of {kind}"
        )
    return array


def _set_attribute(at: Any, name: str, value: Any) -> None:
    if isinstance(value, str):
        data = value.encode()
        at.attrs.create(name, np.array(data, dtype=h5py.string_dtype("utf-8", max(1, len(data)))))
    else:
        at.attrs.create(name, np.asarray(value, dtype="<i8" if isinstance(value, int) else "<f8"))


_abandoned: list[WriteFailed] = []
"""Failures, whose tracebacks hold what was open: HDF5 crashes when it closes a file that it could not write."""


@contextlib.contextmanager
def _write_errors(path: Any) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # h5py turns one full disk into OSError, RuntimeError, ValueError or KeyError
        hint = "free some space or write elsewhere; nothing was replaced"
        _abandoned.append(
            WriteFailed(
                f"{Path(path).parent} must take the whole file; got: {_reason(error)}", hint
            )
        )
        raise _abandoned[-1] from error


def _reason(error: Exception) -> str:
    """The cause within HDF5's long messages."""
    for part in str(error).replace("\n", " ").split(", "):
        if part.startswith("error message = "):
            return part.removeprefix("error message = ").strip("'")
    return str(error).partition("\n")[0]

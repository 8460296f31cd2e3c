"""`.npy` and `.npz`: NumPy's own files, read and written a block of rows at a time, never with pickles."""

from __future__ import annotations

import contextlib
import functools
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from clipkit.errors import ClipkitError, UsageError
from clipkit.features._found import (
    BLOCK_BYTES,
    ROOT,
    SPLIT,
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

ABOUT = "clipkit"


@dataclass(frozen=True)
class Array:
    """One stored array, of which only the header was read.

    Parameters
    ----------
    shown : str
        How errors name it.
    open : callable
        Opens its bytes, at the first of them.
    start : int
        Where the data begins.
    """

    shown: str
    open: Callable[[], IO[bytes]]
    start: int
    dtype: np.dtype[Any]
    dims: tuple[int, ...]
    fortran: bool

    @classmethod
    def read(cls, open: Callable[[], IO[bytes]], size: int, shown: str) -> Array:
        """Read and check the header of an array of `size` bytes, header included."""
        with _damaged(shown), open() as file:
            version = npy.read_magic(file)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            dims, fortran, dtype = header(file)
            start = file.tell()
        if dtype.hasobject:
            hint = "save numbers or texts: np.save(file, np.stack(rows))"
            raise ClipkitError(
                f"{shown} must be plain; it holds pickled Python objects, which are never loaded",
                hint,
            )
        if dtype.kind not in "biufUS":
            raise ClipkitError(
                f"{shown} must be numbers or texts; got type {dtype}",
                "convert it first: array.astype('float32')",
            )
        expected = start + math.prod(dims) * dtype.itemsize
        if expected != size:
            what = "it was cut short" if size < expected else "something was added to it"
            raise ClipkitError(f"{shown} must be {expected} bytes long; it is {size}: {what}")
        return cls(shown, open, start, dtype, dims, fortran)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D), of what must be a matrix of numbers."""
        if len(self.dims) != 2 or 0 in self.dims:
            hint = "flatten each row, or select a layer: (N, D)" if len(self.dims) > 2 else None
            raise ClipkitError(
                f"{self.shown} must be a matrix (N, D) with N and D above 0; its shape is {self.dims}",
                hint,
            )
        if self.dtype.kind not in "biuf":
            raise ClipkitError(f"{self.shown} must be numbers; got type {self.dtype}")
        return (self.dims[0], self.dims[1])

    def array(self) -> NDArray[Any]:
        """The whole array, as stored."""
        with _damaged(self.shown), self.open() as file:
            file.read(self.start)
            data = file.read()  # to the end, where an archive's checksum is compared
            return np.frombuffer(data, self.dtype).reshape(
                self.dims, order="F" if self.fortran else "C"
            )

    def iter_blocks(self) -> Iterator[Float32]:
        """Blocks (B, D) of a matrix; what is stored column by column is read at once."""
        n, width = self.shape
        step = max(1, BLOCK_BYTES // (width * self.dtype.itemsize))
        if self.fortran:
            array = self.array()
            yield from (floats(array[at : at + step]) for at in range(0, n, step))
            return
        with contextlib.ExitStack() as stack:
            with _damaged(self.shown):
                file = stack.enter_context(self.open())
                file.read(self.start)
            for at in range(0, n, step):
                with _damaged(self.shown):
                    rows = min(step, n - at)
                    data = file.read(rows * width * self.dtype.itemsize)
                    block = np.frombuffer(data, self.dtype).reshape(rows, width)
                    if at + rows == n:
                        file.read(1)  # an archive's checksum is compared at its end
                yield floats(block)


@contextlib.contextmanager
def _damaged(shown: str) -> Iterator[None]:
    try:
        yield
    except (ClipkitError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ClipkitError(
            f"{shown} must be a sound NumPy array; got: {reason}", "write the file again"
        ) from error


@contextlib.contextmanager
def opened(
    path: Path, ending: str, shown: str, split: str | None, given: dict[str, Any]
) -> Iterator[Found]:
    """Open an `.npy`, which holds features, or an `.npz`; see `clipkit.features.formats.opened`."""
    with contextlib.ExitStack() as stack:
        if ending == ".npy":
            arrays: dict[str, Any] = {"features": _one(path, shown)}
        else:
            try:
                archive = stack.enter_context(zipfile.ZipFile(path))
            except Exception as error:
                raise ClipkitError(
                    f"{shown} must be an .npz archive; it is another file, or was cut short"
                ) from error
            arrays = _members(archive, shown)
        if "labels" in given:
            given["labels"] = _one(given["labels"], str(given["labels"]))
        for name in given.keys() & arrays.keys():
            raise UsageError(f"{shown} has {name} of its own; got them beside it too")
        found = _found(arrays | given, shown, split)
        for name in given.keys() & set(found.unused):
            raise UsageError(
                f"{shown} must hold one unnamed matrix of features to be given {name}; it does not"
            )
        yield found


def _one(path: Path, shown: str) -> Array:
    return Array.read(lambda: path.open("rb"), path.stat().st_size, shown)


def _members(archive: zipfile.ZipFile, shown: str) -> dict[str, Any]:
    found = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in found:
            raise ClipkitError(f"{shown} must hold each array once; {name} is there twice")
        if name != info.filename:
            check_size(info.file_size, info.compress_size, f"{shown}: {name}")
            found[name] = Array.read(
                functools.partial(archive.open, info), info.file_size, f"{shown}: {name}"
            )
    return found


def _found(stored: dict[str, Any], shown: str, split: str | None) -> Found:
    """Give each array its place in a feature file."""
    about = {}
    if ABOUT in stored:
        text = stored.pop(ABOUT).array()
        about = parse_about(str(text.item()) if text.size == 1 else "", shown)
    kind = about.get("kind") or ("texts" if {"features", "texts"} <= stored.keys() else "images")
    if kind == "texts" and split is not None:
        raise UsageError(f"{shown} holds texts, which have no splits; got split {split!r}")
    places = {name: _place(name, kind, split) for name in stored}
    splits = [
        place.removesuffix("/features") for place in places.values() if place.endswith("/features")
    ]
    kept = choose(split, splits, shown) if splits else []
    found, filled = Found(kind, {}, about), set()
    for name, place in places.items():
        of = place.rpartition("/")[0]
        if not place or (of and of not in splits):
            found.unused.append(name)
        elif place in filled:
            raise ClipkitError(
                f"{shown} must hold each array once; {name} would be a second {place}"
            )
        elif not of or of in kept:
            found.arrays[place] = _value(place, stored[name])
        filled.add(place)
    return complete(found, shown)


def _place(name: str, kind: str, split: str | None) -> str:
    """The data set that an array becomes; nothing if there is none.

    >>> _place("train_features", "images", None), _place("features", "images", None), _place("features", "texts", None)
    ('train/features', 'all/features', 'features')
    """
    if name in ROOT:
        return name if kind != "images" or name == "class_names" else ""
    if kind == "texts":
        return name if name == "features" else ""
    if name in SPLIT:
        return f"{split or UNNAMED}/{name}"
    of, _, key = name.rpartition("_")
    return f"{of}/{key}" if of and key in SPLIT else ""


def _value(place: str, stored: Any) -> Any:
    key = place.rpartition("/")[2]
    if isinstance(stored, list):
        return stored
    if key == "features":
        _ = stored.shape  # checked before anything is read
        return stored
    array = stored.array()
    if key == "class_index" or (key == "labels" and array.dtype.kind not in "US"):
        return whole(array, stored.shown)
    return strings(array, stored.shown)


def write_npz(path: Path, datasets: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write every data set as an array, ``train/features`` as ``train_features``; the same content, the same bytes."""
    content = {name.replace("/", "_"): value for name, value in datasets.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in sorted({**content, ABOUT: np.array(dump_about(about))}.items()):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                _write(file, value)


def write_npy(path: Path, datasets: Mapping[str, Any]) -> None:
    """Write the one matrix of features that there is."""
    found = {
        name: value for name, value in datasets.items() if name.rpartition("/")[2] == "features"
    }
    if len(found) != 1:
        splits = ", ".join(name.removesuffix("/features") for name in found) or "none"
        hint = "choose one with --split, or write an .npz" if found else "choose .npz"
        raise UsageError(f"an .npy file takes one matrix of features; the input has {splits}", hint)
    with path.open("wb") as file:
        _write(file, *found.values())


def _write(file: IO[bytes], value: Any) -> None:
    if hasattr(value, "iter_blocks"):
        npy.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": tuple(value.shape)}
        )
        for block in value.iter_blocks():
            file.write(np.ascontiguousarray(block, "<f4").data)
    else:
        npy.write_array(file, np.asarray(value), allow_pickle=False)

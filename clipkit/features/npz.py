"""Arrays in .npz and .npy files, of which large ones are read and written block by block."""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

from clipkit.errors import ClipkitError
from clipkit.features.model import BlockMatrix, Float32, as_float32, block_rows


class StoredArray(NamedTuple):
    """An array in an .npy file or in a member of an .npz, still unread: `open` gives its bytes."""

    name: str
    open: Callable[[], IO[bytes]]
    size: int

    def read_header(
        self, file: IO[bytes]
    ) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
        """Read shape, order and type, and check that as many bytes follow."""
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_column_major, dtype = read(file)
        if dtype.hasobject:
            raise ClipkitError(
                f"{self.name}: expected numbers or texts, got pickled objects",
                "pickles are never loaded; save numbers: np.save(file, np.stack(rows))",
            )
        expected = file.tell() + math.prod(shape) * dtype.itemsize
        if expected != self.size:
            reason = "it was cut short" if self.size < expected else "something was added to it"
            raise ClipkitError(f"{self.name}: expected {expected} bytes, got {self.size}: {reason}")
        return shape, "F" if is_column_major else "C", dtype

    def items(self, ndim: int = 1) -> list[Any]:
        """Return an array of one dimension, or of none, as a list."""
        with self.open() as file:
            shape, _, dtype = self.read_header(file)
            if len(shape) != ndim or dtype.kind not in "biufUS":
                raise ClipkitError(
                    f"{self.name}: expected numbers or texts (N), got {dtype} of shape {shape}"
                )
            return list(np.frombuffer(file.read(), dtype).tolist())

    def matrix(self) -> BlockMatrix:
        """Return a matrix of numbers, to be read block by block."""
        with self.open() as file:
            shape, order, dtype = self.read_header(file)
        if len(shape) != 2 or 0 in shape or dtype.kind not in "biuf":
            hint = "flatten each row, or select a layer" if len(shape) > 2 else None
            raise ClipkitError(
                f"{self.name}: expected numbers (N, D), got {dtype} of shape {shape}", hint
            )
        n, width = shape
        step = n if order == "F" else block_rows(width)  # a row of columns lies all over the file

        def iter_blocks() -> Iterator[Float32]:
            with self.open() as file:
                self.read_header(file)
                for start in range(0, n, step):
                    rows = min(step, n - start)
                    data = file.read(rows * width * dtype.itemsize)
                    yield as_float32(np.ndarray((rows, width), dtype, data, order=order))
                file.read(1)  # an archive compares its checksum at the end

        return BlockMatrix((n, width), iter_blocks)


def open_npy(path: Path, name: str) -> StoredArray:
    """Return the array of an .npy file."""
    return StoredArray(name, lambda: path.open("rb"), path.stat().st_size)


def open_members(archive: zipfile.ZipFile, name: str) -> dict[str, StoredArray]:
    """Return the arrays of an open .npz."""
    arrays: dict[str, StoredArray] = {}
    for member in archive.infolist():
        key = member.filename.removesuffix(".npy")
        if key in arrays:
            raise ClipkitError(f"{name}: expected each array once, got {key} twice")
        open_member = functools.partial(archive.open, member)
        arrays[key] = StoredArray(f"{name}: {key}", open_member, member.file_size)
    return arrays


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays, lists of str and matrices. The same content gives the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in sorted(arrays.items()):
            member = zipfile.ZipInfo(f"{name}.npy")  # its date is always 1980
            with archive.open(member, "w", force_zip64=True) as file:
                write_array(file, array)


def write_array(file: IO[bytes], array: Any) -> None:
    """Write one array, list of str or matrix in the format of .npy."""
    if not isinstance(array, BlockMatrix):
        npy.write_array(file, np.asarray(array), allow_pickle=False)
        return
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(array.shape)}
    npy.write_array_header_1_0(file, header)
    for block in array.iter_blocks():
        file.write(np.ascontiguousarray(block, "<f4").data)

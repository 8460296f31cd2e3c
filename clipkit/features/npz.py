"""Arrays in .npz and .npy files. Matrices are written block by block."""

from __future__ import annotations

import functools
import io
import math
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from clipkit.base.errors import ClipkitError
from clipkit.features.model import BlockMatrix


class Bound(NamedTuple):
    """How much data may unpack to: some bytes, or a multiple of the file's size if that is more."""

    bytes: int
    ratio: int

    def check(self, unpacked: int, packed: int, name: str) -> None:
        """Refuse data of a file that would unpack to more.

        >>> Bound(1 << 20, 100).check(10_000, 20, "labels")
        """
        if unpacked > max(self.bytes, self.ratio * packed):
            raise ClipkitError(
                f"{name}: expected to unpack to at most {self.bytes >> 20} MiB or {self.ratio} "
                f"times the file's {packed} bytes, got {unpacked} bytes",
                "if the file is intended, save it without compression",
            )


MATRICES = Bound(1 << 26, 100)
# Python's texts and numbers take several times the bytes of an array's
OTHERS = Bound(1 << 24, 10)
HEADER_BYTES = 1 << 17  # NumPy's headers have less than 2^16


class StoredArray(NamedTuple):
    """An array in an .npy file or in a member of an .npz, still unread: `open` gives its bytes."""

    name: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    size: int

    def read(self) -> NDArray[Any]:
        """Read the array, after a check that as many bytes follow as its header says."""
        with self.open() as file:
            head = io.BytesIO(file.read(HEADER_BYTES))  # a header may ask for 4 GiB
            version = npy.read_magic(head)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, is_column_major, dtype = read(head)
            file.seek(head.tell())
            if dtype.hasobject:
                raise ClipkitError(
                    f"{self.name}: expected numbers or texts, got pickled objects",
                    "pickles are never loaded; save numbers: np.save(file, np.stack(rows))",
                )
            expected = file.tell() + math.prod(shape) * dtype.itemsize
            if expected != self.size:
                reason = "it was cut short" if self.size < expected else "something was added to it"
                raise ClipkitError(
                    f"{self.name}: expected {expected} bytes, got {self.size}: {reason}"
                )
            if dtype.itemsize == 0 and 0 not in shape:
                raise ClipkitError(f"{self.name}: expected numbers or texts, got {dtype}")
            # to the end, where an archive compares its checksum, and no more than it states
            data = file.read(self.size - file.tell())
        return np.ndarray(shape, dtype, data, order="F" if is_column_major else "C")


def open_npy(path: Path, name: str) -> StoredArray:
    """Return the array of an .npy file."""
    return StoredArray(name, lambda: path.open("rb"), path.stat().st_size)


def open_npz(archive: zipfile.ZipFile, packed: int, name: str) -> dict[str, Any]:
    """Return the arrays of an .npz of `packed` bytes, which are read while it stays open."""
    arrays: dict[str, Any] = {}
    matrices = others = 0  # bytes
    for member in archive.infolist():
        key = member.filename.removesuffix(".npy")
        if key in arrays:
            raise ClipkitError(f"{name}: expected each array once, got {key} twice")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile unpacks others without a limit; NumPy writes none
            raise ClipkitError(f"{name}: {key}: expected no compression but deflate, got another")
        if key.endswith("features"):
            matrices += member.file_size
        else:
            others += member.file_size
        open_member = functools.partial(archive.open, member)
        arrays[key] = StoredArray(f"{name}: {key}", open_member, member.file_size)
    MATRICES.check(matrices, packed, f"{name}: features")
    OTHERS.check(others, packed, f"{name}: arrays other than features")
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

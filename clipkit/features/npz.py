"""Arrays in .npz, .npy and .safetensors files. Matrices are written block by block."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from clipkit.base.bounds import MATRICES, OTHERS
from clipkit.base.errors import ClipkitError
from clipkit.base.matrices import BlockMatrix

# Returns an array when it is called.
StoredArray = Callable[[], NDArray[Any]]


def open_npy(path: Path) -> StoredArray:
    """Return the array of an .npy file, unread."""
    return functools.partial(_read, lambda: path.open("rb"), path.stat().st_size)


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
        arrays[key] = functools.partial(_read, open_member, member.file_size)
    MATRICES.check(matrices, packed, f"{name}: features")
    OTHERS.check(others, packed, f"{name}: arrays other than features")
    return arrays


def read_safetensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a .safetensors file; the only matrix in it is called ``features``."""
    from safetensors.torch import load_file  # NumPy has no bfloat16

    arrays: dict[str, Any] = {}
    for name, tensor in load_file(path).items():
        arrays[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    if len(matrices) == 1 and not matrices[0].endswith("features"):
        arrays["features"] = arrays.pop(matrices[0])
    return arrays


def _read(open_stream: Callable[[], AbstractContextManager[IO[bytes]]], size: int) -> NDArray[Any]:
    with open_stream() as stream:
        # to the end, where an archive compares its checksum, and no more than it states
        data = stream.read(size)
    head = io.BytesIO(data)
    version = npy.read_magic(head)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_column_major, dtype = read_header(head)
    if dtype.hasobject:
        raise ValueError("pickled objects are never loaded; save numbers")
    # refuses a buffer that is too small; `npy.read_array` would allocate the array before
    array = np.ndarray(shape, dtype, data, head.tell(), order="F" if is_column_major else "C")
    if head.tell() + array.nbytes < len(data):
        raise ValueError(f"expected {head.tell() + array.nbytes} bytes, got {len(data)}")
    return array


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

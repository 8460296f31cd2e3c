"""Open an HDF5 file from anybody: it reads no other file and costs no more than its own size.

These are the rules of how a feature file is stored; `validation` checks its content.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from clipkit.base.bounds import MAX_NAMES
from clipkit.base.errors import ClipkitError, InputError
from clipkit.base.files import HDF5_SIGNATURE, OpenFile
from clipkit.features.endings import READABLE
from clipkit.features.model import (
    FORMAT,
    KINDS,
    TEXTS_AT_ONCE,
    check_version,
    is_allowed,
    place_of,
    stored_types,
)

SUPERBLOCK_BYTES = 48
CONSISTENCY_FLAGS = 11  # their place in the superblock
NO_ADDRESS = 2**64 - 1
REQUIRED = {
    "format": str,
    "version": int,
    "kind": str,
    "history": str,
    "digest": str,
    "complete": int,
}
OPTIONAL = {"temperature": float, "logit_scale": float}
HDF5_CLASS = {str: h5py.h5t.STRING, int: h5py.h5t.INTEGER, float: h5py.h5t.FLOAT}


class CheckedFile:
    """An open HDF5 file that gives out only what was checked. The `OpenFile` must stay open."""

    def __init__(self, file: OpenFile, display_name: str) -> None:
        self.descriptor = file.descriptor
        self.path = file.path
        self.display_name = display_name
        self.size = self._check_container()
        with self._reading("the file"):
            self.h5 = h5py.File(_OpenDescriptor(file.descriptor), "r")

    def close(self) -> None:
        """Close the file. This may fail for a damaged one, which was only read."""
        with contextlib.suppress(Exception):
            self.h5.close()

    def error(self, message: str, hint: str | None = None) -> ClipkitError:
        """Return an error that names the file."""
        return ClipkitError(f"{self.display_name}: {message}", hint)

    def damage(self, message: str, hint: str = "make the file again") -> ClipkitError:
        """Return an error about damage, or, if the file is open for writing, one about that."""
        if _is_open_for_writing(self.path):
            return self._unfinished()
        return self.error(message, hint)

    def _unfinished(self) -> ClipkitError:
        return ClipkitError(
            f"{self.display_name} is open for writing elsewhere",
            "close it there; make the file again if the program that wrote it was killed",
        )

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn HDF5's many exceptions into one: damage, unless the system could not read."""
        try:
            yield
        except (ClipkitError, MemoryError):
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None)
            if reason:
                raise ClipkitError(f"cannot read {self.display_name}: {reason}") from error
            raise self.damage(f"cannot read {what}: it is damaged") from error

    def _check_container(self) -> int:
        """Check signature, superblock and length, before HDF5 sees the file; return its size."""
        try:
            head = os.pread(self.descriptor, SUPERBLOCK_BYTES, 0)
            size = os.fstat(self.descriptor).st_size
        except OSError as error:
            raise ClipkitError(f"cannot read {self.display_name}: {error.strerror}") from error
        if size == 0:
            raise self.damage("empty input", "check whether the command before it failed")
        if not head.startswith(HDF5_SIGNATURE):
            raise InputError(
                f"{self.display_name}: expected a feature file, got {_content(head)}",
                "the commands embed, textembed and logits make feature files",
            )
        if len(head) < SUPERBLOCK_BYTES:
            raise self.damage("expected a complete file, but it ends within its first bytes")
        version, offset_bytes, length_bytes = head[8:11]
        base, extension, end = struct.unpack_from("<QQQ", head, 12)
        is_known = version in (2, 3) and (offset_bytes, length_bytes) == (8, 8)
        if not is_known or base != 0 or extension != NO_ADDRESS:
            raise self._foreign()
        if head[CONSISTENCY_FLAGS]:  # which HDF5 2.0 checks only in files that it opened itself
            raise self._unfinished()
        if end != size:
            reason = "it was cut short" if size < end else "something was added to it"
            raise self.damage(f"expected {end} bytes, got {size}: {reason}")
        return size

    def _foreign(self) -> ClipkitError:
        return self.error(
            "expected a feature file, got an HDF5 file that clipkit did not make",
            f"clipkit convert imports {', '.join(READABLE)}",
        )

    def attributes(self) -> dict[str, Any]:
        """Return the root attributes that the digest covers, of a complete file of this version."""
        if self._optional_attribute("format", str) != FORMAT:
            raise self._foreign()
        version = self.attribute(self.h5, "version", int)
        check_version(self.display_name, version)
        if self._optional_attribute("complete", int) != 1:
            raise self.error(
                "expected a complete file, but its writing was interrupted",
                "run the command that made it again",
            )
        values = {name: self.attribute(self.h5, name, kind) for name, kind in REQUIRED.items()}
        for name, kind in OPTIONAL.items():
            value = self._optional_attribute(name, kind)
            if value is not None:
                values[name] = value
        with self._reading("the attributes"):
            count = h5py.h5a.get_num_attrs(self.h5.id)
        if count != len(values):
            allowed = ", ".join({**REQUIRED, **OPTIONAL})
            raise self.error(f"expected no root attributes but {allowed}, got another one")
        if values["kind"] not in KINDS:
            raise self.error(f"kind: expected one of {', '.join(KINDS)}, got {values['kind']!r}")
        del values["digest"], values["complete"]
        return values

    def _optional_attribute(self, name: str, kind: type) -> Any:
        """Return a root attribute, or None if there is none."""
        with self._reading(f"the attribute {name}"):
            exists = h5py.h5a.exists(self.h5.id, name.encode())
        return self.attribute(self.h5, name, kind) if exists else None

    def attribute(self, owner: Any, name: str, kind: type = str) -> Any:
        """Return a scalar attribute: fixed-length text, an integer or a float."""
        with self._reading(f"the attribute {name}"):
            if not h5py.h5a.exists(owner.id, name.encode()):
                raise self.error(f"expected the attribute {name} of {owner.name}, got none")
            attribute = h5py.h5a.open(owner.id, name.encode())
            if not _is_scalar(attribute, kind) or attribute.get_type().get_size() > self.size:
                expected = f"expected a fixed-size scalar {kind.__name__}"
                raise self.error(f"attribute {name} of {owner.name}: {expected}")
            value = np.empty((), attribute.dtype)
            # a text as it is stored: HDF5 would cut it at a NUL
            attribute.read(value, attribute.get_type() if kind is str else None)
            return value.item().decode() if kind is str else kind(value)

    def datasets(self, kind: str) -> dict[str, h5py.Dataset]:
        """Return the data sets of a file of this kind, still unread, sorted by name.

        The columns of a result keep the order in which they were written. Names, types, dimensions
        and storage are those that the format allows.
        """
        datasets: dict[str, h5py.Dataset] = {}
        declared = 0
        for name in self._names(kind):
            with self._reading(name):
                dataset = self._open_dataset(name)
                size = math.prod(dataset.shape) * dataset.dtype.itemsize
                declared += size  # summed, since many names may share one block of bytes
                if declared > self.size:
                    raise self.error(
                        f"{name}: expected data that fits into {self.size} bytes, got {size}"
                    )
                self._check_storage(dataset, name)
            datasets[name] = dataset
        return datasets

    def _names(self, kind: str) -> list[str]:
        """Return the names of all data sets, found through hard links only."""
        names: list[str] = []
        with self._reading("the list of data sets"):
            for link in self._links(self.h5):
                members = [link]
                if not is_allowed(kind, link) and self._type(link) == h5py.h5o.TYPE_GROUP:
                    group = h5py.Group(h5py.h5g.open(self.h5.id, link.encode()))
                    members = [f"{link}/{key}" for key in self._links(group)]
                    if not members:
                        raise self.error(f"{link}: expected data sets, got an empty group")
                for name in members:
                    if not is_allowed(kind, name):
                        raise self.error(f"{name} is not part of a file of {kind}")
                names += members
        return sorted(names, key=place_of)

    def _type(self, name: str) -> int:
        return int(h5py.h5o.get_info(self.h5.id, name.encode()).type)

    def _links(self, group: h5py.Group) -> list[str]:
        """Return the names in a group, all of them hard links."""
        count = len(group.id)
        if count > MAX_NAMES:
            raise self.error(f"{group.name}: expected at most {MAX_NAMES:,} names, got {count:,}")
        names: list[str] = []
        for raw in group.id:
            name = raw.decode("utf-8", "backslashreplace")
            if group.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                where = f"{group.name.rstrip('/')}/{name}"
                raise self.error(f"{where}: expected data in the file itself, got a link")
            names.append(name)
        return names

    def _open_dataset(self, name: str) -> h5py.Dataset:
        if self._type(name) != h5py.h5o.TYPE_DATASET:
            raise self.error(f"{name}: expected a data set, got a group")
        dataset = h5py.Dataset(h5py.h5d.open(self.h5.id, name.encode()))
        types, ndim = stored_types(name)
        stored = _stored_type(dataset)
        if stored not in types:
            raise self.error(f"{name}: expected type {' or '.join(sorted(types))}, got {stored}")
        if dataset.ndim != ndim:
            raise self.error(f"{name}: expected {ndim} dimensions, got {dataset.ndim}")
        return dataset

    def _check_storage(self, dataset: h5py.Dataset, name: str) -> None:
        plist = dataset.id.get_create_plist()
        layouts = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
        if plist.get_external_count() or plist.get_layout() not in layouts:
            raise self.error(f"{name}: expected data in the file itself, got a reference")
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if any(code != h5py.h5z.FILTER_FLETCHER32 for code in filters):
            raise self.error(f"{name}: expected no filter but fletcher32, got filters {filters}")
        if not dataset.chunks:
            return
        # each chunk must lie in the file: HDF5 trusts the index, and can crash on it
        checksum_bytes = 4 * len(filters)
        size = math.prod(dataset.chunks) * dataset.dtype.itemsize + checksum_bytes
        per_axis = zip(dataset.shape, dataset.chunks, strict=True)
        count = math.prod(math.ceil(n / chunk) for n, chunk in per_axis)
        valid: list[bool] = []

        def check(chunk: Any) -> None:
            fits = chunk.byte_offset + size <= self.size
            valid.append(fits and chunk.size == size and not chunk.filter_mask)

        dataset.id.chunk_iter(check)
        if len(valid) != count or not all(valid):
            raise self.error(f"{name}: expected {count} chunks of {size} bytes: it is damaged")

    def read(self, dataset: h5py.Dataset, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Return rows of a checked data set, as stored."""
        with self._reading(name):
            if dataset.dtype.kind != "S":
                return np.ascontiguousarray(dataset[rows])
            texts = np.empty(dataset.shape, dataset.dtype)
            # as they are stored: HDF5 would cut each at a NUL
            dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, texts, dataset.id.get_type())
            return texts

    def blocks(self, dataset: h5py.Dataset, name: str, step: int) -> Iterator[NDArray[Any]]:
        """Yield the rows of a checked matrix, `step` at a time.

        HDF5's checksums are not compared. The SHA-256 covers the same bytes.
        """
        with self._reading(name):
            read = dataset.__getitem__
            if ChunkReader.can_read(dataset):
                read = ChunkReader(dataset, self.descriptor).read
            for start in range(0, len(dataset), step):
                yield np.ascontiguousarray(read(slice(start, start + step)))

    def texts(self, array: NDArray[np.bytes_], name: str) -> list[str]:
        """Return stored UTF-8 as strings."""
        texts: list[str] = []
        try:
            for start in range(0, len(array), TEXTS_AT_ONCE):
                texts += map(bytes.decode, array[start : start + TEXTS_AT_ONCE].tolist())
            return texts
        except UnicodeDecodeError as error:
            raise self.error(f"{name}: expected UTF-8, got {error.object[:80]!r}") from error


class ChunkReader:
    """The chunks of a checked matrix (N, D), each of which has all columns, read without HDF5.

    HDF5 would compare a checksum of each chunk, which is appended to its bytes, and it lets only
    one thread read or write at a time. The SHA-256 of the matrix detects the same damage.
    """

    def __init__(self, dataset: h5py.Dataset, descriptor: int) -> None:
        self._dtype = dataset.dtype
        self._shape = dataset.shape
        self._chunk_rows = dataset.chunks[0]
        self._descriptor = descriptor
        offsets: dict[int, int] = {}

        def note(chunk: Any) -> None:
            offsets[chunk.chunk_offset[0]] = chunk.byte_offset

        dataset.id.chunk_iter(note)
        self._offsets = [offsets[row] for row in sorted(offsets)]

    @staticmethod
    def can_read(dataset: h5py.Dataset) -> bool:
        """Whether a matrix is stored in chunks of whole rows."""
        return dataset.chunks is not None and dataset.chunks[1] == dataset.shape[1]

    def read(self, rows: slice) -> NDArray[Any]:
        """Return rows (B, D)."""
        start, stop, _ = rows.indices(self._shape[0])
        block = np.empty((stop - start, self._shape[1]), self._dtype)
        row = start
        while row < stop:
            chunk, skipped = divmod(row, self._chunk_rows)
            end = min(stop, row - skipped + self._chunk_rows)
            part = block[row - start : end - start]
            offset = self._offsets[chunk] + skipped * part.strides[0]
            read_exactly(self._descriptor, part.data, offset)
            row = end
        return block


def read_exactly(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer with the bytes from an offset on: one read may give a part of them."""
    view = buffer.cast("B")
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise OSError(f"the file ends at byte {offset}")
        view = view[count:]
        offset += count


class _OpenDescriptor(io.RawIOBase):
    """An open file as h5py takes it, which opens no name and takes no lock.

    The position of the descriptor, which other processes may share, is neither used nor moved.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte and return its number."""
        size = os.fstat(self._descriptor).st_size
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the bytes from the position on."""
        read_exactly(self._descriptor, memoryview(buffer), self._position)
        return len(buffer)


def _is_open_for_writing(path: Path) -> bool:
    """Whether a program has the file open for writing, or was killed while it was open.

    HDF5 marks such files in the superblock, and locks them unless locking is off.
    """
    try:
        file = path.open("rb")  # a lock of a descriptor from the caller may be the caller's
    except OSError:  # a descriptor of standard input that another user has opened
        return False
    with file:
        head = file.read(SUPERBLOCK_BYTES)
        if head.startswith(HDF5_SIGNATURE) and any(head[CONSISTENCY_FLAGS:][:1]):
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            pass
    return False


def _content(head: bytes) -> str:
    """Say what a file that does not begin like HDF5 seems to be."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if HDF5_SIGNATURE in head:
        return "an HDF5 file behind other bytes"
    if head.isascii() and b"\0" not in head:
        return "text"
    return "other data"


def _is_scalar(attribute: h5py.h5a.AttrID, kind: type) -> bool:
    """Whether an attribute is one value of this kind, stored at a fixed size."""
    h5type = attribute.get_type()
    is_scalar = attribute.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
    if not is_scalar or h5type.get_class() != HDF5_CLASS[kind]:
        return False
    return kind is not str or not h5type.is_variable_str()


def _stored_type(dataset: h5py.Dataset) -> str:
    """Return S for fixed-length text, numpy's code for plain numbers, or `another type`."""
    h5type = dataset.id.get_type()
    if h5type.get_class() == h5py.h5t.STRING and not h5type.is_variable_str():
        return "S"
    if h5type.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
        return str(dataset.dtype.str)
    return "another type"

"""What is checked before a feature file is believed: it reads no other file and costs no more than its own size."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from clipkit.errors import ClipkitError
from clipkit.store.schema import FORMAT, KINDS, NAME, TYPES, VERSION, History, dump

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NO_ADDRESS = 2**64 - 1
MAX_CHUNK_BYTES = 1 << 26
MAX_LINKS = 4096
MAX_DEPTH = 16
ATTRIBUTES = {
    "format": str,
    "version": int,
    "kind": str,
    "history": str,
    "digest": str,
    "complete": int,
}
OPTIONAL = {"temperature": float, "logit_scale": float}


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _sound_entry(entry: Any) -> bool:
    """Whether a history's entry names its command and, if a model made it, that model."""
    if not isinstance(entry, dict) or not isinstance(entry.get("command"), str):
        return False
    model = entry.get("model", {"name": ""})
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        return False
    scale = model.get("logit_scale", 1.0)
    return isinstance(scale, float | int) and math.isfinite(scale) and scale > 0


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)


class Gate:
    """An open HDF5 file that hands out nothing that was not checked; a context manager."""

    def __init__(self, path: Path, shown: str) -> None:
        self.shown = shown
        self.size = self._check_container(path)
        self.declared = 0
        with self._reading("the file"):
            self.h5 = h5py.File(path, "r", locking=False)

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(Exception):  # of a damaged file; it was only read
            self.h5.close()

    def error(self, message: str, hint: str | None = None) -> ClipkitError:
        """An error that names the file."""
        return ClipkitError(f"{self.shown}: {message}", hint)

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """HDF5's many exceptions are one: what it could not read is damaged."""
        try:
            yield
        except (ClipkitError, MemoryError):
            raise
        except Exception as error:
            raise self.error(
                f"{what} must be readable; it is damaged", "make the file again"
            ) from error

    def _check_container(self, path: Path) -> int:
        """HDF5's signature at offset 0, a superblock as ours, and a size equal to the end of file that it declares."""
        try:
            with path.open("rb") as file:
                head = file.read(48)
                size = file.seek(0, 2)
        except OSError as error:
            raise ClipkitError(
                f"the input must be readable; {self.shown}: {error.strerror}"
            ) from error
        if size == 0:
            raise self.error("empty input: did the command before it fail?")
        if not head.startswith(SIGNATURE):
            got = (
                "gzip"
                if head.startswith(b"\x1f\x8b")
                else "an HDF5 file behind other bytes"
                if SIGNATURE in head
                else None
            )
            got = got or ("text" if head.isascii() and b"\0" not in head else "other data")
            raise self.error(
                f"the input must be a feature file; got {got}",
                "feature files are made by clipkit embed, textembed and logits",
            )
        if len(head) < 48:
            raise self.error("the file must be whole; it ends within its first bytes")
        version, offsets, lengths = head[8:11]
        base, extension, end = struct.unpack_from("<QQQ", head, 12)
        if version not in (2, 3) or (offsets, lengths) != (8, 8) or base or extension != NO_ADDRESS:
            raise self._foreign()
        if end != size:
            what = "it was cut short" if size < end else "something was added to it"
            raise self.error(f"the file must be {end} bytes long; it is {size}: {what}")
        return size

    def _foreign(self) -> ClipkitError:
        return self.error(
            "the input must be a feature file; this HDF5 file was not made by clipkit",
            "clipkit convert brings in .npz, .npy, .parquet",
        )

    def attributes(self) -> dict[str, Any]:
        """The root attributes that the digest covers, of a complete file of this version."""
        if self._number(self.h5, "format") is None or self.attribute(self.h5, "format") != FORMAT:
            raise self._foreign()
        version = self.attribute(self.h5, "version", int)
        if not 1 <= version <= VERSION:
            newer = ", made by a newer clipkit: update" if version > VERSION else ""
            raise self.error(
                f"the format must be version {VERSION} or older, from 1; it is {version}{newer}"
            )
        if (
            self._number(self.h5, "complete") is None
            or self.attribute(self.h5, "complete", int) != 1
        ):
            raise self.error(
                "the file must be complete; its writing was interrupted",
                "run the command that made it again",
            )
        known = {**ATTRIBUTES, **OPTIONAL}
        here = [
            name for name in known if name in ATTRIBUTES or self._number(self.h5, name) is not None
        ]
        found = {name: self.attribute(self.h5, name, known[name]) for name in here}
        with self._reading("the attributes"):
            count = h5py.h5a.get_num_attrs(self.h5.id)
        if count != len(found):
            raise self.error(f"only known attributes may stand at the root: {', '.join(known)}")
        for name in OPTIONAL:
            if not (math.isfinite(found.get(name, 1.0)) and found.get(name, 1.0) > 0):
                raise self.error(f"{name} must be a finite number above 0; got {found[name]}")
        if found["kind"] not in KINDS:
            raise self.error(f"the kind must be one of {', '.join(KINDS)}; got {found['kind']!r}")
        return {name: value for name, value in found.items() if name not in ("digest", "complete")}

    def _number(self, at: Any, name: str) -> h5py.h5a.AttrID | None:
        """An attribute, or None if it is not there."""
        with self._reading(f"the attribute {name}"):
            return (
                h5py.h5a.open(at.id, name.encode())
                if h5py.h5a.exists(at.id, name.encode())
                else None
            )

    def attribute(self, at: Any, name: str, kind: type = str) -> Any:
        """A scalar attribute: fixed-length text, a 64-bit integer or a double."""
        attribute = self._number(at, name)
        if attribute is None:
            raise self.error(f"{at.name} must have the attribute {name}; it does not")
        with self._reading(f"the attribute {name}"):
            h5type, space = attribute.get_type(), attribute.get_space()
            wanted = {str: h5py.h5t.STRING, int: h5py.h5t.INTEGER, float: h5py.h5t.FLOAT}[kind]
            sound = (
                h5type.get_class() == wanted and space.get_simple_extent_type() == h5py.h5s.SCALAR
            )
            if (
                not sound
                or h5type.get_size() > self.size
                or (kind is str and h5type.is_variable_str())
            ):
                raise self.error(
                    f"{at.name}'s attribute {name} must be a fixed-size scalar {kind.__name__}"
                )
            value = np.empty((), attribute.dtype)
            attribute.read(value)
            return value.item().decode() if kind is str else kind(value)

    def history(self, text: str) -> History:
        """The history, parsed: small enough in depth to walk, and fit to be written again."""
        try:
            history = json.loads(text, parse_constant=_refuse)
            sound = (
                isinstance(history, list)
                and all(map(_sound_entry, history))
                and _depth(history) <= MAX_DEPTH
            )
            dump(history).encode()
        except (
            ValueError,
            RecursionError,
        ):  # NaN, 1e999, half of a surrogate pair, a million brackets
            sound = False
        if not sound:
            raise self.error(
                "history must be a JSON list of a sound object for each command; it is not"
            )
        return list(history)

    def names(self, kind: str) -> list[str]:
        """The names of all data sets, found through hard links only; a name that the kind does not have is refused."""
        root, split = ({name.rstrip("*") for name in names} for names in KINDS[kind])
        found = []
        with self._reading("the list of data sets"):
            for name in self._links(self.h5):
                if name in root:
                    found.append(name)
                    continue
                allowed = (
                    None
                    if name == "runs" and kind == "result"
                    else split
                    if NAME.fullmatch(name)
                    else set()
                )
                group = (
                    h5py.h5g.open(self.h5.id, name.encode())
                    if self._type(name) == h5py.h5o.TYPE_GROUP
                    else None
                )
                if group is None or allowed == set():
                    raise self.error(f"{name} is not a part of a file of {kind}")
                for key in self._links(h5py.Group(group)):
                    if (allowed is None and not NAME.fullmatch(key)) or (
                        allowed is not None and key not in allowed
                    ):
                        raise self.error(f"{name}/{key} is not a part of a file of {kind}")
                    found.append(f"{name}/{key}")
        return sorted(found)

    def _type(self, name: str) -> int:
        return int(h5py.h5o.get_info(self.h5.id, name.encode()).type)

    def _links(self, group: h5py.Group) -> list[str]:
        names: list[str] = []
        if len(group.id) > MAX_LINKS:
            raise self.error(
                f"{group.name} must hold at most {MAX_LINKS} names; it holds {len(group.id)}"
            )
        for raw in group.id:
            name = raw.decode("utf-8", "backslashreplace")
            if group.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise self.error(
                    f"{group.name.rstrip('/')}/{name} must be in the file itself; it is a link"
                )
            names.append(name)
        return names

    def dataset(self, name: str) -> h5py.Dataset:
        """A data set whose type, dimensions and storage the format allows; nothing is read yet."""
        key = "runs" if name.startswith("runs/") else name.rpartition("/")[2]
        types, ndim = TYPES[key]
        with self._reading(name):
            if self._type(name) != h5py.h5o.TYPE_DATASET:
                raise self.error(f"{name} must be a data set; it is not")
            dataset = h5py.Dataset(h5py.h5d.open(self.h5.id, name.encode()))
            self._check_type(dataset, name, types, ndim)
            self._check_storage(dataset, name)
        return dataset

    def _check_type(self, dataset: h5py.Dataset, name: str, types: set[str], ndim: int) -> None:
        h5type = dataset.id.get_type()
        text = h5type.get_class() == h5py.h5t.STRING
        plain = h5type.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) or (
            text and not h5type.is_variable_str()
        )
        got = "S" if plain and text else dataset.dtype.str if plain else "another type"
        if got not in types:
            raise self.error(f"{name} must be of type {' or '.join(sorted(types))}; got {got}")
        if dataset.ndim != ndim:
            raise self.error(f"{name} must have {ndim} dimensions; got {dataset.ndim}")
        if 0 in dataset.shape:
            raise self.error(f"{name} must hold at least one row; its shape is {dataset.shape}")

    def _check_storage(self, dataset: h5py.Dataset, name: str) -> None:
        plist = dataset.id.get_create_plist()
        layouts = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
        if plist.get_external_count() or plist.get_layout() not in layouts:
            raise self.error(f"{name} must be stored in the file itself; it points to another")
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if any(code != h5py.h5z.FILTER_FLETCHER32 for code in filters):
            raise self.error(
                f"{name} must be stored plain, with no filter but fletcher32; got filters {filters}"
            )
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        self.declared += size  # of all together: one block of bytes may be linked under many names
        if self.declared > self.size:
            raise self.error(f"{name} must fit in the file's {self.size} bytes; it declares {size}")
        if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > MAX_CHUNK_BYTES:
            raise self.error(
                f"{name} must be stored in chunks of at most {MAX_CHUNK_BYTES >> 20} MiB; got {dataset.chunks}"
            )
        if dataset.chunks:
            self._check_chunks(dataset, name, 4 * len(filters))

    def _check_chunks(self, dataset: h5py.Dataset, name: str, checksum: int) -> None:
        """Every chunk lies in the file and has a chunk's size: HDF5 believes the index, and can crash on it."""
        size = math.prod(dataset.chunks) * dataset.dtype.itemsize + checksum
        count = math.prod(
            -(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True)
        )
        found: list[bool] = []
        dataset.id.chunk_iter(
            lambda at: found.append(
                at.size == size and not at.filter_mask and at.byte_offset + size <= self.size
            )
        )
        if len(found) != count or not all(found):
            raise self.error(
                f"{name} must have {count} chunks of {size} bytes; its storage is damaged"
            )

    def read(self, dataset: h5py.Dataset, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """Rows of a checked data set, as stored."""
        with self._reading(name):
            return np.ascontiguousarray(dataset[rows])

    def texts(self, array: NDArray[np.bytes_], name: str) -> list[str]:
        """Stored UTF-8 as strings."""
        try:
            return [item.decode() for item in array.tolist()]
        except UnicodeDecodeError as error:
            raise self.error(f"{name} must be UTF-8; got {error.object[:80]!r}") from error

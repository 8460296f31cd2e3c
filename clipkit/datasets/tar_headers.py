"""Read the headers of a tar file: names, types, offsets and sizes of its members.

Python's tarfile takes ten times as long, keeps an object of 1 kB for each member, and reads on
behind a damaged header as if the tar ended there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from clipkit.datasets.remote import StoredFile, display_url
from clipkit.errors import ClipkitError

BLOCK = 512
ZEROS = bytes(BLOCK)
SMALLEST_READ = 2**12  # bytes of a read of headers
LARGEST_READ, LARGEST_REMOTE_READ = 2**18, 2**20
REMOTE_GAP = 2**16  # a request takes longer than reading this many bytes
MAX_NAME_BYTES = 2**16
MAX_PAX_BYTES = 2**20
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

# Types of members
REGULAR = b"0\x007"
LINKS = b"12"
SPARSE = b"S"
DESCRIPTIONS = b"xgLK"  # of the next member, or of all


class HeaderReader:
    """Read small parts of a file in ascending order; read ahead if they are close together."""

    def __init__(self, file: StoredFile) -> None:
        self.file = file
        self._gap = REMOTE_GAP if file.is_remote else 0
        self._largest = LARGEST_REMOTE_READ if file.is_remote else LARGEST_READ
        self._start = 0
        self._data = b""
        self._amount = SMALLEST_READ

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at an offset, or fewer at the end of the file."""
        start = offset - self._start
        if start >= 0 and start + size <= len(self._data):
            return self._data[start : start + size]
        if 0 <= start <= len(self._data) + self._gap:
            self._amount = min(2 * self._amount, self._largest)
        else:
            self._amount = SMALLEST_READ
        amount = max(size, self._amount)
        self._data = self.file.read(offset, max(0, min(amount, self.file.size - offset)))
        self._start = offset
        return self._data[:size]


class Member(NamedTuple):
    """A member of a tar: a file, a link or a sparse file, by its type."""

    name: str
    kind: bytes
    offset: int
    size: int


def members(headers: HeaderReader) -> Iterator[Member]:
    """Yield the files, links and sparse files in a tar of POSIX's (ustar and pax) or GNU's form.

    Raises
    ------
    ClipkitError
        If the tar is compressed, truncated or damaged.
    """
    where = display_url(headers.file.name)
    total = headers.file.size
    position = 0
    known: dict[bytes, bytes] = {}  # what earlier members say of the next one
    while position < total:
        header = headers.read(position, BLOCK)
        if header == ZEROS:
            return
        _check_header(header, position, where)
        kind = header[156:157]
        size = int(known[b"size"]) if b"size" in known else _size(header, position, where)
        start = position + BLOCK
        if kind in DESCRIPTIONS:
            position = _after(start, size, total, where)
            known |= _read_description(headers, kind, start, size)
            continue
        if kind in SPARSE and header[482]:
            start = _skip_sparse_map(headers, start, where)
        if kind not in REGULAR and kind not in SPARSE:
            size = 0
        position = _after(start, size, total, where)
        if kind in REGULAR or kind in LINKS or kind in SPARSE:
            yield _member(header, kind, start, size, known)
        if known:
            known = {}


def _member(
    header: bytes, kind: bytes, offset: int, size: int, known: dict[bytes, bytes]
) -> Member:
    name = known.get(b"path") or _name(header)
    if known and any(key.startswith(b"GNU.sparse") for key in known):
        kind = SPARSE
        name = known.get(b"GNU.sparse.name", name)
    return Member(name.decode("utf-8", "surrogateescape"), kind, offset, size)


def _check_header(header: bytes, position: int, where: str) -> None:
    stated = header[148:156]
    # The checksum counts its own field as eight spaces. Without zeros, the sum is 4 times as fast.
    total = sum(header.translate(None, b"\0")) - sum(stated) + 256
    if len(header) == BLOCK and _octal(stated) == total:
        return
    if position == 0:
        for magic, name in COMPRESSED.items():
            if header.startswith(magic):
                raise _compressed(where, name)
        raise ClipkitError(f"{where}: expected a tar file, got other content")
    if len(header) < BLOCK:
        raise _truncated(where)
    raise ClipkitError(f"{where}: damaged at byte {position:,}", "fetch or pack it again")


def _compressed(where: str, name: str) -> ClipkitError:
    tool = {"gzip": "gunzip", "bzip2": "bunzip2"}.get(name, f"{name} -d")
    return ClipkitError(
        f"{where}: expected an uncompressed tar, whose parts can be read, got {name}",
        f"unpack it once: {tool} FILE; images hardly shrink",
    )


def _truncated(where: str) -> ClipkitError:
    return ClipkitError(f"{where}: truncated: its last member is not complete", "fetch it again")


def _after(start: int, size: int, total: int, where: str) -> int:
    """Return the offset after a member's content, which fills whole blocks."""
    if start + size > total:
        raise _truncated(where)
    return start + (size + BLOCK - 1) // BLOCK * BLOCK


def _size(header: bytes, position: int, where: str) -> int:
    """Return a size: octal digits, or in GNU's form a big-endian number after a bit."""
    stated = header[124:136]
    if stated[0] & 0x80:
        size = int.from_bytes(stated, "big", signed=True)
        if stated[0] == 0x80:
            size = int.from_bytes(stated[1:], "big")
    else:
        size = _octal(stated)
    if not 0 <= size < 2**62:
        raise ClipkitError(
            f"{where}: the size of the member at byte {position:,} is not valid", "pack it again"
        )
    return size


def _octal(digits: bytes) -> int:
    """Return the number in a field of octal digits, 0 in an empty one, or -1."""
    digits = digits.strip(b" \0")
    if not digits:
        return 0
    if not digits.isdigit():  # int takes +7, 0o7 and 7_7, too
        return -1
    try:
        return int(digits, 8)
    except ValueError:  # 8 or 9
        return -1


def _read_description(
    headers: HeaderReader, kind: bytes, start: int, size: int
) -> dict[bytes, bytes]:
    """Return what a member says of the next one, by the keys of pax."""
    where = display_url(headers.file.name)
    limit = MAX_PAX_BYTES if kind in b"xg" else MAX_NAME_BYTES
    if size > limit:
        raise ClipkitError(f"{where}: expected a name of at most {limit:,} bytes, got {size:,}")
    if kind == b"x":
        return _parse_pax(headers.read(start, size), where)
    if kind == b"L":
        return {b"path": headers.read(start, size).rstrip(b"\0")}
    return {}  # a link's target, or what holds for all members


def _parse_pax(data: bytes, where: str) -> dict[bytes, bytes]:
    """Return the records of a pax header, each ``length key=value`` and a line end."""
    records = {}
    position = 0
    while position < len(data):
        digits, _, _ = data[position : position + 12].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[position : position + length]
        key, equals, value = record[len(digits) + 1 :].partition(b"=")
        if not length or not equals:
            raise ClipkitError(f"{where}: a pax header is not valid", "pack it again")
        records[key] = value.removesuffix(b"\n")
        position += length
    size = records.get(b"size", b"0")
    if not size.isdigit() or len(size) > 18:
        raise ClipkitError(f"{where}: the size in a pax header is not valid")
    return records


def _skip_sparse_map(headers: HeaderReader, start: int, where: str) -> int:
    """Return the offset after the blocks that continue the map of a sparse member."""
    is_continued = 1
    while is_continued:
        block = headers.read(start, BLOCK)
        if len(block) < BLOCK:
            raise _truncated(where)
        is_continued = block[504]
        start += BLOCK
    return start


def _name(header: bytes) -> bytes:
    """Return the name in a header, with the prefix of the POSIX form."""
    name = header[:100].partition(b"\0")[0]
    if header[345] and header[257:263] == b"ustar\0":
        return header[345:500].partition(b"\0")[0] + b"/" + name
    return name

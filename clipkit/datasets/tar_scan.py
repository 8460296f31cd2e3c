"""Find the images in a tar by its headers, and their labels."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field

import numpy as np

from clipkit.datasets import images
from clipkit.datasets.images import escape
from clipkit.datasets.labels import NO_LABEL, LabelCodes, has_duplicates
from clipkit.datasets.remote import StoredFile
from clipkit.datasets.tar_headers import LINKS, REGULAR, SPARSE, HeaderReader, Member, members
from clipkit.errors import ClipkitError
from clipkit.features.validation import MAX_CLASSES

MAX_LABEL_BYTES = 2**10
MAX_JSON_BYTES = 2**20
NO_IMAGE, LINK, SPARSE_FILE = -1, -2, -3  # in place of a size


class _Row:
    """The members of one key."""

    __slots__ = ("images", "json_label", "key", "label", "offset", "size")

    def __init__(self, key: str) -> None:
        self.key = key
        self.images = 0
        self.offset, self.size = 0, NO_IMAGE
        self.label: str | None = None
        self.json_label: str | None = None

    def add_image(self, member: Member) -> None:
        """Add an image: the first one counts."""
        self.images += 1
        if self.images > 1:
            return
        self.offset, self.size = member.offset, member.size
        if member.kind in LINKS:
            self.size = LINK
        elif member.kind in SPARSE:
            self.size = SPARSE_FILE


@dataclass
class Scan:
    """The keys of one tar, with the place and label of the first image of each."""

    keys: list[str] = field(default_factory=list)
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    codes: array[int] = field(default_factory=lambda: array("i"))  # of the labels, in `texts`
    texts: LabelCodes = field(default_factory=LabelCodes)
    repeated: int = 0  # images whose key has another one
    example: str = ""  # a member that is no image

    def add(self, row: _Row) -> None:
        """Add the members of a key."""
        if not row.key:
            return
        code = self.texts.code(row.label or row.json_label)
        if len(self.texts) > MAX_CLASSES:
            raise ClipkitError(f"expected at most {MAX_CLASSES:,} different labels in a tar")
        self.append(row.key, row.offset, row.size, code)
        self.repeated += max(0, row.images - 1)

    def append(self, key: str, offset: int, size: int, code: int) -> None:
        """Append a row."""
        self.keys.append(key)
        self.offsets.append(offset)
        self.sizes.append(size)
        self.codes.append(code)

    def extend(self, other: Scan) -> None:
        """Append the rows of another tar."""
        self.keys += other.keys
        self.offsets += other.offsets
        self.sizes += other.sizes
        codes = self.texts.recode(np.frombuffer(other.codes, np.int32), other.texts)
        self.codes.frombytes(codes.tobytes())
        self.repeated += other.repeated


def scan_headers(file: StoredFile) -> Scan:
    """Read the headers of a tar.

    The members of a key follow each other, as WebDataset asks; otherwise they are brought together
    afterwards.
    """
    headers = HeaderReader(file)
    suffixes = images.readable_suffixes()
    scan = Scan()
    row = _Row("")
    for member in members(headers):
        key, ending = _split_key(member.name)
        if not key:
            continue
        if key != row.key:
            scan.add(row)
            row = _Row(key)
        if ending.endswith(suffixes):
            row.add_image(member)
        elif member.kind in REGULAR:
            if ending.endswith(".cls"):
                row.label = _read_label(headers, member)
            elif ending.endswith(".json"):
                row.json_label = _read_json_label(headers, member)
            elif not scan.example:
                scan.example = escape(member.name)
    scan.add(row)
    return _bring_together(scan)


def _bring_together(scan: Scan) -> Scan:
    """Return a row for each key: its image, and its label from wherever it lies in the tar."""
    has_image = np.frombuffer(scan.sizes, np.int64) != NO_IMAGE
    if has_image.all() and not has_duplicates(scan.keys):
        return scan
    joined = Scan(texts=scan.texts, repeated=scan.repeated, example=scan.example)
    first: dict[str, int] = {}  # the row of each key in `scan`
    for row, key in enumerate(scan.keys):
        known = first.setdefault(key, row)
        if known == row:
            continue
        if scan.codes[known] == NO_LABEL:
            scan.codes[known] = scan.codes[row]
        if scan.sizes[row] != NO_IMAGE and scan.sizes[known] == NO_IMAGE:
            scan.offsets[known], scan.sizes[known] = scan.offsets[row], scan.sizes[row]
        elif scan.sizes[row] != NO_IMAGE:
            joined.repeated += 1
    for key, row in first.items():
        if scan.sizes[row] != NO_IMAGE:
            joined.append(key, scan.offsets[row], scan.sizes[row], scan.codes[row])
    return joined


def _split_key(name: str) -> tuple[str, str]:
    """Return the key of a member and its ending, or "" for a hidden file.

    >>> _split_key("./train/0001.seg.png"), _split_key("a.b/1.cls"), _split_key("._1.jpg")
    (('train/0001', '.seg.png'), ('a.b/1', '.cls'), ('', ''))
    """
    while name.startswith("./"):
        name = name[2:]
    start = name.rfind("/") + 1
    dot = name.find(".", start)
    if dot <= start:  # no ending, or hidden
        return "", ""
    return escape(name[:dot]), name[dot:].lower()


def _read_label(headers: HeaderReader, member: Member) -> str | None:
    """Return the text of a .cls, or None if it is no label."""
    if member.size > MAX_LABEL_BYTES:
        return None
    try:
        return headers.read(member.offset, member.size).decode("utf-8").strip() or None
    except UnicodeDecodeError:
        return None


def _read_json_label(headers: HeaderReader, member: Member) -> str | None:
    """Return "label" of a .json, or None if it has none that is an integer or a text."""
    if member.size > MAX_JSON_BYTES:
        return None
    try:
        content = json.loads(headers.read(member.offset, member.size))
    except (ValueError, RecursionError):
        return None
    label = content.get("label") if isinstance(content, dict) else None
    if isinstance(label, bool) or not isinstance(label, int | str):
        return None
    text = str(label).strip()
    return text if text and len(text) <= MAX_LABEL_BYTES else None

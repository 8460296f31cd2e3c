"""Read tar files in the form of WebDataset: an image and its label have the same name but ending.

Nothing is unpacked. One pass over the headers notes where each image lies, and its bytes are read
when it is asked for.
"""

from __future__ import annotations

import hashlib
import itertools
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipkit.base import console
from clipkit.base.csv_rows import BOM, decode, parse_json
from clipkit.base.errors import ClipkitError, ImageError, shorten
from clipkit.base.matrices import Int64
from clipkit.base.names import escape, find_repeat
from clipkit.datasets import images, remote, shards
from clipkit.datasets.dataset import Dataset, ImageDataset
from clipkit.datasets.labels import NO_LABEL, LabelCodes
from clipkit.datasets.remote import RangeReader, SharedCache, StoredFile, display_url
from clipkit.datasets.wordnet import MAX_NAME
from clipkit.prompts.texts import check_length

ZEROS = bytes(tarfile.BLOCKSIZE)
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "xz -d"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"),
}
SMALLEST_READ = 2**12  # bytes of a read of headers
LARGEST_READ = 2**20
REMOTE_GAP = 2**16  # a request takes longer than reading this many bytes
MAX_READ = 2**20  # bytes of a header or a label; JSON takes 30 times as many, in a thread per tar
NO_IMAGE, LINK, SPARSE_FILE = -1, -2, -3  # in place of a size
UNUSABLE = {LINK: "a link", SPARSE_FILE: "a sparse file"}
SPAN = 2**20  # images that start in one of these parts of a remote tar are fetched together
GAP = 2**16  # unless so many bytes lie between them
SPANS_AHEAD = 4  # requested together: 2 to 4 times as fast as one by one, at 90 ms each
KEPT_SPANS = 3
KEPT_BYTES = 2**26


class TarImages:
    """Images in tars: image `i` is `sizes[i]` bytes at `offsets[i]` of `files[file_of[i]]`.

    A negative size stands for a link or a sparse file.
    """

    def __init__(
        self, files: Sequence[StoredFile], file_of: NDArray[np.int32], offsets: Int64, sizes: Int64
    ) -> None:
        self.files = tuple(files)
        self.file_of = file_of
        self.offsets = offsets
        self.sizes = sizes
        self._spans: _Spans | None = None
        if any(file.is_remote for file in files):
            self._spans = _Spans(self)

    def image(self, i: int) -> Image.Image:
        """Decode image `i`."""
        file = self.files[self.file_of[i]]
        offset, size = int(self.offsets[i]), int(self.sizes[i])
        name = f"{display_url(file.name)} at byte {offset}"
        with images.image_errors(name):
            if size in UNUSABLE:
                raise ImageError(f"expected a file, got {UNUSABLE[size]}")
            images.check_bytes(size)
        if self._spans is not None and file.is_remote:
            return images.decode(self._spans.read(i), name)
        return images.decode(file.read(offset, size), name)

    def captions(self) -> list[str]:
        """Return the content of the ``.txt`` of each image (N), "" without one."""
        found: dict[tuple[int, int], str] = {}  # by the number of the file and the image's offset
        for number, file in enumerate(self.files):
            headers = _Headers(file)
            offset_of: dict[str, int] = {}
            text_of: dict[str, tarfile.TarInfo] = {}
            left_out: list[str] = []
            for key, ending, info in _members(headers):
                if ending.endswith(images.readable_suffixes()):
                    offset_of.setdefault(key, info.offset_data)
                elif ending.endswith(".txt") and text_of.setdefault(key, info) is not info:
                    left_out.append(info.name)
            if left_out:
                texts = f"{console.count(len(left_out), 'text')}, first {escape(left_out[0])}"
                where = display_url(file.name)
                console.warn(f"{where}: left out {texts}: their keys have a text already")
            for key in offset_of.keys() & text_of.keys():
                found[number, offset_of[key]] = _read_text(headers, text_of[key])
        places = zip(self.file_of.tolist(), self.offsets.tolist(), strict=True)
        return [found.get(place, "") for place in places]

    def take(self, rows: Int64) -> TarImages:
        """Return the given images."""
        return TarImages(self.files, self.file_of[rows], self.offsets[rows], self.sizes[rows])

    def fingerprint(self) -> str:
        """Return the SHA-256 over the size and state of the tars, and the places of the images."""
        sha = hashlib.sha256()
        files, file_of = self._used_files()
        for file in files:
            sha.update(f"{file.size} {file.state}\n".encode())
        sha.update(file_of.astype("<i4").tobytes())
        sha.update(self.offsets.astype("<i8").tobytes())
        sha.update(self.sizes.astype("<i8").tobytes())
        return sha.hexdigest()

    def _used_files(self) -> tuple[list[StoredFile], NDArray[np.int32]]:
        """Return the files that hold an image, and the number of each image's file among them."""
        used, file_of = np.unique(self.file_of, return_inverse=True)
        return [self.files[number] for number in used], file_of.astype(np.int32)

    def __reduce__(self) -> tuple[type[TarImages], tuple[object, ...]]:
        return TarImages, (*self._used_files(), self.offsets, self.sizes)


class _Spans:
    """The images of remote tars in spans: parts of a tar that are read in one request."""

    def __init__(self, source: TarImages) -> None:
        self._files, self._file_of = source.files, source.file_of
        self._offsets, self._sizes = source.offsets, source.sizes
        self._span_of = _find_spans(source.file_of, source.offsets, source.sizes)
        self._cache: SharedCache[int, bytes] = SharedCache(
            self._load, len, count=KEPT_SPANS, budget=KEPT_BYTES
        )
        self._pool = ThreadPoolExecutor(2 * SPANS_AHEAD)  # starts threads when it is used

    def read(self, i: int) -> bytes:
        """Return the bytes of image `i`. If images are read in order, request spans ahead."""
        span = int(self._span_of[i])
        start = int(self._offsets[i] - self._offsets[self._rows_of(span)[0]])
        self._read_ahead(span)
        content: bytes = self._cache.get(span)
        return content[start : start + int(self._sizes[i])]

    def _rows_of(self, span: int) -> range:
        first, last = np.searchsorted(self._span_of, [span, span + 1]).tolist()
        return range(first, last)

    def _read_ahead(self, span: int) -> None:
        """Request the spans after a missing one that follows one which was read."""
        if self._cache.has(span) or not self._cache.has(span - 1):
            return
        last = int(self._span_of[-1])
        for following in range(span + 1, min(span + SPANS_AHEAD, last) + 1):
            if not self._cache.has(following):
                self._pool.submit(self._cache.get, following)

    def _load(self, span: int) -> bytes:
        """Read the images of a span and what lies between them."""
        rows = self._rows_of(span)
        first, last = rows[0], rows[-1]
        start = int(self._offsets[first])
        end = int(self._offsets[last] + self._sizes[last])
        file: StoredFile = self._files[self._file_of[first]]
        return file.read(start, end - start)


def _find_spans(file_of: NDArray[np.int32], offsets: Int64, sizes: Int64) -> Int64:
    """Return the number of each row's span (N,): rows of one span are read in one request."""
    if not len(offsets):
        return np.zeros(0, np.int64)
    gaps = offsets[1:] - offsets[:-1] - np.maximum(sizes[:-1], 0)
    is_new = np.diff(file_of) != 0
    is_new |= (gaps < 0) | (gaps > GAP)
    is_new |= np.diff(offsets // SPAN) != 0
    # what cannot be read would give a span no end
    usable = (sizes > 0) & (sizes <= images.MAX_BYTES)
    is_new |= ~usable[1:] | ~usable[:-1]
    return np.concatenate([[0], np.cumsum(is_new)]).astype(np.int64)


def read_tars(patterns: Sequence[str]) -> Dataset:
    """Read tar files in the form of WebDataset, on this machine or at URLs.

    Members with the same path up to the first dot of their name are one row. That path is the row's
    id; if it occurs in several tars, the tar's name is put before it. The image is the member with
    the suffix of an image. The label is the content of ``.cls``, or else "label" in ``.json``;
    `clipkit.datasets.labels.number_labels` says what labels mean. ``classnames.txt`` or
    ``class_index.json`` beside the tars names those that are numbers, and the latter those that are
    WordNet ids. Splits are named as `shards.split_names` says. Rows keep the order of the tars.

    Raises
    ------
    ClipkitError
        If a tar cannot be read, is compressed, damaged or not whole, or there is no image.
    """
    names = shards.find_files(patterns, ".tar")
    scans = shards.read_by_split(_open_and_scan, names, "reading the headers of tars", "tars")
    texts = LabelCodes()
    splits: dict[str, ImageDataset] = {}
    codes: dict[str, NDArray[np.int32]] = {}
    examples: list[str] = []
    for split, of_split in scans.items():
        splits[split], codes[split] = _join(split, of_split, texts)
        examples += [escape(scan.example) for scan in of_split if scan.example]
    if not any(map(len, splits.values())):
        seen = ", ".join(examples) or "no files"
        raise ClipkitError(
            f"{display_url(names[0])}: expected images in the tar, got {shorten(seen, 200)}",
            f"image files end in {' '.join(images.readable_suffixes())}",
        )
    splits = {name: split for name, split in splits.items() if len(split)}
    details = {"format": "webdataset", "files": len(names)}
    return shards.to_dataset(names, splits, codes, texts, details)


class _Headers(RangeReader):
    """A tar as `tarfile` reads it. More is read at a time while members lie close together."""

    def __init__(self, file: StoredFile) -> None:
        super().__init__(file)
        self._gap = REMOTE_GAP if file.is_remote else SMALLEST_READ
        self._start = 0
        self._data = b""
        self._amount = SMALLEST_READ

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, fewer at the end of the file."""
        if not 0 <= size <= MAX_READ:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._read_ahead(size)

    def content(self, member: tarfile.TarInfo) -> bytes:
        """Return the content of a member."""
        self.seek(member.offset_data)
        return self._read_ahead(member.size)

    def _read_ahead(self, size: int) -> bytes:
        position = self.tell()
        start = position - self._start
        if start < 0 or start + size > len(self._data):
            is_near = 0 <= start <= len(self._data) + self._gap
            self._amount = min(2 * self._amount, LARGEST_READ) if is_near else SMALLEST_READ
            self._data = super().read(max(size, self._amount))
            self._start, start = position, 0
        data = self._data[start : start + size]
        self.seek(position + len(data))
        return data


class _Member(NamedTuple):
    key: str
    ending: str
    info: tarfile.TarInfo


def _members(headers: _Headers) -> Iterator[_Member]:
    """Yield the members of a tar that have an ending and are not hidden."""
    where = display_url(headers.file.name)
    _check_uncompressed(headers.read(tarfile.BLOCKSIZE), where)
    headers.seek(0)
    count = 0
    try:
        tar = tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="surrogateescape")
        while info := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep 1 kB for each
            tar.pax_headers = {}  # it would copy those of the whole tar for each
            count += 1
            if info.size < 0 or tar.offset <= info.offset:
                raise tarfile.ReadError(f"a size of {info.size:,} bytes")
            if tar.offset > headers.file.size:
                raise _truncated(where, count)
            key, ending = _split_key(info.name)
            if key and not info.isdir():
                yield _Member(key, ending, info)
    except (ClipkitError, MemoryError):
        raise
    except Exception as error:  # a damaged header gives errors of many types
        what = "expected a tar file, got other content"
        if count:
            what = f"damaged after {count:,} members"
        raise ClipkitError(f"{where}: {what} ({images.reason(error)})") from error
    _check_end(headers.file, tar.offset, count)


def _check_uncompressed(start: bytes, where: str) -> None:
    for magic, (name, tool) in COMPRESSED.items():
        if start.startswith(magic):
            raise ClipkitError(
                f"{where}: expected an uncompressed tar, whose parts can be read, got {name}",
                f"unpack it once: {tool} FILE; images hardly shrink",
            )


def _check_end(file: StoredFile, end: int, count: int) -> None:
    """Refuse a tar that does not end in zeros after its last member.

    `tarfile` takes a damaged header and the end of a file that was cut for the end of the tar.
    """
    where = display_url(file.name)
    if file.size - end < tarfile.BLOCKSIZE:
        raise _truncated(where, count)
    if file.read(end, tarfile.BLOCKSIZE) != ZEROS:
        raise ClipkitError(f"{where}: damaged at byte {end:,}", "fetch or pack it again")
    for start in range(end, file.size, LARGEST_READ):
        if file.read(start, min(LARGEST_READ, file.size - start)).strip(b"\0"):
            raise ClipkitError(
                f"{where}: expected nothing after its end at byte {end:,}, got more content",
                "tars that were joined must be given one by one",
            )


def _truncated(where: str, count: int) -> ClipkitError:
    return ClipkitError(
        f"{where}: truncated: it has no end mark after {count:,} members", "fetch it again"
    )


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


def _read_text(headers: _Headers, info: tarfile.TarInfo) -> str:
    """Return the caption in a member, which must be one in UTF-8."""
    where = f"{display_url(headers.file.name)}, {escape(info.name)}"
    if not info.isreg() or info.issparse():
        raise ClipkitError(f"{where}: expected a caption, got a link or a sparse file")
    text = decode(headers.content(info).removeprefix(BOM), where)
    check_length(len(text), where)
    return text


def _read_label(headers: _Headers, info: tarfile.TarInfo) -> str | None:
    """Return the text of a .cls or, of a .json, "label" if it is an integer or a text.

    A label that a .json gives twice is an error.
    """
    if info.size > MAX_READ:
        return None
    try:
        label = headers.content(info).decode("utf-8")
        if info.name.lower().endswith(".json"):
            where = f"{display_url(headers.file.name)}, {escape(info.name)}"
            label = parse_json(label, where)["label"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if isinstance(label, bool) or not isinstance(label, int | str):
        return None
    text = str(label).strip()
    return text if text and len(text) <= MAX_NAME else None


@dataclass
class _Scan:
    """The keys of one tar, with the place and label of the first image of each."""

    file: StoredFile
    rows: dict[str, int] = field(default_factory=dict)  # by the key
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    codes: array[int] = field(default_factory=lambda: array("i"))  # of the labels, in `texts`
    texts: LabelCodes = field(default_factory=LabelCodes)
    repeated: int = 0  # images whose key has another one
    example: str = ""  # a member that is no image

    def add(self, key: str, members: Iterable[_Member], headers: _Headers) -> None:
        """Add members of a key that follow each other; it may have others elsewhere in the tar."""
        row = self.rows.setdefault(key, len(self.rows))
        if row == len(self.sizes):
            self.offsets.append(0)
            self.sizes.append(NO_IMAGE)
            self.codes.append(NO_LABEL)
        suffixes = images.readable_suffixes()
        labels: dict[str, str | None] = {}
        for _, ending, info in members:
            kind = ending.rpartition(".")[2]
            if ending.endswith(suffixes):
                self._add_image(row, info)
            elif not info.isreg() or info.issparse():
                continue
            elif kind in ("cls", "json"):
                labels[kind] = _read_label(headers, info)
            else:
                self.example = self.example or info.name
        if self.codes[row] == NO_LABEL:
            self.codes[row] = self.texts.code(labels.get("cls") or labels.get("json"))

    def _add_image(self, row: int, info: tarfile.TarInfo) -> None:
        if self.sizes[row] != NO_IMAGE:
            self.repeated += 1
            return
        size = info.size
        if info.issym() or info.islnk():
            size = LINK
        elif info.issparse():
            size = SPARSE_FILE
        self.offsets[row], self.sizes[row] = info.offset_data, size


def _open_and_scan(name: str) -> _Scan:
    """Read the headers of a tar, and the labels."""
    scan = _Scan(remote.open_file(name))
    headers = _Headers(scan.file)
    for key, members in itertools.groupby(_members(headers), lambda member: member.key):
        scan.add(key, members, headers)
    return scan


def _join(
    split: str, scans: Sequence[_Scan], texts: LabelCodes
) -> tuple[ImageDataset, NDArray[np.int32]]:
    """Return the rows of one split without labels, and their labels' codes (N,) in `texts`."""
    keys: list[str] = []
    parts: list[tuple[NDArray[np.int32], Int64, Int64, NDArray[np.int32]]] = []
    for number, scan in enumerate(scans):
        sizes = np.frombuffer(scan.sizes, np.int64)
        rows = np.flatnonzero(sizes != NO_IMAGE)
        codes = texts.recode(np.frombuffer(scan.codes, np.int32), scan.texts)
        file_of = np.full(len(rows), number, np.int32)
        offsets = np.frombuffer(scan.offsets, np.int64)
        parts.append((file_of, offsets[rows], sizes[rows], codes[rows]))
        keys += itertools.compress(scan.rows, sizes != NO_IMAGE)
        scan.rows = {}  # it takes more memory than the rest
    file_of, offsets, sizes, codes = map(np.concatenate, zip(*parts, strict=True))
    files = [scan.file for scan in scans]
    if find_repeat(keys):
        stems = shards.distinct_stems([file.name for file in files])
        keys = [f"{stems[file]}/{key}" for file, key in zip(file_of, keys, strict=True)]
    repeated = sum(scan.repeated for scan in scans)
    if repeated:
        console.warn(f"{split}: left out {repeated:,} images: their keys have an image already")
    return ImageDataset(keys, None, TarImages(files, file_of, offsets, sizes)), codes

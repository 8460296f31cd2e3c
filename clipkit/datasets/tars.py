"""Read tar files in the form of WebDataset: an image and its label have the same name but ending.

Nothing is unpacked. One pass over the headers notes where each image lies, and its bytes are read
when it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipkit import console
from clipkit.datasets import images, remote, shards
from clipkit.datasets.cache import SharedCache
from clipkit.datasets.dataset import Dataset, ImageDataset
from clipkit.datasets.labels import (
    NO_LABEL,
    attach_labels,
    labels_from_texts,
    unique_ids,
)
from clipkit.datasets.remote import StoredFile, display_url
from clipkit.datasets.tar_cache import cached_scan
from clipkit.datasets.tar_scan import LINK, SPARSE_FILE, Scan
from clipkit.errors import ClipkitError, ImageError
from clipkit.features import Int64
from clipkit.features.prefetch import prefetch_map

SPAN = 2**20  # images that start in one of these parts of a remote tar are fetched together
GAP = 2**16  # unless so many bytes lie between them
SPANS_AHEAD = 4
KEPT_SPANS = 3
KEPT_BYTES = 2**26
REMOTE_SCANS = 8  # tars whose headers are read at the same time
UNUSABLE = {LINK: "a link", SPARSE_FILE: "a sparse file"}


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
        self._spans: Int64 | None = None
        if any(file.is_remote for file in files):
            self._spans = _find_spans(file_of, offsets, sizes)
            self._cache: SharedCache[int, bytes] = SharedCache(
                self._load_span, len, count=KEPT_SPANS, budget=KEPT_BYTES
            )
            self._pool = ThreadPoolExecutor(2 * SPANS_AHEAD)  # starts threads when it is used

    def image(self, i: int) -> Image.Image:
        """Decode image `i`."""
        file = self.files[self.file_of[i]]
        offset, size = int(self.offsets[i]), int(self.sizes[i])
        name = f"{display_url(file.name)} at byte {offset}"
        with images.image_errors(name):
            if size in UNUSABLE:
                raise ImageError(f"expected a file, got {UNUSABLE[size]}")
            images.check_bytes(size)
        if self._spans is None or not file.is_remote:
            return images.decode(file.read(offset, size), name)
        span = int(self._spans[i])
        start = offset - int(self.offsets[self._rows_of(span)[0]])
        self._read_ahead(span)
        content: bytes = self._cache.get(span)
        return images.decode(content[start : start + size], name)

    def _rows_of(self, span: int) -> range:
        assert self._spans is not None
        first, last = np.searchsorted(self._spans, [span, span + 1]).tolist()
        return range(first, last)

    def _read_ahead(self, span: int) -> None:
        """If rows are read in order, request the spans after a missing one at the same time."""
        assert self._spans is not None
        if self._cache.has(span) or not self._cache.has(span - 1):
            return
        last = int(self._spans[-1])
        for following in range(span + 1, min(span + SPANS_AHEAD, last) + 1):
            if not self._cache.has(following):
                self._pool.submit(self._cache.get, following)

    def _load_span(self, span: int) -> bytes:
        """Read the images of a span and what lies between them."""
        rows = self._rows_of(span)
        first, last = rows[0], rows[-1]
        start = int(self.offsets[first])
        end = int(self.offsets[last] + self.sizes[last])
        file: StoredFile = self.files[self.file_of[first]]
        return file.read(start, end - start)

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

    Parameters
    ----------
    patterns : sequence of str
        See `shards.find_files`.

    Raises
    ------
    ClipkitError
        If a tar cannot be read, is compressed, truncated or damaged, or there is no image.
    """
    names = shards.find_files(patterns, ".tar")
    split_of = shards.split_names(names)
    files, scans = _scan_all(names)
    texts: dict[str, int] = {}
    splits: dict[str, ImageDataset] = {}
    codes: dict[str, NDArray[np.int32]] = {}
    for split in dict.fromkeys(split_of):
        numbers = [number for number, its in enumerate(split_of) if its == split]
        splits[split], codes[split] = _join(split, numbers, files, scans, texts)
    if not any(map(len, splits.values())):
        seen = ", ".join(scan.example for scan in scans if scan.example) or "no files"
        raise ClipkitError(
            f"{display_url(names[0])}: expected images in the tar, got {seen[:200]}",
            f"image files end in {' '.join(images.readable_suffixes())}",
        )
    splits = {name: split for name, split in splits.items() if len(split)}
    class_names: list[str] = []
    details: dict[str, Any] = {"format": "webdataset", "files": len(names)}
    if texts:
        labels, class_names = labels_from_texts(
            codes,
            list(texts),
            lambda _: f"labels of {display_url(names[0])}",
            lambda: shards.read_class_names(names[0]),
        )
        splits = attach_labels(splits, labels)
        class_names, index = shards.rename_classes_beside(class_names, names[0])
        details |= index
    return Dataset(shards.data_set_name(names), class_names, splits, details)


def _scan_all(names: Sequence[str]) -> tuple[list[StoredFile], list[Scan]]:
    """Open the tars and read their headers; those of remote tars at the same time."""
    workers = REMOTE_SCANS if any(map(remote.is_url, names)) else 1
    files: list[StoredFile] = []
    scans: list[Scan] = []
    progress = console.progress("reading the headers of tars", "tars")
    with progress as report_progress:
        for file, scan in prefetch_map(_open_and_scan, names, workers, ahead=workers):
            files.append(file)
            scans.append(scan)
            report_progress(len(files), len(names))
    return files, scans


def _open_and_scan(name: str) -> tuple[StoredFile, Scan]:
    file = remote.open_file(name)
    return file, cached_scan(file)


def _join(
    split: str,
    numbers: list[int],
    files: Sequence[StoredFile],
    scans: Sequence[Scan],
    texts: dict[str, int],
) -> tuple[ImageDataset, NDArray[np.int32]]:
    """Return the rows of one split without labels, and their labels' numbers (N,) in `texts`.

    New labels are added to `texts`.
    """
    parts = [scans[number] for number in numbers]
    prefixes = shards.distinct_stems([files[number].name for number in numbers])
    ids: list[str] = []
    for part in parts:
        ids += part.keys
        part.keys = []  # the strings stay, but not this list of them
    lengths = [len(part.offsets) for part in parts]
    file_of = np.repeat(np.arange(len(parts), dtype=np.int32), lengths)
    offsets = np.concatenate([np.frombuffer(part.offsets, np.int64) for part in parts])
    sizes = np.concatenate([np.frombuffer(part.sizes, np.int64) for part in parts])
    codes = np.concatenate([_renumber(part, texts) for part in parts])
    ids, rows = unique_ids(ids, file_of, prefixes)
    repeated = len(offsets) - len(rows) + sum(part.repeated for part in parts)
    if repeated:
        console.warn(f"{split}: left out {repeated:,} images: their keys have an image already")
    source = TarImages([files[number] for number in numbers], file_of, offsets, sizes)
    if len(rows) < len(offsets):
        source = source.take(rows)
    return ImageDataset(ids, None, source), codes[rows]


def _renumber(scan: Scan, texts: dict[str, int]) -> NDArray[np.int32]:
    """Return the numbers of a tar's labels in the texts of all tars."""
    numbers = [texts.setdefault(text, len(texts)) for text in scan.texts]
    table = np.array([*numbers, NO_LABEL], np.int32)
    codes: NDArray[np.int32] = table[np.frombuffer(scan.codes, np.int32)]
    return codes

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
from clipkit.datasets.labels import LabelCodes, attach_labels, labels_from_texts, unique_ids
from clipkit.datasets.remote import StoredFile, display_url
from clipkit.datasets.tar_cache import cached_scan
from clipkit.datasets.tar_scan import LINK, SPARSE_FILE, Scan
from clipkit.errors import ClipkitError, ImageError
from clipkit.features import Int64

SPAN = 2**20  # images that start in one of these parts of a remote tar are fetched together
GAP = 2**16  # unless so many bytes lie between them
SPANS_AHEAD = 4  # requested together: 2 to 4 times as fast as one by one, at 90 ms each
KEPT_SPANS = 3
KEPT_BYTES = 2**26
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
        self._spans: _Spans | None = None
        if any(file.is_remote for file in files):
            self._spans = _Spans(files, file_of, offsets, sizes)

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

    def __init__(
        self, files: Sequence[StoredFile], file_of: NDArray[np.int32], offsets: Int64, sizes: Int64
    ) -> None:
        self._files = files
        self._file_of = file_of
        self._offsets = offsets
        self._sizes = sizes
        self._span_of = _find_spans(file_of, offsets, sizes)
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
    scanned = shards.read_each(_open_and_scan, names, "reading the headers of tars", "tars")
    texts = LabelCodes()
    splits: dict[str, ImageDataset] = {}
    codes: dict[str, NDArray[np.int32]] = {}
    for split, tars in shards.group_by_split(scanned, split_of).items():
        splits[split], codes[split] = _join(split, tars, texts)
    if not any(map(len, splits.values())):
        seen = ", ".join(scan.example for _, scan in scanned if scan.example) or "no files"
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
            texts,
            lambda _: f"labels of {display_url(names[0])}",
            lambda: shards.read_class_names(names[0]),
        )
        splits = attach_labels(splits, labels)
        class_names, index = shards.rename_classes_beside(class_names, names[0])
        details |= index
    return Dataset(shards.data_set_name(names), class_names, splits, details)


def _open_and_scan(name: str) -> tuple[StoredFile, Scan]:
    file = remote.open_file(name)
    return file, cached_scan(file)


def _join(
    split: str, tars: Sequence[tuple[StoredFile, Scan]], texts: LabelCodes
) -> tuple[ImageDataset, NDArray[np.int32]]:
    """Return the rows of one split without labels, and their labels' codes (N,) in `texts`."""
    files = [file for file, _ in tars]
    joined = Scan(texts=texts)
    lengths = []
    for _, scan in tars:
        joined.extend(scan)
        lengths.append(len(scan.keys))
        scan.keys = []  # the strings stay, but not this list of them
    file_of = np.repeat(np.arange(len(files), dtype=np.int32), lengths)
    offsets = np.frombuffer(joined.offsets, np.int64)
    sizes = np.frombuffer(joined.sizes, np.int64)
    codes = np.frombuffer(joined.codes, np.int32)
    prefixes = shards.distinct_stems([file.name for file in files])
    ids, rows = unique_ids(joined.keys, file_of, prefixes)
    repeated = joined.repeated + len(offsets) - len(rows)
    if repeated:
        console.warn(f"{split}: left out {repeated:,} images: their keys have an image already")
    source = TarImages(files, file_of, offsets, sizes)
    if len(rows) < len(offsets):
        source = source.take(rows)
    return ImageDataset(ids, None, source), codes[rows]

"""Rows of a data set: splits of images, labels and ids in a fixed order, and seeded draws from them."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipkit.datasets import images
from clipkit.errors import UsageError, unknown


class Source(Protocol):
    """Where a split's images come from; `image` may be called from several threads at once."""

    def image(self, i: int) -> Image.Image:
        """The image of row `i`, as RGB."""

    def take(self, rows: NDArray[np.int64]) -> Source:
        """The source of the given rows (n,) alone."""

    def fingerprint(self) -> str:
        """What changes when the images do, found without decoding them."""


@dataclass(frozen=True)
class Files:
    """Image files."""

    paths: list[str]

    def image(self, i: int) -> Image.Image:
        """Decode file `i`."""
        return images.read(self.paths[i])

    def take(self, rows: NDArray[np.int64]) -> Files:
        """The files of these rows."""
        return Files([self.paths[row] for row in rows])

    def fingerprint(self) -> str:
        """SHA-256 over each file's size and time of change."""
        sha = hashlib.sha256()
        for path in self.paths:
            try:
                found = Path(path).stat()
                sha.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
            except OSError:
                sha.update(b"none\n")
        return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory, (N, H, W) or (N, H, W, 3) uint8."""

    pixels: NDArray[np.uint8]

    def image(self, i: int) -> Image.Image:
        """Image `i` of the array."""
        return Image.fromarray(self.pixels[i]).convert("RGB")

    def take(self, rows: NDArray[np.int64]) -> Arrays:
        """The images of these rows."""
        return Arrays(self.pixels[rows])

    def fingerprint(self) -> str:
        """SHA-256 over the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).data).hexdigest()


class Drawn:
    """Images that a function draws, a block of neighbours at a time, because that is several times faster.

    Parameters
    ----------
    draw : callable
        Numbers (n,) -> images (n, H, W, 3) uint8.
    numbers : (N,) int64 array
        What to draw in each row.
    """

    block, kept = 64, 8

    def __init__(
        self, draw: Callable[[NDArray[np.int64]], NDArray[np.uint8]], numbers: NDArray[np.int64]
    ) -> None:
        self.draw, self.numbers = draw, numbers
        self._blocks: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def image(self, i: int) -> Image.Image:
        """The image of row `i`; its block is drawn once and kept while the rows around it are asked for."""
        start = i - i % self.block
        with self._lock:
            if start not in self._blocks:
                self._blocks[start] = self.draw(self.numbers[start : start + self.block])
                if len(self._blocks) > self.kept:
                    self._blocks.popitem(last=False)
            return Image.fromarray(self._blocks[start][i - start])

    def take(self, rows: NDArray[np.int64]) -> Drawn:
        """The images of these rows."""
        return Drawn(self.draw, self.numbers[rows])

    def fingerprint(self) -> str:
        """SHA-256 over the numbers: the drawing is clipkit's own."""
        return hashlib.sha256(self.numbers.astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of one split.

    Parameters
    ----------
    ids : list of str
        N ids, unique: each file's path in the split, or each row's number in a data set without files.
    labels : (N,) int64 array or None
        Indices into the data set's `class_names`; None without labels.
    source : Source
        The images.
    """

    ids: list[str]
    labels: NDArray[np.int64] | None
    source: Source

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int) -> Image.Image:
        """Row `i` as an RGB image; from any thread.

        Raises
        ------
        ImageError
            The file cannot be used; the message names it and says why.
        """
        return self.source.image(i)

    def take(self, rows: NDArray[np.int64]) -> Split:
        """The split that holds the given rows (n,) of this one, in their order."""
        labels = None if self.labels is None else self.labels[rows]
        return Split([self.ids[row] for row in rows], labels, self.source.take(rows))

    def fingerprint(self) -> str:
        """What changes when the images do, found without decoding them: an interrupted run is continued only if not."""
        return self.source.fingerprint()

    def digest(self) -> str:
        """SHA-256 over the ids and labels, in order."""
        sha = hashlib.sha256("\n".join(self.ids).encode())
        if self.labels is not None:
            sha.update(b"\0" + self.labels.astype("<i8").tobytes())
        return sha.hexdigest()

    def draw_order(self, seed: int) -> NDArray[np.int64]:
        """All rows (N,) in the order in which a growing limit takes them.

        One row of every class, then a second of every class, and so on, at random within each turn; a class that is
        used up is passed over. Without labels, any order.
        """
        # RandomState, whose draws are the same in every NumPy
        order: NDArray[np.int64] = np.random.RandomState(seed).permutation(len(self))
        if self.labels is None:
            return order
        by_class = np.argsort(
            self.labels[order], kind="stable"
        )  # places in `order`, class by class
        sizes = np.bincount(self.labels)
        turn = np.empty_like(order)
        turn[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return order[np.argsort(turn, kind="stable")]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: what it is called, its classes, its splits, and what a file's history must say of it.

    Parameters
    ----------
    name : str
        The name in the registry, or the folder's.
    class_names : list of str
        What the labels index; empty for an unlabelled data set.
    splits : dict of str to Split
        In the data set's own order.
    details : dict
        JSON-able provenance.
    """

    name: str
    class_names: list[str]
    splits: dict[str, Split]
    details: dict[str, Any] = field(default_factory=dict)

    def only(self, splits: Sequence[str]) -> Dataset:
        """The data set with only the named splits."""
        for split in splits:
            if split not in self.splits:
                raise unknown(f"split of {self.name}", split, self.splits)
        chosen = {name: rows for name, rows in self.splits.items() if name in splits}
        return Dataset(self.name, self.class_names, chosen, self.details)

    def draw_classes(self, classes: int, seed: int) -> Dataset:
        """A seeded draw of the classes, renumbered in their order; a smaller draw's are among a larger one's."""
        total = len(self.class_names)
        if bare := [name for name, split in self.splits.items() if split.labels is None]:
            raise UsageError(
                f"classes are drawn from labelled splits; {bare[0]} of {self.name} has no labels"
            )
        if not 1 <= classes <= total:
            raise UsageError(
                f"the classes drawn must be 1 to {total}, as many as {self.name} has; got {classes}"
            )
        drawn = np.sort(np.random.RandomState(seed).permutation(total)[:classes])
        number = np.full(total, -1)
        number[drawn] = np.arange(classes)
        splits = {}
        for name, split in self.splits.items():
            new = number[split.labels]  # (N,), -1 for a class that was not drawn
            part = split.take(np.flatnonzero(new >= 0))
            splits[name] = replace(part, labels=new[new >= 0])
        names = [self.class_names[old] for old in drawn]
        return Dataset(self.name, names, splits, self._told(classes=classes, seed=seed))

    def draw_rows(self, limit: int, seed: int) -> Dataset:
        """At most `limit` rows of every split, balanced over the classes (see `Split.draw_order`), in their order."""
        if limit < 1:
            raise UsageError(f"the limit must be at least 1 row a split; got {limit}")
        splits = {
            name: split.take(np.sort(split.draw_order(seed)[:limit]))
            for name, split in self.splits.items()
        }
        return Dataset(self.name, self.class_names, splits, self._told(limit=limit, seed=seed))

    def _told(self, **draw: int) -> dict[str, Any]:
        return {**self.details, "draw": {**self.details.get("draw", {}), **draw}}


def from_files(files: Sequence[tuple[str, str]], labels: Sequence[int] | None) -> Split:
    """A split of image files, each given as (id, path)."""
    numbers = None if labels is None else np.asarray(labels, dtype=np.int64)
    return Split([name for name, _ in files], numbers, Files([path for _, path in files]))


def from_arrays(pixels: NDArray[np.uint8], labels: Any) -> Split:
    """A split of images (N, H, W) or (N, H, W, 3), uint8; the ids are the row numbers."""
    return Split(numbered(len(pixels)), np.asarray(labels, dtype=np.int64), Arrays(pixels))


def numbered(n: int) -> list[str]:
    """Row numbers as ids of one width.

    >>> numbered(11)[-2:]
    ['09', '10']
    """
    width = len(str(n - 1))
    return [f"{row:0{width}d}" for row in range(n)]

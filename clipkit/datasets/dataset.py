"""Data sets: splits of images, labels and ids in a fixed order, and seeded draws from them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from clipkit.base import console
from clipkit.base.errors import ClipkitError, ImageError, UsageError, unknown
from clipkit.base.matrices import Int64
from clipkit.datasets import images, remote
from clipkit.datasets.labels import NO_LABEL, NamedClasses, number_labels
from clipkit.features import draws, model_settings
from clipkit.features.model import number_alone, row_ids

BLOCK_ROWS = 64  # images that `RenderedImages` renders together
CACHED_BLOCKS = 8
DIGEST_ROWS = 2**14  # ids that are hashed together
# What else a split may be called: in lower case, by the name that clipkit gives it.
SPLIT_ALIASES = {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "testing": "test",
}
SPLIT_NAMES = ("train", "val", "test")


def split_name(name: str) -> str:
    """Return clipkit's name of a split: `val` for valid and validation. Other names stay.

    >>> split_name("validation"), split_name("Train"), split_name("test-2019")
    ('val', 'train', 'test-2019')
    """
    lower = name.lower()
    known = SPLIT_ALIASES.get(lower, lower)
    return known if known in SPLIT_NAMES else name


class ImageSource(Protocol):
    """N images. Threads may call `image` at the same time."""

    def image(self, i: int) -> Image.Image:
        """Return image `i` as RGB."""
        ...

    def take(self, rows: Int64) -> ImageSource:
        """Return the images of the given rows (n,), in their order."""
        ...

    def fingerprint(self) -> str:
        """Return a digest that changes when the images do, without decoding them."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Images in files. Relative `paths` start at `folder`; "" is the current folder.

    A path may be an http(s) URL.
    """

    paths: list[str]
    folder: str = ""

    def path(self, i: int) -> str:
        """Return the path of file `i`."""
        path = self.paths[i]
        if remote.protocol_of(path) is not None:
            return path
        return os.path.join(self.folder, path)  # noqa: PTH118 (Path takes 10 times as long)

    def image(self, i: int) -> Image.Image:
        """Decode file `i`."""
        path = self.path(i)
        if remote.protocol_of(path) is None:
            return images.read(path)
        remote.filesystem(path)  # a package that is missing is no fault of the image
        try:
            data = remote.read_whole(path, images.MAX_BYTES)
        except ClipkitError as error:  # of many servers, some do not answer
            raise ImageError(error.message) from error
        return images.decode(data, remote.display_url(path))

    def take(self, rows: Int64) -> ImageFiles:
        """Return the given files."""
        return ImageFiles([self.paths[row] for row in rows], self.folder)

    def fingerprint(self) -> str:
        """Return the SHA-256 over the size and modification time of each file on this machine."""
        sha = hashlib.sha256()
        for i in range(len(self.paths)):
            state = "none"
            with contextlib.suppress(OSError):
                info = os.stat(self.path(i))  # noqa: PTH116
                state = f"{info.st_size} {info.st_mtime_ns}"
            sha.update(f"{state}\n".encode())
        return sha.hexdigest()

    def distinct(self) -> Int64:
        """Return the number (N,) of each distinct file, in the order of the first of each.

        Of local files, those of equal size are read. A file that cannot be read equals no other.
        """
        by_size = defaultdict(list)
        for i in range(len(self.paths)):
            with contextlib.suppress(OSError):
                by_size[os.stat(self.path(i)).st_size].append(i)  # noqa: PTH116
        contents = [str(i) for i in range(len(self.paths))]
        for alike in by_size.values():
            for i in alike if len(alike) > 1 else ():
                with contextlib.suppress(OSError), open(self.path(i), "rb") as file:  # noqa: PTH123
                    contents[i] = hashlib.file_digest(file, "sha256").hexdigest()
        return draws.number_in_order(np.array(contents))


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory, (N, H, W) or (N, H, W, 3) uint8."""

    pixels: NDArray[np.uint8]

    def image(self, i: int) -> Image.Image:
        """Return image `i` of the array."""
        return Image.fromarray(self.pixels[i]).convert("RGB")

    def take(self, rows: Int64) -> ArrayImages:
        """Return the given images."""
        return ArrayImages(self.pixels[rows])

    def fingerprint(self) -> str:
        """Return the SHA-256 over the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).data).hexdigest()


class RenderedImages:
    """Images that a function renders, in blocks of neighbours: that is several times faster.

    `render` maps indices (n,) to images (n, H, W, 3) uint8; `indices` (N,) hold one for each row.
    """

    def __init__(self, render: Callable[[Int64], NDArray[np.uint8]], indices: Int64) -> None:
        self.render = render
        self.indices = indices
        self._lock = threading.Lock()  # so that a block is rendered once for all threads
        self._cached_block = functools.lru_cache(maxsize=CACHED_BLOCKS)(self._render_block)

    def image(self, i: int) -> Image.Image:
        """Return the image of row `i`. The blocks of the last calls are cached."""
        number, row = divmod(i, BLOCK_ROWS)
        with self._lock:
            return Image.fromarray(self._cached_block(number)[row])

    def _render_block(self, number: int) -> NDArray[np.uint8]:
        start = number * BLOCK_ROWS
        return self.render(self.indices[start : start + BLOCK_ROWS])

    def take(self, rows: Int64) -> RenderedImages:
        """Return the given images."""
        return RenderedImages(self.render, self.indices[rows])

    def __reduce__(self) -> tuple[type[RenderedImages], tuple[object, ...]]:
        return RenderedImages, (self.render, self.indices)

    def fingerprint(self) -> str:
        """Return the SHA-256 over the indices: clipkit's version stands for the renderer."""
        return hashlib.sha256(self.indices.astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """The images of one split.

    Parameters
    ----------
    ids : sequence of str
        N unique ids: the path of each file in the split, or row numbers where there are no files.
    labels : (N,) int64 array or None
        Indices into the class names of the data set; None without labels.
    source : ImageSource
        The images.
    changes : tuple of (callable, value)
        What is done to each image when it is read, see `Setting.change`.
    cluster : (N,) int64 array, optional
        The same number marks images that depend on each other, in whichever split.
    """

    ids: Sequence[str]
    labels: Int64 | None
    source: ImageSource
    changes: tuple[tuple[Callable[[Image.Image, Any], Image.Image], Any], ...] = ()
    cluster: Int64 | None = None

    @classmethod
    def from_files(
        cls, files: Sequence[tuple[str, str]], labels: Sequence[int] | None
    ) -> ImageDataset:
        """Make a data set of image files, each given as (id, path)."""
        source = ImageFiles([path for _, path in files])
        numbers = None if labels is None else np.asarray(labels, np.int64)
        return cls([name for name, _ in files], numbers, source)

    @classmethod
    def from_array(cls, pixels: NDArray[np.uint8], labels: ArrayLike) -> ImageDataset:
        """Make a data set of images (N, H, W) or (N, H, W, 3), uint8. Ids are row numbers."""
        return cls(row_ids(len(pixels)), np.asarray(labels, np.int64), ArrayImages(pixels))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        labelled = "unlabelled" if self.labels is None else "labelled"
        return f"ImageDataset({len(self)} {labelled} images)"

    def image(self, i: int) -> Image.Image:
        """Return row `i` as an RGB image. Threads may call this at the same time.

        Raises
        ------
        ImageError
            If the file cannot be used. The message names it and gives the reason.
        """
        image = self.source.image(i)
        for change, value in self.changes:
            image = change(image, value)
        return image

    def take(self, rows: Int64) -> ImageDataset:
        """Return the data set that holds the given rows (n,), in their order."""
        labels = None if self.labels is None else self.labels[rows]
        cluster = None if self.cluster is None else self.cluster[rows]
        ids = [self.ids[row] for row in rows]
        source = self.source.take(rows)
        return replace(self, ids=ids, labels=labels, source=source, cluster=cluster)

    def digest(self) -> str:
        """Return the SHA-256 over the ids and labels, in order."""
        sha = hashlib.sha256()
        for start in range(0, len(self), DIGEST_ROWS):  # joining all takes twice the memory
            text = "\n".join(self.ids[start : start + DIGEST_ROWS])
            sha.update(text.encode() if start == 0 else f"\n{text}".encode())
        if self.labels is not None:
            sha.update(b"\0")
            sha.update(np.ascontiguousarray(self.labels, "<i8").data)
        return sha.hexdigest()

    def draw_order(self, seed: int) -> Int64:
        """Return all rows (N,) in the order in which a growing limit takes them.

        Each turn takes one random row of every class that still has one. Without labels, the rows
        come in random order.
        """
        # RandomState gives the same draws in every version of NumPy
        order: Int64 = np.random.RandomState(seed).permutation(len(self))
        if self.labels is None:
            return order
        labels = self.labels[order]
        counts = np.unique(labels, return_counts=True)[1]
        starts = np.cumsum(counts) - counts
        turn = np.empty_like(order)
        turn[np.argsort(labels, kind="stable")] = np.arange(len(self)) - np.repeat(starts, counts)
        return order[np.argsort(turn, kind="stable")]


def _kept_together(split: ImageDataset) -> Int64 | None:
    """Return the group (N,) of each image that no split may divide; None if each is one alone."""
    if split.cluster is not None or not isinstance(split.source, ImageFiles):
        return split.cluster
    copies = split.source.distinct()
    return copies if copies.max() < len(copies) - 1 else None


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: its name, classes and splits, and its provenance for the history of a file.

    Parameters
    ----------
    name : str
        The name in the registry, or the name of the folder.
    class_names : list of str
        What the labels index; empty for an unlabelled data set.
    splits : dict of str to ImageDataset
        In the order of the data set.
    details : dict
        Provenance, for JSON.
    """

    name: str
    class_names: list[str]
    splits: dict[str, ImageDataset]
    details: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {split!r}" for name, split in self.splits.items())
        return f"Dataset({self.name}, {splits}, {len(self.class_names)} classes)"

    def select_splits(self, names: Sequence[str]) -> Dataset:
        """Return the data set with only the named splits; `valid` is another name of `val`."""
        chosen = set()
        for name in names:
            known = name if name in self.splits else split_name(name)
            if known not in self.splits:
                raise unknown(f"split of {self.name}", name, self.splits)
            chosen.add(known)
        selected = {name: split for name, split in self.splits.items() if name in chosen}
        return replace(self, splits=selected)

    def draw_classes(self, classes: int, seed: int) -> Dataset:
        """Draw some of the classes and renumber them in their order.

        The draw is nested: a larger draw has all classes of a smaller one.
        """
        for name, split in self.splits.items():
            if split.labels is None:
                raise UsageError(f"classes of {self.name}: expected labels in {name}, got none")
        total = len(self.class_names)
        if not 1 <= classes <= total:
            raise UsageError(f"classes of {self.name}: expected 1 to {total}, got {classes}")
        drawn = np.sort(np.random.RandomState(seed).permutation(total)[:classes])
        number = np.full(total, -1)
        number[drawn] = np.arange(classes)
        splits = {}
        for name, split in self.splits.items():
            labels = number[split.labels]  # (N,), -1 for a class that was not drawn
            rows = np.flatnonzero(labels >= 0)
            splits[name] = replace(split.take(rows), labels=labels[rows])
        class_names = [self.class_names[label] for label in drawn]
        return replace(self, class_names=class_names, splits=splits)

    def split_off(self, fractions: Mapping[str, float], seed: int = 42) -> Dataset:
        """Divide the only split, or else `train`: what `clipkit embed --split-off` does.

        `splitting.split` draws the same rows with the same fractions and seed. Clusters that the
        data set has stay whole. Without them, files with equal bytes stay together.
        """
        source = draws.choose_source(self.splits, None, self.name)
        rows = draws.split_rows(
            self.splits,
            fractions,
            source=source,
            seed=seed,
            groups=_kept_together(self.splits[source]),
            class_names=self.class_names,
            display_name=self.name,
        )
        parts = {name: self.splits[source].take(numbers) for name, numbers in rows.items()}
        splits = draws.replace_split(self.splits, source, parts)
        details = {
            **self.details,
            "split_off": {"fractions": dict(fractions), "from": source, "seed": seed},
            "splits": describe_splits(splits),
        }
        return replace(self, splits=splits, details=details)

    def change(self, settings: Mapping[str, Any]) -> Dataset:
        """Change images before a model sees them: what options such as `--downsample` do.

        `settings` has values of `model_settings.SETTINGS` by their names. A note says so if a
        setting leaves the first image as it is.
        """
        splits, details = dict(self.splits), dict(self.details)
        for setting in model_settings.SETTINGS:
            value = settings.get(setting.name, setting.default)
            if setting.change is None or value == setting.default:
                continue
            with contextlib.suppress(ImageError, IndexError):  # no image, or none that can be used
                image = next(iter(splits.values())).image(0)
                if setting.change(image, value) is image:
                    size = "x".join(map(str, image.size))
                    console.note(f"{setting.flag} {value}: the first image has {size} pixels")
            for name, split in splits.items():
                changes = (*split.changes, (setting.change, value))
                splits[name] = replace(split, changes=changes)
            details[setting.key] = value
        return replace(self, splits=splits, details=details)

    def draw_rows(self, limit: int, seed: int) -> Dataset:
        """Draw at most `limit` rows per split, balanced by class, and keep their order.

        The draw is nested: see `ImageDataset.draw_order`.
        """
        if limit < 1:
            raise UsageError(f"limit: expected at least 1 row per split, got {limit}")
        splits = {}
        for name, split in self.splits.items():
            splits[name] = split.take(np.sort(split.draw_order(seed)[:limit]))
        return replace(self, splits=splits)


def describe_splits(splits: Mapping[str, ImageDataset]) -> dict[str, Any]:
    """Return for each split the number of `images` and as `rows` the digest of ids and labels."""
    return {name: {"images": len(split), "rows": split.digest()} for name, split in splits.items()}


def attach_labels(
    splits: Mapping[str, ImageDataset],
    codes: Mapping[str, NDArray[np.int32]],
    texts: Collection[str],
    place_of: Callable[[str], str],
    names_of_numbers: Callable[[], NamedClasses | None] = lambda: None,
) -> tuple[dict[str, ImageDataset], list[str]]:
    """Return splits with labels, and class names, where rows have the numbers of texts.

    `codes` (N,) of each split number `texts`, or are `NO_LABEL`; see `number_labels` for the
    functions. A split without any label is unlabelled. In a split that has labels, rows without one
    are left out, with a warning.
    """
    class_names, number_of = number_labels(texts, place_of, names_of_numbers)
    values = np.array([number_of[text] for text in texts] + [NO_LABEL], np.int64)
    labelled = {}
    for name, split in splits.items():
        has_label = codes[name] != NO_LABEL
        if not has_label.any():
            labelled[name] = split
            continue
        labels = values[codes[name]]
        if not has_label.all():
            missing = np.flatnonzero(~has_label)
            left_out = console.count(len(missing), "image")
            first = split.ids[int(missing[0])]
            console.warn(f"{name}: left out {left_out} without a label, first {first}")
            split, labels = split.take(np.flatnonzero(has_label)), labels[has_label]
        labelled[name] = replace(split, labels=labels)
    return labelled, class_names


def attach_clusters(
    splits: Mapping[str, ImageDataset], codes: Mapping[str, NDArray[np.int32]], where: str
) -> dict[str, ImageDataset]:
    """Return splits with the clusters that `codes` (N,) number; -1 is an image alone.

    Raises
    ------
    ClipkitError
        If all images would be one cluster.
    """
    free = 1 + max(int(of_split.max()) for of_split in codes.values())
    clustered = {}
    for name, split in splits.items():
        numbers = number_alone(codes[name].astype(np.int64), free)
        free = max(free, int(numbers.max()) + 1)
        clustered[name] = replace(split, cluster=numbers)
    if free == 1:
        raise ClipkitError(
            f"{where}: expected at least 2 clusters of images, got 1", "leave --cluster out"
        )
    return clustered

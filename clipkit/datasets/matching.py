"""Find the images of a feature file's rows in a data set, by their ids, and make thumbnails."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.files import expand_user
from clipkit.base.matrices import Int64
from clipkit.base.prefetch import prefetch_map
from clipkit.datasets.dataset import Dataset, ImageDataset
from clipkit.datasets.loading import SourceOptions, read_source
from clipkit.datasets.registry import REGISTRY
from clipkit.datasets.remote import protocol_of
from clipkit.datasets.rows import ColumnError, Columns
from clipkit.features.matching import Rows, choose_splits, match
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import original_splits

SIZE = 128  # pixels of the longer side
QUALITY = 80
WORKERS, AHEAD = 4, 64
HINT = "name the data set that was embedded"


def load_images(
    file: FeatureFile, dataset: Sequence[str], *, root: str | None = None, **columns: str | None
) -> Dataset:
    """Load the data set of a file's images; see `datasets.load`.

    A manifest is read by the columns that `embed` read, unless others are given.
    """
    if dataset[0] in REGISTRY:
        _check_name(file, dataset[0])
    embedded = _embedded_columns(file)
    defaults = Columns()._replace(**embedded)
    try:
        loaded = read_source(dataset, SourceOptions(root, **columns, default_columns=defaults))
    except ColumnError as error:
        if error.column in columns.values():
            raise
        hint = HINT
        if error.column in embedded.values():
            hint = "name the manifest that clipkit embed read by this column"
        if columns:
            hint += ", or the column, with --path-column"
        raise ClipkitError(error.message, hint) from error
    _check_name(file, loaded.name)
    return loaded


def are_absent(file: FeatureFile, dataset: Sequence[str], root: str | None = None) -> bool:
    """Return whether the images of a file are not on this machine, as after `embed` on another one.

    That is certain of the data set that was embedded alone: another name may be misspelt.
    """
    path = expand_user(dataset[0])
    if {path.name, path.stem}.isdisjoint(file.history.dataset_names or REGISTRY):
        return False
    if dataset[0] in REGISTRY:
        folder = expand_user(root) if root else None
        return not REGISTRY[dataset[0]].is_stored(folder)
    return protocol_of(dataset[0]) is None and not path.exists()


def _embedded_columns(file: FeatureFile) -> dict[str, str]:
    """Return the columns that `embed` was given for a manifest, by their role."""
    embedded: dict[str, str] = {}
    for entry in file.history.datasets:
        if entry.get("source") == "manifest" and "columns" in entry:
            named = entry.object("columns")
            embedded = {role: str(named[role]) for role in Columns._fields if role in named}
    return embedded


def _check_name(file: FeatureFile, name: str) -> None:
    """Refuse another named data set than the file's: its rows may have the same ids."""
    embedded = file.history.dataset_names
    if embedded and name not in embedded and not {name, *embedded}.isdisjoint(REGISTRY):
        raise UsageError(_other_name(file, name), HINT)


def warn_of_other_name(file: FeatureFile, dataset: Dataset) -> None:
    """Warn if the images were matched in a data set of another name."""
    embedded = file.history.dataset_names
    if embedded and dataset.name not in embedded:
        console.warn(f"{_other_name(file, dataset.name)}: matched them by their ids")


def _other_name(file: FeatureFile, name: str) -> str:
    embedded = " or ".join(file.history.dataset_names)
    return f"{file.display_name}: expected images of {embedded}, got images of {name}"


def match_images(
    file: FeatureFile,
    split: str,
    dataset: Dataset,
    rows: Int64 | None = None,
    *,
    allow_missing: bool = False,
) -> tuple[Int64, ImageDataset]:
    """Return rows (n,) of a split, all by default, and their images in a data set (n).

    A data set that lacks the split or an image is refused. With `allow_missing`, rows without an
    image are left out, unless the data set lacks all of them; see `matching.match`.
    """
    originals = original_splits(file, split)
    known = [dataset.splits[name] for name in originals if name in dataset.splits]
    if len(known) < len(originals):
        got = ", ".join(dataset.splits)
        expected = f"the split {', '.join(originals)} of {file.display_name}"
        raise ClipkitError(f"{dataset.name}: expected {expected}, got {got}", HINT)
    images = known[0]
    if len(known) > 1:
        images = _join(known)
    ids = file.splits[split].ids
    if rows is None:
        rows = np.arange(len(ids))
    wanted = Rows([ids[row] for row in rows], "images", f"{split} of {file.display_name}")
    stored = Rows(images.ids, "images", dataset.name)
    places = match(wanted, stored, "image", common=allow_missing, hint=HINT)
    is_known = places >= 0
    return rows[is_known], images.take(places[is_known])


@dataclass(frozen=True)
class _JoinedImages:
    """The images of several sources, one after another."""

    sources: Sequence[ImageDataset]
    rows: Sequence[tuple[int, int]]  # the number of the source of each image, and its row there

    def image(self, i: int) -> Image.Image:
        source, row = self.rows[i]
        return self.sources[source].image(row)

    def take(self, rows: Int64) -> _JoinedImages:
        return _JoinedImages(self.sources, [self.rows[row] for row in rows])

    def fingerprint(self) -> str:
        return " ".join(source.source.fingerprint() for source in self.sources)


def _join(parts: Sequence[ImageDataset]) -> ImageDataset:
    """Return the images of several splits of a data set."""
    ids: list[str] = []
    rows: list[tuple[int, int]] = []
    labels: list[Int64] = []
    for number, part in enumerate(parts):
        ids += part.ids
        rows += [(number, row) for row in range(len(part))]
        if part.labels is not None:
            labels.append(part.labels)
    joined = ImageDataset(ids, None, _JoinedImages(parts, rows))
    if len(labels) < len(parts):
        return joined
    return replace(joined, labels=np.concatenate(labels))


def thumbnail(image: Image.Image, size: int = SIZE, quality: int = QUALITY) -> bytes:
    """Encode a small copy of an image as WebP, without EXIF, ICC profile or comments.

    Its longer side has at most `size` pixels. `quality` is 0..100.
    WebP takes a third to two thirds of the bytes of JPEG for images of 8 to 64 pixels.
    """
    small = image.convert("RGB")  # also a copy
    small.thumbnail((size, size))
    small.info = {}  # where Pillow keeps metadata, some of which it would write
    out = io.BytesIO()
    small.save(out, "WEBP", quality=quality)
    return out.getvalue()


def read_thumbnails(
    file: FeatureFile,
    dataset: Sequence[str],
    *,
    root: str | None = None,
    split: str | None = None,
) -> dict[str, Iterator[bytes]]:
    """Return, for each split, the thumbnail of each row of a file of images or logits, in order.

    The images are found in the `dataset` of `load_images` by their ids. Iterating decodes a few
    images ahead, and raises `ImageError` for one that cannot be read.

    Raises
    ------
    UsageError
        If the file has no images, there is no such `split`, or the file is of another data set.
    ClipkitError
        If an image is not in the data set.
    """
    if file.kind not in ("images", "logits"):
        raise UsageError(f"thumbnails: expected a file of images or logits, got {file.kind}")
    file, chosen = choose_splits(file, None if split is None else [split])
    data = load_images(file, dataset, root=root)
    thumbnails: dict[str, Iterator[bytes]] = {}
    for name in chosen:
        _, images = match_images(file, name, data)
        thumbnails[name] = _encode(images)
    warn_of_other_name(file, data)
    return thumbnails


def _encode(images: ImageDataset) -> Iterator[bytes]:
    return prefetch_map(lambda i: thumbnail(images.image(i)), range(len(images)), WORKERS, AHEAD)

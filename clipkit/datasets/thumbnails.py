"""Make small copies of images, without the metadata of the originals."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from PIL import Image

from clipkit.base.errors import UsageError
from clipkit.base.prefetch import prefetch_map
from clipkit.datasets import ImageDataset
from clipkit.datasets.matching import load_images, match_images, warn_of_other_name
from clipkit.features import FeatureFile

SIZE = 128  # pixels of the longer side
QUALITY = 80
WORKERS, AHEAD = 4, 64


def thumbnail(image: Image.Image, size: int = SIZE, quality: int = QUALITY) -> bytes:
    """Encode a small copy of an image as WebP, without EXIF, ICC profile or comments.

    WebP takes a third to two thirds of the bytes of JPEG for images of 8 to 64 pixels.

    Parameters
    ----------
    image : PIL.Image
    size : int
        Pixels of the longer side, at most. A smaller image keeps its size.
    quality : int
        0..100.
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
    """Find the images of a file's rows in a data set, by their ids.

    Parameters
    ----------
    file : FeatureFile
        Of kind images or logits.
    dataset : sequence of str
        As for `datasets.load`. A manifest is read by the columns that the history names.
    root : str, optional
        The folder that holds a named data set.
    split : str, optional
        Only this split; all by default.

    Returns
    -------
    dict of str to iterator of bytes
        For each split, the thumbnail of each row, in order. Iterating decodes a few images ahead,
        and raises `ImageError` for one that cannot be read.

    Raises
    ------
    UsageError
        If the file has no images, there is no such split, or the file is of another named data set.
    ClipkitError
        If an image is not in the data set.
    """
    if file.kind not in ("images", "logits"):
        raise UsageError(f"thumbnails: expected a file of images or logits, got {file.kind}")
    chosen = [*file.splits] if split is None else file.choose_splits([split])
    data = load_images(file, dataset, root=root)
    thumbnails: dict[str, Iterator[bytes]] = {}
    for name in chosen:
        _, images = match_images(file, name, data)
        thumbnails[name] = _encode(images)
    warn_of_other_name(file, data)
    return thumbnails


def _encode(images: ImageDataset) -> Iterator[bytes]:
    """Return the thumbnails of all images; threads make them ahead."""
    return prefetch_map(lambda i: thumbnail(images.image(i)), range(len(images)), WORKERS, AHEAD)

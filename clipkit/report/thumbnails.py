"""Encode the images of a page as small pictures, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from clipkit.base.errors import ImageError
from clipkit.datasets import ImageDataset, images
from clipkit.datasets.matching import thumbnail

MAX_BYTES = 2_900_000  # of all pictures of a page, as base64
# Longest side in pixels and quality: the first whose picture is small enough is taken.
STEPS = ((128, 80), (128, 55), (96, 55), (96, 30), (64, 30), (48, 20), (24, 10))
SMALL_PIXELS = 64  # below this side, a browser enlarges pixels without smoothing them


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, or the reason why there is none.

    Attributes
    ----------
    uri : str
        A `data:` URI of a WebP, or "".
    width, height : int
        Of the picture; 0 without one.
    problem : str
        Why the image cannot be used, or "".
    """

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def is_small(self) -> bool:
        """Whether a page enlarges the picture."""
        return 0 < max(self.width, self.height) < SMALL_PIXELS


def thumbnails(data: ImageDataset) -> Iterator[Thumbnail]:
    """Yield a thumbnail of each image. Together, up to 2,000 have at most MAX_BYTES.

    Images are never enlarged.
    """
    budget = MAX_BYTES * 3 // 4 // max(1, len(data))  # base64 writes three bytes as four
    for row in range(len(data)):
        try:
            image = data.image(row)
        except ImageError as error:
            yield Thumbnail(problem=_reason(error))
        else:
            yield encode(image, budget)


def encode(image: Image.Image, budget: int) -> Thumbnail:
    """Encode an image in `budget` bytes, or in as few as possible."""
    for side, quality in STEPS:
        data = thumbnail(image, side, quality)
        if len(data) <= budget:
            break
    text = base64.b64encode(data).decode()
    return Thumbnail(f"data:image/webp;base64,{text}", *Image.open(io.BytesIO(data)).size)


def _reason(error: ImageError) -> str:
    """Return why an image cannot be used, without its path: a page may be sent to others."""
    cause = error.__cause__
    if isinstance(cause, Exception):
        return images.reason(cause)
    return error.message.partition(": ")[2] or error.message

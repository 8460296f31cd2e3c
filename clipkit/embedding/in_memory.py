"""Embed a few images into a feature file in memory, without a data set or an output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipkit import features, models
from clipkit.base import console
from clipkit.base.errors import UsageError, quote
from clipkit.datasets import images as image_files
from clipkit.features.model import ROW_NUMBERS, FeatureFile, Split, row_ids
from clipkit.models.options import RunOptions

SPLIT = "all"  # as of a folder without splits


def embed(images: Sequence[Any], model: str = models.DEFAULT, **settings: Any) -> FeatureFile:
    """Embed images that are given one by one.

    To embed a data set, or more images than memory holds, use `embedding.embed`.

    Parameters
    ----------
    images : sequence of N images
        Each is a Pillow image, an array (H, W) or (H, W, 3) of uint8, or the path of a file.
    model : str
        As in `models.load`.
    **settings
        Fields of `models.RunOptions` by name.

    Returns
    -------
    FeatureFile
        Of kind images, with the split ``all``: features (N, D), not normalised. The ids are the
        paths, if all images are given by different paths, else row numbers.

    Raises
    ------
    UsageError
        If there is no image, or something that is no image.
    ImageError
        If a file cannot be used.
    """
    if isinstance(images, str | os.PathLike | Image.Image) or not len(images):
        got = quote(images)
        raise UsageError(f"images: expected a list of at least one image, got {got}")
    options = RunOptions(**settings)
    decoded = [_as_image(image, number) for number, image in enumerate(images)]
    encoder = models.load(model, tower="image", options=options)
    step = options.batch_size
    blocks = []
    with console.progress("embedding images", "images") as update:
        for start in range(0, len(decoded), step):
            batch = decoded[start : start + step]
            blocks.append(np.asarray(encoder.encode_images(batch)))
            update(start + len(batch), len(decoded))
    ids = [os.fspath(one) for one in images if isinstance(one, str | os.PathLike)]
    is_numbered = len(set(ids)) < len(decoded)
    entry = features.history_entry(
        "embed",
        model=encoder.details,
        batch_size=step,
        ids=ROW_NUMBERS if is_numbered else None,
    )
    split = Split(np.concatenate(blocks), ids=row_ids(len(decoded)) if is_numbered else ids)
    return FeatureFile("images", features.History([entry]), {SPLIT: split})


def _as_image(image: Any, number: int) -> Image.Image:
    """Return an image in RGB."""
    if isinstance(image, str | os.PathLike):
        return image_files.read(os.fspath(image))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    got = quote(image)
    raise UsageError(
        f"images: expected a Pillow image, an array of uint8 or a path, got {got} at {number}"
    )

"""Embed images into a feature file in memory, without an output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipkit import datasets, features, models
from clipkit.base import console
from clipkit.base.errors import UsageError, quote
from clipkit.base.files import temporary_folder
from clipkit.datasets import images as image_files
from clipkit.embedding import pipeline
from clipkit.features.arguments import checked
from clipkit.features.model import ROW_NUMBERS, FeatureFile, Split, row_ids
from clipkit.models.options import RunOptions

SPLIT = "all"  # as of a folder without splits


@checked
def embed(
    images: Sequence[Any] | str | os.PathLike[str], model: str = models.DEFAULT, **settings: Any
) -> FeatureFile:
    """Embed images that are given one by one, or those of a folder or another data set.

    If memory cannot hold the embeddings, use `embedding.embed`, which writes a file.

    Parameters
    ----------
    images : sequence of N images, str or path
        Each is a Pillow image, an array (H, W) or (H, W, 3) of uint8, or the path of a file. A
        text or path alone is a folder or another data set that `clipkit embed` takes.
    model : str
        As in `models.load`.
    **settings
        Fields of `models.RunOptions` by name.

    Returns
    -------
    FeatureFile
        Of kind images: features (N, D), not normalised. Images that are given one by one have the
        split ``all``. Their ids are the paths, if all are given by different paths, else row
        numbers. A data set has its own splits, labels and ids.

    Raises
    ------
    UsageError
        If there is no image, or something that is no image.
    ImageError
        If a file cannot be used.
    """
    if isinstance(images, str | os.PathLike):
        return _embed_dataset(os.fspath(images), model, RunOptions.from_settings(settings))
    if isinstance(images, Image.Image) or not isinstance(images, Iterable) or not len(images):
        got = quote(images)
        raise UsageError(f"images: expected a list of at least one image, got {got}")
    options = RunOptions.from_settings(settings)
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


def _embed_dataset(name: str, model: str, options: RunOptions) -> FeatureFile:
    """Embed a data set as `clipkit embed` does, and warn of the images that cannot be used."""
    dataset = datasets.load(name)  # before the model is loaded
    with temporary_folder() as folder:
        output = Path(folder, "images.h5")
        skipped = pipeline.embed(dataset, str(output), model=model, options=options)
        for image in skipped:
            console.warn(f"skipped {image['split']}/{image['id']}: {image['reason']}")
        file = features.read(output)
    file.display_name = name
    return file


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

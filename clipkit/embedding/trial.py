"""Try an encoder on images of a data set before a long run: what `clipkit embed --check` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from clipkit.base.errors import ImageError
from clipkit.models import trial
from clipkit.models.options import RunOptions
from clipkit.models.own_encoder import noise_images

if TYPE_CHECKING:
    from PIL import Image

    from clipkit.datasets import Dataset
    from clipkit.models.trial import Finding

COUNT = 6  # images of the data set, to which a wide and a tall one are added


def try_encoder(dataset: Dataset, *, model: Any, options: RunOptions) -> list[Finding]:
    """Try an encoder on six images of a data set, a wide and a tall one. Write nothing."""
    images = [*_sample_images(dataset), *noise_images()]
    return trial.try_encoder(model, options, images)


def _sample_images(dataset: Dataset) -> list[Image.Image]:
    """Return at most COUNT images from the whole length of a split, without unusable ones."""
    split = next(iter(dataset.splits.values()))
    images = []
    for row in np.unique(np.linspace(0, len(split) - 1, COUNT).astype(int)):
        try:
            images.append(split.image(int(row)))
        except ImageError:  # which a run skips
            continue
    return images

"""The clusters that the images of a data set are in by its own word: a column, or their folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clipkit.base.errors import ClipkitError
from clipkit.datasets.dataset import Dataset, ImageDataset
from clipkit.datasets.labels import LabelCodes

FOLDER = "folder"  # what `--cluster` is called for the folder of each image


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
        numbers = codes[name].astype(np.int64)
        alone = np.flatnonzero(numbers < 0)
        numbers[alone] = np.arange(free, free + len(alone))
        free += len(alone)
        clustered[name] = replace(split, cluster=numbers)
    if free == 1:
        raise ClipkitError(
            f"{where}: expected at least 2 clusters of images, got 1", "leave --cluster out"
        )
    return clustered


def cluster_by_folder(dataset: Dataset) -> Dataset:
    """Return a data set in which the images of a folder are a cluster, in whichever split.

    The folder is the id up to its last slash.
    """
    folders = LabelCodes()
    codes = {}
    for name, split in dataset.splits.items():
        of_rows = [folders.code(row_id.rpartition("/")[0] or ".") for row_id in split.ids]
        codes[name] = np.array(of_rows, np.int32)
    return replace(dataset, splits=attach_clusters(dataset.splits, codes, dataset.name))

"""The clusters that the images of a data set are in by its own word: a column, or their folders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clipkit.datasets.dataset import Dataset, attach_clusters
from clipkit.datasets.labels import LabelCodes

FOLDER = "folder"  # what `--cluster` is called for the folder of each image


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

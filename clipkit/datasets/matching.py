"""Find the images of a feature file's rows in a data set, by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipkit import datasets
from clipkit.datasets.dataset import Dataset, ImageDataset
from clipkit.datasets.manifests import is_manifest
from clipkit.errors import ClipkitError
from clipkit.features import FeatureFile, Int64
from clipkit.features.provenance import dataset_entries, original_split

HINT = "name the data set that was embedded"


def load_images(
    file: FeatureFile, dataset: Sequence[str], *, root: str | None = None, **columns: str | None
) -> Dataset:
    """Load the data set of a file's images; see `datasets.load`.

    A manifest is read by the columns that the history names, unless others are given.
    """
    named: dict[str, Any] = {}
    if is_manifest(dataset[0]):
        named = _manifest_columns(file)
    named |= {name: column for name, column in columns.items() if column is not None}
    return datasets.load(dataset, root=root, **named)


def _manifest_columns(file: FeatureFile) -> dict[str, str]:
    """Return the columns that `embed` was given for a manifest, by the parameters of `load`."""
    named = {}
    for data in dataset_entries(file):
        columns = data.get("columns")
        if data.get("source") == "manifest" and isinstance(columns, dict):
            known = [role for role in ("path", "label", "split") if role in columns]
            named = {f"{role}_column": str(columns[role]) for role in known}
    return named


def match_images(
    file: FeatureFile,
    split: str,
    dataset: Dataset,
    rows: Int64 | None = None,
    *,
    allow_missing: bool = False,
) -> tuple[Int64, ImageDataset]:
    """Match rows (n,) of a file's split, all by default, to the images of a data set.

    With `allow_missing`, rows whose images the data set lacks are left out, unless it lacks all.

    Returns
    -------
    rows : array (m,)
        The rows whose images the data set has.
    images : ImageDataset
        The m images, in the order of the rows.

    Raises
    ------
    ClipkitError
        If the data set lacks the split or an image.
    """
    original = original_split(file, split)
    if original not in dataset.splits:
        raise ClipkitError(
            f"{dataset.name}: expected the split {original} of {file.display_name}, got "
            f"{', '.join(dataset.splits)}",
            HINT,
        )
    images = dataset.splits[original]
    ids = file.splits[split].ids
    if rows is None:
        rows = np.arange(len(ids))
    row_of = {row_id: row for row, row_id in enumerate(images.ids)}
    is_known = np.array([ids[row] in row_of for row in rows])
    if not is_known.any() or not (allow_missing or is_known.all()):
        missing = ids[rows[is_known.argmin()]]
        raise ClipkitError(
            f"{dataset.name}: expected the {split} images of {file.display_name}, got no "
            f"{missing!r}",
            HINT,
        )
    rows = rows[is_known]
    return rows, images.take(np.array([row_of[ids[row]] for row in rows]))

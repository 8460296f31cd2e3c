"""Find the images of a feature file's rows in a data set, by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipkit import console, datasets
from clipkit.datasets.dataset import Dataset, ImageDataset
from clipkit.datasets.manifests import is_manifest
from clipkit.errors import ClipkitError, UsageError
from clipkit.features import FeatureFile, Int64
from clipkit.features.provenance import dataset_entries, original_split

HINT = "name the data set that was embedded"


def load_images(
    file: FeatureFile, dataset: Sequence[str], *, root: str | None = None, **columns: str | None
) -> Dataset:
    """Load the data set of a file's images; see `datasets.load`.

    A manifest is read by the columns that the history names, unless others are given.

    Raises
    ------
    UsageError
        If this is another named data set than the file's.
    """
    entries = dataset_entries(file) if is_manifest(dataset[0]) else []
    named: dict[str, Any] = {}
    for entry in entries:
        embedded = entry.get("columns")
        if entry.get("source") == "manifest" and isinstance(embedded, dict):
            known = [role for role in ("path", "label", "split") if role in embedded]
            named = {f"{role}_column": str(embedded[role]) for role in known}
    named |= {name: column for name, column in columns.items() if column is not None}
    loaded = datasets.load(dataset, root=root, **named)
    _check_name(file, loaded.name)
    return loaded


def _check_name(file: FeatureFile, name: str) -> None:
    """Refuse another named data set than the file's, whose rows may have the same ids."""
    embedded = [str(data["name"]) for data in dataset_entries(file) if "name" in data]
    if not embedded or name in embedded:
        return
    expected = f"expected images of {' or '.join(embedded)}, got those of {name}"
    if not {name, *embedded}.isdisjoint(datasets.REGISTRY):
        raise UsageError(f"{file.display_name}: {expected}", "name the data set of clipkit embed")
    console.warn(f"{file.display_name}: {expected}, and took those with the same ids")


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
    image are left out, unless it lacks all.
    """
    original = original_split(file, split)
    if original not in dataset.splits:
        got = ", ".join(dataset.splits)
        expected = f"the split {original} of {file.display_name}"
        raise ClipkitError(f"{dataset.name}: expected {expected}, got {got}", HINT)
    images = dataset.splits[original]
    ids = file.splits[split].ids
    if rows is None:
        rows = np.arange(len(ids))
    row_of = {row_id: row for row, row_id in enumerate(images.ids)}
    is_known = np.array([ids[row] in row_of for row in rows])
    if not is_known.any() or not (allow_missing or is_known.all()):
        missing = ids[rows[is_known.argmin()]]
        expected = f"the {split} images of {file.display_name}"
        raise ClipkitError(f"{dataset.name}: expected {expected}, got no {missing!r}", HINT)
    rows = rows[is_known]
    return rows, images.take(np.array([row_of[ids[row]] for row in rows]))

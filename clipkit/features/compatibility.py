"""Decide whether rows of files are the same images: by their data sets, splits and ids."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from clipkit.base.errors import ClipkitError
from clipkit.features.model import FeatureFile, History
from clipkit.features.provenance import dataset_entries, original_split

ROW_NUMBERS = "row numbers"  # what the history says of ids that an import did not have
SAME_IMAGES = "the same images"
SAME_IDS = "images with the same ids"  # of data sets without a name, or of different ones
ROLES = ("images", "features", "logits")  # of inputs with rows, in a history


class Origin(NamedTuple):
    """What gives the ids of a split their meaning, as far as the history tells."""

    datasets: tuple[str, ...]  # that were embedded
    split: str  # of the data set
    rows: str  # digest of the rows of that split
    inputs: tuple[str, ...]  # digests of the imports without ids, or else of the first input
    is_numbered: bool  # whether ids are row numbers, because an import had none

    @property
    def key(self) -> tuple[str, ...]:
        """What images of equal ids share if a report may compare results on them."""
        return (self.split, *self.inputs) if self.is_numbered else (self.rows,)


def origin(file: FeatureFile, split: str) -> Origin:
    """Return the origin of the ids of a split."""
    rows = ""
    with contextlib.suppress(ClipkitError):  # else the name may stand for several splits
        original = original_split(file, split)
        rows = _rows_digest(file, original) or _rows_digest(file, split)
        split = original
    names = tuple(str(data["name"]) for data in dataset_entries(file) if "name" in data)
    imports = [entry for entry in file.history if entry.get("ids") == ROW_NUMBERS]
    inputs = _inputs(imports) if imports else _inputs(file.history)[:1]
    return Origin(names, split, rows, inputs, bool(imports))


def _rows_digest(file: FeatureFile, split: str) -> str:
    for data in dataset_entries(file):
        splits = data.get("splits")
        if isinstance(splits, dict) and isinstance(splits.get(split), dict):
            return str(splits[split].get("rows"))
    return ""


def _inputs(history: History) -> tuple[str, ...]:
    """Return the digests of the inputs of a history that hold rows."""
    inputs = [entry["inputs"] for entry in history if isinstance(entry.get("inputs"), dict)]
    return tuple(str(digests[role]) for digests in inputs for role in ROLES if role in digests)


def relate(a: Origin, b: Origin, *, same_rows: bool = False) -> str | None:
    """Return what rows with equal ids are: SAME_IMAGES, SAME_IDS, or None for other images.

    Row numbers of different imports name different images, unless `same_rows` says otherwise.
    """
    if a.is_numbered or b.is_numbered:
        if a.is_numbered and a.key == b.key:
            return SAME_IMAGES
        return SAME_IDS if same_rows else None
    if a.datasets == b.datasets != () or a.inputs == b.inputs != ():
        return SAME_IMAGES if a.split == b.split else None
    return SAME_IDS


def matching_split(
    file: FeatureFile, other: FeatureFile, split: str, *, same_rows: bool = False
) -> str | None:
    """Return the split of a file that may hold images of a split of another file, or None.

    If none of that name does, it comes from the same split of the data set.
    """
    wanted = origin(other, split)
    for name in sorted(file.splits, key=lambda name: (name != split, name != "test")):
        found = origin(file, name)
        is_candidate = name == split or found.split == wanted.split
        if is_candidate and relate(found, wanted, same_rows=same_rows):
            return name
    return None

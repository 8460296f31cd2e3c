"""Find the images that depend on each other: equal ones, and those that the data set names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clipkit.base import console
from clipkit.base.matrices import BlockMatrix, Int64
from clipkit.features.matching import coincide_by_chance, hash_rows
from clipkit.features.model import Split
from clipkit.statistics.dependence import join


def find_clusters(splits: Mapping[str, Split]) -> dict[str, Int64]:
    """Return the cluster of each row of some splits, if rows depend on each other; else nothing.

    Clusters that splits have are joined with equal images (see `find_copies`). They keep the order
    of their numbers, so that `clipkit split` draws what `embed --split-off` draws.
    """
    copies = find_copies(splits)
    named = [split.cluster for split in splits.values() if split.cluster is not None]
    if named:
        numbers = np.concatenate(named)
        if copies:
            numbers = _number_joined(numbers, np.concatenate(list(copies.values())))
        numbers = np.unique(numbers, return_inverse=True)[1]
        why = "by the clusters of the data set"
        if copies:
            why += " and equal images"
    elif copies:
        numbers, why = np.concatenate(list(copies.values())), "equal ones are clusters"
    else:
        return {}
    total, independent = len(numbers), int(numbers.max()) + 1
    if independent == total:
        return {}
    console.note(f"{total:,} images, {independent:,} independent: {why}")
    ends = np.cumsum([len(split) for split in splits.values()])[:-1]
    return dict(zip(splits, np.split(numbers, ends), strict=True))


def _number_joined(first: Int64, second: Int64) -> Int64:
    """Join two clusterings (N,); each of the joined clusters has its lowest number of the first."""
    joined = join([first, second])
    lowest = np.full(int(joined.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(lowest, joined, first)
    return lowest[joined]


def find_copies(splits: Mapping[str, Split]) -> dict[str, Int64]:
    """Return the number of each distinct row of some splits, if rows are equal to the bit.

    Equal images have equal embeddings, in whichever split they are. So may different images in a
    layer that sees little of them: nothing is returned if all rows are equal, or if equal ones may
    be expected by chance (see `matching.coincide_by_chance`).
    """
    hashes = {name: hash_rows(split.features) for name, split in splits.items()}
    numbers = np.unique(np.concatenate(list(hashes.values())), return_inverse=True)[1]
    total, independent = len(numbers), int(numbers.max()) + 1
    if independent in (1, total):
        return {}
    some = next(BlockMatrix.from_array(next(iter(splits.values())).features).iter_blocks())
    if coincide_by_chance(some, total * (total - 1) // 2):
        return {}
    ends = np.cumsum([len(of_split) for of_split in hashes.values()])[:-1]
    return dict(zip(hashes, np.split(numbers, ends), strict=True))

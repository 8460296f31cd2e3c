"""The clusters of rows that depend on each other: how they are numbered and joined.

A number is shared by the rows of a cluster in whichever split of a file they are. Each file numbers
its clusters for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from clipkit.base.matrices import Int64
from clipkit.features.model import Split, number_alone


def has_clusters(splits: Mapping[str, Split]) -> bool:
    """Whether a split has clusters."""
    return any(split.cluster is not None for split in splits.values())


def fill_clusters(splits: Mapping[str, Split], first: int = 0) -> dict[str, Split]:
    """Return splits that all have clusters, whose numbers are shifted by `first`.

    Each row of a split without clusters becomes one alone.

    >>> splits = {"a": Split(ids=["1", "2"], cluster=np.array([4, 4])), "b": Split(ids=["3"])}
    >>> [split.cluster.tolist() for split in fill_clusters(splits, 10).values()]
    [[14, 14], [15]]
    """
    free = next_cluster(splits) + first
    filled = {}
    for name, split in splits.items():
        if split.cluster is None:
            numbers: Int64 = number_alone(np.full(len(split), -1), free)
            free += len(split)
        else:
            numbers = split.cluster + first
        filled[name] = replace(split, cluster=numbers)
    return filled


def next_cluster(splits: Mapping[str, Split]) -> int:
    """Return the first number that no cluster of some splits has."""
    largest = [int(split.cluster.max()) for split in splits.values() if split.cluster is not None]
    return max(largest, default=-1) + 1

"""Shuffle what a question asks about, so that nothing is to be found.

The features of a file move to other rows of their split, and with them move neither labels nor ids.
So the labels, the attributes of a table and the partners in another file are those of other images,
and all that goes together among them still does. Rows of one cluster move together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from clipkit.base.matrices import Int64
from clipkit.features.clusters import fill_clusters, has_clusters, next_cluster
from clipkit.features.model import FeatureFile, Split
from clipkit.statistics.dependence import permute

LABELS = "labels"
PAIRS = "pairs"  # what `Analysis.null` calls rows that belong to those of another file


class Shuffle:
    """One shuffle of the files of a question.

    Labels and attributes belong to ids. So each file that has the same ids, such as an untrained
    control, is shuffled alike. If the question is about pairs of files, each has its own shuffle.

    Parameters
    ----------
    null : str
        What is shuffled; see `Analysis`.
    seed : tuple of int
    clusters : dict of str to (N,) int64 array, optional
        By split, in place of those of the first file.
    """

    def __init__(
        self, null: str, seed: tuple[int, ...], clusters: Mapping[str, Int64] | None = None
    ) -> None:
        self.random = np.random.default_rng(seed)
        self._is_shared = null != PAIRS
        self._clusters = clusters or {}
        self._donors: dict[str, dict[str, str]] = {}  # by split and id, the id of the features

    def values(self, files: Mapping[str, Any]) -> dict[str, Any]:
        """Return feature files, or lists of them, with shuffled rows."""
        shuffled = {}
        for name, value in files.items():
            several = isinstance(value, list)
            shuffled[name] = list(map(self.file, value)) if several else self.file(value)
        return shuffled

    def file(self, file: FeatureFile | None) -> FeatureFile | None:
        """Return a file, whose features are in memory, with shuffled rows."""
        if file is None:
            return None
        splits = dict(file.splits)
        for name, split in file.splits.items():
            if split.features is not None:  # those of results are predictions
                order = self._order(name, split)
                splits[name] = replace(split, features=split.features[order])
        return replace(file, splits=splits)

    def exchange(self, first: FeatureFile, second: FeatureFile) -> tuple[FeatureFile, FeatureFile]:
        """Return two files, whose features are in memory, with the rows of both shuffled.

        A row of a file may receive the features of any row of the other one.
        """
        files = first, second
        is_clustered = has_clusters(first.splits) or has_clusters(second.splits)
        joined: dict[str, Split] = {}
        for number, file in enumerate(files):
            splits = file.splits
            if is_clustered:
                splits = fill_clusters(splits, next_cluster(joined))
            joined |= {f"{number}/{name}": split for name, split in splits.items()}
        rows = np.concatenate([split.features for split in joined.values()])
        named = [split.cluster for split in joined.values() if split.cluster is not None]
        rows = rows[permute(self.random, len(rows), np.concatenate(named) if named else None)]
        shuffled = []
        for file in files:
            splits = {}
            for name, split in file.splits.items():
                splits[name] = replace(split, features=rows[: len(split)])
                rows = rows[len(split) :]
            shuffled.append(replace(file, splits=splits))
        return shuffled[0], shuffled[1]

    def _order(self, name: str, split: Split) -> Int64:
        """Return for each row (N,) of a split the row whose features it receives."""
        donors = self._donors.get(name)
        if self._is_shared and donors is not None and donors.keys() == set(split.ids):
            rows = {row_id: row for row, row_id in enumerate(split.ids)}
            return np.array([rows[donors[row_id]] for row_id in split.ids], np.int64)
        clusters = self._clusters.get(name, split.cluster)
        if clusters is not None and len(clusters) != len(split):  # of another file
            clusters = split.cluster
        order = permute(self.random, len(split), clusters)
        received = [split.ids[row] for row in order.tolist()]
        self._donors.setdefault(name, dict(zip(split.ids, received, strict=True)))
        return order

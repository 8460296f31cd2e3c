"""Find the images that depend on each other: equal and near ones, and those of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import BlockMatrix, Int64
from clipkit.features.draws import number_in_order
from clipkit.features.matching import coincide_by_chance, hash_rows
from clipkit.features.model import FeatureFile, Split
from clipkit.statistics.dependence import join
from clipkit.statistics.near import near_components


def find_clusters(
    splits: Mapping[str, Split], near: float | None = None, *, no_near: bool = False
) -> dict[str, Int64]:
    """Return the cluster of each row of some splits, if rows depend on each other; else nothing.

    Clusters that splits have are joined with equal images (see `find_copies`), unless `no_near`,
    and with images whose cosine is at least `near`. They keep the order of their numbers, so that
    `clipkit split` draws what `embed --split-off` draws.
    """
    sources: list[Int64] = []
    named = [split.cluster for split in splits.values() if split.cluster is not None]
    if named:
        sources.append(np.concatenate(named))
        why = "by the clusters of the data set"
    copies = {} if no_near else find_copies(splits)
    if copies:
        sources.append(np.concatenate(list(copies.values())))
        why = f"{why} and equal images" if named else "equal ones are clusters"
    if near is not None:
        sources.append(_find_near(splits, near))
        those = f"those with cosines of at least {near:g}"
        why = f"{why} and {those}" if named else f"{those} are clusters"
    if not sources:
        return {}
    numbers = np.unique(_number_joined(sources), return_inverse=True)[1]
    total, independent = len(numbers), int(numbers.max()) + 1
    if near is not None and independent == 1:
        raise ClipkitError(
            f"--near {near:g}: expected at least 2 clusters of images, got 1",
            "give a larger cosine, or leave --near out",
        )
    if independent == total:
        return {}
    console.note(f"{total:,} images, {independent:,} independent: {why}")
    return _divide(splits, numbers)


def mark_near(file: FeatureFile, near: float) -> FeatureFile:
    """Write near images, with cosines of at least `near`, as clusters of a file that was imported.

    The last entry of the history keeps `near`.
    """
    if file.kind != "images":
        raise UsageError(f"--near is for images, and {file.display_name} has {file.kind}")
    for name, numbers in find_clusters(file.splits, near).items():
        file.splits[name].cluster = numbers
    file.history[-1]["near"] = near
    return file


def _find_near(splits: Mapping[str, Split], near: float) -> Int64:
    """Return the cluster (N,) of the rows of all splits by their cosines."""
    rows = BlockMatrix.join(split.features for split in splits.values())
    with console.progress("finding near images", "pairs") as report:
        return near_components(rows, near, report)


def _number_joined(sources: Sequence[Int64]) -> Int64:
    """Join clusterings (N,); each of the joined clusters has its lowest number of the first."""
    joined = join(sources)
    lowest = np.full(int(joined.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(lowest, joined, sources[0])
    return lowest[joined]


def _divide(splits: Mapping[str, Split], numbers: Int64) -> dict[str, Int64]:
    """Return the part (N,) of the numbers of all rows that belongs to each split."""
    ends = np.cumsum([len(split) for split in splits.values()])[:-1]
    return dict(zip(splits, np.split(numbers, ends), strict=True))


def find_copies(splits: Mapping[str, Split]) -> dict[str, Int64]:
    """Return the number of each distinct row of some splits, if rows are equal to the bit.

    Equal images have equal embeddings, in whichever split they are. So may different images in a
    layer that sees little of them: nothing is returned if all rows are equal, or if equal ones may
    be expected by chance (see `matching.coincide_by_chance`).
    """
    hashes = {name: hash_rows(split.features) for name, split in splits.items()}
    numbers = number_in_order(np.concatenate(list(hashes.values())))
    total, independent = len(numbers), int(numbers.max()) + 1
    if independent in (1, total):
        return {}
    some = next(BlockMatrix.from_array(next(iter(splits.values())).features).iter_blocks())
    if coincide_by_chance(some, total * (total - 1) // 2):
        return {}
    return _divide(splits, numbers)

"""Find the images that a data set has several times, by their embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clipkit.base import console
from clipkit.base.matrices import BlockMatrix, Int64
from clipkit.features.matching import coincide_by_chance, hash_rows
from clipkit.features.model import Split


def find_copies(splits: Mapping[str, Split]) -> dict[str, Int64]:
    """Return the cluster of each row of some splits, if rows are equal to the bit; else nothing.

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
    console.note(f"{total:,} images, {independent:,} independent: equal ones are clusters")
    ends = np.cumsum([len(of_split) for of_split in hashes.values()])[:-1]
    return dict(zip(hashes, np.split(numbers, ends), strict=True))

"""Load a data set by name or from a folder: images, labels and ids in a fixed order, per split.

Ids are unique in a split. An image is decoded when it is asked for. To add a data set, write a
function from a root (or None) to a `Dataset` in `registry.py` and name it in `REGISTRY`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clipkit.datasets.dataset import Dataset, ImageDataset, describe_splits
from clipkit.datasets.folders import read_folder
from clipkit.datasets.images import escape
from clipkit.datasets.registry import REGISTRY
from clipkit.errors import ClipkitError, UsageError, unknown

__all__ = ["REGISTRY", "Dataset", "ImageDataset", "load", "read_folder"]


def load(
    name: str | Path,
    *,
    root: str | Path | None = None,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    classes: int | None = None,
    seed: int = 42,
) -> Dataset:
    """Load a data set by its name, or a folder of images by its path.

    Parameters
    ----------
    name : str or Path
        A name of `REGISTRY`, or else a folder (see `read_folder`).
    root : str or Path, optional
        The folder that holds a named data set or that it is downloaded to;
        `registry.cache_folder()` by default.
    splits : sequence of str, optional
        Only these splits; all by default.
    limit : int, optional
        At most so many rows per split: a seeded draw, balanced by class, in the order of the data
        set. A smaller limit selects a subset.
    classes : int, optional
        A seeded draw of so many classes, renumbered in their order. (The thesis takes 100 of the
        200 of Tiny ImageNet.)
    seed : int
        For `limit` and `classes`.

    Returns
    -------
    Dataset
        Its `details` hold the `name`, what the data set adds, a `draw` with `limit`, `classes` and
        `seed` where rows were drawn, and `splits`: for each, the number of `images` and as `rows`
        the SHA-256 of ids and labels.

    Raises
    ------
    UsageError
        If the name or a split is unknown, `limit` or `classes` is out of range, or a `root` is
        given with a folder.
    ClipkitError
        If the files are missing and cannot be downloaded, or are not valid.

    Examples
    --------
    >>> test = load("digits", limit=20).splits["test"]
    >>> len(test), test.image(0).size
    (20, (8, 8))
    """
    data = _find(name, root)
    draw: dict[str, int] = {}
    if splits is not None:
        data = data.select_splits(splits)
    if classes is not None:
        data = data.draw_classes(classes, seed)
        draw |= {"classes": classes, "seed": seed}
    if limit is not None:
        data = data.draw_rows(limit, seed)
        draw |= {"limit": limit, "seed": seed}
    details = {"name": data.name, **data.details}
    if draw:
        details["draw"] = draw
    details["splits"] = describe_splits(data.splits)
    return replace(data, details=details)


def _find(name: str | Path, root: str | Path | None) -> Dataset:
    if isinstance(name, str) and name in REGISTRY:
        return REGISTRY[name](None if root is None else Path(root).expanduser())
    is_missing = not os.path.lexists(name)
    if is_missing and Path(name).suffix:
        raise ClipkitError(f"cannot read {escape(str(name))}: there is no such file or folder")
    is_bare = isinstance(name, str) and "/" not in name and os.sep not in name
    if is_bare and is_missing:
        raise unknown("data set", str(name), REGISTRY)
    path = Path(name).expanduser()
    if root is not None:
        raise UsageError(
            f"root: expected a named data set, got the folder {escape(str(path))}",
            "leave --root out",
        )
    return read_folder(path)

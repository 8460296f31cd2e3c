"""Load a data set by name or from files: images, labels and ids in a fixed order, per split.

Ids are unique in a split. An image is decoded when it is asked for. To add a data set, write a
function from a root (or None) to a `Dataset` in `registry.py` and name it in `REGISTRY`. To add a
form of files, write a function from names to a `Dataset` and add it to `sources.SOURCES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clipkit.base import console
from clipkit.base.csv_rows import is_no_value
from clipkit.datasets.dataset import Dataset, ImageDataset, describe_splits
from clipkit.datasets.folders import read_folder
from clipkit.datasets.manifests import names_images, read_manifest
from clipkit.datasets.registry import REGISTRY
from clipkit.datasets.sources import SourceOptions, read_source

__all__ = [
    "REGISTRY",
    "Dataset",
    "ImageDataset",
    "load",
    "names_images",
    "read_folder",
    "read_manifest",
]


def load(  # noqa: PLR0913 (the options of `clipkit embed`)
    name: str | Path | Sequence[str | Path],
    *,
    root: str | Path | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    classes: int | None = None,
    seed: int = 42,
) -> Dataset:
    """Load a data set by its name, or from files.

    Parameters
    ----------
    name : str, Path or sequence of them
        A name of `REGISTRY`; ``-`` for a list of paths on standard input (`manifests.read_list`); a
        manifest (`read_manifest`); tars (`tars.read_tars`) or Parquet files with images
        (`hf_parquet.read_parquet`), also several and at URLs; or images and folders
        (`read_folder`), also several.
    root : str or Path, optional
        The folder that holds a named data set or that it is downloaded to;
        `registry.cache_folder()` by default.
    path_column, label_column, split_column : str, optional
        The columns of a manifest; `path`, `label` and `split` by default.
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
        If the name or a split is unknown, `limit` or `classes` is out of range, or a `root` or a
        column is given with a form of data set that has none.
    ClipkitError
        If the files are missing and cannot be downloaded, or are not valid.

    Examples
    --------
    >>> test = load("digits", limit=20).splits["test"]
    >>> len(test), test.image(0).size
    (20, (8, 8))
    """
    names = [name] if isinstance(name, str | Path) else list(name)
    data = read_source(names, SourceOptions(root, path_column, label_column, split_column))
    console.note_spellings(data.name, data.class_names)
    for name in filter(is_no_value, data.class_names):
        console.note(f"{data.name}: {name!r} is a class; hint: leave cells without a label empty")
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

"""A data set's name -> its images, labels and ids in a fixed order, per split.

A name of `REGISTRY` wins; anything else that holds a path separator or is a folder is read as a folder of images. Row
order is fixed, every row has an id that is unique in its split, and an image is decoded when it is asked for.

Another data set is a function from a root (or None) to a `Dataset` in `datasets/sources.py`, and a line in `REGISTRY`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from clipkit.datasets import images, sources
from clipkit.datasets.dataset import Dataset, Split, from_files
from clipkit.errors import ClipkitError, UsageError, unknown

__all__ = ["REGISTRY", "Dataset", "Split", "folder", "load"]

SPLITS = ("train", "val", "valid", "validation", "test")


def load(
    name: str | Path,
    *,
    root: str | Path | None = None,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    classes: int | None = None,
    seed: int = 42,
) -> Dataset:
    """A data set by its name, or a folder of images by its path.

    Parameters
    ----------
    name : str or Path
        A name of `REGISTRY`, or a folder (see `folder`).
    root : str or Path, optional
        Where a named data set's files lie or are downloaded to; `sources.cache()` by default.
    splits : sequence of str, optional
        Only these splits; all by default.
    limit : int, optional
        At most so many rows a split: a seeded draw, as even over the classes as their sizes allow, in the data set's
        order. A smaller limit's rows are among a larger one's.
    classes : int, optional
        A seeded draw of so many classes, renumbered in their order (the thesis takes 100 of Tiny ImageNet's 200).
    seed : int
        For `limit` and `classes`.

    Returns
    -------
    Dataset
        Its `details` hold `name`; what the data set itself has to say; where rows were drawn, a `draw` with `limit`,
        `classes` and `seed`; and `splits`: of each, the number of `images` and `rows`, the SHA-256 of ids and labels.

    Raises
    ------
    UsageError
        Unknown name or split; `limit` or `classes` out of range; `root` given with a folder.
    ClipkitError
        The files are absent and cannot be downloaded, or are not what they must be.

    Examples
    --------
    >>> digits = load("digits", limit=20)
    >>> {split: len(rows) for split, rows in digits.splits.items()}, digits.splits["test"].image(0).size
    ({'train': 20, 'test': 20}, (8, 8))
    """
    data = _find(name, root)
    if splits is not None:
        data = data.only(splits)
    if classes is not None:
        data = data.draw_classes(classes, seed)
    if limit is not None:
        data = data.draw_rows(limit, seed)
    told = {
        split: {"images": len(rows), "rows": rows.digest()} for split, rows in data.splits.items()
    }
    return Dataset(
        data.name,
        data.class_names,
        data.splits,
        {"name": data.name, **data.details, "splits": told},
    )


def _find(name: str | Path, root: str | Path | None) -> Dataset:
    if isinstance(name, str) and name in REGISTRY:
        return REGISTRY[name](None if root is None else Path(root).expanduser())
    path = Path(name).expanduser()
    if (
        isinstance(name, str)
        and "/" not in name
        and os.sep not in name
        and not os.path.lexists(name)
    ):
        raise unknown("data set", name, REGISTRY)
    if root is not None:
        where = images.escape(str(path))
        raise UsageError(
            f"a root goes with a named data set; got the folder {where}", "leave --root out"
        )
    return folder(path)


def folder(path: Path) -> Dataset:
    """A folder of images.

    - Class folders: every folder in it is a class and must hold an image, at any depth. One split, `all`.
    - Splits: folders named train, val (valid, validation) or test with class folders or images in them; whatever else
      lies beside them is passed over. Classes are the union over the splits.
    - Flat: image files and nothing else. One split, `all`, or those above, without labels.

    Classes are sorted, and within a class the files, by code point. Hidden files, files that do not end as images do,
    and links to folders inside a class are passed over.

    Raises
    ------
    ClipkitError
        There is no such folder, or no image in it, or in one of its class folders; or images lie beside class folders.
    """
    if not path.is_dir():
        raise ClipkitError(
            f"a data set must be a folder of images; {images.escape(str(path))} is not a folder"
        )
    below = images.subfolders(str(path))
    named = {split: below[split] for split in SPLITS if split in below}
    if not named or (len(named) < len(below) and not any(map(images.subfolders, named.values()))):
        named = {"all": str(path)}  # a class may be called "train"
    found = {split: _by_class(where) for split, where in named.items()}
    class_names = sorted({name for by_class in found.values() for name in by_class} - {""})
    number = {name: i for i, name in enumerate(class_names)}
    splits = {}
    for split, by_class in found.items():
        rows = [(file, name) for name in sorted(by_class) for file in by_class[name]]
        labels = None if "" in by_class else [number[name] for _, name in rows]
        splits[split] = from_files([file for file, _ in rows], labels)
    return Dataset(images.escape(path.resolve().name), class_names, splits)


def _by_class(path: str) -> dict[str, list[tuple[str, str]]]:
    """Each class's (id, path) pairs; of the class "" where the images have no class."""
    loose = images.find(path, deep=False)
    found = {
        name: [(f"{name}/{file}", where) for file, where in images.find(below)]
        for name, below in images.subfolders(path).items()
    }
    filled = [name for name, files in found.items() if files]
    if loose and filled:
        message = f"{images.escape(path)} must hold images or class folders; it holds both: {loose[0][0]} and {filled[0]}/"
        raise ClipkitError(message, "move the images that lie beside the class folders")
    if not loose and not filled:
        message = (
            f"{images.escape(path)} must hold images or class folders of images; it holds none"
        )
        raise ClipkitError(message, f"image files end in {' '.join(images.SUFFIXES)}")
    for name, files in found.items():
        if filled and not files:
            message = (
                f"every class folder must hold an image; {images.escape(path)}/{name} holds none"
            )
            raise ClipkitError(message, "fill that folder or remove it")
    return found if filled else {"": loose}


REGISTRY: dict[str, Callable[[Path | None], Dataset]] = {
    "cifar10": sources.cifar10,
    "cifar100": sources.cifar100,
    "food101": sources.food101,
    "imagenette": sources.imagenette,
    "tiny-imagenet": sources.tiny_imagenet,
    "fashion-mnist": sources.fashion_mnist,
    "digits": sources.digits,
    "shapes": sources.shapes,
}

"""Read a folder of images as a data set.

torchvision's `ImageFolder` knows one layout, has no ids and follows links that run in circles.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from clipkit.datasets.dataset import Dataset, ImageDataset
from clipkit.datasets.images import escape
from clipkit.errors import ClipkitError

SPLITS = ("train", "val", "valid", "validation", "test")
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
UNLABELLED = ""  # the class of images that lie in no class folder

IdAndPath = tuple[str, str]


def read_folder(path: Path) -> Dataset:
    """Read a folder of images in one of three layouts.

    Class folders: every folder is a class and holds an image, at any depth. The split is `all`.
    Splits: folders named train, val (valid, validation) or test hold class folders or images. All
    else next to them is ignored. Classes are the union over the splits.
    Flat: images and no class folders, in the folder or in a split. There are no labels.

    Classes, and the files of a class, are sorted by code point. Hidden files, files without the
    suffix of an image and links to folders inside a class are ignored.

    Raises
    ------
    ClipkitError
        If there is no such folder, it or a class folder holds no image, or images are next to class
        folders.
    """
    where = escape(str(path))
    if path.is_file():
        raise ClipkitError(f"expected a folder of images, got the file {where}")
    if not path.is_dir():
        raise ClipkitError(f"cannot read {where}: there is no such folder")
    files: dict[str, dict[str, list[IdAndPath]]] = {}
    class_names: set[str] = set()
    for split, folder in _split_folders(str(path)).items():
        files[split] = _files_by_class(folder)
        class_names.update(files[split])
    classes = sorted(class_names - {UNLABELLED})
    number = {name: i for i, name in enumerate(classes)}
    splits = {split: _to_dataset(by_class, number) for split, by_class in files.items()}
    return Dataset(escape(path.resolve().name), classes, splits)


def _split_folders(path: str) -> dict[str, str]:
    """Return the folder of each split: the whole folder is `all` where none is named as a split."""
    folders = subfolders(path)
    splits = {name: folders[name] for name in SPLITS if name in folders}
    if splits and len(splits) == len(folders):
        return splits
    # Beside other folders, "train" is a split only if it holds folders: a class may be called so.
    if any(subfolders(folder) for folder in splits.values()):
        return splits
    return {"all": path}


def _files_by_class(path: str) -> dict[str, list[IdAndPath]]:
    """Return the images of each class folder, or of `UNLABELLED` in a flat folder."""
    where = escape(path)
    unlabelled = find_images(path, deep=False)
    by_class = {}
    for name, folder in subfolders(path).items():
        by_class[name] = find_images(folder, prefix=f"{name}/")
    filled = [name for name, files in by_class.items() if files]
    empty = [name for name, files in by_class.items() if not files]
    if unlabelled and filled:
        raise ClipkitError(
            f"{where}: expected images or class folders, got both: "
            f"{unlabelled[0][0]} and {filled[0]}/",
            "move the images that are next to the class folders",
        )
    if unlabelled:
        return {UNLABELLED: unlabelled}
    if not filled:
        raise ClipkitError(
            f"{where}: expected images or class folders of images, got none",
            f"image files end in {' '.join(SUFFIXES)}",
        )
    if empty:
        raise ClipkitError(
            f"{where}/{empty[0]}: expected an image in every class folder, got none",
            "add images to that folder or remove it",
        )
    return by_class


def _to_dataset(by_class: Mapping[str, list[IdAndPath]], number: Mapping[str, int]) -> ImageDataset:
    if UNLABELLED in by_class:
        return ImageDataset.from_files(by_class[UNLABELLED], None)
    files: list[IdAndPath] = []
    labels: list[int] = []
    for name in sorted(by_class):
        files += by_class[name]
        labels += [number[name]] * len(by_class[name])
    return ImageDataset.from_files(files, labels)


def find_images(folder: str, *, prefix: str = "", deep: bool = True) -> list[IdAndPath]:
    """Find the image files in a folder, sorted by id.

    Files are recognised by their suffix and not opened: a broken link or an empty file is reported
    when its image is read. If `deep`, the folders below are searched too, but links to folders are
    not followed, since they may run in circles. An id is `prefix` and the escaped path from
    `folder`, with "/".
    """
    files = []
    pending = [(folder, prefix)]
    while pending:
        path, start = pending.pop()
        for entry in _entries(path):
            name = start + escape(entry.name)
            if entry.name.lower().endswith(SUFFIXES) and not _is_folder(entry, links=True):
                files.append((name, entry.path))
            elif deep and _is_folder(entry, links=False):
                pending.append((entry.path, f"{name}/"))
    return sorted(files)


def subfolders(folder: str) -> dict[str, str]:
    """Return the folders in a folder, name to path, sorted by name.

    Links are followed, except to a folder that holds the link.
    """
    real = os.path.realpath(folder)
    folders = {}
    for entry in _entries(folder):
        if not _is_folder(entry, links=True):
            continue
        if entry.is_symlink() and _holds(os.path.realpath(entry.path), real):
            continue
        folders[escape(entry.name)] = entry.path
    return dict(sorted(folders.items()))


def _holds(folder: str, path: str) -> bool:
    return os.path.commonpath([folder, path]) == folder


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield what a folder holds, except hidden names, in the order of the system."""
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                if not entry.name.startswith(".") and entry.name != "__MACOSX":
                    yield entry
    except OSError as error:
        raise ClipkitError(f"cannot read {escape(folder)}: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str], *, links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=links)
    except OSError:  # a link to itself
        return False

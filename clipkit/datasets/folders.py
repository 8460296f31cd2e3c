"""Read images and folders of images as a data set.

torchvision's `ImageFolder` knows one layout, has no ids and follows links that run in circles.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clipkit.base import console, suggestions
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.files import expand_user, file_kind
from clipkit.base.matrices import Int64
from clipkit.base.names import escape, find_repeat, positions
from clipkit.datasets.dataset import SPLIT_NAMES, Dataset, ImageDataset, ImageFiles, split_name
from clipkit.datasets.images import installation_hint, readable_suffixes
from clipkit.datasets.wordnet import FILE_NAMES, find_class_index, rename_classes

UNLABELLED = ""  # the class of images that lie in no class folder
NO_ENDING = "no ending"
LISTED_ENDINGS = 8  # of files that are left out

IdAndPath = tuple[str, str]
FilesByClass = dict[str, list[IdAndPath]]


@dataclass
class _Tree:
    """The image files of the arguments, by split and then by class or `UNLABELLED`."""

    # an entry for each argument that holds images of the split
    splits: dict[str, list[FilesByClass]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)  # files by an ending of no image
    index_folders: list[str] = field(default_factory=list)  # where a class index may be


def read_folder(path: str | os.PathLike[str]) -> Dataset:
    """Read a folder of images in one of three layouts.

    Class folders: every folder is a class and holds an image, at any depth. The split is `all`.
    Splits: folders named train, val (or valid, validation) or test hold class folders or images.
    All else next to them is ignored. Classes are the union over the splits.
    Flat: images and no class folders, in the folder or in a split. There are no labels.

    Classes, and the files of a class, are sorted by code point. Class folders that are called by
    their WordNet ids get the names of a `class_index.json` in the folder, a split or the folder
    above. Hidden files, files without the suffix of an image and links to folders inside a class
    are ignored. Files that are left out because of their suffix are counted in one message.

    Raises
    ------
    ClipkitError
        If there is no such folder, it or a class folder holds no image, images are next to class
        folders, or the class index is damaged.
    """
    path = Path(path)
    _check_folder(path)
    tree = _Tree()
    _add_folder(tree, str(path), "")
    return _to_dataset(tree, escape(path.resolve().name))


def _check_folder(path: Path) -> None:
    """Refuse what is no folder, and say what it is."""
    where = escape(str(path))
    kind = file_kind(path)
    if kind == "nothing":
        raise ClipkitError(f"cannot read {where}: there is no such folder")
    if kind != "folder":
        hint = f"if it lists paths: clipkit embed - < {suggestions.command(path)}"
        what = {"file": "file", "stream": "FIFO or device"}[kind]
        raise ClipkitError(f"expected a folder of images, got the {what} {where}", hint)


def read_images(names: Sequence[str]) -> Dataset:
    """Read images and folders of images as one data set.

    A single folder is read by `read_folder`. With several, an image is in the split `all`, and
    each folder has the splits and classes that it has alone. An id is the path as it is given,
    without "./" at its start, and without the folder of the split. A split has no labels if images
    in it have none.

    Raises
    ------
    UsageError
        If an image occurs twice.
    ClipkitError
        If a file is no image by its suffix and there is no other image, or as in `read_folder`.

    Warns
    -----
    On standard error: if labels are dropped.
    """
    paths = [expand_user(name) for name in names]
    if len(paths) == 1 and not paths[0].is_file():
        return read_folder(paths[0])
    tree = _Tree()
    for name, path in zip(names, paths, strict=True):
        row_id = escape(name.removeprefix("./"))
        if path.is_dir():
            prefix = "" if row_id in ("", ".") else f"{row_id.rstrip('/')}/"
            _add_folder(tree, str(path), prefix)
        elif name.lower().endswith(readable_suffixes()):
            by_class = {UNLABELLED: [(row_id, str(path))]}
            tree.splits.setdefault("all", []).append(by_class)
        else:
            if not path.is_file():
                _check_folder(path)
            tree.left_out[_ending(path.name)] += 1
    if not tree.splits:
        raise _no_images(names[0], tree.left_out)
    name = escape(paths[0].resolve().name)
    if len(names) > 1:
        name += f" and {len(names) - 1:,} more"
    return _to_dataset(tree, name)


def _no_images(name: str, left_out: Counter[str]) -> ClipkitError:
    """Return the error for files of which none is an image; `name` is the first."""
    hint = _endings_hint(left_out)
    if name.endswith(".txt"):
        hint = "texts are for textembed; if it lists paths: "
        hint += f"clipkit embed - < {suggestions.command(name)}"
    elif name.endswith(".json"):
        hint = f"to embed texts: clipkit textembed {suggestions.command(name)}"
    elif name.endswith(".h5"):
        hint = f"it holds embeddings; describe it by: clipkit info {suggestions.command(name)}"
    message = f"expected an image or a folder of images, got the file {escape(name)}"
    return ClipkitError(message, hint)


def _add_folder(tree: _Tree, path: str, prefix: str) -> None:
    split_folders = _split_folders(path)
    for split, folder in split_folders.items():
        by_class = _files_by_class(folder, prefix, tree.left_out)
        tree.splits.setdefault(split, []).append(by_class)
    folders = [path, *split_folders.values(), str(Path(path).resolve().parent)]
    tree.index_folders += dict.fromkeys(folders)


def _split_folders(path: str) -> dict[str, str]:
    """Return the folder of each split: the whole folder is `all` where none is named as a split."""
    folders = subfolders(path)
    used = [name for name in folders if split_name(name) in SPLIT_NAMES]
    # Beside other folders, "train" is a split only if it holds folders: a class may be called so.
    if len(used) < len(folders) and not any(subfolders(folders[name]) for name in used):
        return {"all": path}
    splits = {}
    for known in SPLIT_NAMES:
        named = [name for name in used if split_name(name) == known]
        if named:
            splits[known] = folders[named[0]]
        if len(named) > 1:
            raise ClipkitError(
                f"{escape(path)}: expected one folder for the split {known}, "
                f"got {' and '.join(named)}",
                "rename or move one of them",
            )
    return splits or {"all": path}


def _files_by_class(path: str, prefix: str, left_out: Counter[str]) -> FilesByClass:
    """Return the images of each class folder, or of `UNLABELLED` in a flat folder."""
    where = escape(path)
    unlabelled = find_images(path, prefix=prefix, deep=False, left_out=left_out)
    by_class: FilesByClass = {}
    empty: list[str] = []
    for name, folder in subfolders(path).items():
        found = find_images(folder, prefix=f"{prefix}{name}/", left_out=left_out)
        if found:
            by_class[name] = found
        else:
            empty.append(name)
    if unlabelled and by_class:
        image, _ = unlabelled[0]
        both = f"{image.removeprefix(prefix)} and {next(iter(by_class))}/"
        raise ClipkitError(
            f"{where}: expected images or class folders, got both: {both}",
            "move the images that are next to the class folders",
        )
    if unlabelled:
        return {UNLABELLED: unlabelled}
    if not by_class:
        raise ClipkitError(
            f"{where}: expected images or class folders of images, got none",
            _endings_hint(left_out),
        )
    if empty:
        raise ClipkitError(
            f"{where}/{empty[0]}: expected an image in every class folder, got none",
            "add images to that folder or remove it",
        )
    return by_class


def _to_dataset(tree: _Tree, name: str) -> Dataset:
    """Make a data set: number the classes, and join the files of each split."""
    folder_names: set[str] = set()
    for parts in tree.splits.values():
        if not any(UNLABELLED in by_class for by_class in parts):
            folder_names.update(*parts)
    classes = sorted(folder_names)
    number = positions(classes)
    splits = {split: _join(split, parts, number) for split, parts in tree.splits.items()}
    class_names, details = rename_classes(classes, lambda: find_class_index(tree.index_folders))
    _report_left_out(tree.left_out)
    return Dataset(name, class_names, splits, details)


def _join(split: str, parts: Sequence[FilesByClass], number: Mapping[str, int]) -> ImageDataset:
    """Join the files of a split, class by class within each argument."""
    unlabelled = [by_class[UNLABELLED] for by_class in parts if UNLABELLED in by_class]
    if unlabelled and len(unlabelled) < len(parts):
        example, _ = unlabelled[0][0]
        console.warn(f"{split}: labels are dropped, because {example} has none")
    ids: list[str] = []
    paths: list[str] = []
    labels: list[int] = []
    for by_class in parts:
        for name in sorted(by_class):
            for row_id, path in by_class[name]:
                ids.append(row_id)
                paths.append(path)
            if not unlabelled:
                labels += [number[name]] * len(by_class[name])
    repeat = find_repeat(ids)
    if repeat:
        row_id = ids[repeat[0]]
        message = f"expected each image once, got {row_id} {ids.count(row_id)} times"
        raise UsageError(message, "name each file and folder once")
    numbers: Int64 | None = None if unlabelled else np.array(labels, np.int64)
    return ImageDataset(ids, numbers, ImageFiles(paths))


def _report_left_out(left_out: Mapping[str, int]) -> None:
    """Count the files that were left out because of their ending, in one line."""
    if not left_out:
        return
    total = console.count(sum(left_out.values()), "file")
    text = f"left out {total}: {_list_endings(left_out)}"
    hint = installation_hint(left_out)
    if hint:
        console.warn(f"{text}; hint: {hint}")
    else:
        console.note(text)


def _list_endings(left_out: Mapping[str, int]) -> str:
    """Return the endings with their counts, the most frequent first.

    >>> _list_endings({".txt": 1, ".heic": 4})
    '.heic 4, .txt 1'
    """
    ranked = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{ending} {count:,}" for ending, count in ranked[:LISTED_ENDINGS]]
    others = sum(count for _, count in ranked[LISTED_ENDINGS:])
    if others:
        listed.append(f"others {others:,}")
    return ", ".join(listed)


def _endings_hint(left_out: Mapping[str, int]) -> str:
    """Return a hint for a folder without images."""
    hint = installation_hint(left_out)
    if hint:
        return f"to read its {_list_endings(left_out)}: {hint}"
    return f"image files end in {' '.join(readable_suffixes())}"


def _ending(name: str) -> str:
    return escape(Path(name).suffix.lower()) or NO_ENDING


def find_images(
    folder: str, *, prefix: str = "", deep: bool = True, left_out: Counter[str] | None = None
) -> list[IdAndPath]:
    """Find the image files in a folder, sorted by id.

    Files are recognised by their suffix and not opened: a broken link or an empty file is reported
    when its image is read. If `deep`, the folders below are searched too, but links to folders are
    not followed, since they may run in circles. An id is `prefix` and the escaped path from
    `folder`, with "/". Files that are left out because of their suffix are counted in `left_out`.
    """
    suffixes = readable_suffixes()
    files = []
    for path, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if deep and _is_visible(name)]
        start = prefix
        before = os.path.join(path, "")  # noqa: PTH118 (with a slash at its end)
        if path != folder:
            start += f"{escape(os.path.relpath(path, folder))}/"
        for name in filter(_is_visible, names):
            if name.lower().endswith(suffixes):
                files.append((start + escape(name), before + name))
            elif left_out is not None and name not in FILE_NAMES:
                left_out[_ending(name)] += 1
    return sorted(files)


def subfolders(folder: str) -> dict[str, str]:
    """Return the folders in a folder, name to path, sorted by name.

    Links are followed, except to a folder that holds the link.
    """
    real = os.path.realpath(folder)
    folders = {}
    _, names, _ = next(os.walk(folder, onerror=_refuse))
    for name in filter(_is_visible, names):
        path = os.path.join(folder, name)  # noqa: PTH118
        target = os.path.realpath(path)
        holds_link = os.path.commonpath([target, real]) == target
        if not (holds_link and Path(path).is_symlink()):
            folders[escape(name)] = path
    return dict(sorted(folders.items()))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _refuse(error: OSError) -> None:
    raise ClipkitError(f"cannot read {escape(str(error.filename))}: {error.strerror}") from error

"""Give the rows of a data set in several files their ids, labels and class names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clipkit import console
from clipkit.datasets.dataset import ImageDataset
from clipkit.datasets.images import escape
from clipkit.errors import ClipkitError
from clipkit.features import Int64
from clipkit.features.validation import MAX_CLASSES

NO_LABEL = -1

_INTEGER = re.compile(r"[0-9]{1,9}")


def labels_from_texts(
    codes: Mapping[str, NDArray[np.int32] | Int64],
    texts: Sequence[str],
    names_of_integers: Callable[[], list[str] | None],
    where: str,
) -> tuple[dict[str, Int64], list[str]]:
    """Return labels and class names where a label is written as an integer or as a name.

    Parameters
    ----------
    codes : dict of str to (N,) array of integers
        Per split, the number in `texts` of each row's label, or `NO_LABEL`.
    texts : sequence of str
        The distinct labels.
    names_of_integers : callable
        Returns the class names of integers, or None if there are none.
    where : str
        What errors call the data.

    Returns
    -------
    labels : dict of str to (N,) int64 array
        Indices into the class names, or `NO_LABEL`.
    class_names : list of str
        Sorted where the labels are names.

    Raises
    ------
    ClipkitError
        If both integers and names occur, or an integer has no name.
    """
    if not texts:
        return {split: numbers.astype(np.int64) for split, numbers in codes.items()}, []
    integers = [text for text in texts if _INTEGER.fullmatch(text)]
    if len(integers) == len(texts):
        values = np.array([int(text) for text in texts] + [NO_LABEL], np.int64)
        labels = {split: values[numbers] for split, numbers in codes.items()}
        return labels, class_names_up_to(values, names_of_integers(), where)
    if integers:
        name = next(text for text in texts if not _INTEGER.fullmatch(text))
        both = f"{integers[0]} and {name[:80]!r}"
        raise ClipkitError(f"{where}: expected integers or names as labels, got both: {both}")
    class_names = sorted(set(texts))
    number = {name: label for label, name in enumerate(class_names)}
    values = np.array([number[text] for text in texts] + [NO_LABEL], np.int64)
    labels = {split: values[numbers] for split, numbers in codes.items()}
    return labels, [escape(name) for name in class_names]


def class_names_up_to(values: Int64, names: list[str] | None, where: str) -> list[str]:
    """Return the class names that integers index: the integers themselves without names.

    Raises
    ------
    ClipkitError
        If an integer has no name, or is too large.
    """
    largest = int(values.max())
    if names is not None:
        if largest >= len(names):
            raise ClipkitError(
                f"{where}: expected labels below {len(names)}, the number of class names, "
                f"got {largest}"
            )
        return names
    if largest >= MAX_CLASSES:
        raise ClipkitError(f"{where}: expected labels below {MAX_CLASSES:,}, got {largest}")
    return [str(label) for label in range(largest + 1)]


def attach_labels(
    splits: Mapping[str, ImageDataset], labels: Mapping[str, Int64]
) -> dict[str, ImageDataset]:
    """Return splits with labels. A split without any label is unlabelled.

    In a split that has labels, rows without one are left out, with a warning.
    """
    labelled = {}
    for name, split in splits.items():
        rows = np.flatnonzero(labels[name] != NO_LABEL)
        if not len(rows):
            labelled[name] = replace(split, labels=None)
            continue
        missing = len(split) - len(rows)
        if missing:
            first = split.ids[int(np.flatnonzero(labels[name] == NO_LABEL)[0])]
            console.warn(f"{name}: left out {missing:,} images without a label, first {first}")
            split = split.take(rows)
        labelled[name] = replace(split, labels=labels[name][rows])
    return labelled


def has_duplicates(ids: Sequence[str]) -> bool:
    """Whether an id occurs twice. It takes 8 bytes for each, a set takes about 60."""
    hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any()) and len(set(ids)) < len(ids)


def unique_ids(
    ids: list[str], file_of: NDArray[np.int32], prefixes: Sequence[str]
) -> tuple[list[str], Int64]:
    """Return unique ids, and the rows (N,) that have them.

    Parameters
    ----------
    ids : list of str
    file_of : (N,) int32 array
        The number of each row's file.
    prefixes : sequence of str
        What is put before all ids, by the number of the file, if an id occurs twice. Of rows that
        still have the same id, the first one stays.
    """
    if has_duplicates(ids):
        ids = [f"{prefixes[file]}/{name}" for name, file in zip(ids, file_of, strict=True)]
    rows = np.arange(len(ids))
    if has_duplicates(ids):
        first: dict[str, int] = {}
        for row, name in enumerate(ids):
            first.setdefault(name, row)
        rows = np.array(list(first.values()), np.int64)
        ids = list(first)
    return ids, rows

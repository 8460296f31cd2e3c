"""Give the rows of a data set in several files their ids, labels and class names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clipkit import console
from clipkit.datasets.class_index import escape_text
from clipkit.datasets.dataset import ImageDataset
from clipkit.errors import ClipkitError
from clipkit.features import Int64

NO_LABEL = -1

WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]{0,18}))(?:\.0)?")  # a table of floats has 3.0


class LabelCodes(dict[str, int]):
    """The codes of distinct labels: 0, 1, 2, ... in the order in which they first occur."""

    def code(self, label: str | None) -> int:
        """Return the code of a label, a new one for a new label, or `NO_LABEL` for none."""
        if not label:
            return NO_LABEL
        return self.setdefault(label, len(self))

    def recode(self, codes: NDArray[np.int32] | Int64, labels: Iterable[str]) -> NDArray[np.int32]:
        """Return the codes (N,) of rows whose `codes` (N,) number other `labels`."""
        table = np.array([*map(self.code, labels), NO_LABEL], np.int32)  # NO_LABEL, -1, is the last
        return table[codes]


def no_names() -> list[str] | None:
    """Return no class names."""
    return None


def number_labels(
    labels: Collection[str],
    place_of: Callable[[str], str],
    names_of_numbers: Callable[[], list[str] | None] = no_names,
) -> tuple[list[str], dict[str, int]]:
    """Return the class names, and the class of each label: the rule for every source.

    If all labels are whole numbers and the classes have names, they are the numbers of the classes.
    Otherwise all are names. Names that are whole numbers are sorted as numbers, so that 0..n-1 are
    the numbers of their classes, too, and a gap is no class.

    Parameters
    ----------
    labels : collection of str
        The distinct labels.
    place_of : callable
        Returns what an error calls the place of a label.
    names_of_numbers : callable
        Returns the class names if the labels are numbers, or None if there are none.

    Returns
    -------
    class_names : list of str
        Names are sorted by code point, as class folders are.
    number_of : dict of str to int

    Raises
    ------
    ClipkitError
        If a number is negative or has no name.
    """
    matches = [WHOLE_NUMBER.fullmatch(label) for label in labels]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) < len(labels):
        name_of = {label: escape_text(label) for label in labels}
        class_names = sorted(set(name_of.values()))
        number_of = {name: number for number, name in enumerate(class_names)}
        return class_names, {label: number_of[name] for label, name in name_of.items()}
    if not numbers:
        return [], {}
    names = names_of_numbers()
    for label, number in zip(labels, numbers, strict=True):
        if number < 0:
            raise ClipkitError(f"{place_of(label)}: expected a label from 0, got {label}")
        if names is not None and number >= len(names):
            expected = f"a label from 0 to {len(names) - 1:,}, since there are {len(names):,} class"
            raise ClipkitError(f"{place_of(label)}: expected {expected} names, got {label}")
    if names is None:
        distinct, ranks = np.unique(numbers, return_inverse=True)
        names, numbers = list(map(str, distinct.tolist())), ranks.tolist()
    return names, dict(zip(labels, numbers, strict=True))


def labels_from_texts(
    codes: Mapping[str, NDArray[np.int32] | Int64],
    texts: Collection[str],
    place_of: Callable[[str], str],
    names_of_numbers: Callable[[], list[str] | None] = no_names,
) -> tuple[dict[str, Int64], list[str]]:
    """Return labels and class names where each row has the number of a text.

    Parameters
    ----------
    codes : dict of str to (N,) array of integers
        Per split, the number in `texts` of each row's label, or `NO_LABEL`.
    texts : collection of str
        The distinct labels, in the order of their numbers.
    place_of, names_of_numbers : callable
        See `number_labels`.

    Returns
    -------
    labels : dict of str to (N,) int64 array
        Indices into the class names, or `NO_LABEL`.
    class_names : list of str
    """
    class_names, number_of = number_labels(texts, place_of, names_of_numbers)
    values = np.array([number_of[text] for text in texts] + [NO_LABEL], np.int64)
    return {split: values[numbers] for split, numbers in codes.items()}, class_names


def attach_labels(
    splits: Mapping[str, ImageDataset], labels: Mapping[str, Int64]
) -> dict[str, ImageDataset]:
    """Return splits with labels. A split without any label is unlabelled.

    In a split that has labels, rows without one are left out, with a warning.
    """
    labelled = {}
    for name, split in splits.items():
        its = labels[name]
        missing = np.flatnonzero(its == NO_LABEL)
        if len(missing) == len(split):
            labelled[name] = replace(split, labels=None)
            continue
        if len(missing):
            first = split.ids[int(missing[0])]
            count = f"{len(missing):,} images without a label, first {first}"
            if len(missing) == 1:
                count = f"1 image without a label ({first})"
            console.warn(f"{name}: left out {count}")
            rows = np.flatnonzero(its != NO_LABEL)
            split = split.take(rows)
            its = its[rows]
        labelled[name] = replace(split, labels=its)
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

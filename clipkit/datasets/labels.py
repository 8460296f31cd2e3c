"""Labels as texts -> the names of classes and their numbers: one rule for every source."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.base.matrices import Int64
from clipkit.base.names import escape_text, positions

NO_LABEL = -1

WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]{0,18}))(?:\.0)?")  # a table of floats has 3.0


class NamedClasses(NamedTuple):
    """The names of the classes 0, 1, 2, ... and the file that gives them."""

    names: list[str]
    file: str = ""  # "" where the data themselves name their classes


class LabelCodes(dict[str, int]):
    """The codes of distinct labels: 0, 1, 2, ... in the order in which they first occur."""

    def code(self, label: str | None) -> int:
        """Return the code of a label, a new one for a new label, or `NO_LABEL` for none."""
        if not label:
            return NO_LABEL
        return self.setdefault(label, len(self))

    def recode(self, codes: NDArray[np.int32] | Int64, labels: Iterable[str]) -> NDArray[np.int32]:
        """Return the codes (N,) of rows that have `codes` (N,) of other `labels`."""
        table = np.array([*map(self.code, labels), NO_LABEL], np.int32)  # NO_LABEL, -1, is the last
        return table[codes]


def number_labels(
    labels: Collection[str],
    place_of: Callable[[str], str],
    names_of_numbers: Callable[[], NamedClasses | None] = lambda: None,
) -> tuple[list[str], dict[str, int]]:
    """Return the class names, and the class of each label: the rule for every source.

    If all labels are whole numbers and the classes have names, they are the numbers of the classes.
    Otherwise all are names. Names that are whole numbers are sorted as numbers, so that 0..n-1 are
    the numbers of their classes, too, and a gap is no class.

    `labels` are distinct. `place_of` returns what an error calls the place of one, and
    `names_of_numbers` the class names where labels are numbers, or None. Names are sorted by code
    point, as class folders are. A file that names more classes than the labels have is warned
    about: a part of a data set may lack classes.
    """
    matches = [WHOLE_NUMBER.fullmatch(label) for label in labels]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) < len(labels):
        return _number_names(labels)
    if not numbers:
        return [], {}
    number_of = dict(zip(labels, numbers, strict=True))
    lowest = min(number_of, key=number_of.__getitem__)
    highest = max(number_of, key=number_of.__getitem__)
    if number_of[lowest] < 0:
        raise ClipkitError(f"{place_of(lowest)}: expected a label from 0, got {lowest}")
    classes = names_of_numbers()
    if classes is None:
        distinct, ranks = np.unique(numbers, return_inverse=True)
        return list(map(str, distinct.tolist())), dict(zip(labels, ranks.tolist(), strict=True))
    _check_named(classes, number_of, place_of, highest)
    return classes.names, number_of


def _number_names(labels: Collection[str]) -> tuple[list[str], dict[str, int]]:
    """Return the class names, sorted, and the class of each label."""
    name_of = {label: escape_text(label) for label in labels}
    class_names = sorted(set(name_of.values()))
    number_of = positions(class_names)
    return class_names, {label: number_of[name] for label, name in name_of.items()}


def _check_named(
    classes: NamedClasses,
    number_of: Mapping[str, int],
    place_of: Callable[[str], str],
    highest: str,
) -> None:
    """Refuse a number without a name, and warn of names that no label has."""
    last = len(classes.names) - 1
    named_by = f"{classes.file or 'the file'} names {last + 1:,} classes"
    if number_of[highest] > last:
        expected = f"a label from 0 to {last:,}, since {named_by}"
        raise ClipkitError(f"{place_of(highest)}: expected {expected}, got {highest}")
    if number_of[highest] < last and classes.file:
        console.warn(f"{named_by}, but no label is above {highest}; hint: check that file")

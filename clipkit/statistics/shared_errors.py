"""What errors have in common: one value of an attribute taken for another, in many classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clipkit.base.matrices import Floats, Int64

DRAWS = 999
MOST_P = 0.025  # so that a sentence is said of at most so many worlds without anything to say
SEED = 42


class SharedError(NamedTuple):
    """A value of an attribute that is taken for another one.

    Attributes
    ----------
    attribute, true, predicted : str
    images : int
        Images of the one value that are predicted as the other.
    of : int
        Images of the one value.
    errors : int
        Of all images.
    classes_with, classes : int
        Classes of the one value with such an error, and all of them.
    """

    attribute: str
    true: str
    predicted: str
    images: int
    of: int
    errors: int
    classes_with: int
    classes: int


def shared_error(
    counts: ArrayLike, values: Mapping[str, Sequence[str]], seed: int = SEED
) -> SharedError | None:
    """Return the change of a value that most errors share, if independent errors share fewer.

    The classes change places: each permutation gives the values of a class to another one, and the
    largest change of all attributes is counted again. Errors that know nothing of an attribute
    share as many in a permutation. The largest of all is compared with the largest, so that the
    number of attributes and values does not matter.

    Parameters
    ----------
    counts : array (C, C) int
        Images of true class i predicted as class j.
    values : mapping of str to sequence of C str
        The value that each class has of an attribute.

    Returns
    -------
    SharedError or None
        None without errors, or if more than 2.5 % of permutations share as many.

    >>> counts = np.full((6, 6), 2) + 20 * np.eye(6, dtype=int)
    >>> shared_error(counts, {"colour": ["red", "blue"] * 3}) is None
    True
    """
    matrix = np.asarray(counts, np.float64)
    errors = matrix * (1 - np.eye(len(matrix)))
    if not errors.any():
        return None
    codes = {}
    for name, of_classes in values.items():
        distinct, code = np.unique(np.asarray(of_classes), return_inverse=True)
        if 1 < len(distinct) < len(code):  # a value of its own for each class says nothing new
            codes[name] = distinct, code
    if not codes:
        return None
    found: tuple[float, str, int, int] = (0.0, "", 0, 0)
    for name, (_, code) in codes.items():
        changes = _changes(errors, code)
        place = np.unravel_index(int(changes.argmax()), changes.shape)
        if changes[place] > found[0]:
            found = float(changes[place]), name, int(place[0]), int(place[1])
    largest, name, true, predicted = found
    if not name:
        return None
    rng = np.random.default_rng(seed)
    reached = 0
    for _ in range(DRAWS):
        order = rng.permutation(len(errors))
        drawn = max(float(_changes(errors, code[order]).max()) for _, code in codes.values())
        reached += drawn >= largest
    if (1 + reached) / (1 + DRAWS) > MOST_P:
        return None
    distinct, code = codes[name]
    rows, columns = code == true, code == predicted
    with_errors = errors[rows][:, columns].sum(axis=1) > 0
    return SharedError(
        name,
        str(distinct[true]),
        str(distinct[predicted]),
        round(largest),
        round(float(matrix[rows].sum())),
        round(float(errors.sum())),
        int(with_errors.sum()),
        int(rows.sum()),
    )


def _changes(errors: Floats, code: Int64) -> Floats:
    """Return the errors (C, C) by the values of classes (V, V), without those that keep a value."""
    n = int(code.max()) + 1
    by_value = np.zeros((len(code), n))
    by_value[np.arange(len(code)), code] = 1
    changes = by_value.T @ errors @ by_value
    np.fill_diagonal(changes, 0)
    return changes


def words_of_names(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the words of class names by their place, if all names have as many.

    A place counts if a word there is in several names.

    >>> words_of_names(["red box", "red ball", "blue box", "blue ball"])
    {'word 1': ['red', 'red', 'blue', 'blue'], 'word 2': ['box', 'ball', 'box', 'ball']}
    >>> words_of_names(["cat", "dog"]), words_of_names(["cat", "guinea pig"])
    ({}, {})
    """
    words = [name.replace("_", " ").split() for name in names]
    if len({len(of_name) for of_name in words}) != 1 or len(words[0]) < 2:
        return {}
    found = {}
    for number, at_place in enumerate(zip(*words, strict=True), 1):
        if 1 < len(set(at_place)) < len(at_place):
            found[f"word {number}"] = list(at_place)
    return found

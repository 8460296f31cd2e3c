"""What errors have in common: one value of an attribute taken for another, in many classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clipkit.base.matrices import Floats, Int64
from clipkit.statistics.dependence import p_of

DRAWS = 999
MOST_P = 0.025  # so that a sentence is said of at most so many worlds without anything to say
SEED = 42
ROUNDING = 1e-12  # difference of equal shares


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


class Changes(NamedTuple):
    """The largest change of a value of one attribute, and how often permutations reach it.

    `p` is the share of permutations in which the largest change of any attribute has as many
    images.
    """

    error: SharedError
    p: float


class Kept(NamedTuple):
    """The share of errors that keep the value of an attribute, and in permutations.

    `chance` is the mean of the permutations, and `p` two-sided.
    """

    share: float
    chance: float
    p: float


def code_values(values: Mapping[str, Sequence[str]]) -> dict[str, tuple[list[str], Int64]]:
    """Return the distinct values of each attribute, and the place (C,) of each class's value.

    An attribute with one value, or with a value of its own for each class, says nothing.
    """
    codes = {}
    for name, of_classes in values.items():
        distinct, code = np.unique(np.asarray(of_classes), return_inverse=True)
        if 1 < len(distinct) < len(code):
            codes[name] = distinct.tolist(), code
    return codes


def kept_values(
    counts: ArrayLike, values: Mapping[str, Sequence[str]], seed: int = SEED
) -> dict[str, Kept]:
    """Return how many errors keep the value of each attribute, against permuted values of classes.

    All errors of a class move together, so that images which depend on each other need no further
    care.

    >>> counts = 20 * np.eye(4, dtype=int)
    >>> counts[0, 2] = counts[1, 3] = 5
    >>> kept = kept_values(counts, {"shape": ["box", "ball", "box", "ball"]})
    >>> kept["shape"].share, round(kept["shape"].chance, 1)
    (1.0, 0.3)
    """
    errors = _errors(counts)
    total = float(errors.sum())
    if not total:
        return {}
    orders = _orders(len(errors), seed)
    found = {}
    for name, (_, code) in code_values(values).items():
        share = _kept(errors, code) / total
        drawn = np.array([_kept(errors, code[order]) for order in orders]) / total
        above, below = p_of(drawn, share, ROUNDING), p_of(-drawn, -share, ROUNDING)
        found[name] = Kept(float(share), float(drawn.mean()), min(1.0, 2 * min(above, below)))
    return found


def _kept(errors: Floats, code: Int64) -> float:
    """Return the number of errors (C, C) between classes of one value."""
    return float(errors[code[:, None] == code].sum())


def largest_changes(
    counts: ArrayLike, values: Mapping[str, Sequence[str]], seed: int = SEED
) -> dict[str, Changes]:
    """Return the change of a value that most errors share, for each attribute with any.

    The classes change places: each permutation gives the values of a class to another one, and the
    largest change of all attributes is counted again. Errors that know nothing of an attribute
    share as many in a permutation. Each change is compared with the largest of all, so that the
    number of attributes and values does not matter.

    Parameters
    ----------
    counts : array (C, C) int
        Images of true class i predicted as class j.
    values : mapping of str to sequence of C str
        The value that each class has of an attribute.
    """
    matrix, errors, codes = np.asarray(counts, np.float64), _errors(counts), code_values(values)
    if not codes or not errors.any():
        return {}
    drawn = np.zeros(DRAWS)
    for draw, order in enumerate(_orders(len(errors), seed)):
        drawn[draw] = max(float(_changes(errors, code[order]).max()) for _, code in codes.values())
    found = {}
    for name, (distinct, code) in codes.items():
        changes = _changes(errors, code)
        true, predicted = map(int, np.unravel_index(int(changes.argmax()), changes.shape))
        images = float(changes[true, predicted])
        if not images:
            continue
        rows = code == true
        with_errors = errors[rows][:, code == predicted].sum(axis=1) > 0
        error = SharedError(
            name,
            str(distinct[true]),
            str(distinct[predicted]),
            round(images),
            round(float(matrix[rows].sum())),
            round(float(errors.sum())),
            int(with_errors.sum()),
            int(rows.sum()),
        )
        found[name] = Changes(error, p_of(drawn, images))
    return found


def shared_error(
    counts: ArrayLike, values: Mapping[str, Sequence[str]], seed: int = SEED
) -> SharedError | None:
    """Return the largest of `largest_changes`, if independent errors share fewer.

    It is None without errors, or if more than 2.5 % of permutations share as many.

    >>> counts = np.full((6, 6), 2) + 20 * np.eye(6, dtype=int)
    >>> shared_error(counts, {"colour": ["red", "blue"] * 3}) is None
    True
    """
    found = largest_changes(counts, values, seed)
    if not found:
        return None
    largest = max(found.values(), key=lambda change: change.error.images)
    return largest.error if largest.p <= MOST_P else None


def _orders(n_classes: int, seed: int) -> list[Int64]:
    """Return permutations (C,) of the classes, the same for each statistic."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(n_classes) for _ in range(DRAWS)]


def _errors(counts: ArrayLike) -> Floats:
    """Return the counts (C, C) without those of right predictions."""
    matrix = np.asarray(counts, np.float64)
    return matrix * (1 - np.eye(len(matrix)))


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

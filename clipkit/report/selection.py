"""Choose images for an album: errors, what only the result gets right, and some of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipkit.features import Int64
from clipkit.report.predictions import Bools, Floats, Names

IMAGES_PER_CLASS = 3  # of the worst classes


def select_rows(
    true: Names | None,
    predicted: Names,
    scores: Floats,
    control_is_right: Bools | None,
    limit: int,
    worst: Sequence[str] = (),
) -> Int64:
    """Choose rows for an album, in its order.

    All rows are chosen if there are at most `limit`. Otherwise, up to an eighth are three images of
    each of the `worst` classes. Half are the most confident other errors, and up to a quarter the
    most confident of the images that only the result gets right. The rest are taken in turns from
    all classes, those first that have the fewest yet.

    Parameters
    ----------
    true : array (N,) of str, or None
        Classes; without them, there are no errors, and turns go by `predicted`.
    predicted : array (N,) of str
    scores : array (N,)
        NaN where they are not known.
    control_is_right : array (N,) of bool, or None
    limit : int
    worst : sequence of str
        Classes; those that come first count most.

    Returns
    -------
    array (n,)
        The most confident errors first, then the most confident right predictions. Without labels,
        the least confident predictions come first. Rows with equal scores keep their order.
    """
    confidence = np.nan_to_num(scores, nan=0.0)
    falling = np.argsort(-confidence, kind="stable")
    if true is None:
        classes, wrong = predicted, np.zeros(len(predicted), bool)
        order = np.argsort(confidence, kind="stable")
    else:
        classes, wrong = true, true != predicted
        order = falling
    chosen = np.full(len(predicted), limit >= len(predicted))
    if not chosen.all():
        errors_first = np.concatenate([_among(falling, wrong), _among(falling, ~wrong)])
        for name in worst[: limit // (8 * IMAGES_PER_CLASS)]:
            chosen[_among(errors_first, classes == name)[:IMAGES_PER_CLASS]] = True
        chosen[_among(falling, wrong & ~chosen)[: limit // 2]] = True
        if control_is_right is not None:
            only_result = ~wrong & ~control_is_right
            chosen[_among(falling, only_result)[: limit // 4]] = True
        turns = _in_turns(classes, chosen)
        chosen[turns[: limit - chosen.sum()]] = True
    return np.concatenate([_among(order, chosen & wrong), _among(order, chosen & ~wrong)])


def _among(order: Int64, mask: Bools) -> Int64:
    """Return the rows that a mask (N) selects, in the given order of all rows."""
    return order[mask[order]]


def _in_turns(classes: Names, chosen: Bools) -> Int64:
    """Return the rows that are not chosen, in turns; classes with few chosen rows come first."""
    numbers = np.unique(classes, return_inverse=True)[1]
    turn = np.zeros(len(classes), np.int64)
    for number in range(numbers.max() + 1):
        rest = np.flatnonzero((numbers == number) & ~chosen)
        already = ((numbers == number) & chosen).sum()
        turn[rest] = already + np.arange(len(rest))
    rest = np.flatnonzero(~chosen)
    return rest[np.argsort(turn[rest], kind="stable")]

"""Draw rows by a seed: stratified by label, with groups kept together.

scikit-learn's `train_test_split` refuses classes of one row, and its `StratifiedGroupKFold` makes
parts of equal size only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.base.matrices import Int64
from clipkit.base.names import class_name
from clipkit.features.model import is_split_name, number_alone

TRAIN = "train"


class Labelled(Protocol):
    """Rows that may have labels: a split of a feature file or of a data set."""

    @property
    def labels(self) -> Int64 | None:
        """Labels (N,), or None."""

    def __len__(self) -> int: ...


def choose_source(splits: Mapping[str, Labelled], source: str | None, display_name: str) -> str:
    """Return the split to divide: the named one, or the only one, or else `train`."""
    if source is None and len(splits) > 1 and TRAIN not in splits:
        raise UsageError(
            f"{display_name}: expected one split to divide, got {', '.join(splits)}",
            "choose with --from",
        )
    if source is None:
        source = TRAIN if TRAIN in splits else next(iter(splits))
    if source not in splits:
        raise unknown(f"split of {display_name}", source, splits)
    return source


def split_rows(
    splits: Mapping[str, Labelled],
    fractions: Mapping[str, float],
    *,
    source: str,
    seed: int = 42,
    groups: Int64 | None = None,
    class_names: Sequence[str] | None = None,
    display_name: str,
) -> dict[str, Int64]:
    """Draw the rows of new splits from one split, and say how many there are.

    New splits are drawn in the order of their names: ``test`` has the same rows with and
    without ``val``. Of each class, a split gets the nearest whole number of rows, but at least one,
    as long as one is left for the rest. Unlabelled rows count as one class. Groups are assigned as
    a whole: see `assign_groups`; a row with the group -1 is a separate group. Return row numbers,
    ascending, first of the rest, which is called `train` if no other split is.
    """
    rest = source if TRAIN in splits else TRAIN
    others = [name for name in splits if name != source]
    _check_fractions(fractions, [rest, *others])
    names = sorted(fractions)
    labels = splits[source].labels
    if labels is None:
        labels = np.zeros(len(splits[source]), np.int64)
    sizes = [fractions[name] for name in names]
    where = f"{display_name}: {source}"
    if groups is None:
        part = assign_rows(labels, sizes, seed)
    else:
        groups = number_groups(groups, len(sizes) + 1, where)
        part = assign_groups(labels, groups, sizes, seed)
    rows = {name: np.flatnonzero(part == number) for number, name in enumerate([rest, *names])}
    for name, numbers in rows.items():
        if not len(numbers):
            raise ClipkitError(
                f"{where}: expected classes with enough rows for {name}, got at most "
                f"{np.unique(labels, return_counts=True)[1].max()} rows in a class",
                "leave a split out, or add images",
            )
    counts = ", ".join(f"{name} {len(numbers):,}" for name, numbers in rows.items())
    grouped = "" if groups is None else f" in {groups.max() + 1:,} groups"
    console.note(f"{where}: {len(labels):,} rows{grouped} -> {counts}")
    classes = np.unique(labels)
    for name, numbers in rows.items():
        missing = np.setdiff1d(classes, labels[numbers])
        if len(missing):
            console.warn(
                f"{name} lacks {len(missing):,} of {len(classes):,} classes, which have too few "
                f"rows or groups (for example {class_name(class_names, missing[0])})"
            )
    return rows


def _check_fractions(fractions: Mapping[str, float], taken: Sequence[str]) -> None:
    if not fractions:
        raise UsageError("expected a fraction of the rows for a new split, got none", "--test 0.2")
    for name, fraction in fractions.items():
        _check_fraction(name, fraction)
        if not is_split_name(name):
            characters = "up to 100 letters, digits, '.', '_' and '-', and no reserved name"
            raise UsageError(f"name of a split: expected {characters}, got {name!r}")
        if name in taken:
            unused = next(other for other in ("val", "test", "held-out") if other not in taken)
            expected = f"expected a new name for a split, got {name}, which exists"
            raise UsageError(expected, f"choose one that the file lacks, such as {unused}")
    if sum(fractions.values()) >= 1:
        got = " + ".join(f"{fraction:g}" for fraction in fractions.values())
        raise UsageError(f"expected fractions with a sum below 1, got {got}")


def _share(number: float) -> str:
    """Return a percentage as a share, or else an example of one."""
    return f"{number / 100:g}" if 1 < number < 100 else "0.2"


def _check_fraction(name: str, fraction: float) -> None:
    if not 0 < fraction < 1:
        hint = f"write a share: {_share(fraction)}"
        raise UsageError(f"{name}: expected a number between 0 and 1, got {fraction}", hint)


def assign_rows(labels: Int64, fractions: Sequence[float], seed: int = 42) -> Int64:
    """Assign rows to parts by a draw from each class.

    Part n gets the nearest whole number to `fractions[n - 1]` of the rows of each class, but at
    least one, as long as one is left for part 0, the rest. Return the part (N,) of each row.
    """
    rng = np.random.RandomState(seed)  # the same draws in every version of NumPy
    part = np.zeros(len(labels), np.int64)
    for rows_of_class in rows_by_class(labels):
        rows = rng.permutation(rows_of_class)
        start = 0
        for number, fraction in enumerate(fractions, 1):
            count = max(1, round(fraction * len(rows)))
            count = min(count, len(rows) - 1 - start)
            part[rows[start : start + count]] = number
            start += count
    return part


def number_groups(groups: Int64, parts: int, where: str) -> Int64:
    """Assign new numbers to the groups, from 0; a row without a group gets a separate one."""
    alone = np.count_nonzero(groups < 0)
    if alone:
        number = f"{alone:,} of {len(groups):,}"
        console.warn(f"{where}: {number} rows have no group: each is a separate group")
    groups = number_alone(groups, int(groups.max()) + 1)
    numbers = np.asarray(np.unique(groups, return_inverse=True)[1], np.int64)
    count = int(numbers.max()) + 1
    if count < parts:
        raise ClipkitError(f"{where}: expected at least {parts} groups, got {count}")
    return numbers


def number_in_order(values: NDArray[Any]) -> Int64:
    """Return the number (N,) of each distinct value, in the order in which values first occur.

    >>> number_in_order(np.array([7, 5, 7, 9])).tolist()
    [0, 1, 0, 2]
    """
    _, first, index = np.unique(values, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[index], np.int64)


def assign_groups(
    labels: Int64, groups: Int64, fractions: Sequence[float], seed: int = 42
) -> Int64:
    """Assign whole groups to parts, so that each part comes close to its share of each class.

    Groups come in random order, but the larger ones first, by powers of two. Each goes to the part
    where it adds least to the sum of (rows - share)^2 / share over parts and classes. A part that
    then has no group gets the smallest one of the part with the most groups. `groups` (N,) are
    numbered from 0, and there are more than parts. Return the part (N,) of each row.
    """
    shares = np.array([1 - sum(fractions), *fractions])
    _, y, rows_of_class = np.unique(labels, return_inverse=True, return_counts=True)
    goal = shares[:, None] * rows_of_class  # (P + 1, C)
    rows = np.zeros_like(goal)
    members = rows_by_class(groups)
    part_of_group = np.zeros(len(members), np.int64)
    rng = np.random.RandomState(seed)  # the same draws in every version of NumPy
    order = rng.permutation(len(members))
    magnitude = np.log2(np.bincount(groups)).astype(int)
    for group in order[np.argsort(-magnitude[order], kind="stable")]:
        classes, counts = np.unique(y[members[group]], return_counts=True)
        excess = rows[:, classes] - goal[:, classes]
        # (excess + counts)^2 - excess^2 = counts (counts + 2 excess)
        increase = counts * (counts + 2 * excess) / goal[:, classes]
        chosen = np.argmin(increase.sum(axis=1))
        part_of_group[group] = chosen
        rows[chosen, classes] += counts
    for empty in np.setdiff1d(np.arange(len(shares)), part_of_group):
        richest = np.argmax(np.bincount(part_of_group, minlength=len(shares)))
        candidates = np.flatnonzero(part_of_group == richest)
        smallest = np.argmin(np.bincount(groups)[candidates])
        part_of_group[candidates[smallest]] = empty
    return part_of_group[groups]


def stratified_split(labels: Int64, fraction: float, seed: int = 42) -> tuple[Int64, Int64]:
    """Hold out a fraction of the rows of every class.

    Of each class, the nearest whole number of rows is held out, but at least one. A class of a
    single row is not held out.

    Parameters
    ----------
    labels : array (N,)
    fraction : float
        Between 0 and 1, both excluded.
    seed : int

    Returns
    -------
    train_index, val_index : arrays of row numbers, ascending

    Raises
    ------
    UsageError
        If the fraction is not between 0 and 1.
    """
    _check_fraction("fraction", fraction)
    part = assign_rows(labels, [fraction], seed)
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def rows_by_class(labels: Int64) -> list[Int64]:
    """Return the rows of each class that occurs, both ascending."""
    order = np.argsort(labels, kind="stable")
    starts = np.unique(np.asarray(labels)[order], return_index=True)[1]
    return np.split(order, starts[1:])


def replace_split(
    splits: Mapping[str, Any], source: str, parts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return splits, of a feature file or a data set, with the parts of one in its place."""
    replaced: dict[str, Any] = {}
    for name, rows in splits.items():
        if name == source:
            replaced |= parts
        else:
            replaced[name] = rows
    return replaced

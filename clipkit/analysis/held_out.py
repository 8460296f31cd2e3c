"""Choose the rows to fit on, to hold out and to score."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np

from clipkit.analysis.results import Caveat, find_caveats
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import BlockMatrix, Float32, Floats, Int64
from clipkit.features.annotations import Attribute
from clipkit.features.arrays import missing_labels
from clipkit.features.draws import (
    assign_groups,
    number_groups,
    rows_by_class,
    stratified_split,
)
from clipkit.features.matching import (
    choose_splits,
    count_shared_rows,
    hash_rows,
    may_share_rows,
)
from clipkit.features.model import FeatureFile, Split
from clipkit.statistics.dependence import unless_separate

V = TypeVar("V")
FIT_SPLIT, EVAL_SPLIT = "train", "test"  # by default, where a file has them
HELD_OUT = 0.2  # of the rows of a file that has one split
EQUAL = 1e-5  # of the largest number of a row: products of equal rows differ by rounding


def choose_held_out(
    file: FeatureFile, fit_split: str, eval_split: str, val: V
) -> tuple[str, V | float]:
    """Return the split to fit on, and what to hold out of it.

    This is the rule of all commands that fit: if a file has one split and no split is named, a
    fifth of the rows of each class is held out and scored (see `hold_out`).
    """
    if fit_split != FIT_SPLIT or len(file.splits) != 1:
        return fit_split, val
    (split,) = file.splits
    if val is not None or eval_split != EVAL_SPLIT:
        return split, val
    console.warn(
        f"{file.display_name}: of the only split, {split}, {HELD_OUT:.0%} of the rows are held out "
        "and scored"
    )
    return split, HELD_OUT


def labelled_split(file: FeatureFile, name: str) -> Split:
    """Return a split; refuse one that does not exist or has no labels."""
    if name not in file.splits:
        raise ClipkitError(
            f"{file.display_name}: expected a split {name!r}, got {', '.join(file.splits)}",
            "choose with --fit-split and --eval-split, or hold rows out with --val 0.2",
        )
    split = file.splits[name]
    if split.labels is None:
        hint = "embed a folder of class folders"
        raise missing_labels(file, f"{name}: expected labels, got none", hint)
    return split


def distinct_rows(split: Split) -> tuple[Int64, Int64]:
    """Return the rows (n,) that repeat none before them, and which of these each row (N,) equals.

    A row repeats another one of its cluster that has its label and its features. A classifier that
    is fitted on both would take the image to be twice as sure.
    """
    every = np.arange(len(split))
    if split.cluster is None:
        return every, every
    cluster, sizes = np.unique(split.cluster, return_inverse=True, return_counts=True)[1:]
    shared = np.flatnonzero(sizes[cluster] > 1)
    if not len(shared):
        return every, every
    X = BlockMatrix.from_array(split.features).take(shared).read()
    labels = np.zeros(len(split), np.int64) if split.labels is None else split.labels
    # equal rows have one place along any direction, so they are neighbours in its order
    places = X @ np.random.RandomState(0).standard_normal(X.shape[1])
    order = np.lexsort((places, labels[shared], cluster[shared]))
    row, before = order[1:], order[:-1]
    repeats = (cluster[shared[row]] == cluster[shared[before]]) & (
        labels[shared[row]] == labels[shared[before]]
    )
    for number in np.flatnonzero(repeats):
        a, b = X[row[number]], X[before[number]]
        repeats[number] = np.abs(a - b).max() <= EQUAL * np.abs(a).max()
    group = np.concatenate([[0], np.cumsum(~repeats)])
    first = np.full(group[-1] + 1, len(split))
    np.minimum.at(first, group, shared[order])
    equal_to = every.copy()
    equal_to[shared[order]] = first[group]
    rows, place = np.unique(equal_to, return_inverse=True)
    if len(rows) < len(split):
        console.detail(f"{len(split) - len(rows):,} rows repeat others, and are fitted once")
    return rows, place


def hold_out(
    file: FeatureFile, split: str, labels: Int64, fraction: float, seed: int
) -> tuple[str, Int64, Int64]:
    """Hold out a fraction of the rows of each label (N) of a split; see `stratified_split`.

    Clusters of the file stay whole. Return the name of the held-out rows in reports, and the
    ascending row numbers of both parts, without rows that repeat others. At least one class needs
    two rows.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"val: expected a fraction between 0 and 1, got {fraction:g}")
    rows = distinct_rows(file.splits[split])[0]
    clusters = file.splits[split].cluster
    if clusters is not None:
        clusters = unless_separate(clusters[rows])
    if clusters is None:
        train, held_out = stratified_split(labels[rows], fraction, seed)
    else:
        groups = number_groups(clusters, 2, f"{file.display_name}: {split}")
        part = assign_groups(labels[rows], groups, [fraction], seed)
        train, held_out = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    train, held_out = rows[train], rows[held_out]
    if len(held_out) == 0:
        raise ClipkitError(
            f"{file.display_name}: {split}: expected a class with two rows or more to hold out "
            "one, got none",
            "name another split to score",
        )
    name = "val" if "val" not in file.splits else f"{split}-held-out"
    while name in file.splits:
        name += "-2"
    return name, train, held_out


class SplitRows(NamedTuple):
    """Some rows of a split, by their numbers."""

    split: str
    numbers: Int64

    def embeddings(self, file: FeatureFile) -> Float32 | BlockMatrix:
        """Return the embeddings (n, D) of these rows, in the form that a file has them."""
        features: Float32 | BlockMatrix = file.splits[self.split].features
        if isinstance(features, BlockMatrix):
            return features.take(self.numbers)
        # a copy of all rows would take as much memory as the file
        return features if len(self.numbers) == len(features) else features[self.numbers]

    def codes(self, attribute: Attribute) -> Int64:
        """Return the values (n,) of an attribute."""
        return attribute.codes[self.split][self.numbers]

    def with_values(self, attribute: Attribute, values: Int64) -> SplitRows:
        """Return the rows that have one of some values (K,) of an attribute."""
        return SplitRows(self.split, self.numbers[np.isin(self.codes(attribute), values)])


def choose_rows(
    file: FeatureFile, fit_split: str, eval_split: str, seed: int
) -> tuple[FeatureFile, SplitRows, SplitRows]:
    """Return a file with the rows to fit on and to score, by the rule of `choose_held_out`."""
    fit_split, val = choose_held_out(file, fit_split, eval_split, None)
    if val is not None:
        split = file.splits[fit_split]
        labels = np.zeros(len(split), np.int64) if split.labels is None else split.labels
        _, train, held_out = hold_out(file, fit_split, labels, val, seed)
        return file, SplitRows(fit_split, train), SplitRows(fit_split, held_out)
    file, names = choose_splits(file, [fit_split, eval_split])
    scored = SplitRows(names[-1], np.arange(len(file.splits[names[-1]])))
    if len(names) == 1:
        return file, scored, scored
    return file, SplitRows(names[0], distinct_rows(file.splits[names[0]])[0]), scored


def few_shot(labels: Int64, shots: int, seed: int = 42) -> Int64:
    """Draw `shots` rows of every class, all of a smaller one, as ascending row numbers."""
    if shots < 1:
        raise UsageError(f"shots: expected at least 1, got {shots}")
    rng = np.random.RandomState(seed)  # the same draws in every version of NumPy
    drawn = [rng.permutation(rows)[:shots] for rows in rows_by_class(labels)]
    return np.sort(np.concatenate(drawn))


def missing_classes(fit_labels: Int64, eval_labels: Int64) -> Int64:
    """Return the class ids of `eval_labels` that `fit_labels` lacks: no probe can predict them."""
    return np.setdiff1d(eval_labels, fit_labels)


def find_shared(
    kind: str, split: str, rows: Floats | BlockMatrix, scored: Floats | BlockMatrix
) -> list[Caveat]:
    """Warn of scored rows (M, D) of a split that are among other `rows` (N, D); see `find_caveats`.

    `kind` says whether the others were `fitted`, or something was `chosen` with them.
    """
    count = 0
    if may_share_rows(rows, scored):
        count = count_shared_rows(hash_rows(rows), scored)
    return find_caveats(kind, split, count, len(scored))

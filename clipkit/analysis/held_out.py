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

V = TypeVar("V")
FIT_SPLIT, EVAL_SPLIT = "train", "test"  # by default, where a file has them
HELD_OUT = 0.2  # of the rows of a file that has one split


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
        f"{file.display_name} has one split, {split}: {HELD_OUT:.0%} of its rows are held out and "
        "scored"
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


def hold_out(
    file: FeatureFile, split: str, labels: Int64, fraction: float, seed: int
) -> tuple[str, Int64, Int64]:
    """Hold out a fraction of the rows of each label (N) of a split; see `stratified_split`.

    Clusters of the file stay whole. Return the name of the held-out rows in reports, and the
    ascending row numbers of both parts. At least one class needs two rows.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"val: expected a fraction between 0 and 1, got {fraction:g}")
    clusters = file.splits[split].cluster
    if clusters is None:
        train, held_out = stratified_split(labels, fraction, seed)
    else:
        groups = number_groups(clusters, 2, f"{file.display_name}: {split}")
        part = assign_groups(labels, groups, [fraction], seed)
        train, held_out = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
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
    rows = [SplitRows(name, np.arange(len(file.splits[name]))) for name in names]
    return file, rows[0], rows[-1]  # the same object if both splits are one


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

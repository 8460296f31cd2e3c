"""Predict the same rows many times, each time with some columns exchanged between the rows.

Exchanging a column changes the scores of a linear classifier by a product of two vectors: the
differences in that column, and its weights. So no product over all columns is computed again.

An SVM of 100 classes has 4,950 hyperplanes, and nearly all of their votes decide nothing. A class
that beats all others has the most votes, whatever the others do. So a row keeps its class if that
class still beats all others. Only in other rows, the votes that change are looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from clipkit.features import Int64
from clipkit.probes.context import Floats
from clipkit.probes.fitted import Coefficients, FittedProbe, Hyperplanes, MLPWeights

Float32 = NDArray[np.float32]
PredictPermuted = Callable[[Int64, Int64], Int64]

STORED_SCORES = 2**26  # of all rows and hyperplanes: 256 MiB
SCORES_AT_ONCE = 2**18  # that fit into a processor's cache


def permuted_predictor(probe: FittedProbe, X: Floats) -> PredictPermuted:
    """Return a function that predicts rows (N, D) with some columns permuted.

    Probabilities are computed anew from permuted cosines, so that all of a row's probabilities
    change. This and nearest neighbours repeat the whole prediction. Others add what changes.

    Parameters
    ----------
    probe : FittedProbe
    X : array (N, D)
        See `FittedProbe.prepare`.

    Returns
    -------
    callable
        ``predict(columns, order)`` gives the class numbers (N,): positions in `probe.classes`. Each
        of the `columns` (G,) gets the values of the rows `order` (N,). Safe to call from threads.
    """
    if probe.input == "probs" or probe.classifier == "knn":
        return _predict_anew(probe, X)
    prepared = probe.prepare(X)
    model = probe.model
    if isinstance(model, Hyperplanes):
        return PermutedVotes(prepared, model).predict
    if isinstance(model, Coefficients):
        return _add_to_scores(prepared, model)
    assert isinstance(model, MLPWeights)
    return _add_to_units(prepared, model)


def _predict_anew(probe: FittedProbe, X: Floats) -> PredictPermuted:
    def predict(columns: Int64, order: Int64) -> Int64:
        changed = X.copy()
        changed[:, columns] = X[np.ix_(order, columns)]
        return probe.model.predict(probe.prepare(changed))

    return predict


def _differences(X: Floats, columns: Int64, order: Int64) -> Floats:
    """Return what permuting adds to the columns (N, G)."""
    return np.asarray(X[np.ix_(order, columns)] - X[:, columns])


def _add_to_scores(X: Floats, model: Coefficients) -> PredictPermuted:
    scores = model.scores(X)  # (N, n)

    def predict(columns: Int64, order: Int64) -> Int64:
        added = _differences(X, columns, order) @ model.coefficients[columns]
        return np.asarray((scores + added).argmax(axis=1))

    return predict


def _add_to_units(X: Floats, model: MLPWeights) -> PredictPermuted:
    units = X @ model.hidden[:-1] + model.hidden[-1]  # (N, H), before the ReLU

    def predict(columns: Int64, order: Int64) -> Int64:
        changed = units + _differences(X, columns, order) @ model.hidden[columns]
        np.maximum(changed, 0, out=changed)
        scores = changed @ model.output[:-1] + model.output[-1]
        return np.asarray(scores.argmax(axis=1))

    return predict


def pair_numbers(n: int) -> Int64:
    """Return the number (n, n) of the pair that two classes are; 0 for a class and itself.

    >>> pair_numbers(3)
    array([[0, 0, 1],
           [0, 0, 2],
           [1, 2, 0]])
    """
    first, second = np.triu_indices(n, 1)
    numbers = np.zeros((n, n), np.int64)
    numbers[first, second] = np.arange(len(first))
    return numbers + numbers.T


def pair_signs(n: int) -> Float32:
    """Return the sign (n, n) of a pair's score in the margin of each class (row) against another.

    >>> pair_signs(3)
    array([[ 0., -1., -1.],
           [ 1.,  0., -1.],
           [ 1.,  1.,  0.]], dtype=float32)
    """
    classes = np.arange(n, dtype=np.float32)
    return np.asarray(np.sign(classes[:, None] - classes))


class PermutedVotes:
    """The votes of linear SVMs of all pairs of classes, for rows with permuted columns.

    The margin of a class against another is above 0 where the class wins. Of a class against
    itself, it is infinite.

    Parameters
    ----------
    X : array (N, D)
        Prepared rows.
    model : Hyperplanes
    """

    def __init__(self, X: Float32, model: Hyperplanes) -> None:
        self.X = X
        self.normals = np.ascontiguousarray(model.hyperplanes[:, :-1].T)  # (D, pairs)
        self.intercepts = model.hyperplanes[:, -1]
        self.first, self.second = np.triu_indices(model.n_classes, 1)  # the classes of each pair
        self.pairs = pair_numbers(model.n_classes)
        self.signs = pair_signs(model.n_classes)
        self.scores: Float32 | None = None  # (N, pairs)
        if len(X) * len(self.first) <= STORED_SCORES:
            self.scores = self._compute_scores(X)
        self.votes = model._votes(X).T  # (N, n)
        self.winners = self.votes.argmax(axis=1)
        self.margins = self._margins(np.arange(len(X)), self.winners)

    def predict(self, columns: Int64, order: Int64) -> Int64:
        """Return class numbers (N,), the first of equals."""
        added = _differences(self.X, columns, order)
        winners: Int64 = self.winners.copy()
        margins = self.margins + self._changes(columns, added, winners)
        rows = np.flatnonzero(margins.min(axis=1) <= 0)
        for block in self._blocks(rows):
            winners[block] = self._count_votes(block, columns, added[block])
        return winners

    def _pair_scores(self, rows: Int64) -> Float32:
        """Return the scores (M, pairs) of all hyperplanes, without permuted columns."""
        if self.scores is not None:
            return self.scores[rows]
        return self._compute_scores(self.X[rows])

    def _compute_scores(self, X: Float32) -> Float32:
        return np.asarray(X @ self.normals + self.intercepts)

    def _margins(self, rows: Int64, classes: Int64) -> Float32:
        """Return the margins (M, n) of a class for each row, without permuted columns."""
        pairs = self.pairs[classes]
        if self.scores is not None:
            margins = self.scores[rows[:, None], pairs]
        else:
            margins = np.empty(pairs.shape, np.float32)
            for number in np.unique(classes):
                members = classes == number
                own = self.pairs[number]
                products = self.X[rows[members]] @ self.normals[:, own]
                margins[members] = products + self.intercepts[own]
        margins *= self.signs[classes]
        margins[np.arange(len(rows)), classes] = np.inf
        return margins

    def _changes(self, columns: Int64, added: Float32, classes: Int64) -> Float32:
        """Return what the differences (M, G) in the columns add to the margins (M, n)."""
        changes = np.zeros((len(added), len(self.signs)), np.float32)
        for column, difference in zip(columns, added.T, strict=True):
            weights = self.normals[column][self.pairs] * self.signs  # (n, n)
            changes += difference[:, None] * weights[classes]
        return changes

    def _blocks(self, rows: Int64) -> Iterator[Int64]:
        step = max(1, SCORES_AT_ONCE // len(self.first))
        for start in range(0, len(rows), step):
            yield rows[start : start + step]

    def _count_votes(self, rows: Int64, columns: Int64, added: Float32) -> Int64:
        """Return the classes (M,) with the most votes, from the votes that change."""
        scores = self._pair_scores(rows)
        was_first = scores < 0
        # ten times as fast as a matrix product of so few columns
        for column, difference in zip(columns, added.T, strict=True):
            scores += difference[:, None] * self.normals[column]
        is_first = scores < 0
        # twenty times as fast as np.nonzero of a matrix
        flat = np.flatnonzero(is_first != was_first)
        changed, pairs = np.divmod(flat, len(self.first))
        gains = np.where(is_first[changed, pairs], 1, -1)  # of the first class of each pair
        votes = self.votes[rows]
        np.add.at(votes, (changed, self.first[pairs]), gains)
        np.subtract.at(votes, (changed, self.second[pairs]), gains)
        return np.asarray(votes.argmax(axis=1))

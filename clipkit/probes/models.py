"""The models that classifiers fit: arrays of prepared rows, which give each class a score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import combinations, islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipkit.base.matrices import Floats, Int64, row_blocks
from clipkit.probes.preparation import largest_magnitude
from clipkit.statistics.softmax import softmax

PAIRS = 64  # of classes, which vote together
KNN_TEMPERATURE = 0.07  # as in DINOv2's kNN protocol
BLOCK = 2**23  # cosines or units in memory at a time, 32 MiB
TINY = np.finfo(np.float32).tiny

Pair = tuple[int, int]


@dataclass(frozen=True)
class Model:
    """A fitted classifier of n classes, which reads prepared rows of D columns."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """Return the model of a kept probe's arrays. A feature file has checked them."""
        return cls(*(arrays[field.name] for field in fields(cls)))

    def to_arrays(self) -> dict[str, Any]:
        """Return the arrays that a kept probe stores: those of the classifier's record."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def width(self) -> int:
        """D."""
        raise NotImplementedError

    def scores(self, X: Floats) -> Floats:
        """Return the scores (M, n) of the classes for rows (M, D)."""
        raise NotImplementedError

    def predict(self, X: Floats) -> Int64:
        """Return class numbers (M,), each the first of the highest scores."""
        return np.asarray(self.scores(X).argmax(axis=1))

    def confidences(self, scores: Floats) -> Floats:
        """Return scores (M, n) as people read them."""
        return scores

    def weights(self) -> Floats:
        """Return what a unit of each column adds to each class's score (n, D), if it is linear."""
        raise NotImplementedError


@dataclass(frozen=True)
class Hyperplanes(Model):
    """Linear SVMs of all pairs of n classes, which vote.

    `hyperplanes` (n (n - 1) / 2, D + 1) float32 are a normal and an intercept for each pair (0, 1),
    (0, 2), ...; scores of the first class are negative.
    """

    hyperplanes: NDArray[np.float32]
    n_classes: int

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """Return the model of a kept probe's arrays."""
        return cls(arrays["hyperplanes"], len(arrays["classes"]))

    def to_arrays(self) -> dict[str, Any]:
        """Return the hyperplanes."""
        return {"hyperplanes": self.hyperplanes}

    @property
    def width(self) -> int:
        """D."""
        return int(self.hyperplanes.shape[1]) - 1

    def scores(self, X: Floats) -> Floats:
        """Return the votes (M, n) of each class or, of two classes, the margins -s and s."""
        if self.n_classes > 2:
            bound = largest_magnitude(self.hyperplanes) * largest_magnitude(X) * (X.shape[1] + 1)
            if bound > np.finfo(np.float32).max:  # margins may be NaN, which votes would hide
                return np.full((len(X), self.n_classes), np.nan, np.float32)
            return np.asarray(self._votes(X).T, np.float32)
        margins = X @ self.hyperplanes[0, :-1] + self.hyperplanes[0, -1]
        # as in libsvm, a row on the hyperplane belongs to the second class
        return np.column_stack([-margins, np.where(margins == 0, TINY, margins)])

    def predict(self, X: Floats) -> Int64:
        """Return class numbers (M,). The first class wins a tie, as in libsvm."""
        return np.asarray(self._votes(X).argmax(axis=0))

    def _votes(self, X: Floats) -> NDArray[np.int32]:
        votes = np.zeros((self.n_classes, len(X)), dtype=np.int32)
        pairs = combinations(range(self.n_classes), 2)
        for start in range(0, len(self.hyperplanes), PAIRS):
            batch = list(islice(pairs, PAIRS))
            count_votes(votes, batch, self.hyperplanes[start : start + PAIRS], X)
        return votes

    def weights(self) -> Floats:
        """Return the mean normal (n, D) of each class against the others."""
        sums = np.zeros((self.n_classes, self.width))
        pairs = combinations(range(self.n_classes), 2)
        for (i, j), normal in zip(pairs, self.hyperplanes[:, :-1], strict=True):
            sums[i] -= normal
            sums[j] += normal
        return sums / (self.n_classes - 1)


def count_votes(
    votes: NDArray[np.int32], pairs: list[Pair], hyperplanes: Floats, X: Floats
) -> None:
    """Add to `votes` (n, M) what some pairs' hyperplanes (pairs, D + 1) say of `X` (M, D)."""
    scores = hyperplanes[:, :-1] @ X.T + hyperplanes[:, -1:]  # (pairs, M)
    for (i, j), is_first in zip(pairs, scores < 0, strict=True):
        votes[i] += is_first
        votes[j] += ~is_first


@dataclass(frozen=True)
class Coefficients(Model):
    """Multinomial logistic regression: weights of D columns and intercepts (D + 1, n), float64."""

    coefficients: NDArray[np.float64]

    @property
    def width(self) -> int:
        """D."""
        return len(self.coefficients) - 1

    def scores(self, X: Floats) -> Floats:
        """Return the logits (M, n) of the classes."""
        X = X.astype(np.float64, copy=False)
        return np.asarray(X @ self.coefficients[:-1] + self.coefficients[-1])

    def confidences(self, scores: Floats) -> Floats:
        """Return probabilities (M, n), the softmax of the logits."""
        return softmax(scores)

    def weights(self) -> Floats:
        """Return the weight (n, D) of each column for each class."""
        return self.coefficients[:-1].T


@dataclass(frozen=True)
class MLPWeights(Model):
    """A perceptron with one hidden layer of ReLU units.

    The last row of `hidden` (D + 1, H) and `output` (H + 1, n) holds the intercepts.
    """

    hidden: NDArray[np.float32]
    output: NDArray[np.float32]

    @property
    def width(self) -> int:
        """D."""
        return len(self.hidden) - 1

    def scores(self, X: Floats) -> Floats:
        """Return the logits (M, n) of the classes."""
        scores = []
        for block in row_blocks(X, BLOCK * X.shape[1] // self.hidden.shape[1]):
            units = block @ self.hidden[:-1] + self.hidden[-1]
            np.maximum(units, 0, out=units)
            scores.append(units @ self.output[:-1] + self.output[-1])
        return np.concatenate(scores)

    def confidences(self, scores: Floats) -> Floats:
        """Return probabilities (M, n), the softmax of the logits."""
        return softmax(scores)


@dataclass(frozen=True)
class Neighbours(Model):
    """The fitted rows (N, D), scaled to length 1, of which the `k` nearest vote."""

    rows: NDArray[np.float32]
    row_classes: Int64
    n_classes: int
    k: int

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """Return the model of a kept probe's arrays."""
        k = int(arrays["neighbours"][0])
        return cls(arrays["rows"], arrays["row_classes"], len(arrays["classes"]), k)

    def to_arrays(self) -> dict[str, Any]:
        """Return the rows, their classes and how many vote."""
        return {
            "rows": self.rows,
            "row_classes": self.row_classes,
            "neighbours": np.array([self.k]),
        }

    @property
    def width(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    def blocks(self, X: Floats) -> Iterable[Floats]:
        """Return the rows of `X`, scaled to length 1, in blocks that bound the memory."""
        return row_blocks(unit_rows(X), BLOCK * X.shape[1] // len(self.rows))

    def vote(self, block: Floats) -> Floats:
        """Return the summed weights (B, n) of each class among the nearest rows of a block."""
        k = min(self.k, len(self.rows))
        cosines = block @ self.rows.T  # (B, N)
        nearest = np.argpartition(cosines, -k, axis=1)[:, -k:]  # (B, k)
        near = np.take_along_axis(cosines, nearest, axis=1)
        weights = np.exp((near - 1) / KNN_TEMPERATURE)
        scores = np.zeros((len(block), self.n_classes))
        np.add.at(scores, (np.arange(len(block))[:, None], self.row_classes[nearest]), weights)
        return scores

    def scores(self, X: Floats) -> Floats:
        """Return the summed weights (M, n) of each class among the nearest rows."""
        votes = [self.vote(block) for block in self.blocks(X)]
        return np.concatenate([np.zeros((0, self.n_classes)), *votes])

    def confidences(self, scores: Floats) -> Floats:
        """Return the shares (M, n) of the neighbours' weights."""
        return np.asarray(scores / np.maximum(scores.sum(axis=1, keepdims=True), TINY))


def unit_rows(rows: Floats) -> Floats:
    """Scale each row (N, D) to length 1. A row of zeros stays."""
    tiny = np.float32(1e-30)
    rows = rows / (np.abs(rows).max(axis=1, keepdims=True) + tiny)  # so that no square overflows
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / (lengths + tiny))

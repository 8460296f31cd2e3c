"""A fitted probe as plain arrays: what `probe --keep` stores and `predict` applies.

The sweep predicts through the same code, so a probe that was kept predicts what the sweep reported.

Read one with `FittedProbe.from_arrays(file.fitted)`, where `file` is a feature file of kind probe,
and apply it to the columns that it was fitted on: ``probe.predict(file.cosines("test").read())``
gives class ids (N,), which are positions in the file's `class_names`. `scores` gives what the
prediction is the argmax of, `confidences` what people read, and `weights` the influence of each
column on each class.

To predict many variants of the same rows, prepare them once: ``Z = probe.prepare(X)`` and then
``probe.classes[probe.model.predict(Z)]``. Each column of Z is a function of the same column of X,
except for probabilities: the softmax mixes the columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clipkit.analysis.softmax import softmax
from clipkit.base.errors import LARGEST, SMALLEST, ClipkitError, UsageError
from clipkit.features.model import Floats, Int64
from clipkit.features.validation import MODEL_ARRAYS

PAIRS = 64  # of classes, which vote together
NEIGHBOURS = 20  # as in DINOv2's kNN protocol
KNN_TEMPERATURE = 0.07  # likewise
KNN_BLOCK = 2**23  # cosines in memory at a time, 32 MiB
TINY = np.finfo(np.float32).tiny

Pair = tuple[int, int]


@dataclass(frozen=True)
class Hyperplanes:
    """Linear SVMs of all pairs of n classes, which vote.

    `hyperplanes` (n (n - 1) / 2, D + 1) float32 are a normal and an intercept for each pair (0, 1),
    (0, 2), ...; scores of the first class are negative.
    """

    hyperplanes: NDArray[np.float32]
    n_classes: int

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
class Coefficients:
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

    def predict(self, X: Floats) -> Int64:
        """Return class numbers (M,)."""
        return np.asarray(self.scores(X).argmax(axis=1))

    def weights(self) -> Floats:
        """Return the weight (n, D) of each column for each class."""
        return self.coefficients[:-1].T


@dataclass(frozen=True)
class MLPWeights:
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
        units = X @ self.hidden[:-1] + self.hidden[-1]
        np.maximum(units, 0, out=units)
        return np.asarray(units @ self.output[:-1] + self.output[-1])

    def predict(self, X: Floats) -> Int64:
        """Return class numbers (M,)."""
        return np.asarray(self.scores(X).argmax(axis=1))


@dataclass(frozen=True)
class Neighbours:
    """The fitted rows (N, D), scaled to length 1, of which the `k` nearest vote."""

    rows: NDArray[np.float32]
    row_classes: Int64
    n_classes: int
    k: int = NEIGHBOURS

    @property
    def width(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    def blocks(self, X: Floats) -> Iterator[Floats]:
        """Yield the rows of `X`, scaled to length 1, in blocks that bound the memory."""
        X = unit_rows(X)
        step = max(1, KNN_BLOCK // len(self.rows))
        for start in range(0, len(X), step):
            yield X[start : start + step]

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

    def predict(self, X: Floats) -> Int64:
        """Return class numbers (M,)."""
        return np.asarray(self.scores(X).argmax(axis=1))


def unit_rows(rows: Floats) -> Floats:
    """Scale each row (N, D) to length 1. A row of zeros stays."""
    tiny = np.float32(1e-30)
    rows = rows / (np.abs(rows).max(axis=1, keepdims=True) + tiny)  # so that no square overflows
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / (lengths + tiny))


Model = Hyperplanes | Coefficients | MLPWeights | Neighbours
# Each takes the arrays of `MODEL_ARRAYS` in their order
MODELS: dict[str, type[Model]] = {
    "svm": Hyperplanes,
    "logreg": Coefficients,
    "mlp": MLPWeights,
    "knn": Neighbours,
}


@dataclass(frozen=True)
class Preparation:
    """What is done to the columns before a model sees them: (x - mean) / deviation - centre, / rms.

    Only standardised features have a mean and a deviation (D,); kNN has no centre.
    """

    mean: Floats | None = None
    deviation: Floats | None = None
    centre: Floats | None = None
    rms: float = 1.0

    def standardize(self, X: Floats) -> Floats:
        """Standardise the columns of `X` (M, D), if the fitted rows were."""
        if self.mean is None or self.deviation is None:
            return X
        return (X.astype(self.mean.dtype, copy=False) - self.mean) / self.deviation

    def apply(self, X: Floats) -> NDArray[np.float32]:
        """Return prepared rows (M, D), or refuse them as `check_magnitude` does."""
        X = self.standardize(X)
        if self.centre is not None:
            check_magnitude(X, 0.0 if self.mean is not None else SMALLEST)
            X = X - self.centre
        return (X / self.rms).astype(np.float32)


def check_magnitude(rows: Floats, smallest: float) -> None:
    """Refuse features so large or small that a fit overflows or never ends."""
    largest = largest_magnitude(rows)
    if largest != 0 and not smallest <= largest <= LARGEST:
        raise ClipkitError(
            f"expected features of magnitude {SMALLEST:g} to {LARGEST:g}, got {largest:.3g}",
            "standardise them: fit with --standardize",
        )


def largest_magnitude(rows: Floats) -> float:
    """Return the largest absolute value of an array, 0 if it is empty."""
    return max(float(rows.max(initial=0)), -float(rows.min(initial=0)))


@dataclass(frozen=True)
class FittedProbe:
    """A fitted classifier, with all that it takes to predict other rows of the same columns.

    Attributes
    ----------
    classifier : {"svm", "logreg", "mlp", "knn"}
    classes : array (n,) int64
        Class ids, ascending. Columns of scores are in this order.
    model : Hyperplanes, Coefficients, MLPWeights or Neighbours
        Its arrays, for prepared rows.
    preparation : Preparation
    factor : float
        Of the MLP: multiplies prepared rows.
    input : {"embeddings", "logits", "probs"}
        What it reads: embeddings of images, cosines, or their softmax at `temperature`.
    temperature : float, optional
        At which logits or probabilities were fitted.
    balanced : bool
        Whether all classes counted alike in the fit.
    row_hashes : array (N,) int64, optional
        Of the fitted rows, as `splitting.hash_rows` gives them.
    """

    classifier: str
    classes: Int64
    model: Model
    preparation: Preparation
    factor: float = 1.0
    input: str = "embeddings"
    temperature: float | None = None
    balanced: bool = False
    row_hashes: Int64 | None = None

    @property
    def width(self) -> int:
        """Number D of the columns that the probe reads."""
        return self.model.width

    @property
    def standardized(self) -> bool:
        """Whether the columns are standardised."""
        return self.preparation.mean is not None

    def prepare(self, X: Floats) -> NDArray[np.float32]:
        """Return the rows that the model reads (M, D).

        X (M, D) are embeddings, or cosines at temperature 1, as `FeatureFile.cosines` gives both.
        Another number of columns, and features that are too large or small, raise `ClipkitError`.
        """
        if X.ndim != 2 or X.shape[1] != self.width:
            raise ClipkitError(f"expected {self.width} columns, got the shape {X.shape}")
        if self.input == "probs":
            X = softmax(X, self.temperature or 1.0)
        prepared = self.preparation.apply(X)
        return prepared if self.factor == 1 else prepared * np.float32(self.factor)

    def scores(self, X: Floats) -> Floats:
        """Return scores (M, n) of rows (M, D); the first of the highest is the prediction.

        `svm` counts votes of pairs of classes; of two classes, scores are the margins -s and s.
        `logreg` and `mlp` give logits, `knn` the summed weights of the nearest rows. Scores that
        are not finite, and rows that `prepare` refuses, raise `ClipkitError`.
        """
        with np.errstate(all="ignore"):
            prepared = self.prepare(X)
            with threadpool_limits(1):  # as in the sweep: more threads may round otherwise
                scores = self.model.scores(prepared)
        if not (np.isfinite(prepared).all() and np.isfinite(scores).all()):
            raise ClipkitError("expected finite scores, got NaN or Inf: the numbers are too large")
        return scores

    def predict(self, X: Floats) -> Int64:
        """Return the class ids (M,) that the probe predicts for rows (M, D); see `prepare`."""
        prepared = self.prepare(X)
        with threadpool_limits(1):
            return np.asarray(self.classes[self.model.predict(prepared)])

    def confidences(self, scores: Floats) -> Floats:
        """Return scores (M, n) as people read them.

        Of `logreg` and `mlp`, these are probabilities (the softmax), of `knn` shares of the
        neighbours' weights. Votes and margins of `svm` stay as they are.
        """
        if self.classifier in ("logreg", "mlp"):
            return softmax(scores)
        if self.classifier == "knn":
            return np.asarray(scores / np.maximum(scores.sum(axis=1, keepdims=True), TINY))
        return scores

    def weights(self) -> Floats:
        """Return how much a unit of each column adds to each class's score (n, D).

        Of `logreg`, the score is the logit; of `svm`, the mean margin against the other classes.
        The unit is a standard deviation if columns are standardised, else 1 (of a cosine, a
        probability or an embedding's coordinate).

        Other classifiers raise `UsageError`.
        """
        if not isinstance(self.model, Hyperplanes | Coefficients):
            raise UsageError(f"expected a linear probe (svm, logreg), got {self.classifier}")
        return np.asarray(self.model.weights() / self.preparation.rms)

    def to_arrays(self) -> dict[str, Any]:
        """Return the arrays that a file holds: see docs/format.md. Texts are lists of one."""
        arrays: dict[str, Any] = {
            "classifier": [self.classifier],
            "input": [self.input],
            "classes": np.asarray(self.classes, np.int64),
            "balanced": np.array([int(self.balanced)]),
            "rms": np.array([self.preparation.rms], np.float64),
            "factor": np.array([self.factor], np.float64),
            "row_hashes": self.row_hashes,
        }
        if self.temperature is not None:
            arrays["temperature"] = np.array([self.temperature], np.float64)
        prepared, model = self.preparation, self.model
        arrays |= {"mean": prepared.mean, "deviation": prepared.deviation}
        arrays["centre"] = prepared.centre
        for name in MODEL_ARRAYS[self.classifier]:
            arrays[name] = getattr(model, name)
        if isinstance(model, Neighbours) and model.k != NEIGHBOURS:
            arrays["neighbours"] = np.array([model.k])
        return {name: value for name, value in arrays.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> FittedProbe:
        """Return the probe of these `to_arrays`. A feature file has checked them."""
        classifier = arrays["classifier"][0]
        parts = [arrays[name] for name in MODEL_ARRAYS[classifier]]
        if classifier in ("svm", "knn"):  # these arrays do not tell the number of classes
            parts.append(len(arrays["classes"]))
        if "neighbours" in arrays:
            parts.append(int(arrays["neighbours"][0]))
        columns = {name: arrays.get(name) for name in ("mean", "deviation", "centre")}
        temperature = arrays.get("temperature")
        return cls(
            classifier,
            arrays["classes"],
            MODELS[classifier](*parts),
            Preparation(**columns, rms=float(arrays["rms"][0])),
            float(arrays["factor"][0]),
            arrays["input"][0],
            None if temperature is None else float(temperature[0]),
            bool(arrays["balanced"][0]),
            arrays.get("row_hashes"),
        )

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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import Floats, Int64
from clipkit.features.history import drop_none
from clipkit.probes import classifiers
from clipkit.probes.models import Model
from clipkit.probes.preparation import Preparation
from clipkit.statistics.softmax import softmax


@dataclass(frozen=True)
class FittedProbe:
    """A fitted classifier, with all that it takes to predict other rows of the same columns.

    Attributes
    ----------
    classifier : str
        Its name.
    classes : array (n,) int64
        Class ids, ascending. Columns of scores are in this order.
    model : Model
        Its arrays, for prepared rows.
    preparation : Preparation
    factor : float
        Multiplies prepared rows, for a classifier to which their scale matters apart from C.
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

        See the model for what its scores are. Scores that are not finite, and rows that `prepare`
        refuses, raise `ClipkitError`.
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
        """Return scores (M, n) as people read them, as the classifier's `score_name` says."""
        return self.model.confidences(scores)

    def weights(self) -> Floats:
        """Return how much a unit of each column adds to each class's score (n, D).

        The score is the logit, or the mean margin against the other classes.
        The unit is a standard deviation if columns are standardised, else 1 (of a cosine, a
        probability or an embedding's coordinate).

        Other classifiers raise `UsageError`.
        """
        if self.classifier not in classifiers.LINEAR:
            linear = ", ".join(classifiers.LINEAR)
            raise UsageError(f"expected a linear probe ({linear}), got {self.classifier}")
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
        for name in ("mean", "deviation", "centre"):
            arrays[name] = getattr(self.preparation, name)
        arrays |= self.model.to_arrays()
        return drop_none(arrays)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> FittedProbe:
        """Return the probe of these `to_arrays`. A feature file has checked them."""
        classifier = arrays["classifier"][0]
        columns = {name: arrays.get(name) for name in ("mean", "deviation", "centre")}
        temperature = arrays.get("temperature")
        return cls(
            classifier,
            arrays["classes"],
            classifiers.find(classifier).read_model(arrays),
            Preparation(**columns, rms=float(arrays["rms"][0])),
            float(arrays["factor"][0]),
            arrays["input"][0],
            None if temperature is None else float(temperature[0]),
            bool(arrays["balanced"][0]),
            arrays.get("row_hashes"),
        )

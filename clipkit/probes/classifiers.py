"""A multilayer perceptron and nearest neighbours.

The perceptron is scikit-learn's. Nearest neighbours are a matrix product and a vote in blocks, so
that threads share the work and it can be cancelled.
"""

from __future__ import annotations

import math

import numpy as np
from sklearn.neural_network import MLPClassifier

from clipkit.features import Int64
from clipkit.probes.context import Floats, Predictions, Setting, SweepContext

HIDDEN = 256  # units of the MLP
BATCH = 200  # rows in a step of Adam
EPOCHS = 40
STEPS = 1000  # the MLP trains for EPOCHS, or for this many steps where that is longer
NEIGHBOURS = 20  # as in DINOv2's kNN protocol
TEMPERATURE = 0.07  # likewise
TINY = np.float32(1e-30)
KNN_BLOCK = 2**23  # cosines in memory at a time, 32 MiB


def mlp(context: SweepContext) -> list[Predictions]:
    """Train one hidden layer of ReLU units by cross-entropy and Adam at a rate of 0.001.

    Training ends after a fixed number of epochs, whether or not the loss still falls.
    """
    rows = len(context.y)
    classes = np.arange(context.n_classes)
    batch = min(BATCH, rows)
    epochs = max(EPOCHS, math.ceil(STEPS * batch / rows))
    report_progress = context.workers.progress(len(context.settings) * epochs)

    def solve(setting: Setting) -> Predictions:
        scale = np.float32(setting.scale)
        alpha = batch / (setting.C * rows)  # scikit-learn divides it by the rows of a batch
        # partial_fit would start a generator anew from a number, and shuffle all epochs alike
        rng = np.random.RandomState(context.seed)
        model = MLPClassifier(HIDDEN, alpha=alpha, batch_size=batch, random_state=rng)
        for _ in range(epochs):
            model.partial_fit(context.X * scale, context.y, classes=classes)
            report_progress(1)
        return Predictions(model.predict(context.X_eval * scale))

    return context.workers.map(solve, context.settings)


def knn(context: SweepContext) -> list[Predictions]:
    """Predict by the nearest rows, weighted by exp(cosine / temperature), as DINOv2 does."""
    X = _unit_rows(context.X)
    X_eval = _unit_rows(context.X_eval)
    k = min(NEIGHBOURS, len(X))
    step = max(1, KNN_BLOCK // len(X))
    blocks = [X_eval[start : start + step] for start in range(0, len(X_eval), step)]
    report_progress = context.workers.progress(len(blocks))

    def vote(block: Floats) -> Int64:
        cosines = block @ X.T  # (B, N)
        nearest = np.argpartition(cosines, -k, axis=1)[:, -k:]  # (B, k)
        weights = np.exp((np.take_along_axis(cosines, nearest, axis=1) - 1) / TEMPERATURE)
        scores = np.zeros((len(block), context.n_classes))
        np.add.at(scores, (np.arange(len(block))[:, None], context.y[nearest]), weights)
        report_progress(1)
        return np.asarray(scores.argmax(axis=1))

    predicted = np.concatenate(context.workers.map(vote, blocks))
    return [Predictions(predicted)] * len(context.settings)  # neither scale nor C matters


def _unit_rows(rows: Floats) -> Floats:
    rows = rows / (np.abs(rows).max(axis=1, keepdims=True) + TINY)  # so that no square overflows
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / (lengths + TINY))  # a row of zeros stays

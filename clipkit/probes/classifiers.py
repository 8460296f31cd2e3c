"""Logistic regression, a multilayer perceptron and nearest neighbours.

The first two are scikit-learn's. Nearest neighbours are a matrix product and a vote in blocks, so
that threads share the work and it can be cancelled.
"""

from __future__ import annotations

import math

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from clipkit.features import Int64
from clipkit.probes.context import Floats, Predictions, Setting, SweepContext

MAX_ITER = 1000  # iterations of L-BFGS
SLICE = 100  # iterations between two reports of progress
HIDDEN = 256  # units of the MLP
BATCH = 200  # rows in a step of Adam
EPOCHS = 20
STEPS = 1000  # the MLP trains for EPOCHS, or for this many steps where that is longer
NEIGHBOURS = 20  # as in DINOv2's kNN protocol
TEMPERATURE = 0.07  # likewise
KNN_BLOCK = 2**23  # cosines in memory at a time, 32 MiB


def logreg(context: SweepContext) -> list[Predictions]:
    """Fit multinomial logistic regression by L-BFGS."""
    slices = MAX_ITER // SLICE
    report_progress = context.workers.progress(len(context.settings) * slices)

    def solve(setting: Setting) -> Predictions:
        model = LogisticRegression(C=setting.C, max_iter=SLICE, warm_start=True)
        for finished in range(slices):
            model.fit(context.X, context.y)  # continues where it stopped
            if model.n_iter_[0] < SLICE:
                report_progress(slices - finished)
                return Predictions(model.predict(context.X_eval))
            report_progress(1)
        return Predictions(model.predict(context.X_eval), converged=False)

    return context.workers.map(solve, context.settings)


def mlp(context: SweepContext) -> list[Predictions]:
    """Train one hidden layer of ReLU units by cross-entropy and Adam at a rate of 0.001."""
    rows = len(context.y)
    classes = np.arange(context.n_classes)
    batch = min(BATCH, rows)
    epochs = max(EPOCHS, math.ceil(STEPS * batch / rows))
    report_progress = context.workers.progress(len(context.settings) * epochs)

    def solve(setting: Setting) -> Predictions:
        scale = np.float32(setting.scale)
        alpha = batch / (setting.C * rows)  # scikit-learn divides it by the rows of a batch
        model = MLPClassifier(HIDDEN, alpha=alpha, batch_size=batch, random_state=context.seed)
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
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12))  # a row of zeros stays

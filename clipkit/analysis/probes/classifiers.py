"""A multilayer perceptron and nearest neighbours.

The perceptron is scikit-learn's. Nearest neighbours are a matrix product and a vote in blocks, so
that threads share the work and it can be cancelled.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from sklearn.neural_network import MLPClassifier

from clipkit.analysis.probes.context import Floats, Predictions, Setting, SweepContext
from clipkit.analysis.probes.fitted import MLPWeights, Neighbours, unit_rows
from clipkit.features import Int64

HIDDEN = 256  # units of the MLP
BATCH = 200  # rows in a step of Adam
EPOCHS = 40
STEPS = 1000  # the MLP trains for EPOCHS, or for this many steps where that is longer


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
        network = MLPClassifier(HIDDEN, alpha=alpha, batch_size=batch, random_state=rng)
        for _ in range(epochs):
            network.partial_fit(context.X * scale, context.y, classes=classes)
            report_progress(1)
        model = MLPWeights(*map(_with_intercepts, network.coefs_, network.intercepts_))
        if context.n_classes == 2:
            # scikit-learn has one output: the score of the second class above that of the first
            output = np.column_stack([np.zeros_like(model.output), model.output])
            model = replace(model, output=output)
        predicted = model.predict(context.X_eval * scale)
        return Predictions(predicted, model=context.kept_model(model))

    return context.workers.map(solve, context.settings)


def _with_intercepts(weights: Floats, intercepts: Floats) -> Floats:
    return np.vstack([weights, intercepts]).astype(np.float32)


def knn(context: SweepContext) -> list[Predictions]:
    """Predict by the nearest rows, weighted by exp(cosine / temperature), as DINOv2 does."""
    model = Neighbours(unit_rows(context.X), context.y, context.n_classes)
    blocks = list(model.blocks(context.X_eval))
    report_progress = context.workers.progress(len(blocks))

    def vote(block: Floats) -> Int64:
        predicted = model.vote(block).argmax(axis=1)
        report_progress(1)
        return np.asarray(predicted)

    predicted = np.concatenate(context.workers.map(vote, blocks))
    # neither scale nor C matters
    return [Predictions(predicted, model=context.kept_model(model))] * len(context.settings)

"""A perceptron with one hidden layer, trained for a fixed number of epochs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from sklearn.neural_network import MLPClassifier

from clipkit.base.matrices import Floats
from clipkit.probes.models import MLPWeights
from clipkit.probes.sweep_context import Setting, Solution, SweepContext
from clipkit.statistics.metrics import best_classes

HIDDEN = 256  # units
BATCH = 200  # rows in a step of Adam
EPOCHS = 40
STEPS = 1000  # it trains for EPOCHS, or for this many steps where that is longer
PEAK_RATE, WARMUP = 0.01, 0.3  # of Adam's one-cycle rate: its highest, after this share of epochs


def mlp(context: SweepContext) -> list[Solution]:
    """Train one hidden layer of ReLU units by cross-entropy and Adam.

    The rate follows one cycle (Smith and Topin 2018), from 0 to PEAK_RATE and back. Training ends
    after a fixed number of epochs, whether or not the loss still falls.
    """
    rows = len(context.y)
    classes = np.arange(context.n_classes)
    batch = min(BATCH, rows)
    epochs = max(EPOCHS, math.ceil(STEPS * batch / rows))
    report_progress = context.workers.progress(len(context.settings) * epochs)

    def solve(setting: Setting) -> Solution:
        scale = np.float32(setting.scale)
        alpha = batch / (setting.C * rows)  # scikit-learn divides it by the rows of a batch
        # partial_fit would start a generator anew from a number, and shuffle all epochs alike
        rng = np.random.RandomState(context.seed)
        network = MLPClassifier(HIDDEN, alpha=alpha, batch_size=batch, random_state=rng)
        for epoch in range(epochs):
            network.learning_rate_init = _one_cycle((epoch + 0.5) / epochs)
            if epoch:  # the first epoch makes the optimizer, which keeps its rate
                network._optimizer.learning_rate_init = network.learning_rate_init
            network.partial_fit(context.X * scale, context.y, classes=classes)
            report_progress(1)
        model = MLPWeights(*map(_with_intercepts, network.coefs_, network.intercepts_))
        if context.n_classes == 2:
            # scikit-learn has one output: the score of the second class above that of the first
            output = np.column_stack([np.zeros_like(model.output), model.output])
            model = replace(model, output=output)
        best = best_classes(model.scores(context.X_eval * scale))
        return Solution(best, model=context.kept_model(model))

    return context.workers.map(solve, context.settings)


def _one_cycle(done: float) -> float:
    """Return the rate after a share of the epochs: it rises by a line and falls by a cosine."""
    if done < WARMUP:
        return PEAK_RATE * done / WARMUP
    return PEAK_RATE * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP))) / 2


def _with_intercepts(weights: Floats, intercepts: Floats) -> Floats:
    return np.vstack([weights, intercepts]).astype(np.float32)

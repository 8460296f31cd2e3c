"""Logistic regression, a multilayer perceptron and nearest neighbours, each by scikit-learn or one matrix product."""

from __future__ import annotations

import math

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from clipkit.probes.problem import Floats, Ints, Problem, Solved

MAX_ITER, SLICE = 1000, 100  # L-BFGS iterations, in all and between two reports of progress
HIDDEN, BATCH = 256, 200  # the MLP's units, and rows in a step of Adam
EPOCHS, STEPS = 20, 1000  # it trains for so many epochs, or steps where that is more
NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINOv2's kNN protocol


def logreg(problem: Problem) -> Solved:
    """Multinomial logistic regression by L-BFGS."""
    problem.total = len(problem.members) * MAX_ITER // SLICE

    def solve(member: tuple[float, float]) -> tuple[Ints, bool]:
        model = LogisticRegression(C=member[1], max_iter=SLICE, warm_start=True)
        for left in reversed(range(MAX_ITER // SLICE)):
            model.fit(problem.X, problem.y)  # goes on from where it stopped
            if converged := bool(model.n_iter_[0] < SLICE):
                problem.tick(left + 1)
                break
            problem.tick()
        return model.predict(problem.E), converged

    return problem.map(solve, problem.members)


def mlp(problem: Problem) -> Solved:
    """A hidden layer of ReLU units, cross-entropy, Adam at a rate of 0.001."""
    rows, classes = len(problem.y), np.unique(problem.y)
    batch = min(BATCH, rows)
    epochs = max(EPOCHS, math.ceil(STEPS * batch / rows))
    problem.total = len(problem.members) * epochs

    def solve(member: tuple[float, float]) -> tuple[Ints, bool]:
        scale, C = np.float32(member[0]), member[1]
        alpha = batch / (C * rows)  # scikit-learn divides it by the rows of a batch
        model = MLPClassifier(HIDDEN, alpha=alpha, batch_size=batch, random_state=problem.seed)
        for _ in range(epochs):
            model.partial_fit(problem.X * scale, problem.y, classes=classes)
            problem.tick()
        return model.predict(problem.E * scale), True

    return problem.map(solve, problem.members)


def knn(problem: Problem) -> Solved:
    """The classes of the nearest rows by cosine, weighted by exp(cosine / temperature) (DINOv2's protocol)."""
    X, E = (
        a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
        for a in (problem.X, problem.E)
    )
    k, n = min(NEIGHBOURS, len(X)), int(problem.y.max()) + 1
    step = max(1, 2**23 // len(X))  # 32 MiB of cosines at a time

    def vote(block: Floats) -> Ints:
        cosines = block @ X.T  # (rows, N)
        nearest = np.argpartition(cosines, -k, axis=1)[:, -k:]  # (rows, k)
        weights = np.exp((np.take_along_axis(cosines, nearest, axis=1) - 1) / TEMPERATURE)
        scores = np.zeros((len(block), n))
        np.add.at(scores, (np.arange(len(block))[:, None], problem.y[nearest]), weights)
        problem.tick()
        winners: Ints = scores.argmax(axis=1)
        return winners

    blocks = [E[start : start + step] for start in range(0, len(E), step)]
    problem.total = len(blocks)
    return [(np.concatenate(problem.map(vote, blocks)), True)] * len(problem.members)

"""Ranks of the right candidates of queries, and what they are by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipkit.base.matrices import Floats, Int64


class Chance(NamedTuple):
    """What ranks are by chance."""

    behind: Floats  # (M + 1,): probability that the best of the partners is behind rank r
    mrr: float

    def recalls(self, k: Sequence[int]) -> list[float]:
        """Return the probabilities that a partner is found among k candidates."""
        last = len(self.behind) - 1
        return [round(1 - float(self.behind[min(n, last)]), 12) for n in k]

    def deviation(self) -> float:
        """Return the standard deviation of the reciprocal rank of a query."""
        probabilities = self.behind[:-1] - self.behind[1:]
        squares = probabilities / np.arange(1, len(self.behind)) ** 2.0
        return float(np.sqrt(max(0.0, squares.sum() - self.mrr**2)))


class Ranks(NamedTuple):
    """The ranks of the Q queries of a task, and the best wrong candidate of each."""

    ranks: Floats  # (Q,), of the best partner, from 1; equal cosines share the mean of their ranks
    others: Int64  # (Q,), the image of the most similar candidate that is no partner
    labels: Int64  # (Q,), the image that a query belongs to
    partners: Int64  # (Q,), the number of right candidates
    candidates: int
    clusters: Int64  # (Q,), of queries that depend on each other
    by_chance: Chance  # with the candidates of any other query

    has_sets: bool = False  # whether an image has several texts

    def predicted(self, k: int) -> Int64:
        """Return each query's own image (Q,) if it is found among k candidates, else another."""
        return np.where(self.ranks <= k, self.labels, self.others)


def chance(partners: Int64, candidates: int) -> Chance:
    """Return what random ranks are, of queries with `partners` (Q,) right candidates each.

    The best of G among M candidates ranks behind r with the probability C(M - G, r) / C(M, r) of a
    hypergeometric draw, which is a product of r factors.

    >>> by_chance = chance(np.array([1]), 500)
    >>> by_chance.recalls([1, 5, 10]), round(by_chance.mrr, 5)
    ([0.002, 0.01, 0.02], 0.01359)
    """
    behind = np.zeros(candidates + 1)
    for number, count in zip(*np.unique(partners, return_counts=True), strict=True):
        r = np.arange(candidates)
        factors = np.maximum(candidates - number - r, 0) / (candidates - r)
        behind += count * np.concatenate([[1.0], np.cumprod(factors)])
    behind /= len(partners)
    probabilities = behind[:-1] - behind[1:]  # of the ranks 1, 2, ...
    return Chance(behind, float((probabilities / np.arange(1, candidates + 1)).sum()))

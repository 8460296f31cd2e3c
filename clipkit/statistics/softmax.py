"""How flat the probabilities of prompts are at a temperature: entropy and confidence.

Functions take cosines and an absolute temperature tau: the logits are cosine / tau. `links` has the
formulas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from clipkit.base.matrices import BlockMatrix, Floats
from clipkit.statistics import links
from clipkit.statistics.links import Link

CACHE_ROWS = 256  # of a block, small enough for a processor's cache


def softmax(cosines: ArrayLike, temperature: float = 1.0) -> Floats:
    """Return probabilities (N, K) over the last axis of cosine / temperature.

    >>> softmax([[0.2, 0.2], [1.0, 0.0]], 0.5).round(4)
    array([[0.5   , 0.5   ],
           [0.8808, 0.1192]])
    """
    return links.SOFTMAX.probabilities(cosines, temperature)


def sigmoid(cosines: ArrayLike, temperature: float, bias: float) -> Floats:
    """Return the sigmoid (N, K) of cosine / temperature + bias: each prompt's own probability.

    >>> sigmoid([[0.1, 0.2]], 0.01, -15.0).round(4)
    array([[0.0067, 0.9933]])
    """
    return links.Sigmoid(bias).probabilities(cosines, temperature)


def entropy(cosines: ArrayLike, temperature: float = 1.0) -> Floats:
    """Return the Shannon entropy (N) of the softmax over K prompts, in nats, between 0 and ln K.

    >>> float(entropy(np.zeros((1, 32)))[0].round(4)), float(np.log(32).round(4))
    (3.4657, 3.4657)
    """
    below = links.SOFTMAX.prepare(cosines)
    return links.SOFTMAX.entropy_and_confidence(below, temperature)[0]


def confidence(cosines: ArrayLike, temperature: float = 1.0) -> Floats:
    """Return the largest softmax probability (N), between 1/K and 1."""
    below = links.SOFTMAX.prepare(cosines)
    return links.SOFTMAX.entropy_and_confidence(below, temperature)[1]


def mean_entropy_and_confidence(
    cosines: ArrayLike | BlockMatrix, temperatures: Sequence[float], link: Link = links.SOFTMAX
) -> list[tuple[float, float]]:
    """Return the mean entropy (nats) and confidence over all images (N, K) at each temperature.

    With the link `Sigmoid`, the entropy of an image is the mean of the binary entropies of its K
    probabilities, at most ln 2. The confidence is the largest of these probabilities.

    >>> pairs = mean_entropy_and_confidence([[0.2, 0.1], [0.2, 0.2]], [1.0, 0.01])
    >>> [round(entropy, 4) for entropy, _ in pairs]
    [0.6925, 0.3468]
    """
    matrix = BlockMatrix.from_array(cosines)
    entropies = np.zeros(len(temperatures))
    confidences = np.zeros(len(temperatures))
    for rows in matrix.iter_rows(CACHE_ROWS):
        prepared = link.prepare(rows)
        for i, tau in enumerate(temperatures):
            row_entropies, row_confidences = link.entropy_and_confidence(prepared, tau)
            entropies[i] += row_entropies.sum()
            confidences[i] += row_confidences.sum()
    n = len(matrix)
    return list(zip((entropies / n).tolist(), (confidences / n).tolist(), strict=True))

"""The softmax over prompts at a temperature: probabilities, entropy, confidence.

Functions take cosines and an absolute temperature tau: the logits are cosine / tau, as in Radford
et al. 2021, where the learned tau of ViT-B/32 is 0.01.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.errors import check_positive
from clipkit.features import BlockMatrix, FeatureFile

CACHE_ROWS = 256  # of a block, small enough for a processor's cache


def softmax(cosines: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities (N, K) over the last axis of cosine / temperature.

    >>> softmax([[0.2, 0.2], [1.0, 0.0]], 0.5).round(4)
    array([[0.5   , 0.5   ],
           [0.8808, 0.1192]])
    """
    z = np.asarray(cosines, dtype=np.float64) / temperature
    z -= z.max(axis=-1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return np.exp(z)


def entropy(cosines: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the Shannon entropy (N) of the softmax over K prompts, in nats, between 0 and ln K.

    >>> float(entropy(np.zeros((1, 32)))[0].round(4)), float(np.log(32).round(4))
    (3.4657, 3.4657)
    """
    return _entropy_and_confidence(_below_highest(cosines), temperature)[0]


def confidence(cosines: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the largest softmax probability (N), between 1/K and 1."""
    return _entropy_and_confidence(_below_highest(cosines), temperature)[1]


def _below_highest(cosines: ArrayLike) -> NDArray[np.float64]:
    """Shift each row so that its highest cosine is 0."""
    rows = np.asarray(cosines, dtype=np.float64)
    return np.asarray(rows - rows.max(axis=-1, keepdims=True))


def _entropy_and_confidence(
    below: NDArray[np.float64], temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    z = below / temperature
    weights = np.exp(z)  # the most probable prompt has weight 1
    sums = weights.sum(axis=-1)
    # H = log Z - E[z]
    expected = np.einsum("...j,...j->...", weights, z) / sums
    return np.log(sums) - expected, 1 / sums


def mean_entropy_and_confidence(
    cosines: ArrayLike | BlockMatrix, temperatures: Sequence[float]
) -> list[tuple[float, float]]:
    """Return the mean entropy (nats) and confidence over all images at each temperature.

    Parameters
    ----------
    cosines : array (N, K) or BlockMatrix
    temperatures : sequence of T float

    Returns
    -------
    list of T pairs of float

    Examples
    --------
    >>> pairs = mean_entropy_and_confidence([[0.2, 0.1], [0.2, 0.2]], [1.0, 0.01])
    >>> [round(entropy, 4) for entropy, _ in pairs]
    [0.6925, 0.3468]
    """
    matrix = BlockMatrix.from_array(cosines)
    entropies = np.zeros(len(temperatures))
    confidences = np.zeros(len(temperatures))
    for rows in _cache_sized(matrix):
        below = _below_highest(rows)
        for i, tau in enumerate(temperatures):
            row_entropies, row_confidences = _entropy_and_confidence(below, tau)
            entropies[i] += row_entropies.sum()
            confidences[i] += row_confidences.sum()
    n = len(matrix)
    return list(zip((entropies / n).tolist(), (confidences / n).tolist(), strict=True))


def _cache_sized(matrix: BlockMatrix) -> Iterator[NDArray[np.float32]]:
    for block in matrix.iter_blocks():
        for start in range(0, len(block), CACHE_ROWS):
            yield block[start : start + CACHE_ROWS]


def entropy_summary(logits: FeatureFile, temperatures: Sequence[float]) -> FeatureFile:
    """Summarise how flat the softmax over the prompts is: what `clipkit entropy` reports.

    Parameters
    ----------
    logits : FeatureFile
        Of kind logits.
    temperatures : sequence of float
        Absolute temperatures, whatever temperature the logits were stored at.

    Returns
    -------
    FeatureFile
        A result with one run per split and temperature: `split`, `temperature`, `mean_entropy`
        (nats), `max_entropy` (ln K, of K equal logits), `mean_confidence`.

    Raises
    ------
    UsageError
        If a temperature is out of range.
    """
    for tau in temperatures:
        check_positive("temperature", tau)
    rows = []
    for name in logits.splits:
        cosines = logits.cosines(name)
        pairs = mean_entropy_and_confidence(cosines, temperatures)
        for tau, (mean_entropy, mean_confidence) in zip(temperatures, pairs, strict=True):
            rows.append(
                {
                    "split": name,
                    "temperature": tau,
                    "mean_entropy": mean_entropy,
                    "max_entropy": float(np.log(cosines.shape[1])),
                    "mean_confidence": mean_confidence,
                }
            )
    history = logits.extended_history(
        "entropy", temperature=list(temperatures), inputs={"logits": logits.digest}
    )
    result = FeatureFile("result", history)
    result.set_rows(rows)
    return result

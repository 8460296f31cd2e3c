"""The softmax over prompts at a temperature: probabilities, entropy, confidence.

Functions take cosines and an absolute temperature tau: the logits are cosine / tau, as in Radford
et al. 2021, where the learned tau of ViT-B/32 is 0.01.

SigLIP (Zhai et al. 2023) was trained without a softmax. It decides for each prompt separately
whether the prompt belongs to the image, with the probability sigmoid(cosine / tau + bias). The
model learned the bias too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.base import console
from clipkit.base.errors import UsageError, check_positive, unknown
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.matching import choose_splits
from clipkit.features.model import BlockMatrix, FeatureFile

LINKS = ("softmax", "sigmoid")
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


def sigmoid(cosines: ArrayLike, temperature: float, bias: float) -> NDArray[np.float64]:
    """Return the sigmoid (N, K) of cosine / temperature + bias: each prompt's own probability.

    >>> sigmoid([[0.1, 0.2]], 0.01, -15.0).round(4)
    array([[0.0067, 0.9933]])
    """
    return _sigmoid(np.asarray(cosines, dtype=np.float64) / temperature + bias)


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0, -z)))  # no overflow at either end


def entropy(cosines: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the Shannon entropy (N) of the softmax over K prompts, in nats, between 0 and ln K.

    >>> float(entropy(np.zeros((1, 32)))[0].round(4)), float(np.log(32).round(4))
    (3.4657, 3.4657)
    """
    return _entropy_and_confidence(below_highest(cosines), temperature)[0]


def confidence(cosines: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the largest softmax probability (N), between 1/K and 1."""
    return _entropy_and_confidence(below_highest(cosines), temperature)[1]


def below_highest(cosines: ArrayLike) -> NDArray[np.float64]:
    """Shift each row so that its highest cosine is 0."""
    rows = np.asarray(cosines)
    return np.asarray(np.subtract(rows, rows.max(axis=-1, keepdims=True), dtype=np.float64))


def _entropy_and_confidence(
    below: NDArray[np.float64], temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    z = below / temperature
    weights = np.exp(z)  # the most probable prompt has weight 1
    sums = weights.sum(axis=-1)
    # H = log Z - E[z]
    expected = np.einsum("...j,...j->...", weights, z) / sums
    return np.log(sums) - expected, 1 / sums


def _sigmoid_entropy_and_confidence(
    cosines: NDArray[np.float32], temperature: float, bias: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean binary entropy over the prompts and the largest probability of each row."""
    z = np.asarray(cosines, dtype=np.float64) / temperature + bias
    probabilities = _sigmoid(z)
    # H = log(1 + e^z) - z p
    entropies = np.logaddexp(0, z) - z * probabilities
    return entropies.mean(axis=-1), probabilities.max(axis=-1)


def mean_entropy_and_confidence(
    cosines: ArrayLike | BlockMatrix, temperatures: Sequence[float], bias: float | None = None
) -> list[tuple[float, float]]:
    """Return the mean entropy (nats) and confidence over all images (N, K) at each temperature.

    A bias stands for sigmoids with this bias instead of the softmax. The entropy of an image is
    then the mean of the binary entropies of its K probabilities, at most ln 2. The confidence is
    the largest of these probabilities.

    >>> pairs = mean_entropy_and_confidence([[0.2, 0.1], [0.2, 0.2]], [1.0, 0.01])
    >>> [round(entropy, 4) for entropy, _ in pairs]
    [0.6925, 0.3468]
    """
    matrix = BlockMatrix.from_array(cosines)
    entropies = np.zeros(len(temperatures))
    confidences = np.zeros(len(temperatures))
    for rows in matrix.iter_rows(CACHE_ROWS):
        below = below_highest(rows)
        for i, tau in enumerate(temperatures):
            row_entropies, row_confidences = _row_measures(rows, below, tau, bias)
            entropies[i] += row_entropies.sum()
            confidences[i] += row_confidences.sum()
    n = len(matrix)
    return list(zip((entropies / n).tolist(), (confidences / n).tolist(), strict=True))


def learned_bias(logits: FeatureFile) -> float | None:
    """Return the bias of a model that predicts by sigmoids; None for other models.

    It is learned for prompts, so there is none for random or whitened directions either.
    """
    if logits.history.has_directions:
        return None
    bias = logits.history.model.get("logit_bias")
    return None if bias is None else float(bias)


def choose_link(logits: FeatureFile, temperatures: Sequence[str]) -> str:
    """Return the model's own link if its temperature is asked for, as `model`, else softmax.

    Raises
    ------
    UsageError
        If the model's probabilities are sigmoids and other temperatures are asked for too.
    """
    if "model" not in temperatures or learned_bias(logits) is None:
        return "softmax"
    if set(temperatures) != {"model"}:
        raise UsageError(
            f"{logits.display_name}: expected -t model alone or --link, since the model's own "
            f"probabilities are sigmoids, got -t {','.join(temperatures)}",
            "add --link softmax or --link sigmoid",
        )
    console.note("the model's own probabilities are sigmoids (--link sigmoid)")
    return "sigmoid"


@checked
def entropy_summary(
    logits: Features,
    temperatures: Several[float],
    link: str = "softmax",
    splits: Several[str] | None = None,
) -> FeatureFile:
    """Summarise how flat the softmax over the prompts is: what `clipkit entropy` reports.

    Parameters
    ----------
    logits : Features
        Of kind logits.
    temperatures : float or sequence of float
        Absolute temperatures, whatever temperature the logits were stored at.
    link : {"softmax", "sigmoid"}
        What turns logits into probabilities. `sigmoid` adds the bias that the model learned. See
        `mean_entropy_and_confidence`.
    splits : str or sequence of str, optional
        All by default.

    Returns
    -------
    FeatureFile
        A result with one run per split and temperature: `split`, `temperature`, `mean_entropy`
        (nats), `max_entropy` (ln K, of K equal logits; ln 2 for sigmoids), `mean_confidence`.

    Raises
    ------
    UsageError
        If a temperature is out of range, there is no such split, the link is not known, or it is
        `sigmoid` and the model learned no bias.
    """
    logits = as_file(logits, "logits")
    temperatures = as_list(temperatures, "temperatures", float)
    splits = as_list(splits, "splits", str)
    bias = _check_settings(logits, temperatures, link)
    logits, names = choose_splits(logits, splits)
    rows = []
    for name in names:
        cosines = logits.cosines(name)
        pairs = mean_entropy_and_confidence(cosines, temperatures, bias)
        outcomes = cosines.shape[1] if bias is None else 2
        for tau, (mean_entropy, mean_confidence) in zip(temperatures, pairs, strict=True):
            row = {"split": name, "temperature": tau, "mean_entropy": mean_entropy}
            row |= {"max_entropy": float(np.log(outcomes)), "mean_confidence": mean_confidence}
            rows.append(row)
    history = logits.extended_history(
        "entropy",
        temperature=list(temperatures),
        link=None if bias is None else link,
        splits=names if splits else None,
        inputs={"logits": logits.digest},
    )
    result = FeatureFile("result", history)
    result.set_rows(rows)
    return result


def entropy_per_image(
    logits: FeatureFile,
    temperatures: Sequence[float],
    link: str = "softmax",
    splits: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Return the entropy of each image: what `clipkit entropy --per-image` prints.

    `entropy_summary` describes parameters and errors.

    Returns
    -------
    list of dict
        One per split, temperature and image: `split`, `id`, `temperature`, `entropy` (nats),
        `confidence`, the largest probability, and `prompt`, which has it.
    """
    bias = _check_settings(logits, temperatures, link)
    texts = logits.texts or []
    logits, names = choose_splits(logits, splits)
    rows = []
    for name in names:
        values: list[list[NDArray[Any]]] = [[] for _ in temperatures]
        prompts: list[str] = []
        for block in logits.cosines(name).iter_rows(CACHE_ROWS):
            prompts += [texts[number] for number in block.argmax(axis=1)]
            for blocks, tau in zip(values, temperatures, strict=True):
                blocks.append(np.stack(_row_measures(block, below_highest(block), tau, bias)))
        for blocks, tau in zip(values, temperatures, strict=True):
            pairs = np.concatenate(blocks, axis=1).T.tolist()
            for row_id, prompt, (H, p) in zip(logits.splits[name].ids, prompts, pairs, strict=True):
                row = {"split": name, "id": row_id, "temperature": tau}
                rows.append(row | {"entropy": H, "confidence": p, "prompt": prompt})
    return rows


def _row_measures(
    rows: NDArray[np.float32], below: NDArray[np.float64], temperature: float, bias: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return entropy and confidence of each row, by a softmax or, with a bias, by sigmoids."""
    if bias is None:
        return _entropy_and_confidence(below, temperature)
    return _sigmoid_entropy_and_confidence(rows, temperature, bias)


def _check_settings(logits: FeatureFile, temperatures: Sequence[float], link: str) -> float | None:
    """Check temperatures and link; return the bias that the model learned, for sigmoids."""
    for tau in temperatures:
        check_positive("temperature", tau)
    if link not in LINKS:
        raise unknown("link", link, LINKS)
    if link == "softmax":
        return None
    bias = learned_bias(logits)
    if bias is None:
        raise UsageError(
            f"{logits.display_name}: expected a model with a logit_bias for the link sigmoid, "
            "got none",
            "use --link softmax, or embed with a SigLIP model",
        )
    return bias

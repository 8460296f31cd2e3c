"""What similarities say: cosine, softmax with temperature, entropy, confidence, contrastive loss. Plain numpy.

Everything here takes cosines and an absolute temperature tau: the logits are cosine / tau, as in Radford et al. 2021,
where the learned tau of ViT-B/32 is 0.01.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.errors import ClipkitError

Float = NDArray[np.floating[Any]]


def normalize(embeddings: ArrayLike) -> Float:
    """Scale each row (N, D) to length 1.

    Raises
    ------
    ClipkitError
        If a row is zero, since it has no direction.
    """
    rows = np.asarray(embeddings)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not lengths.all():
        first = int(np.flatnonzero(lengths.ravel() == 0)[0])
        raise ClipkitError(
            f"embeddings must not be zero, since a zero vector has no direction; row {first} is"
        )
    return np.asarray(rows / lengths)


def cosine(images: ArrayLike, texts: ArrayLike) -> Float:
    """Cosine similarity (N, K) of each row of `images` (N, D) with each row of `texts` (K, D).

    >>> cosine([[0.6, 0.8]], [[0.707, 0.707], [-0.707, 0.707]]).round(4)
    array([[0.9899, 0.1414]])
    """
    return normalize(images) @ normalize(texts).T


def log_softmax(cosines: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Log-probabilities (N, K) of the softmax over the last axis of cosine / temperature, in float64."""
    z = np.asarray(cosines, dtype=np.float64) / temperature
    z -= z.max(axis=-1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return z


def softmax(cosines: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities (N, K) over the last axis of cosine / temperature.

    >>> softmax([[0.2, 0.2], [1.0, 0.0]], 0.5).round(4)
    array([[0.5   , 0.5   ],
           [0.8808, 0.1192]])
    """
    return np.exp(log_softmax(cosines, temperature))


def entropy(cosines: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Shannon entropy (N) of the softmax over K prompts, in nats: between 0 and ln K.

    >>> float(entropy(np.zeros((1, 32)))[0].round(4)), float(np.log(32).round(4))
    (3.4657, 3.4657)
    """
    logp = log_softmax(cosines, temperature)
    return np.asarray(-(np.exp(logp) * logp).sum(axis=-1))


def confidence(cosines: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Largest softmax probability (N): between 1/K and 1."""
    return np.asarray(np.exp(log_softmax(cosines, temperature).max(axis=-1)))


def flatness(blocks: Iterable[ArrayLike], temperatures: Sequence[float]) -> list[dict[str, float]]:
    """Mean entropy and confidence over all images at each temperature, from blocks of cosines (B, K).

    Returns
    -------
    list of dict
        One for each temperature: `temperature`, `mean_entropy` (nats), `max_entropy` (ln K, of K equal logits) and
        `mean_confidence`.

    Examples
    --------
    >>> [round(row["mean_entropy"], 4) for row in flatness([[[0.2, 0.1]], [[0.2, 0.2]]], [1.0, 0.01])]
    [0.6925, 0.3468]
    """
    entropies, confidences, n, k = (
        dict.fromkeys(temperatures, 0.0),
        dict.fromkeys(temperatures, 0.0),
        0,
        0,
    )
    for rows in (part for block in blocks for part in _parts(np.asarray(block))):
        n, k = n + rows.shape[0], rows.shape[1]
        below = rows.astype(np.float64) - rows.max(
            axis=-1, keepdims=True
        )  # (b, K), the highest cosine is 0
        for tau in temperatures:
            z = below / tau
            weights = np.exp(z)
            sums = weights.sum(axis=-1)  # (b), of which the most probable prompt has 1
            entropies[tau] += float((np.log(sums) - np.einsum("ij,ij->i", weights, z) / sums).sum())
            confidences[tau] += float((1 / sums).sum())
    found = []
    for tau in temperatures:
        row = {
            "temperature": tau,
            "mean_entropy": entropies[tau] / n,
            "max_entropy": float(np.log(k)),
        }
        found.append(row | {"mean_confidence": confidences[tau] / n})
    return found


def _parts(block: NDArray[Any], rows: int = 256) -> Iterator[NDArray[Any]]:
    """A block (B, K) in parts (b, K) small enough for a processor's cache."""
    return (block[at : at + rows] for at in range(0, len(block), rows))


def ensemble(embeddings: ArrayLike, index: ArrayLike, count: int) -> Float:
    """One embedding a class from several prompts of it: normalise each, average, normalise.

    The ensembling of Radford et al. 2021, section 3.1.4.

    Parameters
    ----------
    embeddings : (P, D)
    index : (P) int
        The class of each prompt, each of 0..`count`-1 at least once.
    count : int

    Returns
    -------
    (count, D), rows of length 1
    """
    rows, index = normalize(embeddings), np.asarray(index)
    sums = np.zeros((count, rows.shape[1]), rows.dtype)
    np.add.at(sums, index, rows)
    return normalize(sums / np.bincount(index, minlength=count)[:, None])


def info_nce(similarities: ArrayLike, temperature: float = 1.0) -> tuple[float, float]:
    """The two halves of CLIP's contrastive loss over a batch, in nats; training minimises their mean.

    Row i and column i of `similarities` (N, N) belong to one image and its own text. The first half is the mean
    cross-entropy of finding the text of each image, the second of finding the image of each text. Each lies between 0
    and, for embeddings that tell nothing, ln N.

    Returns
    -------
    (image_to_text, text_to_image) : float, float

    Examples
    --------
    >>> [round(loss, 4) for loss in info_nce([[0.946, -0.432], [-0.150, 0.910]], temperature=0.07)]
    [0.0, 0.0]
    >>> info_nce(np.ones((2, 2)))[0] == np.log(2)
    np.True_
    """
    square = np.asarray(similarities, dtype=np.float64)
    if square.ndim != 2 or square.shape[0] != square.shape[1]:
        raise ClipkitError(
            f"a batch's similarities must be a square matrix; got the shape {square.shape}"
        )
    image_to_text = -np.diagonal(log_softmax(square, temperature)).mean()
    text_to_image = -np.diagonal(log_softmax(square.T, temperature)).mean()
    return float(image_to_text), float(text_to_image)


def class_means(values: ArrayLike, labels: ArrayLike, count: int) -> NDArray[np.float64]:
    """Mean row of each class (C, K) of `values` (N, K); NaN for a class without rows."""
    rows, labels = np.asarray(values, dtype=np.float64), np.asarray(labels)
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, labels, rows)
    counts = np.bincount(labels, minlength=count).astype(np.float64)
    counts[counts == 0] = np.nan
    return sums / counts[:, None]


def singular_values(embeddings: ArrayLike) -> NDArray[np.float64]:
    """Singular values (min(K, D)) of the matrix (K, D) that turns an image's direction into its K cosines, falling.

    Rows are normalised first, so that the squares add up to K.

    >>> singular_values([[1, 0, 0], [0, 2, 0], [0, 3, 0]]).round(4)
    array([1.4142, 1.    , 0.    ])
    """
    return np.asarray(
        np.linalg.svd(normalize(np.asarray(embeddings, np.float64)), compute_uv=False)
    )


def effective_rank(values: ArrayLike) -> float:
    """How many directions singular values amount to: exp of the entropy of their shares (Roy & Vetterli 2007).

    As many as there are values where all are equal, 1 where one has all.

    >>> round(effective_rank([2.0, 2.0, 2.0, 0.0]), 6), effective_rank([5.0, 0.0])
    (3.0, 1.0)
    """
    shares = np.asarray(values, np.float64) / np.sum(values)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def random_directions(count: int, dim: int, seed: int) -> NDArray[np.float64]:
    """Directions (count, dim) of length 1, drawn evenly over the sphere: what prompts that say nothing would be.

    >>> random_directions(2, 3, seed=1).round(4)
    array([[ 0.8953, -0.3372, -0.2911],
           [-0.3999,  0.3226, -0.8579]])
    """
    # RandomState, whose draws are the same in every NumPy
    return np.asarray(
        normalize(np.random.RandomState(seed).standard_normal((count, dim))), np.float64
    )

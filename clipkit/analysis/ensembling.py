"""Prompt ensembling: average the embeddings of several prompts of each class."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis.similarity import Float, normalize


def ensemble(embeddings: ArrayLike, index: ArrayLike, count: int) -> Float:
    """Average the embeddings of each class's prompts: normalise, average, normalise.

    Prompt ensembling of Radford et al. 2021, section 3.1.4.

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

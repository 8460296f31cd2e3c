"""Nearest rows: the images most similar to a prompt or an image, and the prompts of an image."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis import metrics, similarity
from clipkit.analysis.results import class_names
from clipkit.base.errors import UsageError
from clipkit.features.arguments import Features, as_file, checked
from clipkit.features.compatibility import check_widths, common_logit_scale
from clipkit.features.matching import choose_split
from clipkit.features.model import (
    BlockMatrix,
    FeatureFile,
    Float32,
    Floats,
    Int64,
    row_blocks,
)

BLOCK_BYTES = 1 << 26  # of cosines that are ranked at once
BLOCK_SIZE = 1 << 22  # numbers of candidates that are held in float64 at once, 32 MiB


class Nearest:
    """The k most similar candidates of each of Q queries, of all blocks of candidates so far.

    Attributes
    ----------
    rows : (Q, k) int64 array
        Of candidates, the most similar first. The first of equal cosines is first.
    cosines : (Q, k) float32 array
        In falling order.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.rows = np.full((queries, k), -1)
        self.cosines = np.full((queries, k), -np.inf, np.float32)

    def add(self, cosines: Float32, start: int, first: int = 0) -> None:
        """Add the cosines (B, C) of queries from row `first` with candidates from row `start`."""
        queries = slice(first, first + len(cosines))
        places = metrics.highest(cosines, self.rows.shape[1])
        rows = np.hstack([self.rows[queries], places + start])
        values = np.hstack([self.cosines[queries], np.take_along_axis(cosines, places, axis=1)])
        order = metrics.highest(values, self.rows.shape[1])  # earlier rows are first, if equal
        self.rows[queries] = np.take_along_axis(rows, order, axis=1)
        self.cosines[queries] = np.take_along_axis(values, order, axis=1)


def find(
    queries: Floats, candidates: Floats | BlockMatrix, k: int, *, skip_self: bool = False
) -> Nearest:
    """Find the k most similar of M candidates for each query, without an index.

    The result is that of a stable sort of all cosines (Q, M), whatever the blocks.

    Parameters
    ----------
    queries : array (Q, D)
        Of length 1.
    candidates : array (M, D) or BlockMatrix
        Of length 1, with M of at least `k`.
    k : int
    skip_self : bool
        Query i is candidate i, and is no neighbour of itself. M is then more than `k`.
    """
    nearest = Nearest(len(queries), k)
    start = 0
    for block in row_blocks(candidates, BLOCK_SIZE):
        wide = block.astype(np.float64)  # once, and not for each block of queries
        step = max(1, BLOCK_BYTES // (4 * len(block)))
        for first in range(0, len(queries), step):
            cosines = similarity.products(queries[first : first + step], wide)
            if skip_self:
                own = np.arange(max(first, start), min(first + len(cosines), start + len(block)))
                cosines[own - first, own - start] = -np.inf
            nearest.add(cosines, start, first)
        start += len(block)
    return nearest


@checked
def nearest(
    file: Features, queries: Features | None = None, split: str | None = None, *, k: int = 10
) -> FeatureFile:
    """List the nearest rows of each query: what `clipkit nearest` reports.

    Parameters
    ----------
    file : Features
        The images or texts to search. In logits, each prompt searches the images.
    queries : Features, optional
        Images or texts of the same model. By default, each row of the file searches the others.
    split : str, optional
        Of files of images: by default ``test``, else the first.
    k : int
        Rows to list for each query, or all if there are fewer.

    Returns
    -------
    FeatureFile
        A result with a run per query and rank: `query`, the id of an image or the text of a prompt;
        `rank`, from 1; `id` of the image, or `prompt`, that is near; `cosine`; and `label`, its
        class, if the file has classes. Of equal cosines, the first row of the file comes first.
    """
    file = as_file(file, "file", "images texts logits")
    queries = as_file(queries, "queries", "images texts")
    if k < 1:
        raise UsageError(f"k: expected at least 1, got {k}")
    candidates = _Side(file, split)
    if file.kind == "logits":
        if queries is not None:
            message = f"{file.display_name}: expected images or texts to search, got logits"
            raise UsageError(message, "logits hold their queries: leave out the others")
        names = list(file.texts or [])
        found = _of_logits(candidates.file.cosines(candidates.split), len(names), k)
    elif queries is None:
        names = candidates.names
        unit = candidates.unit_rows()
        k = min(k, len(unit) - 1)
        found = find(np.asarray(unit), unit, k, skip_self=True)
    else:
        _check_pair(file, queries)
        others = _Side(queries, split)
        names = others.names
        unit = candidates.unit_rows()
        found = find(np.asarray(others.unit_rows()), unit, min(k, len(unit)))
    result = FeatureFile("result", display_name=file.display_name)
    result.history = candidates.file.extended_history(
        "nearest", **candidates.entry, k=k, **_inputs(file, queries)
    )
    result.runs = _columns(names, candidates, found)
    return result


class _Side:
    """The rows of a file that are searched, or that search."""

    def __init__(self, file: FeatureFile, split: str | None) -> None:
        self.file, self.split = file, ""
        if file.kind != "texts":
            self.file, self.split = choose_split(file, split)
        self.entry: dict[str, Any] = {"splits": [self.split]} if self.split else {}

    @property
    def names(self) -> list[str]:
        """The ids of images, or the texts."""
        if self.split:
            return self.file.splits[self.split].ids
        return list(self.file.texts or [])

    @property
    def labels(self) -> Int64 | None:
        """The class of each row, -1 for none; None if no row has one."""
        labels = self.file.splits[self.split].labels if self.split else self.file.class_index
        return None if labels is None or labels.max(initial=-1) < 0 else labels

    def unit_rows(self) -> BlockMatrix:
        """Return the embeddings, scaled to length 1 as they are read."""
        similarity.refuse_dot_product(self.file, "to rank by", similarity.ONE_TOKEN_HINT)
        features = self.file.splits[self.split].features if self.split else self.file.features
        where = f"{self.file.display_name}: {self.split}".removesuffix(": ")
        matrix = BlockMatrix.from_array(features)
        return BlockMatrix(matrix.shape, partial(_iter_unit, matrix, where))


def _iter_unit(matrix: BlockMatrix, where: str) -> Iterator[Float32]:
    start = 0
    for block in matrix.iter_blocks():
        yield similarity.normalize(block, where, start).astype(np.float32, copy=False)
        start += len(block)


def _check_pair(file: FeatureFile, queries: FeatureFile) -> None:
    """Refuse files of different models or widths."""
    images, texts = file, queries
    if (file.kind, queries.kind) == ("texts", "images"):
        images, texts = queries, file
    common_logit_scale(images, texts)
    check_widths(images, texts)


def _of_logits(cosines: BlockMatrix, prompts: int, k: int) -> Nearest:
    """Return the rows nearest to each prompt, of the cosines (N, K) of images with prompts."""
    nearest = Nearest(prompts, min(k, len(cosines)))
    start = 0
    for block in cosines.iter_blocks():
        nearest.add(np.ascontiguousarray(block.T), start)
        start += len(block)
    return nearest


def _inputs(file: FeatureFile, queries: FeatureFile | None) -> dict[str, Any]:
    """Return what the history says of the files; texts that are in no file are named."""
    if file.kind == "logits":
        return {"inputs": {"logits": file.digest}}
    inputs = {"candidates": file.digest}
    if queries is None:
        return {"inputs": inputs}
    if queries.kind == "texts" and not queries.digest_stated:
        return {"query": queries.texts, "inputs": inputs}
    return {"inputs": {**inputs, "queries": queries.digest}}


def _columns(names: list[str], candidates: _Side, found: Nearest) -> dict[str, NDArray[Any]]:
    """Return the columns of the result."""
    count, k = found.rows.shape
    rows = found.rows.ravel()
    columns: dict[str, NDArray[Any]] = {
        "query": np.repeat(np.asarray(names, str), k),
        "rank": np.tile(np.arange(1, k + 1), count),
        "id" if candidates.split else "prompt": np.asarray(candidates.names, str)[rows],
        "cosine": found.cosines.ravel().astype(np.float64),
    }
    labels = candidates.labels
    if labels is not None:
        classes = np.asarray([*class_names(candidates.file, labels.max()), ""], str)
        columns["label"] = classes[labels[rows]]  # the last is that of -1
    return columns

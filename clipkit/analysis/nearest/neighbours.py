"""Nearest rows: the images most similar to a prompt or an image, and the prompts of an image."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis.results import class_names
from clipkit.analysis.row_clusters import own_clusters
from clipkit.analysis.verdicts import keep
from clipkit.base.errors import UsageError
from clipkit.base.matrices import BlockMatrix, Float32, Floats, Int64, row_blocks
from clipkit.features import similarity
from clipkit.features.arguments import Features, as_file, checked
from clipkit.features.compatibility import check_widths, common_logit_scale
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.statistics import metrics
from clipkit.statistics.claims import CHANCE, ROUNDING, Claim, Reference, by_permutations, of_draws
from clipkit.statistics.dependence import p_of, permute

BLOCK_BYTES = 1 << 26  # of cosines that are ranked at once
FEW = 64  # queries whose candidates are united
ASKED = "neighbours of the asked class:"
PERMUTATIONS = 300  # of the labels
SETS = 256  # of candidates, whose largest cosines are a bound
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

    def add(self, cosines: Float32, rows: Int64, first: int = 0) -> None:
        """Add the cosines (B, C) of queries from row `first` with candidates in `rows` (C,).

        The rows come after all earlier ones, in rising order.
        """
        queries = slice(first, first + len(cosines))
        is_nearer = (cosines > self.cosines[queries, -1:]).any(axis=0)
        cosines, rows = cosines[:, is_nearer], rows[is_nearer]
        if not len(rows):
            return
        places = metrics.highest(cosines, self.rows.shape[1])
        rows = np.hstack([self.rows[queries], rows[places]])
        values = np.hstack([self.cosines[queries], np.take_along_axis(cosines, places, axis=1)])
        order = metrics.highest(values, self.rows.shape[1])  # earlier rows are first, if equal
        self.rows[queries] = np.take_along_axis(rows, order, axis=1)
        self.cosines[queries] = np.take_along_axis(values, order, axis=1)


def find(
    queries: Floats,
    candidates: Floats | BlockMatrix,
    k: int,
    *,
    skip_self: bool = False,
    name: str | None = None,
) -> Nearest:
    """Find the k most similar of M candidates for each query, without an index.

    The result is that of a stable sort of all cosines (Q, M), whatever the blocks. A product in
    float32 finds the few candidates of a block that may be among the nearest. Only their cosines
    are computed as `similarity.products` does.

    Parameters
    ----------
    queries : array (Q, D)
        Of length 1.
    candidates : array (M, D) or BlockMatrix
        Of length 1, with M of at least `k`.
    k : int
    skip_self : bool
        Query i is candidate i, and is no neighbour of itself. M is then more than `k`.
    name : str, optional
        What `ClipkitError` calls candidates of any length, which are normalised. A row of zeros
        raises it.
    """
    nearest = Nearest(len(queries), k)
    start = 0
    for rows in row_blocks(candidates, BLOCK_SIZE):
        block = _Block(rows, name, start)
        step = max(1, BLOCK_BYTES // (4 * len(rows)))
        for first in range(0, len(queries), step):
            some = queries[first : first + step]
            least = nearest.cosines[first : first + step, -1:]
            may_be_near = block.choose(some, k + skip_self, least)
            for place in range(0, len(some), FEW):
                few = some[place : place + FEW]
                chosen = np.flatnonzero(may_be_near[place : place + FEW].any(axis=0))
                cosines = block.cosines(few, chosen)
                if skip_self:
                    own = first + place + np.arange(len(few))[:, None]
                    cosines[own == start + chosen] = -np.inf
                nearest.add(cosines, start + chosen, first + place)
        start += len(rows)
    return nearest


class _Block:
    """The candidates (C, D) from row `start` on; see `find`."""

    def __init__(self, rows: Floats, name: str | None, start: int) -> None:
        self.rows, self.name, self.start = rows, name, start
        self.rough = rows.astype(np.float32, copy=False)
        self.lengths = np.ones(len(rows), np.float32)
        if name is not None:
            self.lengths = np.sqrt(np.einsum("cd,cd->c", self.rough, self.rough))
        # squares of other lengths overflow or lose digits in float32
        self.is_rough = bool(((self.lengths > 1e-15) & (self.lengths < 1e15)).all())
        # a sum of D products in float32 is off by at most D 2^-24 of the lengths (Higham 2002,
        # section 3.1), a length by half of it, and each of a few roundings adds 2^-24
        self.error = 2 * (rows.shape[1] + 8) * 2.0**-24

    def choose(self, queries: Floats, k: int, least: Float32) -> NDArray[np.bool_]:
        """Return (B, C) which candidates may be among the k nearest of queries (B, D).

        Their cosines are at least `least` (B, 1). The largest cosines of more than k sets of
        candidates are a bound, too: k candidates are not below the k-th of these.
        """
        shape = len(queries), len(self.rows)
        if not self.is_rough:
            return np.ones(shape, bool)
        cosines = queries.astype(np.float32, copy=False) @ self.rough.T
        cosines /= self.lengths
        least = least - np.float32(self.error)
        width = shape[1] // max(SETS, 4 * k)
        if width > 1:
            sets = cosines[:, : shape[1] // width * width].reshape(len(queries), width, -1)
            largest = np.partition(sets.max(axis=1), -k, axis=1)[:, -k, None]
            least = np.maximum(least, largest - np.float32(2 * self.error))
        return np.asarray(cosines >= least)

    def cosines(self, queries: Floats, chosen: Int64) -> Float32:
        """Return the cosines (B, n) of queries with n candidates."""
        rows = self.rows[chosen]
        if self.name is not None:  # the first that is chosen alone is not zero
            rows = similarity.normalize(rows, self.name, self.start).astype(np.float32, copy=False)
        return similarity.products(queries, rows)


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
        class, if the file has classes. Of equal cosines, the first row of the file comes first. If
        a file with classes searches itself, the result claims how many neighbours are of the same
        class; if texts of classes search it, how many are of the class that is asked for.
    """
    file = as_file(file, "file", "images texts logits")
    queries = as_file(queries, "queries", "images texts")
    if k < 1:
        raise UsageError(f"k: expected at least 1, got {k}")
    candidates, asked = _Side(file, split), None
    if file.kind == "logits":
        if queries is not None:
            message = f"{file.display_name}: expected images or texts to search, got logits"
            raise UsageError(message, "logits hold their queries: leave out the others")
        names = list(file.texts or [])
        found = _of_logits(candidates.file.cosines(candidates.split), len(names), k)
    elif queries is None:
        names = candidates.names
        k = min(k, len(candidates.rows) - 1)
        found = find(
            candidates.unit_rows(), candidates.rows, k, skip_self=True, name=candidates.where
        )
    else:
        _check_pair(file, queries)
        others = _Side(queries, split)
        names, asked = others.names, _asked_classes(queries, candidates)
        k = min(k, len(candidates.rows))
        found = find(others.unit_rows(), candidates.rows, k, name=candidates.where)
    result = FeatureFile("result", display_name=file.display_name)
    result.history = candidates.file.extended_history(
        "nearest", **candidates.entry, k=k, **_inputs(file, queries)
    )
    result.runs = _columns(names, candidates, found)
    if queries is None and candidates.labels is not None and file.kind != "logits":
        keep(result, _of_same_class(candidates.labels, found.rows, candidates.clusters))
    if asked is not None and candidates.labels is not None:
        keep(result, _of_asked_class(asked, candidates.labels, found.rows, candidates.clusters))
    return result


def _asked_classes(queries: FeatureFile, candidates: _Side) -> Int64 | None:
    """Return the class of each text that searches images, -1 for none; None if nothing has one."""
    if queries.kind != "texts" or queries.class_index is None or not candidates.split:
        return None
    numbers = {name: number for number, name in enumerate(candidates.file.class_names or [])}
    names = queries.class_names or []
    return np.array(
        [numbers.get(names[one], -1) if one >= 0 else -1 for one in queries.class_index]
    )


def _of_asked_class(
    asked: Int64, labels: Int64, neighbours: Int64, clusters: Int64 | None = None
) -> list[Claim]:
    """Hold the share of neighbours (Q, k) of the asked class (Q,) against permuted labels (N,).

    Neighbours without a class do not count. Nothing is claimed of a single class.
    """
    labelled = np.flatnonzero(labels >= 0)
    classes = labels[labelled]
    place = np.full(len(labels), -1)
    place[labelled] = np.arange(len(labelled))
    queries, ranks = np.nonzero((place[neighbours] >= 0) & (asked >= 0)[:, None])
    found, wanted = place[neighbours[queries, ranks]], asked[queries]
    if not len(found) or (classes == classes[0]).all():
        return []
    random = np.random.RandomState(0)
    of_labelled = None if clusters is None else clusters[labelled]
    shares = [float((classes[found] == wanted).mean())]
    for _ in range(PERMUTATIONS):
        drawn = classes[permute(random, len(classes), of_labelled)]
        shares.append(float((drawn[found] == wanted).mean()))
    chance = float(np.mean([(classes == one).mean() for one in wanted]))
    unknown = math.nan  # more images have other neighbours
    claim = Claim(ASKED, shares[0], unknown, unknown, Reference(CHANCE, chance), len(found))
    return [by_permutations(claim, p_of(np.array(shares[1:]), shares[0], ROUNDING))]


def _of_same_class(labels: Int64, neighbours: Int64, clusters: Int64 | None = None) -> list[Claim]:
    """Hold the share of neighbours (N, k) of the same class against permuted labels (N,).

    Rows without a class do not count, nor do neighbours in the own cluster (N,). Nothing is claimed
    of a single class.
    """
    if clusters is not None:
        is_own = clusters[neighbours] == clusters[:, None]
        neighbours = np.where(is_own, -1, neighbours)
    labelled = np.flatnonzero(labels >= 0)
    place = np.full(len(labels) + 1, -1)  # the last is for no neighbour
    place[labelled] = np.arange(len(labelled))
    found = place[neighbours[labelled]]
    of_labelled = None if clusters is None else clusters[labelled]
    queries, ranks = np.nonzero(found >= 0)
    others, classes = found[queries, ranks], labels[labelled]
    if not len(queries) or (classes == classes[0]).all():
        return []
    random, n = np.random.RandomState(0), len(classes)
    shares = [float((classes[queries] == classes[others]).mean())]
    for _ in range(PERMUTATIONS):
        drawn = classes[permute(random, n, of_labelled)]
        shares.append(float((drawn[queries] == drawn[others]).mean()))
    counts = np.unique(classes, return_counts=True)[1]
    chance = float((counts * (counts - 1)).sum() / (n * (n - 1)))
    return [of_draws("neighbours of the same class:", shares[0], chance, np.array(shares[1:]), n)]


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

    @property
    def clusters(self) -> Int64 | None:
        """The clusters of images that depend on each other, if there are any."""
        return own_clusters(self.file, self.split) if self.split else None

    @property
    def where(self) -> str:
        """What errors call the embeddings."""
        return f"{self.file.display_name}: {self.split}".removesuffix(": ")

    @cached_property
    def rows(self) -> BlockMatrix:
        """The embeddings, of any length."""
        similarity.refuse_dot_product(self.file, "to rank by", similarity.ONE_TOKEN_HINT)
        features = self.file.splits[self.split].features if self.split else self.file.features
        return BlockMatrix.from_array(features)

    def unit_rows(self) -> Float32:
        """Return the embeddings (N, D), scaled to length 1 as they are read."""
        unit = np.empty(self.rows.shape, np.float32)
        start = 0
        for block in self.rows.iter_blocks():
            unit[start : start + len(block)] = similarity.normalize(block, self.where, start)
            start += len(block)
        return unit


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
        nearest.add(np.ascontiguousarray(block.T), np.arange(start, start + len(block)))
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

"""Alignment: whether two models hold the same images, or images and their texts, alike.

Mutual kNN is the mean share of a row's k nearest neighbours that both have (Huh et al. 2024). CKA
is linear and unbiased (Song et al. 2012). In the null, the rows of one model are permuted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipkit.analysis import pairing, retrieval, similarity
from clipkit.analysis.metrics import falling_order
from clipkit.analysis.results import Row, make_result
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features.compatibility import is_same_model
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile, Floats, Int64

PERMUTATIONS = 200
MEASURES = ("mutual_knn", "cka")
SAME = 1e-9  # components of unit rows that differ by less are equal


class Space(NamedTuple):
    """What the measures use of N rows."""

    centred: Floats  # (N, D)
    neighbours: Int64  # (N, k)
    spread: float  # `hsic` of the rows with themselves


def align(
    files: Sequence[FeatureFile],
    split: str | None = None,
    *,
    k: int = 10,
    blind: int | None = None,
    same_rows: bool = False,
    common: bool = True,
    seed: int = 42,
) -> FeatureFile:
    """Compare what models hold of the same rows: what `clipkit align` reports.

    Files of images are matched by ids as in `comparison.pair`; images and texts as by `retrieve`,
    with the first text of each image. With more than two files, all layers of the first model are
    compared with all others or, if there are no others, with each other. `k` is the number of
    neighbours, `blind` a number of `blind_pairs` to list instead. Unless `common`, rows that a file
    lacks are refused.

    Returns
    -------
    FeatureFile
        A result with a run per pair of files `a` and `b` and `measure` of MEASURES: `similarity`, 1
        for equal cosines; `similarity_null`, its exact mean over permutations; `similarity_null95`,
        the 95th percentile of its maximum over all pairs of files, in PERMUTATIONS and as the rows
        are; `p`, the share of these maxima that reach it; and `calibrated`, its part of the way
        from `similarity_null95` to 1, at least 0. See arXiv 2602.14486, algorithm 2.
    """
    first, split, ids, features = _match(files, split, same_rows=same_rows, common=common)
    n, least = len(ids), max(k + 2, 4)  # of `hsic`
    if n < least:
        message = f"expected at least {least} rows that all files have, got {n}"
        raise ClipkitError(message, "choose a smaller -k" if n >= 4 else None)
    files, features = _without_constant(files, features)
    if blind is None:
        rows = _compare(files, features, k, seed)
    else:
        rows = blind_pairs(features, ids, k, blind)
    inputs = {f"b{number}" if number else "a": file.digest for number, file in enumerate(files)}
    settings = {"k": k, "blind": blind, "same_rows": same_rows or None, "seed": seed}
    settings["common"] = None if common else False
    history = first.extended_history("align", splits=[split], **settings, inputs=inputs)
    rows = [{"split": split, "rows": n, "k": k} | row for row in rows]
    return make_result(history, rows, display_name=files[0].display_name)


class _Rows(NamedTuple):
    """The N rows that all files have."""

    first: FeatureFile  # with the split
    split: str
    ids: list[str]  # (N,)
    features: list[Floats]  # (N, D) of each file, of length 1


def _match(
    files: Sequence[FeatureFile], split: str | None, *, same_rows: bool, common: bool
) -> _Rows:
    """Match the rows of files by their ids; leave out those that a file lacks, or refuse them."""
    kinds = [file.kind for file in files]
    if len(files) < 2 or ("texts" in kinds and kinds != ["images", "texts"]):
        hint = None
        if kinds == ["texts", "images"]:
            hint = f"swap the two: {files[1].display_name} holds the images"
        expected = "expected two or more files of images, or one of images and one of texts"
        raise UsageError(expected, hint)
    first, split = choose_split(files[0], split)
    if "texts" in kinds:
        pairs = retrieval.pair(first, files[1], split, same_rows=same_rows, common=common)
        first_texts = np.unique(pairs.image_of, return_index=True)[1]
        features = [pairs.images, pairs.texts[first_texts]]
        return _Rows(first, split, pairs.ids, features)
    matched, splits = [first], [split]
    for file in files[1:]:
        chosen, name = pairing.same_split(file, first, split, same_rows)
        matched.append(chosen)
        splits.append(name)
    orders = pairing.match_ids(matched, splits, common)
    features = []
    for file, name, order in zip(matched, splits, orders, strict=True):
        rows_of_file = np.asarray(file.splits[name].features, np.float64)[order]
        features.append(similarity.normalize(rows_of_file, file.display_name))
    return _Rows(first, split, first.splits[split].take(orders[0]).ids, features)


def _without_constant(
    files: Sequence[FeatureFile], features: list[Floats]
) -> tuple[list[FeatureFile], list[Floats]]:
    """Leave out files whose rows are all equal, as the class token is before the first layer."""
    names, kept = [], []
    for number, (file, rows_of_file) in enumerate(zip(files, features, strict=True)):
        if np.ptp(rows_of_file, axis=0).max() > SAME:
            kept.append(number)
        else:
            names.append(file.display_name)
    if names and len(kept) < 2:
        raise ClipkitError(
            f"{names[0]}: expected rows with different cosines, got equal ones",
            "layer 0 of the class token is the same for all images: leave it out",
        )
    if names:
        console.note(f"left out {', '.join(names)}: all rows are equal")
    return [files[number] for number in kept], [features[number] for number in kept]


def _compare(
    files: Sequence[FeatureFile], features: Sequence[Floats], k: int, seed: int
) -> list[Row]:
    model = files[0].history.model
    left = [i for i, file in enumerate(files) if is_same_model(file.history.model, model)]
    right = [i for i in range(len(files)) if i not in left] or left
    if len(files) == 2:
        left, right = [0], [1]
    spaces = []
    for number, (file, rows_of_file) in enumerate(zip(files, features, strict=True)):
        spaces.append(make_space(rows_of_file, k, file.display_name, number))
    random, n = np.random.RandomState(seed), len(features[0])
    orders = [np.arange(n), *(random.permutation(n) for _ in range(PERMUTATIONS))]
    found = np.empty((len(orders), len(left), len(right), len(MEASURES)))
    with console.progress("permuting rows", "permutations") as report_progress:
        for done, order in enumerate(orders):
            for i, j in np.ndindex(found.shape[1:3]):
                found[done, i, j] = measure(spaces[left[i]], spaces[right[j]], order)
            report_progress(done + 1, len(orders))
    largest = found.max(axis=(1, 2))  # (1 + PERMUTATIONS, 2)
    null95 = np.quantile(largest, 0.95, axis=0, method="inverted_cdf")
    names = pairing.name_files(files, range(len(files)))
    rows: list[Row] = []
    for i, j, m in np.ndindex(found.shape[1:]):
        value, limit = found[0, i, j, m], null95[m]
        row: Row = {"a": names[left[i]], "b": names[right[j]], "measure": MEASURES[m]}
        row |= {"similarity": value, "similarity_null": (k / (n - 1), 0.0)[m]}
        row |= {"similarity_null95": limit, "p": (largest[:, m] >= value).mean()}
        rows.append(row | {"calibrated": max(0.0, (value - limit) / max(1 - limit, 1e-9))})
    return rows


def make_space(features: Floats, k: int, name: str = "features", seed: int = 42) -> Space:
    """Return what the measures use of rows (N, D) of length 1.

    Rows with the same cosine are neighbours in a random order, with another `seed` for each file:
    if all files took the first rows, their neighbours would be the same whatever the models hold.
    """
    centred = features - features.mean(axis=0, dtype=np.float64)
    spread = hsic(centred, centred)
    if spread <= max(1e-20, 1e-12 * np.square(centred).sum(axis=1).mean() ** 2):
        raise ClipkitError(f"{name}: expected rows with different cosines, got equal ones")
    order = np.random.RandomState(seed).permutation(len(features))
    shuffled, neighbours = features[order], np.empty((len(features), k), np.int64)
    neighbours[order] = order[retrieval.nearest(shuffled, shuffled, k, skip_self=True)]
    return Space(centred, neighbours, spread)


def measure(a: Space, b: Space, order: Int64) -> tuple[float, float]:
    """Return the mutual kNN and the CKA of rows (N) of `a` with the rows `order` (N) of `b`."""
    neighbours = np.argsort(order)[b.neighbours[order]]  # in the new numbering
    shared = sum(np.count_nonzero(a.neighbours == column[:, None]) for column in neighbours.T)
    cka = hsic(a.centred, b.centred[order]) / np.sqrt(a.spread * b.spread)
    return shared / neighbours.size, cka


def hsic(x: Floats, y: Floats) -> float:
    """Return the unbiased HSIC of centred rows (N, D) and (N, E) with linear kernels.

    Equation 5 of Song et al. (2012) leaves out the diagonals of x x' and y y', so that the other
    entries of a row, which sums to zero, sum to the diagonal's negative.
    """
    n = len(x)
    a, b = np.square(x).sum(axis=1), np.square(y).sum(axis=1)  # the diagonals
    products = np.square(x.T @ y).sum() - n / (n - 2) * (a @ b)
    return float((products + a.sum() * b.sum() / ((n - 1) * (n - 2))) / (n * (n - 3)))


def blind_pairs(features: Sequence[Floats], ids: Sequence[str], k: int, count: int) -> list[Row]:
    """List pairs of rows that are similar to one model and not to another, by rank.

    Return rows `id` and their neighbours `other` in the first of two files that have the highest
    `rank_b` in the second, with both cosines; each row once. `blind` is the share of all neighbours
    in the farther half of the second file, and `blind_null` this share for independent models.
    """
    if len(features) > 2:
        raise UsageError(f"--blind: expected two files, got {len(features)}")
    a, b = features
    n = len(a)
    neighbours = retrieval.nearest(a, a, k, skip_self=True)
    ranks = np.empty_like(neighbours)
    for first, last, cosines in retrieval.blocks(b, b):
        order = (-cosines).argsort(axis=1, kind="stable")
        ranks_of_all = order.argsort(axis=1)  # 0 is the row itself
        ranks[first:last] = np.take_along_axis(ranks_of_all, neighbours[first:last], axis=1)
    shares = {"blind": float((2 * ranks > n).mean()), "blind_null": (n - 1) // 2 / (n - 1)}
    pairs: list[Row] = []
    used: set[int] = set()
    for place in falling_order(ranks.ravel()).tolist():
        row, other = place // k, int(neighbours.flat[place])
        if len(pairs) < count and used.isdisjoint((row, other)):
            used |= {row, other}
            pair: Row = {"id": ids[row], "other": ids[other], "rank_b": int(ranks.flat[place])}
            pair |= {"cosine_a": a[row] @ a[other], "cosine_b": b[row] @ b[other]}
            pairs.append(pair | shares)
    return pairs

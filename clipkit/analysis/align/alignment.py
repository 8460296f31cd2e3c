"""Alignment: whether two models hold the same images, or images and their texts, alike.

Mutual kNN is the mean share of a row's k nearest neighbours that both have (Huh et al. 2024). CKA
is linear and unbiased (Song et al. 2012). In the null, the rows of one model are permuted.

Rows of one cluster, such as the frames of a video, are alike to every model. One row of each is
compared at a time, so that no row has neighbours in its own cluster, and clusters are permuted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipkit.analysis.compare import pairing
from clipkit.analysis.nearest.neighbours import find
from clipkit.analysis.results import Row, make_result
from clipkit.analysis.retrieve import retrieval
from clipkit.analysis.row_clusters import find_clusters
from clipkit.base import console, suggestions
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import Floats, Int64
from clipkit.base.names import positions
from clipkit.features import similarity
from clipkit.features.arguments import Features, Several, as_files, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.compatibility import is_same_model
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.statistics.dependence import DRAWS, permute
from clipkit.statistics.metrics import falling_order

PERMUTATIONS = DRAWS
TAKEN = 10  # most draws of one row of each cluster
MANY_EQUAL = 0.05  # of the rows
MEASURES = ("mutual_knn", "cka")
SAME = 1e-9  # components of unit rows that differ by less are equal


class Space(NamedTuple):
    """What the measures use of N rows."""

    centred: Floats  # (N, D)
    neighbours: Int64  # (N, k)
    spread: float  # `hsic` of the rows with themselves


@checked
def align(  # noqa: PLR0913 (the options of `clipkit align`)
    files: Several[Features],
    split: str | None = None,
    *,
    k: int = 10,
    blind: int | None = None,
    same_rows: bool = False,
    common: bool = True,
    seed: int = 42,
    table: Table | None = None,
    cluster: str | None = None,
) -> FeatureFile:
    """Compare what models hold of the same rows: what `clipkit align` reports.

    Files of images are matched by ids as in `comparison.pair`; images and texts as by `retrieve`,
    with the first text of each image. With more than two files, all layers of the first model are
    compared with all others or, if there are no others, with each other. `k` is the number of
    neighbours, `blind` a number of `blind_pairs` to list instead. Unless `common`, rows that a file
    lacks are refused. With `cluster`, an attribute of `table` or ``class``, one row of each of its
    values is compared at a time; see `draw_rows`.

    Returns
    -------
    FeatureFile
        A result with a run per pair of files `a` and `b` and `measure` of MEASURES: `similarity`, 1
        for equal cosines; `similarity_null`, its exact mean over permutations; `similarity_null95`,
        the 95th percentile of its maximum over all pairs of files, in PERMUTATIONS and as the rows
        are; `p`, the share of these maxima that reach it, at least `p_min`; and `calibrated`, its
        part of the way from `similarity_null95` to 1, at least 0. See arXiv 2602.14486, algorithm
        2. With `cluster`, `clusters` is the number of values.
    """
    files = as_files(files, "files", "images texts")
    first, split, ids, features = _match(files, split, same_rows=same_rows, common=common)
    if cluster is not None and blind is not None:
        raise UsageError("expected --blind without --cluster, got both")
    row_of = positions(first.splits[split].ids)
    used = np.array([row_of[row_id] for row_id in ids])
    clusters = find_clusters(first, split, used, table, cluster, common=common)
    taken = draw_rows(clusters.numbers, len(ids), seed)
    n = taken.shape[1]
    _check_enough(n, k, clusters.numbers is not None)
    files, features = _without_constant(files, features)
    if blind is None:
        rows = _compare(files, features, k, seed, taken)
        if clusters.numbers is None:
            _note_equal_rows(files, features)
    else:
        rows = blind_pairs(files, features, ids, k, blind)
    inputs = {f"b{number}" if number else "a": file.digest for number, file in enumerate(files)}
    settings = {"k": k, "blind": blind, "same_rows": same_rows or None, "seed": seed}
    settings["common"] = None if common else False
    history = first.extended_history(
        "align", splits=[split], **settings, **clusters.entry, inputs=inputs | clusters.inputs
    )
    head: Row = {"split": split, "rows": len(ids), "k": k}
    if clusters.numbers is not None:
        head["clusters"] = n
    rows = [head | row for row in rows]
    return make_result(history, rows, display_name=files[0].display_name)


def _check_enough(n: int, k: int, has_clusters: bool) -> None:
    """Refuse fewer rows, or clusters, than the measures need."""
    least = max(k + 2, 4)  # of `hsic`
    if n < least:
        what = "clusters" if has_clusters else "rows that all files have"
        message = f"expected at least {least} {what}, got {n}"
        raise ClipkitError(message, "choose a smaller -k" if n >= 4 else None)


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
        name = suggestions.path(files[0].display_name)
        more = suggestions.command("clipkit", "align", name, "OTHER.h5")
        hint = f"add another model's: {more}"
        if kinds == ["texts", "images"]:
            hint = f"swap the two: {files[1].display_name} holds the images"
        expected = "files: expected two or more of images, or one of images and one of texts"
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


def _sides(files: Sequence[FeatureFile]) -> tuple[list[int], list[int]]:
    """Return the numbers of the files that are compared, and of those that they are compared with.

    These are the files of the first one's model, and the others or, if there are none, the same.
    """
    model = files[0].history.model
    left = [i for i, file in enumerate(files) if is_same_model(file.history.model, model)]
    right = [i for i in range(len(files)) if i not in left] or left
    if len(files) == 2:
        left, right = [0], [1]
    return left, right


def _measure_orders(
    left: Sequence[Space], right: Sequence[Space], orders: Sequence[Int64]
) -> Floats:
    """Return MEASURES of all pairs of files for each order of the rows, (orders, A, B, 2)."""
    found = np.empty((len(orders), len(left), len(right), len(MEASURES)))
    with console.progress("permuting rows", "permutations") as report_progress:
        for done, order in enumerate(orders):
            for i, j in np.ndindex(found.shape[1:3]):
                found[done, i, j] = measure(left[i], right[j], order)
            report_progress(done + 1, len(orders))
    return found


def draw_rows(clusters: Int64 | None, n: int, seed: int = 42) -> Int64:
    """Return rows (R, G) of the G clusters (N,) of n rows, one of each, in their order.

    Each of the R draws takes other rows, as far as a cluster has others: R is the size of the
    largest cluster, at most TAKEN. Without clusters, return all rows once.
    """
    if clusters is None:
        return np.arange(n)[None]
    order = np.random.RandomState(seed).permutation(n)
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    members = order[np.argsort(index[order], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    draws = range(min(TAKEN, int(sizes.max())))
    return np.stack([np.sort(members[starts + draw % sizes]) for draw in draws])


def _note_equal_rows(files: Sequence[FeatureFile], features: Sequence[Floats]) -> None:
    """Note if many rows are equal in all files: they are neighbours to any model."""
    places = []
    for rows in features:
        rounded = np.round(rows, 5) + 0.0  # no -0
        places.append(np.unique(rounded, axis=0, return_inverse=True)[1].ravel())
    _, counts = np.unique(np.stack(places, axis=1), axis=0, return_counts=True)
    equal = int(counts[counts > 1].sum())
    if equal > MANY_EQUAL * len(features[0]):
        names = " and ".join(pairing.name_files(files, range(len(files))))
        console.note(
            f"{names}: {equal:,} of {len(features[0]):,} rows are equal to another row in all "
            "files, so that p is too small; hint: compare one of each with --cluster"
        )


def _compare(
    files: Sequence[FeatureFile], features: Sequence[Floats], k: int, seed: int, taken: Int64
) -> list[Row]:
    """Return the rows of all pairs of files, as means over draws of rows `taken` (R, G)."""
    left, right = _sides(files)
    random, n = np.random.RandomState(seed), taken.shape[1]
    orders = [np.arange(n), *(permute(random, n) for _ in range(PERMUTATIONS))]
    found = np.zeros((len(orders), len(left), len(right), len(MEASURES)))
    for drawn in taken:
        spaces = []
        for number, (file, rows_of_file) in enumerate(zip(files, features, strict=True)):
            spaces.append(make_space(rows_of_file[drawn], k, file.display_name, number))
        of_files = [spaces[i] for i in left], [spaces[j] for j in right]
        found += _measure_orders(*of_files, orders) / len(taken)
    largest = found.max(axis=(1, 2))  # (1 + PERMUTATIONS, 2)
    null95 = np.quantile(largest, 0.95, axis=0, method="inverted_cdf")
    names = pairing.name_files(files, range(len(files)))
    rows: list[Row] = []
    for i, j, m in np.ndindex(found.shape[1:]):
        value, limit = found[0, i, j, m], null95[m]
        row: Row = {"a": names[left[i]], "b": names[right[j]], "measure": MEASURES[m]}
        row |= {"similarity": value, "similarity_null": (k / (n - 1), 0.0)[m]}
        row |= {"similarity_null95": limit, "p": (largest[:, m] >= value).mean()}
        row["p_min"] = 1 / len(largest)
        rows.append(row | {"calibrated": max(0.0, (value - limit) / max(1 - limit, 1e-9))})
    return rows


def make_space(features: Floats, k: int, name: str = "features", seed: int = 42) -> Space:
    """Return what the measures use of rows (N, D) of length 1.

    Rows with the same cosine are neighbours in a random order, with another `seed` for each file:
    if all files took the first rows, their neighbours would be the same whatever the models hold.
    """
    centred, spread = check_spread(features, name)
    order = np.random.RandomState(seed).permutation(len(features))
    shuffled, neighbours = features[order], np.empty((len(features), k), np.int64)
    neighbours[order] = order[find(shuffled, shuffled, k, skip_self=True).rows]
    return Space(centred, neighbours, spread)


def check_spread(features: Floats, name: str) -> tuple[Floats, float]:
    """Return the centred rows (N, D) and their `hsic`; refuse rows with equal cosines."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    spread = hsic(centred, centred)
    if spread <= max(1e-20, 1e-12 * np.square(centred).sum(axis=1).mean() ** 2):
        raise ClipkitError(f"{name}: expected rows with different cosines, got equal ones")
    return centred, spread


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


def blind_pairs(
    files: Sequence[FeatureFile], features: Sequence[Floats], ids: Sequence[str], k: int, count: int
) -> list[Row]:
    """List pairs of rows that are similar to one model and not to another, by rank.

    Return rows `id` and their neighbours `other` in the first of two files that have the highest
    `rank_b` in the second, with both cosines; each row once. `blind` is the share of all neighbours
    in the farther half of the second file, and `blind_null` this share for independent models.
    Equal cosines share the mean of their ranks.
    """
    if len(features) > 2:
        raise UsageError(f"--blind: expected two files, got {len(features)}")
    for file, rows_of_file in zip(files, features, strict=True):
        check_spread(rows_of_file, file.display_name)
    a, b = features
    n = len(a)
    neighbours = np.sort(find(a, a, k, skip_self=True).rows)
    ranks = np.empty(neighbours.shape)
    for first, last, cosines in retrieval.blocks(b, b):
        cosines[np.arange(last - first), np.arange(first, last)] = -np.inf  # with itself
        own = np.take_along_axis(cosines, neighbours[first:last], axis=1)
        for place, limits in enumerate(own.T[:, :, None]):
            ahead = (cosines > limits + retrieval.TIE).sum(axis=1)
            equal = (cosines >= limits - retrieval.TIE).sum(axis=1) - ahead
            ranks[first:last, place] = ahead + (equal + 1) / 2
    shares = {"blind": float((2 * ranks > n).mean()), "blind_null": (n - 1) // 2 / (n - 1)}
    pairs: list[Row] = []
    used: set[int] = set()
    for place in falling_order(ranks.ravel()).tolist():
        row, other = place // k, int(neighbours.flat[place])
        if len(pairs) < count and used.isdisjoint((row, other)):
            used |= {row, other}
            pair: Row = {"id": ids[row], "other": ids[other], "rank_b": float(ranks.flat[place])}
            pair |= {"cosine_a": a[row] @ a[other], "cosine_b": b[row] @ b[other]}
            pairs.append(pair | shares)
    return pairs

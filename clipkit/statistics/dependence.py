"""Rows that depend on each other: their clusters, and every test, interval and power.

Rows of one cluster, such as the captions of an image or the images of a patient, move together:
a permutation gives a cluster the rows of another one, and a flip changes the sign of all its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.base.matrices import Floats, Int64
from clipkit.statistics import metrics

FEW = 30  # clusters, with which intervals hold the true value less often than in 95 % of draws
LEAST = 6  # clusters that differ: all signs of five equal ones have p 2 / 2^5, above LEVEL
LEVEL = 0.05
POWER = 0.8
DRAWS = 200
SEED = 42
ALL_FLIPS = 14  # clusters: of these, all choices of signs are tried
FLIPS = 9_999  # choices of signs of more clusters
POWER_DRAWS, POWER_FLIPS = 1_000, 499
WORST_DRAWS = 1_000
AT_ONCE = 1 << 22  # numbers
ROUNDING = 1e-5  # relative difference of equal sums of float32


# ---- Clusters ------------------------------------------------------------------------------------


def components(members: Int64) -> Int64:
    """Return the cluster (N,), from 0, of rows with I members each (N, I), such as images.

    Rows that share a member are in one cluster, also by way of other rows.

    >>> components(np.array([[0, 1], [2, 3], [1, 4]])).tolist()
    [0, 1, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, width = members.shape
    _, numbers = np.unique(members, return_inverse=True)
    rows, nodes = np.repeat(np.arange(n), width), n + numbers.ravel()
    size = n + int(numbers.max()) + 1
    graph = coo_array((np.ones(len(rows), bool), (rows, nodes)), shape=(size, size))
    _, found = connected_components(graph, directed=False)
    return np.asarray(np.unique(found[:n], return_inverse=True)[1], np.int64)


def join(sources: Sequence[Int64]) -> Int64:
    """Return the clusters (N,) that keep the clusters (N,) of several sources whole.

    >>> join([np.array([5, 5, 7, 8]), np.array([0, 1, 1, 2])]).tolist()
    [0, 0, 0, 1]
    """
    members, start = [], 0
    for source in sources:
        numbers = np.unique(source, return_inverse=True)[1]
        members.append(numbers + start)
        start += int(numbers.max()) + 1
    return components(np.stack(members, axis=1))


def unless_separate(clusters: Int64) -> Int64 | None:
    """Return clusters (N,); None if each row is one, which a result does not keep.

    >>> unless_separate(np.array([4, 2])) is None
    True
    """
    return None if len(np.unique(clusters)) == len(clusters) else clusters


# ---- Permutations --------------------------------------------------------------------------------


def permute(random: Any, n: int, clusters: Int64 | None = None) -> Int64:
    """Return for each of n rows the row that it receives, in a permutation of whole clusters.

    A larger cluster receives the rows of a smaller one repeatedly. `random` is a RandomState or a
    Generator.
    """
    if clusters is None:
        return np.asarray(random.permutation(n))
    _, first, index = np.unique(clusters, return_index=True, return_inverse=True)
    index = np.argsort(np.argsort(first))[index]  # in the order of the rows
    sizes = np.bincount(index)
    order = np.argsort(index, kind="stable")
    starts = np.cumsum(sizes) - sizes
    place = np.empty(n, np.int64)  # within the cluster
    place[order] = np.arange(n) - np.repeat(starts, sizes)
    donor = np.asarray(random.permutation(len(sizes)))[index]
    return np.asarray(order[starts[donor] + place % sizes[donor]])


def cycle(random: Any, n: int) -> Int64:
    """Return for each of n rows, at least 2, another row: a random cycle through all of them."""
    order = np.asarray(random.permutation(n))
    received = np.empty(n, np.int64)
    received[order] = np.roll(order, 1)
    return received


def rotation(random: Any, D: int) -> Floats:
    """Return a random orthogonal matrix (D, D)."""
    return np.asarray(np.linalg.qr(random.standard_normal((D, D)))[0])


def signed_sums(parts: Floats) -> Floats:
    """Return the sums (DRAWS, D) of the parts (G, D) of clusters, with random signs."""
    signs = np.random.RandomState(SEED).choice([-1.0, 1.0], (DRAWS, len(parts)))
    return np.asarray(signs @ parts)


def critical(drawn: Floats) -> float:
    """Return the largest value of which the p among draws (R,) is above 5 %; NaN for few draws.

    p counts the draws that are as large, and the observed value itself.

    >>> critical(np.arange(300.0)), critical(np.arange(10.0))
    (285.0, nan)
    """
    place = int(LEVEL * (len(drawn) + 1))
    if place < 1:
        return np.nan
    return float(np.sort(drawn)[-place])


def p_of(drawn: Floats, value: float, tolerance: float = 0) -> float:
    """Return the share of draws (R,), and of the observed `value`, that are as large."""
    return float((np.count_nonzero(drawn >= value - tolerance) + 1) / (len(drawn) + 1))


# ---- Signs of paired differences -----------------------------------------------------------------


class PairedTest(NamedTuple):
    """The test that a mean difference is 0: a 95 % interval, log10 of p, and what it would show."""

    low: float
    high: float
    log10_p: float
    mde80: float


def paired_test(differences: ArrayLike, clusters: Int64 | None = None) -> PairedTest:
    """Test the mean of differences (N,) between -1 and 1, whole numbers, in clusters (N,).

    For separate rows, p is McNemar's, the interval `difference_interval` and the power
    `detectable_difference`. So it is for clusters of one size whose rows are alike, which count as
    one row. Else, p is that of `paired_test_log10`, the interval holds all means with a p above
    5 % in that test, and the power is simulated; see `flip_interval` and `power_of_flips`.
    """
    rows = np.asarray(differences, np.int64)
    index, sums = _sums(rows, clusters)
    sizes = np.bincount(index)
    log10_p = paired_test_log10(sums)
    if (sizes == sizes[0]).all() and np.isin(sums, (-sizes[0], 0, sizes[0])).all():
        only_a, only_b, n = int((sums > 0).sum()), int((sums < 0).sum()), len(sums)
        limits = difference_interval(only_a, only_b, n)
        return PairedTest(*limits, log10_p, detectable_difference((only_a + only_b) / n, n))
    low, high = flip_interval(sums, sizes, is_different=log10_p <= np.log10(LEVEL))
    if np.count_nonzero(sums) < LEAST:  # the others do not show how far they could be
        share = metrics.effective_share(rows, index)
        gained, lost = (share * np.count_nonzero(rows == sign) for sign in (1, -1))
        wide = difference_interval(gained, lost, share * len(rows))
        low, high = min(low, wide[0]), max(high, wide[1])
    return PairedTest(low, high, log10_p, power_of_flips(sums, sizes))


def p_of_controls(
    right: NDArray[Any], by_controls: Sequence[NDArray[Any]], clusters: Int64 | None = None
) -> dict[str, float]:
    """Return the largest `control_p` of tests that N rows are as often right for a control.

    The tests are paired; see `paired_test_log10`. Without controls, return nothing.
    """
    p = []
    for control in by_controls:
        sums = _sums(right.astype(np.int64) - control, clusters)[1]
        p.append(10 ** paired_test_log10(sums))
    return {"control_p": max(p)} if p else {}


def _sums(rows: Int64, clusters: Int64 | None) -> tuple[Int64, Int64]:
    """Return the number of each row's cluster (N,), and the sums (G,) of the rows of clusters."""
    index = np.arange(len(rows))
    if clusters is not None:
        index = np.unique(clusters, return_inverse=True)[1]
    return index, np.bincount(index, rows).astype(np.int64)


def flip_interval(
    sums: Floats | Int64,
    sizes: Floats | Int64,
    times: Int64 | None = None,
    *,
    is_different: bool,
) -> tuple[float, float]:
    """Return the means that no choice of signs rejects at 5 %, for G clusters: a 95 % interval.

    `sums` (G,) are of the differences in clusters of `sizes` (G,). A mean m is rejected if few
    choices of the signs of sums - m sizes have a sum as far from 0. Such a choice has one exactly
    if m lies between the mean of the clusters that it flips and the mean of the others (Hartigan
    1969, doi:10.1080/01621459.1969.10501057), so p falls with the distance from the observed mean.
    All choices are tried for few clusters, else FLIPS. Whether 0 is rejected, `is_different`, is
    known without draws. Clusters that are alike may be given once, with their number in `times`.
    """
    times = np.ones(len(sums), np.int64) if times is None else times
    total, n = float(times @ sums), float(times @ sizes)
    lower, upper = [], []
    for flips in _flips(len(sums), times):
        of_sums, of_sizes = flips @ sums, flips @ sizes
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([of_sums / of_sizes, (total - of_sums) / (n - of_sizes)])
        # all signs or none: any mean is as far
        is_none = (of_sizes == 0) | (of_sizes >= n * (1 - ROUNDING / len(sums)))
        lower.append(np.where(is_none, -np.inf, ends.min(axis=0)))
        upper.append(np.where(is_none, np.inf, ends.max(axis=0)))
    low, high = np.sort(np.concatenate(lower)), -np.sort(-np.concatenate(upper))
    place = int(LEVEL * len(low))
    if not is_different:
        limits = min(low[place], 0.0), max(high[place], 0.0)
    elif total > 0:  # draws may miss the 5 % that all choices of signs have
        limits = max(low[place], low[low > 0][0]), high[place]
    else:
        limits = low[place], min(high[place], high[high < 0][0])
    return float(max(-1.0, limits[0])), float(min(1.0, limits[1]))


def p_of_flips(sums: Floats, times: Int64 | None = None) -> float:
    """Return the share of choices of the signs of sums whose total is as far from 0.

    `sums` (G,) are any numbers, each there so many `times` (G,), by default once. All choices are
    tried for few clusters, else FLIPS. Of whole numbers, `paired_test_log10` is exact.

    >>> p_of_flips(np.array([3.5, 2.0, 1.0]))
    0.25
    """
    total = float(sums.sum() if times is None else times @ sums)
    least = abs(total) * (1 - ROUNDING)
    as_far = [np.abs(total - 2 * flips @ sums) >= least for flips in _flips(len(sums), times)]
    return float(np.concatenate(as_far).mean())


def _flips(G: int, times: Int64 | None = None) -> list[NDArray[np.float64]]:
    """Return which of G clusters change their sign, in blocks (B, G): all choices, or FLIPS.

    The opposite choice is the same, so that the first cluster keeps its sign where all are tried.
    The choice of none is among them. Of a cluster that is there several `times` (G,), it is how
    many of them do.
    """
    if times is not None and (times == 1).all():
        times = None
    if G <= ALL_FLIPS and times is None:
        numbers = np.arange(1 << (G - 1))
        return [(numbers[:, None] >> np.arange(G)[::-1] & 1).astype(np.float64)]
    random = np.random.default_rng(SEED)
    step = max(1, AT_ONCE // G)
    blocks = [np.zeros((1, G))]
    for start in range(0, FLIPS, step):
        size = (min(step, FLIPS - start), G)
        if times is None:
            drawn = random.integers(0, 2, size, np.int8)
        else:
            drawn = random.binomial(times, 0.5, size)
        blocks.append(drawn.astype(np.float64))
    return blocks


def power_of_flips(sums: Int64, sizes: Int64) -> float:
    """Return the mean difference that flips of whole clusters show with 80 % power, by simulation.

    Other draws of G clusters have the deviations of the observed ones from their mean, with random
    signs, around another mean. NaN for fewer than LEAST clusters, which show nothing, for equal
    results, and if no difference below 1 has this power.
    """
    G = len(sums)
    deviations = (sums - sums.sum() / sizes.sum() * sizes) * np.sqrt(G / max(1, G - 1))
    if G < LEAST or not sums.any():
        return np.nan
    random = np.random.default_rng(SEED)
    drawn = random.choice([-1.0, 1.0], (G, POWER_DRAWS)) * deviations[:, None]
    if POWER_FLIPS.bit_length() >= G:
        signs = 1 - 2 * np.concatenate(_flips(G))
    else:
        signs = random.choice([-1.0, 1.0], (POWER_FLIPS, G))
        signs = np.concatenate([np.ones((1, G)), signs])  # the first are the signs as they are
    flipped = (signs @ drawn).astype(np.float32)
    flipped_sizes = (signs @ sizes)[:, None].astype(np.float32)

    def power(mean: float) -> float:
        far = np.abs(flipped + np.float32(mean) * flipped_sizes)
        return float(((far >= far[0] * (1 - ROUNDING)).mean(axis=0) <= LEVEL).mean())

    # of a normal distribution, a difference of 2.8 standard errors
    low, high = 0.0, min(1.0, 4 * float(np.linalg.norm(deviations)) / float(sizes.sum()))
    while power(high) < POWER:
        if high == 1:
            return np.nan
        low, high = high, min(1.0, 2 * high)
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def paired_test_log10(differences: ArrayLike) -> float:
    """Return log10 of the p-value of the exact test that two results are equally accurate.

    `differences` (G,) are whole numbers: the rows of a cluster that only the first result gets
    right, less those that only the second does. p is the share of all choices of their signs with a
    sum as far from 0 (Canay, Romano and Shaikh 2017, doi:10.3982/ECTA13081). It is McNemar's if
    each row is a cluster, and may be too small for a float. The sum of the negative ones has as
    characteristic function a product. Its terms are tilted, so that the observed sum is probable,
    and the inverse Fourier transform has no large relative error there.

    >>> [round(10 ** paired_test_log10(values), 9) for values in ([1] * 9 + [-1], [3, 2, 1], [0])]
    [0.021484375, 0.25, 1.0]
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    values = np.asarray(differences)
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    total = int(sizes @ counts)
    negative = (total - abs(int(values.sum()))) // 2
    if 2 * negative + 1 >= total:  # no sum is nearer to 0: all have the parity of the total
        return 0.0

    def excess(tilt: float) -> float:
        return float((counts * sizes) @ expit(-tilt * sizes)) - max(negative, 0.5)

    tilt = brentq(excess, 0, 60)
    angles = -2j * np.pi * np.fft.rfftfreq(total + 1)
    transform = np.ones_like(angles)
    for size, count, share in zip(sizes, counts, expit(-tilt * sizes), strict=True):
        transform *= (1 - share + share * np.exp(size * angles)) ** count
    tilted = np.fft.irfft(transform, total + 1)[: negative + 1]
    tail = 2 * tilted @ np.exp(tilt * (np.arange(negative + 1) - negative))
    scale = tilt * negative + counts @ np.log((1 + np.exp(-tilt * sizes)) / 2)
    return min(0.0, float((np.log(tail) + scale) / np.log(10)))


def detectable_difference(discordant: float, n: int) -> float:
    """Return the difference of two accuracies that McNemar's exact test shows with 80 % power.

    A share `discordant` of `n` rows is right in only one of the two results. p is below 5 % with
    the power P(reject | m) of a binomial test of m rows, summed over the binomial distribution of
    m. It is close to (1.96 sqrt(psi) + 0.842 sqrt(psi - d^2)) / sqrt(n) for the share psi and the
    difference d (Connor 1987). NaN if even rows that all favour one result have less power.

    >>> round(detectable_difference(0.318, 1000), 4)
    0.0508
    """
    from scipy.optimize import brentq
    from scipy.stats import binom

    spread = 6 * np.sqrt(n * discordant) + 6
    low, high = max(0, int(n * discordant - spread)), min(n, int(n * discordant + spread))
    m = np.arange(low, high + 1)
    weights = binom.pmf(m, n, discordant)
    fewer = binom.ppf(0.025, m, 0.5)  # the most rows of the other result with p below 5 %
    fewer -= binom.cdf(fewer, m, 0.5) > 0.025

    def power(difference: float) -> float:
        share = (1 + difference / discordant) / 2
        return float(weights @ (binom.cdf(fewer, m, share) + binom.cdf(fewer, m, 1 - share)))

    if not discordant or power(discordant) < POWER:
        return float("nan")
    return float(brentq(lambda difference: power(difference) - POWER, 0, discordant))


def difference_interval(only_a: float, only_b: float, n: float) -> tuple[float, float]:
    """Return a 95 % interval of the difference of two accuracies on the same `n` rows.

    `only_a` and `only_b` are the rows that one result gets right and the other wrong. It is the
    Wald interval after half a row is added to each of the four cells (both right, only a, only b,
    neither): Agresti and Min (2005, doi:10.1002/sim.1781). The differences of n + 2 rows have the
    mean (a - b) / (n + 2), where a and b are counts with their half row. The interval holds the
    observed difference, and is cut at -1 and 1.

    >>> [round(end, 4) for end in difference_interval(0, 0, 98)]
    [-0.0196, 0.0196]
    """
    mean = (only_a - only_b) / (n + 2)
    half = metrics.QUANTILE * np.sqrt(((only_a + only_b + 1) / (n + 2) - mean**2) / (n + 2))
    return float(max(-1.0, mean - half)), float(min(1.0, mean + half))


# ---- Groups --------------------------------------------------------------------------------------


def worst_group_null(sizes: Int64, n_right: int, seed: int = 42) -> Floats:
    """Return the lowest accuracy of G groups in 1,000 permutations of the right rows over all rows.

    The worst of several groups is below the mean even if the groups say nothing. `sizes` (G,) are
    at least 1. The numbers of right rows in the groups of a permutation have a multivariate
    hypergeometric distribution, from which they are drawn.
    """
    rng = np.random.RandomState(seed)
    right = np.full(WORST_DRAWS, n_right)
    wrong = np.full(WORST_DRAWS, sizes.sum() - n_right)
    lowest = np.ones(WORST_DRAWS)
    for size in sizes:
        drawn = rng.hypergeometric(right, wrong, size)
        right -= drawn
        wrong -= size - drawn
        lowest = np.minimum(lowest, drawn / size)
    return lowest

"""How many rows would decide what is not decided, if what was measured holds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from clipkit.statistics import metrics

LEVEL = 0.05  # of two-sided tests
POWER = 0.8
POWER_QUANTILE = 0.841621  # of the normal distribution, for POWER
# Times as many rows. A difference that needs more is below 0.28 of its standard errors, as in 22 %
# of the worlds where there is none: not even its sign is known.
FARTHEST = 100
HALF_NORMAL = 0.602810  # deviation of the absolute value of a standard normal number
INTERVAL, SHARE, PAIRED = "interval", "share", "paired"


def rows_needed(
    value: float,
    limits: tuple[float, float],
    against: float,
    n: float,
    against_limits: tuple[float, float] | None = None,
    kind: str = INTERVAL,
    classes: int = 0,
) -> float:
    """Return how many rows decide with 80 % power between a number and what it is held against.

    Another draw of rows decides if its 95 % interval excludes `against` or, if that has an interval
    of its own, if the two do not overlap. The number, its reference and the variance of each row
    are taken to be the measured ones. So the deviations s of the two numbers fall with the root of
    the number of rows. With z the quantile for 80 %, a draw decides in 80 % of cases if the
    intervals part when both numbers are nearer to each other, each by z s^2 / hypot(s1, s2): this
    is the most probable such pair (Hasofer and Lind 1974, doi:10.1061/JMCEA3.0001848). For half
    widths w at a distance d, the rows are ((w1 + w2 + z hypot(s1, s2)) / d)^2 times as many. Lachin
    (1981, doi:10.1016/0197-2456(81)90001-5) has it for one number, and Schenker and Gentleman
    (2001, doi:10.1198/000313001317097960) have the test by two intervals.

    Parameters
    ----------
    value : float
    limits : (float, float)
        Its 95 % interval, of which the half towards `against` counts.
    against : float
    n : float
        Rows that the interval rests on. A reference with an interval has the more rows, the more
        the number has.
    against_limits : (float, float), optional
        The 95 % interval of `against`; None or NaN for a known number.
    kind : {"interval", "share", "paired"}
        Half widths of an `interval` fall with the root of the number of rows. A `share` and its
        reference have exact intervals, as those of `metrics.exact_interval`. For few rows, or near
        0 and 1, these are far from normal. As many effective rows as give the measured interval are
        taken to be in `n` rows. `paired` is a difference of two shares on the same rows, held
        against 0; see `paired_power`.
    classes : int
        For an interval of `metrics.recall_interval`, the number of classes; 0 for other numbers.
        The four rows that this interval adds to each class count less, the more rows there are.

    Returns
    -------
    float
        Rows; fewer than `n` if fewer had sufficed. Infinite for more than FARTHEST times `n`, as
        if the number equals its reference. NaN if a limit is NaN, or if the interval has no end on
        the side of the reference.

    >>> round(rows_needed(0.16, (0.06, 0.26), 0.1, 50))
    284
    """
    low, high = limits
    if kind == PAIRED:
        return _paired_rows(value - against, low - against, high - against, n)
    bottom, top = against_limits or (against, against)
    if math.isnan(bottom) or math.isnan(top):
        bottom = top = against
    if value < against:  # mirrored, so that the number is above its reference
        value, low, against, top = 1 - value, 1 - high, 1 - against, 1 - bottom
    if value == against and low < value:
        return math.inf
    if not (value > against and value > low and top >= against):
        return math.nan
    if kind == SHARE:
        return n * _factor_of_shares(value, low, against, top)
    if classes:
        return n * _factor_of_recalls(value, value - low, against, top - against, n, classes)
    halves = value - low, top - against
    apart = sum(halves) + POWER_QUANTILE * math.hypot(*halves) / metrics.QUANTILE
    factor = (apart / (value - against)) ** 2
    return n * factor if factor <= FARTHEST else math.inf


def error_rows(error: float, null: float, limit: float, n: float) -> float:
    """Return about how many rows decide with 80 % power that a softmax is miscalibrated.

    The error of a calibrated model, its deviation and its limit fall with the root of the number of
    rows. What is left is the model's own error: the squares of the two add up. A calibrated model's
    error is a mean of absolute values, which vary less than those of errors in one direction. In
    seven simulated worlds, so many rows decided in 64 to 98 % of draws.

    Parameters
    ----------
    error : float
        The expected calibration error on n rows.
    null, limit : float
        The mean and the 97.5 % quantile of a calibrated model's error on these rows.
    n : float

    Returns
    -------
    float
        Rows; infinite for more than FARTHEST times `n`, as if the error is at most the null's.

    >>> round(error_rows(0.025, 0.02, 0.03, 600))
    2608
    """
    if error <= null:
        return math.inf
    deviation = (limit - null) / metrics.QUANTILE / HALF_NORMAL
    needed = limit + POWER_QUANTILE * deviation
    factor = (needed**2 - null**2) / (error**2 - null**2)
    return n * factor if factor <= FARTHEST else math.inf


def variance_rows(share: float, limit: float, n: float, level: float = LEVEL) -> float:
    """Return about how many rows decide with 80 % power that an attribute explains variance.

    The limit, which 1 - level / 2 of unrelated attributes are below, falls with the number of rows,
    as do the deviations of their shares. In four simulated worlds, so many rows decided in 53 % of
    draws of one-dimensional embeddings, and in 82 to 89 % of others.

    Parameters
    ----------
    share : float
        The share of the variance on n rows, adjusted.
    limit : float
    n : float
    level : float

    Returns
    -------
    float
        Rows; infinite for more than FARTHEST times `n`.

    >>> round(variance_rows(0.0286, 0.0329, 60))
    118
    """
    from scipy.special import ndtri

    deviation = limit / float(ndtri(1 - level / 2)) / HALF_NORMAL
    if not share > 0:
        return math.inf
    factor = (limit + POWER_QUANTILE * deviation) / share
    return n * factor if factor <= FARTHEST else math.inf


def _factor_of_shares(share: float, low: float, other: float, other_high: float) -> float:
    """Return how many times the rows decide that a share is above another one."""
    rows, other_rows = _effective_rows(share, low), math.inf
    if other_high > other:
        other_rows = _effective_rows(1 - other, 1 - other_high)
    if math.isnan(rows) or math.isnan(other_rows):
        return math.nan

    def gap(factor: float) -> float:
        variance = share * (1 - share) / rows / factor
        down, up = _steps(variance, other * (1 - other) / other_rows / factor)
        bottom = _lower_limit(max(0.0, share - down), rows * factor)
        top = other
        if other_high > other:
            top = 1 - _lower_limit(max(0.0, 1 - other - up), other_rows * factor)
        return bottom - top

    return _least_factor(gap, 1 / rows)


def _factor_of_recalls(
    recall: float, half: float, other: float, other_half: float, n: float, classes: int
) -> float:
    """Return how many times the rows decide that a mean recall is above another number."""
    variance, other_variance = (_recall_variance(width, n, classes) for width in (half, other_half))

    def gap(factor: float) -> float:
        rows = n * factor
        down, up = _steps(variance / rows, other_variance / rows)
        # p (1 - p) of a class whose recall p moves so far
        moved = variance + down * (2 * recall - 1) - down**2
        bottom = recall - down - _recall_half(moved, rows, classes)
        top = other + up
        if other_half > 0:
            moved = other_variance + up * (1 - 2 * other) - up**2
            top += _recall_half(moved, rows, classes)
        return bottom - top

    return _least_factor(gap, classes / n)


def _recall_half(variance: float, n: float, classes: int) -> float:
    """Return the half width of `metrics.recall_interval` by the variance p (1 - p) of a row.

    Each class has four more rows, two of them right.
    """
    of_class = n / classes
    widened = (max(0.0, variance) * of_class**2 + 2 * of_class + 4) / (of_class + 4) ** 2
    return metrics.QUANTILE * math.sqrt(widened / n)


def _recall_variance(half: float, n: float, classes: int) -> float:
    """Return the variance of which `_recall_half` is a half width, or 0 if none is as narrow."""
    of_class = n / classes
    widened = n * (half / metrics.QUANTILE) ** 2
    return max(0.0, (widened * (of_class + 4) ** 2 - 2 * of_class - 4) / of_class**2)


def _steps(variance: float, other_variance: float) -> tuple[float, float]:
    """Return how far two numbers come nearer to each other in the pair of `rows_needed`."""
    total = variance + other_variance
    if not total:
        return 0.0, 0.0
    step = POWER_QUANTILE / math.sqrt(total)
    return step * variance, step * other_variance


def _least_factor(gap: Callable[[float], float], nearest: float) -> float:
    """Return where a gap between two intervals opens; infinite beyond FARTHEST."""
    from scipy.optimize import brentq

    if gap(nearest) >= 0:
        return nearest
    if gap(FARTHEST) < 0:
        return math.inf
    return float(brentq(gap, nearest, FARTHEST, rtol=1e-9))


def _lower_limit(share: float, n: float) -> float:
    """Return the lower limit of the exact interval of a share of `n` rows."""
    from scipy.special import betaincinv

    return float(betaincinv(n * share, n * (1 - share) + 1, LEVEL / 2)) if share > 0 else 0.0


def _effective_rows(share: float, low: float) -> float:
    """Return the number of rows of which the exact interval of a share has a lower limit."""
    from scipy.optimize import brentq
    from scipy.special import betainc

    if low <= 0:
        return math.nan

    def excess(log_rows: float) -> float:
        rows = math.exp(log_rows)
        return float(betainc(rows * share, rows * (1 - share) + 1, low)) - LEVEL / 2

    return math.exp(brentq(excess, math.log(1e-6), math.log(1e12)))


# ---- Paired differences --------------------------------------------------------------------------


def paired_power(difference: float, discordant: float, n: int) -> float:
    """Return how often McNemar's exact test shows a difference of two accuracies of `n` rows.

    A share `discordant` of the rows is right in only one of the two results. p is below 5 % with
    the power P(reject | m) of a binomial test of m rows, summed over the binomial distribution of
    m. It is 80 % for n close to (1.96 sqrt(psi) + 0.842 sqrt(psi - d^2))^2 / d^2, for the share psi
    and the difference d (Connor 1987).
    """
    from scipy.stats import binom

    spread = 6 * np.sqrt(n * discordant) + 6
    low, high = max(0, int(n * discordant - spread)), min(n, int(n * discordant + spread))
    m = np.arange(low, high + 1)
    weights = binom.pmf(m, n, discordant)
    fewer = binom.ppf(LEVEL / 2, m, 0.5)  # the most rows of the other result with p below 5 %
    fewer -= binom.cdf(fewer, m, 0.5) > LEVEL / 2
    share = (1 + difference / discordant) / 2
    return float(weights @ (binom.cdf(fewer, m, share) + binom.cdf(fewer, m, 1 - share)))


def detectable_difference(discordant: float, n: int) -> float:
    """Return the difference of two accuracies that McNemar's exact test shows with 80 % power.

    A share `discordant` of `n` rows is right in only one of the two results; see `paired_power`.
    NaN if even rows that all favour one result have less power.

    >>> round(detectable_difference(0.318, 1000), 4)
    0.0508
    """
    from scipy.optimize import brentq

    if not discordant or paired_power(discordant, discordant, n) < POWER:
        return math.nan
    return float(brentq(lambda found: paired_power(found, discordant, n) - POWER, 0, discordant))


def _paired_rows(difference: float, low: float, high: float, n: float) -> float:
    """Return how many rows show a paired difference with 80 % power; see `rows_needed`.

    The variance of a row gives the share of discordant rows. Rows that depend on each other may
    have a larger variance than the difference of two shares can have. Then so many of them count as
    one that each is discordant.
    """
    if difference < 0:
        difference, low, high = -difference, -high, -low
    half = difference - low
    if difference == 0 and half > 0 and low > -1:
        return math.inf
    if not (0 < difference < 1 and half > 0) or (low <= -1 and high >= 1):
        return math.nan
    variance = n * (half / metrics.QUANTILE) ** 2
    as_one = max(1.0, variance / (1 - difference**2))
    discordant = min(1.0, variance / as_one + difference**2)
    deviations = metrics.QUANTILE * math.sqrt(discordant)
    deviations += POWER_QUANTILE * math.sqrt(max(0.0, discordant - difference**2))
    by_formula = (deviations / difference) ** 2
    if by_formula * as_one > FARTHEST * n:
        return math.inf
    # exact tests ask for about 2 / d more; a bracket as wide saves most steps of a bisection
    fewest, most = int(0.9 * by_formula), int(1.1 * by_formula + 4 / difference) + 4
    while most - fewest > 1 + fewest / 1000:
        middle = (fewest + most) // 2
        if paired_power(difference, discordant, middle) >= POWER:
            most = middle
        else:
            fewest = middle
    return as_one * most

"""What may be said of a number: claims, and every sentence that is made of them.

A claim holds a number against another one, such as chance or an untrained control. It is decided if
the 95 % interval of the number excludes the other one with its own interval. If both are measured
on the same rows, the interval of their difference must exclude 0. Otherwise the answer is
`NOT_DECIDED`. A superlative speaks only of what was tried, and names what its interval includes.

Titles, captions, legends, alternative texts and summaries take their sentences from here. No other
module has words for a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clipkit.base.errors import listed
from clipkit.base.matrices import Floats, Int64
from clipkit.statistics import main_number, metrics
from clipkit.statistics.dependence import p_of
from clipkit.statistics.power import FARTHEST, INTERVAL, PAIRED, SHARE, error_rows, rows_needed
from clipkit.statistics.shared_errors import MOST_P, SharedError

POINTS = "points"  # of a hundred, as a unit
MEAN = "% on average"  # of shares, as a unit
ABOVE, BELOW, NOT_DECIDED = "above", "below", "not decided"
MISCALIBRATED = "miscalibrated"
CHANCE, CONTROL = "chance", "the untrained control"
INCLUDES = "the interval includes {}"
NO_INTERVAL = "it has no interval"
NO_CONTROL = "there is no untrained control"
MAKE_CONTROL = "embed the same images with --untrained 7 to make one"
FEWEST_OTHERS = 20  # other texts that are a control of words
FEW_OTHERS = "there are too few other words"
# What would decide, by what keeps a claim open; a command line may say more (see `with_steps`)
STEPS = {NO_CONTROL: MAKE_CONTROL, FEW_OTHERS: "add texts about anything else to the words"}
MORE_IMAGES = "images would decide"
FAR = f"even {FARTHEST} times as many rows may not decide"
NAMED = 3  # things that a sentence names; of more, it has the number
EQUAL_DRAWS = 999  # of right rows over classes that are equal
ROUNDING = 1e-12  # difference of equal numbers
LEVEL = 0.05  # of two-sided tests: a wrong claim in one direction has half of it

# ---- Claims --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What a number is held against.

    Attributes
    ----------
    name : str
    value : float
    low, high : float
        Its 95 % interval, or the range of several controls; NaN for a known number.
    paired : (float, float), optional
        The 95 % interval of the number minus this one, on the same rows.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    paired: tuple[float, float] | None = None


@dataclass(frozen=True)
class Claim:
    """A number with its 95 % interval, beside what it is held against.

    Attributes
    ----------
    subject : str
        What the number is of: the beginning of the sentence.
    value, low, high : float
    against : Reference
    n : int
        Rows that the number rests on.
    unit : {"%", "% on average", "points", ""}
        The value of a % is a fraction (0..1), and so is a difference of two, in points. An average
        is over classes, and no share of the rows.
    run : int
        The run of the result that it is about; -1 for the whole result.
    verdict : str
        ABOVE, BELOW or NOT_DECIDED, by the intervals; or the question's own words.
    because : str
        Why this is not decided: what is missing, or what the interval includes. "" if it is. FAR
        stands behind it if a number is that near to the other one.
    needs : float
        Rows that would decide it, if what was measured holds; see `power.rows_needed`.

    >>> Claim("right", 0.66, 0.62, 0.7, Reference("chance", 0.5), 600).verdict
    'above'
    >>> Claim("right", 0.51, 0.47, 0.55, Reference("chance", 0.5), 600).because
    'the interval includes chance'
    """

    subject: str
    value: float
    low: float
    high: float
    against: Reference
    n: int
    unit: str = "%"
    run: int = -1
    verdict: str = ""
    because: str = ""
    needs: float = math.nan

    def __post_init__(self) -> None:
        """Decide, unless a verdict is given."""
        verdict, because, needs = self.verdict, self.because, self.needs
        if not verdict:
            verdict, because, needs = self._decide()
        if math.isinf(needs):
            because, needs = f"{because}; {FAR}", math.nan
        elif not math.isnan(needs):
            needs = float(math.ceil(needs))
        object.__setattr__(self, "verdict", verdict)  # as dataclasses do in a frozen class
        object.__setattr__(self, "because", because)
        object.__setattr__(self, "needs", needs)

    def _decide(self) -> tuple[str, str, float]:
        value, limits, against = self.value, (self.low, self.high), self.against.value
        others, kind = (self.against.low, self.against.high), INTERVAL
        if self.unit == "%":
            kind = SHARE
        if self.against.paired is not None:
            value, limits, against = value - against, self.against.paired, 0.0
            others, kind = (0.0, 0.0), PAIRED
        elif math.isnan(sum(others)):
            others = (against, against)
        verdict = decide(*limits, *others)
        if verdict != NOT_DECIDED:
            return verdict, "", math.nan
        if math.isnan(sum(limits)):
            return verdict, NO_INTERVAL, math.nan
        needs = rows_needed(value, limits, against, self.n, others, kind)
        if needs <= self.n:  # another rule than the interval's keeps it open
            needs = math.nan
        return verdict, INCLUDES.format(self.against.name), needs

    def held_against(self, against: Reference) -> Claim:
        """Return the same number held against something else."""
        return replace(self, against=against, verdict="", because="", needs=math.nan)

    def sentence(self, decimals: int = 1) -> str:
        """Return the claim with its number, its rows, and what it is held against.

        >>> Claim("Right:", 0.66, 0.62, 0.7, Reference("chance", 0.5), 600).sentence()
        'Right: 66.0 % of 600, above chance (50.0 %)'
        """
        return sentence([self], decimals)


def sentence(claims: Sequence[Claim], decimals: int = 1, noun: str = "images") -> str:
    """Say a number and what it is held against, by each of several claims about it."""
    first = claims[0]
    value = _format(first.value, first.unit, decimals)
    rows = f"of {first.n:,}" if first.unit == "%" else f"on {_count(first.n, 'row')}"
    return f"{first.subject} {value} {rows}, {relations(claims, decimals, noun)}"


def relations(claims: Sequence[Claim], decimals: int = 1, noun: str = "images") -> str:
    """Say what a number is above, what it is below, and against what it is not decided.

    >>> relations([Claim("", 0.66, 0.62, 0.7, Reference("chance", 0.64), 600)])
    'not decided against chance (64.0 %; about 4,600 images would decide)'
    >>> why = {"verdict": NOT_DECIDED, "because": "20 % of permutations reach it"}
    >>> relations([Claim("", 0.66, math.nan, math.nan, Reference("chance", 0.64), 600, **why)])
    'not decided against chance (64.0 %; 20 % of permutations reach it)'
    >>> relations([Claim("", 0.66, 0.62, 0.7, Reference(name, 0.5), 600) for name in "ab"])
    'above a (50.0 %) and b (50.0 %)'
    """
    named: dict[str, list[str]] = {}
    for claim in claims:
        against = claim.against
        value = _format(against.value, claim.unit, decimals)
        still_open = would_decide([claim], noun) or claim.because
        inside = "; ".join(filter(None, [value, still_open]))
        named.setdefault(claim.verdict, []).append(f"{against.name} ({inside})")
    parts = []
    for verdict, names in named.items():
        how = f"{verdict} against" if verdict == NOT_DECIDED else verdict
        parts.append(f"{how} {' and '.join(names)}")
    return ", ".join(parts)


def would_decide(claims: Sequence[Claim], noun: str = "images") -> str:
    """Say how many images would decide what is not decided; "" if this is not known.

    >>> would_decide([Claim("right", 0.51, 0.47, 0.55, Reference("chance", 0.5), 600)])
    'about 19,000 images would decide'
    """
    still_open = [claim for claim in claims if claim.verdict not in (ABOVE, BELOW)]
    needed = [claim.needs for claim in still_open if not math.isnan(claim.needs)]
    if needed:
        of_some = f" {len(needed)} of them" if len(needed) < len(still_open) else ""
        return f"about {_about(max(needed))} {noun} would decide{of_some}"
    is_far = still_open and all(claim.because.endswith(FAR) for claim in still_open)
    return FAR if is_far else ""


def _bracketed(text: str) -> str:
    return f" ({text})" if text else ""


def with_steps(sentences: Sequence[str], steps: Mapping[str, str] = STEPS) -> list[str]:
    """Return sentences with a hint behind the first that says what keeps it open: the step to take.

    >>> with_steps([f"not decided: x ({FEW_OTHERS})"])[0].partition("; hint: ")[2]
    'add texts about anything else to the words'
    """
    found, untold = [], dict(steps)
    for text in sentences:
        hints = [untold.pop(because) for because in list(untold) if because in text]
        found.append("; hint: ".join([text, *hints]))
    return found


def sentences(claims: Sequence[Claim], noun: str = "images") -> list[str]:
    """Say each number of a result and what it is held against; of more than NAMED, count them.

    >>> against = Reference("chance", 0.5)
    >>> of_test = Claim("test:", 0.66, 0.62, 0.7, against, 600)
    >>> sentences([of_test])
    ['Test: 66.0 % of 600, above chance (50.0 %)']
    >>> sentences([replace(of_test, run=run, subject=f"{run}:") for run in range(4)])
    ['4 of 4 above chance']
    """
    of_numbers: dict[tuple[int, str], list[Claim]] = {}
    for claim in claims:
        of_numbers.setdefault((claim.run, claim.subject), []).append(claim)
    if len(of_numbers) <= NAMED:
        return [_capitalized(sentence(about, noun=noun)) for about in of_numbers.values()]
    alike: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        alike.setdefault((claim.verdict, claim.against.name), []).append(claim)
    parts = []
    for (verdict, name), members in alike.items():
        how = f"{verdict} against" if verdict == NOT_DECIDED else verdict
        text = f"{len(members)} of {len(of_numbers)} {how} {name}"
        parts.append(text + _bracketed(would_decide(members, noun)))
    return ["; ".join(parts)]


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def decide(low: float, high: float, bottom: float, top: float) -> str:
    """Tell whether an interval is above or below another one; NaN decides nothing."""
    if low > top:
        return ABOVE
    if high < bottom:
        return BELOW
    return NOT_DECIDED


def of_share(
    subject: str, share: float, n: float, against: Reference, level: float = LEVEL
) -> Claim:
    """Hold a share of `n` rows against a known one."""
    return Claim(subject, share, *metrics.exact_interval(share, n, level), against, round(n))


def _format(value: float, unit: str, decimals: int) -> str:
    if unit in ("%", MEAN, POINTS):
        return f"{100 * value:.{decimals}f} {unit.partition(' ')[0]}"
    return f"{value:.{decimals + 1}f}"


def _about(rows: float) -> str:
    """Return an estimated number of rows with two digits, since more would say nothing."""
    return f"{float(f'{rows:.2g}'):,.0f}"


def _list(names: Sequence[str]) -> str:
    """List a few names; of more, return their number."""
    if len(names) > NAMED:
        return f"{len(names)} of them"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


# ---- Several numbers -----------------------------------------------------------------------------


def _widening(tried: int) -> float:
    """Return how much wider an interval is if it is one of several (Bonferroni)."""
    from scipy.special import ndtri

    return float(ndtri(1 - LEVEL / 2 / max(1, tried)) / ndtri(1 - LEVEL / 2))


def for_several(value: float, low: float, high: float, tried: int) -> tuple[float, float]:
    """Return the 95 % interval of a number that is one of several (Bonferroni).

    >>> [round(end, 2) for end in for_several(0.5, 0.4, 0.6, 10)]
    [0.36, 0.64]
    """
    wider = _widening(tried)
    return value - wider * (value - low), value + wider * (high - value)


def explained_sentence(claims: Sequence[Claim]) -> str:
    """Name the attributes that explain more variance than unrelated ones, and count the others.

    >>> others = Reference("unrelated attributes", 0.01)
    >>> shares = [Claim(name, share, math.nan, math.nan, others, 100, verdict=verdict)
    ...           for name, share, verdict in (("x", 0.2, ABOVE), ("y", 0.0, NOT_DECIDED))]
    >>> explained_sentence(shares)
    '1 of 2 explain more than unrelated attributes: x (20.0 %); 1 not decided'
    """
    return _name_above(claims, "{} explain more than unrelated attributes")


def cost_sentence(claims: Sequence[Claim]) -> str:
    """Name the prompts whose permutation costs accuracy, and count the others.

    >>> free = Reference("no cost", 0.0)
    >>> costs = [Claim(name, cost, cost - 0.03, cost + 0.03, free, 100, POINTS)
    ...          for name, cost in (("p", 0.05), ("q", 0.02))]
    >>> cost_sentence(costs)
    'Permuting 1 of 2 costs accuracy: p (5.0 points); 1 not decided (about 460 images would decide)'
    """
    return _name_above(claims, "Permuting {} costs accuracy")


def _name_above(claims: Sequence[Claim], words: str) -> str:
    """Say how many numbers are above, `{}` in the words; name the largest, and count the others."""
    above = [claim for claim in claims if claim.verdict == ABOVE]
    above.sort(key=lambda claim: -claim.value)
    text = words.format(f"{len(above)} of {len(claims)}")
    if above:
        names = [f"{claim.subject} ({_format(claim.value, claim.unit, 1)})" for claim in above]
        text += f": {listed(names, NAMED)}"
    undecided = [claim for claim in claims if claim.verdict == NOT_DECIDED]
    if undecided:
        text += f"; {len(undecided)} {NOT_DECIDED}{_bracketed(would_decide(undecided))}"
    return text


# ---- The highest of several ----------------------------------------------------------------------


class Highest(NamedTuple):
    """The highest of several numbers, and those that equal it, by their places.

    `open_against` are lower, but this is not decided. `half` (S,) are the half widths of the
    intervals of the differences.
    """

    first: int
    equal: list[int]
    open_against: list[int]
    half: Floats


def highest(values: ArrayLike, low: ArrayLike, high: ArrayLike) -> Highest | None:
    """Return the highest of several numbers (S,), with the limits (S,) of their intervals.

    Another number is lower if the interval of the difference excludes 0: its half widths are the
    root of the sum of squares of the two (Newcombe 1998, method 10), widened for S (S - 1) / 2
    comparisons (Bonferroni). This is cautious for numbers of the same rows. Numbers without limits
    decide nothing. Return None without any number.
    """
    numbers, lower, upper = (np.asarray(ends, np.float64) for ends in (values, low, high))
    if not np.isfinite(numbers).any():
        return None
    top = float(np.nanmax(numbers))
    equal = np.flatnonzero(numbers == top).tolist()
    tried = int(np.isfinite(numbers).sum())
    half = _widening(tried * (tried - 1) // 2) * np.hypot(top - lower[equal[0]], upper - numbers)
    is_lower = top - numbers > half
    others = np.flatnonzero((numbers < top) & ~is_lower).tolist()
    return Highest(equal[0], equal, others, half)


def best_of(noun: str, names: Sequence[str], values: ArrayLike, limits: Sequence[ArrayLike]) -> str:
    """Name the highest of several shares, how many were tried, and what it is not decided against.

    >>> low, high = [0.46, 0.469, 0.18], [0.54, 0.549, 0.22]
    >>> best_of("temperature", ["0.03", "0.02", "1"], [0.5, 0.509, 0.2], [low, high])
    'Best of 3 temperatures: 50.9 % at 0.02; not decided against 0.03'
    """
    found = highest(values, *limits)
    if found is None:
        return ""
    tried = int(np.isfinite(np.asarray(values, np.float64)).sum())
    value = _format(float(np.asarray(values)[found.first]), "%", 1)
    if len(found.equal) == tried > 1:
        return f"{value} at each of {_count(tried, noun)}"
    text = f"{value} at {_list([names[place] for place in found.equal])}"
    if tried > 1:
        text = f"Best of {_count(tried, noun)}: {text}"
    if found.open_against:
        names_of_open = _list([names[place] for place in found.open_against])
        if len(found.open_against) > NAMED:
            names_of_open = f"{len(found.open_against)} others"
        text += f"; {NOT_DECIDED} against {names_of_open}"
    return text


def best_label(label: str, names: Sequence[str], values: ArrayLike) -> str:
    """Return the legend text of a curve, with its highest share and where it is.

    >>> best_label("svm", ["0.03", "0.02", "1"], [0.5, 0.509, 0.2])
    'svm: 50.90 % at 0.02, best of 3'
    """
    unknown = np.full(len(names), np.nan)
    found = highest(values, unknown, unknown)
    if found is None:
        return label
    numbers = np.asarray(values, np.float64)
    tried = int(np.isfinite(numbers).sum())
    text = f"{label}: {_format(float(numbers[found.first]), '%', 2)}"
    if len(found.equal) == tried > 1:
        return f"{text} at each of {tried}"
    text += f" at {_list([names[place] for place in found.equal])}"
    return f"{text}, best of {tried}" if tried > 1 else text


def lowest_class(
    right: ArrayLike, totals: ArrayLike, independent: float = 1.0
) -> tuple[list[int], Claim | None]:
    """Return the classes with the lowest share of right rows, and what is claimed of it.

    Of C classes, the lowest is low by luck. So the claim, against the share of all other classes
    together, has an interval for C comparisons (Bonferroni). There is no claim if several classes
    have the lowest share, or there is no other class.

    Parameters
    ----------
    right, totals : array (C,) int
        Right rows and rows of each class; classes without rows do not count.
    independent : float
        Effective rows per row, if rows depend on each other; see `metrics.effective_share`.
    """
    hits, rows = np.asarray(right, np.float64), np.asarray(totals, np.float64)
    shares = np.full(len(rows), np.nan)
    np.divide(hits, rows, out=shares, where=rows > 0)
    known = int(np.isfinite(shares).sum())
    if not known:
        return [], None
    places = np.flatnonzero(shares == np.nanmin(shares)).tolist()
    others = rows.sum() - rows[places[0]]
    if len(places) > 1 or not others:
        return places, None
    place = places[0]
    share_of_others = float((hits.sum() - hits[place]) / others)
    against = Reference("all other classes", share_of_others)
    own, n, n_others = float(shares[place]), independent * rows[place], independent * others
    against = replace(against, paired=_share_difference(own, n, share_of_others, n_others, known))
    limits = metrics.exact_interval(own, n, LEVEL / known)
    return places, Claim("", own, *limits, against, round(rows[place]))


def are_lower(
    right: ArrayLike, totals: ArrayLike, places: Sequence[int], independent: float = 1.0
) -> bool:
    """Tell whether so many classes with the lowest share are more than equal classes would have.

    The right rows are dealt at random over all rows, EQUAL_DRAWS times. Parameters are those of
    `lowest_class`, and the places of the classes that it returns.

    >>> are_lower([0, 0, 2, 3, 2], [3] * 5, [0, 1]), are_lower([0, 0, 60], [60] * 3, [0, 1])
    (False, True)
    """
    hits, sizes = (np.asarray(counts, np.float64) * independent for counts in (right, totals))
    rows = np.where(sizes > 0, np.maximum(1, np.round(sizes)), 0).astype(np.int64)
    known = np.flatnonzero(rows)
    total = min(int(np.round(hits.sum())), int(rows.sum()))
    random = np.random.default_rng(0)
    drawn = random.multivariate_hypergeometric(rows[known], total, EQUAL_DRAWS, method="marginals")
    lowest = float(hits[places[0]] / max(1, rows[places[0]]))
    as_low = np.count_nonzero(drawn / rows[known] <= lowest + ROUNDING, axis=1)
    return p_of(as_low.astype(np.float64), float(len(places))) <= LEVEL / 2


def _share_difference(
    a: float, n_a: float, b: float, n_b: float, comparisons: int
) -> tuple[float, float]:
    """Return an interval of a - b for shares of different rows, from their exact intervals.

    Newcombe (1998), method 10, with exact limits in the place of Wilson's.
    """
    low_a, high_a = metrics.exact_interval(a, n_a, LEVEL / comparisons)
    low_b, high_b = metrics.exact_interval(b, n_b, LEVEL / comparisons)
    return (
        a - b - math.hypot(a - low_a, high_b - b),
        a - b + math.hypot(high_a - a, b - low_b),
    )


# ---- Accuracies ----------------------------------------------------------------------------------


def accuracy_claims(  # noqa: PLR0913 - of two numbers of the same rows
    subject: str,
    right: ArrayLike,
    chance: float,
    paired: Mapping[str, Any] | None,
    control: str,
    tried: int = 1,
    clusters: Int64 | None = None,
    labels: Int64 | None = None,
) -> list[Claim]:
    """Hold an accuracy against chance and, if there is one, against a control on the same rows.

    Parameters
    ----------
    right : array (N,) of bool
    chance : float
    paired : mapping, optional
        A row of `comparison.compare_right` with the control.
    control : str
        What the control is called.
    tried : int
        Of how many runs the accuracy is the highest (Bonferroni).
    clusters : array (N,) of int, optional
        Rows of one cluster depend on each other; see `metrics.effective_rows`.
    labels : array (N,) of int, optional
        If the classes are unequal, their mean recall is held against 1 / K; see `main_number`.
    """
    hits = np.asarray(right)
    if labels is not None and main_number.is_unequal(labels):
        recall = main_number.mean_recall(labels, hits, clusters, LEVEL / tried)
        against_chance = Claim(
            subject, *recall[:3], Reference(CHANCE, recall.chance), len(hits), MEAN
        )
    else:
        share, n = float(hits.mean()), metrics.effective_rows(hits, clusters)
        against_chance = of_share(subject, share, n, Reference(CHANCE, chance), LEVEL / tried)
    claims = [replace(against_chance, n=len(hits))]
    if paired is not None:
        value = main_of(paired)["b"]
        against = Reference(control, value, paired=paired_limits(paired, tried))
        claims.append(claims[0].held_against(against))
    return claims


def best_run_sentence(claims: Sequence[Claim], limits: Sequence[ArrayLike]) -> str:
    """Say how accurate the best of several runs is, and how many others it is not decided against.

    `limits` are the lower and the upper ends of the intervals of the runs, each for itself. The
    claims are for as many comparisons.

    >>> runs = [of_share(f"k {k}:", k / 10, 100, Reference(CHANCE, 0.5)) for k in (5, 8)]
    >>> best_run_sentence(runs, [[0.4, 0.71], [0.6, 0.88]])
    'Best of 2 runs: k 8: 80.0 % of 100, above chance (50.0 %)'
    """
    found = highest([claim.value for claim in claims], *limits)
    if found is None:
        return ""
    best = claims[found.first].sentence()
    if len(claims) == 1:
        return _capitalized(best)
    text = f"Best of {_count(len(claims), 'run')}: {best}"
    others = found.equal[1:] + found.open_against
    if others:
        step = would_decide([_below_first(claims, found, place) for place in others])
        text += f"; {NOT_DECIDED} against {_count(len(others), 'other run')}{_bracketed(step)}"
    return text


def _below_first(claims: Sequence[Claim], found: Highest, place: int) -> Claim:
    """Hold the highest of several numbers against another one."""
    first, half = claims[found.first], found.half[place]
    apart = first.value - claims[place].value
    other = Reference(claims[place].subject, 0.0)
    return Claim(first.subject, apart, apart - half, apart + half, other, first.n, POINTS)


def paired_limits(row: Mapping[str, Any], tried: int = 1) -> tuple[float, float]:
    """Return the interval of a paired difference; it includes 0 if the exact test does not reject.

    Of several pairs, the test has Holm's correction; of the highest of `tried`, Bonferroni's.
    """
    low, high = row["low"], row["high"]
    if not row.get("p_holm", row["p"]) < LEVEL / tried:
        return min(low, 0.0), max(high, 0.0)
    return low, high


def main_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of `a` and `b` in a row of `compare` that its `difference` is of.

    Of unequal classes, these are the mean recalls.
    """
    name = "acc" if math.isnan(_number(row, "recall_a")) else "recall"
    return {side: _number(row, f"{name}_{side}") for side in "ab"}


def verdict_of_b(row: Mapping[str, Any]) -> str:
    """Tell whether b is ABOVE or BELOW a, by a row of `comparison.compare`."""
    low, high = paired_limits(row)
    return decide(-high, -low, 0, 0)


def control_sentences() -> str:
    """Say that a control is missing, and how to make one."""
    return f"{_capitalized(NO_CONTROL)}. {_capitalized(MAKE_CONTROL)}."


def leaderboard_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """Name the results that are above and below the first of a leaderboard; "" for one row.

    The rows are those of `leaderboard.leaderboard`.

    >>> rows = [{"result": name, "rows": 600, "verdict": word} for name, word in [
    ...     ("a", ""), ("b", BELOW), ("c", NOT_DECIDED)]]
    >>> leaderboard_sentence(rows)
    'On the same 600 rows: b is below a; c is not decided against a'
    """
    if len(rows) < 2:
        return ""
    first = rows[0]["result"]
    parts = []
    for verdict in (ABOVE, BELOW, NOT_DECIDED):
        names = [row["result"] for row in rows[1:] if row["verdict"] == verdict]
        if names:
            verb = "is" if len(names) == 1 else "are"
            how = f"{verdict} against" if verdict == NOT_DECIDED else verdict
            parts.append(f"{_list(names)} {verb} {how} {first}")
            if verdict == NOT_DECIDED:
                found = [_against_first(row, rows[0]) for row in rows if row["result"] in names]
                parts[-1] += _bracketed(would_decide(found))
    on_rows = f"On the same {_count(int(rows[0]['rows']), 'row')}"
    if main_number.RECALL_CHANCE in rows[0]:
        on_rows += f", by {main_number.MEAN_RECALL}"
    return f"{on_rows}: {'; '.join(parts)}"


def _against_first(row: Mapping[str, Any], first: Mapping[str, Any]) -> Claim:
    """Hold a row of a leaderboard against its first one."""
    low, high = (_number(row, f"to_first_{end}") for end in ("low", "high"))
    pair = {"a": row["result"], "acc_a": _number(row, "acc1"), "low": low, "high": high}
    pair |= {"b": first["result"], "acc_b": _number(first, "acc1"), "p": _number(row, "p_holm")}
    if main_number.RECALL_CHANCE in row:
        recalls = [_number(one, main_number.RECALL_COLUMN) for one in (row, first)]
        pair |= dict(zip(("recall_a", "recall_b"), recalls, strict=True))
    return difference_claim({**row, **pair}, -1)


def difference_claim(row: Mapping[str, Any], run: int) -> Claim:
    """Hold a against b, by a row of `comparison.compare`."""
    n, values = int(row["rows"]), main_of(row)
    against = Reference(row["b"], values["b"], paired=paired_limits(row))
    if not math.isnan(_number(row, "recall_a")):
        return Claim(row["a"], values["a"], math.nan, math.nan, against, n, MEAN, run)
    limits = metrics.exact_interval(values["a"], n)
    return Claim(row["a"], values["a"], *limits, against, n, "%", run)


def in_points(row: Mapping[str, Any]) -> str:
    """Return how far apart two results of `compare` are."""
    return f"{100 * abs(row['difference']):.1f} points"


def difference_sentence(row: Mapping[str, Any], noun: str = "row") -> str:
    """Say which of two results of `compare` is more accurate, by how much, and on how many rows.

    >>> row = {"a": "a", "b": "b", "acc_a": 0.5, "acc_b": 0.4, "rows": 600, "p": 0.001}
    >>> difference_sentence(row | {"difference": 0.1, "low": 0.05, "high": 0.15})
    'a is above b by 10.0 points (5.0 to 15.0) on 600 rows'
    """
    verdict = decide(*paired_limits(row), 0, 0)
    low, high = 100 * row["low"], 100 * row["high"]
    points = f"{100 * row['difference']:.1f} points ({low:.1f} to {high:.1f})"
    on_rows = f"on {_count(int(row['rows']), noun)}"
    if not math.isnan(_number(row, "recall_a")):
        on_rows = f"of {main_number.MEAN_RECALL} {on_rows}"
    if verdict == NOT_DECIDED:
        step = _bracketed(would_decide([difference_claim(row, -1)]))
        return f"{row['a']} and {row['b']}: {NOT_DECIDED}, {points} {on_rows}{step}"
    if verdict == BELOW:
        points = f"{in_points(row)} ({-high:.1f} to {-low:.1f})"
    return f"{row['a']} is {verdict} {row['b']} by {points} {on_rows}"


def control_of_best(control: float, chance: float) -> str:
    """Return what a title says of an untrained control, or else of chance, behind the best."""
    if math.isfinite(control):
        return f"; {CONTROL} has at most {_format(control, '%', 1)}"
    return f"; {CHANCE} is {_format(chance, '%', 1)}" if chance > 0 else ""


def shots_sentence(
    accuracy: float,
    n: int,
    shots: Sequence[float],
    above: Sequence[str],
    is_recall: bool = False,
) -> str:
    """Say between which numbers of labelled images per class zero-shot classification lies.

    `above` has the verdict of zero-shot classification against the probes at each number.

    >>> shots_sentence(0.64, 600, [1, 2, 4, 8], [ABOVE, ABOVE, NOT_DECIDED, BELOW])
    'Zero-shot, 64.0 % of 600: above 2 and below 8 labelled images per class, not decided at 4'
    """
    ends = []
    for verdict, choose in ((ABOVE, max), (BELOW, min)):
        places = [n for n, of_probes in zip(shots, above, strict=True) if of_probes == verdict]
        if places:
            ends.append(f"{verdict} {choose(places):g}")
    text = f"Zero-shot, {_format(accuracy, '%', 1)} of {n:,}"
    if is_recall:
        text = f"Zero-shot, {main_number.MEAN_RECALL} {_format(accuracy, '%', 1)} on {n:,}"
    if ends:
        text += f": {' and '.join(ends)} labelled images per class"
    open_at = [f"{n:g}" for n, verdict in zip(shots, above, strict=True) if verdict == NOT_DECIDED]
    if open_at:
        separator = "," if ends else ":"
        text += f"{separator} {NOT_DECIDED} at {_list(open_at)}"
    return text


def calibration_claim(
    name: str, error: float, null: float, limit: float, n: int, run: int
) -> Claim:
    """Hold the calibration error at a temperature against a calibrated model's.

    `null` and `limit` are the mean and the 97.5 % quantile of the error that a calibrated model
    would have on these n rows.
    """
    against = Reference("a calibrated model", limit)
    if decide(error, error, limit, limit) == ABOVE:
        return Claim(name, error, error, error, against, n, "%", run, MISCALIBRATED)
    because, needs = "a calibrated model may have this error", error_rows(error, null, limit, n)
    return Claim(name, error, error, error, against, n, "%", run, NOT_DECIDED, because, needs)


def calibration_sentence(claims: Sequence[Claim]) -> str:
    """Say at which temperatures a softmax is miscalibrated, and at which this is not decided.

    >>> calibration_sentence([calibration_claim("τ 1", 0.628, 0.004, 0.008, 600, 0)])
    'Miscalibrated at τ 1 (error 62.8 %, null below 0.8 %)'
    >>> calibration_sentence([calibration_claim("τ 2", 0.025, 0.02, 0.03, 600, 0)])
    'Miscalibrated: not decided at τ 2 (about 2,600 images would decide)'
    """
    wrong, open_at = [], []
    for claim in claims:
        if claim.verdict == NOT_DECIDED:
            open_at.append(claim)
            continue
        error, null = _format(claim.value, "%", 1), _format(claim.against.value, "%", 1)
        wrong.append(f"{claim.subject} (error {error}, null below {null})")
    text = f"Miscalibrated at {_list(wrong)}" if wrong else ""
    if open_at:
        text = f"{text}; " if text else "Miscalibrated: "
        names = _list([claim.subject for claim in open_at])
        text += f"{NOT_DECIDED} at {names}{_bracketed(would_decide(open_at))}"
    return text


def largest_error_sentence(count: int, second: int, total: int, names: tuple[str, str]) -> str:
    """Name the most frequent error, if it is decided that no other is as frequent; else "".

    Of the rows of the two most frequent errors, more than half must be of the first, by an exact
    interval. `names` are the true and the predicted class of the first.
    """
    low, _ = metrics.exact_interval(count / max(count + second, 1), count + second)
    if low <= 0.5:
        return ""
    return f"{count:,} of {total:,} images of {names[0]} are predicted as {names[1]}"


def kept_group_sentence(share: float, n: int, chance: float) -> str:
    """Say how many of n errors keep the group of the class, against chance."""
    subject = "Errors that keep the group:"
    return of_share(subject, share, n, Reference(CHANCE, chance)).sentence(0)


def lowest_class_sentence(
    right: ArrayLike, totals: ArrayLike, names: Sequence[str], independent: float = 1.0
) -> str:
    """Name the class with fewer right rows than the others; "" if this is not decided."""
    places, claim = lowest_class(right, totals, independent)
    if claim is None or claim.verdict != BELOW:
        return ""
    hits, rows = np.asarray(right)[places[0]], np.asarray(totals)[places[0]]
    others = _format(claim.against.value, "%", 0)
    return f"{names[places[0]]}: {hits:,} of {rows:,} right, all other classes {others}"


def published_sentence(within: int, total: int, widths: Sequence[float]) -> str:
    """Count the published figures within measured intervals, and say how wide these are.

    `widths` are those of intervals of shares; NaN for other numbers.

    >>> published_sentence(8, 10, [0.014, 0.128])
    '8 of 10 comparable figures lie within the interval; intervals are 1.4 to 12.8 points wide.'
    """
    text = f"{within} of {total} comparable figures lie within the interval"
    known = [100 * width for width in widths if math.isfinite(width)]
    if not known:
        return f"{text}."
    narrowest, widest = (f"{width:.1f}" for width in (min(known), max(known)))
    range_ = narrowest if narrowest == widest else f"{narrowest} to {widest}"
    return f"{text}; intervals are {range_} points wide."


def softmax_sentence(statistic: str, tau: float, values: ArrayLike, K: int) -> str:
    """Say how flat the softmax over K prompts is at a temperature, on average over images (N,)."""
    of_rows = np.asarray(values, np.float64)
    mean, n = float(of_rows.mean()), len(of_rows)
    if not math.isfinite(mean) or K < 2:
        return ""
    of_images = f"on average over {_count(n, 'image')}"
    if statistic == "entropy":
        share = _format(mean / math.log(K), "%", 1)
        return f"At τ {tau:.4g}, entropy is {share} of its maximum {of_images}"
    share, uniform = _format(mean, "%", 1), _format(1 / K, "%", 1)
    return f"At τ {tau:.4g}, the top prompt gets {share} {of_images}; 1/K is {uniform}"


def threshold_sentence(row: Mapping[str, Any]) -> str:
    """Say which share of matching and of other pairs is above the threshold of a row."""
    shares = []
    for name, noun in (("matching", "matching pairs"), ("other", "other pairs")):
        share = row["tpr" if name == "matching" else "fpr"]
        shares.append(f"{_format(share, '%', 1)} of {int(row[name]):,} {noun}")
    return f"Above {row['threshold']:.3g}: {' and '.join(shares)}"


# ---- Captions ------------------------------------------------------------------------------------

MOSTLY_ORDER = 0.75  # a lower ceiling: most items differ in the order of words alone
WORDS, ORDER = "words", "order of words"


def _control_of(row: Mapping[str, Any], name: str, count: str) -> list[Reference]:
    """Return the control's share in a row with its interval; [] if there is none.

    Of several controls, it is the mean, from the lower end of the lowest to the upper of the
    highest.
    """
    value = _number(row, f"{name}_control")
    if math.isnan(value):
        return []
    p = _number(row, "control_p")
    if not math.isnan(p):  # of a paired test with every control
        difference = row[name] - np.fmax(value, _number(row, f"{name}_control_high"))
        ends = (difference, difference) if p <= LEVEL else (-1.0, 1.0)
        return [Reference(CONTROL, value, paired=ends)]
    lowest, highest = (_number(row, f"{name}_control_{end}") for end in ("low", "high"))
    low, _ = metrics.exact_interval(value if math.isnan(lowest) else lowest, row[count])
    _, high = metrics.exact_interval(value if math.isnan(highest) else highest, row[count])
    return [Reference(CONTROL, value, low, high)]


def _of_row(
    subject: str, row: Mapping[str, Any], name: str, count: str, against: Reference, run: int
) -> Claim:
    """Hold a share of a row against another one, by the wider of its own and the exact interval."""
    value, n = row[name], int(row[count])
    low, high = metrics.exact_interval(value, n)
    low, high = min(low, row[f"{name}_low"]), max(high, row[f"{name}_high"])
    return Claim(subject, value, low, high, against, n, "%", run)


def choice_claims(row: Mapping[str, Any], run: int = -1) -> list[Claim]:
    """Hold a row of `choose` against shuffled images, the control and, of order, the ceiling."""
    shuffled = Reference("shuffled images", row["shuffled"], row["shuffled"], row["shuffled95"])
    references = [shuffled]
    references += _control_of(row, "accuracy", "items")
    if row["ceiling"] < MOSTLY_ORDER:
        references.append(Reference("a model blind to order", row["ceiling"]))
    subject = f"{row['category']}:"
    return [_of_row(subject, row, "accuracy", "items", against, run) for against in references]


def understood(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, bool]]:
    """Return which categories of texts are understood, by what decides them: words or their order.

    `rows` are those of `choose`, of which the last measure counts: it has both directions. A
    category is understood if it is above all that it is held against; else this is not decided.
    """
    categories: dict[str, dict[str, bool]] = {}
    for row in _categories(rows):
        decided_by = ORDER if row["ceiling"] < MOSTLY_ORDER else WORDS
        is_above = all(claim.verdict == ABOVE for claim in choice_claims(row))
        categories.setdefault(decided_by, {})[row["category"]] = is_above
    return {name: categories[name] for name in (WORDS, ORDER) if name in categories}


def _categories(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the rows of `choose` that have a category each, of the last measure."""
    rows = [row for row in rows if row["split"] == rows[-1]["split"]]
    return rows[1:] or rows


def choices_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """Count the categories of `choose` that are understood, and name the others."""
    parts, others = [], []
    for decided_by, categories in understood(rows).items():
        parts.append(f"{decided_by} in {sum(categories.values())} of {len(categories)} categories")
        others += [name for name, is_above in categories.items() if not is_above]
    text = f"Understood: {', '.join(parts)}"
    if not others:
        return text
    found = [claim for row in _categories(rows) for claim in choice_claims(row)]
    open_at = [claim for claim in found if claim.verdict == NOT_DECIDED]
    return f"{text}; {NOT_DECIDED}: {_list(others)}{_bracketed(would_decide(open_at, 'items'))}"


def retrieval_claims(row: Mapping[str, Any], run: int = -1, subject: str = "") -> list[Claim]:
    """Hold the recall of a row of `retrieve` against chance and, if there is one, the control."""
    subject = subject or f"{row['split'].replace('_', ' ')}, recall at {row['k']:g}:"
    references = [Reference(CHANCE, row["recall_null"]), *_control_of(row, "recall", "queries")]
    return [_of_row(subject, row, "recall", "queries", against, run) for against in references]


def retrieval_sentence(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how many texts find their image and how many images a text, against chance and control.

    `rows` has the row of the smallest k of each task; "" if a task is missing.
    """
    nouns = {"image_retrieval": "texts that find their image", "text_retrieval": "images a text"}
    parts: list[str] = []
    for task, noun in nouns.items():
        row = rows.get(task)
        if row is None:
            return ""
        place = "first" if row["k"] == 1 else f"among the first {row['k']:g}"
        subject = f"{noun} {place}:" if not parts else f"{noun}:"
        parts.append(sentence(retrieval_claims(row, subject=subject), noun="queries"))
    text = "; ".join(parts)
    return _capitalized(text)


# ---- Attributes ----------------------------------------------------------------------------------

ABOVE_CHANCE = 0.02  # by which the probe's interval must exceed chance
HALF = 0.5  # of the probe's recall above chance
REACHED = "learned and reached by words"
PARTLY = "learned, words reach part"
NOT_REACHED = "learned, not reached"
LEARNED = "learned"
NO_WORDS = "learned, not decided for words"
WITHOUT_TRAINING = "there without training"
ONLY_THROUGH = "learned only through"  # and the name of another attribute
UNTRAINED_REACHED = f"{WITHOUT_TRAINING}, reached by words"
UNTRAINED_PARTLY = f"{WITHOUT_TRAINING}, words reach part"
GROUPS = (
    *(REACHED, PARTLY, NOT_REACHED, LEARNED, NO_WORDS, ONLY_THROUGH),
    *(UNTRAINED_REACHED, UNTRAINED_PARTLY, WITHOUT_TRAINING, NOT_DECIDED),
)

# What the groups are called if the words are a generative model's own answers
SAID = {
    REACHED: "held and said",
    PARTLY: "held, said in part",
    NOT_REACHED: "held, not said",
    LEARNED: "held",
    NO_WORDS: "held, not decided whether said",
    ONLY_THROUGH: "held only through",
    UNTRAINED_REACHED: f"{WITHOUT_TRAINING}, said",
    UNTRAINED_PARTLY: f"{WITHOUT_TRAINING}, said in part",
}
AT_CHANCE = "the interval of the probe ends within 2 points of chance"
FEW_TO_FIT = "words are above chance, but the probe is not: it needs more images to fit"
OF_GAIN = "the interval of the gain over the control includes half"
OF_REACH = "the interval of reach includes half"
OTHERS_AS_WELL = "other words do as well in more than 2.5 % of draws, for so many attributes"
OF_WORDS = "the interval of zeroshot includes chance"
CHANGES = "it changes with the training set: half of the fitted images give '{}'"
UNTRAINED = (UNTRAINED_REACHED, UNTRAINED_PARTLY, WITHOUT_TRAINING)
LEARNED_GROUPS = (REACHED, PARTLY, NOT_REACHED, LEARNED, NO_WORDS)
GIVEN = "within the values of {}, the interval of {} includes chance"
INSEPARABLE = "each of its values occurs with one value of {}"


def attribute_claim(row: Mapping[str, Any], run: int, is_said: bool, unit: str = "%") -> Claim:
    """Return the claim of a row of `attributes`: the group that the attribute is in.

    The rules are those of docs/commands/attributes.md. Measured there: in how many of 1,000 worlds
    without anything to find each group is said, and how often another draw of images reverses it.

    Parameters
    ----------
    row : mapping
    run : int
        Its number.
    is_said : bool
        Whether the words are a generative model's own answers.
    unit : {"%", ""}
    """
    group, because, needs = group_of(row)
    name = _said(group) if is_said else group
    probe, low, high = (_number(row, f"probe{end}") for end in ("", "_low", "_high"))
    against = Reference(CHANCE, _number(row, "null" if "null5" in row else "chance"))
    if because in (NO_CONTROL, OF_GAIN):
        against = Reference(CONTROL, _number(row, "control"))
    n = int(row["rows"])
    return Claim(row["attribute"], probe, low, high, against, n, unit, run, name, because, needs)


def _said(group: str) -> str:
    """Return what a group is called if the words are a generative model's own answers."""
    if group.startswith(ONLY_THROUGH):
        return SAID[ONLY_THROUGH] + group.removeprefix(ONLY_THROUGH)
    return SAID.get(group, group)


def group_of(row: Mapping[str, Any]) -> tuple[str, str, float]:
    """Return the group of a row of `attributes`, why it is not decided, and what this needs.

    A group is said if half of the fitted rows, in `half_group`, give it too. If both only agree
    that the attribute is learned, or there without training, it is not decided for words.
    """
    if "null5" in row:
        row = _as_score(row)
    found = _group_of_all(row)
    group, half = found[0], row.get("half_group") or found[0]
    if group in (NOT_DECIDED, half):
        return found
    for members, without_words in (LEARNED_GROUPS, NO_WORDS), (UNTRAINED, WITHOUT_TRAINING):
        if group in members and half in members:
            if group == without_words:
                return found
            return without_words, CHANGES.format(half), math.nan
    return NOT_DECIDED, CHANGES.format(half), math.nan


def _as_score(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of an error as one of a score: which share of the error by chance is less.

    >>> found = _as_score({"null": 0.2, "probe": 0.1, "probe_low": 0.09, "probe_high": 0.12})
    >>> round(found["probe_low"], 2), round(found["probe_high"], 2)
    (0.4, 0.55)
    """
    null = _number(row, "null")
    score = {**row, "chance": 0.0}
    for name in ("probe", "control", "given"):
        score[name] = 1 - _number(row, name) / null
        score[f"{name}_low"] = 1 - _number(row, f"{name}_high") / null
        score[f"{name}_high"] = 1 - _number(row, f"{name}_low") / null
    for name in ("gain", "gain_low", "gain_high"):
        score[name] = _number(row, name) / null
    return score


def _group_of_all(row: Mapping[str, Any]) -> tuple[str, str, float]:
    """Return what all fitted rows give, as `group_of` does."""
    chance, probe = _number(row, "chance"), _number(row, "probe")
    least, half = chance + ABOVE_CHANCE, HALF * (probe - chance)
    if math.isnan(_number(row, "probe_low")):
        return NOT_DECIDED, NO_INTERVAL, math.nan
    if _against(row, "probe", least) != ABOVE:
        # a probe with few rows may fail where words do not
        if _against(row, "zeroshot", least) == ABOVE:
            return NOT_DECIDED, FEW_TO_FIT, math.nan
        if probe <= least:
            return NOT_DECIDED, AT_CHANCE, math.nan
        because = f"the interval of the probe includes {CHANCE}"
        return NOT_DECIDED, because, _needed(row, "probe", least, is_recall=True)
    if math.isnan(_number(row, "gain_low")):
        return NOT_DECIDED, NO_CONTROL, math.nan
    kept = _against(row, "gain", half)
    if kept == BELOW:
        of_words = {REACHED: UNTRAINED_REACHED, PARTLY: UNTRAINED_PARTLY}
        return of_words.get(_group_by_words(row, chance)[0], WITHOUT_TRAINING), "", math.nan
    if kept == NOT_DECIDED:
        return NOT_DECIDED, OF_GAIN, _needed(row, "gain", half)
    confounder = str(row.get("given_name", ""))
    if confounder and _against(row, "given", least) != ABOVE:
        if math.isnan(_number(row, "given_low")):
            return NOT_DECIDED, INSEPARABLE.format(confounder), math.nan
        if _against(row, "given", chance + half) == BELOW:
            return f"{ONLY_THROUGH} {confounder}", "", math.nan
        return NOT_DECIDED, GIVEN.format(confounder, "the probe"), _needed(row, "given", least)
    if math.isnan(_number(row, "zeroshot")):
        return LEARNED, "", math.nan
    return _group_by_words(row, chance)


def _group_by_words(row: Mapping[str, Any], chance: float) -> tuple[str, str, float]:
    """Return the group of an attribute by its words, as if it is learned; see `group_of`.

    Words must be above chance, also within the values of a confounder, and above 97.5 % of draws
    of other words in their place.
    """
    reach = _against(row, "reach", HALF)
    if reach == NOT_DECIDED:
        return NO_WORDS, OF_REACH, _needed(row, "reach", HALF)
    if _against(row, "zeroshot", chance) != ABOVE:
        if reach == BELOW:
            return NOT_REACHED, "", math.nan
        return NO_WORDS, OF_WORDS, _needed(row, "zeroshot", chance, is_recall=True)
    if math.isnan(_number(row, "other_words_p")):
        return NO_WORDS, FEW_OTHERS, math.nan
    exceed_others = _number(row, "other_words_p") <= LEVEL / 2
    confounder = str(row.get("zeroshot_given_name", ""))
    is_own = not confounder or _against(row, "zeroshot_given", chance) == ABOVE
    if reach == BELOW:
        return PARTLY if exceed_others and is_own else NOT_REACHED, "", math.nan
    if not exceed_others:
        return NO_WORDS, OTHERS_AS_WELL, math.nan
    if not is_own:
        because = GIVEN.format(confounder, "zeroshot")
        return NO_WORDS, because, _needed(row, "zeroshot_given", chance)
    return REACHED, "", math.nan


def _against(row: Mapping[str, Any], name: str, against: float) -> str:
    """Tell whether the interval of a column is above or below a number."""
    return decide(_number(row, f"{name}_low"), _number(row, f"{name}_high"), against, against)


def _needed(row: Mapping[str, Any], name: str, against: float, is_recall: bool = False) -> float:
    """Return the rows that decide a column of `attributes` against a number."""
    limits = _number(row, f"{name}_low"), _number(row, f"{name}_high")
    classes = 0
    if is_recall and "metric" not in row:
        classes = int(row.get("values", 0))
    return rows_needed(_number(row, name), limits, against, _number(row, "rows"), classes=classes)


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def group_order() -> list[str]:
    """Return what groups of attributes are called, from the best understood, NOT_DECIDED last."""
    return list(dict.fromkeys([*SAID.values(), *GROUPS]))


def attribute_groups(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    """Return the claims of `attributes` by group, in the order of groups."""
    groups: dict[str, list[Claim]] = {}
    for claim in sorted(claims, key=lambda claim: group_place(claim.verdict)):
        groups.setdefault(claim.verdict, []).append(claim)
    return groups


def group_place(group: str) -> int:
    """Return the place of a group in the order of groups; those of one kind have one place."""
    order = group_order()
    for place, name in enumerate(order):
        if group == name or (name.endswith("only through") and group.startswith(name)):
            return place
    return len(order)


def attribute_names(claims: Sequence[Claim]) -> dict[str, str]:
    """List the attributes of each group; for those that are not decided, also why.

    >>> chance = Reference("chance", 0.5)
    >>> known = Claim("colour", 0.9, 0.8, 1.0, chance, 100, verdict=REACHED)
    >>> open_one = replace(known, subject="angle", verdict=NOT_DECIDED, because="why", needs=900)
    >>> for group, names in attribute_names([open_one, known]).items():
    ...     print(f"{group}: {names}")
    learned and reached by words: colour
    not decided: angle (why; about 900 images would decide)
    """
    texts = {}
    for name, members in attribute_groups(claims).items():
        of_reason: dict[str, list[Claim]] = {}
        for claim in members:
            of_reason.setdefault(claim.because, []).append(claim)
        parts = []
        for because, alike in of_reason.items():
            names = ", ".join(claim.subject for claim in alike)
            step = "" if because.endswith(FAR) else would_decide(alike)
            parts.append(names + _bracketed("; ".join(filter(None, [because, step]))))
        texts[name] = "; ".join(parts)
    return texts


def attributes_sentence(claims: Sequence[Claim]) -> str:
    """Count the attributes of each group.

    >>> known = Claim("x", 0.9, 0.8, 1.0, Reference("chance", 0.5), 100, verdict=REACHED)
    >>> attributes_sentence([known, replace(known, verdict=NOT_DECIDED), known])
    '2 of 3 attributes learned and reached by words; 1 not decided'
    """
    parts: list[str] = []
    for name, members in attribute_groups(claims).items():
        noun = "" if parts else f" of {_count(len(claims), 'attribute')}"
        parts.append(f"{len(members)}{noun} {name}")
    return "; ".join(parts)


# ---- Clusters and neighbours ---------------------------------------------------------------------

OTHER_IMAGES = "the other images"


def by_permutations(claim: Claim, p: float, needs: float = math.nan) -> Claim:
    """Decide a claim by the one-sided p of a permutation test, in the place of its interval.

    The number is above its null if p is at most half of LEVEL.

    >>> claim = Claim("x:", 0.04, math.nan, math.nan, Reference(CHANCE, 0.01), 600)
    >>> by_permutations(claim, 0.2).because
    '20 % of permutations reach it'
    """
    if p <= LEVEL / 2:
        return replace(claim, verdict=ABOVE, because="", needs=math.nan)
    because = f"{_format(p, '%', 0)} of permutations reach it"
    return replace(claim, verdict=NOT_DECIDED, because=because, needs=needs)


def of_draws(
    subject: str,
    value: float,
    chance: float,
    drawn: Floats,
    n: int,
    unit: str = "%",
    run: int = -1,
) -> Claim:
    """Hold a number against chance, by its values in permutations (R,).

    >>> of_draws("x:", 0.3, 0.1, np.linspace(0, 0.2, 199), 600).verdict
    'above'
    """
    bottom, top = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    needs = math.inf  # no number of rows shows that it is above
    if value > chance:
        needs = rows_needed(value, (value - (top - chance), value + (chance - bottom)), chance, n)
    claim = Claim(subject, value, math.nan, math.nan, Reference(CHANCE, chance), n, unit, run)
    return by_permutations(claim, p_of(drawn, value, ROUNDING), needs)


def alignment_claim(row: Mapping[str, Any], run: int) -> Claim:
    """Hold a row of `align` against its null; of clusters, each is one row."""
    against = Reference(CHANCE, row["similarity_null"])
    n = int(row.get("clusters", row["rows"]))
    unit = "%" if row["measure"] == "mutual_knn" else ""
    subject = f"agreement of {row['a']} and {row['b']} by {row['measure']}:"
    claim = Claim(subject, row["similarity"], math.nan, math.nan, against, n, unit, run)
    return by_permutations(claim, row["p"])


def description_claims(row: Mapping[str, Any], run: int) -> list[Claim]:
    """Hold t of a row of `describe` against the other images and, if it differs, the control.

    Many prompts and groups were tried, so the interval of the difference to the control's t is
    `t_null95` standard errors to each side. The variance of t is 1 + t² / 2n.
    """
    t, null95, n = row["t"], row["t_null95"], int(row["rows"])
    others = Reference(OTHER_IMAGES, 0.0)
    needs = rows_needed(t, (t - null95, t + null95), 0.0, n)
    subject = f"{row['group']}, {row['prompt']}: t"
    claim = Claim(subject, t, math.nan, math.nan, others, n, "", run)
    if row.get("untested"):
        return [replace(claim, because=row["untested"])]
    claim = by_permutations(claim, row["p_adjusted"], needs)
    if claim.verdict == NOT_DECIDED:
        return [claim]
    claims = [replace(claim, verdict=ABOVE if t > 0 else BELOW)]
    of_control = _number(row, "t_control")
    if not math.isnan(of_control):
        half = null95 * math.sqrt(2 + (t**2 + of_control**2) / (2 * n))
        lowest = np.fmin(of_control, _number(row, "t_control_low"))
        highest = np.fmax(of_control, _number(row, "t_control_high"))
        ends = float(t - highest - half), float(t - lowest + half)
        control = Reference(CONTROL, of_control, paired=ends)
        claims.append(Claim(subject, t, math.nan, math.nan, control, n, "", run))
    return claims


def description_sentences(rows: Sequence[Mapping[str, Any]], claims: Sequence[Claim]) -> list[str]:
    """Say of each group of `describe` in which prompt it differs most; of many, count them."""
    of_groups: dict[str, list[Claim]] = {}
    for claim in claims:
        of_group = of_groups.setdefault(rows[claim.run]["group"], [])
        if not of_group or of_group[0].run == claim.run:  # the first prompt has the largest |t|
            of_group.append(claim)
    if len(of_groups) <= NAMED:
        return [sentence(of_group) for of_group in of_groups.values()]
    open_at = [name for name, found in of_groups.items() if found[0].verdict == NOT_DECIDED]
    count = len(of_groups) - len(open_at)
    text = f"{count} of {len(of_groups)} groups differ from {OTHER_IMAGES} in a prompt"
    if open_at:
        step = would_decide([of_groups[name][0] for name in open_at])
        text += f"; {NOT_DECIDED}: {_list(open_at)}{_bracketed(step)}"
    return [text]


# ---- Two models, and what errors share -----------------------------------------------------------


def unpaired_difference(
    first: Sequence[ArrayLike], second: Sequence[ArrayLike], comparisons: int
) -> tuple[Floats, Floats]:
    """Return the differences (A,) of numbers with limits, and what they must exceed.

    It is the half width of the interval of the difference (Newcombe 1998, method 10), widened for
    a number of comparisons (Bonferroni).

    >>> _, half = unpaired_difference(([0.9], [0.85], [0.95]), ([0.7], [0.65], [0.75]), 1)
    >>> half.round(3).tolist()
    [0.071]
    """
    value_a, low_a, high_a = (np.asarray(ends, np.float64) for ends in first)
    value_b, low_b, high_b = (np.asarray(ends, np.float64) for ends in second)
    below = np.hypot(value_a - low_a, high_b - value_b)
    above = np.hypot(high_a - value_a, value_b - low_b)
    difference = value_a - value_b
    return difference, _widening(comparisons) * np.where(difference > 0, below, above)


MOST_IN_TITLE = 6  # attributes of a group


def attributes_title(claims: Sequence[Claim], model: str) -> str:
    """Name the attributes that a model knows, those that words do not reach, and count the rest.

    >>> known = Claim("colour", 0.9, 0.8, 1.0, Reference("chance", 0.5), 100, verdict=REACHED)
    >>> others = [replace(known, subject="y", verdict=NOT_REACHED), replace(known, verdict="x")]
    >>> attributes_title([known, *others], "tiny")
    'tiny knows colour; words do not reach y; 1 of 3 x'
    """
    said = {REACHED: "{} knows {}", NOT_REACHED: "words do not reach {1}"}
    said[LEARNED] = "{} learned {}"
    said[SAID[REACHED]], said[SAID[NOT_REACHED]] = "{} says {}", "it does not say {1}"
    parts = []
    for name, members in attribute_groups(claims).items():
        names = [claim.subject for claim in members]
        if name in said:
            parts.append(said[name].format(model, listed(names, MOST_IN_TITLE)))
        else:
            parts.append(f"{len(names)} of {len(claims)} {name}")
    return "; ".join(parts)


def shared_error_sentence(shared: SharedError) -> str:
    """Say which change of an attribute's value the errors have in common.

    >>> shared_error_sentence(SharedError("pattern", "banded", "striped", 614, 1000, 1860, 20, 20))
    '614 of 1,000 banded images are called striped: 33 % of all errors, in 20 of 20 classes'
    """
    share = _format(shared.images / shared.errors, "%", 0)
    text = f"{shared.images:,} of {shared.of:,} {shared.true} images are called {shared.predicted}"
    text += f": {share} of all errors"
    if shared.classes > 1:
        text += f", in {shared.classes_with} of {shared.classes} classes"
    return text


def no_shared_error_sentence(names: Sequence[str]) -> str:
    """Say that it is not decided whether an attribute explains the errors.

    >>> no_shared_error_sentence(["colour", "size"])
    'Not decided whether an attribute explains the errors (colour and size)'
    """
    return f"{_capitalized(NOT_DECIDED)} whether an attribute explains the errors ({_list(names)})"


def kept_value_claim(row: Mapping[str, Any], run: int) -> Claim:
    """Hold the errors that keep the value of an attribute against those of permuted values.

    Both the interval, over another draw of images, and the permutations must decide.
    """
    limits = row["kept_low"], row["kept_high"]
    against = Reference(CHANCE, row["chance"])
    subject = f"errors that keep {row['attribute']}:"
    claim = Claim(subject, row["kept"], *limits, against, int(row["errors"]), run=run)
    if claim.verdict != NOT_DECIDED and not row["p"] <= LEVEL:
        because = f"{_format(row['p'], '%', 0)} of permutations are as far from it"
        claim = replace(claim, verdict=NOT_DECIDED, because=because)
    return claim


def mistake_sentences(rows: Sequence[Mapping[str, Any]], claims: Sequence[Claim]) -> list[str]:
    """Say which change of a value the errors share, if any, and what they keep."""
    changes = [row for row in rows if row["change_p"] <= MOST_P]
    found = []
    if changes:
        row = max(changes, key=lambda row: float(row["images"]))
        named = row["attribute"], row["value"], row["predicted"]
        counted = ("images", "of", "errors", "classes_with", "classes")
        found.append(shared_error_sentence(SharedError(*named, *(int(row[n]) for n in counted))))
    return [*found, *sentences(claims)]

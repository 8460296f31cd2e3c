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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clipkit.base.matrices import Int64
from clipkit.statistics import metrics

ABOVE, BELOW, NOT_DECIDED = "above", "below", "not decided"
CHANCE, CONTROL = "chance", "the untrained control"
NAMED = 3  # things that a sentence names; of more, it has the number
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
    unit : {"%", ""}
        The value of a % is a fraction (0..1).
    """

    subject: str
    value: float
    low: float
    high: float
    against: Reference
    n: int
    unit: str = "%"

    @property
    def verdict(self) -> str:
        """Return ABOVE, BELOW or NOT_DECIDED.

        >>> Claim("right", 0.66, 0.62, 0.7, Reference("chance", 0.5), 600).verdict
        'above'
        """
        if self.against.paired is not None:
            return decide(*self.against.paired, 0, 0)
        known = self.against.value
        bottom, top = self.against.low, self.against.high
        if math.isnan(bottom) or math.isnan(top):
            bottom = top = known
        return decide(self.low, self.high, bottom, top)

    def sentence(self, decimals: int = 1) -> str:
        """Return the claim with its number, its rows, and what it is held against.

        >>> Claim("Right:", 0.66, 0.62, 0.7, Reference("chance", 0.5), 600).sentence()
        'Right: 66.0 % of 600, above chance (50.0 %)'
        """
        return sentence([self], decimals)


def sentence(claims: Sequence[Claim], decimals: int = 1) -> str:
    """Say a number and what it is held against, by each of several claims about it."""
    first = claims[0]
    value = _format(first.value, first.unit, decimals)
    return f"{first.subject} {value} of {first.n:,}, {relations(claims, decimals)}"


def relations(claims: Sequence[Claim], decimals: int = 1) -> str:
    """Say what a number is above, what it is below, and against what it is not decided.

    >>> chance, control = Reference("chance", 0.5), Reference("the control", 0.64)
    >>> relations([Claim("", 0.66, 0.62, 0.7, against, 600) for against in (chance, control)])
    'above chance (50.0 %), not decided against the control (64.0 %)'
    """
    named: dict[str, list[str]] = {}
    for claim in claims:
        against = claim.against
        name = f"{against.name} ({_format(against.value, claim.unit, decimals)})"
        named.setdefault(claim.verdict, []).append(name)
    parts = []
    for verdict, names in named.items():
        how = f"{verdict} against" if verdict == NOT_DECIDED else verdict
        parts.append(f"{how} {' and '.join(names)}")
    return ", ".join(parts)


def decide(low: float, high: float, bottom: float, top: float) -> str:
    """Tell whether an interval is above or below another one; NaN decides nothing."""
    if low > top:
        return ABOVE
    if high < bottom:
        return BELOW
    return NOT_DECIDED


def exact_interval(share: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the exact interval of a share of `n` rows (Clopper and Pearson 1934).

    Each end is wrong in at most half of `level`, also for few rows and for shares near 0, where
    Wilson's interval is not. `n` may be a number of effective rows.

    >>> [round(end, 4) for end in exact_interval(0.03, 100)]
    [0.0062, 0.0852]
    """
    from scipy.special import betaincinv as quantile

    hits = share * n
    low = quantile(hits, n - hits + 1, level / 2) if hits > 0 else 0.0
    high = quantile(hits + 1, n - hits, 1 - level / 2) if hits < n else 1.0
    return float(low), float(high)


def of_share(
    subject: str, share: float, n: float, against: Reference, level: float = LEVEL
) -> Claim:
    """Hold a share of `n` rows against a known one."""
    return Claim(subject, share, *exact_interval(share, n, level), against, round(n))


def _format(value: float, unit: str, decimals: int) -> str:
    if unit == "%":
        return f"{100 * value:.{decimals}f} %"
    return f"{value:.{decimals + 1}f}"


def _list(names: Sequence[str]) -> str:
    """List a few names; of more, return their number."""
    if len(names) > NAMED:
        return f"{len(names)} of them"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


# ---- The highest of several ----------------------------------------------------------------------


class Highest(NamedTuple):
    """The highest of several numbers, and those that equal it, by their places.

    `open_against` are lower, but this is not decided.
    """

    first: int
    equal: list[int]
    open_against: list[int]


def highest(values: ArrayLike, low: ArrayLike, high: ArrayLike) -> Highest | None:
    """Return the highest of several numbers (S,), with the limits (S,) of their intervals.

    Another number is lower if the interval of the difference excludes 0: its half widths are the
    root of the sum of squares of the two (Newcombe 1998, method 10), widened for S (S - 1) / 2
    comparisons (Bonferroni). This is cautious for numbers of the same rows. Numbers without limits
    decide nothing. Return None without any number.
    """
    from scipy.special import ndtri

    numbers, lower, upper = (np.asarray(ends, np.float64) for ends in (values, low, high))
    if not np.isfinite(numbers).any():
        return None
    top = float(np.nanmax(numbers))
    equal = np.flatnonzero(numbers == top).tolist()
    tried = int(np.isfinite(numbers).sum())
    pairs = max(1, tried * (tried - 1) // 2)
    wider = float(ndtri(1 - LEVEL / 2 / pairs) / ndtri(1 - LEVEL / 2))
    half = wider * np.hypot(top - lower[equal[0]], upper - numbers)
    is_lower = top - numbers > half
    others = np.flatnonzero((numbers < top) & ~is_lower).tolist()
    return Highest(equal[0], equal, others)


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
    limits = exact_interval(own, n, LEVEL / known)
    return places, Claim("", own, *limits, against, round(rows[place]))


def _share_difference(
    a: float, n_a: float, b: float, n_b: float, comparisons: int
) -> tuple[float, float]:
    """Return an interval of a - b for shares of different rows, from their exact intervals.

    Newcombe (1998), method 10, with exact limits in the place of Wilson's.
    """
    low_a, high_a = exact_interval(a, n_a, LEVEL / comparisons)
    low_b, high_b = exact_interval(b, n_b, LEVEL / comparisons)
    return (
        a - b - math.hypot(a - low_a, high_b - b),
        a - b + math.hypot(high_a - a, b - low_b),
    )


# ---- Accuracies ----------------------------------------------------------------------------------


def accuracy_claims(
    subject: str,
    right: ArrayLike,
    chance: float,
    paired: Mapping[str, Any] | None,
    control: str,
    tried: int = 1,
    clusters: Int64 | None = None,
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
    """
    hits = np.asarray(right)
    share, n = float(hits.mean()), metrics.effective_rows(hits, clusters)
    against_chance = of_share(subject, share, n, Reference(CHANCE, chance), LEVEL / tried)
    claims = [replace(against_chance, n=len(hits))]
    if paired is not None:
        against = Reference(control, paired["acc_b"], paired=paired_limits(paired, tried))
        claims.append(replace(claims[0], against=against))
    return claims


def paired_limits(row: Mapping[str, Any], tried: int = 1) -> tuple[float, float]:
    """Return the interval of a paired difference; it includes 0 if the exact test does not reject.

    Of several pairs, the test has Holm's correction; of the highest of `tried`, Bonferroni's.
    """
    low, high = row["low"], row["high"]
    if not row.get("p_holm", row["p"]) < LEVEL / tried:
        return min(low, 0.0), max(high, 0.0)
    return low, high


def verdict_of_b(row: Mapping[str, Any]) -> str:
    """Tell whether b is ABOVE or BELOW a, by a row of `comparison.compare`."""
    low, high = paired_limits(row)
    return decide(-high, -low, 0, 0)


def leaderboard_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what decides between the first row of a leaderboard and the others; "" for one row.

    The rows are those of `leaderboard.leaderboard`.
    """
    if len(rows) < 2:
        return ""
    first, n = rows[0]["result"], int(rows[0]["rows"])
    p = "p is McNemar's"
    if "clusters" in rows[0]:
        p = f"p changes the signs of {int(rows[0]['clusters']):,} clusters of these rows"
    tested = sum(math.isfinite(row["p_holm"]) for row in rows)
    if tested > 1:
        p += f", corrected for {tested} comparisons by Holm's method"
    return (
        f"A result is {ABOVE} or {BELOW} {first} if the paired 95 % interval of the difference on "
        f"the same {_count(n, 'row')} excludes 0 and p is below {LEVEL}; otherwise, this is "
        f"{NOT_DECIDED}. Whether the intervals of two accuracies overlap decides nothing. {p}. "
        "Intervals are over test images, but not over training images or seeds."
    )


def difference_sentence(row: Mapping[str, Any]) -> str:
    """Say which of two results of `compare` is more accurate, by how much, and on how many rows.

    >>> row = {"a": "a", "b": "b", "acc_a": 0.5, "acc_b": 0.4, "rows": 600, "p": 0.001}
    >>> difference_sentence(row | {"difference": 0.1, "low": 0.05, "high": 0.15})
    'a is above b by 10.0 points (5.0 to 15.0) on 600 rows'
    """
    verdict = decide(*paired_limits(row), 0, 0)
    low, high = 100 * row["low"], 100 * row["high"]
    points = f"{100 * row['difference']:.1f} points ({low:.1f} to {high:.1f})"
    on_rows = f"on {_count(int(row['rows']), 'row')}"
    if verdict == NOT_DECIDED:
        return f"{row['a']} and {row['b']}: {NOT_DECIDED}, {points} {on_rows}"
    if verdict == BELOW:
        points = f"{-100 * row['difference']:.1f} points ({-high:.1f} to {-low:.1f})"
    return f"{row['a']} is {verdict} {row['b']} by {points} {on_rows}"


def control_of_best(control: float, chance: float) -> str:
    """Return what a title says of an untrained control, or else of chance, behind the best."""
    if math.isfinite(control):
        return f"; {CONTROL} has at most {_format(control, '%', 1)}"
    return f"; {CHANCE} is {_format(chance, '%', 1)}" if chance > 0 else ""


def shots_sentence(accuracy: float, n: int, shots: Sequence[float], above: Sequence[str]) -> str:
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
    if ends:
        text += f": {' and '.join(ends)} labelled images per class"
    open_at = [f"{n:g}" for n, verdict in zip(shots, above, strict=True) if verdict == NOT_DECIDED]
    if open_at:
        separator = "," if ends else ":"
        text += f"{separator} {NOT_DECIDED} at {_list(open_at)}"
    return text


def calibration_sentence(errors: Mapping[str, tuple[float, float]]) -> str:
    """Say at which temperatures a softmax is miscalibrated, and at which this is not decided.

    `errors` has, by the name of a temperature, the calibration error and the 97.5 % quantile of a
    calibrated model's.

    >>> calibration_sentence({"τ 1": (0.628, 0.008), "τ 0.03": (0.02, 0.03)})
    'Miscalibrated at τ 1 (error 62.8 %, null below 0.8 %); not decided at τ 0.03'
    """
    wrong, open_at = [], []
    for name, (error, limit) in errors.items():
        if decide(error, error, limit, limit) == ABOVE:
            null = f"null below {_format(limit, '%', 1)}"
            wrong.append(f"{name} (error {_format(error, '%', 1)}, {null})")
        else:
            open_at.append(name)
    if not wrong:
        return f"Not shown to be miscalibrated at {_list(open_at)}" if open_at else ""
    text = f"Miscalibrated at {_list(wrong)}"
    return f"{text}; {NOT_DECIDED} at {_list(open_at)}" if open_at else text


def largest_error_sentence(count: int, second: int, total: int, names: tuple[str, str]) -> str:
    """Name the most frequent error, if it is decided that no other is as frequent; else "".

    Of the rows of the two most frequent errors, more than half must be of the first, by an exact
    interval. `names` are the true and the predicted class of the first.
    """
    low, _ = exact_interval(count / max(count + second, 1), count + second)
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
        return f"At τ {tau:g}, entropy is {share} of its maximum {of_images}"
    share, uniform = _format(mean, "%", 1), _format(1 / K, "%", 1)
    return f"At τ {tau:g}, the top prompt gets {share} {of_images}; 1/K is {uniform}"


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
    low, _ = exact_interval(value if math.isnan(lowest) else lowest, row[count])
    _, high = exact_interval(value if math.isnan(highest) else highest, row[count])
    return [Reference(CONTROL, value, low, high)]


def _of_row(
    subject: str, row: Mapping[str, Any], name: str, count: str, against: Reference
) -> Claim:
    """Hold a share of a row against another one, by the wider of its own and the exact interval."""
    value, n = row[name], int(row[count])
    low, high = exact_interval(value, n)
    low, high = min(low, row[f"{name}_low"]), max(high, row[f"{name}_high"])
    return Claim(subject, value, low, high, against, n)


def choice_claims(row: Mapping[str, Any]) -> list[Claim]:
    """Hold a row of `choose` against shuffled images, the control and, of order, the ceiling."""
    shuffled = Reference("shuffled images", row["shuffled"], row["shuffled"], row["shuffled95"])
    references = [shuffled]
    references += _control_of(row, "accuracy", "items")
    if row["ceiling"] < MOSTLY_ORDER:
        references.append(Reference("a model blind to order", row["ceiling"]))
    subject = f"{row['category']}:"
    return [_of_row(subject, row, "accuracy", "items", against) for against in references]


def understood(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, bool]]:
    """Return which categories of texts are understood, by what decides them: words or their order.

    `rows` are those of `choose`, of which the last measure counts: it has both directions. A
    category is understood if it is above all that it is held against; else this is not decided.
    """
    rows = [row for row in rows if row["split"] == rows[-1]["split"]]
    categories: dict[str, dict[str, bool]] = {}
    for row in rows[1:] or rows:
        decided_by = ORDER if row["ceiling"] < MOSTLY_ORDER else WORDS
        is_above = all(claim.verdict == ABOVE for claim in choice_claims(row))
        categories.setdefault(decided_by, {})[row["category"]] = is_above
    return {name: categories[name] for name in (WORDS, ORDER) if name in categories}


def choices_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """Count the categories of `choose` that are understood, and name the others."""
    parts, others = [], []
    for decided_by, categories in understood(rows).items():
        parts.append(f"{decided_by} in {sum(categories.values())} of {len(categories)} categories")
        others += [name for name, is_above in categories.items() if not is_above]
    text = f"Understood: {', '.join(parts)}"
    return f"{text}; {NOT_DECIDED}: {_list(others)}" if others else text


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
        references = [Reference(CHANCE, row["recall_null"]), *_control_of(row, "recall", "queries")]
        claims = [_of_row(subject, row, "recall", "queries", against) for against in references]
        parts.append(sentence(claims))
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


# ---- Attributes ----------------------------------------------------------------------------------

ABOVE_CHANCE = 0.02  # by which the probe's interval must exceed chance
HALF = 0.5  # of the probe's recall above chance
REACHED = "learned and reached by words"
PARTLY = "learned, words reach part"
NOT_REACHED = "learned, not reached"
NO_WORDS = "learned, not decided for words"
WITHOUT_TRAINING = "there without training"
NOT_SHOWN = "not shown"
GROUPS = (REACHED, PARTLY, NOT_REACHED, NO_WORDS, WITHOUT_TRAINING, NOT_SHOWN, NOT_DECIDED)

# What the groups are called if the words are a generative model's own answers
SAID = {
    REACHED: "held and said",
    PARTLY: "held, said in part",
    NOT_REACHED: "held, not said",
    NO_WORDS: "held, not decided whether said",
}


def group_of(row: Mapping[str, Any]) -> str:
    """Return the group of a row of `attributes`, one of GROUPS.

    The rules are those of docs/commands/attributes.md. Measured there: in how many of 1,000 worlds
    without anything to find each group is said, and how often another draw of images reverses it.
    """

    def verdict(name: str, against: float) -> str:
        limits = _number(row, f"{name}_low"), _number(row, f"{name}_high")
        return decide(*limits, against, against)

    chance, probe = _number(row, "chance"), _number(row, "probe")
    least, half = chance + ABOVE_CHANCE, HALF * (probe - chance)
    if math.isnan(_number(row, "gain_low") + _number(row, "probe_low")):
        return NOT_DECIDED
    if verdict("probe", least) != ABOVE:  # a probe with few rows may fail where words do not
        return NOT_DECIDED if verdict("zeroshot", least) == ABOVE else NOT_SHOWN
    kept = verdict("gain", half)
    if kept != ABOVE:
        return WITHOUT_TRAINING if kept == BELOW else NOT_DECIDED
    reach = verdict("reach", HALF)
    # words must be above chance, and above 95 % of other words in their place
    exceed_others = _number(row, "zeroshot") > _number(row, "other_words95")
    are_above = exceed_others and verdict("zeroshot", chance) == ABOVE
    if reach == ABOVE and are_above:
        return REACHED
    if reach == BELOW:
        return PARTLY if are_above else NOT_REACHED
    return NO_WORDS


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def group_names(groups: Sequence[str], is_said: bool) -> list[str]:
    """Return what groups are called; of a generative model, by what it says."""
    return [SAID.get(group, group) if is_said else group for group in groups]


def named_groups(rows: Sequence[Mapping[str, Any]], is_said: bool = False) -> dict[str, list[str]]:
    """Return the names of the attributes of each group, by what the group is called.

    Empty if no attribute is in a group that is decided.
    """
    groups = [group_of(row) for row in rows]
    if not attributes_sentence(groups):
        return {}
    names: dict[str, list[str]] = {}
    for group, name in zip(GROUPS, group_names(GROUPS, is_said), strict=True):
        members = [row["attribute"] for row, own in zip(rows, groups, strict=True) if own == group]
        if members:
            names[name] = members
    return names


def attributes_sentence(groups: Sequence[str], is_said: bool = False) -> str:
    """Count the attributes of each group; "" if no attribute is in a group that is decided.

    >>> attributes_sentence([REACHED, NOT_DECIDED, REACHED])
    '2 of 3 attributes learned and reached by words; 1 not decided'
    """
    counts = Counter(groups)
    names = dict(zip(GROUPS, group_names(GROUPS, is_said), strict=True))
    parts: list[str] = []
    for group in GROUPS:
        count = counts[group]
        if not count:
            continue
        noun = "" if parts else f" of {_count(len(groups), 'attribute')}"
        parts.append(f"{count}{noun} {names[group]}")
    return "; ".join(parts) if set(groups) - {NOT_DECIDED, NOT_SHOWN} else ""

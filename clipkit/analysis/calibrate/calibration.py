"""Fit the temperature of the softmax over classes, and score the probabilities.

The score of a class is the highest cosine among its prompts, as in zero-shot classification. The
logits are the scores divided by a temperature tau. A model that was trained with another
distribution over prompts has this in the place of the softmax, see `links.distribution`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis import held_out
from clipkit.analysis.class_scores import check_prompts, iter_class_scores
from clipkit.analysis.results import majority, make_result
from clipkit.analysis.row_clusters import own_clusters
from clipkit.base import console, suggestions
from clipkit.base.errors import ClipkitError, UsageError, check_positive
from clipkit.base.matrices import BlockMatrix, Floats, Int64
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.matching import join_named
from clipkit.features.model import FeatureFile
from clipkit.statistics import links, main_number, metrics
from clipkit.statistics.links import Link

BINS = 15
SEED = 42
SEARCHED = (1e-6, 1e6)  # temperatures, as multiples of the largest difference between scores
PRECISION = 1e-5  # of the last step of a search, relative; a step squares the one before it
MAX_STEPS = 100  # of a search; about five are needed
CHI_SQUARED = 3.841459  # 95 % quantile, one degree of freedom
MAX_SCORES = 1 << 25  # in memory, 128 MiB; more are computed again in each pass
PASSES = 8  # over the scores, about, in a fit
# Of a block. The memory of larger arrays goes back to the system, and then costs as much as exp.
BLOCK_BYTES = 1 << 17


@dataclass(frozen=True)
class ClassScores:
    """Scores (N, C) of N labelled rows, and what makes probabilities of them.

    `name` stands for them in messages and reports.
    """

    name: str
    matrix: BlockMatrix
    labels: Int64
    link: Link = links.SOFTMAX
    clusters: Int64 | None = None  # (N,), of rows that depend on each other

    def iter_below(self) -> Iterator[tuple[Floats, Int64]]:
        """Yield blocks of scores, minus the highest of each row, and their labels."""
        start = 0
        most = max(1, BLOCK_BYTES // (8 * self.matrix.shape[1]))
        for rows in self.matrix.iter_rows(most):
            yield links.below_highest(rows), self.labels[start : start + len(rows)]
            start += len(rows)

    def sample(self) -> ClassScores:
        """Return random rows that fit into memory."""
        order = np.random.RandomState(SEED).permutation(len(self.labels))
        rows = np.sort(order[: MAX_SCORES // self.matrix.shape[1]])
        taken = BlockMatrix.from_array(self.matrix.take(rows).read())
        clusters = None if self.clusters is None else self.clusters[rows]
        return replace(self, matrix=taken, labels=self.labels[rows], clusters=clusters)


def read_scores(
    logits: FeatureFile, split: str, rows: Int64 | None = None, name: str | None = None
) -> ClassScores:
    """Return the class scores of a labelled split, or of some of its rows."""
    check_prompts(logits)
    labels = held_out.labelled_split(logits, split).labels
    assert labels is not None
    cosines = logits.cosines(split)
    if rows is not None:
        cosines, labels = cosines.take(rows), labels[rows]
    shape = (len(labels), len(logits.class_names or []))
    matrix = BlockMatrix(shape, lambda: iter_class_scores(logits, cosines))
    if math.prod(shape) <= MAX_SCORES:
        matrix = BlockMatrix.from_array(matrix.read())
    clusters = own_clusters(logits, split, rows)
    return ClassScores(name or split, matrix, labels, links.distribution(logits.history), clusters)


def _nll(scores: ClassScores, *betas: float) -> list[tuple[float, float, float]]:
    """Return the mean NLL at each temperature 1 / beta, and its first two derivatives by beta.

    One pass over the scores serves all temperatures.
    """
    sums = np.zeros((len(betas), 3))
    for below, labels in scores.iter_below():
        for i, beta in enumerate(betas):
            sums[i] += scores.link.nll(below, labels, beta)
    means = sums / len(scores.labels)
    return [(nll, slope, curvature) for nll, slope, curvature in means.tolist()]


def fit_temperature(scores: ClassScores) -> tuple[float, float, float]:
    """Fit the temperature by maximum likelihood (Guo et al. 2017), with a 95 % interval.

    The interval comes from the likelihood-ratio test: every tau with
    2 N (NLL(tau) - NLL(fitted)) <= 3.841, where N is the number of rows or, in clusters, of
    effective rows for the mean derivative of NLL (see `metrics.effective_rows`). NLL is convex in
    beta = 1 / tau, so there is one minimum, and Newton's method finds it and both ends.

    Returns
    -------
    fitted, low, high : float
        `low` or `high` is NaN if the interval has no such end. If there is no best temperature,
        `fitted` is the last one that was tried. This is a millionth of the largest difference
        between two scores of a row if all rows are right, and a million times that difference if
        a uniform softmax is the best.

    Raises
    ------
    ClipkitError
        If the scores of each row are equal, as with a single class, or if the link has no
        likelihood.

    Notes
    -----
    A note on standard error says which end is missing.
    """
    if not scores.link.has_likelihood:
        raise ClipkitError(
            f"{scores.name}: expected probabilities with a likelihood to fit a temperature, got "
            f"{scores.link.plural}"
        )
    began = time.monotonic()
    spread, is_right = _shape(scores)
    console.note_if_long("fitting the temperature", PASSES * (time.monotonic() - began))
    if spread == 0:
        raise ClipkitError(
            f"{scores.name}: expected scores that differ between two classes or more, "
            "got equal ones in every row"
        )
    first, last = (1 / (spread * ratio) for ratio in reversed(SEARCHED))  # of beta
    with console.progress("fitting the temperature"):
        best = last
        if not is_right:
            start = first
            if math.prod(scores.matrix.shape) > MAX_SCORES:
                start = _find_best(scores.sample(), first, last, first)
            best = _find_best(scores, first, last, start)
        low, high = _find_ends(scores, best, (last, first), _effective_rows(scores, best))
    if is_right:
        console.note(f"{scores.name}: all rows are right, so the lower the temperature, the better")
    elif best == first:
        console.note(
            f"{scores.name}: the labels do not have higher scores than other classes, so the "
            "higher the temperature, the better"
        )
    for end, value in (("lower", low), ("upper", high)):
        if np.isnan(value):
            console.note(f"{scores.name}: the interval of the fitted temperature has no {end} end")
    return 1 / best, low, high


def _find_best(scores: ClassScores, first: float, last: float, start: float) -> float:
    """Return the beta between two limits with the lowest NLL.

    A step of Newton's method that leaves the range where the slope changes its sign is replaced by
    one to the middle of this range.
    """
    beta = start
    for _ in range(MAX_STEPS):
        [(_, slope, curvature)] = _nll(scores, beta)
        if slope >= 0 and beta == first:
            return first
        if slope < 0:
            first = beta
        else:
            last = beta
        step = -slope / curvature if curvature > 0 else math.inf
        if not first < beta + step < last:
            step = math.sqrt(first * last) - beta
        beta += step
        if abs(step) <= PRECISION * beta:
            break
    return beta


def _effective_rows(scores: ClassScores, beta: float) -> float:
    """Return how many independent rows tell as much about the temperature 1 / beta."""
    if scores.clusters is None:
        return len(scores.labels)
    slopes = []
    for below, labels in scores.iter_below():
        for row, label in zip(below, labels, strict=True):
            slopes.append(scores.link.nll(row[None], label[None], beta)[1])
    return metrics.effective_rows(slopes, scores.clusters)


def _find_ends(
    scores: ClassScores, best: float, limits: tuple[float, float], n: float
) -> list[float]:
    """Return the temperatures at the ends of the interval, or NaN beyond a limit of beta.

    There are `n` effective rows.
    Newton's method starts where an end is if NLL is a parabola. One step from inside the interval
    leads out of it, since NLL is convex; those from outside come ever closer to the end.
    """
    [(lowest, _, curvature)] = _nll(scores, best)
    betas = list(limits)
    if curvature > 0:
        half = math.sqrt(CHI_SQUARED / (n * curvature))
        betas = [best + math.copysign(half, limit - best) for limit in limits]
    ends = [math.nan, math.nan]
    searched = [0, 1]
    for _ in range(MAX_STEPS):
        for end in searched:
            limit = limits[end]
            betas[end] = min(max(betas[end], min(best, limit)), max(best, limit))
        found = _nll(scores, *(betas[end] for end in searched))
        for end, (nll, slope, _) in zip(list(searched), found, strict=True):
            excess = 2 * n * (nll - lowest) - CHI_SQUARED
            if betas[end] == limits[end] and excess <= 0:
                ends[end] = math.nan
                searched.remove(end)
                continue
            step = -excess / (2 * n * slope)
            betas[end] += step
            ends[end] = 1 / betas[end]
            if abs(step) <= PRECISION * betas[end]:
                searched.remove(end)
        if not searched:
            break
    return ends


def _has_fit_split(logits: FeatureFile, eval_split: str) -> bool:
    return held_out.FIT_SPLIT in logits.splits and eval_split != held_out.FIT_SPLIT


def can_fit_on_train(logits: FeatureFile, eval_split: str) -> bool:
    """Whether a temperature can be fitted on the split `train`, apart from the drawn split.

    The split must be there and have labels, and the model's link a likelihood.
    """
    can_fit = (
        _has_fit_split(logits, eval_split) and links.distribution(logits.history).has_likelihood
    )
    return can_fit and logits.splits[held_out.FIT_SPLIT].labels is not None


def fitted_on_train(logits: FeatureFile, eval_split: str) -> float:
    """Return the temperature fitted on the split `train`, which must not be the drawn split."""
    fit_split = held_out.FIT_SPLIT
    if not _has_fit_split(logits, eval_split):
        raise UsageError(
            f"temperature 'fitted': expected a split {fit_split} to fit on, apart from the drawn "
            f"split {eval_split}, got {', '.join(logits.splits)}",
            "give a number, as clipkit calibrate reports it",
        )
    return fit_temperature(read_scores(logits, fit_split))[0]


def _shape(scores: ClassScores) -> tuple[float, bool]:
    """Return the largest difference between two scores of a row, and whether all rows are right.

    A row is right if no class has a higher score than the label.
    """
    spread, is_right = 0.0, True
    for below, labels in scores.iter_below():
        spread = max(spread, float(-below.min()))
        is_right = is_right and not below[np.arange(len(labels)), labels].any()
    return spread, is_right


@dataclass(frozen=True)
class ProbabilityScores:
    """The confidence (N,) at one temperature, and which predictions are right (N,).

    The first of equally probable classes is predicted. `nll` is the mean negative log-likelihood in
    nats. `brier` is the mean over rows of the sum over classes of (probability - outcome)^2 (Brier
    1950), 0 to 2.
    """

    confidence: Floats
    right: NDArray[np.bool_]
    nll: float
    brier: float


def score_probabilities(scores: ClassScores, temperature: float) -> ProbabilityScores:
    """Score the probabilities at a temperature."""
    confidence, right = [], []
    nll = brier = 0.0
    for below, labels in scores.iter_below():
        of_rows, nll_sum, brier_sum = scores.link.score(below, labels, temperature)
        nll += nll_sum
        brier += brier_sum
        confidence.append(of_rows)
        right.append(below.argmax(axis=1) == labels)
    n = len(scores.labels)
    return ProbabilityScores(np.concatenate(confidence), np.concatenate(right), nll / n, brier / n)


@checked
def reliability(
    logits: Features, split: str, temperatures: Several[float], bins: int = BINS
) -> dict[float, metrics.Reliability]:
    """Return confidence and accuracy per bin at each temperature: what `plot reliability` draws."""
    scores = read_scores(as_file(logits, "logits"), split)
    diagrams = {}
    for tau in as_list(temperatures, "temperatures", float):
        predictions = score_probabilities(scores, tau)
        diagrams[tau] = metrics.reliability(
            predictions.confidence, predictions.right, bins, SEED, scores.clusters
        )
    return diagrams


@checked
def calibrate(
    logits: Features,
    temperatures: Several[float] | None = None,
    fit_split: str = held_out.FIT_SPLIT,
    eval_split: str = held_out.EVAL_SPLIT,
    val: float | None = None,
    bins: int = BINS,
    seed: int = SEED,
) -> FeatureFile:
    """Fit and score the temperature of the softmax: what `clipkit calibrate` reports.

    Parameters
    ----------
    logits : Features
        Of kind logits, with labels and a prompt for every class.
    temperatures : float or sequence of float, optional
        Absolute temperatures to score besides the fitted one, by default the file's own.
    fit_split, eval_split : str
        The splits to fit and to score. If a file has a single split, by default a fifth of its
        rows is held out and scored.
    val : float, optional
        If the two splits are the same, hold out this fraction of its rows per class, and score
        them. If every row has a class that no other row has, as in pairs of an image and its text,
        hold out rows regardless of class.
    bins : int
        Number of bins of the calibration error. They have equal numbers of rows or, for
        `ece_equal_width`, equal widths.
    seed : int
        Random seed of the held-out rows and of the calibration error (see `metrics.reliability`).

    Returns
    -------
    FeatureFile
        A result with a run per temperature, the fitted one last: `temperature`, `fitted`, `low`
        and `high` (see `fit_temperature`), `eval_split`, `rows`, `acc1`, `mean_confidence`, `nll`
        (nats), `information` (the entropy of the scored labels - NLL), `brier`, `ece`, `ece_null`,
        `ece_null95`, `ece_null975` and `ece_equal_width`. `information` is the V-information of Xu
        et al. (2020), with the labels' frequencies as the prediction without an image. It is
        negative if the softmax is worse than these, as a uniform softmax is where classes are
        unequally frequent.

    Raises
    ------
    UsageError
        If a temperature is out of range, if the two splits are the same and `val` is not given, or
        if they differ and it is given.
    ClipkitError
        If a split, its labels or a class's prompt is missing, or no temperature changes the
        softmax.

    Warns
    -----
    On standard error: if scored images were fitted, too. The history then says so.
    """
    logits = as_file(logits, "logits")
    temperatures = as_list(temperatures, "temperatures", float)
    taus = [check_positive("temperature", tau) for tau in temperatures or ()]
    taus = taus or [logits.default_temperature]
    check_prompts(logits)
    link, own = links.distribution(logits.history), links.own_link(logits.history)
    if link.name != own.name:
        console.note(
            f"the model's own probabilities are {own.plural}; those of a {link.name} are scored"
        )
    logits, (fit_split, eval_split) = join_named(logits, [fit_split, eval_split])
    fit_split, eval_split, val = _choose_splits(logits, fit_split, eval_split, val)
    name, fit_rows, eval_rows = eval_split, None, None
    if val is not None:
        labels = held_out.labelled_split(logits, fit_split).labels
        assert labels is not None
        if len(np.unique(labels)) == len(labels):  # pairs of an image and its text
            labels = np.zeros_like(labels)
        name, fit_rows, eval_rows = held_out.hold_out(logits, fit_split, labels, val, seed)
    held_out.labelled_split(logits, eval_split)  # before the fit, which takes longer
    fit_scores = read_scores(logits, fit_split, fit_rows)
    fitted, low, high = fit_temperature(fit_scores)
    scores = read_scores(logits, eval_split, eval_rows, name)
    caveats = held_out.find_shared("fitted", scores.name, fit_scores.matrix, scores.matrix)
    _note_uneven_classes(scores)
    rows = [_row(scores, tau, bins, seed) for tau in taus]
    rows.append(_row(scores, fitted, bins, seed) | {"fitted": True, "low": low, "high": high})
    history = logits.extended_history(
        "calibrate",
        temperature=taus,
        fit_split=fit_split,
        eval_split=eval_split,
        val=val,
        bins=bins,
        seed=seed,
        caveats=caveats or None,
        inputs={"logits": logits.digest},
    )
    return make_result(history, rows)


def draw_labels(logits: FeatureFile, temperature: float, random: Any) -> FeatureFile:
    """Return logits with labels that are drawn from their probabilities at a temperature.

    Rows of one cluster share the number that decides, with the probabilities of each, on its class.
    """
    splits = dict(logits.splits)
    for name, split in logits.splits.items():
        if split.labels is None:
            continue
        scores = read_scores(logits, name)
        number = np.arange(len(split))
        if scores.clusters is not None:
            number = np.unique(scores.clusters, return_inverse=True)[1]
        uniform = random.random(int(number.max()) + 1)[number]
        labels = np.empty(len(split), np.int64)
        start = 0
        for below, _ in scores.iter_below():
            rows = slice(start, start + len(below))
            up_to = np.cumsum(scores.link.probabilities(below, temperature), axis=1)
            labels[rows] = (uniform[rows, None] > up_to[:, :-1]).sum(axis=1)
            start += len(below)
        splits[name] = replace(split, labels=labels)
    return replace(logits, splits=splits)


def _note_uneven_classes(scores: ClassScores) -> None:
    """Tell, among the details, what `information` is compared with if classes are unequal."""
    C, share = scores.matrix.shape[1], majority(scores.labels)
    if main_number.unless_equal(scores.labels) is not None:
        what = f"{100 * share:.0f} % of the images have one of {C} classes"
        console.detail(
            f"{scores.name}: {what}: `information` compares with the labels' own entropy"
        )


def _choose_splits(
    logits: FeatureFile, fit_split: str, eval_split: str, val: float | None
) -> tuple[str, str, float | None]:
    """Return the splits to fit and to score, the same one if a fraction is held out."""
    fit_split, val = held_out.choose_held_out(logits, fit_split, eval_split, val)
    if [fit_split] == [*logits.splits] and eval_split == held_out.EVAL_SPLIT:
        eval_split = fit_split
    if fit_split == eval_split and val is None:
        raise UsageError(
            f"{logits.display_name}: expected different splits to fit and to score, got "
            f"{fit_split} twice",
            "hold rows out with --val 0.2",
        )
    if fit_split != eval_split and val is not None:
        raise UsageError(
            f"{logits.display_name}: expected one split to hold rows out of, got {fit_split} to "
            f"fit and {eval_split} to score",
            f"leave out --val, or add {suggestions.command('--eval-split', fit_split)}",
        )
    return fit_split, eval_split, val


def _row(scores: ClassScores, tau: float, bins: int, seed: int) -> dict[str, Any]:
    predictions = score_probabilities(scores, tau)
    error = metrics.reliability(
        predictions.confidence, predictions.right, bins, seed, scores.clusters
    )
    frequencies = np.unique(scores.labels, return_counts=True)[1] / len(scores.labels)
    entropy = -float(frequencies @ np.log(frequencies))  # ln C if classes are equally frequent
    return {
        "temperature": tau,
        "fitted": False,
        "low": np.nan,
        "high": np.nan,
        "eval_split": scores.name,
        "rows": len(scores.labels),
        "acc1": float(predictions.right.mean()),
        "mean_confidence": float(predictions.confidence.mean()),
        "nll": predictions.nll,
        "information": entropy - predictions.nll,
        "brier": predictions.brier,
        "ece": error.ece,
        "ece_null": error.ece_null,
        "ece_null95": error.ece_null95,
        "ece_null975": error.ece_null975,
        "ece_equal_width": error.ece_equal_width,
    }

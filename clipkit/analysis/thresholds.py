"""Find the cosine above which an image and a prompt are said to match.

A threshold is chosen on the fitted split: the smallest one at which at most a given share of the
pairs that do not match is above it. It is scored on another split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from clipkit.analysis import metrics
from clipkit.analysis.held_out import EVAL_SPLIT, FIT_SPLIT, SplitRows, choose_rows, find_shared
from clipkit.analysis.results import (
    Caveat,
    Row,
    is_testable,
    labels_of,
    make_result,
)
from clipkit.analysis.similarity import refuse_dot_product
from clipkit.analysis.softmax import softmax
from clipkit.analysis.zeroshot import HINT, check_prompts, iter_class_scores
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features.compatibility import check_same_prompts
from clipkit.features.model import FeatureFile, Float32, Floats

LIMITS = ("tpr_low", "tpr_high", "fpr_low", "fpr_high")
TPR = 0.95  # of known images
LEAST_ABOVE = 5  # pairs that do not match, above a threshold that says something


class Pairs(NamedTuple):
    """Cosines of N images with K prompts, and which of them match."""

    cosines: Float32  # (N, K)
    matches: Any  # (N, K) bool


def choose(
    logits: FeatureFile,
    *,
    fpr: Sequence[float] = (0.01,),
    at: Sequence[float] = (),
    standardize: bool = False,
    fit_split: str = FIT_SPLIT,
    eval_split: str = EVAL_SPLIT,
    seed: int = 42,
) -> FeatureFile:
    """Choose thresholds for all prompts together and for each: what `clipkit threshold` reports.

    A prompt matches the images of its class. The shares `fpr` of the fitted pairs that do not match
    may be above; with `at`, these thresholds are scored instead. With `standardize`, each prompt's
    cosines have the mean 0 and the standard deviation 1 over the fitted images. `seed` is of the
    rows that are held out of a file with one split (see `held_out.choose_held_out`).

    Returns
    -------
    FeatureFile
        A result with runs for `all prompts` together and for each `prompt`, for each `fpr_asked`:
        `threshold`; `tpr` and `fpr`, the shares of the scored pairs above it that match and that do
        not, with 95 % intervals for another draw of images; `matching` and `other`, the numbers of
        these pairs; and `auroc`. NaN marks what does not apply, as the intervals if over 1 % of the
        scored images were fitted.
    """
    for share in fpr:
        if not 0 < share < 1:
            raise UsageError(f"fpr: expected a share between 0 and 1, got {share:g}")
    class_index = np.asarray([] if logits.class_index is None else logits.class_index)
    of_classes = np.flatnonzero(class_index >= 0)
    if not len(of_classes):
        raise ClipkitError(
            f"{logits.display_name}: expected prompts of the images' classes, got none", HINT
        )
    fit, evaluation = choose_rows(logits, fit_split, eval_split, seed)
    fitted, scored = _pairs(logits, fit), _pairs(logits, evaluation)
    caveats: list[Caveat] = []
    if standardize or not at:  # else nothing is fitted
        caveats = find_shared("fitted", evaluation.split, fitted.cosines, scored.cosines)
    untested = {} if is_testable(caveats) else dict.fromkeys(LIMITS, np.nan)
    if standardize:
        mean, deviation = fitted.cosines.mean(axis=0), fitted.cosines.std(axis=0)
        deviation = np.where(deviation > 0, deviation, 1)
        fitted = fitted._replace(cosines=(fitted.cosines - mean) / deviation)
        scored = scored._replace(cosines=(scored.cosines - mean) / deviation)
    texts = logits.texts or []
    chosen_prompts = [("all prompts", of_classes)]
    if len(of_classes) > 1:
        chosen_prompts += [(texts[number], np.array([number])) for number in of_classes]
    rows: list[Row] = []
    for name, numbers in chosen_prompts:
        others = np.sort(fitted.cosines[:, numbers][~fitted.matches[:, numbers]])
        pairs = Pairs(scored.cosines[:, numbers], scored.matches[:, numbers])
        head: Row = {"split": evaluation.split, "prompt": name}
        rows += [head | _score(pairs, threshold) for threshold in at]
        for share in [] if at else fpr:
            threshold = _highest(others, share)
            rows.append(head | {"fpr_asked": share} | _score(pairs, threshold))
    fewest = (~fitted.matches[:, of_classes]).sum(axis=0).min()
    few = [f"{share:g}" for share in sorted(set(fpr)) if share * fewest < LEAST_ABOVE]
    if few and not at:
        console.note(
            f"fewer than {LEAST_ABOVE} fitted pairs of a prompt may be above its threshold at "
            f"{', '.join(few)}: use a larger --fpr, or 'all prompts'"
        )
    history = logits.extended_history(
        "threshold",
        fpr=None if at else list(fpr),
        at=list(at) or None,
        standardize=standardize or None,
        fit_split=fit.split,
        eval_split=evaluation.split,
        seed=seed,
        caveats=caveats or None,
        inputs={"logits": logits.digest},
    )
    return make_result(history, [row | untested for row in rows])


def scored_pairs(
    logits: FeatureFile, fit_split: str = FIT_SPLIT, eval_split: str = EVAL_SPLIT, seed: int = 42
) -> Pairs:
    """Return the pairs that `choose` scores, of all prompts with classes."""
    pairs = _pairs(logits, choose_rows(logits, fit_split, eval_split, seed)[1])
    of_classes = np.asarray(logits.class_index) >= 0
    return Pairs(pairs.cosines[:, of_classes], pairs.matches[:, of_classes])


def _pairs(logits: FeatureFile, rows: SplitRows) -> Pairs:
    refuse_dot_product(logits, "for a threshold", "next-token logits are compared within an image")
    cosines = np.asarray(logits.cosines(rows.split))[rows.numbers]
    labels = labels_of(logits, rows.split)[rows.numbers]
    return Pairs(cosines, labels[:, None] == np.asarray(logits.class_index))


def _highest(rising: Float32, share: float) -> float:
    """Return the value with a share of the values above it, or NaN if there are none."""
    if not len(rising):
        return np.nan
    return float(rising[-1 - int(share * len(rising) + 1e-6)])  # 0.29 * 100 is 28.999999999999996


def _score(scored: Pairs, threshold: float) -> Row:
    """Score a threshold on some pairs."""
    row: Row = {"threshold": threshold}
    is_above = scored.cosines > threshold
    for rate, pairs in (("tpr", scored.matches), ("fpr", ~scored.matches)):
        row |= metrics.share(rate, is_above[pairs], np.nonzero(pairs)[0])
    if np.isnan(threshold):
        row |= dict.fromkeys(("tpr", "fpr", *LIMITS), np.nan)
    row |= {"matching": int(scored.matches.sum()), "other": int((~scored.matches).sum())}
    return row | {"auroc": metrics.auroc(scored.matches, scored.cosines)}


# ---- Images of no known class --------------------------------------------------------------------


def detect(
    known: FeatureFile,
    unknown: FeatureFile,
    *,
    fit_split: str = FIT_SPLIT,
    eval_split: str = EVAL_SPLIT,
    seed: int = 42,
) -> FeatureFile:
    """Tell images of known classes from others: what `clipkit threshold --unknown` reports.

    `unknown` has the logits of images of none of the classes, with the same prompts. All its splits
    are scored. The thresholds keep 95 % of the fitted known images.

    Returns
    -------
    FeatureFile
        A result with a run for each `measure`: the largest cosine of an image, and the largest
        probability of a softmax at the model's temperature. `tpr` and `fpr` are the shares of the
        `known` and of the `unknown` images above the `threshold`, with 95 % intervals, and `auroc`
        is of known against unknown images.
    """
    check_same_prompts(known, unknown)
    check_prompts(known)
    unknown = replace(unknown, class_index=known.class_index, class_names=known.class_names)
    fit, evaluation = choose_rows(known, fit_split, eval_split, seed)
    fitted, scored = (
        _confidences(known, rows.split)[:, rows.numbers] for rows in (fit, evaluation)
    )
    others = np.concatenate([_confidences(unknown, name) for name in unknown.splits], axis=1)
    caveats = find_shared("fitted", evaluation.split, fitted.T, scored.T)
    untested = {} if is_testable(caveats) else dict.fromkeys(LIMITS, np.nan)
    rows: list[Row] = []
    for number, measure in enumerate((f"largest {known.similarity_name}", "softmax")):
        threshold = float(np.quantile(fitted[number], 1 - TPR))
        row: Row = {"split": evaluation.split, "measure": measure, "threshold": threshold}
        row |= metrics.share("tpr", scored[number] > threshold)
        row |= metrics.share("fpr", others[number] > threshold)
        row |= {"known": scored.shape[1], "unknown": others.shape[1]}
        is_known = np.arange(scored.shape[1] + others.shape[1]) < scored.shape[1]
        row["auroc"] = metrics.auroc(is_known, np.concatenate([scored[number], others[number]]))
        rows.append(row | untested)
    history = known.extended_history(
        "threshold",
        fit_split=fit.split,
        eval_split=evaluation.split,
        seed=seed,
        caveats=caveats or None,
        inputs={"logits": known.digest, "unknown": unknown.digest},
    )
    return make_result(history, rows)


def _confidences(logits: FeatureFile, split: str) -> Floats:
    """Return the largest cosine and the largest probability (2, N) of each image of a split."""
    scale = logits.logit_scale or 1 / logits.default_temperature
    columns = []
    for cosines in iter_class_scores(logits, logits.cosines(split)):
        probabilities = softmax(cosines, 1 / scale)
        columns.append(np.stack([cosines.max(axis=1), probabilities.max(axis=1)]))
    return np.concatenate(columns, axis=1)

"""Find the cosine above which an image and a prompt are said to match.

A threshold is chosen on the fitted split: the smallest one at which at most a given share of the
pairs that do not match is above it. It is scored on another split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipkit.analysis import metrics
from clipkit.analysis.held_out import EVAL_SPLIT, FIT_SPLIT, choose_held_out, hold_out
from clipkit.analysis.results import Row, find_caveats, is_testable, labels_of, make_result
from clipkit.analysis.zeroshot import HINT
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features.model import FeatureFile, Float32, Int64
from clipkit.features.splitting import count_shared_rows, hash_rows

FPR = 0.01
LEAST_ABOVE = 5  # pairs that do not match, above a threshold that says something
ALL = "all prompts"
LIMITS = ("tpr_low", "tpr_high", "fpr_low", "fpr_high")


class Pairs(NamedTuple):
    """Cosines of N images with K prompts, and which of them match."""

    cosines: Float32  # (N, K)
    matches: Any  # (N, K) bool


def choose(
    logits: FeatureFile,
    *,
    fpr: Sequence[float] = (FPR,),
    at: Sequence[float] = (),
    standardize: bool = False,
    fit_split: str = FIT_SPLIT,
    eval_split: str = EVAL_SPLIT,
    seed: int = 42,
) -> FeatureFile:
    """Choose thresholds for all prompts together and for each: what `clipkit threshold` reports.

    Parameters
    ----------
    logits : FeatureFile
        Of kind logits, with labels and prompts of classes. A prompt matches the images of its
        class.
    fpr : sequence of float
        Shares of the pairs that do not match, in the fitted split, which may be above.
    at : sequence of float
        Thresholds to score, in place of `fpr`.
    standardize : bool
        Subtract each prompt's mean cosine over the fitted images, and divide by its standard
        deviation, before prompts are compared.
    fit_split, eval_split : str
        The splits to choose and to score on. Of a file with one split, a fifth is held out and
        scored.
    seed : int
        Of the held-out rows.

    Returns
    -------
    FeatureFile
        A result with runs for `all prompts` together and for each `prompt`, for each `fpr_asked`:
        `threshold`; `tpr` and `fpr`, the shares of the scored pairs above it that match and that do
        not, with 95 % intervals for another draw of images; `matching` and `other`, the numbers of
        these pairs; and `auroc`. NaN marks what does not apply, as the intervals if over 1 % of the
        scored images were fitted.

    Raises
    ------
    UsageError
        If a share is not between 0 and 1.
    ClipkitError
        If images have no labels, prompts no classes, or a split is missing.
    """
    _check(logits, fpr)
    fit_rows, scored_rows = _choose_rows(logits, fit_split, eval_split, seed)
    fitted, scored = _pairs(logits, *fit_rows), _pairs(logits, *scored_rows)
    caveats = []
    if standardize or not at:  # else nothing is fitted
        count = count_shared_rows(hash_rows(fitted.cosines), scored.cosines)
        caveats = find_caveats("fitted", scored_rows[0], count, len(scored.cosines))
    untested = {} if is_testable(caveats) else dict.fromkeys(LIMITS, np.nan)
    if standardize:
        mean, deviation = fitted.cosines.mean(axis=0), fitted.cosines.std(axis=0)
        deviation = np.where(deviation > 0, deviation, 1)
        fitted = fitted._replace(cosines=(fitted.cosines - mean) / deviation)
        scored = scored._replace(cosines=(scored.cosines - mean) / deviation)
    of_classes = np.flatnonzero(np.asarray(logits.class_index) >= 0)
    texts = logits.texts or []
    chosen_prompts = {ALL: of_classes}
    if len(of_classes) > 1:
        chosen_prompts |= {texts[number]: np.array([number]) for number in of_classes.tolist()}
    rows = []
    for name, numbers in chosen_prompts.items():
        fitted_pairs, scored_pairs = _take(fitted, numbers), _take(scored, numbers)
        for threshold in at:
            rows.append({"prompt": name, **_score(scored_pairs, threshold)})
        for share in [] if at else fpr:
            rows.append(_row(name, fitted_pairs, scored_pairs, share))
    few = {row["fpr_asked"] for row in rows if row.pop("few", False)}
    if few:
        console.note(
            f"fewer than {LEAST_ABOVE} fitted pairs of a prompt may be above its threshold at "
            f"{', '.join(f'{share:g}' for share in sorted(few))}: use a larger --fpr, or 'all "
            "prompts'"
        )
    history = logits.extended_history(
        "threshold",
        fpr=None if at else list(fpr),
        at=list(at) or None,
        standardize=standardize or None,
        fit_split=fit_rows[0],
        eval_split=scored_rows[0],
        seed=seed,
        caveats=caveats or None,
        inputs={"logits": logits.digest},
    )
    rows = [{"split": scored_rows[0], **row, **untested} for row in rows]
    return make_result(history, rows)


def _check(logits: FeatureFile, fpr: Sequence[float]) -> None:
    for share in fpr:
        if not 0 < share < 1:
            raise UsageError(f"fpr: expected a share between 0 and 1, got {share:g}")
    if logits.class_index is None or (np.asarray(logits.class_index) < 0).all():
        raise ClipkitError(
            f"{logits.display_name}: expected prompts of the images' classes, got none", HINT
        )


def _choose_rows(
    logits: FeatureFile, fit_split: str, eval_split: str, seed: int
) -> tuple[tuple[str, Int64], tuple[str, Int64]]:
    """Return the split and the rows to choose on, and those to score."""
    fit_split, val = choose_held_out(logits, fit_split, eval_split, None)
    if val is not None:
        _, train, held_out = hold_out(logits, fit_split, labels_of(logits, fit_split), val, seed)
        return (fit_split, train), (fit_split, held_out)
    for name in logits.choose_splits([fit_split, eval_split]):
        labels_of(logits, name)
    fit, scored = (np.arange(len(logits.splits[name])) for name in (fit_split, eval_split))
    return (fit_split, fit), (eval_split, scored)


def _pairs(logits: FeatureFile, split: str, rows: Int64) -> Pairs:
    cosines = np.asarray(logits.cosines(split))[rows]
    labels = labels_of(logits, split)[rows]
    return Pairs(cosines, labels[:, None] == np.asarray(logits.class_index))


def _take(pairs: Pairs, prompts: Int64) -> Pairs:
    return Pairs(pairs.cosines[:, prompts], pairs.matches[:, prompts])


def _row(name: str, fitted: Pairs, scored: Pairs, share: float) -> Row:
    """Choose a threshold on some pairs, and score it on others."""
    others = fitted.cosines[~fitted.matches]
    above = int(share * len(others) + 1e-6)  # 0.29 * 100 is 28.999999999999996
    row: Row = {"prompt": name, "fpr_asked": share, "few": above < LEAST_ABOVE}
    if not len(others):
        return row | _score(scored, np.nan) | dict.fromkeys(("tpr", "fpr", *LIMITS), np.nan)
    place = len(others) - 1 - above
    return row | _score(scored, float(np.partition(others, place)[place]))


def _score(scored: Pairs, threshold: float) -> Row:
    """Score a threshold on some pairs."""
    row: Row = {"threshold": threshold}
    is_above = scored.cosines > threshold
    for rate, pairs in (("tpr", scored.matches), ("fpr", ~scored.matches)):
        row |= _rate(rate, is_above, pairs)
    row |= {"matching": int(scored.matches.sum()), "other": int((~scored.matches).sum())}
    return row | {"auroc": _auroc(scored)}


def _rate(name: str, is_above: Any, pairs: Any) -> Row:
    """Return the share of some pairs that are above, with an interval over draws of images."""
    images, _ = np.nonzero(pairs)
    hits = is_above[pairs]
    if not len(hits):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), np.nan)
    rate = float(hits.mean())
    low, high = metrics.wilson(rate, metrics.effective_rows(hits, images))
    return {name: rate, f"{name}_low": low, f"{name}_high": high}


def _auroc(pairs: Pairs) -> float:
    """Return the probability that a matching pair has a larger cosine than one that does not."""
    matching, others = pairs.cosines[pairs.matches], np.sort(pairs.cosines[~pairs.matches])
    if not len(matching) or not len(others):
        return np.nan
    below = np.searchsorted(others, matching, "left") + np.searchsorted(others, matching, "right")
    return float(below.mean() / 2 / len(others))

"""Find the cosine above which an image and a prompt are said to match.

A threshold is chosen on the fitted split: the smallest one at which at most a given share of the
pairs that do not match is above it. It is scored on another split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from clipkit.analysis import results
from clipkit.analysis.class_scores import (
    check_prompts,
    class_prompts_hint,
    iter_class_scores,
)
from clipkit.analysis.held_out import (
    EVAL_SPLIT,
    FIT_SPLIT,
    HELD_OUT,
    SplitRows,
    choose_rows,
    find_shared,
)
from clipkit.analysis.ranking import Ranking, answer_above
from clipkit.analysis.results import (
    Caveat,
    Row,
    columns_of,
    find_caveats,
    is_testable,
    labels_of,
    make_result,
    newest_entry,
)
from clipkit.analysis.retrieve import retrieval
from clipkit.analysis.row_clusters import find_clusters
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.matrices import BlockMatrix, Float32, Floats, Int64
from clipkit.base.names import class_name
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.compatibility import check_same_prompts, common_logit_scale
from clipkit.features.draws import stratified_split
from clipkit.features.matching import choose_split, count_shared_rows, hash_rows, row_keys
from clipkit.features.model import FeatureFile
from clipkit.features.similarity import normalize, refuse_dot_product
from clipkit.statistics import metrics
from clipkit.statistics.score_metrics import METRICS
from clipkit.statistics.softmax import softmax

LIMITS = ("tpr_low", "tpr_high", "fpr_low", "fpr_high")
AUROC_LIMITS = ("auroc_low", "auroc_high")
TPR = 0.95  # of known images
NEIGHBOUR = 10  # the cosine with the 10th nearest fitted image tells known images
ALL = "all prompts"  # together, as the run of one prompt
LEAST_IMAGES = 20  # with false positives
LARGEST = "largest {}"  # the measure of logits, with the name of the similarity
LEAST_ABOVE = 5  # pairs that do not match, above a threshold that says something


class Pairs(NamedTuple):
    """Cosines of N images with K prompts, and which of them match."""

    cosines: Float32  # (N, K)
    matches: Any  # (N, K) bool
    clusters: Int64  # (N,), of images that depend on each other

    def of_prompts(self, columns: slice) -> Pairs:
        """Return the pairs with some prompts."""
        return Pairs(self.cosines[:, columns], self.matches[:, columns], self.clusters)


@checked
def choose(  # noqa: PLR0913 (the options of `clipkit threshold`)
    logits: Features,
    *,
    fpr: Several[float] = (0.01,),
    at: Several[float] = (),
    standardize: bool = False,
    fit_split: str = FIT_SPLIT,
    eval_split: str = EVAL_SPLIT,
    seed: int = 42,
    table: Table | None = None,
    cluster: str | None = None,
    common: bool = False,
) -> FeatureFile:
    """Choose thresholds for all prompts together and for each: what `clipkit threshold` reports.

    A prompt matches the images of its class. The shares `fpr` of the fitted pairs that do not match
    may be above; with `at`, these thresholds are scored instead. With `standardize`, each prompt's
    cosines have the mean 0 and the standard deviation 1 over the fitted images. `seed` draws the
    rows that are held out if a file has one split (see `held_out.choose_held_out`). Images with the
    same value of the attribute `cluster` of `table` are counted together; with `common`, the table
    may lack images.

    Returns
    -------
    FeatureFile
        A result with runs for `all prompts` together and for each `prompt`, for each `fpr_asked`:
        `threshold`; `tpr` and `fpr`, the shares of the scored pairs above it that match and that do
        not, with 95 % intervals for another draw of images; `matching` and `other`, the numbers of
        these pairs; and `auroc`. NaN marks what does not apply, as the intervals if over 1 % of the
        scored images were fitted.
    """
    logits = as_file(logits, "logits")
    fpr, at = as_list(fpr, "fpr", float), as_list(at, "at", float)
    for cosine in at:
        if not math.isfinite(cosine):
            raise UsageError(f"at: expected a number, got {cosine:g}")
        if abs(cosine) > 1 and not standardize:  # standardised cosines have no bounds
            raise UsageError(f"at: expected a cosine from -1 to 1, got {cosine:g}")
    _check_rates(fpr)
    logits, fit, evaluation = choose_rows(logits, fit_split, eval_split, seed)
    split, rows_of_split = evaluation
    clusters = find_clusters(logits, split, rows_of_split, table, cluster, common=common)
    fitted, scored = _pairs(logits, fit), _pairs(logits, evaluation, clusters.numbers)
    caveats: list[Caveat] = []
    if standardize or not at:  # else nothing is fitted
        caveats = find_shared("fitted", evaluation.split, fitted.cosines, scored.cosines)
    untested = _untested(caveats, LIMITS)
    if standardize:
        fitted, scored = _standardize(fitted, scored)
    head: Row = {"split": evaluation.split}
    if clusters.numbers is not None:
        head["clusters"] = int(clusters.numbers.max()) + 1
    rows: list[Row] = []
    for name, columns in _prompts(logits):
        scores = _scores(fitted.of_prompts(columns), scored.of_prompts(columns), fpr, at)
        rows += [head | {"prompt": name} | score | untested for score in scores]
    if not at:
        _note_few_pairs(fitted, fpr)
    _note_few_images(rows)
    history = logits.extended_history(
        "threshold",
        fpr=None if at else list(fpr),
        at=list(at) or None,
        standardize=standardize or None,
        fit_split=fit.split,
        eval_split=evaluation.split,
        seed=seed,
        caveats=caveats or None,
        **clusters.entry,
        inputs={"logits": logits.digest, **clusters.inputs},
    )
    return make_result(history, rows)


def _untested(caveats: Sequence[Caveat], limits: Sequence[str]) -> Row:
    """Return the limits as NaN if the images have a caveat."""
    return {} if is_testable(caveats) else dict.fromkeys(limits, np.nan)


def _scores(fitted: Pairs, scored: Pairs, fpr: Sequence[float], at: Sequence[float]) -> list[Row]:
    """Score the thresholds `at` or, without any, those that are chosen at the shares `fpr`."""
    if at:
        return [_score(scored, threshold) for threshold in at]
    return [{"fpr_asked": share} | _score(scored, _highest(fitted, share)) for share in fpr]


def _note_few_images(rows: Sequence[Row]) -> None:
    """Name, among the details, the rows whose false positives few images, or clusters, have."""
    few = [row["prompt"] for row in rows if row.pop("above") < LEAST_IMAGES and row["fpr"] > 0]
    if few:
        which = results.join_names([shorten(prompt) for prompt in few])
        console.detail(
            f"fewer than {LEAST_IMAGES} images have the false positives of {which}: the interval "
            "of fpr may be too narrow"
        )


def _standardize(fitted: Pairs, scored: Pairs) -> tuple[Pairs, Pairs]:
    """Give each prompt's cosines the mean 0 and the deviation 1 over the fitted images."""
    mean, deviation = fitted.cosines.mean(axis=0), fitted.cosines.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)
    standardized = [(pairs.cosines - mean) / deviation for pairs in (fitted, scored)]
    return fitted._replace(cosines=standardized[0]), scored._replace(cosines=standardized[1])


def _prompts(logits: FeatureFile) -> list[tuple[str, slice]]:
    """Return the columns of all prompts of classes together and, if there are several, of each."""
    texts = np.array(logits.texts)[np.asarray(logits.class_index) >= 0].tolist()
    prompts = [(ALL, slice(None))]
    if len(texts) > 1:
        prompts += [(text, slice(k, k + 1)) for k, text in enumerate(texts)]
    return prompts


def _note_few_pairs(fitted: Pairs, fpr: Sequence[float]) -> None:
    """Note the shares at which few pairs decide on the threshold of a prompt."""
    fewest = (~fitted.matches).sum(axis=0).min()
    few = [f"{share:g}" for share in sorted(set(fpr)) if share * fewest < LEAST_ABOVE]
    if few:
        console.note(
            f"fewer than {LEAST_ABOVE} pairs of a prompt decide at {', '.join(few)}: use a larger "
            "--fpr, or 'all prompts'"
        )


def choose_overall(
    logits: FeatureFile,
    fpr: float,
    fit_split: str = FIT_SPLIT,
    eval_split: str = EVAL_SPLIT,
    seed: int = 42,
) -> tuple[Row, Pairs]:
    """Return the run of `choose` for all prompts together, and the pairs that it scores."""
    _check_rates([fpr])
    logits, fit, evaluation = choose_rows(logits, fit_split, eval_split, seed)
    fitted, scored = _pairs(logits, fit), _pairs(logits, evaluation)
    find_shared("fitted", evaluation.split, fitted.cosines, scored.cosines)
    return {"split": evaluation.split} | _score(scored, _highest(fitted, fpr)), scored


def _check_rates(fpr: Sequence[float]) -> None:
    for share in fpr:
        if not 0 < share < 1:
            raise UsageError(f"fpr: expected a share between 0 and 1, got {share:g}")


def _pairs(logits: FeatureFile, rows: SplitRows, clusters: Int64 | None = None) -> Pairs:
    """Return the pairs of some rows with all prompts of classes; by default, a row is a cluster."""
    refuse_dot_product(logits, "for a threshold", "next-token logits are compared within an image")
    class_index = np.asarray([] if logits.class_index is None else logits.class_index)
    of_classes = class_index >= 0
    if not of_classes.any():
        raise ClipkitError(
            f"{logits.display_name}: expected prompts of the images' classes, got none",
            class_prompts_hint(logits),
        )
    cosines = np.asarray(logits.cosines(rows.split))[rows.numbers]
    labels = labels_of(logits, rows.split)[rows.numbers]
    if clusters is None:
        clusters = np.arange(len(labels))
    return Pairs(cosines[:, of_classes], labels[:, None] == class_index[of_classes], clusters)


def _highest(pairs: Pairs, share: float) -> float:
    """Return the cosine that a share of the pairs that do not match exceeds; NaN if all match."""
    rising = np.sort(pairs.cosines[~pairs.matches])
    if not len(rising):
        return np.nan
    above = int(share * len(rising) + 1e-6)  # 0.29 * 100 is 28.999999999999996
    return float(rising[-1 - min(above, len(rising) - 1)])


def _score(scored: Pairs, threshold: float) -> Row:
    """Score a threshold on some pairs."""
    row: Row = {"threshold": threshold}
    is_above = scored.cosines > threshold
    for rate, pairs in (("tpr", scored.matches), ("fpr", ~scored.matches)):
        row |= metrics.share(rate, is_above[pairs], scored.clusters[np.nonzero(pairs)[0]])
    if np.isnan(threshold):
        row |= dict.fromkeys(("tpr", "fpr", *LIMITS), np.nan)
    row |= {"matching": int(scored.matches.sum()), "other": int((~scored.matches).sum())}
    (images,) = np.nonzero((is_above & ~scored.matches).any(axis=1))
    row["above"] = len(np.unique(scored.clusters[images]))  # with false positives
    return row | {"auroc": metrics.auroc(scored.matches, scored.cosines)}


def class_cuts(logits: FeatureFile, chosen: FeatureFile) -> Floats:
    """Return the threshold (C,) of each class in a result of `choose` or `detect`.

    The classes of `logits` need one prompt each. A result of `choose` needs a threshold for each.
    """
    check_prompts(logits)
    common_logit_scale(chosen, logits)
    entry, where = newest_entry(chosen), f"{logits.display_name} and {chosen.display_name}"
    if "measure" in chosen.runs:
        return _cut_of_all(logits, chosen)
    if entry.get("standardize"):
        raise ClipkitError(
            f"{where}: expected a threshold of the cosines of each prompt, got others",
            "choose them without --standardize",
        )
    columns = columns_of(chosen, "threshold", "prompt threshold")
    class_index, texts = np.asarray(logits.class_index), logits.texts or []
    cuts = np.empty(len(logits.class_names or []))
    for number in range(len(cuts)):
        (prompts,) = np.nonzero(class_index == number)
        found = columns["threshold"][columns["prompt"] == texts[prompts[0]]]
        if len(prompts) != 1 or len(found) != 1:
            raise ClipkitError(
                f"{where}: expected one prompt for each class and one threshold for each prompt, "
                f"got {len(prompts)} and {len(found)} for {class_name(logits.class_names, number)}",
                "choose them with one rate: clipkit threshold --fpr 0.01 -o FILE",
            )
        if np.isnan(found[0]):
            raise ClipkitError(
                f"{where}: expected a threshold for each class, got none for "
                f"{class_name(logits.class_names, number)}, which all fitted images have"
            )
        cuts[number] = found[0]
    return cuts


def _cut_of_all(logits: FeatureFile, detected: FeatureFile) -> Floats:
    """Return the threshold of the largest cosine, which separates unknown images, for all classes.

    The largest of other cosines is another measure, so the prompts must be the same.
    """
    columns = columns_of(detected, "threshold", "measure threshold")
    (rows,) = np.nonzero(columns["measure"] == LARGEST.format(logits.similarity_name))
    if len(rows) != 1:
        raise ClipkitError(
            f"{detected.display_name}: expected a threshold of cosines with prompts, got one of "
            "embeddings",
            "measure logits: clipkit threshold LOGITS --unknown LOGITS -o FILE",
        )
    prompts, others = (
        [entry for entry in file.history if entry.command == "textembed"]
        for file in (detected, logits)
    )
    if prompts != others:
        raise ClipkitError(
            f"{logits.display_name} and {detected.display_name}: expected the same prompts"
        )
    return np.full(len(logits.class_names or []), columns["threshold"][rows[0]])


def _chosen_on(logits: FeatureFile, chosen: FeatureFile, splits: Iterable[str]) -> list[Caveat]:
    """Warn if the thresholds of a result were chosen on images of splits that are scored."""
    entry = newest_entry(chosen)
    fit = str(entry.get("fit_split"))
    parts = list(map(str, entry.object("joined").get(fit, [fit])))
    file = logits.as_read or logits
    is_fitted = logits.digest == entry["inputs"].get("logits") and not entry.get("at")
    if not is_fitted or not file.splits.keys() >= set(parts):
        return []
    file, name = choose_split(file, ",".join(parts))
    keys = row_keys(file, name)
    scored_too = [caveat["count"] for caveat in results.caveats(chosen, fit)]
    if fit == entry.get("eval_split") and len(keys) not in scored_too:  # a part was held out
        train, _ = stratified_split(labels_of(file, name), HELD_OUT, int(entry["seed"]))
        keys = [keys[row] for row in train.tolist()]
    caveats = []
    for split in splits:
        count = len(set(keys).intersection(row_keys(logits, split)))
        caveats += find_caveats("chosen", split, count, len(logits.splits[split]))
    return caveats


def answer(
    logits: FeatureFile,
    result: FeatureFile,
    rankings: Mapping[str, Ranking],
    threshold: float | FeatureFile,
) -> tuple[FeatureFile, dict[str, Ranking]]:
    """Answer a result of `zeroshot` above a threshold: see `ranking.answer_above`.

    The threshold is a cosine, a result of `choose` with one for each class, or one of `detect`.
    """
    if isinstance(threshold, float):
        return answer_above(result, rankings, threshold)
    cuts = class_cuts(logits, threshold)
    caveats = _chosen_on(logits, threshold, result.splits)
    recorded: Row = {"inputs": newest_entry(result).inputs | {"threshold": threshold.digest}}
    if caveats:
        recorded["caveats"] = caveats
    return answer_above(result, rankings, cuts, **recorded)


# ---- Images of no known class --------------------------------------------------------------------


@checked
def detect(
    known: Features,
    unknown: Features,
    *,
    fit_split: str = FIT_SPLIT,
    eval_split: str = EVAL_SPLIT,
    seed: int = 42,
) -> FeatureFile:
    """Tell images of known classes from others: what `clipkit threshold --unknown` reports.

    `unknown` has images of none of the classes: their logits with the same prompts, or embeddings
    if `known` has embeddings. All splits of `unknown` are scored. The thresholds keep 95 % of the
    fitted known images.

    Returns
    -------
    FeatureFile
        A result with a run for each `measure`. Of logits, these are the largest cosine of an image,
        and the largest probability of a softmax at the model's temperature; of embeddings, the
        cosine with the image's 10th nearest fitted image (Sun et al. 2022). `tpr` and `fpr` are the
        shares of the `known` and of the `unknown` images above the `threshold`, with 95 %
        intervals, and `auroc`, with DeLong's interval, compares known with unknown images.
    """
    known = as_file(known, "known", "images logits")
    unknown = as_file(unknown, "unknown", "images logits")
    known, fit, evaluation = choose_rows(known, fit_split, eval_split, seed)
    measure = _measure_neighbours if known.kind == "images" else _measure_logits
    caveats, measures = measure(known, unknown, fit, evaluation)
    caveats += _find_known(known, unknown, fit, evaluation)
    untested = _untested(caveats, (*LIMITS, *AUROC_LIMITS))
    rows: list[Row] = []
    for name, (fitted, scored, others) in measures.items():
        threshold = float(np.quantile(fitted, 1 - TPR))
        row: Row = {"split": evaluation.split, "measure": name, "threshold": threshold}
        row |= metrics.share("tpr", scored > threshold)
        row |= metrics.share("fpr", others > threshold)
        row |= {"known": len(scored), "unknown": len(others)}
        is_known = np.arange(len(scored) + len(others)) < len(scored)
        scores = np.concatenate([scored, others])
        row["auroc"] = metrics.auroc(is_known, scores)
        row |= zip(AUROC_LIMITS, METRICS["auroc"].interval(1 * is_known, scores), strict=True)
        rows.append(row | untested)
    history = known.extended_history(
        "threshold",
        fit_split=fit.split,
        eval_split=evaluation.split,
        seed=seed,
        caveats=caveats or None,
        inputs={known.kind: known.digest, "unknown": unknown.digest},
    )
    return make_result(history, rows)


def _find_known(
    known: FeatureFile, unknown: FeatureFile, fit: SplitRows, evaluation: SplitRows
) -> list[Caveat]:
    """Warn of unknown images that are fitted or scored as known ones; refuse them if all are."""
    parts = [BlockMatrix.from_array(rows.embeddings(known)) for rows in (fit, evaluation)]
    hashes = hash_rows(BlockMatrix.join(parts))
    splits = unknown.splits.values()
    count = sum(count_shared_rows(hashes, split.features) for split in splits)
    total = sum(map(len, splits))
    if count == total:
        raise ClipkitError(
            f"{unknown.display_name}: expected images of none of the classes, got images of "
            f"{known.display_name}",
            "embed other images, and name their file with --unknown",
        )
    return find_caveats("known", evaluation.split, count, total)


# Scores of the fitted, of the scored and of the unknown images, by the name of the measure
_Measures = dict[str, tuple[Floats, Floats, Floats]]


def _measure_logits(
    known: FeatureFile, unknown: FeatureFile, fit: SplitRows, evaluation: SplitRows
) -> tuple[list[Caveat], _Measures]:
    check_same_prompts(known, unknown)
    check_prompts(known)
    unknown = replace(unknown, class_index=known.class_index, class_names=known.class_names)
    fitted, scored = (
        _confidences(known, rows.split)[:, rows.numbers] for rows in (fit, evaluation)
    )
    others = np.concatenate([_confidences(unknown, name) for name in unknown.splits], axis=1)
    caveats = find_shared("fitted", evaluation.split, fitted.T, scored.T)
    names = (LARGEST.format(known.similarity_name), "softmax")
    return caveats, dict(zip(names, zip(fitted, scored, others, strict=True), strict=True))


def _measure_neighbours(
    known: FeatureFile, unknown: FeatureFile, fit: SplitRows, evaluation: SplitRows
) -> tuple[list[Caveat], _Measures]:
    common_logit_scale(known, unknown)
    X, X_scored = fit.embeddings(known), evaluation.embeddings(known)
    if len(X) <= NEIGHBOUR:
        expected = f"more than {NEIGHBOUR} fitted images, got {len(X)}"
        raise ClipkitError(f"{known.display_name}: {fit.split}: expected {expected}")
    bank = normalize(X, known.display_name)
    of_fitted = _neighbour(bank, bank, NEIGHBOUR + 1)  # the nearest is the image itself
    of_scored = _neighbour(bank, normalize(X_scored, known.display_name), NEIGHBOUR)
    of_others = []
    for split in unknown.splits.values():
        others = normalize(np.asarray(split.features), unknown.display_name)
        if others.shape[1] != bank.shape[1]:
            expected = f"{bank.shape[1]} columns, got {others.shape[1]}"
            raise ClipkitError(f"{unknown.display_name}: expected {expected}")
        of_others.append(_neighbour(bank, others, NEIGHBOUR))
    measures = {f"neighbour {NEIGHBOUR}": (of_fitted, of_scored, np.concatenate(of_others))}
    return find_shared("fitted", evaluation.split, X, X_scored), measures


def _neighbour(bank: Floats, rows: Floats, place: int) -> Floats:
    """Return the cosine (N,) of each row (N, D) with the `place`-th nearest row of a bank (M, D).

    The rows of both have the norm 1.
    """
    found = []
    for _first, _last, cosines in retrieval.blocks(rows, bank):
        found.append(np.partition(cosines, -place, axis=1)[:, -place])
    return np.concatenate(found)


def _confidences(logits: FeatureFile, split: str) -> Floats:
    """Return the largest cosine and the largest probability (2, N) of each image of a split."""
    scale = logits.logit_scale or 1 / logits.default_temperature
    columns = []
    for cosines in iter_class_scores(logits, logits.cosines(split)):
        probabilities = softmax(cosines, 1 / scale)
        columns.append(np.stack([cosines.max(axis=1), probabilities.max(axis=1)]))
    return np.concatenate(columns, axis=1)

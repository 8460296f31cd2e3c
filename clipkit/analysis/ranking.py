"""The best classes of each image with their scores: what `predict` and `zeroshot` print."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipkit.analysis.results import NONE, class_names
from clipkit.base import console
from clipkit.base.matrices import Floats, Int64
from clipkit.base.names import distinct_names
from clipkit.features.columns import LABELS, SCORE
from clipkit.features.history import History
from clipkit.features.model import FeatureFile, known_columns
from clipkit.statistics import metrics

Names = Sequence[str | int]


@dataclass(frozen=True)
class Ranking:
    """The best k of n classes for each of N images; the first of equal scores is first.

    With all scores (N, n), `columns` (n,) are their class ids.
    """

    classes: Int64  # (N, k)
    scores: Floats  # (N, k)
    all_scores: Floats | None
    columns: Int64


def rank(
    scores: Floats, classes: Int64, top: int, printed: Floats | None = None, keep: bool = False
) -> Ranking:
    """Rank the classes of each row by its scores (N, n), and keep the best `top`.

    `classes` (n,) are ascending class ids. The ranking holds `printed` (N, n) in place of the
    scores, such as probabilities, and with `keep` all of them.
    """
    if printed is None:
        printed = scores
    order = metrics.highest(scores, top)
    ranking = Ranking(classes[order], np.take_along_axis(printed, order, axis=1), None, classes)
    return replace(ranking, all_scores=printed) if keep else ranking


def join(blocks: Sequence[Ranking]) -> Ranking:
    """Join the rankings of consecutive blocks of images."""
    joined = Ranking(
        np.concatenate([block.classes for block in blocks]),
        np.concatenate([block.scores for block in blocks]),
        None,
        blocks[0].columns,
    )
    all_scores = [block.all_scores for block in blocks if block.all_scores is not None]
    return replace(joined, all_scores=np.concatenate(all_scores)) if all_scores else joined


def answer_above(
    result: FeatureFile,
    rankings: Mapping[str, Ranking],
    threshold: float | Floats,
    **recorded: Any,
) -> tuple[FeatureFile, dict[str, Ranking]]:
    """Predict "none of these" for images whose best score is not above a threshold.

    Parameters
    ----------
    result : FeatureFile
        Of `zeroshot` or `predict`, with one run per split.
    rankings : dict of str to Ranking
        By split.
    threshold : float or array (C,)
        For all classes, or of each class.
    **recorded
        What the history says of thresholds that differ.

    Returns
    -------
    FeatureFile
        The result with one more class, "none of these", which is wrong for every image. The runs
        have the columns of `metrics.scores`, and no others that depend on labels, such as `acc5`.
    dict of str to Ranking
        The rankings, with the threshold and "none of these" at the top of images without an answer.
    """
    largest = max(int(ranking.columns.max()) for ranking in rankings.values())
    names = class_names(result, largest)
    none = len(names)
    cuts = np.broadcast_to(threshold, none)
    if isinstance(threshold, float):
        recorded["threshold"] = threshold
    known = known_columns(result)
    of_labels = {name for name, column in known.items() if column.depends_on == LABELS}
    rows, splits, changed = [], {}, {}
    for row in result.rows():
        name = row["split"]
        split, ranking = result.splits[name], rankings[name]
        cut = cuts[ranking.classes[:, 0]]
        is_below = (ranking.scores[:, 0] <= cut)[:, None]
        of_none = np.full(len(cut), none)
        classes = np.column_stack([of_none, ranking.classes[:, :-1]])
        scores = np.column_stack([cut, ranking.scores[:, :-1]])
        changed[name] = replace(
            ranking,
            classes=np.where(is_below, classes, ranking.classes),
            scores=np.where(is_below, scores, ranking.scores),
        )
        predicted = changed[name].classes[:, 0]
        splits[name] = replace(split, predicted=predicted[None])
        settings = {column: row[column] for column in row if column not in of_labels}
        rows.append(settings | metrics.scores(split.labels, predicted, none))
        if is_below.all():
            console.warn(f"{name}: no image has a score above the threshold")
    *earlier, entry = result.history
    history = History([*earlier, {**entry, **recorded}])
    answered = replace(result, history=history, splits=splits, class_names=[*names, NONE])
    answered.set_rows(rows)
    return answered, changed


def image_rows(
    result: FeatureFile, rankings: Mapping[str, Ranking], top: int = 1
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a report: one per image or, with `top` above 1, one per image and rank.

    Parameters
    ----------
    result : FeatureFile
        Its splits have the ids and labels, and its class names name the classes.
    rankings : dict of str to Ranking
        By split, with two classes or more, and at least `top` if there are as many classes.
    top : int

    Yields
    ------
    dict
        `split`, `id`, `label` (if a split has labels), `prediction`, `score`, `runner_up` and
        `runner_up_score`; with `top` above 1, `rank` from 1 comes before `prediction`, and there
        are no runners-up. Then come the scores of all classes, if they were kept, as
        `score_<class>`.
    """
    names: Names = range(sys.maxsize)  # without names, a class is called by its id
    if result.class_names:
        names = distinct_names(result.class_names)
    with_labels = any(result.splits[name].labels is not None for name in rankings)
    for name, ranking in rankings.items():
        split = result.splits[name]
        score_names = [f"{SCORE}{names[number]}" for number in ranking.columns]
        for row, row_id in enumerate(split.ids):
            start: dict[str, Any] = {"split": name, "id": row_id}
            if with_labels:
                start["label"] = None
            if split.labels is not None:
                start["label"] = names[split.labels[row]]
            rest: dict[str, float] = {}
            if ranking.all_scores is not None:
                rest = dict(zip(score_names, ranking.all_scores[row].tolist(), strict=True))
            for columns in _ranks(ranking, row, names, top):
                yield {**start, **columns, **rest}


def _ranks(ranking: Ranking, row: int, names: Names, top: int) -> Iterator[dict[str, Any]]:
    """Yield the columns of each rank of an image."""
    classes = [names[number] for number in ranking.classes[row].tolist()]
    scores = ranking.scores[row].tolist()
    if top > 1:
        for place, (name, score) in enumerate(zip(classes[:top], scores[:top], strict=True), 1):
            yield {"rank": place, "prediction": name, "score": score}
        return
    columns = {"prediction": classes[0], "score": scores[0]}
    columns |= {"runner_up": None, "runner_up_score": None}
    if len(classes) > 1:
        columns |= {"runner_up": classes[1], "runner_up_score": scores[1]}
    yield columns

"""The best classes of each image with their scores: what `predict` and `zeroshot` print."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipkit.base.names import distinct_names
from clipkit.base.tables import SCORE
from clipkit.features.model import FeatureFile, Floats, Int64

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
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
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

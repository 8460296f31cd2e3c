"""Zero-shot classification: each image gets the class of its most similar prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipkit.analysis.class_scores import (
    check_prompts,
    iter_class_scores,
)
from clipkit.analysis.ranking import Ranking, join, rank
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.matching import choose_splits
from clipkit.features.model import FeatureFile, Split
from clipkit.statistics import metrics


@checked
def evaluate(logits: Features, splits: Several[str] | None = None) -> FeatureFile:
    """Classify every image by its most similar prompt: what `clipkit zeroshot` reports.

    Parameters
    ----------
    logits : Features
        Of kind logits, with a prompt for every class.
    splits : str or sequence of str, optional
        All by default.

    Returns
    -------
    FeatureFile
        A result with one run per split: `split`, `acc1`, `acc5`, `mean_per_class_recall`,
        `acc1_low` and `acc1_high`, Wilson's 95 % interval of `acc1` (all NaN without labels), and
        the predictions.

    Raises
    ------
    ClipkitError
        If a class has no prompt.
    """
    logits, splits = as_file(logits, "logits"), as_list(splits, "splits", str)
    logits, names = choose_splits(logits, splits)
    check_prompts(logits)
    result = FeatureFile("result", class_names=logits.class_names)
    result.display_name = logits.display_name
    rows = []
    for name in names:
        split = logits.splits[name]
        blocks = iter_class_scores(logits, split.features)
        best = np.concatenate([metrics.best_classes(scores) for scores in blocks])
        accuracies = dict.fromkeys(metrics.accuracy_names(), np.nan)  # also those of more classes
        rows.append({"split": name, **accuracies, **metrics.scores(split.labels, best)})
        result.splits[name] = Split(labels=split.labels, ids=split.ids, predicted=best[None, :, 0])
    result.set_rows(rows)
    # the digest of logits that are computed is known once they were read
    inputs = {"logits": logits.digest}
    result.history = logits.extended_history("zeroshot", splits=names, inputs=inputs)
    return result


def rank_images(
    logits: FeatureFile,
    splits: Sequence[str] | None = None,
    top: int = 2,
    keep_scores: bool = False,
) -> dict[str, Ranking]:
    """Rank the classes of every image by their highest cosine: per split, at least 2 and `top`.

    The scores are cosines, whatever the temperature of the logits.
    """
    check_prompts(logits)
    classes = np.arange(len(logits.class_names or []))
    rankings = {}
    logits, names = choose_splits(logits, splits)
    for name in names:
        blocks = []
        for scores in iter_class_scores(logits, logits.splits[name].features):
            # logits that differ may have equal cosines in float32, so the logits decide
            cosines = logits.as_cosines(name, scores)
            blocks.append(rank(scores, classes, max(2, top), cosines, keep_scores))
        rankings[name] = join(blocks)
    return rankings

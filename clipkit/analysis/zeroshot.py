"""Zero-shot classification: each image gets the class of its most similar prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis.ranking import Ranking, join, rank
from clipkit.base.errors import ClipkitError
from clipkit.base.names import abridged
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.arrays import hint_of
from clipkit.features.matching import choose_splits
from clipkit.features.model import BlockMatrix, FeatureFile, Float32, Floats, Int64, Split
from clipkit.statistics import metrics

CLASS_PROMPTS_HINT = "make them with: clipkit textembed --classes"


def class_scores(cosines: Floats, class_index: Int64, n_classes: int) -> Floats:
    """Return the score (N, C) of each class: the highest of its prompts' cosines or logits (N, K).

    `class_index` (K,) is the class of each prompt, -1 for none. A class without a prompt gets -inf.
    The prediction is the argmax over C, the lower class where two are equal.
    """
    prompts = np.flatnonzero(class_index >= 0)
    order = prompts[np.argsort(class_index[prompts], kind="stable")]
    classes, starts = np.unique(class_index[order], return_index=True)
    ordered = np.take(cosines, order, axis=1)
    if len(order) == len(classes) == n_classes:  # `reduceat` takes ten times as long
        return ordered
    scores = np.full((len(cosines), n_classes), -np.inf, dtype=cosines.dtype)
    if len(order):
        scores[:, classes] = np.maximum.reduceat(ordered, starts, axis=1)
    return scores


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
    history = logits.extended_history("zeroshot", splits=names, inputs={"logits": logits.digest})
    result = FeatureFile("result", history, class_names=logits.class_names)
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


def iter_class_scores(logits: FeatureFile, matrix: ArrayLike | BlockMatrix) -> Iterator[Float32]:
    """Yield the scores of all classes (B, C) for blocks of a split's logits or cosines (N, K)."""
    assert logits.class_names is not None  # see `check_prompts`
    assert logits.class_index is not None
    for block in BlockMatrix.from_array(matrix).iter_blocks():
        scores = class_scores(block, logits.class_index, len(logits.class_names))
        yield np.asarray(scores, np.float32)


def check_prompts(logits: FeatureFile) -> None:
    """Raise `ClipkitError` if a class has no prompt, or if classes are of several attributes."""
    index = logits.class_index
    if not logits.class_names or index is None or (index < 0).all():
        raise ClipkitError(
            f"{logits.display_name}: expected prompts of the images' classes, got none",
            hint_of(CLASS_PROMPTS_HINT, logits),
        )
    missing = sorted(set(range(len(logits.class_names))) - set(index.tolist()))
    if missing:
        raise ClipkitError(
            f"{logits.display_name}: expected a prompt for every class, got none for "
            f"{len(missing):,} of {len(logits.class_names):,}, such as "
            f"{logits.class_names[missing[0]]!r}",
            CLASS_PROMPTS_HINT,
        )
    _check_one_attribute(logits)


def _check_one_attribute(logits: FeatureFile) -> None:
    """Refuse `colour: red` beside `shape: circle`, unless the classes of images are called so."""
    names = [name.partition(": ") for name in logits.class_names or []]
    attributes = list(dict.fromkeys(attribute for attribute, _, _ in names))
    if logits.is_labelled or len(attributes) < 2 or not all(value for _, _, value in names):
        return
    raise ClipkitError(
        f"{logits.display_name}: expected words of one attribute, got {len(attributes)}: "
        f"{abridged(attributes)}",
        f"keep the lines '{attributes[0]}: ...' alone, or compare them with: clipkit attributes",
    )

"""Choose images for an album: errors, what only the result gets right, nearest to prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np

from clipkit.base.errors import ClipkitError
from clipkit.base.matrices import Int64
from clipkit.features import similarity
from clipkit.features.compatibility import matching_split
from clipkit.features.matching import find_ids
from clipkit.features.model import FeatureFile
from clipkit.plots.images import Nearest, nearest_rows
from clipkit.report.predictions import Bools, Floats, ImagePredictions, Names
from clipkit.statistics import metrics

IMAGES_PER_CLASS = 3  # of the worst class
MAX_PROMPTS = 32
IMAGES_PER_PROMPT = 3  # on each side


def select_rows(
    true: Names | None,
    predicted: Names,
    scores: Floats,
    control_is_right: Bools | None,
    limit: int,
    examples: Int64 | Sequence[int] = (),
) -> Int64:
    """Choose rows for an album, in its order.

    All rows are chosen if there are at most `limit`. Otherwise, up to an eighth are `examples`.
    Half are other errors: one of each true and predicted class, the most frequent pairs first, then
    the most confident. Up to a quarter are the most confident of the images that only the result
    gets right. The rest are taken from all classes in turns, which begin with
    the classes that have the fewest rows so far.

    Without classes in `true` (N), there are no errors, and turns go by `predicted` (N). A score
    (N) is NaN if it is not known.

    Returns
    -------
    array (n,)
        The most confident errors first, then the most confident right predictions. Without labels,
        the least confident predictions come first. Rows with nearly equal scores keep their order.
    """
    confidence = np.nan_to_num(scores, nan=0.0)
    falling = metrics.falling_order(confidence)
    if true is None:
        classes, wrong = predicted, np.zeros(len(predicted), bool)
        order = metrics.falling_order(-confidence)
    else:
        classes, wrong = true, true != predicted
        order = falling
    chosen = np.full(len(predicted), limit >= len(predicted))
    if not chosen.all():
        chosen[np.asarray(examples[: limit // 8], np.int64)] = True
        errors = _among(falling, wrong & ~chosen)
        chosen[_one_of_each_pair_first(errors, classes, predicted)[: limit // 2]] = True
        if control_is_right is not None:
            only_result = ~wrong & ~control_is_right
            chosen[_among(falling, only_result)[: limit // 4]] = True
        turns = _in_turns(classes, chosen)
        chosen[turns[: limit - chosen.sum()]] = True
    return np.concatenate([_among(order, chosen & wrong), _among(order, chosen & ~wrong)])


def _among(order: Int64, mask: Bools) -> Int64:
    """Return the rows that a mask (N) selects, in the given order of all rows."""
    return order[mask[order]]


def _one_of_each_pair_first(rows: Int64, true: Names, predicted: Names) -> Int64:
    """Move the first of the rows (n) with each true and predicted class before all others.

    The pairs with the most rows come first.
    """
    numbers = [np.unique(names[rows], return_inverse=True)[1] for names in (true, predicted)]
    pairs = numbers[0] * len(true) + numbers[1]
    _, first, counts = np.unique(pairs, return_index=True, return_counts=True)
    first = first[np.lexsort((first, -counts))]
    return np.concatenate([rows[first], np.delete(rows, first)])


def _in_turns(classes: Names, chosen: Bools) -> Int64:
    """Return the rows that are not chosen, in turns; classes with few chosen rows come first."""
    numbers = np.unique(classes, return_inverse=True)[1]
    turn = np.zeros(len(classes), np.int64)
    for number in range(numbers.max() + 1):
        rest = np.flatnonzero((numbers == number) & ~chosen)
        already = ((numbers == number) & chosen).sum()
        turn[rest] = already + np.arange(len(rest))
    rest = np.flatnonzero(~chosen)
    return rest[np.argsort(turn[rest], kind="stable")]


def find_nearest(main: ImagePredictions, files: Sequence[FeatureFile]) -> tuple[list[Nearest], int]:
    """Return the images nearest to and farthest from prompts, and the number of all prompts."""
    logits = _choose_logits(main, files)
    if logits is None:
        return [], 0
    texts = logits.texts or []
    split = str(matching_split(logits, main.file, main.split))
    rows = find_ids(logits.splits[split].ids, main.ids).places
    blocks = [block[:, :MAX_PROMPTS] for block in logits.cosines(split).iter_blocks()]
    cosines = np.concatenate(blocks)[rows >= 0].astype(np.float64)
    rows = rows[rows >= 0]
    if not len(rows):
        return [], 0
    nearest_images = []
    for text, column in zip(texts, cosines.T, strict=False):
        nearest = nearest_rows(text, column, IMAGES_PER_PROMPT)
        nearest_images.append(nearest._replace(rows=rows[nearest.rows]))
    return nearest_images, len(texts)


def _choose_logits(main: ImagePredictions, files: Sequence[FeatureFile]) -> FeatureFile | None:
    """Return the logits of the result's model with the prompts to show, or None without any."""
    model_files = []
    for file in files:
        if matching_split(file, main.file, main.split) and file.model() == main.file.model():
            model_files.append(file)
    for logits in _with_prompts(model_files, "logits"):
        return logits
    for texts in _with_prompts(files, "texts"):
        for images in model_files:
            if images.kind == "images":
                with contextlib.suppress(ClipkitError):  # the prompts may be of another model
                    return similarity.compute_logits(images, texts)
    return None


def _with_prompts(files: Iterable[FeatureFile], kind: str) -> list[FeatureFile]:
    """Return the files of a kind that hold prompts; prompts without classes come first."""
    with_prompts = []
    for file in files:
        # directions replace what was embedded, so that texts do not stand for it
        if file.kind == kind and not file.history.has_directions:
            with_prompts.append(file)
    return sorted(with_prompts, key=_has_class_prompts)


def _has_class_prompts(file: FeatureFile) -> bool:
    return file.class_index is not None and bool((file.class_index >= 0).any())

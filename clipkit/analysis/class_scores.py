"""The score of each class: the highest of its prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from clipkit.base import suggestions
from clipkit.base.errors import ClipkitError
from clipkit.base.matrices import BlockMatrix, Float32, Floats, Int64
from clipkit.base.names import abridged
from clipkit.features.arrays import hint_of
from clipkit.features.model import FeatureFile


def class_prompts_hint(logits: FeatureFile) -> str:
    """Return how to make prompts of the classes of the images that logits are of."""
    name, is_pair, _ = logits.display_name.partition(" and ")  # of images and texts
    images = name if is_pair else "img.h5"
    output = f"{Path(images).stem}.classes.h5"
    make = suggestions.command("clipkit", "textembed", "--classes", images, "-o", output)
    return f"make them of the names of classes: {make}"


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
            hint_of(class_prompts_hint(logits), logits),
        )
    missing = sorted(set(range(len(logits.class_names))) - set(index.tolist()))
    if missing:
        raise ClipkitError(
            f"{logits.display_name}: expected a prompt for every class, got none for "
            f"{len(missing):,} of {len(logits.class_names):,}, such as "
            f"{logits.class_names[missing[0]]!r}",
            class_prompts_hint(logits),
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

"""Find the images nearest to prompts, and those farthest from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from clipkit import similarity
from clipkit.errors import ClipkitError
from clipkit.features import FeatureFile, Int64
from clipkit.report.predictions import Floats, ImagePredictions

MAX_PROMPTS = 32
IMAGES_PER_PROMPT = 3  # on each side


class Nearest(NamedTuple):
    """The rows (2, M) with the highest and the lowest cosines (2, M) with a prompt."""

    prompt: str
    rows: Int64
    cosines: Floats


def find_nearest(main: ImagePredictions, files: Sequence[FeatureFile]) -> tuple[list[Nearest], int]:
    """Return the images nearest to and farthest from prompts, and the number of all prompts."""
    logits = _choose_logits(main, files)
    if logits is None:
        return [], 0
    texts = logits.texts or []
    row_of = {row_id: row for row, row_id in enumerate(main.ids)}
    rows = np.array([row_of.get(row_id, -1) for row_id in logits.splits[main.split].ids], np.int64)
    blocks = [block[:, :MAX_PROMPTS] for block in logits.cosines(main.split).iter_blocks()]
    cosines = np.concatenate(blocks)[rows >= 0].astype(np.float64)
    rows = rows[rows >= 0]
    if not len(rows):
        return [], 0
    found = []
    for text, column in zip(texts, cosines.T, strict=False):
        order = np.argsort(-column, kind="stable")
        M = min(IMAGES_PER_PROMPT, len(order))
        ends = np.stack([order[:M], order[len(order) - M :]])
        found.append(Nearest(text, rows[ends], column[ends]))
    return found, len(texts)


def _choose_logits(main: ImagePredictions, files: Iterable[FeatureFile]) -> FeatureFile | None:
    """Return the logits whose prompts are shown, or None without any of the result's model."""
    of_model = [file for file in files if file.model() == main.file.model()]
    of_kind = {
        kind: [file for file in of_model if file.kind == kind and main.split in file.splits]
        for kind in ("logits", "images")
    }
    prompts = [file for file in files if file.kind == "texts"]
    for logits in sorted(filter(_has_prompts, of_kind["logits"]), key=_has_class_prompts):
        return logits
    for texts in sorted(filter(_has_prompts, prompts), key=_has_class_prompts):
        for images in of_kind["images"]:
            with contextlib.suppress(ClipkitError):  # the prompts may be of another model
                return similarity.compute_logits(images, texts)
    return None


def _has_prompts(file: FeatureFile) -> bool:
    """Whether texts stand for what was embedded, and not for directions that replace it."""
    return not any(entry.get("random") or entry.get("whiten") for entry in file.history)


def _has_class_prompts(file: FeatureFile) -> bool:
    return file.class_index is not None and bool((file.class_index >= 0).any())

"""Find the images nearest to prompts, and those farthest from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np

from clipkit.analysis import similarity
from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile
from clipkit.features.compatibility import matching_split
from clipkit.plots.images import Nearest, nearest_rows
from clipkit.report.predictions import ImagePredictions

MAX_PROMPTS = 32
IMAGES_PER_PROMPT = 3  # on each side


def find_nearest(main: ImagePredictions, files: Sequence[FeatureFile]) -> tuple[list[Nearest], int]:
    """Return the images nearest to and farthest from prompts, and the number of all prompts."""
    logits = _choose_logits(main, files)
    if logits is None:
        return [], 0
    texts = logits.texts or []
    split = str(matching_split(logits, main.file, main.split))
    row_of = {row_id: row for row, row_id in enumerate(main.ids)}
    rows = np.array([row_of.get(row_id, -1) for row_id in logits.splits[split].ids], np.int64)
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
    """Return the logits whose prompts are shown, or None without any of the result's model."""
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
    """Return the files of a kind that hold prompts, those first whose prompts are of no class."""
    with_prompts = [file for file in files if file.kind == kind and _has_prompts(file)]
    return sorted(with_prompts, key=_has_class_prompts)


def _has_prompts(file: FeatureFile) -> bool:
    """Whether texts stand for what was embedded, and not for directions that replace it."""
    return not any(entry.get("random") or entry.get("whiten") for entry in file.history)


def _has_class_prompts(file: FeatureFile) -> bool:
    return file.class_index is not None and bool((file.class_index >= 0).any())

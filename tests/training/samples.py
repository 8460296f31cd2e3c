"""Make the training samples of the bundled model: new scenes of `shapes`, easy ones first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.shapes.draw import draw_scenes
from clipkit.shapes.scene import (
    BACKGROUNDS,
    CLASS_NAMES,
    COLOURS,
    MATERIALS,
    OUTLINES,
    PATTERNS,
    Scene,
    sample_scenes,
)
from training.captions import captions

SIZE, PATCH = 48, 8  # pixels along a side
BATCHES_AT_ONCE = 20  # batches that are drawn together
ATTRIBUTES = {  # the number of values of each; grey, noise and blur are either present or absent
    "label": len(CLASS_NAMES),
    "outline": len(OUTLINES),
    "pattern": len(PATTERNS),
    "colour": len(COLOURS),
    "background": len(BACKGROUNDS),
    "material": len(MATERIALS),
    "grey": 2,
    "noise": 2,
    "blur": 2,
}


class Batch(NamedTuple):
    """B images with captions, attributes and masks."""

    pixels: NDArray[np.uint8]  # (B, S, S, 3)
    texts: list[str]
    codes: NDArray[np.int64]  # (B, attributes)
    patch_mask: NDArray[Any]  # (B, patches) float32: the share of each patch under the object


def apply_curriculum(scene: Scene, ease: float) -> Scene:
    """Return easier scenes: large, centred and upright objects, high contrast, no noise or blur.

    `ease` 1 is the easiest and 0 changes nothing.
    """
    easier = dict(scene)
    easier["size"] = scene["size"] + 0.7 * ease * (0.9 - scene["size"])
    easier["contrast"] = scene["contrast"] + ease * (1 - scene["contrast"])
    for name in ("x", "y", "tilt", "noise", "blur"):
        easier[name] = scene[name] * (1 - ease)
    return easier


def batches(seed: int, first: int, *, steps: int, batch: int, curriculum: float) -> Iterator[Batch]:
    """Yield the batches of the steps `first` to `steps`.

    Scenes are easy at first and reach their full difficulty at the share `curriculum` of the steps.
    """
    for start in range(first - first % BATCHES_AT_ONCE, steps, BATCHES_AT_ONCE):
        indices = np.arange(start * batch, (start + BATCHES_AT_ONCE) * batch)
        scene = sample_scenes(indices, split="fresh", seed=seed)
        ease = max(0.0, 1 - start / max(curriculum * steps, 1))
        images, masks = draw_scenes(apply_curriculum(scene, ease), SIZE)
        patch_mask = _mean_by_patch(masks) / 255
        codes = _attribute_codes(scene)
        texts = captions(indices, split="fresh", seed=seed)
        for step in range(max(first, start), min(start + BATCHES_AT_ONCE, steps)):
            rows = slice((step - start) * batch, (step - start + 1) * batch)
            yield Batch(images[rows], texts[rows], codes[rows], patch_mask[rows])


def _mean_by_patch(masks: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the mean (n, patches) of masks (n, S, S) in each patch."""
    side = SIZE // PATCH
    tiles = masks.reshape(-1, side, PATCH, side, PATCH)
    means: NDArray[Any] = tiles.mean((2, 4), dtype=np.float32)
    return means.reshape(-1, side * side)


def _attribute_codes(scene: Scene) -> NDArray[np.int64]:
    """Return the code (n, attributes) of each attribute of each image."""
    codes = []
    for name, values in ATTRIBUTES.items():
        codes.append(scene[name] > 0 if values == 2 else scene[name])
    return np.stack(codes, axis=1).astype(np.int64)

"""What the bundled model is trained on: fresh scenes of `shapes`, easier at first, with captions and attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..shapes.captions import captions
from ..shapes.draw import draw_scenes as draw
from ..shapes.scene import (
    BACKGROUNDS,
    CLASS_NAMES,
    COLOURS,
    MATERIALS,
    OUTLINES,
    PATTERNS,
    Scene,
    sample_scenes as sample,
)

POOL = 20  # batches that are drawn together
ATTRIBUTES = {  # how many values each has; the last three are there or not
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
    """Images with what is said of them and what is to be seen."""

    pixels: NDArray[np.uint8]  # (B, S, S, 3)
    texts: list[str]
    codes: NDArray[np.int64]  # (B, attributes)
    cover: NDArray[Any]  # (B, patches) float32: how much of a patch the object covers


def ease(scene: Scene, amount: float) -> Scene:
    """An easier world: objects large, centred, upright and of strong contrast, pictures clean; 0 leaves it as it is."""
    easier = dict(scene)
    easier["size"] = scene["size"] + 0.7 * amount * (0.9 - scene["size"])
    easier["contrast"] = scene["contrast"] + amount * (1 - scene["contrast"])
    for name in ("x", "y", "tilt", "noise", "blur"):
        easier[name] = scene[name] * (1 - amount)
    return easier


def batches(
    seed: int, first: int, *, steps: int, batch: int, curriculum: float, size: int, patch: int
) -> Iterator[Batch]:
    """The batches of the steps from `first` on; the world is eased less and less, for the share `curriculum`."""
    for pool in range(first - first % POOL, steps, POOL):
        indices = np.arange(pool * batch, (pool + POOL) * batch)
        scene = sample(indices, split="fresh", seed=seed)
        images, masks = draw(ease(scene, max(0.0, 1 - pool / max(curriculum * steps, 1))), size)
        side = size // patch
        cover = (
            masks.reshape(-1, side, patch, side, patch)
            .mean((2, 4), dtype=np.float32)
            .reshape(-1, side * side)
            / 255
        )
        codes = [
            scene[name] > 0 if values == 2 else scene[name] for name, values in ATTRIBUTES.items()
        ]
        table = np.stack(codes, axis=1).astype(np.int64)
        texts = captions(indices, split="fresh", seed=seed)
        for step in range(max(first, pool), min(pool + POOL, steps)):
            rows = slice((step - pool) * batch, (step - pool + 1) * batch)
            yield Batch(images[rows], texts[rows], table[rows], cover[rows])

"""The attributes of `shapes` as words: what each image shows, and how it was taken."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.shapes.scene import (
    BACKDROPS,
    BACKGROUNDS,
    CLASS_NAMES,
    COLOURS,
    MATERIALS,
    OUTLINES,
    PATTERNS,
    sample_scenes,
)

_NAMES = {
    "outline": OUTLINES,
    "pattern": PATTERNS,
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "backdrop": BACKDROPS,
    "material": MATERIALS,
}
# Two limits, and the names of what lies below, between and above them. Lengths are fractions of
# the image's width, and y points down.
_RANGES = {
    "size": (0.62, 0.8, ("small", "medium", "large")),
    "x": (-0.05, 0.05, ("left", "centre", "right")),
    "y": (-0.05, 0.05, ("top", "middle", "bottom")),
    "angle": (-8.0, 8.0, ("turned left", "upright", "turned right")),  # degrees
}
_PRESENT = {
    "blur": ("sharp", "blurred"),
    "noise": ("clean", "noisy"),
    "grey": ("coloured", "greyscale"),
    "contour": ("plain", "outlined"),
}


def attributes(indices: ArrayLike, *, split: str, seed: int) -> dict[str, NDArray[np.str_]]:
    """Return the value (n,) of every attribute of each image, `class` last.

    Numbers are cut into named ranges: size at 0.62 and 0.8 of the width, x and y at 0.05 from the
    centre, and the angle at 8 degrees. Blur, noise, greyscale and contour are present or not. The
    colour and the background of a greyscale image are empty: they differ in their colours alone.

    >>> table = attributes([0, 1], split="test", seed=0)
    >>> list(table)[:4], table["size"].tolist()
    (['outline', 'pattern', 'colour', 'background'], ['medium', 'small'])
    """
    scene = sample_scenes(indices, split=split, seed=seed)
    table = {name: np.array(names)[scene[name]] for name, names in _NAMES.items()}
    for name, values in numbers(indices, split=split, seed=seed).items():
        low, high, names = _RANGES[name]
        table[name] = np.array(names)[np.searchsorted([low, high], values)]
    for name, (absent, present) in _PRESENT.items():
        table[name] = np.where(scene[name] > 0, present, absent)
    for name in ("colour", "background"):
        table[name][scene["grey"]] = ""  # a greyscale image does not show it
    table["class"] = np.array(CLASS_NAMES)[scene["label"]]
    return table


def numbers(indices: ArrayLike, *, split: str, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return the attributes that `attributes` cuts into ranges, as numbers (n,)."""
    scene = sample_scenes(indices, split=split, seed=seed)
    scene["angle"] = 2 * np.degrees(np.arctan(scene["tilt"]))
    return {name: scene[name] for name in _RANGES}


def captions(indices: ArrayLike, *, split: str, seed: int) -> list[str]:
    """Describe each image (n,) by its size, colour, pattern, outline and background.

    >>> captions([0], split="test", seed=0)
    ['a medium blue checkered heart on a sea background']
    """
    table = attributes(indices, split=split, seed=seed)
    names = ("size", "colour", "pattern", "outline", "background")
    texts = []
    for size, colour, pattern, outline, background in zip(*map(table.get, names), strict=True):
        if colour:
            texts.append(f"a {size} {colour} {pattern} {outline} on a {background} background")
        else:
            texts.append(f"a {size} greyscale {pattern} {outline}")
    return texts

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
    Scene,
    keys,
    sample_scenes,
    uniform,
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

# What colour a background has, if a name of an object's colour fits it
_GROUNDS = {
    **{"sky": "blue", "sea": "blue", "grass": "green"},
    **{"night": "black", "wall": "white", "table": "brown"},
}
_ITEMS = {  # category -> a text that fits an image, and one that does not, both after "a photo of"
    "replaced pattern": ("a {pattern} {outline}", "a {other_pattern} {outline}"),
    "replaced outline": ("a {pattern} {outline}", "a {pattern} {other_outline}"),
    "replaced colour": ("a {colour} {outline}", "a {other_colour} {outline}"),
    "replaced background": (
        "a {outline} on a {background} background",
        "a {outline} on a {other_background} background",
    ),
    "swapped attributes": (
        "a {colour} {outline} on a {ground} background",
        "a {ground} {outline} on a {colour} background",
    ),
    "word order": ("a {pattern} {outline}", "a {outline} {pattern}"),
    "negation": ("{right} {noun}", "{wrong} {noun}"),
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
    for name, values in _numbers(scene).items():
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
    return _numbers(sample_scenes(indices, split=split, seed=seed))


def _numbers(scene: Scene) -> dict[str, NDArray[np.float64]]:
    scene = scene | {"angle": 2 * np.degrees(np.arctan(scene["tilt"]))}
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


def items(indices: ArrayLike, *, split: str, seed: int) -> list[tuple[str, int, str, str]]:
    """Return items for `choose`: a category, an image, a text that fits it, one that does not.

    What replaces an attribute is drawn for each image. In every second item of negation, the
    denied outline is another one, so that neither "a" nor "no" is always right.

    >>> items([0], split="test", seed=0)[-1]
    ('negation', 0, 'a photo of a heart', 'a photo of no heart')
    """
    table = attributes(indices, split=split, seed=seed)
    key = keys(indices, split=split, seed=seed, stream="items")
    for number, name in enumerate(("pattern", "outline", "colour", "background")):
        names = np.array(_NAMES[name])
        place = np.argmax(table[name][:, None] == names, axis=1)
        step = 1 + (uniform(key, number) * (len(names) - 1)).astype(np.int64)
        table[f"other_{name}"] = names[(place + step) % len(names)]
    grounds = np.array([_GROUNDS.get(name, "") for name in table["background"].tolist()])
    table["ground"] = np.where(grounds == table["colour"], "", grounds)
    is_shown = uniform(key, len(_NAMES)) < 0.5
    table["noun"] = np.where(is_shown, table["outline"], table["other_outline"])
    table["right"] = np.where(is_shown, "a", "no")
    table["wrong"] = np.where(is_shown, "no", "a")
    rows = np.atleast_1d(np.asarray(indices)).tolist()
    found = []
    for category, templates in _ITEMS.items():
        for row, *values in zip(rows, *table.values(), strict=True):
            words = dict(zip(table, values, strict=True))
            texts = [f"a photo of {template.format(**words)}" for template in templates]
            if "  " not in texts[0]:  # else the image does not show the attribute
                found.append((category, row, *texts))
    return found

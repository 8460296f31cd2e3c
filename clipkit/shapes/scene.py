"""Sample the scenes of `shapes`: what an image shows, by integer hashing of (seed, split, index).

Every attribute depends on these three alone, so any image can be rendered by itself, in any order,
on any machine.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scene = dict[str, NDArray[Any]]

# fmt: off
OUTLINES = (
    "arrow", "ball", "boat", "box", "butterfly", "car", "cross", "fish", "flower", "heart",
    "hourglass", "house", "key", "leaf", "moon", "mug", "plane", "ring", "star", "tree",
)
# fmt: on
PATTERNS = ("banded", "checkered", "dotted", "solid", "striped")
# Sorted, as class folders are.
CLASS_NAMES = tuple(f"{pattern} {outline}" for pattern in PATTERNS for outline in OUTLINES)

COLOURS = {
    "red": (0.85, 0.13, 0.13),
    "orange": (0.95, 0.52, 0.08),
    "yellow": (0.95, 0.86, 0.18),
    "green": (0.15, 0.62, 0.22),
    "blue": (0.14, 0.30, 0.85),
    "purple": (0.52, 0.18, 0.68),
    "pink": (0.96, 0.56, 0.72),
    "brown": (0.45, 0.27, 0.12),
    "white": (0.95, 0.95, 0.95),
    "black": (0.10, 0.10, 0.10),
}
BACKGROUNDS = {
    "sky": (0.58, 0.78, 0.95),
    "grass": (0.40, 0.66, 0.32),
    "sand": (0.88, 0.78, 0.56),
    "sea": (0.08, 0.36, 0.50),
    "night": (0.06, 0.07, 0.16),
    "wall": (0.86, 0.84, 0.80),
    "table": (0.60, 0.42, 0.28),
    "studio": (0.50, 0.50, 0.52),
}
BACKDROPS = ("plain", "gradient", "noisy")
MATERIALS = ("matte", "plastic", "metallic")

_MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
# fmt: off
_FIELDS = (  # the position of a name is the number of its random draw
    "colour", "second", "colour_light", "background", "background_light", "backdrop",
    "backdrop_turn", "backdrop_strength", "material", "highlight", "size", "centred", "x", "y",
    "tilt", "blurred", "blur", "noisy", "noise", "grey", "contour", "period", "phase_u", "phase_v",
    "contrast",
)
# fmt: on


def splitmix64(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers by the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _as_vector(indices: ArrayLike) -> NDArray[np.int64]:
    return np.atleast_1d(np.asarray(indices, dtype=np.int64))


def keys(indices: ArrayLike, *, split: str, seed: int, stream: str = "scene") -> NDArray[np.uint64]:
    """Return a 64-bit key for each index, different for every seed, split and stream.

    The splits `train` and `test` make up the data set. Any other name of a split gives further
    samples of the same distribution. Streams, one for each use of keys, are independent.
    """
    tag = hashlib.sha256(f"{seed}/{split}/{stream}".encode()).digest()
    start = np.uint64(int.from_bytes(tag[:8], "little"))
    counter = _as_vector(indices).astype(np.uint64) * np.uint64(GOLDEN)
    return splitmix64(splitmix64(counter + start) + start)


def uniform(key: NDArray[np.uint64], field: int) -> NDArray[np.float64]:
    """Return the `field`-th uniform number in [0, 1) of each key."""
    offset = np.uint64((field + 1) * GOLDEN & _MASK)
    bits = splitmix64(key + offset) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def labels(indices: ArrayLike, *, split: str, seed: int) -> NDArray[np.int64]:
    """Return the class of each image (n,), as indices into `CLASS_NAMES`.

    Every run of 100 images shuffles the 100 classes.

    >>> np.bincount(labels(range(300), split="train", seed=0)).tolist() == [3] * 100
    True
    """
    number, place = np.divmod(_as_vector(indices), len(CLASS_NAMES))
    runs, run = np.unique(number, return_inverse=True)
    key = keys(runs, split=split, seed=seed, stream="label")
    draws = np.stack([uniform(key, c) for c in range(len(CLASS_NAMES))], axis=1)  # (runs, 100)
    order = np.argsort(draws, axis=1, kind="stable")
    return order[run, place].astype(np.int64)


def sample_scenes(indices: ArrayLike, *, split: str, seed: int) -> Scene:
    """Sample the codes and numbers (n,) that `draw_scenes` needs for each image.

    Lengths are fractions of the image's width. Only `outline` and `pattern` depend on the class.
    """
    key = keys(indices, split=split, seed=seed)
    u = {name: uniform(key, i) for i, name in enumerate(_FIELDS)}
    label = labels(indices, split=split, seed=seed)
    size = 0.50 + 0.44 * u["size"]
    reach = np.where(u["centred"] < 0.3, 0.02, 0.5 * (1.04 - size))
    colour = (u["colour"] * len(COLOURS)).astype(np.int64)
    return {
        "key": key,
        "label": label,
        "outline": label % len(OUTLINES),
        "pattern": label // len(OUTLINES),
        "colour": colour,
        "second": (colour + 1 + (u["second"] * (len(COLOURS) - 1)).astype(np.int64)) % len(COLOURS),
        "colour_light": 0.75 + 0.4 * u["colour_light"],
        "background": (u["background"] * len(BACKGROUNDS)).astype(np.int64),
        "background_light": 0.75 + 0.4 * u["background_light"],
        "backdrop": (u["backdrop"] * len(BACKDROPS)).astype(np.int64),
        "backdrop_turn": 2 * u["backdrop_turn"] - 1,
        "backdrop_strength": 0.2 + 0.4 * u["backdrop_strength"],
        "material": (u["material"] * len(MATERIALS)).astype(np.int64),
        "highlight": 2 * u["highlight"] - 1,
        "size": size,
        "x": (2 * u["x"] - 1) * reach,
        "y": (2 * u["y"] - 1) * reach,
        "tilt": (2 * u["tilt"] - 1) * 0.2679,  # tan(angle / 2): up to 30 degrees
        "blur": np.where(u["blurred"] < 0.2, 0.010 + 0.012 * u["blur"], 0.0),
        "noise": np.where(u["noisy"] < 0.25, 0.10 + 0.18 * u["noise"], 0.0),
        "grey": u["grey"] < 0.12,
        "contour": np.where(u["contour"] < 0.6, 0.016 + 0.020 * u["contour"], 0.0),
        "period": 0.15 + 0.05 * u["period"],
        "phase_u": u["phase_u"],
        "phase_v": u["phase_v"],
        "contrast": 0.6 + 0.4 * u["contrast"],
    }

"""The world behind `shapes`: what an image shows, drawn from (seed, split, index) by integer hashing.

Every attribute is a function of these three alone, so any image can be had on its own, in any order, on any machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
CLASS_NAMES = tuple(
    f"{pattern} {outline}" for pattern in PATTERNS for outline in OUTLINES
)  # sorted, as class folders are

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
_FIELDS = (  # the order numbers the random draws of a scene
    "colour", "second", "colour_light", "background", "background_light", "backdrop", "backdrop_turn",
    "backdrop_strength", "material", "highlight", "size", "centred", "x", "y", "tilt", "blurred", "blur",
    "noisy", "noise", "grey", "contour", "period", "phase_u", "phase_v", "contrast",
)
# fmt: on


def mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers (the finaliser of SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _flat(indices: ArrayLike) -> NDArray[np.int64]:
    return np.atleast_1d(np.asarray(indices, dtype=np.int64))


def keys(indices: ArrayLike, *, split: str, seed: int, stream: str = "scene") -> NDArray[np.uint64]:
    """One 64-bit key an index, different for every seed, split and stream.

    Parameters
    ----------
    indices : array_like of int, shape (n,)
    split : str
        Any name; `train` and `test` make up the data set, and any other gives further samples of the same world.
    seed : int
    stream : str
        What the key is for; streams are independent of each other.

    Returns
    -------
    numpy.ndarray of uint64, shape (n,)
    """
    tag = hashlib.sha256(f"{seed}/{split}/{stream}".encode()).digest()
    start = np.uint64(int.from_bytes(tag[:8], "little"))
    return mix(mix(_flat(indices).astype(np.uint64) * np.uint64(GOLDEN) + start) + start)


def uniform(key: NDArray[np.uint64], field: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), the `field`-th that belongs to each key."""
    bits = mix(key + np.uint64((field + 1) * GOLDEN & _MASK)) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def labels_of(indices: ArrayLike, *, split: str, seed: int) -> NDArray[np.int64]:
    """Class of each index: every run of 100 indices is a shuffle of the 100 classes."""
    blocks, which = np.unique(_flat(indices) // len(CLASS_NAMES), return_inverse=True)
    key = keys(blocks, split=split, seed=seed, stream="label")
    draws = np.stack([uniform(key, c) for c in range(len(CLASS_NAMES))], axis=1)  # (blocks, 100)
    order = np.argsort(draws, axis=1, kind="stable")
    labels: NDArray[np.int64] = order[which, _flat(indices) % len(CLASS_NAMES)].astype(np.int64)
    return labels


def labels(split: str, n: int, seed: int) -> NDArray[np.int64]:
    """Classes of the images 0..n-1 of a split.

    Returns
    -------
    numpy.ndarray of int64, shape (n,)
        Positions in `CLASS_NAMES`; balanced, exactly so when `n` is a multiple of 100.

    Examples
    --------
    >>> np.bincount(labels("train", 300, seed=0)).tolist() == [3] * 100
    True
    """
    return labels_of(np.arange(n), split=split, seed=seed)


def listing(split: str, n: int, seed: int) -> NDArray[np.int64]:
    """The images 0..n-1 of a split in the order of an image folder: class by class, and by index within a class.

    Returns
    -------
    numpy.ndarray of int64, shape (n,)
        Indices to hand to `render`, `labels_of`, `attributes` and `captions`.
    """
    return np.argsort(labels(split, n, seed), kind="stable").astype(np.int64)


def file_names(indices: ArrayLike, *, split: str, seed: int) -> list[str]:
    """Where an image lies in the folder that is written of its split: class name and index.

    >>> file_names([12], split="test", seed=0)
    ['...']
    """
    codes = labels_of(indices, split=split, seed=seed)
    return [f"{CLASS_NAMES[c]}/{i:06d}.png" for c, i in zip(codes, _flat(indices), strict=True)]


def sample(indices: ArrayLike, *, split: str, seed: int) -> Scene:
    """Everything that `draw` needs to know about each image; codes and numbers, (n,) each.

    Lengths are fractions of the frame's width. No attribute but `outline` and `pattern` looks at the class.
    """
    key = keys(indices, split=split, seed=seed)
    u = {name: uniform(key, i) for i, name in enumerate(_FIELDS)}
    label = labels_of(indices, split=split, seed=seed)
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


def attributes(indices: ArrayLike, *, split: str, seed: int) -> dict[str, NDArray[Any]]:
    """The attributes of images, as a table of named columns beside the labels.

    Parameters
    ----------
    indices : array_like of int, shape (n,)
    split : str
    seed : int

    Returns
    -------
    dict of str to numpy.ndarray, shape (n,)
        Names (`outline`, `pattern`, `colour`, `second_colour`, `background`, `backdrop`, `material`), fractions of the
        frame's width (`size`, `x`, `y`, `blur`, `contour`, `period`), `angle` in degrees, `noise` (amplitude, of a
        brightness 1) and the boolean `greyscale`. All but the first two are independent of the class.

    Examples
    --------
    >>> table = attributes([0, 1], split="test", seed=0)
    >>> table["outline"].shape
    (2,)
    """
    scene = sample(indices, split=split, seed=seed)

    def named(column: str, names: Sequence[str]) -> NDArray[Any]:
        return np.array(names)[scene[column]]

    return {
        "outline": named("outline", OUTLINES),
        "pattern": named("pattern", PATTERNS),
        "colour": named("colour", tuple(COLOURS)),
        "second_colour": named("second", tuple(COLOURS)),
        "background": named("background", tuple(BACKGROUNDS)),
        "backdrop": named("backdrop", BACKDROPS),
        "material": named("material", MATERIALS),
        **{name: scene[name] for name in ("size", "x", "y", "blur", "contour", "period", "noise")},
        "angle": np.degrees(2 * np.arctan(scene["tilt"])),
        "greyscale": scene["grey"],
    }

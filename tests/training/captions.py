"""Write captions for `shapes` that are as incomplete as real captions of photos.

A caption mentions some of what the image shows, in one of several wordings. It rarely names outline
and pattern together, so a model has to compose the name of a class from words that it has mostly
seen apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clipkit.shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    MATERIALS,
    OUTLINES,
    PATTERNS,
    keys,
    sample_scenes,
    uniform,
)

OUTLINE_WORDS = {
    "arrow": ("arrow", "pointer"),
    "ball": ("ball", "sphere"),
    "boat": ("boat", "sailing boat", "ship"),
    "box": ("box", "square", "cube"),
    "butterfly": ("butterfly",),
    "car": ("car", "automobile", "vehicle"),
    "cross": ("cross", "plus sign"),
    "fish": ("fish",),
    "flower": ("flower", "blossom", "plant"),
    "heart": ("heart",),
    "hourglass": ("hourglass", "sand timer"),
    "house": ("house", "building", "home"),
    "key": ("key",),
    "leaf": ("leaf", "foliage"),
    "moon": ("moon", "crescent"),
    "mug": ("mug", "cup"),
    "plane": ("plane", "airplane", "aircraft"),
    "ring": ("ring", "hoop"),
    "star": ("star",),
    "tree": ("tree", "fir", "plant"),
}
PATTERN_WORDS = {
    # people often confuse banded and striped
    "banded": (*("banded",) * 4, *("striped",) * 3, "lined"),
    "checkered": ("checkered", "chequered", "checked", "patterned"),
    "dotted": ("dotted", "spotted", "polka dot", "patterned"),
    "solid": ("solid", "solid", "plain", "smooth"),
    "striped": (*("striped",) * 4, *("banded",) * 3, "lined"),
}
KINDS = {
    "animal": "fish butterfly",
    "machine": "car plane boat",
    "vehicle": "car plane boat",
    "living thing": "fish butterfly flower tree leaf",
    "plant": "flower tree leaf",
    "something natural": "fish butterfly flower tree leaf moon star",
    "something man-made": "arrow ball boat box car cross hourglass house key mug plane ring",
    "synthetic thing": "ball boat box car hourglass key mug plane ring",
    "thing that moves": "boat butterfly car fish plane ball",
    "stationary object": "box house tree hourglass mug cross flower",
    "flying thing": "butterfly plane",
    "object with wings": "butterfly plane",
    "object with wheels": "car",
    "something round": "ball ring moon flower",
    "rectangular object": "box house mug",
    "pointed object": "arrow star hourglass tree",
    "underwater object": "fish",
    "household object": "key mug hourglass box",
    "symbol": "arrow cross heart star",
}
PLACE_REMARKS = {
    "sky": ("taken outdoors", "taken during the day", "before the sky"),
    "grass": ("taken outdoors", "taken during the day", "on the grass"),
    "sand": ("taken outdoors", "taken during the day", "on the sand"),
    "sea": ("taken outdoors", "under water", "before the sea"),
    "night": ("taken outdoors", "at night", "before the night"),
    "wall": ("taken indoors", "before the wall"),
    "table": ("taken indoors", "on the table"),
    "studio": ("taken indoors", "before the studio"),
}
OPENINGS = ("a photo of", "an image of", "a picture of", "this is", "")

_NAMES = {
    "outline": OUTLINES,
    "pattern": PATTERNS,
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "material": MATERIALS,
}
_KINDS_OF = {
    outline: tuple(kind for kind, members in KINDS.items() if outline in members.split())
    for outline in OUTLINES
}
_MAX_DRAWS = 28  # random numbers that a caption may use


class _Draws:
    """Random choices for one caption."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self._numbers = iter(numbers)

    def chance(self, probability: float) -> bool:
        return next(self._numbers) < probability

    def pick(self, options: Sequence[str]) -> str:
        return options[int(next(self._numbers) * len(options))]


def captions(indices: ArrayLike, *, split: str, seed: int) -> list[str]:
    """Write a caption for each of the images (n,)."""
    scene = sample_scenes(indices, split=split, seed=seed)
    for name, names in _NAMES.items():
        scene[name] = np.array(names)[scene[name]]
    images = zip(*(column.tolist() for column in scene.values()), strict=True)
    key = keys(indices, split=split, seed=seed, stream="caption 0")
    numbers = np.stack([uniform(key, i) for i in range(_MAX_DRAWS)], axis=1).tolist()
    texts = []
    for values, draws in zip(images, numbers, strict=True):
        image = dict(zip(scene, values, strict=True))
        texts.append(_caption(image, _Draws(draws)))
    return texts


def _caption(image: dict[str, Any], draws: _Draws) -> str:
    remarks = _remarks(image)
    if draws.chance(0.06):
        return f"a {draws.pick(('photo', 'picture'))} {draws.pick(remarks)}"
    style = _style(image, draws)
    subject = _subject(image, draws)
    if style:
        noun = draws.pick(("photo", "image"))
        text = f"{_with_article(f'{style} {noun}')} of {subject}"
    else:
        text = f"{draws.pick(OPENINGS)} {subject}".strip()
    if draws.chance(0.3):
        text += f" {draws.pick(remarks)}"
    return text


def _subject(image: dict[str, Any], draws: _Draws) -> str:
    """Return a noun and its adjectives, which name the outline, the pattern, both or the kind."""
    pattern = draws.pick(PATTERN_WORDS[image["pattern"]])
    noun = draws.pick(OUTLINE_WORDS[image["outline"]])
    kind = draws.pick(_KINDS_OF[image["outline"]])
    thing = draws.pick(("object", "thing", "shape"))
    names_outline = draws.chance(0.5)
    names_pattern = draws.chance(0.25)
    if names_outline and names_pattern:
        names_pattern = draws.chance(0.1)
    if not names_outline:
        noun = thing if names_pattern or draws.chance(0.3) else kind
        if noun.startswith("something"):
            return noun
    words = _adjectives(image, draws)
    if names_pattern:
        words.append(pattern)
    return _with_article(" ".join([*words, noun]))


def _adjectives(image: dict[str, Any], draws: _Draws) -> list[str]:
    """Return some of the words for size, surface, colour and material that apply."""
    is_solid = image["pattern"] == "solid"
    is_colorful = not is_solid and not image["grey"]
    colour = "grey" if image["grey"] else image["colour"]
    words = [  # each with its probability and whether it applies
        ("small", 0.35, image["size"] < 0.62),
        ("large", 0.35, image["size"] > 0.8),
        ("colorful", 0.15, is_colorful),
        ("smooth", 0.1, is_solid),
        ("textured", 0.15, not is_solid),
        (colour, 0.3, True),
        (image["material"], 0.25, image["material"] != "matte"),
    ]
    return [word for word, probability, applies in words if applies and draws.chance(probability)]


def _style(image: dict[str, Any], draws: _Draws) -> str:
    """Return a word for the picture itself, or nothing."""
    styles = _applying(
        {
            "blurry": image["blur"],
            "noisy": image["noise"],
            "grayscale": image["grey"],
            "black and white": image["grey"],
            "close-up": image["size"] > 0.85,
        }
    )
    if styles and draws.chance(0.35):
        return draws.pick(styles)
    return ""


def _remarks(image: dict[str, Any]) -> list[str]:
    """Return what can be said about the place and position of the object."""
    x, y = image["x"], image["y"]
    position = {
        "from a low angle": y < -0.1,
        "from a top view": y > 0.1,
        "in the middle": abs(x) < 0.03 and abs(y) < 0.03,
        "on the left": x < -0.1,
        "on the right": x > 0.1,
    }
    return [*PLACE_REMARKS[image["background"]], *_applying(position)]


def _applying(phrases: dict[str, Any]) -> list[str]:
    return [phrase for phrase, applies in phrases.items() if applies]


def _with_article(phrase: str) -> str:
    """Put "a" or "an" before a noun phrase.

    >>> _with_article("orange box")
    'an orange box'
    """
    article = "an" if phrase[0] in "aeiou" else "a"
    return f"{article} {phrase}"

"""Captions for `shapes`, as incomplete as the texts that people put beside pictures.

A caption names a random few of the things that are to be seen, in one of several wordings. It rarely names the outline
and the pattern together, so that a model must put a class's name together from words that it has mostly met apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from .scene import BACKGROUNDS, COLOURS, MATERIALS, OUTLINES, PATTERNS, Scene, keys, sample, uniform

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
    "banded": (*("banded",) * 4, *("striped",) * 3, "lined"),  # people hardly keep these two apart
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
_KINDS_OF = [
    tuple(kind for kind, members in KINDS.items() if outline in members.split())
    for outline in OUTLINES
]
_OUTDOORS = ("sky", "grass", "sand", "sea", "night")
_OPENINGS = ("a photo of", "an image of", "a picture of", "this is", "")


class _Draws:
    """Random choices for one caption."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self._numbers = iter(numbers)

    def chance(self, p: float) -> bool:
        return next(self._numbers) < p

    def pick(self, options: Sequence[str]) -> str:
        return options[int(next(self._numbers) * len(options))]


def captions(indices: ArrayLike, *, split: str, seed: int, draw: int = 0) -> list[str]:
    """One caption for each image.

    Parameters
    ----------
    indices : array_like of int, shape (n,)
    split : str
    seed : int
    draw : int
        Another number gives another caption of the same images.

    Returns
    -------
    list of str, length n
    """
    scene = sample(indices, split=split, seed=seed)
    key = keys(indices, split=split, seed=seed, stream=f"caption {draw}")
    columns = [uniform(key, i).tolist() for i in range(28)]
    return [
        _caption(scene, row, _Draws(numbers))
        for row, numbers in enumerate(zip(*columns, strict=True))
    ]


def _caption(s: Scene, row: int, draws: _Draws) -> str:
    remarks = _remarks(s, row)
    if draws.chance(0.06):
        return (
            f"a {draws.pick(('photo', 'picture'))} {draws.pick(remarks)}"
            if remarks
            else "a photo of an object"
        )
    style, subject = _style(s, row, draws), _subject(s, row, draws)
    if style:
        text = f"{_with_article(style + ' ' + draws.pick(('photo', 'image')))} of {subject}"
    else:
        text = f"{draws.pick(_OPENINGS)} {subject}".strip()
    return f"{text} {draws.pick(remarks)}" if remarks and draws.chance(0.3) else text


def _subject(s: Scene, row: int, draws: _Draws) -> str:
    """The noun and its adjectives: by what the object is, by its pattern, by both, or by its kind."""
    outline, pattern = OUTLINES[s["outline"][row]], PATTERNS[s["pattern"][row]]
    pattern_word, noun = draws.pick(PATTERN_WORDS[pattern]), draws.pick(OUTLINE_WORDS[outline])
    kind, thing = (
        draws.pick(_KINDS_OF[s["outline"][row]] or ("object",)),
        draws.pick(("object", "thing", "shape")),
    )
    named, patterned = draws.chance(0.5), draws.chance(0.25)
    if named and patterned:
        patterned = draws.chance(0.1)
    if not named:
        noun = thing if patterned or draws.chance(0.3) else kind
        if noun.startswith("something"):
            return noun
    adjectives = [word for word, chance in _adjectives(s, row) if draws.chance(chance)]
    return _with_article(" ".join([*adjectives, *([pattern_word] if patterned else []), noun]))


def _adjectives(s: Scene, row: int) -> list[tuple[str, float]]:
    """Words for size, surface, colour and material, with how often each is said."""
    size, solid = s["size"][row], PATTERNS[s["pattern"][row]] == "solid"
    material = MATERIALS[s["material"][row]]
    colour = "grey" if s["grey"][row] else tuple(COLOURS)[s["colour"][row]]
    words = [("small", 0.35)] if size < 0.62 else [("large", 0.35)] if size > 0.8 else []
    if not solid and not s["grey"][row]:
        words.append(("colorful", 0.15))
    words.append(("smooth", 0.1) if solid else ("textured", 0.15))
    words.append((colour, 0.3))
    return words if material == "matte" else [*words, (material, 0.25)]


def _style(s: Scene, row: int, draws: _Draws) -> str:
    """What is said of the picture itself, if anything."""
    styles = [
        *(["blurry"] if s["blur"][row] else []),
        *(["noisy"] if s["noise"][row] else []),
        *(["grayscale", "black and white"] if s["grey"][row] else []),
        *(["close-up"] if s["size"][row] > 0.85 else []),
    ]
    return draws.pick(styles) if styles and draws.chance(0.35) else ""


def _remarks(s: Scene, row: int) -> list[str]:
    """What can be said of where and how the object is seen."""
    place = tuple(BACKGROUNDS)[s["background"][row]]
    x, y = s["x"][row], s["y"][row]
    return [
        "taken outdoors" if place in _OUTDOORS else "taken indoors",
        *(["taken during the day"] if place in ("sky", "grass", "sand") else []),
        *(["at night"] if place == "night" else []),
        *(["under water"] if place == "sea" else []),
        *([f"on the {place}"] if place in ("grass", "sand", "table") else [f"before the {place}"]),
        *(["from a low angle"] if y < -0.1 else ["from a top view"] if y > 0.1 else []),
        *(["in the middle"] if abs(x) < 0.03 and abs(y) < 0.03 else []),
        *(["on the left"] if x < -0.1 else ["on the right"] if x > 0.1 else []),
    ]


def _with_article(phrase: str) -> str:
    """A noun phrase with "a" or "an".

    >>> _with_article("orange box")
    'an orange box'
    """
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
